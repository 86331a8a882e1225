"""`tfds:<name>`: an image set that TFDS has prepared in array_record form, streamed from disk.

An example is one image, of one fixed size and 1 or 3 channels, with one class label or more. <name> is as TFDS writes
it, `cifar10` or `emnist/letters:3.1.0`; the newest version counts where none is said. The set is looked for under
`<root>/tfds`, then under `tfds` in the mirror directory, and read without the code that prepared it.
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.datasets import cache, holdouts, raw
from ddpm_jax.datasets.spec import Dataset, Spec, dataset
from ddpm_jax.labels import Categorical, LabelSpace

NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.+-]*\w))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)
TRAIN, TEST = "train", "test"
BATCH = 1024  # examples read at once


class Features(NamedTuple):
    """What the prepared set holds: the image feature's name and shape, and the names of the scalar class labels."""

    image: str
    shape: tuple[int, int, int]
    labels: tuple[str, ...]


class Stream:
    """A `Source`: the images of one or more splits, one after the other, decoded when they are asked for."""

    def __init__(self, builder: Any, splits: Sequence[str], features: Features, fingerprint: str) -> None:
        skipped = _skip([name for name in builder.info.features if name != features.image])
        self._parts = [builder.as_data_source(split, decoders=skipped) for split in splits]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self._features = features
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        """The uint8 batch [len(positions), h, w, c]."""
        positions = np.asarray(positions)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"positions {positions.min()} to {positions.max()} are not in 0 to {len(self) - 1}")
        batch = np.empty((len(positions), *self._features.shape), np.uint8)
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(part_of):
            places = np.flatnonzero(part_of == number)
            found = self._parts[number].__getitems__((positions[places] - self._starts[number]).tolist())
            batch[places] = [example[self._features.image] for example in found]
        return batch


