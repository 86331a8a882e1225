"""Train: choose a configuration, change what it says, start; and the jobs that wait, run and have ended."""

import functools
import math
import pathlib
import re
import time
from concurrent.futures import CancelledError, Future
from typing import Any, cast

import streamlit as st

from ddpm_jax import configs
from ddpm_jax.dashboard import cards, jobs, runs, ui
from ddpm_jax.dashboard.sampler import Failed
from ddpm_jax.datasets import avatars, punks
from ddpm_jax.datasets.punks import splits

# What a data set is called, the files of the cache that hold it, and the splits that may be held out of it.
DATA: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "avatars": ("Embedded faces", (), avatars.SPLITS),
    "mnist": ("MNIST", ("mnist",), ("test",)),
    "punks": ("CryptoPunks", ("punks_images", "punks_labels"), tuple(splits.SPLITS)),
    "punks_images": ("CryptoPunks without labels", ("punks_images",), punks.WITHOUT_LABELS),
}
COMMON = {
    "train.steps": "Steps",
    "train.minutes": "Minutes (0: all steps)",
    "train.batch_size": "Batch size",
    "optimizer.learning_rate": "Learning rate",
    "data.holdout": "Held out of training",
    "seed": "Seed",
    "sampling.steps": "Sampling steps",
    "sampling.guidance": "Guidance",
}
EMBEDDED: tuple[str, dict[str, Any]] = ("avatars_cfg", {"train.minutes": 2.2})
COLUMNS = 4  # of widgets
TWICE_S = 3.0  # an identical launch within this time is the second click of a double click


def show() -> None:
    """Show the page."""
    st.title("Train")
    if jobs.neglected(ui.workdir()):
        jobs.see_to_queue(ui.workdir())
    if not any(run.job for run in runs.find_all(ui.workdir())):
        st.write("Nothing has been trained here yet. The embedded faces need no download; two minutes are enough.")
        if st.button("Train the embedded faces (2 minutes)", type="primary", icon=":material/model_training:"):
            _launch(*EMBEDDED)
    form, below = st.container(), st.container()
    with below:
        cards.say()
        every = 2 if any(run.active for run in runs.find_all(ui.workdir())) else 10
        st.fragment(cards.show, run_every=every)()
    cards.confirm()
    with form:
        _new()
        _finish()


def _new() -> None:
    """Show the choice of a configuration and its options."""
    found = _options()
    if not found:
        st.button("Try again", icon=":material/refresh:")
        return
    ui.kept("config")
    name = st.selectbox("Configuration", list(found), format_func=lambda name: _named(found[name]), key="config")
    config = found[name if name in found else next(iter(found))]
    values = config["values"]
    ui.kept(*(f"{config['name']}/{key}" for key in values))
    _about(config)
    with st.container(border=True):
        chosen = _widgets(config, {key: title for key, title in COMMON.items() if key in values})
        # Free text is names and paths: a browser has no say in them.
        typed = [key for key in values if key in config["choices"] or not isinstance(values[key], str)]
        others = [key for key in typed if key not in COMMON]
        with st.expander("All settings", icon=":material/tune:"):
            for section in dict.fromkeys(key.partition(".")[0] for key in others):
                st.markdown(f"**{section.capitalize()}**")
                names = {key: _title(key) for key in others if key.partition(".")[0] == section}
                chosen |= _widgets(config, names)
        changes = {key: value for key, value in chosen.items() if value != values[key]}
        row = st.container(horizontal=True, vertical_alignment="center")
        start = row.button(
            "Start training", type="primary", icon=":material/play_arrow:", disabled=None in chosen.values()
        )
        row.caption("; ".join(f"{key} {value}" for key, value in changes.items()) or "As shipped, nothing changed")
    if start:
        _launch(config["name"], changes)


def _about(config: dict[str, Any]) -> None:
    """Show what a configuration is and what it needs."""
    values, parts = config["values"], paragraphs(config["about"])
    title, files, _ = DATA.get(values["data.name"], (values["data.name"], (), ()))
    cached = all(pathlib.Path(ui.data_root(), "cache", f"{file}.npz").is_file() for file in files)
    where = "needs no download" if not files else "already here" if cached else "will be downloaded first"
    st.markdown(parts[0])
    if len(parts) > 1:
        st.caption(parts[-1])
    with st.container(horizontal=True):
        st.badge(f"{title}: {where}", icon=":material/database:", color="green" if cached else "orange")
        st.badge(
            f"{values['train.steps']:,} steps of {values['train.batch_size']}", icon=":material/steps:", color="gray"
        )


def paragraphs(about: str) -> list[str]:
    """Return the paragraphs of a docstring, without those that are a command or announce one."""
    parts = [part for part in re.split(r"\n\s*\n", about) if part and not part.startswith((" ", "Run it"))]
    return [" ".join(part.split()) for part in parts] or [""]


