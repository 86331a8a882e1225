"""`folder:<dir>`: a directory of images, with words from `attributes.csv` or from the names of its subdirectories.

The table's first column is `file`, relative to the directory; every other column is a group of words. A column is Flags
where any cell holds several words, split by ` / `, or where it knows one word only; else it is a Categorical. An empty
cell has none of the group's words. Without a table, images that all lie in subdirectories have the Categorical `class`,
the name of the first subdirectory; other images have no words.

Images keep their size, which must be one for all. They are grey where all are grey, else RGB; transparent pixels are
laid over white; 16-bit grey keeps its high byte; of an animation the first frame counts. With 256 colours or fewer in
all they are stored as palette indices. Names that start with a dot are skipped.
"""

import csv
import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ddpm_jax.datasets import cache, holdouts, pictures
from ddpm_jax.datasets.spec import COLOURS, Dataset, Spec, dataset
from ddpm_jax.labels import Categorical, Flags, Group, LabelSpace

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1  # of the arrays in the cache
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
TABLE, SEPARATOR = "attributes.csv", " / "
LARGEST = 1024  # pixels a side
WHITE = (255, 255, 255)

logger = logging.getLogger(__name__)


class Words(NamedTuple):
    """What the table or the subdirectories say: the space, and each image's words."""

    space: LabelSpace
    of_image: list[list[str]]


