"""Checkpoints of a run: saved behind the training, read back at once, kept by rule, and never trusted unread.

Orbax's CheckpointManager writes them; `archive` says what one holds and how it is compared.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ddpm_jax import archive, distributed, runtime

Damaged = archive.Damaged
load_arrays = archive.load_arrays
read_meta = archive.read_meta
resolve = archive.resolve
verify = archive.verify

_UNFINISHED = ".orbax-checkpoint-tmp"
_FULL = re.compile("no space|resource_exhausted|file too large|quota", re.IGNORECASE)


class Checkpointer:
    """Saves and restores the states of one run in `directory`; only the holder of the workdir's lock may have one."""

    def __init__(
        self,
        directory: archive.PathLike,
        *,
        keep_newest: int = 3,
        keep_best: int = 0,
        keep_every: int = 0,
        best_metric: str = "",
    ):
        """Keep the newest, those with the smallest `best_metric` (the largest for `-name`), and every K-th step."""
        keep = (keep_newest, keep_best, keep_every)
        if keep_newest < 1 or min(keep) < 0:
            raise runtime.BadInput(f"keep_(newest, best, every) is {keep}; give at least (1, 0, 0)")
        if keep_best and not best_metric:
            raise runtime.BadInput(f"keep_best {keep_best} needs best_metric: what the best have smallest")
        self._directory = pathlib.Path(directory).absolute()
        self._retention = Retention(*keep)
        self._best_metric = best_metric
        self._manager: Any = None
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._commit: concurrent.futures.Future[None] | None = None

    def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Copy the state to the host and return; it is written, read back and compared while training goes on.

        Raises `Diverged` before anything is written if a value is not finite, and `Storage` if this save cannot
        start or the one before it failed. Of several processes, with the state `devices.gathered`, the first writes.
        """
        # A true copy: jax runs ahead on CPU too, and the next step is given (donated) the very buffers a view shows.
        arrays = {name: np.array(leaf) for name, leaf in archive.by_name(state).items()}
        _check_finite(step, arrays)
        if not distributed.leads():
            return
        self.wait()
        size = sum(array.nbytes for array in arrays.values())
        self._manager = self._manager or self._open()
        self._check_space(step, size)
        metrics = dict(metrics or {})
        self._note_score(step, metrics)
        described = archive.describe({**meta, "step": step, "metrics": metrics}, arrays)
        try:
            saved = self._manager.save(step, args=_composite(arrays, described))
        except Exception as error:  # Orbax and TensorStore raise OSError, ValueError and kinds of their own
            raise self._failure(step, size, error) from error
        if not saved:
            there = max(archive.steps(self._directory), default=None)
            raise runtime.Storage(f"step {step} was not saved: step {there} is already in {self._directory}")
        self._commit = self._worker.submit(self._read_back, step, size)

    @property
    def whole(self) -> int | None:
        """The newest step that was read back and found equal; None if there is none yet."""
        return self._retention.whole

    def wait(self) -> None:
        """Wait until the last save is on disk, read back and found equal; raise `Storage` if it is not."""
        commit, self._commit = self._commit, None
        if commit is not None:
            commit.result()

    def close(self) -> None:
        """Wait as `wait` does, and let go of the directory."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if self._manager is not None:
                with contextlib.suppress(Exception):  # of a save whose failure was raised before; Orbax repeats it
                    self._manager.wait_until_finished()
                self._manager.close()

    def latest(self) -> int | None:
        """Return the newest whole step, or None; damaged newer ones are renamed `<step>.damaged-<n>` and named.

        What killed saves left unfinished is deleted.
        """
        self.wait()
        step = self._newest_whole()
        if self._manager is not None:
            self._manager.reload()
        return step

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Return (state, meta) of a step, compared with its checksums and placed by each abstract leaf's sharding.

        `abstract_state` has a `jax.ShapeDtypeStruct` with a sharding at each leaf; any number of devices will do.
        Raises `BadInput` with the first differences if its shapes are not those of the checkpoint.
        """
        path = self._directory / str(step)
        meta = read_meta(path)
        wanted = archive.by_name(abstract_state)
        archive.check_fits(path, meta["checksums"], wanted)
        arrays = archive.read_arrays(path, meta, list(wanted))
        leaves = [_place(arrays[name], leaf, name) for name, leaf in wanted.items()]
        self._retention.whole = step
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), meta

    def _open(self) -> Any:
        """Open Orbax's manager at the first save: `latest` has moved damaged directories out of its way by then."""
        import orbax.checkpoint as ocp

        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise runtime.Storage(f"{self._directory} cannot be made: {error.strerror}") from error
        for step in archive.steps(self._directory):
            with contextlib.suppress(Damaged):
                self._note_score(step, read_meta(self._directory / str(step))["metrics"])
        # The first process writes; the others gave their parts before, and learn the outcome from it.
        alone: Any = {"multiprocessing_options": ocp.options.MultiprocessingOptions(active_processes={0})}
        options = ocp.CheckpointManagerOptions(preservation_policy=self._retention, create=False, **alone)
        # The form that `archive` reads, whatever Orbax's defaults become. Weights hardly shrink: no compression.
        form: Any = {"use_ocdbt": True, "use_zarr3": False, "use_compression": False}
        handlers = {"state": ocp.PyTreeCheckpointHandler(**form, **alone), "meta": ocp.JsonCheckpointHandler(**alone)}
        return ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)

    def _newest_whole(self) -> int | None:
        remove_leftovers(self._directory)
        for step in archive.steps(self._directory):
            path = self._directory / str(step)
            try:
                verify(path)
            except Damaged as error:
                logging.error("%s; it is kept as %s", error, _set_aside(path).name)
            else:
                self._retention.whole = step
                return step
        return None

    def _read_back(self, step: int, size: int) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(step, size, error) from error
        verify(self._directory / str(step))
        self._retention.whole = step

    def _note_score(self, step: int, metrics: Mapping[str, float]) -> None:
        name = self._best_metric.removeprefix("-")
        score = float(metrics.get(name, math.nan))
        if name and math.isfinite(score):
            self._retention.scores[step] = -score if self._best_metric.startswith("-") else score

    def _check_space(self, step: int, size: int) -> None:
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise runtime.Storage(f"step {step} was not saved in {self._directory}: {error.strerror}") from error
        if free < size:
            raise self._failure(step, size, OSError("no space"))

    def _failure(self, step: int, size: int, error: Exception) -> runtime.Storage:
        if not self._directory.is_dir():
            return runtime.Storage(f"step {step} was not saved: {self._directory} is gone")
        space = f"need {size / 1e6:.1f} MB, free {shutil.disk_usage(self._directory).free / 1e6:.1f} MB"
        if _FULL.search(str(error)):
            return runtime.Storage(f"no space: {space} in {self._directory}; step {step} was not saved, older ones are")
        return runtime.Storage(f"step {step} was not saved in {self._directory} ({space}): {archive.first_line(error)}")


