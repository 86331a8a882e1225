"""Jobs for a `Generator`, as plain JSON values: what to draw, so that a picture can carry it and be drawn again."""

import base64
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import images, runtime
from ddpm_jax.datasets import mnist
from ddpm_jax.generator import Generator
from ddpm_jax.requests import check_range

PathLike = str | os.PathLike[str]
CHUNK, MOST = 64, 10**7  # pictures of a stream that are made at once, and at all
NAMES = "{:06d}.png"


class Drawn(NamedTuple):
    """Pictures uint8 [n, h, w, c], and how they lie: in columns, under captions, or with names of rows and columns."""

    pictures: np.ndarray
    columns: int = 8
    captions: Sequence[str] = ()
    row_names: Sequence[str] = ()
    column_names: Sequence[str] = ()


def sheet(model: Generator, *, label: str, n: int, **how: Any) -> Drawn:
    """Draw n pictures of a label."""
    return Drawn(model.sample(label, n=n, **how))


def grid(model: Generator, *, rows: Sequence[str], columns: Sequence[str], label: str = "", **how: Any) -> Drawn:
    """Draw rows x columns of words, those of `label` in every cell."""
    base = [", ".join(filter(None, (label, row))) for row in rows]
    pictures = model.grid(base, list(columns), **how)
    return Drawn(pictures.reshape(-1, *pictures.shape[2:]), len(columns), (), list(rows), list(columns))


def group(model: Generator, *, label: str, group: str, **how: Any) -> Drawn:
    """Draw a label with each word of a group, all from the same noise: a contact sheet."""
    words = model.spec.labels.group(group).words
    pictures = model.grid([label], words, same_noise=True, **how)[0]
    return Drawn(pictures, 10, words)


def sweep(model: Generator, *, label: str, n: int, key: str, values: Sequence[Any], **how: Any) -> Drawn:
    """Draw the same n pictures once for each value of a setting, a row each."""
    rows = [model.sample(label, n=n, **{**how, key: value}) for value in values]
    return Drawn(np.concatenate(rows), n, (), [f"{key} {value}" for value in values], [""] * n)


def between(model: Generator, *, label: str, other: str, n: int, **how: Any) -> Drawn:
    """Draw the way from one label to another in n pictures."""
    return Drawn(model.interpolate(label, other, frames=n, **how), n)


def variations(model: Generator, *, label: str, n: int, spread: float, **how: Any) -> Drawn:
    """Draw a picture and others like it."""
    return Drawn(model.variations(label, n=n, spread=spread, **how))


def swap(model: Generator, *, label: str, out: Sequence[str], into: Sequence[str], **how: Any) -> Drawn:
    """Draw a label, and the same picture with other words."""
    return Drawn(model.swap(label, out, into, **how), 2, ("before", "after"))


def reroll(model: Generator, *, label: str, keep: Sequence[str], n: int, **how: Any) -> Drawn:
    """Draw n pictures that share some words of a label."""
    return Drawn(model.reroll(label, keep, n=n, **how))


def edit(
    model: Generator, *, picture: str, label: str, n: int, mask: str = "", sketch: bool = False, **how: Any
) -> Drawn:
    """Draw what becomes of a picture (`packed`): all of it, or where a mask of the same form is not black.

    A `sketch` is any drawing of a digit, made one of MNIST's first.
    """
    drawing = unpacked(picture)
    given = mnist.from_sketch(drawing, model.spec.shape[0]) if sketch else model.fit(drawing)
    if not mask:
        made = model.edit(given, label, n=n, **how)
    else:
        black = images.fit(unpacked(mask), (*given.shape[:2], 1), (0, 0, 0))[..., 0] < 128
        made = model.inpaint(given, ~black, label, n=n, **how)
    return Drawn(np.concatenate([given[None], made]), 8, ("given", *[""] * n))


