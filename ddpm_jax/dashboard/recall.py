"""Back to what made a picture: an address, or the recipe of a PNG or GIF, put into the controls of the avatars page."""

import base64
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import animation, images, runtime
from ddpm_jax.dashboard import figures, runs, ui

LATE_S = 2.0  # within which a browser has surely heard of its new address


def link(query: dict[str, str]) -> None:
    """Make the address the permalink of what is shown."""
    state, before = st.session_state, dict(st.query_params)
    if query != before:
        state["avatar_left"] = [*state.get("avatar_left", [])[-7:], (before, time.monotonic())]
    state["avatar_query"] = query
    st.query_params.from_dict(query)


def arrive() -> None:
    """Take what an address asks for that was opened, edited or gone back to; none is what other pages leave.

    A quick click may still bring an address that was left a moment ago: that asks for nothing.
    """
    query, state = dict(st.query_params), st.session_state
    late = any(query == left and time.monotonic() - at < LATE_S for left, at in state.get("avatar_left", []))
    if not query or late or query == state.get("avatar_query"):
        return
    want(query, query.get("model"), "raw" if query.get("which") == "raw" else "ema")


def restore() -> None:
    """Put the choices of a restored picture, or of an address, into their widgets, before these are shown."""
    wanted = dict(st.session_state.get("restore", {}))
    if wanted.get("model") not in runs.models(ui.workdir()):
        wanted.pop("model", None)
    st.session_state.update(wanted)


def differs(model: ui.Model) -> None:
    """Say where the model, or its weights, are not those that were asked for."""
    wanted = st.session_state.get("restore", {})
    if (name := wanted.get("model")) and name != model.name:
        st.warning(
            f"There is no model {name[:60]!r} here that knows words; another one is shown.", icon=":material/warning:"
        )
    elif wanted.get("which", model.which) != model.which:
        st.warning("The raw weights of this model are not here; the averaged ones draw.", icon=":material/warning:")


def done() -> None:
    """Forget what was asked for, once the widgets say it.

    Not before: a run that a click interrupts starts over with what the browser's widgets say, which is the old.
    """
    st.session_state.pop("restore", None)
    st.session_state.pop("avatar_wanted", None)


def want(now: Mapping[str, Any], model: str | None, which: str, **widgets: Any) -> None:
    """Ask for controls at the next run of the page: those of a model where it is known, and other widgets'."""
    st.session_state["avatar_wanted"] = now
    st.session_state["restore"] = {"model": model, "which": which, "mode": "Avatar", **widgets}


def recalled(model: ui.Model, name: str, content: bytes) -> bool:
    """Say whether a file carries a recipe of such pictures, and put that in the place of the controls.

    Raises runtime.BadInput for a file that cannot be read, or whose recipe is none.
    """
    gif = content[:3] == b"GIF"
    recipe = (animation.recipe_in if gif else images.recipe_in)(content, name)
    if recipe is None and gif:
        raise runtime.BadInput(f"{name} carries no recipe; to start from a picture, give a PNG")
    job = (recipe or {}).get("job")
    if recipe is None or not isinstance(job, dict):
        return False
    try:
        model.spec.labels.parse(str(job.get("label", "")))
    except ValueError as error:
        st.warning(f"Its recipe is for other words, and is left aside: {str(error)[:200]}", icon=":material/warning:")
        return False
    maker = _maker(recipe)
    if maker is None:
        st.toast("The checkpoint that made it is not here: its words and settings are restored.")
    settings = recipe.get("settings")
    now = {**(settings if isinstance(settings, dict) else {}), **job}
    want(now, maker, "raw" if recipe.get("which") == "raw" else "ema", **_widgets(model, recipe, job, gif))
    return True


def _widgets(model: ui.Model, recipe: Mapping[str, Any], job: Mapping[str, Any], gif: bool) -> dict[str, Any]:
    """Return what a recipe says of the widgets beside the controls; whatever is not as it should be is left out."""
    found: dict[str, Any] = {}
    if job.get("kind") == "sheet":
        found["moving"] = gif  # whose pixels have a size of their own
        if not gif and isinstance(scale := recipe.get("scale"), int) and 1 <= scale <= 4096:
            found |= {"clear": bool(recipe.get("background")), "scale": scale}
    if job.get("kind") == "grid":
        found["mode"] = "Grid"
        for title, said in (("Rows", job.get("rows")), ("Columns", job.get("columns"))):
            known = [word for word in model.spec.labels.words if isinstance(said, list) and word in said]
            found[f"{title} of {model.spec.name}"] = known[:12]
    if job.get("kind") == "edit" and isinstance(strength := job.get("strength"), float) and 0.05 <= strength <= 1:
        try:
            content = base64.b64decode(str(job.get("picture")), validate=True)
            picture, _ = fitted(model, content, "the picture of the recipe")
            st.session_state["given"] = figures.base64_png(picture)
            found |= {"mode": "From a picture", "strength": strength}
        except (runtime.Failure, ValueError) as error:
            st.toast(str(error))
    return found


def _maker(recipe: dict[str, Any]) -> str | None:
    """Return the name of the model whose newest checkpoint made a picture."""
    for name, folder in runs.models(ui.workdir()).items():
        saved = runs.newest(folder)
        if saved and saved.meta and saved.meta["sha256"] == recipe.get("checkpoint"):
            return name
    return None


def fitted(model: ui.Model, content: bytes, name: str) -> tuple[np.ndarray, bool]:
    """Return a PNG in the shape of the model's pictures, and whether it was cut and reduced to get it exactly so."""
    picture = images.decode_png(content, name)
    try:
        return images.fit(picture, model.spec.shape, model.spec.background), False
    except ValueError:
        return images.fit(images.reduced(picture, model.spec.shape), model.spec.shape, model.spec.background), True
