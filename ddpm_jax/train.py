"""The training loop: it knows steps, logs, saves and signals, and nothing of diffusion."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from ddpm_jax import checkpoint, devices, distributed, goodput, journal, metrics, runtime
from ddpm_jax.state import TrainState

LOCAL = {"data.root", "runtime.cache"}  # where a process finds things: may differ between processes
COMPILING, TIMED = 5, 20  # steps that are not timed, and steps whose median turns minutes into a number of steps


class Hook(NamedTuple):
    """Something measured every so many steps: `measure(state)` gives scalars, and pictures, by name."""

    every: int
    measure: Callable[[TrainState], tuple[dict[str, float], dict[str, Any]]]


class Plan(NamedTuple):
    """How long and in what portions a run trains: the section `train` of a config (see configs/default.py)."""

    steps: int
    minutes: float
    batch_size: int
    accumulate: int
    steps_per_dispatch: int
    bad_steps: int


class Log(NamedTuple):
    """Steps between scalars, held-out losses, exact matches and pictures: the section `log`."""

    every: int
    eval_every: int
    exact_every: int
    sample_every: int


class Saves(NamedTuple):
    """Steps between checkpoints, and which of them stay: the section `checkpoint`."""

    every: int
    keep_newest: int
    keep_best: int
    keep_every: int
    best_metric: str


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What `build` makes of a config, and all that the loop needs.

    `feed(start, stop)` yields what `advance(state, inputs)` takes; that returns the state `plan.steps_per_dispatch` on
    and its metrics, each with that as leading axis. `meta` describes the run in every checkpoint, and
    `check_resume(meta)` raises BadInput where an older one describes another run.
    """

    meta: dict[str, Any]
    check_resume: Callable[[Mapping[str, Any]], None]
    init: Callable[[int], TrainState]
    abstract: TrainState
    feed: Callable[[int, int], Iterator[Any]]
    advance: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
    hooks: tuple[Hook, ...]
    plan: Plan
    log: Log
    saves: Saves


def train(run: Run, workdir: str) -> None:
    """Train, or go on with, the run of a workdir to its end, and verify what it saved.

    Raises Stopped after a signal (the state is saved), Busy, Storage, Diverged or BadInput (see `runtime`).
    """
    goodput.listen()
    with contextlib.ExitStack() as stack:
        distributed.together(lambda: stack.enter_context(held(workdir)))
        distributed.check_alike(identity(run.meta), "a configuration or data")
        stop, vote = stack.enter_context(runtime.stop_signals()), distributed.Vote()
        folder = pathlib.Path(workdir) / "checkpoints"
        retention = {key: value for key, value in run.saves._asdict().items() if key != "every"}
        saves = stack.enter_context(contextlib.closing(checkpoint.Checkpointer(folder, **retention)))
        state, meta = start(run, saves, folder, stop)
        step, total = int(state.step), int(state.total)
        log = distributed.together(lambda: opened(run, workdir, step, total, meta))
        stack.enter_context(contextlib.closing(log))
        stack.enter_context(ending(log, lambda: step))
        for inputs in log.timed(run.feed(step, total)):
            state, found = run.advance(state, inputs)
            step += run.plan.steps_per_dispatch
            log.add(step, found)
            if log.bad_in_row >= run.plan.bad_steps:
                raise diverged(log.bad_in_row, step, saves)
            for hook in run.hooks:
                if step % hook.every == 0 or step == total:
                    log.report(step, functools.partial(hook.measure, state))
            stopping = vote(bool(stop.requested)) and step < total
            # None amid bad steps: they may end the run, and saves of them would take the place of older, good ones.
            if (step % run.saves.every == 0 and log.bad < 2) or step == total or stopping:
                with log.spent("checkpointing"):
                    log.flush()  # what a resume from this step keeps must be on disk by then
                    whole, about = devices.gathered(state), {**run.meta, "journal": log.state()}
                    distributed.together(functools.partial(saves.save, step, whole, about, log.measured(step)))
            if stopping:
                distributed.together(saves.wait)
                why = stop.requested or "a signal to another process"
                raise runtime.Stopped(f"{why}: step {step} of {total} is saved in {folder / str(step)}")
        with log.spent("checkpointing"):
            distributed.together(saves.wait)  # which reads the save back and compares
    logging.info("done: step %d is saved and verified in %s", total, folder / str(total))


@contextlib.contextmanager
def held(workdir: str) -> Iterator[None]:
    """Hold the lock of a workdir in the first process, and clear away what killed ones left half written."""
    if not distributed.leads():
        yield
        return
    with runtime.lock_workdir(workdir):
        runtime.remove_unfinished(workdir, runtime.PROGRESS, metrics.FILE)
        runtime.remove_unfinished(pathlib.Path(workdir) / "samples", "*.png")
        yield


