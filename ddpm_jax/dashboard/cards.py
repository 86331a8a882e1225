"""The cards of jobs: how far each is, what it draws, and what can be done with it; drawn anew every few seconds."""

import pathlib
from collections.abc import Callable
from typing import Literal

import streamlit as st

from ddpm_jax import images, runtime
from ddpm_jax.dashboard import charts, jobs, runs, ui
from ddpm_jax.dashboard.runs import Run

LOOKS: dict[str, tuple[Literal["gray", "blue", "green", "orange", "red"], str]] = {
    "waiting": ("gray", "schedule"),
    "starting": ("blue", "hourglass_top"),
    "running": ("green", "play_arrow"),
    "stopping": ("orange", "hourglass_bottom"),
    "done": ("blue", "check"),
    "stopped": ("orange", "stop"),
    "unknown": ("gray", "help"),
}
WORDS = {
    "starting": "Starting: the data are read and the net is compiled.",
    "running": "Training.",
    "stopping": "Asked to stop: it saves its state first.",
    "done": "Finished.",
    "stopped": "Stopped; Resume goes on from the last checkpoint.",
    "diverged": "The loss was no longer finite; try a smaller learning rate.",
    "storage failed": "Something could not be written or read back.",
    "killed": "It was ended from outside; Resume goes on from the last checkpoint.",
}
ABOUT_STOP = f"Saves first, which takes a few seconds; after {jobs.AGAIN_S:.0f} seconds it can be ended without saving"
ENDED = 6  # jobs that are shown beside those that run and wait
PICTURED = 2  # of these, those with curves and samples: all is drawn anew every few seconds
SHEET = 240  # pixels that a sheet of samples is enlarged to, at least


def show() -> None:
    """Show the jobs of the workdir: those that run, those that wait in their order, those that have ended."""
    found = [run for run in runs.find_all(ui.workdir()) if run.job]
    if not found:
        return
    queue = [folder.name for folder in jobs.waiting(ui.workdir())]
    going = [run for run in found if run.active and run.state != "waiting"]
    waiting = sorted((run for run in found if run.name in queue), key=lambda run: queue.index(run.name))
    ended = [run for run in found if not run.active]
    st.header("Jobs")
    for run in going:
        _card(run, "", [_pictures])
    for run in waiting:
        place = queue.index(run.name) + 1
        _card(run, f"{place} of {len(queue)} in the queue" if place > 1 else "Next in the queue", [])
    for place, run in enumerate(ended[:ENDED]):
        _card(run, "", [_pictures] if place < PICTURED else [])
    if len(ended) > ENDED:
        st.caption(f"{len(ended) - ENDED} older ones are on the Monitor page.")


def badge(state: str) -> None:
    """Show the state of a run, in a colour."""
    colour, icon = LOOKS.get(state, ("red", "error"))
    st.badge(state, color=colour, icon=f":material/{icon}:")