def packed(picture: np.ndarray) -> str:
    """Return a picture as text, a PNG file in base64, so that a job can carry it."""
    file = io.BytesIO()
    images.to_pil(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the picture of a `packed` text; raises BadInput where it is none."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise runtime.BadInput("the recipe's picture is not base64") from error
    return images.decode_png(content, "the recipe's picture")


def draw(model: Generator, job: Mapping[str, Any]) -> Drawn:
    """Return what a job asks for: {"kind": a name of `KINDS`, and the arguments of that function}."""
    arguments = {key: value for key, value in job.items() if key != "kind"}
    if job.get("kind") not in KINDS:
        raise runtime.BadInput(f"unknown kind of picture {job.get('kind')!r}; choose one of {', '.join(KINDS)}")
    try:
        return KINDS[job["kind"]](model, **arguments)
    except TypeError as error:
        raise runtime.BadInput(f"the job is not one for {job['kind']}: {error}") from error


def frames(model: Generator, job: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """Return the frames [f, n, h, w, c] of a job's animation, and its columns: the denoising, or the way between."""
    how = {key: value for key, value in job.items() if key not in ("kind", "label", "n", "rows", "columns", "snap")}
    if job["kind"] == "between":
        return draw(model, job).pictures[:, None], 1
    if job["kind"] == "sheet":
        made, columns = model.trajectory(job["label"], n=job["n"], **how), 8
    elif job["kind"] == "grid":
        cells = [
            model.joined(*map(model.spec.labels.parse, (f"{job['label']}, {row}", column)))
            for row in job["rows"]
            for column in job["columns"]
        ]
        made, columns = model.trajectory(cells, **how), len(job["columns"])
    else:
        raise runtime.BadInput("an animation shows a sheet, a grid, or the way between two labels; write a .png")
    return np.swapaxes(made, 0, 1), columns


def picture(drawn: Drawn, *, scale: int, background: Sequence[int] | None = None) -> Any:
    """Return a PIL picture of what was drawn; `background` is the colour that becomes transparent, if any."""
    if background is not None and (drawn.row_names or drawn.captions):
        raise runtime.BadInput("a picture with words in it has no clear background; leave out --transparent")
    if drawn.row_names:
        shape = (len(drawn.row_names), len(drawn.column_names), *drawn.pictures.shape[1:])
        pictures = drawn.pictures.reshape(shape)
        return images.attribute_grid(pictures, drawn.row_names, drawn.column_names, scale=scale)
    if drawn.captions:
        return images.contact_sheet(drawn.pictures, drawn.captions, drawn.columns, scale=scale)
    pictures = drawn.pictures if background is None else images.transparent(drawn.pictures, background)
    return images.grid(pictures, drawn.columns, scale=scale)


def again(model: Generator, path: PathLike) -> tuple[dict[str, Any], Any, str]:
    """Return the recipe of a picture, the picture made anew, and how the two compare, in words.

    Raises BadInput where the picture carries no recipe, or one for another checkpoint.
    """
    recipe = images.read_recipe(path)
    if recipe is None or "job" not in recipe:
        raise runtime.BadInput(f"{path} carries no recipe of this program")
    if recipe["checkpoint"] != model.meta["sha256"]:
        raise runtime.BadInput(
            f"{path} was made by checkpoint {recipe['checkpoint'][:12]}, step {recipe['step']}; "
            f"this is {model.meta['sha256'][:12]}, step {model.meta['step']}"
        )
    if recipe.get("weak") != model.recipe().get("weak"):
        raise runtime.BadInput(f"{path} was led away from checkpoint {str(recipe.get('weak'))[:12]}; give that, too")
    look = {"scale": recipe["scale"], "background": recipe.get("background")}
    new = picture(draw(model, recipe["job"]), **look)
    old, made = images.read_png(path), np.asarray(new.convert("RGBA" if recipe.get("background") else "RGB"))
    if old.shape != made.shape:
        return recipe, new, f"another size: {made.shape[1]}x{made.shape[0]} now"
    wrong = (old != made).any(axis=-1).mean()
    same = "the same picture, bit for bit" if wrong == 0 else f"{wrong:.3%} of its pixels differ"
    here = model.recipe()
    kind = "" if here["device"] == recipe["device"] else f" (made on {recipe['device']}, now on {here['device']})"
    return recipe, new, same + kind


def stream(model: Generator, out: Path, *, label: str, n: int, **how: Any) -> Iterator[int]:
    """Write n pictures of a label into a directory (PNGs) or an .npz, in bounded memory; yield how many are there.

    A stream that was cut short goes on where it was; another job's is refused. An .npz is gathered in `<out>.part`.
    """
    check_range("n", n, 1, MOST)
    job = json.dumps({**model.recipe(), "job": {"kind": "sheet", "label": label, "n": n, **how}}, sort_keys=True)
    part = out if out.suffix != ".npz" else out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    note = part / "recipe.json"
    if any(part.iterdir()) and (not note.is_file() or note.read_text() != job):
        raise runtime.BadInput(f"{part} holds other files, or another job's pictures; choose another --out")
    runtime.write_atomically(note, job.encode())
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        files = [part / NAMES.format(i) for i in range(start, start + count)]
        if not all(file.is_file() for file in files):
            made = model.sample(label, n=count, first=start, **how)
            for file, one in zip(files, made, strict=True):
                images.write_png(images.to_pil(one), file)
        yield start + count
    if part != out:
        _gather(part, out, n, model.spec.shape)


def _gather(part: Path, out: Path, n: int, shape: tuple[int, int, int]) -> None:
    """Put the PNGs of a directory into an .npz as `pictures` uint8 [n, h, w, c], one at a time, and drop them."""
    temporary = part / "pictures.npz"
    with (
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("pictures.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)})
        for i in range(n):
            file.write(images.read_png(part / NAMES.format(i))[..., : shape[2]].tobytes())
    os.replace(temporary, out)
    for file in part.iterdir():
        file.unlink()
    part.rmdir()


def refuse_existing(path: PathLike, force: bool) -> None:
    """Raise BadInput if a file would be overwritten without `force`, or its directory is not there."""
    target = Path(path)
    if target.exists() and not force:
        raise runtime.BadInput(f"{target} exists; choose another --out or add --force")
    if not target.parent.is_dir():
        raise runtime.BadInput(f"there is no directory {target.parent}; make it first")


KINDS: dict[str, Callable[..., Drawn]] = {
    "sheet": sheet,
    "grid": grid,
    "group": group,
    "sweep": sweep,
    "between": between,
    "variations": variations,
    "swap": swap,
    "reroll": reroll,
    "edit": edit,
}
