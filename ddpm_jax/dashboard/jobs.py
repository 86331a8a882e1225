"""Training jobs: processes of their own, one after another, in a queue that outlives the dashboard.

A job is a folder under the workdir root with a run file `job.json`: the configuration's name, what was changed of it,
and the process that trains it (pid and start time). `python -m ddpm_jax.dashboard.jobs ROOT` is the queue: it starts
the oldest waiting job, waits for its end, and leaves when none is waiting. Pages write run files and see to it that
there is a queue.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from ddpm_jax import configs, processes, runtime
from ddpm_jax.processes import Process

FILE, LOG, LOCK, TRASH = "job.json", "job.log", ".queue.json", ".trash"
STOP = "stop.json"  # names the process that was asked to end
AGAIN_S = 30.0  # a second signal ends a process at once, without saving: not before this long after the first
POLL_S = 0.5
STATES = ("waiting", "started", "ended")


@dataclasses.dataclass(frozen=True)
class Job:
    """What `job.json` says. state: waiting, started, ended. process: who trains, once started. code: its exit code.

    `ended` without a code: the queue was not there to see the end.
    """

    config: str
    changes: dict[str, Any]
    created: float
    state: str = "waiting"
    process: dict[str, Any] | None = None
    code: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what `job.json` cannot say: a queue must not fall over a file."""
        fits = isinstance(self.config, str) and isinstance(self.changes, dict) and self.state in STATES
        fits = fits and type(self.created) in (int, float) and math.isfinite(self.created)
        fits = fits and type(self.code) in (int, type(None))
        if not fits or not (self.process is None or (self.trainer and 0 < self.trainer.pid < 2**31)):
            raise ValueError(f"{FILE} does not describe a job")

    @property
    def trainer(self) -> Process | None:
        """Who trains it, once started."""
        return Process.read(self.process or {})

    @property
    def alive(self) -> bool:
        """Whether its process runs, and is the very process that was started."""
        return self.trainer is not None and self.trainer.alive()


