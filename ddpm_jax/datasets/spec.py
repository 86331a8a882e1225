"""What a data set is: a `Spec` (what the images and labels mean) and a `Dataset` (the arrays)."""

import dataclasses
import hashlib
import json
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ddpm_jax.labels import LabelSpace

LARGEST = 4096  # pixels a side
COLOURS = 256  # of a palette, whose indices are bytes


@runtime_checkable
class Source(Protocol):
    """Images that do not fit in memory: a length, and a batch by positions."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        """The uint8 batch [len(positions), h, w, c] at `positions`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Spec:
    """What a model has to know of its data; it travels in every checkpoint as JSON.

    `palette` is uint8 [k, c], k <= 256, or None where the images have more colours; with a palette the
    images are stored as indices into it. `background` is the colour under transparent pixels, or None.
    """

    name: str
    shape: tuple[int, int, int]
    labels: LabelSpace
    palette: np.ndarray | None = None
    background: tuple[int, int, int] | None = None
    holdouts: tuple[str, ...] = ()

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of one image as it is stored: [h, w] where there is a palette."""
        return self.shape if self.palette is None else self.shape[:2]

    def __post_init__(self) -> None:
        """Refuse sizes that no image has: a spec may come from a stranger's checkpoint."""
        height, width, channels = self.shape
        if not (0 < height <= LARGEST and 0 < width <= LARGEST and channels in (1, 3)):
            raise ValueError(f"shape {self.shape} of {self.name}: sides must be 1 to {LARGEST}, channels 1 or 3")
        palette = self.palette
        if palette is not None and (palette.dtype != np.uint8 or palette.ndim != 2 or palette.shape[1] != channels):
            raise ValueError(f"palette {palette.dtype} {palette.shape} of {self.name}; expected uint8 [k, {channels}]")
        if palette is not None and not 0 < len(palette) <= COLOURS:
            raise ValueError(f"the palette of {self.name} has {len(palette)} colours; it may have 1 to {COLOURS}")

    def to_json(self) -> dict[str, Any]:
        """This spec as plain JSON values; `from_json` inverts it."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "labels": self.labels.to_json(),
            "palette": None if self.palette is None else self.palette.tolist(),
            "background": None if self.background is None else list(self.background),
            "holdouts": list(self.holdouts),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Spec":
        """The spec that `to_json` wrote."""
        height, width, channels = value["shape"]
        palette, background = value["palette"], value["background"]
        return cls(
            name=value["name"],
            shape=(height, width, channels),
            labels=LabelSpace.from_json(value["labels"]),
            palette=None if palette is None else np.asarray(palette, np.uint8).reshape(-1, channels),
            background=None if background is None else (background[0], background[1], background[2]),
            holdouts=tuple(value["holdouts"]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with complete labels, and which of them may be trained on.

    images: uint8 [n, h, w] palette indices where the spec has a palette, else uint8 [n, h, w, c], or a `Source` of the
    latter. labels: int8 [n, w], +1 present or -1 absent. ids: int64 [n], the ids that a holdout file names.
    train, heldout: int32 positions, ascending and disjoint. fingerprint: sha256 of all that training sees.
    """

    spec: Spec
    images: np.ndarray | Source
    labels: np.ndarray
    ids: np.ndarray
    train: np.ndarray
    heldout: np.ndarray
    fingerprint: str

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """The colours, uint8 [len(positions), h, w, c], of the images at `positions`."""
        chosen = self.images[np.asarray(positions)]
        return chosen if self.spec.palette is None else self.spec.palette[chosen]


def dataset(
    spec: Spec,
    images: np.ndarray | Source,
    labels: np.ndarray,
    *,
    ids: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
) -> Dataset:
    """A checked `Dataset` with its fingerprint. `train` and `heldout` are boolean masks [n] or positions."""
    count = len(images)
    train, heldout = _positions(train), _positions(heldout)
    if labels.shape != (count, spec.labels.size):
        raise ValueError(f"labels of {spec.name} have shape {labels.shape}, expected {(count, spec.labels.size)}")
    if not train.size:
        raise ValueError(f"{spec.name} has no image left to train on: {count} images, {heldout.size} held out")
    if np.intersect1d(train, heldout).size:
        raise ValueError(f"{spec.name} would train on held-out images")
    labels, ids = labels.astype(np.int8), ids.astype(np.int64)
    digest = fingerprint(spec, images, labels, train)
    return Dataset(spec, images, labels, ids, train, heldout, digest)


def fingerprint(spec: Spec, images: np.ndarray | Source, labels: np.ndarray, train: np.ndarray) -> str:
    """sha256 (hex) of spec, images, labels and train positions; a `Source` gives its own `fingerprint`."""
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    if isinstance(images, np.ndarray):
        digest.update(np.ascontiguousarray(images).data)
    else:
        digest.update(str(getattr(images, "fingerprint", len(images))).encode())
    digest.update(np.ascontiguousarray(labels, np.int8).data)
    digest.update(np.ascontiguousarray(train, "<i4").data)
    return digest.hexdigest()


def without_labels(data: Dataset) -> Dataset:
    """The same pictures for a model that is told nothing of them: no words at all."""
    spec = dataclasses.replace(data.spec, labels=LabelSpace())
    return dataclasses.replace(data, spec=spec, labels=data.labels[:, :0])


def pairs_seen(labels: np.ndarray) -> str:
    """Which words occur together in complete labels int8 [n, w]: the bits of a [w, w] matrix, as hex."""
    present = (labels > 0).astype(np.float32)
    return np.packbits(present.T @ present > 0).tobytes().hex()


def unseen_pairs(pairs: str, space: LabelSpace, vector: np.ndarray) -> list[tuple[str, str]]:
    """The pairs of present words of a vector int8 [w] that never occur together, by what `pairs_seen` returned."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(pairs), np.uint8), count=space.size**2)
    present = vector > 0
    unseen = np.triu(present[:, None] & present[None] & (bits.reshape(space.size, space.size) == 0), 1)
    return [(space.words[i], space.words[j]) for i, j in np.argwhere(unseen)]


def _positions(chosen: np.ndarray) -> np.ndarray:
    """int32 positions, ascending, from a boolean mask or from positions."""
    found = np.flatnonzero(chosen) if chosen.dtype == bool else np.sort(chosen)
    return found.astype(np.int32)