@dataclasses.dataclass
class Retention:
    """Which checkpoints stay, in the form of an Orbax preservation policy: see `kept`."""

    newest: int
    best: int
    every: int
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    whole: int | None = None  # the newest step that was read back and found equal

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Say for each of Orbax's records whether it stays."""
        keep = self.kept([info.step for info in checkpoints])
        return [info.step in keep for info in checkpoints]

    def kept(self, steps: Iterable[int]) -> set[int]:
        """Return the newest N, the best M (smallest score), every K-th, and the newest known to be whole."""
        steps = sorted(steps)
        ranked = sorted((step for step in steps if step in self.scores), key=lambda step: (self.scores[step], -step))
        every = {step for step in steps if self.every and step % self.every == 0}
        whole = {step for step in steps if step == self.whole}
        return {*steps[-self.newest :], *ranked[: self.best], *every, *whole}


def remove_leftovers(directory: archive.PathLike) -> list[str]:
    """Delete what killed saves left unfinished, and return the names; only the holder of the workdir's lock may."""
    names = [name for name in os.listdir(directory) if _UNFINISHED in name] if os.path.isdir(directory) else []
    for name in names:
        shutil.rmtree(pathlib.Path(directory) / name)
    return names


def _check_finite(step: int, arrays: Mapping[str, np.ndarray]) -> None:
    bad = [n for n, a in arrays.items() if jnp.issubdtype(a.dtype, jnp.inexact) and not np.isfinite(a).all()]
    if bad:
        raise runtime.Diverged(f"step {step} is not saved: {', '.join(bad[:3])} ({len(bad)} arrays) hold nan or inf")


def _place(array: np.ndarray, leaf: Any, name: str) -> jax.Array:
    if leaf.sharding is None:
        raise ValueError(f"abstract state leaf {name} has no sharding; give every leaf one")
    return jax.make_array_from_callback(array.shape, leaf.sharding, lambda index: array[index])


def _set_aside(path: pathlib.Path) -> pathlib.Path:
    names = (path.with_name(f"{path.name}.damaged-{n}") for n in itertools.count())
    return path.rename(next(name for name in names if not name.exists()))


def _composite(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Any:
    import orbax.checkpoint as ocp

    return ocp.args.Composite(state=ocp.args.PyTreeSave(archive.nest(arrays)), meta=ocp.args.JsonSave(meta))
