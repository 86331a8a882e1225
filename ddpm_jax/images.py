"""Pictures of arrays: grids, labelled grids, and PNG files that carry the recipe they were made by."""

import io
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax import runtime

if TYPE_CHECKING:
    from PIL import Image, ImageFont

MAX_PIXELS = 2**24
MAX_BYTES = 2**26
RECIPE = "ddpm_jax"
PathLike = str | os.PathLike[str]


def to_pil(array: np.ndarray) -> "Image.Image":
    """Return a picture of one uint8 image: [h, w], [h, w, 1] grey, [h, w, 3] RGB, [h, w, 4] RGBA."""
    from PIL import Image

    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an image is {array.dtype}{list(array.shape)}; give uint8 [h, w] or [h, w, 1, 3 or 4]")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else np.ascontiguousarray(array))


def tile(images: np.ndarray, columns: int, *, gap: int = 0) -> np.ndarray:
    """Lay out images [n, h, w, c] in rows of `columns`, as one array; gaps and what is left over are white."""
    if images.ndim != 4 or columns < 1:
        raise ValueError(f"images {list(images.shape)} in {columns} columns; give [n, h, w, c] and 1 column or more")
    n, h, w, c = images.shape
    rows = max(1, math.ceil(n / columns))
    columns = min(columns, max(n, 1))
    padded = np.full((rows * columns, h + gap, w + gap, c), 255, images.dtype)
    padded[:n, :h, :w] = images
    sheet = padded.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2)
    return sheet.reshape(rows * (h + gap), columns * (w + gap), c)[
        : rows * (h + gap) - gap, : columns * (w + gap) - gap
    ]


def check_scale(scale: int) -> None:
    """Raise ValueError unless pixels can be enlarged so."""
    if scale < 1:
        raise ValueError(f"scale {scale} is not 1 or more")


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeat each pixel of [..., h, w, c] `scale` times both ways: pixels stay pixels."""
    check_scale(scale)
    return image.repeat(scale, axis=-3).repeat(scale, axis=-2)


def grid(images: np.ndarray, columns: int, *, scale: int = 1) -> "Image.Image":
    """Return one picture of images [n, h, w, c] (uint8) in rows of `columns`."""
    return to_pil(enlarge(tile(np.asarray(images), columns), scale))


def attribute_grid(
    images: np.ndarray, row_names: Sequence[str], column_names: Sequence[str], *, scale: int = 4
) -> "Image.Image":
    """Return a picture of images [r, c, h, w, channels] with a name before each row and above each column."""
    from PIL import Image, ImageDraw

    rows, columns, h, w, _ = images.shape
    if (rows, columns) != (len(row_names), len(column_names)):
        raise ValueError(
            f"a grid of {rows}x{columns} images has {len(row_names)} row names and {len(column_names)} column names"
        )
    font, pad = _font(), 6
    left = max((_width(font, name) for name in row_names), default=0) + 2 * pad
    cell_w = max([w * scale, *(_width(font, name) for name in column_names)]) + pad
    top, cell_h = 16 + 2 * pad, max(h * scale, 16) + pad
    picture = Image.new("RGB", (left + columns * cell_w, top + rows * cell_h), "white")
    draw = ImageDraw.Draw(picture)
    for j, name in enumerate(column_names):
        draw.text((left + j * cell_w + cell_w // 2, top // 2), name, "black", font, anchor="mm")
    for i, name in enumerate(row_names):
        draw.text((left - pad, top + i * cell_h + cell_h // 2), name, "black", font, anchor="rm")
        for j in range(columns):
            cell = to_pil(enlarge(images[i, j], scale)).convert("RGB")
            picture.paste(cell, (left + j * cell_w + (cell_w - cell.width) // 2, top + i * cell_h))
    return picture


def contact_sheet(images: np.ndarray, captions: Sequence[str], columns: int, *, scale: int = 4) -> "Image.Image":
    """Return a picture of images [n, h, w, channels] in rows of `columns`, each with a caption below it."""
    from PIL import Image, ImageDraw

    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images have {len(captions)} captions")
    (n, h, w, _), font, pad = images.shape, _font(), 6
    cell_w = max([w * scale, *(_width(font, caption) for caption in captions)]) + pad
    cell_h = h * scale + 16 + 2 * pad
    sheet = Image.new("RGB", (min(columns, n) * cell_w + pad, math.ceil(n / columns) * cell_h + pad), "white")
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        left, top = pad + i % columns * cell_w, pad + i // columns * cell_h
        cell = to_pil(enlarge(images[i], scale)).convert("RGB")
        sheet.paste(cell, (left + (cell_w - pad - cell.width) // 2, top))
        draw.text((left + (cell_w - pad) // 2, top + h * scale + pad + 4), caption, "black", font, anchor="mm")
    return sheet


def transparent(images: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Return images [n, h, w, 3] as [n, h, w, 4] in which every pixel of a colour is clear."""
    if images.shape[-1] != 3:
        raise ValueError(f"images of {images.shape[-1]} channels have no background; give [n, h, w, 3]")
    alpha = 255 * (images != np.asarray(colour, np.uint8)).any(axis=-1, keepdims=True)
    return np.concatenate([images, alpha.astype(np.uint8)], axis=-1)


