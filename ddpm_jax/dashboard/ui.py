"""What the pages have in common: where things are, the sampling process, the choice of a model, pictures as bytes."""

import base64
import io
import os
import pathlib
import time
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple

import numpy as np
import streamlit as st

from ddpm_jax import images, releases
from ddpm_jax.dashboard import runs, serve
from ddpm_jax.dashboard.sampler import Failed, Sampler
from ddpm_jax.datasets.spec import Spec


class Model(NamedTuple):
    """A checkpoint to sample from: the run's name, the checkpoint's place, its description, "ema" or "raw"."""

    name: str
    path: str
    meta: dict[str, Any]
    spec: Spec
    which: str

    @property
    def has_prior(self) -> bool:
        """Whether something but the net can decide the words that a label leaves open."""
        return bool(self.meta["config"]["net"].get("word_prior"))


def workdir() -> pathlib.Path:
    """Return where the runs are."""
    return pathlib.Path(os.environ.get(serve.ROOT, "workdir")).absolute()


def data_root() -> str:
    """Return where the data sets are."""
    return str(pathlib.Path(os.environ.get(serve.DATA, "data")).absolute())


@st.cache_resource
def sampler() -> Sampler:
    """Return the one sampling process of all pages and tabs."""
    return Sampler()


def ask(do: str, *, part: str, **arguments: Any) -> Any:
    """Return the answer of the sampling process, or None after showing the user why there is none.

    The page can be left, and its controls moved, meanwhile. `part` is what on the page asks.
    """
    return result(start(do, part=part, **arguments))


def start(do: str, *, part: str, **arguments: Any) -> Future[Any]:
    """Ask the sampling process, and go on."""
    return sampler().ask(do, owner=f"{_tab()}/{part}", **arguments)


def result(future: Future[Any]) -> Any:
    """Return the answer once it is there, or None after showing why there is none."""
    with st.spinner("Sampling ...", show_time=True):
        wait(future)
    try:
        return future.result()
    except Failed as error:
        st.error(str(error), icon=":material/error:")
    except CancelledError:
        pass
    return None


def choose_model(*, names: tuple[str, ...] = (), words: bool = False) -> Model | None:
    """Show the choice of a model: of data sets `names`, or with `words` of any other whose labels are words.

    None, and nothing shown, where there is none.
    """
    found = {name: saved for name, folder in runs.models(workdir()).items() if (saved := runs.newest(folder))}
    fitting = {name: saved for name, saved in found.items() if saved.meta and _fits(saved.meta, names, words)}
    if not fitting:
        return None
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    along, key, state = releases.models(), "model" if words else f"model of {names[0]}", st.session_state
    released = [name for name, saved in fitting.items() if saved.path == along.get(name)]
    wordless = [name for name in released if not _labels(fitting[name])]
    options = [*(name for name in fitting if name not in wordless), *wordless]
    if state.get(key) not in options:
        state[key] = options[0]
    name = left.selectbox("Model", options, key=key, help="Runs that have a checkpoint, and models that come along")
    name = name if name in fitting else options[0]
    titles = {"ema": "Averaged", "raw": "Raw"}
    if name in released:  # of which the averaged weights alone come along
        titles.pop("raw")
    if state.get("which") not in titles:
        state["which"] = "ema"
    which = right.segmented_control("Weights", list(titles), key="which", required=True, format_func=titles.__getitem__)
    saved = fitting[name]
    assert saved.meta
    return Model(name, str(saved.path), saved.meta, Spec.from_json(saved.meta["spec"]), which or "ema")


def kept(*keys: str) -> None:
    """Keep what widgets say while they are not shown, when Streamlit forgets it.

    Call it before they are shown, and again after anything else has set them.
    """
    memory, state = st.session_state.setdefault("kept", {}), st.session_state
    for key in keys:
        if key in state:
            memory[key] = state[key]
        elif key in memory:
            state[key] = memory[key]


def png(picture: np.ndarray, scale: int = 1) -> bytes:
    """Return a picture [h, w, c] as a PNG file, each pixel `scale` times as large."""
    file = io.BytesIO()
    images.to_pil(images.enlarge(picture, scale)).save(file, "PNG")
    return file.getvalue()


def url(content: bytes) -> str:
    """Return a PNG or GIF file as a data URL, for a page to show it as it is.

    Of bytes, `st.image` would make a JPEG, whose colours run, and its address could be gone before the browser asks.
    """
    kind = "gif" if content.startswith(b"GIF") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _labels(saved: runs.Saved) -> list[Any]:
    return saved.meta["spec"]["labels"] if saved.meta else []


def _fits(meta: dict[str, Any], names: tuple[str, ...], words: bool) -> bool:
    if not (spec := meta.get("spec")):  # what somebody saved with a description of their own
        return False
    return (bool(spec["labels"]) and spec["name"] != "mnist") if words else spec["name"] in names


def wait(future: Future[Any]) -> None:
    """Wait in small steps, at each of which Streamlit can end this run of the page for a newer one."""
    pulse = st.empty()
    while not future.done():
        time.sleep(0.02)
        pulse.empty()


def _tab() -> str:
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx()
    return context.session_id if context else ""
