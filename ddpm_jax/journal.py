"""What a run says while it goes: means over a window of steps, a progress line, a progress file."""

import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from ddpm_jax import distributed, images, metrics, runtime
from ddpm_jax.goodput import Goodput

SHEET = 4  # pictures in a row of a sample sheet
Found = Mapping[str, jax.Array]


class Journal:
    """Collects the metrics of each step and, every so many, writes their means.

    `state()` is the unfinished window as JSON values; given back in `meta["journal"]` of a checkpoint it makes the
    means after a resume those of the unbroken run, bit for bit. At most one step is in flight: a signal is answered
    within two.
    """

    def __init__(
        self,
        writer: metrics.Writer,
        workdir: str,
        *,
        total: int,
        every: int,
        batch_size: int,
        meta: Mapping[str, Any],
        goodput: Goodput,
    ) -> None:
        """Start with the window that `meta` of the checkpoint resumed from left unfinished ({}: none)."""
        before = meta.get("journal", {"window": []})
        self._scalars: dict[str, float] = {}
        self._measured_at = -1
        self.bad_in_row = self.bad = 0  # the most so far, and now
        self._window: list[dict[str, np.ndarray]] = [
            {name: np.asarray(value, np.float32) for name, value in step.items()} for step in before["window"]
        ]
        self._workdir = pathlib.Path(workdir)
        if distributed.leads():
            (self._workdir / "samples").mkdir(exist_ok=True)
        self._writer, self._total, self._every, self._batch = writer, total, every, batch_size
        self._flight: Found | None = None
        self._goodput, self.spent, self._rate = goodput, goodput.spent, 0.0
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def timed(self, feed: Iterator[Any]) -> Iterator[Any]:
        """Yield the feed, counting the time it makes the loop wait."""
        while True:
            began = time.perf_counter()
            try:
                with self.spent("data"):
                    inputs = next(feed)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield inputs

    def add(self, step: int, found: Found) -> None:
        """Take the metrics [stride] of the steps up to `step`; at the end of a window write its means."""
        self._land()
        self._flight = found
        if step % self._every == 0 or step == self._total:
            self._land()
            self._close_window(step)

    def report(self, step: int, measure: Callable[[], tuple[Mapping[str, float], Mapping[str, np.ndarray]]]) -> None:
        """Write what a hook measured, pictures uint8 [n, h, w, c] as one sheet; its time is not training time."""
        self._land()
        began = time.perf_counter()
        with self.spent("measuring"):
            scalars, pictures = measure()
        self._scalars = {**self.measured(step), **scalars}
        self._measured_at = step
        if distributed.leads():
            self._publish(step, scalars, pictures)
        self._since += time.perf_counter() - began

    def _publish(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        if scalars:
            self._writer.write_scalars(step, scalars)
        for name, array in pictures.items():
            sheet = images.tile(array, SHEET)
            self._writer.write_images(step, {name: sheet[None]})
            images.write_png(images.to_pil(sheet), self._workdir / "samples" / f"{name}_{step:07d}.png")

    def state(self) -> dict[str, Any]:
        """Return the unfinished window as JSON values."""
        self._land()
        window = [{name: value.tolist() for name, value in step.items()} for step in self._window]
        return {"window": window}

    def measured(self, step: int) -> dict[str, float]:
        """Return the scalars that hooks measured at this very step."""
        return dict(self._scalars) if self._measured_at == step else {}

    def finish(self, step: int, status: str) -> None:
        """Say in the progress file how the run ended, and in the log where its time went."""
        self.flush()
        self._write_progress(status=status, step=step, rate=self._rate)
        logging.info("%s", self._goodput)

    def flush(self) -> None:
        """Return when what was written so far is on disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and let go of the files."""
        self._writer.close()

    def _land(self) -> None:
        """Wait for the step in flight, and split its [stride] metrics into steps."""
        if self._flight is None:
            return
        found = {name: np.asarray(value) for name, value in jax.device_get(self._flight).items()}
        self._flight = None
        # The most so far: a good step may end a window, and land in the same call as the bad ones before it.
        self.bad_in_row, self.bad = max(self.bad_in_row, int(found["bad_in_row"].max())), int(found["bad_in_row"][-1])
        for i in range(len(found["loss"])):
            self._window.append({name: value[i] for name, value in found.items()})
            self._steps += 1

    def _close_window(self, step: int) -> None:
        scalars = means(self._window)
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        scalars["images_per_second"] = rate = self._steps * self._batch / elapsed
        scalars["data_wait"] = self._waited / elapsed
        self._window, self._since, self._waited, self._steps = [], now, 0.0, 0
        if not distributed.leads():
            return
        self._writer.write_scalars(step, scalars)
        eta = (self._total - step) * self._batch / rate
        self._rate = rate / self._batch
        known = {"step": step, "loss": scalars["loss"], "rate": self._rate}
        self._write_progress(status="running", eta_s=eta, **known)
        print(metrics.format_progress(**known, steps=self._total), file=sys.stderr)

    def _write_progress(self, **fields: Any) -> None:
        if distributed.leads():
            spent = self._goodput.seconds()
            runtime.write_progress(self._workdir, **fields, steps=self._total, spent=spent)


def means(window: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return the scalars of a window of steps: means, and the error by quarter of t over its own examples."""
    stacked = {name: np.stack([step[name] for step in window]).astype(np.float64) for name in window[0]}
    good = stacked.pop("bad_in_row") == 0
    count = stacked.pop("error_count")[good].sum(axis=0)
    error = stacked.pop("error_sum")[good].sum(axis=0)
    scalars = {name: float(value[good].mean()) if good.any() else float("nan") for name, value in stacked.items()}
    levels = len(count)
    for i in np.flatnonzero(count):
        scalars[f"error/t_{i / levels:.2f}_{(i + 1) / levels:.2f}"] = float(error[i] / count[i])
    scalars["skipped"] = float((~good).sum())
    return scalars
