"""Parts of the avatars page: look, animate, download, compare; grids; start from a picture."""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import animation, images, runtime
from ddpm_jax.dashboard import controls, runs, ui
from ddpm_jax.dashboard.controls import Controls
from ddpm_jax.dashboard.sampler import array

LARGEST = 4096  # pixels a side of a download
KEPT = 48  # pictures of the history


def chosen(model: ui.Model, now: Controls, answer: dict[str, Any], picture: np.ndarray) -> None:
    """Show the chosen variation large, or how it comes about, and offer it for download."""
    side, _, _ = model.spec.shape
    scale = max(1, 480 // side)
    moving = st.toggle("Show the denoising", key="moving")
    recipe = {**answer["recipe"], "job": controls.job(now, pick=True), "model": model.name}
    if moving:
        job = {key: value for key, value in recipe["job"].items() if key != "snap"}
        frames = ui.ask("animate", part="frames", model=model.path, which=model.which, job=job)
        if frames is None:
            return
        gif = animation.encode(array(frames["frames"]), scale=scale, ms=120, recipe={**recipe, "scale": scale})
        st.image(gif, width="stretch", alt=f"The denoising of {now.label}")
        _download("GIF", gif, f"{_name(now.label)}.gif", "image/gif")
        return
    st.image(ui.png(picture, scale), width="stretch", alt=now.label)
    one, two = st.columns(2, vertical_alignment="bottom")
    st.session_state["scale"] = min(st.session_state.get("scale", 10), LARGEST // side)
    scale = int(one.number_input("Size of a pixel", 1, LARGEST // side, key="scale", help="1: the picture as it is"))
    clear = two.toggle("Transparent", key="clear") if model.spec.background else False
    background = list(model.spec.background or ()) if clear else None
    made = picture if background is None else images.transparent(picture[None], background)[0]
    recipe |= {"scale": scale, "background": background}
    content = images.encode_png(images.to_pil(images.enlarge(made, scale)), recipe)
    _download(f"PNG, {side * scale}x{side * scale}", content, f"{_name(now.label)}.png", "image/png")


def grid(model: ui.Model, now: Controls) -> None:
    """Show the builder of a table of pictures: words of rows by words of columns, beside those of the tiles."""
    groups = model.spec.labels.groups
    first = list(groups[0].words[:5])
    last = [word for word in groups[-1].words if word not in first][:6]
    rows, columns = _line("Rows", model, first), _line("Columns", model, last)
    if not rows or not columns:
        st.info("Choose one word or more for the rows, and for the columns.")
        return
    base = {word for word in st.session_state["words"] if word not in (*rows, *columns)}
    label = model.spec.labels.format(
        controls.vector(model.spec.labels, {word: st.session_state["words"][word] for word in base})
    )
    job = {**controls.job(now), "kind": "grid", "label": label, "rows": rows, "columns": columns}
    job = {key: value for key, value in job.items() if key != "n"} | {"same_noise": True}
    answer = ui.ask("draw", part="grid", model=model.path, which=model.which, job=job)
    if answer is None:
        return
    pictures = array(answer["pictures"]).reshape(len(rows), len(columns), *model.spec.shape)
    sheet = images.attribute_grid(pictures, rows, columns, scale=max(1, 96 // model.spec.shape[0]))
    content = images.encode_png(sheet, {**answer["recipe"], "scale": max(1, 96 // model.spec.shape[0])})
    st.container(key="sheet").image(content, alt=f"{' / '.join(rows)} by {' / '.join(columns)}")
    _download("PNG", content, "grid.png", "image/png")


def _line(title: str, model: ui.Model, default: list[str]) -> list[str]:
    key = f"{title} of {model.spec.name}"
    return st.multiselect(title, model.spec.labels.words, default=default, max_selections=12, key=key)


def from_picture(model: ui.Model, now: Controls) -> None:
    """Show what the words make of an uploaded picture; one that was made here restores its controls instead."""
    height, width, _ = model.spec.shape
    file = st.file_uploader(
        "A PNG to start from, or a PNG or GIF made here (its recipe restores all controls)",
        type=["png", "gif"],
        key="upload",
        max_upload_size=8,
    )
    strength = st.slider(
        "Strength", 0.05, 1.0, 0.5, 0.05, key="strength", help="Little keeps the picture, 1 forgets it"
    )
    if file is None:
        st.caption(f"A picture of {width}x{height}, or enlarged from it, is taken as it is; others are reduced.")
        return
    if _restored(file.name, file.getvalue(), file.file_id):
        st.rerun()
    try:
        given = _fitted(model, file.getvalue(), file.name)
    except (runtime.Failure, ValueError) as error:
        st.error(str(error), icon=":material/error:")
        return
    base = {key: value for key, value in controls.job(now).items() if key != "pick"}
    job = {**base, "kind": "edit", "picture": _packed(given), "strength": strength}
    answer = ui.ask("draw", part="edit", model=model.path, which=model.which, job=job)
    if answer is None:
        return
    pictures, scale = array(answer["pictures"]), max(1, 240 // height)
    columns = st.columns(min(4, len(pictures)))
    for i, picture in enumerate(pictures):
        title = "given" if i == 0 else f"variation {i}"
        columns[i % len(columns)].image(ui.png(picture, scale), caption=title, width="stretch", alt=title)
    number = st.number_input("Variation to download", 1, len(pictures) - 1, key="edited")
    recipe = {**answer["recipe"], "job": {**job, "pick": int(number)}, "scale": 10, "background": None}
    content = images.encode_png(images.to_pil(images.enlarge(pictures[number], 10)), recipe)
    _download("PNG", content, "edited.png", "image/png")
    return


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
        said = f"{now.label} · seed {now.seed}"
        column.image(ui.png(picture, max(1, 360 // len(picture))), caption=said, width="stretch", alt=said)
    st.divider()
    columns = st.columns(6)
    for i, (now, picture) in enumerate(kept):
        with columns[i % 6]:
            st.image(ui.png(picture, max(1, 96 // len(picture))), width=96, alt=names[i])
            st.button(
                "Restore",
                key=f"back{i}",
                on_click=_want,
                args=(now._asdict(), now.model, now.which),
                help=f"{names[i]}, seed {now.seed}",
            )


def remember(model: ui.Model, now: Controls, picture: np.ndarray) -> None:
    """Add what was made to the history, the newest first, once."""
    kept = [entry for entry in st.session_state.get("history", []) if entry[0] != now]
    st.session_state["history"] = [(now, picture), *kept][:KEPT]


def restore() -> None:
    """Put the choices of a restored picture into their widgets, before these are shown."""
    wanted = st.session_state.pop("restore", {})
    if wanted.get("model") not in runs.models(ui.workdir()):
        wanted.pop("model", None)
    st.session_state.update(wanted)


def _want(now: Mapping[str, Any], model: str | None, which: str) -> None:
    st.session_state["avatar_wanted"] = now
    st.session_state["restore"] = {"model": model, "which": which, "mode": "Avatar"}


def _restored(name: str, content: bytes, file_id: str) -> bool:
    """Say whether a file carries a recipe, and put that in the place of the controls; each upload does so once."""
    if st.session_state.get("restored") == file_id:
        return False
    try:
        recipe = (animation.recipe_in if content[:3] == b"GIF" else images.recipe_in)(content, name)
    except runtime.Failure:
        return False  # said where it is decoded
    if recipe is None or not isinstance(recipe.get("job"), dict):
        return False
    st.session_state["restored"] = file_id
    maker = _maker(recipe)
    if maker is None:
        st.toast("The checkpoint that made it is not here: its words and settings are restored.")
    settings = recipe.get("settings")
    now = {**(settings if isinstance(settings, dict) else {}), **recipe["job"]}
    _want(now, maker, "raw" if recipe.get("which") == "raw" else "ema")
    if isinstance(scale := recipe.get("scale"), int) and 1 <= scale <= LARGEST:
        st.session_state["restore"] |= {"clear": bool(recipe.get("background")), "scale": scale}
    return True


def _maker(recipe: dict[str, Any]) -> str | None:
    """Return the name of the model whose newest checkpoint made a picture."""
    for name, folder in runs.models(ui.workdir()).items():
        saved = runs.newest(folder)
        if saved and saved.meta and saved.meta["sha256"] == recipe.get("checkpoint"):
            return name
    return None


def _fitted(model: ui.Model, content: bytes, name: str) -> np.ndarray:
    """Return a PNG in the shape of the model's pictures: as it is where that goes exactly, else cut and reduced."""
    picture = images.decode_png(content, name)
    try:
        return images.fit(picture, model.spec.shape, model.spec.background)
    except ValueError:
        st.caption(f"It was cut to a square and reduced to {model.spec.shape[1]}x{model.spec.shape[0]}.")
        return images.fit(images.reduced(picture, model.spec.shape), model.spec.shape, model.spec.background)


def _packed(picture: np.ndarray) -> str:
    import base64

    return base64.b64encode(ui.png(picture)).decode()


def _name(label: str) -> str:
    """Return a file name for a label."""
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")[:60] or "avatar"


def _download(title: str, content: bytes, name: str, kind: str) -> None:
    st.download_button(
        f"Download {title}", io.BytesIO(content), name, kind, icon=":material/download:", on_click="ignore"
    )
