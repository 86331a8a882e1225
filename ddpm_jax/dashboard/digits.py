"""The page of digits: choose one, draw one that the model restyles or finishes, watch a noised one being denoised."""

from typing import Any

import numpy as np
import streamlit as st

from ddpm_jax import images, runtime
from ddpm_jax.dashboard import answers, controls, figures, ui
from ddpm_jax.dashboard.sampler import array
from ddpm_jax.datasets import mnist

DIGITS = tuple("0123456789")
PARTS = ("choose", "draw", "noise")
SAMPLERS = controls.CHOICES["sampler"]
BRUSH = 22  # pixels of a canvas that is ten times as wide as a digit: a pen as broad as MNIST's
CANVAS = 10 * mnist.SIDE
STRENGTH = "How much of your digit the model may change: 0 nothing, 1 everything"
GUIDANCE = "How strongly it follows the digit asked for: 1 as in training, more exaggerates"
# What each control starts with. It goes into the state, not to the control: what was kept is a start value too.
STARTS = {
    **{"choose_digit": "3", "draw_digit": "any", "noise_digit": "5", "draw_way": "Restyle", "half": "Lower"},
    **{"strength": 0.6, "noise_t": 0.6, "choose_n": 8, "choose_seed": 0, "draw_seed": 0, "noise_seed": 0},
}
OF_THE_MODEL = [f"{part}_{what}" for part in PARTS for what in ("steps", "guidance", "sampler")]
CHOICES = ("model of mnist", "which", "digits", "noise_told", "choose_watch", "draw_watch")
KEPT = (*CHOICES, *STARTS, *OF_THE_MODEL)  # while other pages and tabs are shown
HALVES = {
    "Lower": np.s_[mnist.SIDE // 2 :, :],
    "Upper": np.s_[: mnist.SIDE // 2, :],
    "Right": np.s_[:, mnist.SIDE // 2 :],
    "Left": np.s_[:, : mnist.SIDE // 2],
}


def show() -> None:
    """Show the page."""
    st.title("Digits")
    ui.kept(*KEPT)
    model = ui.choose_model(names=("mnist",))
    if model is None:
        st.info(
            "No model of digits has a checkpoint yet. Train **mnist_classes_cfg** on the Train page: after a few "
            "minutes its first checkpoint can be used here.",
            icon=":material/model_training:",
        )
        return
    model = answers.whole(model)
    if model is None:
        return
    for key, value in STARTS.items():
        st.session_state.setdefault(key, value)
    parts = {"Choose": choose, "Draw": draw, "Noise": noise}
    for tab, part in zip(st.tabs(list(parts), key="digits", on_change="rerun"), parts.values(), strict=True):
        if tab.open:
            with tab:
                part(model)


def choose(model: ui.Model) -> None:
    """Show variations of a chosen digit."""
    label = _digit(model, "choose", "Digit")
    how = _how(model, "choose", variations=True)
    job, n = {"kind": "sheet", "label": label, **how}, how["n"]
    drawn = answers.remembered("choose", "draw", model=model.path, which=model.which, job=job)
    if drawn is None:
        return
    pictures = array(drawn["pictures"])
    odds, words = answers.readings(model, "choose", pictures)
    names = [f"Variation {i} of {label or 'any digit'}" for i in range(1, n + 1)]
    st.html(figures.row(pictures, answers.captions(odds, words, n), names, size=140))
    answers.downloads(model, "choose", pictures, drawn["recipe"], animated=job)


def draw(model: ui.Model) -> None:
    """Show a canvas, and what the model makes of what is drawn on it."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        way = st.segmented_control("The model's part", ["Restyle", "Finish"], required=True, key="draw_way")
        half = ""
        if way == "Finish":
            half = st.segmented_control("It draws this half", list(HALVES), required=True, key="half")
        ink = _canvas(half or "")
    with right:
        wished = _digit(model, "draw", "Make it a")
        strength = 0.6 if half else st.slider("Strength", 0.1, 1.0, step=0.05, key="strength", help=STRENGTH)
        how = _how(model, "draw", with_sampler=not half)
        if ink is None:
            st.info("What the model makes of your drawing appears here.", icon=":material/draw:")
            return
        job = finishing(ink, model.spec.shape[0], half) if half else {"sketch": True, "strength": strength}
        job = {"kind": "edit", "picture": figures.base64_png(ink), "label": wished, "n": 4, **job, **how}
        drawn = answers.remembered("draw", "draw", model=model.path, which=model.which, job=job)
        if drawn is None:
            return
        odds, words = _show_edit(model, drawn, job)
    if odds:
        left.html(figures.bars({"your drawing": odds[0], "the first result": odds[1]}, words))


def noise(model: ui.Model) -> None:
    """Show a digit, the digit noised, and every estimate of the digit on the way back."""
    controls, pictures = st.columns([2, 3], gap="large")
    with controls:
        word = st.segmented_control("Digit", DIGITS, required=True, key="noise_digit", wrap=True) or "5"
        t = st.slider("Noise it to time t", 0.05, 1.0, step=0.05, key="noise_t", help="0 is the picture, 1 pure noise")
        told = bool(model.spec.labels.size) and st.toggle("Tell the model which digit it is", key="noise_told")
        how = _how(model, "noise", "Another digit")
    with pictures:
        given = _real_or_drawn(model, word, how["seed"])
        if given is None:
            return
        text = figures.base64_png(given)
        asked = {"model": model.path, "which": model.which}
        noised = answers.remembered("noised", "noised", **asked, picture=text, strength=t, seed=how["seed"])
        job = {"kind": "edit", "picture": text, "label": word if told else "", "n": 1, "strength": t, **how}
        made = answers.remembered("animate", "animate", **asked, job=job)
        if noised is None or made is None:
            return
        frames = array(made["frames"])
        odds, words = _show_way(model, given, array(noised["pictures"])[0], frames, t)
        answers.film("noise", frames, made["recipe"])
    if odds:
        controls.html(figures.bars({"the original": odds[0], "the result": odds[3]}, words))


def finishing(ink: np.ndarray, side: int, half: str) -> dict[str, str]:
    """Return the picture and the mask of a job that completes a drawing [280, 280] where it stands, in one half.

    MNIST's rule would move and enlarge it: half a digit would fill the field.
    """
    small = ink.reshape(mnist.SIDE, 10, mnist.SIDE, 10).mean(axis=(1, 3)).round().astype(np.uint8)
    mask = np.zeros_like(small)
    mask[HALVES[half]] = 255
    small[HALVES[half]] = 0
    small, mask = mnist.resized(np.stack([small, mask]), side)
    return {"picture": figures.base64_png(small), "mask": figures.base64_png(mask)}


def ink_of(content: bytes) -> np.ndarray | None:
    """Return what a canvas's PNG shows, uint8 [280, 280], laid over black; None while it is blank.

    Raises BadInput for what no canvas sends; the size is looked at before anything is decoded.
    """
    if not content:
        return None
    drawing = images.decode_png(content, "the drawing")
    height, width = drawing.shape[:2]
    if height != width or height % CANVAS:
        raise runtime.BadInput(f"the drawing is {width}x{height}; the canvas has {CANVAS}x{CANVAS} pixels")
    ink = drawing[..., :3].max(axis=-1).astype(np.float32)
    ink = ink * (drawing[..., 3] / 255 if drawing.shape[2] == 4 else 1)
    fine = height // CANVAS  # screens with finer pixels send a larger picture
    ink = ink.reshape(CANVAS, fine, CANVAS, fine).mean(axis=(1, 3)).round().astype(np.uint8)
    return ink if ink.max() > 32 else None


def _canvas(half: str) -> np.ndarray | None:
    """Show the canvas, in `half` grey; return what is drawn on it."""
    from streamlit_drawable_canvas import st_canvas  # importable only while Streamlit serves

    shade = np.zeros((CANVAS, CANVAS, 1), np.uint8)
    if half:
        shade.reshape(mnist.SIDE, 10, mnist.SIDE, 10)[HALVES[half][0], :, HALVES[half][1]] = 60
    st.caption("Draw on the black field.")
    canvas = st_canvas(
        stroke_width=BRUSH, stroke_color="#ffffff", background_image=ui.png(shade), return_image_data=True,
        width=CANVAS, height=CANVAS, key="canvas",
    )  # fmt: skip
    try:
        return ink_of(canvas.image_bytes or b"")
    except (AttributeError, TypeError, ValueError) as error:  # a browser may send anything in place of a PNG
        st.error(str(error), icon=":material/error:")
        return None


def _show_edit(model: ui.Model, drawn: dict[str, Any], job: dict[str, Any]) -> tuple[list[list[float]], list[str]]:
    """Show what became of a drawing; return what the classifier reads."""
    pictures = array(drawn["pictures"])
    odds, words = answers.readings(model, "draw", pictures)
    readings = answers.captions(odds, words, len(pictures))
    given = figures.row(pictures[:1], [f"As the model sees it\n{readings[0]}"], ["Your digit"], size=84)
    st.html(given + figures.row(pictures[1:], readings[1:], [f"Result {i}" for i in range(1, 5)], size=112))
    answers.downloads(model, "draw", pictures, drawn["recipe"], animated=None if job.get("mask") else job)
    return odds, words


def _show_way(
    model: ui.Model, given: np.ndarray, noised: np.ndarray, frames: np.ndarray, t: float
) -> tuple[list[list[float]], list[str]]:
    """Show a digit, the digit noised, the estimates and the result; return what the classifier reads of those."""
    last = len(frames)
    step = st.slider("Estimate", 1, last, 1, key="noise_step") if last > 1 else 1
    shown = np.stack([given, noised, frames[step - 1, 0], frames[-1, 0]])
    odds, words = answers.readings(model, "noise", shown)
    titles = ["Original", f"Noised to t = {t:.2f}", f"Estimate {step} of {last}", "Result"]
    readings = answers.captions(odds, words, 4)
    st.html(figures.row(shown, [f"{title}\n{r}" for title, r in zip(titles, readings, strict=True)], titles, size=140))
    st.caption("All estimates, in order")
    st.html(figures.row(frames[:, 0], [""] * last, [f"Estimate {i}" for i in range(1, last + 1)], size=56))
    return odds, words


def _real_or_drawn(model: ui.Model, word: str, number: int) -> np.ndarray | None:
    """Return a real digit; where MNIST is not at hand, one that the model draws, and say so."""
    asked = {"model": model.path, "which": model.which}
    real, why = answers.quietly("real", "real", **asked, root=ui.data_root(), word=word, number=number)
    if real is not None:
        return array(real["pictures"])[0]
    st.caption(f"This digit was drawn by the model: {why}")
    job = {"kind": "sheet", "label": word if model.spec.labels.size else "", "n": 1, "seed": number}
    drawn = answers.remembered("real", "draw", **asked, job=job)
    return None if drawn is None else array(drawn["pictures"])[0]


def _digit(model: ui.Model, part: str, title: str) -> str:
    """Show the digits as buttons and return the label of the one chosen, "" for any."""
    if not model.spec.labels.size:
        st.caption("This model was trained without words: it cannot be asked for a certain digit.")
        return ""
    choices = [*DIGITS, "any"]
    word = st.segmented_control(title, choices, required=True, key=f"{part}_digit", wrap=True)
    return word if word in DIGITS else ""


def _how(
    model: ui.Model, part: str, other: str = "Other ones", *, with_sampler: bool = True, variations: bool = False
) -> dict[str, Any]:
    """Show seed, guidance, steps, sampler and the number of variations; return them."""
    defaults, key, state = model.meta["config"]["sampling"], f"{part}_seed", st.session_state
    state.setdefault(f"{part}_steps", min(100, int(defaults["steps"])))
    state.setdefault(f"{part}_guidance", float(np.clip(defaults["guidance"], 0, 8)))
    state.setdefault(f"{part}_sampler", defaults["sampler"] if defaults["sampler"] in SAMPLERS else SAMPLERS[0])
    st.button(other, icon=":material/casino:", key=f"{part}_other", on_click=lambda: _next(key))
    with st.expander(
        "Seed, guidance, sampler" if not variations else "Variations, seed, guidance, sampler", icon=":material/tune:"
    ):
        how: dict[str, Any] = {"n": st.slider("Variations", 1, 16, key=f"{part}_n")} if variations else {}
        how["seed"] = st.number_input("Seed", 0, 2**31 - 1, step=1, key=key)
        how["steps"] = st.slider("Evaluations", 2, 100, key=f"{part}_steps")
        if model.spec.labels.size:
            how["guidance"] = st.slider("Guidance", 0.0, 8.0, step=0.25, key=f"{part}_guidance", help=GUIDANCE)
        if with_sampler:
            how["sampler"] = st.selectbox("Sampler", SAMPLERS, key=f"{part}_sampler")
    return how


def _next(key: str) -> None:
    st.session_state[key] = (st.session_state[key] + 1) % 2**31
