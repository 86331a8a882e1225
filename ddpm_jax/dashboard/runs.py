"""What lies under the workdir root: runs, their state in a word, their checkpoints, and the models to sample from."""

import contextlib
import functools
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import archive, metrics, releases, runtime
from ddpm_jax.dashboard import jobs
from ddpm_jax.processes import Process

MARKS = ("checkpoints", metrics.FILE, runtime.PROGRESS, jobs.FILE)  # any of them makes a folder a run
LINE = re.compile(r'\{"step": \d+, "time": (\d{1,12}(?:\.\d+)?)[,}]')
NUMBERS = ("step", "steps", "loss", "rate", "eta_s")
EXIT_WORDS = {
    65: "refused",
    69: "refused",
    70: "diverged",
    74: "storage failed",
    75: "stopped",
    76: "killed",
    0: "done",
    -15: "stopped",
}


class Run(NamedTuple):
    """A run. state: waiting, starting, running, stopping, done, stopped, diverged, refused, storage failed, failed,
    killed, or unknown; `progress` is what its progress file says (`NUMBERS`, finite), perhaps nothing.
    """

    name: str
    folder: pathlib.Path
    state: str
    progress: dict[str, Any]
    job: jobs.Job | None

    @property
    def active(self) -> bool:
        """Whether it trains, or will."""
        return self.state in ("waiting", "starting", "running", "stopping")


class Saved(NamedTuple):
    """A checkpoint on disk: its step, place, bytes, and description (None with a sentence where it is damaged)."""

    step: int
    path: pathlib.Path
    size: int
    meta: dict[str, Any] | None
    damage: str = ""


def find_all(root: pathlib.Path) -> list[Run]:
    """Return all runs under the root, at most two folders deep, the one that changed last first."""
    folders = [folder for pattern in ("*", "*/*") for folder in root.glob(pattern) if _is_run(folder, root)]
    return [_run(folder, root) for folder in sorted(folders, key=_changed, reverse=True)]


def find(root: pathlib.Path, name: str) -> Run | None:
    """Return the run of a name that `find_all` gave: whatever else a browser sends is None, and never a path."""
    return next((run for run in find_all(root) if run.name == name), None)


def checkpoints(folder: pathlib.Path) -> list[Saved]:
    """Return the checkpoints of a run, newest first; descriptions are compared with their hashes, arrays are not."""
    directory = folder / "checkpoints"
    return [_saved(step, directory / str(step)) for step in archive.steps(directory)]


