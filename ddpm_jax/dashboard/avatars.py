"""Generate: avatars from words. Pictures follow the controls at once; the address is a permalink."""

import json
from concurrent.futures import Future
from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import runtime
from ddpm_jax.dashboard import answers, controls, jobs, recall, studio, tiles, ui
from ddpm_jax.dashboard.controls import Controls
from ddpm_jax.dashboard.sampler import array
from ddpm_jax.datasets import SHELVES

WIDGETS = ("complete", "n", "seed", "sampler", "times", "words", "steps", "guidance", "snap")
WORDS = {"net": "come as the net draws", "prior": "are decided before it draws"}
MODES = ("Avatar", "Grid", "From a picture", "History")
KEPT = (*WIDGETS, "model", "which", "mode", "scale", "clear", "moving", "strength", "locked")


def show() -> None:
    """Show the page."""
    st.title("Avatars")
    ui.kept(*KEPT)
    recall.arrive()
    recall.restore()
    model = ui.choose_model(words=True)
    if model is None:
        return _nothing_yet()
    recall.differs(model)
    model = answers.whole(model)
    if model is None:
        return
    now, state = _current(model), st.session_state
    ui.kept(*KEPT)
    recall.link(controls.to_query(now, _start(model), model.meta["step"]))
    asked = {"model": model.path, "which": model.which, "job": controls.job(now)}
    drawing = _draw(asked) if state.setdefault("mode", MODES[0]) == "Avatar" else None
    faces = _portraits(model)
    left, right = st.columns([5, 7], gap="large")
    with left:
        _words(model, faces)
        _settings(model)
    with right, st.container(key="result"):
        mode = st.segmented_control("Show", MODES, key="mode", required=True)
        recall.done()
        if mode in ("Avatar", "From a picture"):
            studio.flag(model, [state["states"]])
        if mode == "Grid":
            studio.grid(model, now)
        elif mode == "From a picture":
            studio.from_picture(model, now)
        elif mode == "History":
            studio.history()
        elif drawing is not None:
            _avatar(model, now, drawing)
    if not faces.done():
        _await(faces)


def _draw(asked: dict[str, Any]) -> Future[Any]:
    """Return the future of a drawing: the last one where the same is asked again."""
    question = json.dumps(asked, sort_keys=True)
    before, drawing = st.session_state.get("drawing", ("", None))
    if drawing is None or before != question or drawing.cancelled() or (drawing.done() and drawing.exception()):
        drawing = ui.start("draw", part="avatar", **asked)
        st.session_state["drawing"] = question, drawing
    return drawing


def _current(model: ui.Model) -> Controls:
    """Return what the controls say, once they say what a restored picture, the address or another model asks for."""
    start, space, state = _start(model), model.spec.labels, st.session_state
    given = state.get("avatar_wanted")
    if given is None and state.get("avatar_model") != model.name:
        kept = {key: state[key] for key in ("seed", "n", "pick", "complete", "snap") if key in state}
        given = {**kept, "label": _known(model)} if "avatar_model" in state else {}
    if given is not None:
        wanted, problems = controls.updated(start, given, space)
        if given.get("checkpoint", str(model.meta["step"])) != str(model.meta["step"]):
            problems.append(f"the link is of another checkpoint; this is step {model.meta['step']}, and draws its own")
        if wanted.words == "prior" and not model.has_prior:
            wanted = wanted._replace(words="net")
            problems.append("this model has no prior: its net decides the words not chosen")
        if problems:
            st.warning("; ".join(problems), icon=":material/warning:")
        state["avatar_model"] = model.name
        _set(wanted, model)
    label = space.format(controls.vector(space, state["states"]))
    pick = min(state.get("pick", 0), state["n"] - 1)
    return start._replace(which=model.which, label=label, pick=pick, **{key: state[key] for key in WIDGETS})


def _start(model: ui.Model) -> Controls:
    return controls.starting(model.name, model.meta["config"]["sampling"])


def _set(wanted: Controls, model: ui.Model) -> None:
    """Make all widgets say what is wanted."""
    state = st.session_state
    for key in WIDGETS:
        state[key] = getattr(wanted, key)
    state["pick"] = wanted.pick
    _set_words(controls.states(model.spec.labels, wanted.label))


def _set_words(states: tiles.States) -> None:
    st.session_state["states"] = states
    st.session_state["revision"] = st.session_state.get("revision", 0) + 1


def _known(model: ui.Model) -> str:
    """Return what of the present words another model knows, too."""
    words = {word: state for word, state in st.session_state["states"].items() if word in model.spec.labels.words}
    return model.spec.labels.format(controls.vector(model.spec.labels, words))


def _words(model: ui.Model, faces: Future[Any]) -> None:
    portraits = None
    if faces.done() and not faces.exception():
        portraits = array(faces.result()["pictures"])
    tiles.words(
        model.spec.labels,
        SHELVES.get(model.spec.name, {}),
        st.session_state["states"],
        revision=st.session_state["revision"],
        portraits=portraits,
        key="picker",
        changed=_words_clicked,
    )


def _words_clicked() -> None:
    st.session_state["states"] = tiles.states("picker")
    if st.session_state["mode"] == "History":
        st.session_state["mode"] = MODES[0]


