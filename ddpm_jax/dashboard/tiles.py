"""Tiles to click: the words of a data set as portraits, and pictures to choose from; tiles.js draws both."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from streamlit.components import v2

from ddpm_jax.dashboard import ui
from ddpm_jax.labels import Categorical, LabelSpace

HERE = pathlib.Path(__file__)
States = dict[str, int]  # word -> 1 with, -1 without; words that are not there may be either


@st.cache_resource
def _component() -> Any:
    js, css = (HERE.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".js", ".css"))
    return v2.component("ddpm_jax_tiles", html='<div class="tiles"></div>', js=js, css=css)


def words(
    space: LabelSpace,
    shelves: Mapping[str, Mapping[str, Sequence[str]]],
    states: States,
    *,
    revision: int,
    portraits: np.ndarray | None,
    key: str,
    changed: Callable[[], None],
) -> None:
    """Show all words of a space; `changed` is called after each click; then `states(key)` is what the tiles say.

    `states` count where `revision` is a new one: what the user clicks lives in the browser until then. `shelves` divide
    the words of a group for display; `portraits` uint8 [words, h, w, c] are in the order of `space.words`.
    """
    groups = []
    for group in space.groups:
        kind = "one" if isinstance(group, Categorical) else "flags"
        for title, members in shelves.get(group.name, {group.name.capitalize(): group.words}).items():
            items = [{"word": word, "title": word, "place": space.index(word)} for word in members]
            groups.append({"kind": kind, "title": title, "open": kind == "one", "items": items})
    show = {"label": "words", "groups": groups, "states": states, "revision": revision, "size": 48}
    _component()(key=key, data={**show, **_sprite(portraits), "search": "Search words"}, on_said_change=changed)


def gallery(
    pictures: np.ndarray, pick: int, *, revision: str, key: str, size: int, changed: Callable[[], None]
) -> None:
    """Show pictures [n, h, w, c] of which one is chosen: the one key of `states(key)`, from "0" on."""
    items = [{"word": str(i), "title": "", "place": i} for i in range(len(pictures))]
    show = {"label": "variations", "groups": [{"kind": "one", "title": "", "items": items}], "required": True}
    data = {**show, **_sprite(pictures), "states": {str(pick): 1}, "revision": revision, "size": size}
    _component()(key=key, data=data, on_said_change=changed)


def states(key: str) -> States:
    """Return what the browser last said of a component."""
    said = dict(getattr(st.session_state.get(key), "said", None) or {})
    return {str(word): int(state) for word, state in said.get("states", {}).items()}


def _sprite(pictures: np.ndarray | None) -> dict[str, Any]:
    """Return pictures side by side as one data URL, and their number."""
    if pictures is None:
        return {"sprite": "", "count": 0}
    sheet = np.concatenate(list(pictures), axis=1)
    return {"sprite": ui.url(ui.png(sheet)), "count": len(pictures)}