def models(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return name -> folder of all that can be sampled from: runs with a checkpoint, released models.

    The run that changed last is the first, but for those that train still.
    """
    found = sorted(find_all(root), key=lambda run: run.active)
    trained = {run.name: run.folder for run in found if archive.steps(run.folder / "checkpoints")}
    return {**trained, **{name: path for name, path in releases.models().items() if name not in trained}}


def newest(folder: pathlib.Path, *, verified: bool = False) -> Saved | None:
    """Return the newest checkpoint of a model's folder that is described as whole, None where there is none.

    With `verified` every array was compared too: a quarter of a second for 30 MB, once while no file changes.
    """
    there = [_saved(0, folder)] if (folder / "meta").exists() else checkpoints(folder)
    return next((saved for saved in there if saved.meta and not (verified and damage(saved.path))), None)


def damage(path: pathlib.Path) -> str:
    """Return "" where every array of a checkpoint is what was saved, else the sentence that says what is not."""
    try:
        files = [file.stat() for file in sorted(path.rglob("*")) if file.is_file()]
        return _damage(path, tuple((file.st_mtime_ns, file.st_size) for file in files))
    except OSError as error:  # a run that trains removes old checkpoints
        return str(error)


def scalars(folder: pathlib.Path) -> metrics.Series:
    """Return name -> (steps, values) of a run; read again only where its file has changed."""
    file = folder / metrics.FILE
    try:
        status = file.stat()
    except OSError:
        return {}
    try:
        return _scalars(folder, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, TypeError):  # a value that is no number: not a file of ours
        return {}


def clock(folder: pathlib.Path) -> np.ndarray:
    """Return the seconds since 1970 of the lines of a run's metrics, in the order they were written."""
    try:
        lines = (folder / metrics.FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return np.array([float(hit[1]) for line in lines if (hit := LINE.match(line))], np.float64)


def config(run: Run) -> dict[str, Any]:
    """Return the flat settings of a run, by its newest checkpoint; only the changes where it has none yet."""
    saved = newest(run.folder)
    if saved and saved.meta and isinstance(saved.meta.get("config"), dict):
        return runtime.flat(saved.meta["config"])
    return dict(run.job.changes) if run.job else {}


def samples(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Return step -> file of the sample sheets of a run."""
    files = sorted((folder / "samples").glob("*_[0-9]*.png"))
    return {int(file.stem.rpartition("_")[2]): file for file in files if file.stem.rpartition("_")[2].isdigit()}


def log_tail(folder: pathlib.Path, lines: int = 12) -> str:
    """Return the last lines of a job's log."""
    try:
        with open(folder / jobs.LOG, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 20_000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _run(folder: pathlib.Path, root: pathlib.Path) -> Run:
    job, said = jobs.read(folder), runtime.read_progress(folder)
    progress = {key: said[key] for key in NUMBERS if _finite(said.get(key))}
    return Run(folder.relative_to(root).as_posix(), folder, _state(folder, job, said), progress, job)


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _state(folder: pathlib.Path, job: jobs.Job | None, progress: dict[str, Any]) -> str:
    said, process = str(progress.get("status", "")), Process.read(progress) if _finite(progress.get("pid")) else None
    if job and job.state == "waiting":
        return "waiting"
    if job and job.alive and jobs.asked(folder, job) is not None:
        return "stopping"
    if process and process.alive() and said == "running":
        return "running"
    if job and job.alive:
        return "running" if _names(progress, job) else "starting"
    if job and job.code is not None:
        return EXIT_WORDS.get(job.code, "killed" if job.code < 0 else "failed")
    if said in ("done", "stopped", "diverged"):
        return said
    return "killed" if said == "running" else "stopped" if job else "unknown"


def _names(progress: dict[str, Any], job: jobs.Job) -> bool:
    return bool(job.process) and progress.get("pid") == job.process["pid"]


def _is_run(folder: pathlib.Path, root: pathlib.Path) -> bool:
    hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
    return not hidden and folder.is_dir() and any((folder / mark).exists() for mark in MARKS)


def _changed(folder: pathlib.Path) -> float:
    times = [0.0]
    for mark in MARKS:
        with contextlib.suppress(OSError):  # not there, or no more
            times.append((folder / mark).stat().st_mtime)
    return max(times)


def _saved(step: int, path: pathlib.Path) -> Saved:
    try:
        changed = (path / "meta" / "metadata").stat().st_mtime_ns
        meta, size = _meta(path, changed)
    except (OSError, runtime.Failure) as error:
        return Saved(step, path, 0, None, str(error))
    return Saved(meta.get("step", step), path, size, meta)


@functools.lru_cache(64)
def _meta(path: pathlib.Path, changed: int) -> tuple[dict[str, Any], int]:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return archive.read_meta(path), size


@functools.lru_cache(64)
def _damage(path: pathlib.Path, files: tuple[tuple[int, int], ...]) -> str:
    try:
        archive.verify(path)
    except runtime.Failure as error:
        return str(error)
    return ""


@functools.lru_cache(32)
def _scalars(folder: pathlib.Path, changed: int, size: int) -> metrics.Series:
    return metrics.read_scalars(folder)


def differences(configs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row {"setting", run: value, ...} for each key in which runs differ."""
    return [row for row in table(configs) if len({row[run] for run in configs}) > 1]


def table(configs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row {"setting", run: value, ...} for each key, all values as text."""
    keys = sorted({key for config in configs.values() for key in config})
    return [{"setting": key, **{run: _text(config.get(key)) for run, config in configs.items()}} for key in keys]


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list | tuple) else str(value)


def smoothed(values: np.ndarray, share: float) -> np.ndarray:
    """Return the running mean with weight `share` (0 to below 1) on what was before, corrected for its start."""
    kept, weight, means = 0.0, 0.0, []
    for value in values:
        if np.isfinite(value):
            kept, weight = share * kept + (1 - share) * value, share * weight + (1 - share)
        means.append(kept / weight if weight else np.nan)
    return np.array(means)