def load(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """The images under `path` in the order of their names. `size`, where not 0, must be the images' own.

    `holdout` is a text file of ids or of file names relative to `path`; an id is a position in that order.
    """
    directory = Path(path)
    if not path or not directory.is_dir():
        raise ValueError(f"{path!r} is not a directory; write folder:<directory of images>")
    names = _names(directory)
    files = [directory / name for name in names]
    words = _words(directory, names)
    found = cache.arrays(_place(directory, root), _key(directory, names), functools.partial(_decode, files))
    height, width = found["images"].shape[1:3]
    if size and (height, width) != (size, size):
        raise ValueError(f"size {size} is not that of the images in {path}, {height}x{width}; leave it at 0")
    spec = _spec(directory, found, words.space)
    ids = {str(i): i for i in range(len(files))} | {name: i for i, name in enumerate(names)}
    what = f"an image of {path}: neither a file's name nor an id (0 to {len(files) - 1})"
    held = holdouts.listed(holdout, ids, len(files), names=(), what=what)
    _tell(spec, len(files))
    return dataset(spec, found["images"], _vectors(words), ids=np.arange(len(files)), train=~held, heldout=held)


def _names(directory: Path) -> list[str]:
    """The image files under the directory, relative to it and sorted."""
    files = (one for one in directory.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
    every = (one.relative_to(directory) for one in files)
    names = sorted(one.as_posix() for one in every if not any(part.startswith(".") for part in one.parts))
    if not names:
        raise ValueError(f"{directory} holds no images ({', '.join(SUFFIXES)})")
    return names


def _place(directory: Path, root: str) -> Path:
    """Where the arrays of this directory are cached."""
    return Path(root, "cache", f"folder_{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]}")


def _key(directory: Path, names: Sequence[str]) -> dict[str, str | int]:
    """What the arrays are made from: names, sizes and times of the files."""
    stats = [(name, found.st_size, found.st_mtime_ns) for name in names for found in [(directory / name).stat()]]
    return {"version": VERSION, "files": hashlib.sha256(json.dumps(stats).encode()).hexdigest()}


def _spec(directory: Path, found: dict[str, np.ndarray], space: LabelSpace) -> Spec:
    """The spec of decoded images."""
    palette = found.get("palette")
    height, width = found["images"].shape[1:3]
    channels = (found["images"] if palette is None else palette).shape[-1]
    return Spec(
        name=f"folder:{directory.name}",
        shape=(height, width, channels),
        labels=space,
        palette=palette,
        background=WHITE if found["transparent"] else None,
    )


def _tell(spec: Spec, count: int) -> None:
    """Say what was derived, so that a slip in the table is seen."""
    colours = f"over {COLOURS} colours" if spec.palette is None else f"{len(spec.palette)} colours"
    logger.info("%s: %d images of %dx%dx%d, %s", spec.name, count, *spec.shape, colours)
    for group in spec.labels.groups:
        logger.info("  %s %s: %s", type(group).__name__, group.name, ", ".join(group.words))


def _decode(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """`images`, with their `palette` where they have few colours, and whether any is `transparent`."""
    images, transparent = [], False
    for file in files:
        image = pictures.open_image(file, (LARGEST, LARGEST))
        transparent |= image.has_transparency_data
        images.append(_array(image, file))
        if images[-1].shape[:2] != images[0].shape[:2]:
            sizes = ["x".join(map(str, one.shape[:2])) for one in (images[-1], images[0])]
            raise ValueError(f"{file} is {sizes[0]}, but {files[0].name} is {sizes[1]}; all images need one size")
    channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return {**indexed(stacked), "transparent": np.array(transparent)}


def _array(image: "Image", file: Path) -> np.ndarray:
    """An opened image as uint8 [h, w, 1 or 3]."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return (np.asarray(image)[..., None] >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise ValueError(f"{file} has pixels of mode {image.mode!r}; save it with 8 bits a channel")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (*WHITE, 255)), over)
    if grey:
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def indexed(images: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [n, h, w, c] as `images` [n, h, w] with a sorted `palette` [k, c], or as they are where k > 256."""
    colours = np.zeros(0, np.uint32)
    for image in images:
        colours = np.union1d(colours, _codes(image))
        if len(colours) > COLOURS:
            return {"images": images}
    shifts = 8 * np.arange(images.shape[-1])[::-1]
    palette = (colours[:, None] >> shifts & 255).astype(np.uint8)
    indices = np.stack([np.searchsorted(colours, _codes(image)).astype(np.uint8) for image in images])
    return {"images": indices, "palette": palette}


def _codes(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, c] as one number a pixel, uint32 [h, w]."""
    return functools.reduce(lambda code, channel: code << 8 | channel, np.moveaxis(image.astype(np.uint32), -1, 0))


def _words(directory: Path, names: Sequence[str]) -> Words:
    """The words of the images `names`, from the table, the subdirectories or nowhere."""
    table = directory / TABLE
    if table.is_file():
        columns = _columns(table, names)
    elif all("/" in name for name in names):
        columns = {"class": [[name.split("/")[0]] for name in names]}
    else:
        columns = {}
    try:
        space = LabelSpace(tuple(_group(name, cells) for name, cells in columns.items()))
    except ValueError as error:
        raise ValueError(f"{table if table.is_file() else directory}: {error}") from error
    cells = zip(*columns.values(), strict=True) if columns else [()] * len(names)
    return Words(space, [[word for cell in row for word in cell] for row in cells])


def _columns(table: Path, names: Sequence[str]) -> dict[str, list[list[str]]]:
    """The words in each column of the table, in the order of the images `names`."""
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream, skipinitialspace=True) if row]
    header = rows[0] if rows else []
    if header[:1] != ["file"] or len(header) < 2 or len(set(header)) < len(header):
        raise ValueError(f"{table} has columns {header}; the first must be 'file', the others groups, each named once")
    of_file: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(f"{table} row {number} has {len(row)} cells, expected {len(header)}")
        if row[0] in of_file:
            raise ValueError(f"{table} row {number} is the second of {row[0]!r}")
        of_file[row[0]] = row
    if odd := sorted(of_file.keys() ^ set(names)):
        raise ValueError(
            f"{odd[0]} " + (f"is in {table}, but not there" if odd[0] in of_file else f"has no row in {table}")
        )
    return {name: [_split(of_file[one][place]) for one in names] for place, name in enumerate(header) if place}


def _split(cell: str) -> list[str]:
    """The words of a cell, each once."""
    return list(dict.fromkeys(word.strip() for word in cell.split(SEPARATOR) if word.strip()))


def _group(name: str, cells: Sequence[Sequence[str]]) -> Group:
    """The group that a column is: see the head of this file."""
    words = tuple(sorted({word for cell in cells for word in cell}))
    if not words:
        raise ValueError(f"column {name!r} has no words")
    several = len(words) == 1 or any(len(cell) > 1 for cell in cells)
    return Flags(name, words) if several else Categorical(name, words)


def _vectors(words: Words) -> np.ndarray:
    """Complete label vectors int8 [n, w]."""
    index = {word: i for i, word in enumerate(words.space.words)}
    labels = np.full((len(words.of_image), words.space.size), -1, np.int8)
    for row, present in zip(labels, words.of_image, strict=True):
        row[[index[word] for word in present]] = 1
    return labels