def identity(meta: Mapping[str, Any]) -> str:
    """Return a hash of what all processes of a run must have in common: where their data lie may differ."""
    settings = {key: value for key, value in runtime.flat(meta["config"]).items() if key not in LOCAL}
    return hashlib.sha256(json.dumps([settings, meta["fingerprint"]], sort_keys=True).encode()).hexdigest()


def opened(run: Run, workdir: str, step: int, total: int, meta: Mapping[str, Any]) -> journal.Journal:
    """Return the journal of a run that goes on at `step`; a fresh one (no `meta`) begins with its configuration."""
    spent = goodput.Goodput(runtime.read_progress(workdir), step)
    writer = metrics.Writer(workdir, step=step, logs_only=not distributed.leads())
    if not meta:
        describe(run, writer)
    size = run.plan.batch_size
    return journal.Journal(writer, workdir, total=total, every=run.log.every, batch_size=size, meta=meta, goodput=spent)


def diverged(bad: int, step: int, saves: checkpoint.Checkpointer) -> runtime.Diverged:
    """Return the end of a run whose steps are not finite any more; a save in flight finishes first."""
    distributed.together(saves.wait)
    whole = distributed.from_first(lambda: saves.whole)
    kept = "nothing was saved yet" if whole is None else f"step {whole} is the last good save"
    return runtime.Diverged(f"{bad} non-finite steps in a row before step {step}, all skipped; {kept}")


@contextlib.contextmanager
def ending(log: journal.Journal, step: Callable[[], int]) -> Iterator[None]:
    """Write into the progress file how the run ended, whatever ended it: done, stopped, diverged or failed."""
    try:
        yield
    except BaseException as error:
        status = {runtime.Stopped: "stopped", runtime.Diverged: "diverged"}.get(type(error), "failed")
        with contextlib.suppress(OSError):  # where nothing can be written, the first error is the one to show
            log.finish(step(), status)
        raise
    log.finish(step(), "done")


def start(
    run: Run, saves: checkpoint.Checkpointer, folder: pathlib.Path, stop: runtime.Stop
) -> tuple[TrainState, dict[str, Any]]:
    """Return the newest whole state of a workdir and its meta, or a fresh state and {}; say which in one line.

    A single process stops at once while it makes a fresh state (motifs take minutes); of several none can by itself.
    """
    newest = distributed.from_first(saves.latest)
    if newest is None:
        with stop.at_once() if jax.process_count() == 1 else contextlib.nullcontext():
            total = run.plan.steps if run.plan.minutes <= 0 else timed_steps(run)
            total = distributed.from_first(lambda: total)  # clocks differ
            logging.info("starting fresh: %d steps; compiling the first", total)
            return run.init(total), {}
    saved = distributed.together(lambda: checkpoint.read_meta(folder / str(newest)))
    run.check_resume(saved)
    check_minutes(run.plan.minutes, saved["config"]["train"]["minutes"])
    state, meta = distributed.together(lambda: saves.restore(newest, run.abstract))
    if run.plan.minutes <= 0:
        if newest > run.plan.steps:
            raise runtime.BadInput(f"train.steps is {run.plan.steps}, but step {newest} is done; give {newest} or more")
        state = state._replace(total=devices.put(np.int32(run.plan.steps), state.total.sharding))
    left = int(state.total) - newest
    if left % run.plan.steps_per_dispatch:
        raise runtime.BadInput(f"the {left} steps left are no multiple of train.steps_per_dispatch; change train.steps")
    logging.info("resuming at step %d of %d: the newest whole checkpoint here", newest, int(state.total))
    return state, meta


def check_minutes(minutes: float, before: float) -> None:
    """Raise BadInput for minutes that a resume would ignore."""
    if minutes > 0 and minutes != before:
        raise runtime.BadInput(
            f"train.minutes was {before:g} and is {minutes:g}, but minutes are timed at the start only; "
            "give --config.train.minutes=0 --config.train.steps=N for another end"
        )


def describe(run: Run, writer: metrics.Writer) -> None:
    """Write the configuration for TensorBoard's text and hparams pages."""
    config = run.meta["config"]
    writer.write_texts(0, {"config": f"```json\n{json.dumps(config, indent=2)}\n```"})
    writer.write_hparams(runtime.flat(config))


def timed_steps(run: Run) -> int:
    """Return how many steps fit into `run.plan.minutes`, by the median of a few on a state that is thrown away."""
    state, times = run.init(1), []
    for inputs in run.feed(0, (COMPILING + TIMED) * run.plan.steps_per_dispatch):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(run.advance(state, inputs))
        times.append((time.perf_counter() - began) / run.plan.steps_per_dispatch)
    step_s = statistics.median(times[COMPILING:])
    total = (
        max(1, math.floor(run.plan.minutes * 60 / step_s / run.plan.steps_per_dispatch)) * run.plan.steps_per_dispatch
    )
    logging.info("%.3f s a step: %g minutes are %d steps", step_s, run.plan.minutes, total)
    return total
