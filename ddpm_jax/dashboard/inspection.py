"""The views of the Monitor page that are tables: settings, checkpoints, speed, the machine; and TensorBoard."""

import shutil
import subprocess
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from ddpm_jax import archive, runtime
from ddpm_jax.dashboard import cards, runs, tensorboard, ui
from ddpm_jax.dashboard.runs import Run, Saved

GPU = ("nvidia-smi", "--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")


def settings(chosen: list[Run]) -> None:
    """Show in which settings runs differ, and all settings of them."""
    configs = {run.name: runs.config(run) for run in chosen}
    if len(configs) > 1:
        rows = runs.differences(configs)
        st.markdown(f"**Differences: {len(rows)} of {len({key for c in configs.values() for key in c})} settings**")
        if rows:
            st.dataframe(pd.DataFrame(rows), hide_index=True, height="content")
    wanted = st.text_input("Search all settings", key="search", placeholder="such as learning_rate", max_chars=60)
    rows = runs.table(configs)
    found = [row for row in rows if wanted.strip().lower() in row["setting"].lower()]
    if not rows:
        st.info("The settings are known once there is a checkpoint.", icon=":material/info:")
    elif not found:
        st.caption(f"None of {len(rows)} settings has that in its name.")
    else:
        st.dataframe(pd.DataFrame(found), hide_index=True)


def checkpoints(run: Run) -> None:
    """Show the checkpoints of a run, and what a look at every byte of one says."""
    found = runs.checkpoints(run.folder)
    if not found:
        st.info("No checkpoint yet; the first comes after checkpoint.every steps.", icon=":material/info:")
        return
    st.dataframe(pd.DataFrame([_row(saved) for saved in found]), hide_index=True, height="content")
    for saved in found:
        if saved.damage:
            st.error(saved.damage, icon=":material/error:")
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    steps = [saved.step for saved in found]
    step = left.selectbox("Checkpoint of step", steps, key=f"verify/{run.name}")
    saved = next((saved for saved in found if saved.step == step), found[0])
    if right.button("Verify every array", icon=":material/verified:", help="Reads it all and compares checksums"):
        with st.spinner("Reading ..."):
            sentence = verdict(saved)
        st.session_state["verified"] = (str(saved.path), sentence)
    path, sentence = st.session_state.get("verified", ("", ""))
    if path == str(saved.path):
        damaged = sentence is not None
        show = st.error if damaged else st.success
        show(sentence or f"Whole: every array of step {saved.step:,} is what was saved.", icon=":material/verified:")


def verdict(saved: Saved) -> str | None:
    """Return None where every array of a checkpoint is what was saved, else the sentence that says what is not."""
    try:
        archive.verify(saved.path)
    except (runtime.Failure, OSError) as error:
        return str(error)
    return None


def system(chosen: list[Run]) -> None:
    """Show how well the time of runs was used, and what the machine has left."""
    st.markdown("**Speed**")
    rows = [row for run in chosen if (row := goodput(run))]
    if rows:
        table = pd.DataFrame(rows).set_index("run").T.rename_axis("")
        st.dataframe(table, height="content")
    else:
        st.caption("Nothing has been measured yet.")
    st.markdown("**Machine**")
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(ui.workdir())
    with st.container(horizontal=True):
        st.metric("Processor", f"{psutil.cpu_percent(interval=0.1):.0f}%", f"{psutil.cpu_count()} cores", **PLAIN)
        st.metric("Memory", f"{memory.percent:.0f}%", f"{_size(memory.available)} free", **PLAIN)
        st.metric("Disk of the runs", f"{disk.used / disk.total:.0%}", f"{_size(disk.free)} free", **PLAIN)
        for name, used, held, total in _gpus():
            st.metric(name, f"{used}%", f"{held} of {total} MiB", **PLAIN)


def goodput(run: Run) -> dict[str, str]:
    """Return how a run used its time, as texts; {} where nothing was measured.

    Training time is steps x batch / rate of each window; the rest of the time between the first and the last line went
    into evaluation, samples, saving and pauses.
    """
    series, times = runs.scalars(run.folder), runs.clock(run.folder)
    if "images_per_second" not in series or not len(times):
        return {}
    at, rates = series["images_per_second"]
    good = np.isfinite(rates) & (rates > 0)
    at, rates = at[good], rates[good]
    if not len(rates):
        return {}
    found = {
        "run": run.name,
        "Images/s now": f"{rates[-1]:,.0f}",
        "Images/s, median": f"{np.median(rates):,.0f}",
        "Wall time": cards.clock(float(times.max() - times.min())),
    }
    if "data_wait" in series:
        found["Waiting for data"] = f"{np.nanmean(series['data_wait'][1]):.2%} of the time"
    batch = runs.config(run).get("train.batch_size")
    wall = float(times.max() - times.min())
    if isinstance(batch, int) and wall > 0 and len(at) > 1:
        trained = float((np.diff(at) * batch / rates[1:]).sum())
        found["Training"] = f"{min(trained / wall, 1):.0%} of the wall time"
    return found


def board() -> None:
    """Show TensorBoard for all runs, once it was asked for."""
    held = _board()
    if not held.alive():
        st.write(
            "TensorBoard reads the events of all runs. It listens on this machine alone and ends with the dashboard."
        )
        if not st.button("Start TensorBoard", type="primary", icon=":material/monitoring:"):
            return
        with st.spinner("TensorBoard starts ..."):
            held.start()
        if held.alive():
            st.rerun(scope="fragment")
        st.error("TensorBoard did not start; is it installed?", icon=":material/error:")
        return
    st.link_button("Open in a tab of its own", held.address, icon=":material/open_in_new:")
    st.iframe(held.address, height=800, alt="TensorBoard")


@st.cache_resource
def _board() -> tensorboard.Board:
    """Return the one TensorBoard of this server."""
    return tensorboard.Board(ui.workdir())


def _row(saved: Saved) -> dict[str, Any]:
    meta = saved.meta or {}
    measured = meta.get("metrics")
    scalars = measured if isinstance(measured, dict) else {}
    values = {
        name: f"{value:.4g}"
        for name, value in scalars.items()
        if isinstance(value, int | float) and name.count("/") < 2
    }
    state = "damaged" if saved.damage else "description whole"
    about = {"step": saved.step, "state": state, "size": _size(saved.size)}
    return {**about, **values, "SHA-256": str(meta.get("sha256", ""))[:12]}


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "KB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _gpus() -> list[list[str]]:
    """Return [name, use, memory used, memory] of each GPU of NVIDIA; [] where there is none, or no word of it."""
    if not shutil.which(GPU[0]):
        return []
    try:
        text = subprocess.run(GPU, capture_output=True, text=True, timeout=3, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[word.strip() for word in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if len(row) == 4]


PLAIN: dict[str, Any] = {"delta_color": "off", "delta_arrow": "off", "border": True}