def _font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size=14)


def _width(font: Any, text: str) -> int:
    return math.ceil(font.getlength(text))


def write_png(image: "Image.Image", path: PathLike, recipe: Mapping[str, Any] | None = None) -> None:
    """Write a PNG file, whole or not at all; the recipe travels inside it as JSON, see `read_recipe`."""
    runtime.write_atomically(path, encode_png(image, recipe))


def encode_png(image: "Image.Image", recipe: Mapping[str, Any] | None = None) -> bytes:
    """Return a PNG file's bytes, the recipe inside."""
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_itxt(RECIPE, json.dumps(recipe, sort_keys=True))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def read_recipe(path: PathLike) -> dict[str, Any] | None:
    """Return the recipe that a PNG file carries, or None; the pixels are not decoded."""
    return recipe_of(_open_png(path).info.get(RECIPE), path)


def recipe_in(content: bytes, name: str) -> dict[str, Any] | None:
    """Return the recipe that a PNG file's bytes carry, or None; errors call it by `name`."""
    return recipe_of(_parse_png(content, name).info.get(RECIPE), name)


def recipe_of(text: str | bytes | None, name: PathLike) -> dict[str, Any] | None:
    """Return the recipe of a file's text, None where it has none. Raises BadInput if it is no JSON object."""
    if text is None:
        return None
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise runtime.BadInput(f"{name} carries a recipe that is not a JSON object")
    return recipe


def read_png(path: PathLike) -> np.ndarray:
    """Return a PNG file as uint8 [h, w, 3 or 4]; its size is checked before anything is decoded."""
    return _decoded(_open_png(path), path)


def decode_png(content: bytes, name: str) -> np.ndarray:
    """Return a PNG file's bytes as `read_png` does; errors call it by `name`."""
    return _decoded(_parse_png(content, name), name)


def _decoded(image: "Image.Image", name: PathLike) -> np.ndarray:
    try:
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise runtime.BadInput(f"{name} is not a whole PNG file: {error}") from error


def _open_png(path: PathLike) -> "Image.Image":
    """Open a PNG file lazily, and only if it is not too large to read."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise runtime.BadInput(f"{path} has {os.path.getsize(path)} bytes; at most {MAX_BYTES} are read")
        with open(path, "rb") as file:
            return _parse_png(file.read(MAX_BYTES + 1), path)
    except OSError as error:
        raise runtime.BadInput(f"{path} cannot be read: {error.strerror}") from error


def _parse_png(content: bytes, name: PathLike) -> "Image.Image":
    """Parse a PNG file lazily, after checking its kind, bytes and pixels against the header by hand.

    Pillow itself decodes 169 megapixels with no more than a warning, and takes EPS for any file name.
    """
    from PIL import Image

    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 24:
        raise runtime.BadInput(f"{name} is not a PNG file")
    width, height = struct.unpack(">II", content[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        raise runtime.BadInput(f"{name} is {width}x{height} pixels; from 1 to {MAX_PIXELS} are read")
    try:
        return Image.open(io.BytesIO(content), formats=["PNG"])
    except (OSError, SyntaxError, ValueError) as error:
        raise runtime.BadInput(f"{name} is not a whole PNG file: {error}") from error


def fit(picture: np.ndarray, shape: tuple[int, int, int], background: tuple[int, int, int] | None) -> np.ndarray:
    """Return a picture as uint8 of a model's shape [h, w, c].

    An enlarged one (by a whole number, pixels still square) is reduced; alpha is laid over the background (white where
    there is none); colour and grey become each other. Raises ValueError for other sizes: pixels are never resampled.
    """
    height, width, channels = shape
    array = np.asarray(to_pil(picture).convert("RGBA"))
    scale = array.shape[0] // height
    small = array[scale // 2 :: scale, scale // 2 :: scale] if scale else array
    if not scale or small.shape[:2] != (height, width) or not np.array_equal(enlarge(small, scale), array):
        raise ValueError(
            f"the picture is {array.shape[1]}x{array.shape[0]}; "
            f"give {width}x{height}, or a multiple of it whose pixels are square blocks"
        )
    alpha = small[..., 3:].astype(np.float32) / 255
    under = np.asarray(background or (255, 255, 255), np.float32)
    colours = np.round(alpha * small[..., :3] + (1 - alpha) * under).astype(np.uint8)
    return colours if channels == 3 else np.asarray(to_pil(colours).convert("L"))[..., None]


def reduced(picture: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture [H, W, 3 or 4] of any size as [h, w, 4] of a model's shape: its middle, averaged over boxes."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(to_pil(picture).convert("RGBA"), (shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(fitted)
