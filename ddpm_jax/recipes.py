"""What scripts make of a `Generator`: pictures on disk, each with the recipe it was made by."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import images, runtime
from ddpm_jax.generator import Generator

PathLike = str | os.PathLike[str]


def cross(rows: Sequence[str], columns: Sequence[str], base: str = "") -> list[str]:
    """Return the labels of a grid, row by row: the words of `base`, of the row and of the column together."""
    return [", ".join(part for part in (base, row, column) if part) for row in rows for column in columns]


def attribute_grid(
    generator: Generator, rows: Sequence[str], columns: Sequence[str], path: PathLike, *, base: str = "", **how: Any
) -> np.ndarray:
    """Write a labelled grid of rows x columns (words each) as PNG, and return its pictures [r, c, h, w, channels].

    `how` are the arguments of `Generator.sample` but `n`, and `scale`, the size of a pixel. A row "Female, Mohawk" is
    two words; `base` is added to all cells.
    """
    scale = how.pop("scale", 4)
    pictures = generator.sample(cross(rows, columns, base), **how)
    pictures = pictures.reshape(len(rows), len(columns), *pictures.shape[1:])
    recipe = generator.recipe(rows=list(rows), columns=list(columns), base=base, **settled(generator, how))
    images.write_png(images.attribute_grid(pictures, rows, columns, scale=scale), path, recipe)
    return pictures


def sheet(
    generator: Generator, label: str, path: PathLike, *, columns: int = 8, scale: int = 4, **how: Any
) -> np.ndarray:
    """Write a grid of pictures of one label as PNG, and return them [n, h, w, c]; `how` as for `Generator.sample`."""
    pictures = generator.sample(label, **how)
    recipe = generator.recipe(label=label, **settled(generator, how))
    images.write_png(images.grid(pictures, columns, scale=scale), path, recipe)
    return pictures


def denoising(
    generator: Generator, labels: Sequence[str], path: PathLike, *, columns: int = 8, scale: int = 4, **how: Any
) -> None:
    """Write a GIF of each step's estimate of the pictures of some labels; `how` as for `Generator.sample`."""
    frames = generator.trajectory(labels, **how)
    images.write_gif(np.swapaxes(frames, 0, 1), path, columns=columns, scale=scale)


def settled(generator: Generator, how: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `sample` with the checkpoint's defaults filled in: a complete recipe."""
    chosen = {key: how[key] for key in ("sampler", "steps", "guidance") if key in how}
    return {"complete": False, "seed": 0, "snap": False, "n": 1, **how, **generator.settings(**chosen)}


def refuse_existing(path: PathLike, force: bool) -> None:
    """Raise BadInput if a file would be overwritten without `force`, or its directory is not there."""
    target = Path(path)
    if target.exists() and not force:
        raise runtime.BadInput(f"{target} exists; choose another --out or add --force")
    if not target.parent.is_dir():
        raise runtime.BadInput(f"there is no directory {target.parent}; make it first")
