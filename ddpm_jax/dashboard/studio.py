"""Parts of the avatars page: look, animate, download, compare; grids; start from a picture."""

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import animation, images, runtime
from ddpm_jax.dashboard import controls, figures, recall, ui
from ddpm_jax.dashboard.controls import Controls
from ddpm_jax.dashboard.sampler import array

LARGEST = 4096  # pixels a side of a download
KEPT = 48  # pictures of the history


def chosen(model: ui.Model, now: Controls, answer: dict[str, Any], picture: np.ndarray) -> None:
    """Show the chosen variation large, or how it comes about, and offer it for download."""
    side, _, _ = model.spec.shape
    large = max(1, 480 // side)
    moving = st.toggle("Show the denoising", key="moving")
    recipe = {**answer["recipe"], "job": controls.job(now, pick=True), "model": model.name}
    if moving:
        job = {key: value for key, value in recipe["job"].items() if key != "snap"}
        frames = ui.ask("animate", part="frames", model=model.path, which=model.which, job=job)
        if frames is None:
            return
        gif = animation.encode(array(frames["frames"]), scale=large, ms=120, recipe={**recipe, "scale": large})
        _large(st, gif, side, f"The denoising of {now.label}")
        _download("GIF", gif, f"{_name(now.label)}.gif", "image/gif")
        return
    above = st.container()
    one, two = st.columns(2, vertical_alignment="bottom")
    st.session_state["scale"] = min(st.session_state.get("scale", 10), LARGEST // side)
    scale = int(one.number_input("Size of a pixel", 1, LARGEST // side, key="scale", help="1: the picture as it is"))
    clear = two.toggle("Transparent", key="clear") if model.spec.background else False
    background = list(model.spec.background or ()) if clear else None
    made = picture if background is None else images.transparent(picture[None], background)[0]
    _large(above, ui.png(made, large), side, now.label)
    recipe |= {"scale": scale, "background": background}
    content = images.encode_png(images.to_pil(images.enlarge(made, scale)), recipe)
    _download(f"PNG, {side * scale}x{side * scale}", content, f"{_name(now.label)}.png", "image/png")


def _large(place: Any, content: bytes, side: int, alt: str) -> None:
    """Show a picture of `side` pixels as large as there is room for them to be of one size."""
    st.html(f"<style>.st-key-large img {{ width: round(down, 100%, {side}px) !important; }}</style>")
    place.container(key="large").image(ui.url(content), width="stretch", alt=alt)


def grid(model: ui.Model, now: Controls) -> None:
    """Show the builder of a table of pictures: words of rows by words of columns, beside those of the tiles."""
    groups = model.spec.labels.groups
    first = list(groups[0].words[:5])
    last = [word for word in groups[-1].words if word not in first][:5]
    rows, columns = _line("Rows", model, first), _line("Columns", model, last)
    if not rows or not columns:
        st.info("Choose one word or more for the rows, and for the columns.")
        return
    words = {word: state for word, state in st.session_state["states"].items() if word not in (*rows, *columns)}
    flag(model, [{**words, row: 1, column: 1} for row, column in itertools.product(rows, columns)])
    label = model.spec.labels.format(controls.vector(model.spec.labels, words))
    job = {**controls.job(now, "grid"), "label": label, "rows": rows, "columns": columns}
    job = {key: value for key, value in job.items() if key != "n"} | {"same_noise": True}
    answer = ui.ask("draw", part="grid", model=model.path, which=model.which, job=job)
    if answer is None:
        return
    pictures = array(answer["pictures"]).reshape(len(rows), len(columns), *model.spec.shape)
    sheet = images.attribute_grid(pictures, rows, columns, scale=max(1, 96 // model.spec.shape[0]))
    content = images.encode_png(sheet, {**answer["recipe"], "scale": max(1, 96 // model.spec.shape[0])})
    st.container(key="sheet").image(ui.url(content), alt=f"{' / '.join(rows)} by {' / '.join(columns)}")
    _download("PNG", content, "grid.png", "image/png")


def _line(title: str, model: ui.Model, default: list[str]) -> list[str]:
    key = f"{title} of {model.spec.name}"
    ui.kept(key)
    st.session_state.setdefault(key, default)
    return st.multiselect(title, model.spec.labels.words, max_selections=12, key=key)


def flag(model: ui.Model, wanted: Iterable[Mapping[str, int]]) -> None:
    """Say which present words of labels were never seen together; they are drawn all the same."""
    space, seen = model.spec.labels, model.meta["pairs_seen"]
    pairs = dict.fromkeys(pair for states in wanted for pair in controls.unseen(space, seen, states))
    if pairs:
        shown = "; ".join(f"{one} with {other}" for one, other in list(pairs)[:4])
        more = f" and {len(pairs) - 4} more pairs" if len(pairs) > 4 else ""
        said = f"Never seen together in training: {shown}{more}. This is the model's guess."
        st.info(said, icon=":material/science:")


def from_picture(model: ui.Model, now: Controls) -> None:
    """Show what the words make of an uploaded picture; one that was made here restores its controls instead."""
    height, width, _ = model.spec.shape
    state = st.session_state
    file = st.file_uploader(
        "A PNG to start from, or a PNG or GIF made here (its recipe restores all controls)",
        type=["png", "gif"],
        key="upload",
        max_upload_size=8,
        on_change=_uploaded,
    )
    if file is not None and state.get("uploaded") != file.file_id:
        state["uploaded"] = file.file_id
        if _taken(model, file.name, file.getvalue()):
            st.rerun()
    if file is not None:
        if "refused" in state:
            st.error(state["refused"], icon=":material/error:")
        if state.get("reduced"):
            st.caption(f"It was cut to a square and reduced to {width}x{height}.")
    state.setdefault("strength", 0.5)
    strength = st.slider(
        "Strength", 0.05, 1.0, step=0.05, key="strength", help="Little keeps the picture, 1 forgets it"
    )
    if "given" not in state:
        st.caption(f"A picture of {width}x{height}, or enlarged from it, is taken as it is; others are reduced.")
        return
    job = {**controls.job(now, "edit"), "picture": state["given"], "strength": strength}
    answer = ui.ask("draw", part="edit", model=model.path, which=model.which, job=job)
    if answer is not None:
        _edited(array(answer["pictures"]), {**answer["recipe"], "job": job, "scale": 10, "background": None})


def _uploaded() -> None:
    """Forget the picture that an upload replaces or its button removes."""
    for key in ("given", "uploaded", "refused", "reduced"):
        st.session_state.pop(key, None)


def _taken(model: ui.Model, name: str, content: bytes) -> bool:
    """Say whether a file restores controls; else it is what to start from, or refused with a sentence."""
    state = st.session_state
    try:
        if recall.recalled(model, name, content):
            return True
        picture, state["reduced"] = recall.fitted(model, content, name)
        state["given"] = figures.base64_png(picture)
    except (runtime.Failure, ValueError) as error:
        state["refused"] = str(error)
    return False


def _cells(n: int, columns: int) -> Iterator[Any]:
    """Return n places in rows of some columns, in the order in which a narrow screen and a reader have them."""
    for first in range(0, n, columns):
        yield from st.columns(columns)[: n - first]


def _edited(pictures: np.ndarray, recipe: dict[str, Any]) -> None:
    cells = _cells(len(pictures), min(4, len(pictures)))
    for i, (cell, picture) in enumerate(zip(cells, pictures, strict=True)):
        _small(cell, picture, 120, "given" if i == 0 else f"variation {i}")
    number = int(st.number_input("Variation to download", 1, len(pictures) - 1, key="edited"))
    recipe["job"]["pick"] = number
    content = images.encode_png(images.to_pil(images.enlarge(pictures[number], recipe["scale"])), recipe)
    _download("PNG", content, "edited.png", "image/png")


def _small(cell: Any, picture: np.ndarray, size: int, title: str) -> None:
    """Show a picture at about `size`, a whole multiple of its own."""
    scale = max(1, size // len(picture))
    cell.image(ui.url(ui.png(picture, scale)), width=scale * len(picture), alt=title)
    cell.caption(title)


def history() -> None:
    """Show what was made in this tab, to go back to it or to compare two."""
    kept = st.session_state.get("history", [])
    if not kept:
        st.info("What you make is kept here while this tab is open.")
        return
    names = {i: f"{len(kept) - i}. {now.label}" for i, (now, _) in enumerate(kept)}
    two = st.multiselect(
        "Compare",
        list(names),
        format_func=names.__getitem__,
        max_selections=2,
        key="compared",
        placeholder="Choose two",
    )
    for column, i in zip(st.columns(2), two, strict=False):
        now, picture = kept[i]
        _small(column, picture, 240, f"{now.label} · seed {now.seed}")
    st.divider()
    for i, (cell, (now, picture)) in enumerate(zip(_cells(len(kept), 6), kept, strict=True)):
        with cell:
            _small(st, picture, 72, f"{now.label} · {now.seed}")
            place = now._asdict(), now.model, now.which
            st.button(f"Restore {len(kept) - i}", key=f"back{i}", on_click=recall.want, args=place)


def remember(model: ui.Model, now: Controls, picture: np.ndarray) -> None:
    """Add what was made to the history, the newest first, once."""
    kept = [entry for entry in st.session_state.get("history", []) if entry[0] != now]
    st.session_state["history"] = [(now, picture), *kept][:KEPT]


def _name(label: str) -> str:
    """Return a file name for a label."""
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")[:60] or "avatar"


def _download(title: str, content: bytes, name: str, kind: str) -> None:
    st.download_button(
        f"Download {title}", io.BytesIO(content), name, kind, icon=":material/download:", on_click="ignore"
    )