def load(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The prepared set `path`, its class labels as Categoricals. Its native size only.

    `holdout` is a split's name, or a text file of ids (positions in the train split); "" holds out the test split if
    there is one. Only the split `train` is ever trained on.
    """
    builder, digest = open_prepared(path, root)
    features, splits = _features(builder, path), list(builder.info.splits)
    if TRAIN not in splits:
        raise ValueError(f"tfds set {path!r} has no split 'train', only {', '.join(splits)}")
    if size not in (0, features.shape[0]) or (size and features.shape[0] != features.shape[1]):
        raise ValueError(f"size {size} is not that of tfds set {path!r}, {features.shape}; leave it at 0")
    other = holdout if holdout in splits and holdout != TRAIN else TEST if TEST in splits and not holdout else ""
    source = Stream(builder, [TRAIN, other] if other else [TRAIN], features, digest)
    space, labels = _labels(builder, [TRAIN, other] if other else [TRAIN], features, digest, root)
    others = tuple(split for split in splits if split != TRAIN)
    spec = Spec(name=f"tfds:{path}", shape=features.shape, labels=space, holdouts=others)
    count = len(source)
    held = np.arange(count) >= int(builder.info.splits[TRAIN].num_examples)
    if holdout and not other:
        ids = {str(i): i for i in range(count)}
        what = f"an id of the train split (0 to {count - 1})"
        held = holdouts.listed(holdout, ids, count, names=others, what=what)
    return dataset(spec, source, labels, ids=np.arange(count), train=~held, heldout=held)


def open_prepared(name: str, root: str) -> tuple[Any, str]:
    """A reader of the prepared set `name`, and the sha256 of its description."""
    directory = find(name, root)
    if directory is None:
        raise ValueError(_how_to_prepare(name, root))
    said = json.loads((directory / "dataset_info.json").read_bytes())
    if said.get("fileFormat") != "array_record":
        raise ValueError(f"{directory} is in {said.get('fileFormat', 'tfrecord')} form; " + _how_to_prepare(name, root))
    try:
        import array_record as _  # noqa: F401
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(f"to read {directory}, install tensorflow-datasets and array_record ({error})") from error
    digest = "".join(raw.sha256_of(directory / part) for part in ("dataset_info.json", "features.json"))
    return tensorflow_datasets.builder_from_directory(str(directory)), digest


def find(name: str, root: str) -> Path | None:
    """The directory of the prepared set `name`, of the newest version unless one is named, or None."""
    parsed = NAME.fullmatch(name)
    if not parsed:
        raise ValueError(f"{name!r} is not the name of a TFDS set; write tfds:<set>, <set>/<config> or <set>:<1.0.0>")
    places = [Path(root, "tfds")]
    if mirror := os.environ.get(raw.MIRROR):
        places.append(Path(mirror, "tfds"))
    for place in places:
        parent = place / parsed["set"] / (parsed["config"] or "")
        prepared = [one.parent for one in parent.glob(f"{parsed['version'] or '*.*.*'}/dataset_info.json")]
        if prepared:
            return max(prepared, key=lambda one: [int(part) for part in re.findall(r"\d+", one.name)])
    return None


def examples(builder: Any, splits: Sequence[str], *, undecoded: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """All examples of `splits`, one split after the other; the features `undecoded` stay bytes."""
    for split in splits:
        source = builder.as_data_source(split, decoders=_skip(undecoded))
        for start in range(0, len(source), BATCH):  # one by one takes 1.6 times the CPU time
            yield from source.__getitems__(list(range(start, min(start + BATCH, len(source)))))


def _how_to_prepare(name: str, root: str) -> str:
    """One sentence for somebody whose set is not there."""
    return (
        f"tfds set {name!r} is not prepared as array_record under {Path(root, 'tfds')}; where TensorFlow is installed, "
        f"run `tfds build {name} --data_dir={Path(root, 'tfds')} --file_format=array_record`"
    )


def _features(builder: Any, name: str) -> Features:
    """The one image of fixed shape, and the scalar class labels."""
    import tensorflow_datasets

    found: dict[str, Any] = dict(builder.info.features.items())
    images: dict[str, Any] = {
        key: one for key, one in found.items() if isinstance(one, tensorflow_datasets.features.Image)
    }
    labels = tuple(key for key, one in found.items() if isinstance(one, tensorflow_datasets.features.ClassLabel))
    if len(images) != 1 or not labels:
        raise ValueError(f"tfds set {name!r} needs one image and a class label, and has features {', '.join(found)}")
    ((key, image),) = images.items()
    shape, kind = image.shape, np.dtype(image.np_dtype)
    if None in shape or shape[2] not in (1, 3) or kind != np.uint8:
        raise ValueError(
            f"tfds set {name!r} has images of shape {shape} and type {kind}; a fixed shape of 1 or 3 channels in uint8 "
            "is needed"
        )
    return Features(key, shape, labels)


def _labels(
    builder: Any, splits: Sequence[str], features: Features, digest: str, root: str
) -> tuple[LabelSpace, np.ndarray]:
    """The label space, and the vectors int8 [n, w] of `splits`, read once into the array cache."""
    found: Any = builder.info.features
    space = LabelSpace(tuple(Categorical(name, tuple(found[name].names)) for name in features.labels))
    path = Path(root, "cache", f"tfds_{builder.info.full_name.replace('/', '_')}_{'_'.join(splits)}")
    decode = functools.partial(_read_labels, builder, splits, features)
    classes = cache.arrays(path, {"version": 1, "sha256": digest, "splits": list(splits)}, decode)
    widths = [len(group.words) for group in space.groups]
    # Class -1 means unknown in TFDS; no word is present then.
    parts = [classes[name][:, None] == np.arange(width) for name, width in zip(features.labels, widths, strict=True)]
    return space, np.where(np.concatenate(parts, axis=1), 1, -1).astype(np.int8)


def _read_labels(builder: Any, splits: Sequence[str], features: Features) -> dict[str, np.ndarray]:
    """The class of every example, int32 [n] a label, with no image decoded."""
    found = examples(builder, splits, undecoded=[features.image])
    rows = [[example[name] for name in features.labels] for example in found]
    return dict(zip(features.labels, np.array(rows, np.int32).T, strict=True))


def _skip(names: Iterable[str]) -> dict[str, Any]:
    """The decoders that leave features as their bytes."""
    import tensorflow_datasets

    skip: Any = tensorflow_datasets.decode.SkipDecoding
    return {name: skip() for name in names}
