"""Where the time of a run went, over all its restarts: what is left after everything else was useful."""

import contextlib
import functools
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ddpm_jax import processes

KINDS = ("starting", "compiling", "data", "checkpointing", "measuring", "lost")
_COMPILED: list[tuple[float, float]] = []  # when jax traced, lowered or compiled something: (begin, end)


class Goodput:
    """Seconds by kind; compilation counts as such wherever it happens, and a resume's start-up as lost.

    Lost are also the steps that a resume makes again, at the rate that the progress file tells. What no progress file
    saw (the last window of a killed process, the time between two processes) is in no figure, and a run that was killed
    before its first save begins a new account.
    """

    def __init__(self, before: Mapping[str, Any], step: int) -> None:
        """Go on from the progress file of an earlier part of the run, resumed at `step` ({} and 0: there is none)."""
        listen()
        self._began = time.time() - _age()
        self.restarts, self._total = 0, 0.0
        self._spent: dict[str, float] = {kind: 0.0 for kind in KINDS}
        if step:
            with contextlib.suppress(KeyError, OverflowError, TypeError, ValueError):  # anybody may have written it
                self._spent, self._total, self.restarts = _earlier(before, step)
        self._add("lost" if self.restarts else "starting", self._began)

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.time()
        try:
            yield
        finally:
            self._add(kind, began)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each kind, in all, and useful, and the number of restarts: for the progress file."""
        now = time.time()
        compiling = self._spent["compiling"] + _overlap(self._began, now)
        spent = {**self._spent, "compiling": compiling, "total": self._total + now - self._began}
        spent["useful"] = max(0.0, spent["total"] - sum(spent[kind] for kind in KINDS))
        return {**{kind: round(value, 3) for kind, value in spent.items()}, "restarts": self.restarts}

    def __str__(self) -> str:
        s = self.seconds()
        lost = f", lost to restarts {s['lost']:.1f}" if self.restarts else ""
        return (
            f"goodput {s['useful'] / max(s['total'], 1e-9):.0%}: {s['total']:.1f} s in all; useful {s['useful']:.1f}, "
            f"starting {s['starting']:.1f}, compiling {s['compiling']:.1f}, waiting for data {s['data']:.2f}, "
            f"checkpointing {s['checkpointing']:.1f}, measuring {s['measuring']:.1f}{lost}"
        )

    def _add(self, kind: str, began: float) -> None:
        now = time.time()
        self._spent[kind] += max(0.0, now - began - _overlap(began, now))


def _earlier(before: Mapping[str, Any], step: int) -> tuple[dict[str, float], float, int]:
    """Return seconds by kind, seconds in all and the number of restarts at a resume, as a progress file has them."""
    earlier, rate = before["spent"], float(before["rate"])
    spent, total = {kind: float(earlier[kind]) for kind in KINDS}, float(earlier["total"])
    spent["lost"] += max(0, int(before["step"]) - step) / rate if rate > 0 else 0
    if not all(0 <= value < math.inf for value in (*spent.values(), total)):
        raise ValueError("no account")
    return spent, total, int(earlier["restarts"]) + 1


def _age() -> float:
    """Return for how many seconds this process has run, as far as the system tells."""
    started = processes.start_time(os.getpid())
    return max(0.0, time.time() - started) if started else 0.0


def _overlap(begin: float, end: float) -> float:
    """Return the seconds between two times in which something was compiled."""
    total, reached = 0.0, begin
    # Noted as they end, so the last ones are enough: this runs at every step.
    recent = itertools.takewhile(lambda noted: noted[1] > begin, reversed(_COMPILED))
    for start, stop in sorted(recent):
        start, stop = max(start, reached), min(stop, end)
        total, reached = total + max(0.0, stop - start), max(reached, stop)
    return total


@functools.cache  # a listener stays for ever
def listen() -> None:
    """Hear of compilations from now on."""
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile/"):
        _COMPILED.append((time.time() - duration_secs, time.time()))