def clock(seconds: float) -> str:
    """Return a duration in words: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def sheet(path: pathlib.Path, pixels: int = SHEET) -> bytes | None:
    """Return a sheet of samples as a PNG with square pixels, None where the file is not (or no longer) whole."""
    try:
        picture = images.read_png(path)
    except runtime.Failure:
        return None
    return ui.png(picture, max(1, round(pixels / picture.shape[1])))


def say() -> None:
    """Show what came of the last action, once."""
    if said := st.session_state.pop("said", ""):
        st.success(said, icon=":material/check:")
    if said := st.session_state.pop("refused", ""):
        st.error(said, icon=":material/error:")


def confirm() -> None:
    """Ask before a run is deleted, if that was wanted. For the page: what a fragment opens, its next turn closes."""
    if name := st.session_state.get("deleting", ""):
        _confirm(name)


def _decided() -> None:
    st.session_state.pop("deleting", None)


@st.dialog("Delete this run?", on_dismiss=_decided)
def _confirm(name: str) -> None:
    st.write(f"**{name}**, its checkpoints and its logs move to the trash folder `{jobs.TRASH}` of the workdir.")
    row = st.container(horizontal=True)
    if row.button("Keep it", key="delete_not", on_click=_decided):
        st.rerun()
    if row.button("Move to trash", type="primary", icon=":material/delete:", key="delete_really"):
        _decided()
        run = runs.find(ui.workdir(), name)
        try:
            if run is None:
                raise runtime.BadInput(f"there is no run {name[:60]!r} any more")
            place = jobs.delete(run.folder, ui.workdir())
            st.session_state["said"] = f"{name} is in the trash: {place}"
        except (OSError, runtime.Failure) as error:
            st.session_state["refused"] = str(error)
        st.rerun()


def _card(run: Run, words: str, parts: list[Callable[[Run], None]]) -> None:
    """Show a job: what is said of it, further parts, and its buttons."""
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        with head:
            st.markdown(f"**{run.name}**", width="content")
            badge(run.state)
        _progress(run, words or WORDS.get(run.state, ""))
        if run.state in ("refused", "failed", "storage failed", "diverged", "killed") and (
            log := runs.log_tail(run.folder)
        ):
            st.code(log.splitlines()[-1][:400], language=None, wrap_lines=True)
        for part in parts:
            part(run)
        _buttons(run)


def _progress(run: Run, words: str) -> None:
    now = run.progress
    step, steps = now.get("step"), now.get("steps")
    if step is not None and steps:
        left = f" · {clock(now['eta_s'])} left" if run.state == "running" and "eta_s" in now else ""
        share = f"step {step:,.0f} of {steps:,.0f}"
        st.progress(min(max(step / steps, 0.0), 1.0), text=f"{share}{left}")
    parts = [words] if words else []
    if "loss" in now:
        parts.append(f"loss {now['loss']:.4g}")
    if "rate" in now:
        parts.append(f"{now['rate']:.3g} steps/s")
    st.caption(" · ".join(parts))


def _pictures(run: Run) -> None:
    """Show the curves of loss and exact match, and the newest samples."""
    series, sheets = runs.scalars(run.folder), runs.samples(run.folder)
    shown = [(name, title) for name, title in (("loss", "Loss"), ("eval/exact", "Exact match")) if name in series]
    shown = [pair for pair in shown if pair[0] != "loss" or len(series["loss"][0]) > 1]
    picture = sheet(sheets[max(sheets)]) if sheets else None
    columns = st.columns(max(2, len(shown) + bool(picture))) if shown or picture else []
    for column, (name, title) in zip(columns, shown, strict=False):
        steps, values = series[name]
        with column:
            st.caption(title if name == "loss" else f"{title}: {values[-1]:.1%} of held-out labels")
            chart = charts.curves(
                title, {run.name: (steps, values)}, log=name == "loss", share=name != "loss", height=190
            )
            st.altair_chart(chart, key=f"chart/{run.name}/{name}", alt=f"{title} of {run.name} over steps")
    if picture is not None:
        with columns[len(shown)]:
            st.caption(f"Samples at step {max(sheets):,}")
            st.image(ui.url(picture), alt=f"Samples of {run.name} at step {max(sheets)}")


def _buttons(run: Run) -> None:
    row = st.container(horizontal=True)
    if run.active:
        waits, since = run.state == "waiting", jobs.asked(run.folder, run.job) if run.job else None
        saves = since is not None and since < jobs.AGAIN_S  # until then a click would do nothing: see `jobs.stop`
        asked = "Stopping ..." if saves else "Stop at once"
        title = "Take out of the queue" if waits else "Stop" if since is None else asked
        about = None if waits else ABOUT_STOP
        row.button(
            title, icon=":material/stop:", key=f"stop/{run.name}", on_click=_stop, args=(run.name,), help=about,
            disabled=saves,
        )  # fmt: skip
        return
    if run.state != "done":
        row.button("Resume", icon=":material/resume:", key=f"resume/{run.name}", on_click=_resume, args=(run.name,))
    if row.button("Delete", icon=":material/delete:", key=f"delete/{run.name}"):
        st.session_state["deleting"] = run.name
        st.rerun()


def _stop(name: str) -> None:
    run = runs.find(ui.workdir(), name)
    if run is None or not jobs.stop(run.folder):
        st.toast(f"{name} is not running any more.", icon=":material/info:")


def _resume(name: str) -> None:
    if run := runs.find(ui.workdir(), name):
        jobs.resume(run.folder, ui.workdir())
