"""Data sets: one place each, all loaded by one signature.

A raw file comes from the mirror or the network by its pinned sha256 (raw.py), is decoded once into the array cache
under `<root>/cache` (cache.py), and is trained on from there, offline, with NumPy alone. Only `tfds:<name>` streams.
"""

import difflib
from typing import Protocol

from ddpm_jax.datasets import avatars, folder, mnist, punks, tfds
from ddpm_jax.datasets.punks import shelves
from ddpm_jax.datasets.spec import Dataset, Source, Spec

__all__ = ["DATASETS", "SHELVES", "Dataset", "Source", "Spec", "load"]


class Loader(Protocol):
    """How every data set is loaded."""

    def __call__(self, *, size: int, holdout: str, path: str, root: str) -> Dataset:
        """See `load`."""
        ...


def load(name: str, *, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The data set `name`, one of `DATASETS`; `folder:<dir>` and `tfds:<name>` say their path after a colon.

    size: pixels a side, 0 the native size. holdout: "" none, a split's name, or a text file of ids, one a line.
    root: where raw files, prepared sets and the array cache lie.
    """
    key, _, after = name.partition(":")
    if key not in DATASETS:
        nearest = difflib.get_close_matches(key, DATASETS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}? The" if nearest else "the"
        raise ValueError(f"unknown data set {name!r}; {hint} data sets are {', '.join(DATASETS)}")
    if after and path:
        raise ValueError(f"data set {name!r} names a path already; leave out path {path!r}")
    if size < 0:
        raise ValueError(f"size {size} is negative; use 0 for the native size")
    return DATASETS[key](size=size, holdout=holdout, path=after or path, root=root)


# How people find the words of a large group: data set -> group -> title -> words.
SHELVES: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {"punks": {"accessories": shelves.SHELVES}}

DATASETS: dict[str, Loader] = {
    "punks": punks.load,
    "punks_images": punks.load_images,
    "mnist": mnist.load,
    "avatars": avatars.load,
    "folder": folder.load,
    "tfds": tfds.load,
}
