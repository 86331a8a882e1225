"""What a run owes the machine it runs on: exit codes, one writer a workdir, signals, a progress file."""

import contextlib
import dataclasses
import enum
import json
import math
import os
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from ddpm_jax import processes

PROGRESS = "progress.json"
LOCK = "lock.json"


class Exit(enum.IntEnum):
    """The exit codes of every command; 1 is a bug of ours."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 65
    BUSY = 69
    DIVERGED = 70
    STORAGE = 74
    STOPPED = 75
    LOST = 76


class Failure(Exception):
    """An end that is explained in one sentence; `code` is the exit code of the command."""

    code: Exit = Exit.BUG


class BadInput(Failure, ValueError):
    """A config, a file or an argument is wrong: running the same command again fails again."""

    code = Exit.BAD_INPUT


class Busy(Failure):
    """Another run is writing this workdir."""

    code = Exit.BUSY


class Diverged(Failure):
    """A value that must be finite is not."""

    code = Exit.DIVERGED


class Lost(Failure):
    """Another process of the run is gone; the same command goes on from the last save."""

    code = Exit.LOST


class Storage(Failure):
    """Something could not be written or read back."""

    code = Exit.STORAGE


class Stopped(Failure):
    """A signal asked for an early end; the state, if it was made, is saved and the same command continues it."""

    code = Exit.STOPPED


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys: {"train": {"steps": 5}} -> {"train.steps": 5}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested config values as JSON would give them back: tuples become lists."""
    return json.loads(json.dumps(values))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or none: readers see the old content or the new, also after a kill in the middle."""
    target = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from TensorBoard under another user
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_unfinished(directory: str | os.PathLike[str], *patterns: str) -> None:
    """Delete what kills left of `write_atomically` of files with such names; only one who alone writes them may."""
    for pattern in patterns:
        for path in pathlib.Path(directory).glob(f".{pattern}.*"):
            path.unlink(missing_ok=True)


def write_progress(workdir: str | os.PathLike[str], **fields: Any) -> None:
    """Write `progress.json` atomically: the fields, and the pid and start time that tell this process from others.

    JSON has no nan or inf: they become null.
    """
    finite = {
        name: None if value in (math.inf, -math.inf) or value != value else value for name, value in fields.items()
    }
    record = {**finite, **dataclasses.asdict(processes.Process.current()), "time": time.time()}
    write_atomically(pathlib.Path(workdir) / PROGRESS, json.dumps(record).encode())


def read_progress(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `write_progress` last wrote; an empty dict where there is nothing (or nothing legible)."""
    return _read_json(pathlib.Path(workdir) / PROGRESS)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@contextlib.contextmanager
def lock_workdir(workdir: str | os.PathLike[str], beat_s: float = 5.0) -> Iterator[None]:
    """Hold a workdir for this process alone; `Busy` names the holder. Of several processes of a run the first holds it.

    The lock of a process that is gone is taken over, and the log says so (see `processes.hold`).
    """
    path = pathlib.Path(workdir) / LOCK
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine, other = stack.enter_context(processes.hold(path, beat_s))
        except OSError as error:
            raise Storage(f"{workdir} cannot be written: {error.strerror}") from error
        if not mine:
            raise Busy(f"{workdir} is in use by {other or 'another process'}; stop it, or choose another workdir")
        if other:
            logging.warning("reclaimed the lock of %s from %s, which is gone", workdir, other)
        yield


class Stop:
    """Whether a stop was requested, and by which signal."""

    requested: str = ""
    interrupts: bool = False  # whether a request raises KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a request raise Stopped then and there: for what takes long and leaves nothing that could be saved."""
        self.interrupts = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            why = self.requested or "SIGINT"
            raise Stopped(f"{why}: stopped while starting, before there was anything to save") from None
        finally:
            self.interrupts = False


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first SIGTERM, SIGINT or SIGUSR1 into `stop.requested`; a second one ends the process at once.

    Signals within half a second count as one: `timeout` and terminals may deliver one to the process and its group.
    """
    stop, first = Stop(), 0.0
    names = ("SIGTERM", "SIGINT", "SIGUSR1") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def handle(number: int, _frame: object) -> None:
        nonlocal first
        if not stop.requested:
            stop.requested, first = signal.Signals(number).name, time.monotonic()
            if stop.interrupts:
                raise KeyboardInterrupt  # what takes an Exception for damage lets this one pass
        elif time.monotonic() - first > 0.5:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
