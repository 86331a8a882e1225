"""Jobs for a `Generator`, as plain JSON values: what to draw, so that a picture can carry it and be drawn again."""

import base64
import inspect
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import images, runtime
from ddpm_jax.datasets import mnist
from ddpm_jax.generator import Generator

PathLike = str | os.PathLike[str]


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
    """Draw the same n pictures once for each value of a setting, a row each; of guidance, all as the net draws."""
    how = {"words": "net", **how} if key in ("guidance", "autoguidance") else how
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
    given = _given(model, picture, sketch)
    if not mask:
        made = model.edit(given, label, n=n, **how)
    else:
        painted = np.asarray(images.fit(unpacked(mask), (*given.shape[:2], 3), (0, 0, 0)).any(axis=-1))
        if not painted.any():
            raise runtime.BadInput("the mask is all black, so that nothing would be painted")
        made = model.inpaint(given, painted, label, n=n, **how)
    return Drawn(np.concatenate([given[None], made]), 8, ("given", *[""] * n))


def _given(model: Generator, picture: str, sketch: bool) -> np.ndarray:
    """Return the picture that an edit starts from, in the shape of the model's own."""
    if sketch and model.spec.name != "mnist":
        raise runtime.BadInput(f"a sketch is made a digit of MNIST, and this model draws {model.spec.name}")
    drawing = unpacked(picture)
    return mnist.from_sketch(drawing, model.spec.shape[0]) if sketch else model.fit(drawing)


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
    """Return what a job asks for: {"kind": a name of `KINDS`, and the arguments of that function}.

    "pick" says which one of the pictures is meant, counted from 0: all are made, so that it is the same to the bit.
    """
    arguments = {key: value for key, value in job.items() if key not in ("kind", "pick")}
    if job.get("kind") not in KINDS:
        raise runtime.BadInput(f"unknown kind of picture {job.get('kind')!r}; choose one of {', '.join(KINDS)}")
    try:
        inspect.signature(KINDS[job["kind"]]).bind(model, **arguments)
    except TypeError as error:
        raise runtime.BadInput(f"the job is not one for {job['kind']}: {error}") from error
    drawn = KINDS[job["kind"]](model, **arguments)
    return drawn if job.get("pick") is None else Drawn(_picked(drawn.pictures, job["pick"]))


def _picked(pictures: np.ndarray, pick: int) -> np.ndarray:
    if not 0 <= pick < len(pictures):
        raise runtime.BadInput(f"pick is {pick}; there are pictures 0 to {len(pictures) - 1}")
    return pictures[pick : pick + 1]


def check_size(model: Generator, job: Mapping[str, Any], scale: int, *, steps: int = 1) -> None:
    """Raise BadInput for a job whose picture, or all frames of it, would have more pixels than a picture may.

    ValueError for a scale below 1.
    """
    images.check_scale(scale)
    height, width, _ = model.spec.shape
    cells = int(job.get("n", 1)) * max(1, len(job.get("rows", ())) * len(job.get("columns", ())))
    pixels = cells * max(1, len(job.get("values", ()))) * height * width * scale**2 * steps
    if pixels > images.MAX_PIXELS:
        raise runtime.BadInput(
            f"that would be {pixels} pixels, and at most {images.MAX_PIXELS} are drawn; "
            "use fewer pictures, a smaller scale, or a directory or .npz"
        )


def frames(model: Generator, job: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """Return the frames [f, n, h, w, c] of a job's animation, and its columns: the denoising, or the way between."""
    named = ("kind", "label", "n", "rows", "columns", "snap", "pick", "picture", "sketch", "mask")
    how = {key: value for key, value in job.items() if key not in named}
    if job.get("snap") or job.get("mask"):
        raise runtime.BadInput("an animation is neither snapped to the palette nor masked; leave out --snap and --mask")
    if job["kind"] == "between":
        return draw(model, job).pictures[:, None], 1
    if job["kind"] == "grid":
        cells = model.cells([f"{job['label']}, {row}" for row in job["rows"]], job["columns"])
        made, columns = model.trajectory(cells, **how), len(job["columns"])
    elif job["kind"] in ("sheet", "edit"):
        given = _given(model, job["picture"], job.get("sketch", False)) if job["kind"] == "edit" else None
        made, columns = model.trajectory(job["label"], n=job["n"], picture=given, **how), 8
    else:
        raise runtime.BadInput("an animation shows a sheet, an edit, a grid, or the way between two; write a .png")
    made = made if job.get("pick") is None else _picked(made, job["pick"])
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
    if recipe is None or not {"job", "checkpoint", "step", "which", "device", "scale"} <= recipe.keys():
        raise runtime.BadInput(f"{path} carries no recipe of this program")
    here = model.recipe()
    if recipe["checkpoint"] != here["checkpoint"]:
        raise runtime.BadInput(
            f"{path} was made by checkpoint {str(recipe['checkpoint'])[:12]}, step {recipe['step']}; "
            f"this is {here['checkpoint'][:12]}, step {here['step']}"
        )
    if recipe["which"] != here["which"]:
        raise runtime.BadInput(f"{path} was made with {recipe['which']} weights, and these are {here['which']}")
    if recipe.get("weak") != here.get("weak"):
        raise runtime.BadInput(f"{path} was led away from checkpoint {str(recipe.get('weak'))[:12]}; give that, too")
    if "weak" in recipe and "autoguidance" not in recipe.get("settings", {"autoguidance": 1}):
        raise runtime.BadInput(f"{path} was led away by guidance, which is called autoguidance now; make it anew")
    try:
        check_size(model, recipe["job"], int(recipe["scale"]))
        new = picture(draw(model, recipe["job"]), scale=int(recipe["scale"]), background=recipe.get("background"))
    except (AttributeError, KeyError, TypeError) as error:
        raise runtime.BadInput(f"the recipe of {path} is damaged: {error}") from error
    old, made = images.read_png(path), np.asarray(new.convert("RGBA" if recipe.get("background") else "RGB"))
    return {**recipe, **here}, new, _compared(old, made, recipe, here)


def _compared(old: np.ndarray, new: np.ndarray, recipe: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    if old.shape != new.shape:
        return f"another size: {new.shape[1]}x{new.shape[0]} now"
    wrong = (old != new).any(axis=-1).mean()
    if wrong == 0:
        return "the same picture, bit for bit"
    other = [
        f"{key} {recipe.get(key)}, now {here[key]}"
        for key in ("device", "devices", "jax")
        if recipe.get(key) != here[key]
    ]
    return f"{wrong:.3%} of its pixels differ" + (f" (made on {'; '.join(other)})" if other else "")


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
