"""CryptoPunks: 10,000 labelled 24x24 avatars, in one-to-one correspondence with their labels.

Arrays come from the raw files straight into the array cache, with NumPy and Pillow alone: one route on every system,
also where TFDS or array_record is not installed (array_record has no Windows build). The TFDS builder beside this file
reads the same files by the same functions; `scripts/prepare_data.py` prepares it for all who read through TFDS.
"""

import functools
from pathlib import Path

import numpy as np

from ddpm_jax.datasets import cache, holdouts, raw
from ddpm_jax.datasets.punks import sheet, splits
from ddpm_jax.datasets.spec import Dataset, Spec, dataset
from ddpm_jax.labels import Categorical, Flags, LabelSpace

VERSION = 1  # of the arrays in the cache
SIZES = (24, 32)
LABELS = LabelSpace(
    (Categorical("type", sheet.TYPES), Categorical("skin", sheet.SKINS), Flags("accessories", sheet.ACCESSORIES))
)
WITHOUT_LABELS = ("iid", "few500", "few1000", "few2000")  # splits whose rule looks at ids alone


def load(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The punks with their labels. `size` 32 pads the native 24 by 4 with background; `holdout` is one of `SPLITS`."""
    return _load("punks", LABELS, size=size, holdout_name=holdout, path=path, root=root)


def load_images(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The punks without labels: needs the sheet alone."""
    return _load("punks_images", LabelSpace(), size=size, holdout_name=holdout, path=path, root=root)


def prepare(root: str, config: str = "iid") -> Path:
    """Where the TFDS set `punks/<config>` in array_record form is; prepared under `<root>/tfds` if it is not there."""
    from ddpm_jax.datasets.punks.punks_dataset_builder import Builder

    builder = Builder(config=config, data_dir=str(Path(root, "tfds")))
    with cache.locked(Path(root, "tfds", f"punks_{config}.lock")):
        builder.download_and_prepare(file_format="array_record", download_dir=str(Path(root, "raw")))
    return Path(builder.data_dir)


def rgba_palette(root: str = "data") -> np.ndarray:
    """The sheet's own palette, uint8 RGBA [222, 4], in the order of the spec's opaque one; entry 0 is transparent."""
    return _images(root)["palette"]


def label_vectors(rows: list[sheet.Punk]) -> np.ndarray:
    """The complete label vectors, int8 [10000, w], of the table's rows, in the order of the ids."""
    labels = np.full((len(rows), LABELS.size), -1, np.int8)
    index = {word: i for i, word in enumerate(LABELS.words)}
    for punk in rows:
        labels[punk.id, [index[word] for word in punk.words]] = 1
    return labels


def labels_for_splits(labels: np.ndarray) -> splits.Labels:
    """Complete label vectors int8 [10000, w] in the order of the ids, as the rules of the splits read them."""
    return splits.Labels(
        ids=np.arange(len(labels)),
        zombie=labels[:, LABELS.index("Zombie")] > 0,
        albino=labels[:, LABELS.index("Albino")] > 0,
        worn=labels[:, LABELS.slice_of("accessories")] > 0,
        accessories=sheet.ACCESSORIES,
    )


def _load(name: str, space: LabelSpace, *, size: int, holdout_name: str, path: str, root: str) -> Dataset:
    """Either data set, by name."""
    if path:
        raise ValueError(f"{name} takes no path, got {path!r}")
    if size not in (0, *SIZES):
        raise ValueError(f"{name} has no size {size}; use 24, or 32 (padded)")
    found = _images(root)
    labels = _labels(root) if space.size else np.zeros((sheet.COUNT, 0), np.int8)
    margin = ((size or sheet.SIDE) - sheet.SIDE) // 2
    images = np.pad(found["images"], ((0, 0), (margin, margin), (margin, margin)))  # index 0 is the background
    spec = Spec(
        name=name,
        shape=(images.shape[1], images.shape[2], 3),
        labels=space,
        palette=sheet.over_background(found["palette"]),
        background=sheet.BACKGROUND,
        holdouts=tuple(splits.SPLITS) if space.size else WITHOUT_LABELS,
    )
    held = _heldout(holdout_name, labels, spec)
    return dataset(spec, images, labels, ids=np.arange(len(images)), train=~held, heldout=held)


def _heldout(name: str, labels: np.ndarray, spec: Spec) -> np.ndarray:
    """The bool mask [n] that a split's name or a file of ids holds out."""
    count = len(labels)
    if name not in spec.holdouts:
        ids = {str(i): i for i in range(count)}
        return holdouts.listed(name, ids, count, names=spec.holdouts, what=f"an id of a punk (0 to {count - 1})")
    if spec.labels.size:
        return splits.heldout(name, labels_for_splits(labels))
    blank = np.zeros(count, bool)
    return splits.heldout(name, splits.Labels(np.arange(count), blank, blank, blank[:, None], ()))


def _images(root: str) -> dict[str, np.ndarray]:
    """`images` uint8 [10000, 24, 24] as indices into `palette` uint8 [222, 4]."""
    key = {"version": VERSION, "sha256": [sheet.SHEET.sha256]}
    return cache.arrays(Path(root, "cache", "punks_images"), key, functools.partial(_decode_images, root))


def _labels(root: str) -> np.ndarray:
    """The complete label vectors, int8 [10000, w]."""
    key = {"version": VERSION, "sha256": [sheet.TABLE.sha256], "words": list(LABELS.words)}
    return cache.arrays(Path(root, "cache", "punks_labels"), key, functools.partial(_decode_labels, root))["labels"]


def _decode_images(root: str) -> dict[str, np.ndarray]:
    """The arrays of the sheet."""
    (path,) = raw.fetch([sheet.SHEET], Path(root, "raw"))
    images, palette = sheet.indexed(sheet.images(path))
    return {"images": images, "palette": palette}


def _decode_labels(root: str) -> dict[str, np.ndarray]:
    """The arrays of the table."""
    (path,) = raw.fetch([sheet.TABLE], Path(root, "raw"))
    return {"labels": label_vectors(sheet.table(path))}
