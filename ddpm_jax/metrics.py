"""What a run reports: TensorBoard events through CLU, the scalars also as lines of `metrics.jsonl`; both read back."""

import itertools
import json
import math
import os
import pathlib
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ddpm_jax import events, runtime

FILE = "metrics.jsonl"
_STAND_IN = "clu.metric_writers.summary_writer"

PathLike = str | os.PathLike[str]
Series = dict[str, tuple[np.ndarray, np.ndarray]]


class Writer:
    """Writes the metrics of one run into its workdir; a resumed run passes the step that it continues from.

    Everything later than `step` is dropped from the workdir first, so a step that is trained twice is reported once.
    A run that starts fresh, at step 0, drops nothing: the logs that it finds get other names. Call `flush` before a
    checkpoint is saved: what a resume keeps must be on disk by then. With `logs_only` (all processes but the first)
    values only go to the log.
    """

    def __init__(self, workdir: PathLike, *, step: int = 0, logs_only: bool = False):
        clu = _import_clu()
        self._lines: _Lines | None = None
        if logs_only:
            self._events = clu.create_default_writer(just_logging=True, asynchronous=False)
            return
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
        if step:
            events.cut_back(workdir, step)
        else:
            _set_aside(pathlib.Path(workdir))
        self._events = clu.create_default_writer(os.fspath(workdir), asynchronous=False)
        self._events.write_summaries(step + 1, {}, {"session": "start"})
        self._lines = _Lines(pathlib.Path(workdir) / FILE, step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write one value for each name; call it once a step and name."""
        values = {name: float(value) for name, value in scalars.items()}
        self._events.write_scalars(step, values)
        if self._lines is not None:
            self._lines.write(step, values)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Write uint8 images [n, h, w, c] under each name."""
        for name, array in images.items():
            if array.dtype != np.uint8 or array.ndim != 4:
                raise ValueError(f"images {name!r} are {array.dtype}{list(array.shape)}; give uint8 [n, h, w, c]")
        self._events.write_images(step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Write Markdown text under each name."""
        self._events.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Write the flat settings of the run for TensorBoard's HPARAMS page."""
        self._events.write_hparams(hparams)

    def flush(self) -> None:
        """Return when everything written so far is on disk (by itself TensorBoard waits two minutes)."""
        self._events.flush()
        if self._lines is not None:
            self._lines.flush()

    def close(self) -> None:
        """Flush and let go of the files."""
        self._events.close()
        if self._lines is not None:
            self._lines.close()


def _set_aside(workdir: pathlib.Path) -> None:
    """Rename the logs of an earlier run to `*.old-<n>*`, which neither TensorBoard nor this file reads; say so."""
    logs = [*workdir.glob(FILE), *events.files(workdir)]
    mark = next(f"old-{n}" for n in itertools.count() if not any(workdir.glob(f"*.old-{n}*")))
    for log in logs:
        # TensorBoard reads whatever has "tfevents" in its name.
        name = f"{FILE}.{mark}" if log.name == FILE else log.name.replace("tfevents", mark)
        log.rename(workdir / name)
    if logs:
        logging.info("the logs of an earlier run in %s are kept, as *.%s*", workdir, mark)


class _Lines:
    """`metrics.jsonl`: a JSON object a line, `step`, `time` and the scalars."""

    def __init__(self, path: pathlib.Path, step: int):
        rows = [row for row in _rows(path) if row["step"] <= step]
        runtime.write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # JSON has no nan: as text it stays legible to other programs, and float() reads it back.
        plain = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **plain}) + "\n")
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the whole rows of a file; the last line of a killed run may be torn, and is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def read_scalars(workdir: PathLike) -> Series:
    """Return name -> (steps, values) as `metrics.jsonl` has them; empty where there is no such file."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(pathlib.Path(workdir) / FILE):
        for name in row.keys() - {"step", "time"}:
            points.setdefault(name, []).append((row["step"], float(row[name])))
    return _series(points)


def read_events(workdir: PathLike) -> Series:
    """Return name -> (steps, values) as TensorBoard's EventAccumulator has the scalars."""
    return _series(events.read_scalars(workdir))


def _series(points: Mapping[str, Sequence[tuple[int, float]]]) -> Series:
    return {
        name: (np.array([step for step, _ in pairs], np.int64), np.array([value for _, value in pairs], np.float64))
        for name, pairs in sorted(points.items())
    }


def format_progress(step: int, steps: int, loss: float, rate: float) -> str:
    """Return one line for a terminal: `step 1200/5000 (24%)  loss 0.0312  8.1 steps/s  7:49 left`."""
    left = (steps - step) / rate if rate > 0 else math.inf
    minutes, seconds = divmod(round(left), 60) if math.isfinite(left) else (0, 0)
    clock = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
    remaining = f"{clock} left" if math.isfinite(left) else "time left unknown"
    return f"step {step}/{steps} ({100 * step // max(steps, 1)}%)  loss {loss:.4g}  {rate:.3g} steps/s  {remaining}"


def _import_clu() -> Any:
    """Import CLU's writers with `events.EventWriter` in the place of the one module that needs TensorFlow."""
    if _STAND_IN not in sys.modules:
        module = types.ModuleType(_STAND_IN)
        module.__dict__["SummaryWriter"] = events.EventWriter
        sys.modules[_STAND_IN] = module
    from clu import metric_writers

    return metric_writers