def _widgets(config: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    """Show a widget for each key and return key -> value, None for what cannot be read."""
    found, columns = {}, []
    for place, (key, title) in enumerate(titles.items()):
        if place % COLUMNS == 0:  # a row at a time: on a narrow screen they follow each other in this order
            columns = st.columns(COLUMNS)
        with columns[place % COLUMNS]:
            found[key] = _widget(config, key, title)
    return found


def _widget(config: dict[str, Any], key: str, title: str) -> Any:
    value, unique = config["values"][key], f"{config['name']}/{key}"
    choices = ("", *DATA[config["values"]["data.name"]][2]) if key == "data.holdout" else config["choices"].get(key)
    about = _helps().get(key)
    # A start value given here and not to the widget: what is kept must not be called a second one.
    st.session_state.setdefault(unique, ", ".join(map(str, value)) if _is_text(value) else value)
    if choices:
        options = list(dict.fromkeys([value, *choices]))
        said = st.selectbox(title, options, key=unique, help=about, format_func=lambda word: word or "nothing")
        return said if said in options else value
    if isinstance(value, bool):
        return st.toggle(title, key=unique, help=about)
    if _is_text(value):
        return numbers(st.text_input(title, key=unique, help=about, max_chars=60))
    if isinstance(value, list):
        return list(cast(tuple[float, float], st.slider(title, 0.0, 1.0, key=unique, help=about, step=0.05)))
    low, high = config["ranges"].get(key, (0, 10**9))
    if isinstance(value, int):
        return st.number_input(title, int(low), int(high), step=_step(value), key=unique, help=about)
    step = 10.0 ** (math.floor(math.log10(value)) - 1) if value else 0.1
    return st.number_input(title, float(low), float(high), step=step, format="%g", key=unique, help=about)


def _is_text(value: Any) -> bool:
    """Say whether a value is whole numbers, which are typed; two times are a slider."""
    return isinstance(value, list) and not any(isinstance(item, float) for item in value)


def numbers(text: str) -> list[int] | None:
    """Return the whole numbers of "1, 2, 2" ([] where there are none), or None after saying what is wrong."""
    if re.fullmatch(r"\s*(\d{1,5}\s*(,\s*\d{1,5}\s*){0,7})?", text, re.ASCII):
        return [int(number) for number in re.findall(r"\d+", text, re.ASCII)]
    st.error(f"{text[:20]!r} is no list of whole numbers; give at most 8, as in 1, 2, 2")
    return None


def _launch(name: str, changes: dict[str, Any]) -> None:
    """Have a configuration checked and then put into the queue, once for a double click; `_finish` awaits it.

    The second click ends the run of the page that the first began, wherever that waits: what was begun is remembered
    in the same breath, and goes on without the page.
    """
    state, asked = st.session_state, (name, repr(sorted(changes.items())))
    pending = state.setdefault("pending", {})
    before, at = state.get("launched", (None, 0.0))
    if asked in pending or (before == asked and time.monotonic() - at < TWICE_S):
        return
    changes, launched = {**changes, "data.root": ui.data_root()}, Future()
    add = functools.partial(_add, launched, ui.workdir(), name, changes)
    checked = ui.start("check", part=f"check {asked}", name=name, changes=changes)
    pending[asked] = launched
    checked.add_done_callback(add)


def _add(
    launched: Future[pathlib.Path], root: pathlib.Path, name: str, changes: dict[str, Any], checked: Future[Any]
) -> None:
    """Put what was checked into the queue and say so to `launched`; from the thread that has the answer."""
    try:
        checked.result()
        launched.set_result(jobs.add(root, name, changes))
    except (Failed, CancelledError) as error:
        launched.set_exception(error)
    except Exception as error:  # such as a disk that is full: this thread has no other way to say it
        launched.set_exception(Failed(f"The run cannot start: {error}"))


def _finish() -> None:
    """Wait for what was launched, in this run of the page or in one that was ended; then the page starts over."""
    state = st.session_state
    pending = state.get("pending", {})
    for asked, launched in list(pending.items()):
        folder = ui.result(launched)
        if folder is not None:
            state["launched"] = asked, time.monotonic()
            state["said"] = f"{folder.name} is in the queue."
        del pending[asked]  # last: each line before may be where this run ends
        if folder is not None:
            st.rerun()


def _options() -> dict[str, dict[str, Any]]:
    """Return name -> shipped configuration; asked once a server, for they never change."""
    kept = _kept_options()
    if not kept:
        kept |= {config["name"]: config for config in ui.ask("options", part="options") or ()}
    return kept


@st.cache_resource
def _kept_options() -> dict[str, dict[str, Any]]:
    return {}


@functools.cache
def _helps() -> dict[str, str]:
    """Return what configs/default.py says of each key: the comment behind it."""
    text = pathlib.Path(configs.find("default")).read_text(encoding="utf-8")
    return dict(re.findall(r"^    config\.([\w.]+) = .*?  # (.*)$", text, re.MULTILINE))


def _named(config: dict[str, Any]) -> str:
    """Return what the choice shows: the first words of what a configuration is."""
    return " ".join(re.split("[.;]", config["about"], maxsplit=1)[0].split()) or config["name"]


def _title(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ").capitalize()


def _step(value: int) -> int:
    """Return the step of a whole number's widget: a tenth of its size."""
    return max(1, 10 ** (len(str(value)) - 2))
