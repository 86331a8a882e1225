"""MNIST: 70,000 handwritten digits; the 10,000 of the test set are never trained on.

Read from the four IDX files where they are at hand, else from a set that TFDS has prepared (under `<root>/tfds` or in
the mirror), else from the IDX files downloaded. All give the same arrays, whose own sha256 is pinned too.
"""

import functools
import gzip
import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.datasets import cache, holdouts, raw
from ddpm_jax.datasets import tfds as prepared
from ddpm_jax.datasets.spec import Dataset, Spec, dataset
from ddpm_jax.labels import Categorical, LabelSpace

VERSION = 1  # of the arrays in the cache
SIDE, TRAIN, TEST = 28, 60_000, 10_000
SIZES = (16, 28, 32)
URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
LABELS = LabelSpace((Categorical("digit", tuple("0123456789")),))


def _file(name: str, sha256: str, size: int) -> raw.File:
    return raw.File(f"mnist/{name}", URL + name, sha256, size)


FILES = (  # train images, train labels, test images, test labels
    _file("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
    _file("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
    _file("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
    _file("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
)

SHA256 = {  # of the arrays, train before test
    "images": "5b92582eb909c82a9bfefcd44acbe9233be3eb5b419a44cf211022ad2bf4bf96",
    "digits": "671ff9d70b4811116d55c3dd479efa7a981e2e62753ef7a6d5c15fea81e63d27",
}


def load(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The digits, [size, size, 1] grey. 28 is native, 32 pads it by 2, and 16 averages the padded digit 2x2.

    `holdout` "" or "test" holds out the test set (ids 60000 to 69999). A text file of ids holds out those instead, of
    either set; the rest of the test set then is neither trained on nor held out.
    """
    if path:
        raise ValueError(f"mnist takes no path, got {path!r}")
    if size not in (0, *SIZES):
        raise ValueError(f"mnist has no size {size}; use 28, 32 (padded) or 16 (padded and averaged 2x2)")
    found = _arrays(root)
    images = resized(found["images"], size or SIDE)
    spec = Spec(name="mnist", shape=(*images.shape[1:3], 1), labels=LABELS, holdouts=("test",))
    labels = np.where(found["digits"][:, None] == np.arange(10), 1, -1).astype(np.int8)
    test = np.arange(TRAIN + TEST) >= TRAIN
    held = _heldout(holdout, test)
    return dataset(spec, images[..., None], labels, ids=np.arange(len(images)), train=~(test | held), heldout=held)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, 28, 28] digits at `size` 28, 32 or 16, rounded to nearest."""
    if size == SIDE:
        return images
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    if size == 32:
        return padded
    summed = padded.reshape(-1, 16, 2, 16, 2).sum(axis=(2, 4), dtype=np.uint16)
    return ((summed + 2) // 4).astype(np.uint8)


def from_sketch(drawing: np.ndarray, size: int = SIDE) -> np.ndarray:
    """A drawing, uint8 [h, w, 3 or 4], as a digit [size, size, 1] by MNIST's rule (LeCun et al. 1998, Section III.A).

    Its ink is scaled to fit 20x20, as it is wide and high, and put with its centre of mass at pixel 14, 14. Ink is what
    differs from the corners; dark on light is turned around. Raises ValueError if there is none.
    """
    from PIL import Image

    picture = Image.fromarray(drawing)
    white = Image.new("RGBA", picture.size, "white")
    grey = np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("L"), np.float32)
    ink = np.abs(grey - np.median(grey[[0, 0, -1, -1], [0, -1, 0, -1]])).astype(np.uint8)
    rows, columns = (np.flatnonzero((ink > 32).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        raise ValueError("the sketch is blank; draw a digit in another colour than its corners")
    cut = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = 20 / max(cut.size)
    small = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.BOX)
    small = np.asarray(small, np.float32) * (255 / max(1, np.asarray(small).max()))
    centre = [(small.sum(axis=1 - axis) * np.arange(n)).sum() / small.sum() for axis, n in enumerate(small.shape)]
    top, left = (int(np.clip(round(SIDE / 2 - c), 0, SIDE - n)) for c, n in zip(centre, small.shape, strict=True))
    digit = np.zeros((SIDE, SIDE), np.uint8)
    digit[top : top + small.shape[0], left : left + small.shape[1]] = np.round(small)
    return resized(digit[None], size)[0, ..., None]


def prepare(root: str) -> Path:
    """Where the TFDS set in array_record form is; prepared under `<root>/tfds` from the IDX files if there is none."""
    with cache.locked(Path(root, "tfds", "mnist.lock")):
        found = prepared.find("mnist", root)
        if found is None:
            builder = _builder(root)
            builder.download_and_prepare(file_format="array_record")
            found = Path(builder.data_dir)
    return found


def idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped IDX file."""
    with gzip.open(path) as stream:
        zeros, kind, dims = struct.unpack(">HBB", stream.read(4))
        if zeros or kind != 8 or dims not in (1, 3):
            raise ValueError(f"{path} is not an IDX file of bytes")
        shape = struct.unpack(f">{dims}I", stream.read(4 * dims))
        if shape[0] > TRAIN or shape[1:] not in ((), (SIDE, SIDE)):
            raise ValueError(f"{path} has shape {shape}, expected at most {(TRAIN, SIDE, SIDE)[:dims]}")
        body = stream.read()
    if len(body) != int(np.prod(shape)):
        raise ValueError(f"{path} holds {len(body)} bytes, expected {int(np.prod(shape))}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _arrays(root: str) -> dict[str, np.ndarray]:
    """`images` uint8 [70000, 28, 28] and `digits` uint8 [70000], train before test."""
    key = {"version": VERSION, "sha256": SHA256}
    return cache.arrays(Path(root, "cache", "mnist"), key, functools.partial(_decode, root))


def _decode(root: str) -> dict[str, np.ndarray]:
    """The arrays, from what is at hand."""
    at_hand = raw.at_hand(FILES, Path(root, "raw"))
    if not at_hand and prepared.find("mnist", root):
        found = _from_prepared(root)
    else:
        parts = [idx(path) for path in raw.fetch(FILES, Path(root, "raw"))]
        found = {"images": np.concatenate(parts[0::2]), "digits": np.concatenate(parts[1::2])}
    for name, array in found.items():
        if (digest := hashlib.sha256(array.tobytes()).hexdigest()) != SHA256[name]:
            raise ValueError(f"the {name} of MNIST have sha256 {digest}, expected {SHA256[name]}")
    return found


def _from_prepared(root: str) -> dict[str, np.ndarray]:
    """The arrays of the prepared set."""
    builder, _ = prepared.open_prepared("mnist", root)
    images, digits = np.empty((TRAIN + TEST, SIDE, SIDE), np.uint8), np.empty(TRAIN + TEST, np.uint8)
    for number, example in enumerate(prepared.examples(builder, ("train", "test"))):
        images[number], digits[number] = example["image"][..., 0], example["label"]
    return {"images": images, "digits": digits}


def _heldout(name: str, test: np.ndarray) -> np.ndarray:
    """The bool mask [n] that a split's name or a file of ids holds out."""
    if name in ("", "test"):
        return test
    ids = {str(i): i for i in range(len(test))}
    return holdouts.listed(name, ids, len(test), names=("test",), what=f"an id of a digit (0 to {len(test) - 1})")


def _builder(root: str) -> Any:
    """The stock TFDS builder, but for its preparation, which needs TensorFlow: PNG bytes from the IDX files instead."""
    import tensorflow_datasets
    from tensorflow_datasets.image_classification import mnist as stock

    class Mnist(stock.MNIST, skip_registration=True):
        """MNIST in its original order."""

        name = "mnist"

        def _info(self) -> tensorflow_datasets.core.DatasetInfo:
            info = super()._info()
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=info.features, description=info.description, citation=info.citation,
                homepage=info.homepage, supervised_keys=info.supervised_keys, disable_shuffling=True,
            )  # fmt: skip

        def _split_generators(self, dl_manager: Any) -> Any:
            paths = raw.fetch(FILES, Path(root, "raw"))
            return {"train": _examples(*paths[:2]), "test": _examples(*paths[2:])}

    return Mnist(data_dir=str(Path(root, "tfds")))


def _examples(images: Path, labels: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What TFDS writes: digit after digit as PNG bytes with its class."""
    from PIL import Image

    for number, (image, label) in enumerate(zip(idx(images), idx(labels), strict=True)):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        yield number, {"image": stream.getvalue(), "label": int(label)}
