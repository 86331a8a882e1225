"""Monitor: every run under the workdir, while it trains and afterwards; several laid over each other."""

import functools
from collections.abc import Callable

import numpy as np
import streamlit as st

from ddpm_jax.dashboard import cards, charts, inspection, runs, ui
from ddpm_jax.dashboard.runs import Run

MOST = len(charts.COLOURS)  # runs laid over each other
FIRST = ("loss", "eval/loss", "eval/exact", "images_per_second")  # the curves that are shown unless others are chosen
SHARES = ("eval/exact", "eval/words")
REFRESH_S = 4.0
# What other pages and views do not make it forget. Start values go into the state, not to the widgets: there can be
# only one of them, and what was kept is one.
KEPT = ("runs", "view", "curves", "smoothing", "window", "log", "noise_smoothing", "noise_log", "one", "search")


def show() -> None:
    """Show the page."""
    st.title("Monitor")
    found = {run.name: run for run in runs.find_all(ui.workdir())}
    if not found:
        st.info(
            "There is no run yet. The Train page starts one; it appears here with its first step.",
            icon=":material/info:",
        )
        st.caption(f"Runs are looked for in {ui.workdir()}, at most two folders deep.")
        return
    ui.kept(*KEPT)
    state = st.session_state
    wanted = st.query_params.get_all("run")  # an address, which others may be given
    asked = [name for name in wanted if name in found]
    if "runs" not in state and len(asked) < len(wanted):
        missing = ", ".join(name[:60] for name in wanted if name not in found)
        st.warning(f"There is no run {missing} here.", icon=":material/warning:")
    chosen = [name for name in state.get("runs", asked) if name in found]
    if chosen != state.get("runs"):
        state["runs"] = chosen[:MOST] or list(found)[:1]
    names = st.multiselect(
        "Runs",
        list(found),
        max_selections=MOST,
        key="runs",
        format_func=lambda name: f"{name} ({found[name].state})" if name in found else name,
        placeholder="Choose one or several",
    )
    names = [name for name in names if name in found]
    if names != st.query_params.get_all("run"):
        st.query_params["run"] = names
    if not names:
        st.info("Choose a run, or several to lay over each other.", icon=":material/info:")
        return
    if state.get("view") not in VIEWS:
        state["view"] = "Curves"
    view = st.segmented_control("Show", list(VIEWS), key="view", required=True, label_visibility="collapsed")
    every = REFRESH_S if any(found[name].active for name in names) and view in LIVE else None
    st.fragment(functools.partial(_live, names, view if view in VIEWS else "Curves"), run_every=every)()


def _live(names: list[str], view: str) -> None:
    """Show a view of runs as they are at this moment; one that was deleted meanwhile is left out."""
    ui.kept(*KEPT)  # here too: what changes within a view runs this part alone
    found = {run.name: run for run in runs.find_all(ui.workdir())}
    chosen = [found[name] for name in names if name in found]
    if not chosen:
        st.info("These runs are gone; choose others.", icon=":material/info:")
        return
    for run in chosen:
        _summary(run)
    VIEWS[view](chosen)


def _summary(run: Run) -> None:
    """Show a run's state, how far it is and how fast, in a line."""
    series, now = runs.scalars(run.folder), run.progress
    parts = []
    if "step" in now and now.get("steps"):
        parts.append(f"step {now['step']:,.0f} of {now['steps']:,.0f}")
    if run.state == "running" and "eta_s" in now:
        parts.append(f"{cards.clock(now['eta_s'])} left")
    for name, title, form in (("loss", "loss", ".4g"), ("eval/exact", "exact", ".1%")):
        if name in series:
            parts.append(f"{title} {series[name][1][-1]:{form}}")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{run.name}**", width="content")
        cards.badge(run.state)
        st.caption(" · ".join(parts) or "nothing measured yet", width="content")


def _curves(chosen: list[Run]) -> None:
    series = {run.name: runs.scalars(run.folder) for run in chosen}
    names = sorted({name for found in series.values() for name in found})
    plain = [name for name in names if not name.startswith(("eval/exact/", "eval/words/", "error/"))]
    if not names:
        st.info("Nothing has been measured yet; the first values come after log.every steps.", icon=":material/info:")
        return
    state = st.session_state
    kept = [name for name in state.get("curves", ()) if name in names]
    if "curves" not in state or kept != state["curves"]:
        state["curves"] = kept or [name for name in FIRST if name in names] or plain[:4]
    state.setdefault("window", (0, 100))
    state.setdefault("log", "losses")
    with st.container(border=True):
        shown = st.multiselect("Curves", plain + [name for name in names if name not in plain], key="curves")
        one, two, three = st.columns(3, gap="medium")
        smoothing = one.slider("Smoothing", 0.0, 0.99, step=0.01, key="smoothing", help="Weight of what was before")
        last = max(int(steps[-1]) for found in series.values() for steps, _ in found.values())
        two.slider("Steps, in percent", 0, 100, key="window", help="Of all curves together")
        log = three.segmented_control("Log scale", ("losses", "all", "none"), key="log", required=True)
    low, high = (last * part / 100 for part in state["window"])
    shown, columns = [name for name in shown if name in names], []
    for place, name in enumerate(shown):
        if place % 2 == 0:  # a row at a time: on a narrow screen they follow each other in this order
            columns = st.columns(min(2, len(shown)))
        lines = {run: _within(*found[name], low, high) for run, found in series.items() if name in found}
        lines = {run: line for run, line in lines.items() if len(line[0])}
        with columns[place % 2]:
            st.markdown(f"**{_title(name)}**")
            if not lines:
                st.caption("Nothing was measured in these steps.")
                continue
            colours = [charts.COLOURS[list(series).index(run)] for run in lines]
            logs, share = log == "all" or (log == "losses" and "loss" in name), name.startswith(SHARES)
            chart = charts.curves(
                name, lines, smoothing=smoothing, log=logs, share=share, within=(low, high), colours=colours
            )
            st.altair_chart(chart, key=f"curve/{name}", alt=f"{_title(name)} over steps of {', '.join(lines)}")


