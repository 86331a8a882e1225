"""What a page asks the sampling process at each of its runs: remembered while the question is the same."""

import json
import pathlib
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import animation, images
from ddpm_jax.dashboard import figures, runs, ui
from ddpm_jax.dashboard.sampler import Failed, array, packed

SCALE = 8  # of downloaded pictures
COLUMNS = 8  # of a sheet, as `recipes.draw` has it


def remembered(part: str, do: str, **arguments: Any) -> Any:
    """Return the answer to a question, asked only if it is not the last one of this part of the page.

    None where there is none; the user has been shown why.
    """
    question = json.dumps([do, arguments], sort_keys=True)
    memory = st.session_state.setdefault("remembered", {})
    if memory.get(part, ("",))[0] != question:
        memory.pop(part, None)
        answer = ui.ask(do, part=part, **arguments)
        if answer is None:
            return None
        memory[part] = (question, answer)
    return memory[part][1]


def whole(model: ui.Model) -> ui.Model | None:
    """Return the model with its newest checkpoint that is whole to the last byte, and say so where that is an older.

    None where none is; the user has been shown why.
    """
    path = pathlib.Path(model.path)
    why = runs.damage(path)
    if not why:
        return model
    saved = runs.newest(path.parents[1] if path.parent.name == "checkpoints" else path, verified=True)
    if saved is None or saved.meta is None:
        st.error(f"{why}; choose another model, or train this one again", icon=":material/error:")
        return None
    st.warning(f"{why}; step {saved.step:,} is whole and used in its place", icon=":material/history:")
    return model._replace(path=str(saved.path), meta=saved.meta)


def quietly(part: str, do: str, **arguments: Any) -> tuple[Any, str]:
    """Return the answer and "", or None and the sentence that says why there is none."""
    future = ui.start(do, part=part, **arguments)
    ui.wait(future)  # the page can be left, and its controls moved, meanwhile
    try:
        return future.result(), ""
    except Failed as error:
        return None, str(error)
    except CancelledError:
        return None, "a newer question took its place"


def readings(model: ui.Model, part: str, pictures: np.ndarray) -> tuple[list[list[float]], list[str]]:
    """Return the classifier's odds of each picture and its words; both empty, with a small word why, without one."""
    asked = {"model": model.path, "which": model.which, "root": ui.data_root(), "pictures": packed(pictures)}
    answer, why = quietly(f"{part}/reading", "read", **asked)
    if answer is None:
        st.caption(f"There is no reading of these pictures: {why}")
        return [], []
    return answer["odds"], answer["words"]


def captions(odds: list[list[float]], words: list[str], n: int) -> list[str]:
    """Return what the classifier reads off each of n pictures, "" where it was not asked."""
    return [figures.best(each, words) for each in odds] if odds else [""] * n


def downloads(
    model: ui.Model, part: str, pictures: np.ndarray, recipe: dict[str, Any], *, animated: dict[str, Any] | None
) -> None:
    """Offer the pictures as one PNG file that carries its recipe, and the denoising of the job `animated`."""
    saved = {**recipe, "scale": SCALE}
    content = images.encode_png(images.grid(pictures, COLUMNS, scale=SCALE), saved)
    with st.container(horizontal=True, vertical_alignment="center"):
        _save("PNG", content, "digits.png", "image/png", key=f"{part}_png")
        watch = animated is not None and st.toggle("Watch it form", key=f"{part}_watch")
    if watch:
        asked = {"model": model.path, "which": model.which, "job": animated}
        made = remembered(f"{part}/animation", "animate", **asked)
        if made is not None:
            film(part, array(made["frames"]), made["recipe"])


def film(part: str, frames: np.ndarray, recipe: dict[str, Any]) -> None:
    """Show frames [f, n, h, w, c] as a moving picture, and offer it as a GIF file that carries its recipe."""
    scale = 4
    content = animation.encode(frames, columns=COLUMNS, scale=scale, ms=120, recipe={**recipe, "scale": scale})
    st.html(figures.film(content, "The denoising, from noise to picture"))
    _save("GIF", content, "digits.gif", "image/gif", key=f"{part}_gif")


def _save(title: str, content: bytes, name: str, kind: str, *, key: str) -> None:
    """Offer a file; saving it does not run the page again."""
    st.download_button(title, content, name, kind, key=key, icon=":material/download:", on_click="ignore")