def _settings(model: ui.Model) -> None:
    with st.expander("How it is sampled", icon=":material/tune:"):
        st.toggle("Everything not chosen is absent", key="complete", help="Else open. A skin not chosen is absent, too")
        one, two = st.columns(2)
        one.number_input("Variations", 1, 16, key="n", step=1)
        two.number_input("Seed", 0, 2**32 - 1, key="seed", step=1)
        one.selectbox("Sampler", controls.CHOICES["sampler"], key="sampler")
        two.selectbox("Times", controls.CHOICES["times"], key="times", help="How the evaluations are spaced")
        one.number_input(
            "Evaluations", 1, 100, key="steps", step=1, help="Calls of the net for a picture; 3 will often do"
        )
        two.slider(
            "Guidance", 0.0, 10.0, key="guidance", step=0.5, help="0 ignores the words, 1 obeys, more exaggerates"
        )
        st.selectbox(
            "Words not chosen",
            controls.CHOICES["words"],
            key="words",
            format_func=WORDS.__getitem__,
            disabled=not model.has_prior,
            help="Decided first, they are as frequent as in the data; guidance leaves them to the net",
        )
        st.toggle("Snap to the palette", key="snap", help="Move each pixel to the nearest colour of the data set")


def _avatar(model: ui.Model, now: Controls, drawing: Future[Any]) -> None:
    _actions(model, now)
    answer = ui.result(drawing)
    if answer is None:
        return
    pictures = array(answer["pictures"])
    studio.remember(model, now, pictures[now.pick])
    big, small = st.columns([3, 2])
    with big:
        studio.chosen(model, now, answer, pictures[now.pick])
    with small:
        st.caption(f"{now.n} variations of “{now.label}”" if now.n > 1 else f"“{now.label}”")
        if now.n > 1:
            revision = f"{now.label}/{now.seed}/{now.n}/{now.pick}"
            tiles.gallery(pictures, now.pick, revision=revision, key="gallery", size=72, changed=_picked)
        st.caption(f"{answer['seconds']:.2f} s on {answer['recipe']['device']}")


def _picked() -> None:
    st.session_state["pick"] = next((int(word) for word in tiles.states("gallery") if word.isdecimal()), 0)


def _actions(model: ui.Model, now: Controls) -> None:
    space, words = model.spec.labels, st.session_state["states"]
    row = st.container(horizontal=True)
    row.button("Surprise me", icon=":material/casino:", on_click=_surprise, args=(model,), type="primary")
    row.button("New seed", icon=":material/refresh:", on_click=_reroll, help="The same words, other pictures")
    row.button("Clear", icon=":material/backspace:", on_click=_set_words, args=({},))
    if present := [word for word in space.words if words.get(word)]:
        with row.popover("Keep or swap", icon=":material/lock:"):
            st.multiselect("Kept by “Surprise me”", present, key="locked")
            st.divider()
            out = st.selectbox("Same seed, but instead of", [word for word in present if words[word] > 0], key="out")
            into = st.selectbox("this", controls.others(space, SHELVES.get(model.spec.name, {}), out), key="into")
            st.button("Swap", on_click=_swap, args=(out, into), disabled=not (out and into))


def _surprise(model: ui.Model) -> None:
    words, seed = st.session_state["states"], int(np.random.default_rng().integers(2**31))
    kept = {word: words[word] for word in st.session_state.get("locked", ()) if word in words}
    _set_words(controls.surprise(model.spec.labels, model.meta["pairs_seen"], kept, seed))


def _reroll() -> None:
    st.session_state["seed"] = int(np.random.default_rng().integers(2**31))


def _swap(out: str, into: str) -> None:
    _set_words({**{word: state for word, state in st.session_state["states"].items() if word != out}, into: 1})


def _portraits(model: ui.Model) -> Future[Any]:
    """Return the future of a picture of each word, asked once for a checkpoint."""
    asked = _asked_portraits()
    key = (model.meta["sha256"], model.which)
    if key not in asked or (asked[key].done() and (asked[key].cancelled() or asked[key].exception())):
        rows = controls.portraits(model.spec.labels, model.meta["pairs_seen"])
        job = {"kind": "grid", "label": "", "rows": rows, "columns": [""], "same_noise": True, "complete": True}
        job |= {"sampler": "ddim", "steps": _start(model).steps, "guidance": 1.0}
        asked[key] = ui.sampler().ask("draw", model=model.path, which=model.which, job=job)
    return asked[key]


@st.cache_resource(max_entries=1)
def _asked_portraits() -> dict[Any, Future[Any]]:
    return {}


@st.fragment(run_every=0.5)
def _await(faces: Future[Any]) -> None:
    """Run the page again when the portraits are there."""
    if faces.done():
        st.rerun()


def _nothing_yet() -> None:
    st.info("There is no trained model with words yet.", icon=":material/info:")
    st.write("Train the embedded faces: they need no download, and two minutes on two cores.")
    if st.button("Train the embedded faces", type="primary", icon=":material/model_training:"):
        try:
            folder = jobs.add(ui.workdir(), "avatars_cfg", {"train.minutes": 2.2, "data.root": ui.data_root()})
        except (OSError, runtime.Failure) as error:
            st.error(f"The run cannot start: {error}")
        else:
            st.success(f"{folder.name} is training; the Train page shows how far it is. Come back when it is done.")
