"""Moving pictures of frames: GIF, animated PNG and WebP; a GIF carries its recipe, too."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax import images, runtime

if TYPE_CHECKING:
    from PIL import Image

PNG, WEBP = ("PNG", {}), ("WEBP", {"lossless": True})
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {"disposal": 1, "optimize": False}),
    ".png": PNG,
    ".apng": PNG,
    ".webp": WEBP,
}


def write(frames: np.ndarray, path: images.PathLike, **how: Any) -> None:
    """Write frames as `encode` makes them a file; the path's suffix says the form."""
    runtime.write_atomically(path, encode(frames, Path(path).suffix.lower(), name=str(path), **how))


def encode(
    frames: np.ndarray,
    form: str = ".gif",
    *,
    columns: int = 8,
    scale: int = 1,
    ms: int = 80,
    recipe: Mapping[str, Any] | None = None,
    name: str = "this",
) -> bytes:
    """Return frames [f, n, h, w, c] (uint8) as a looping animation of grids, `ms` a frame; the last stays for a second.

    Forms: .gif (at most 256 colours a frame; the recipe is its comment), .png or .apng, or .webp, the latter lossless.
    """
    if frames.ndim != 5 or not len(frames):
        raise ValueError(f"frames are {list(frames.shape)}; give [f, n, h, w, c] with f of 1 or more")
    if form not in FORMS:
        raise ValueError(f"{name} is no animation; its name must end in one of {', '.join(FORMS)}")
    kind, options = FORMS[form]
    if recipe is not None and kind == "GIF":
        options = {**options, "comment": json.dumps(recipe, sort_keys=True).encode()}
    sheets = [images.enlarge(images.tile(frame, columns), scale) for frame in frames]
    pictures = [_indexed(sheet) if kind == "GIF" else images.to_pil(sheet) for sheet in sheets]
    duration = [ms] * (len(pictures) - 1) + [1000]
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    return file.getvalue()


def recipe_in(content: bytes, name: str) -> dict[str, Any] | None:
    """Return the recipe that a GIF file's bytes carry, or None; its size is checked first, nothing is decoded."""
    from PIL import Image

    if content[:6] not in (b"GIF87a", b"GIF89a") or len(content) < 10:
        raise runtime.BadInput(f"{name} is not a GIF file")
    width, height = struct.unpack("<HH", content[6:10])
    if not 0 < width * height <= images.MAX_PIXELS:
        raise runtime.BadInput(f"{name} is {width}x{height} pixels; from 1 to {images.MAX_PIXELS} are read")
    try:
        return images.recipe_of(Image.open(io.BytesIO(content), formats=["GIF"]).info.get("comment"), name)
    except (OSError, SyntaxError, EOFError) as error:
        raise runtime.BadInput(f"{name} is not a whole GIF file: {error}") from error


def _indexed(image: np.ndarray) -> "Image.Image":
    """Return a palette picture: median cut is exact up to 256 colours, and nearly so beyond."""
    from PIL import Image

    return images.to_pil(image).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