def _words(chosen: list[Run]) -> None:
    counting = [run for run in chosen if any(name.startswith(SHARES) for name in runs.scalars(run.folder))]
    run = _one(counting or chosen)
    series = runs.scalars(run.folder)
    kinds = {"eval/exact": "drawn exactly", "eval/words": "read by the classifier"}
    found = {title: charts.by_word(series, name) for name, title in kinds.items()}
    found = {title: shares for title, shares in found.items() if shares}
    if not found:
        why = "Nothing is counted yet" if run.active else "This run counts no words"
        when = "every `log.exact_every` steps, where there are labels and held-out pictures"
        st.info(f"{why}: that is done {when}.", icon=":material/info:")
        return
    for column, (title, shares) in zip(st.columns(len(found), gap="large"), found.items(), strict=True):
        with column:
            st.markdown(f"**Held-out pictures with the word, {title}**")
            mean = np.mean(list(shares.values()))
            st.caption(f"{len(shares)} words, mean {mean:.1%}, {sum(share == 1 for share in shares.values())} at 100%")
            st.altair_chart(charts.bars(shares), key=f"words/{title}", alt=f"Share of pictures {title}, by word")


def _noise(chosen: list[Run]) -> None:
    run = _one(chosen)
    lines = charts.levels(runs.scalars(run.folder))
    if not lines:
        st.info("This run has not measured its loss by noise level yet.", icon=":material/info:")
        return
    st.markdown("**Loss by noise level**")
    st.caption(
        "Each line is the mean over the examples whose time t, from no noise at 0 to pure noise at 1, lay there."
    )
    one, two = st.columns(2, vertical_alignment="bottom")
    st.session_state.setdefault("noise_smoothing", 0.6)
    st.session_state.setdefault("noise_log", True)
    smoothing = one.slider("Smoothing", 0.0, 0.99, step=0.01, key="noise_smoothing")
    log = two.toggle("Log scale", key="noise_log")
    chart = charts.curves("loss", lines, smoothing=smoothing, log=log, height=360, colours=charts.NOISE)
    st.altair_chart(chart, key="noise", alt=f"Loss of {run.name} over steps, by noise level")


def _samples(chosen: list[Run]) -> None:
    found = {run.name: runs.samples(run.folder) for run in chosen}
    steps = sorted({step for files in found.values() for step in files})
    if not steps:
        st.info("No samples yet; the first come after log.sample_every steps.", icon=":material/info:")
        return
    step = st.select_slider("Step", steps, steps[-1], key=f"step/{','.join(found)}") if len(steps) > 1 else steps[0]
    shown = {name: files for name, files in found.items() if files}
    for column, (name, files) in zip(st.columns(max(2, min(len(shown), 3))) * len(shown), shown.items(), strict=False):
        nearest = min(files, key=lambda there: abs(there - step))
        picture = cards.sheet(files[nearest], pixels=480)
        with column:
            st.caption(f"{name}, step {nearest:,}")
            if picture is None:
                st.warning("This picture is not whole.", icon=":material/broken_image:")
            else:
                st.image(ui.url(picture), alt=f"Samples of {name} at step {nearest}")


def _one(chosen: list[Run]) -> Run:
    """Return the run that a view of a single one shows; with several, the user's choice."""
    names = [run.name for run in chosen]
    name = st.selectbox("Run", names, key="one") if len(names) > 1 else names[0]
    return next((run for run in chosen if run.name == name), chosen[0])


def _within(steps: np.ndarray, values: np.ndarray, low: float, high: float) -> charts.Series:
    kept = (steps >= low) & (steps <= high)
    return steps[kept], values[kept]


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


TITLES = {
    "loss": "Loss",
    "eval/loss": "Held-out loss",
    "eval/exact": "Exact match",
    "eval/words": "All words right",
    "images_per_second": "Images per second",
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "data_wait": "Share of time waiting for data",
}
VIEWS: dict[str, Callable[[list[Run]], None]] = {
    "Curves": _curves,
    "Words": _words,
    "Noise levels": _noise,
    "Samples": _samples,
    "Settings": inspection.settings,
    "Checkpoints": lambda chosen: inspection.checkpoints(_one(chosen)),
    "Speed and system": inspection.system,
    "TensorBoard": lambda _: inspection.board(),
}
LIVE = ("Curves", "Words", "Noise levels", "Samples", "Checkpoints", "Speed and system")