def read(folder: pathlib.Path) -> Job | None:
    """Return the job of a folder; None where the dashboard started none, or its file is illegible."""
    try:
        return Job(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def add(root: pathlib.Path, config: str, changes: Mapping[str, Any]) -> pathlib.Path:
    """Put a job into the queue and return its folder; `changes` were checked before.

    Raises BadInput for a configuration that is not a shipped one: a path would be Python to run.
    """
    if config not in configs.names():
        raise runtime.BadInput(f"unknown configuration {config[:40]!r}; choose one of {', '.join(configs.names())}")
    stem = f"{re.sub('[^a-z0-9_]', '', config.removesuffix('_cfg'))}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, copies = root / stem, itertools.count(2)
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = root / f"{stem}-{next(copies)}"
    _write(folder, Job(config, dict(changes), time.time()))
    see_to_queue(root)
    return folder


def resume(folder: pathlib.Path, root: pathlib.Path) -> None:
    """Put a job that has ended into the queue again: it goes on from its newest checkpoint."""
    job = read(folder)
    if job and job.state != "waiting" and not job.alive:
        _write(folder, dataclasses.replace(job, state="waiting", created=time.time(), process=None, code=None))
        see_to_queue(root)


def stop(folder: pathlib.Path) -> bool:
    """Ask a job to save and end, or take it out of the queue; False where the dashboard started no such process.

    A pid may belong to another process by now: it is held by a file descriptor while its start time is compared. The
    second signal, that would end it without saving, is only sent to a process that has not ended within `AGAIN_S`.
    """
    job = read(folder)
    if job is None or job.state == "ended":
        return False
    if job.state == "waiting":
        _write(folder, dataclasses.replace(job, state="ended"))
        return True
    since = asked(folder, job)
    if since is not None and since < AGAIN_S:
        return job.alive
    if not _signal(job.trainer, signal.SIGTERM):
        return False
    runtime.write_atomically(folder / STOP, json.dumps(job.process).encode())
    return True


def asked(folder: pathlib.Path, job: Job) -> float | None:
    """Return how many seconds ago the process of a job was asked to end; None where it was not."""
    if job.trainer is None or _named(folder / STOP) != job.trainer:
        return None
    return time.time() - (folder / STOP).stat().st_mtime


def delete(folder: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Move a run into the trash folder of the root and return its place there. Raises BadInput while it runs."""
    job, holder = read(folder), Process.read(runtime.read_progress(folder))
    running = (job and job.alive) or (holder and holder.alive() and _named(folder / runtime.LOCK) == holder)
    if running or (job and job.state == "waiting"):
        raise runtime.BadInput(f"{folder.name} is running or waiting; stop it first")
    place = root / TRASH / f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    place.parent.mkdir(exist_ok=True)
    return folder.rename(place)


def see_to_queue(root: pathlib.Path) -> None:
    """Start a queue for the root, in a session of its own; one that is there already makes it leave at once."""
    command = [sys.executable, "-m", "ddpm_jax.dashboard.jobs", str(root)]
    null = subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    # Without this its entry in the process table would look alive to whoever asks for the holder of the lock.
    threading.Thread(target=child.wait, daemon=True).start()


def neglected(root: pathlib.Path) -> bool:
    """Say whether jobs wait and no queue is there to run them: it was killed, or the machine was."""
    holder = _named(root / LOCK)
    return not (holder and holder.alive()) and bool(waiting(root))


def run_queue(root: pathlib.Path) -> None:
    """Run waiting jobs, the oldest first, until there are none; do nothing where another queue serves the root."""
    while waiting(root):
        with processes.hold(root / LOCK) as (mine, _):
            if not mine:
                return
            for folder in iter(lambda: next(iter(waiting(root)), None), None):
                _await_others(root)
                job = read(folder)
                if job and job.state == "waiting":
                    with contextlib.suppress(FileNotFoundError):  # it was deleted under our hands
                        _run(folder, job)
        # A job that was added since the last look saw a queue here, and relies on it: look again.


def command(folder: pathlib.Path, job: Job) -> list[str]:
    """Return the command that trains a job: a list of words, no shell reads it."""
    changes = [f"--config.{key}={tuple(v) if isinstance(v, list) else v}" for key, v in job.changes.items()]
    return [sys.executable, "-m", "ddpm_jax.main", f"--config={job.config}", f"--workdir={folder}", *changes]


def waiting(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of waiting jobs, the oldest first."""
    jobs = [(job.created, path.parent) for path in root.glob(f"*/{FILE}") if (job := read(path.parent))]
    return [folder for _, folder in sorted(jobs) if (job := read(folder)) and job.state == "waiting"]


def _run(folder: pathlib.Path, job: Job) -> None:
    """Train a job to its end. A job that was stopped or deleted while its process started is ended again."""
    with open(folder / LOG, "ab") as log:
        child = subprocess.Popen(
            command(folder, job), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    started = Process(child.pid, Process.current().host, processes.start_time(child.pid) or time.time())
    unchanged = read(folder) == job
    job = dataclasses.replace(job, state="started", process=dataclasses.asdict(started))
    try:
        _write(folder, job)
    except OSError:
        unchanged = False
    if not unchanged:
        child.terminate()
    _write(folder, dataclasses.replace(job, state="ended", code=child.wait()))


def _await_others(root: pathlib.Path) -> None:
    """Wait for jobs that a queue started before it was killed, and write down that they have ended."""
    for path in root.glob(f"*/{FILE}"):
        job = read(path.parent)
        while job and job.state == "started" and job.alive:
            time.sleep(POLL_S)
        if job and job.state == "started":
            with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
                _write(path.parent, dataclasses.replace(job, state="ended"))


def _signal(process: Process | None, number: signal.Signals) -> bool:
    if process is None:
        return False
    if not hasattr(os, "pidfd_open"):
        if process.alive():
            os.kill(process.pid, number)
        return process.alive()
    try:
        held = os.pidfd_open(process.pid)
        try:
            alive = process.alive()
            if alive:
                signal.pidfd_send_signal(held, number)
            return alive
        finally:
            os.close(held)
    except ProcessLookupError:
        return False


def _named(path: pathlib.Path) -> Process | None:
    """Return the process that a file names, None where it names none."""
    try:
        return Process.read(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: pathlib.Path, job: Job) -> None:
    runtime.write_atomically(folder / FILE, json.dumps(dataclasses.asdict(job), indent=1).encode())


if __name__ == "__main__":
    run_queue(pathlib.Path(sys.argv[1]))
