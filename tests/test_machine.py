"""Any order of training, stops, crashes and damage: what a run promises (R1-R7) holds after every one of them.

The run is a toy whose state is a known function of the step; the loop, the checkpoints, the lock and the logs are real.
"""

import functools
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ddpm_jax import archive, checkpoint, devices, events, metrics, runtime, state, train

EVERY, LOGGED, NEWEST, KTH, BAD_STEPS, SIZE = 4, 2, 2, 8, 3, 1000
SMALL, LARGE = st.integers(1, 9), st.integers(0, 2**16)


def is_bad(step):
    """Whether the batch that makes this step is skipped."""
    return step % 5 == 3


@functools.cache
def expected(step):
    """All arrays of a state but `total`, by hand: small integers, which no rounding touches."""
    (w, ema), updates, bad = np.zeros((2, SIZE), np.float32), 0, 0
    for now in range(1, step + 1):
        bad = bad + 1 if is_bad(now) else 0
        updates += not is_bad(now)
        w = w + (0 if is_bad(now) else now % 7)
        ema = ema + (0 if is_bad(now) else w)
    return {"step": step, "updates": updates, "bad": bad, "params/w": w, "ema/w": ema, "opt_state/m": 2 * w}


@functools.lru_cache
def toy():
    """(init, advance): both compiled once."""
    split = devices.replicate(devices.mesh())

    @functools.partial(jax.jit, out_shardings=split)
    def init(total):
        zero, w = jnp.zeros((), jnp.int32), jnp.zeros(SIZE)
        return state.TrainState(zero, zero, zero, total.astype(jnp.int32), {"w": w}, {"w": w + 0}, {"m": 2 * w})

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(now, _):
        step = now.step + 1
        good = ~is_bad(step)
        bad = jnp.where(good, 0, now.bad + 1)
        w = now.params["w"] + jnp.where(good, step % 7, 0)
        ema = now.ema["w"] + jnp.where(good, w, 0.0)
        new = state.TrainState(step, now.updates + good, bad, now.total, {"w": w}, {"w": ema}, {"m": 2 * w})
        loss = jnp.where(good, step, jnp.nan)[None]
        return new, {
            "loss": loss,
            "bad_in_row": bad[None],
            **dict.fromkeys(("error_sum", "error_count"), loss[:, None]),
        }

    return lambda total: init(jnp.asarray(total)), advance


def score(step):
    """What the hook measures: the smallest is the best."""
    return math.sin(step)


def make_run(total, feed, advance):
    """The toy as the loop wants it."""
    init, _ = toy()
    meta = {"config": {"train": {"minutes": 0.0}}, "fingerprint": "toy"}
    return train.Run(
        meta=meta,
        check_resume=lambda saved: None,
        init=init,
        abstract=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), init(1)),
        feed=feed,
        advance=advance,
        hooks=(train.Hook(EVERY, lambda now: ({"eval/loss": score(int(now.step))}, {})),),
        plan=train.Plan(total, 0.0, 1, 1, 1, BAD_STEPS),
        log=train.Log(LOGGED, EVERY, EVERY, EVERY),
        saves=train.Saves(EVERY, NEWEST, 1, KTH, "eval/loss"),
    )


def reached(line):
    """The step of a line of the log; of a torn one, infinity."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def digest(path):
    """The hash of every byte and name under a directory."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    parts = [f"{file.relative_to(path)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def between(**drawn):
    """A rule for what happens between two starts, at most twice: left to itself Hypothesis would train too rarely."""

    def wrap(happens):
        @functools.wraps(happens)
        def counted(self, **values):
            self.since += 1
            happens(self, **values)

        return precondition(lambda self: self.since < 2)(rule(**drawn)(counted))

    return wrap


class Machine(RuleBasedStateMachine):
    """One workdir and what is done to it; `touched` are the steps whose files somebody has changed."""

    sequences = happened = 0

    def __init__(self):
        super().__init__()
        Machine.sequences += 1
        self.workdir = Path(tempfile.mkdtemp())
        self.folder = self.workdir / "checkpoints"
        self.touched, self.aside, self.since = set(), {}, 2

    def teardown(self):
        shutil.rmtree(self.workdir)

    def whole(self):
        """The steps whose arrays can be read, newest first; each is compared with what it must hold."""
        found = []
        for step in archive.steps(self.folder):
            path = self.folder / str(step)
            try:
                meta = checkpoint.read_meta(path)
                arrays = archive.read_arrays(path, meta, list(meta["checksums"]))
            except checkpoint.Damaged:
                assert step in self.touched, f"step {step} was damaged by nobody"
                continue
            assert arrays.keys() == expected(step).keys() | {"total"} and meta["step"] == step
            assert all(np.array_equal(arrays[name], value) for name, value in expected(step).items()), step
            found.append(step)
        return found

    def resume(self, more, *, event=lambda: None, at=0, poison=0, ends=None):
        """Train `more` steps on from the newest whole one, with something happening before the step that makes `at`."""
        before, self.since = self.whole(), 0
        start = max(before, default=0)
        total, at, poison = start + more, at and start + at, poison and start + poison
        damaged = {n: digest(self.folder / str(n)) for n in archive.steps(self.folder) if n > start}

        def feed(first, stop):
            assert (first, stop) == (start, total)  # R1
            for step in range(first + 1, stop + 1):
                if step == at:
                    event()
                yield step

        def advance(now, step):
            now, found = toy()[1](now, None)
            return now, {**found, "bad_in_row": jnp.full(1, BAD_STEPS)} if step == poison else found

        run = make_run(total, feed, advance)
        if ends is None:
            train.train(run, str(self.workdir))
        else:
            with pytest.raises(ends):
                train.train(run, str(self.workdir))
        made = {runtime.Stopped: at, KeyError: at - 1, runtime.Diverged: poison + 1, None: total}[ends]
        status = {runtime.Stopped: "stopped", KeyError: "failed", runtime.Diverged: "diverged", None: "done"}[ends]
        progress = runtime.read_progress(self.workdir)
        assert (progress["status"], progress["step"]) == (status, made)
        last = {made} if ends in (None, runtime.Stopped) else set()
        reached = made if ends is not runtime.Diverged else made - 1
        saved = {n for n in range(start + 1, reached + 1) if n % EVERY == 0} | last
        self.check_kept({n for n in before if n <= start}, saved, total)
        for step, content in damaged.items():  # R5
            assert content in [digest(path) for path in self.folder.glob(f"{step}.damaged-*")]
        self.touched = {n for n in self.touched if n <= start}
        self.aside |= {path.name: digest(path) for path in self.folder.glob("*.damaged-*")}
        assert not list(self.folder.glob("*orbax-checkpoint-tmp*"))

    def check_kept(self, before, saved, total):
        """R1, R2 and R7: the newest, the best and every K-th of what was there and what was saved are whole."""
        there, all_steps = self.whole(), sorted(before | saved)
        assert max(there, default=0) == max(all_steps, default=0)
        measured = [n for n in saved if n % EVERY == 0 or n == total]
        measured += [n for n in before & set(there) if checkpoint.read_meta(self.folder / str(n))["metrics"]]
        best = {min(measured, key=score)} if measured else set()
        kept = {*all_steps[-NEWEST:], *best, *(n for n in all_steps if n % KTH == 0)}
        assert kept <= set(there), (kept, there)

    @rule(more=SMALL)
    def trains(self, more):
        self.resume(more)

    @rule(more=SMALL, at=SMALL, number=st.sampled_from(["SIGTERM", "SIGINT", "SIGUSR1"]))
    def stops(self, more, at, number):
        kill = functools.partial(os.kill, os.getpid(), getattr(signal, number))
        self.resume(at + more, event=kill, at=at, ends=runtime.Stopped)

    @rule(more=SMALL, at=SMALL)
    def crashes(self, more, at):
        def crash():
            raise KeyError("power cut")

        self.resume(at + more - 1, event=crash, at=at, ends=KeyError)

    @rule(after=st.integers(0, 4))
    def diverges(self, after):
        start = max(self.whole(), default=0)
        poison = 2 * after + 1 + start % 2  # an odd step, between two windows of the log
        self.resume(poison + 3, poison=poison, ends=runtime.Diverged)

    @between()
    def is_held_by_another(self):
        before = digest(self.folder)
        with runtime.lock_workdir(self.workdir):
            with pytest.raises(runtime.Busy):
                train.train(make_run(1, None, None), str(self.workdir))  # R6
        assert before == digest(self.folder)

    def victim(self, which, newest, file):
        """A file of a checkpoint, which counts as touched from now on; None if there is none."""
        steps = archive.steps(self.folder)
        step = steps[0 if newest else which % len(steps)] if steps else 0
        files = sorted(path for path in (self.folder / str(step)).rglob("*") if path.is_file())
        self.touched |= {step} if files else set()
        return files[file % len(files)] if files else None

    @between(which=LARGE, newest=st.booleans(), file=LARGE, where=LARGE)
    def has_a_flipped_bit(self, which, newest, file, where):
        victim = self.victim(which, newest, file)
        content = bytearray(victim.read_bytes() if victim else b"")
        if content:
            content[where % len(content)] ^= 1 << where % 8
            victim.write_bytes(content)

    @between(which=LARGE, newest=st.booleans(), file=LARGE, where=LARGE)
    def has_a_cut_file(self, which, newest, file, where):
        victim = self.victim(which, newest, file)
        content = victim.read_bytes() if victim else b""
        if content:
            victim.write_bytes(content[: where % len(content)])

    @between(which=LARGE, newest=st.booleans(), file=LARGE)
    def loses_a_file(self, which, newest, file):
        victim = self.victim(which, newest, file)
        if victim:
            victim.unlink()

    @between(which=LARGE)
    def loses_a_checkpoint(self, which):
        steps = archive.steps(self.folder)
        if steps:
            shutil.rmtree(self.folder / str(steps[which % len(steps)]))

    @between(step=SMALL)
    def has_an_unfinished_save(self, step):
        (self.folder / f"{4 * step}.orbax-checkpoint-tmp-{step}" / "state").mkdir(parents=True, exist_ok=True)

    @between(name=st.sampled_from([runtime.PROGRESS, runtime.LOCK, metrics.FILE]), where=LARGE)
    def has_a_torn_file(self, name, where):
        """What was on disk before the newest save stays: everything before a save is flushed."""
        path, newest = self.workdir / name, max(self.whole(), default=0)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = itertools.takewhile(lambda line: name == metrics.FILE and reached(line) <= newest, lines)
        safe = list(kept)
        rest = b"".join(lines[len(safe) :]) or b'{"step": 1, "torn'
        path.write_bytes(b"".join(safe) + rest[: where % len(rest)])

    @between()
    def is_sampled_from(self):
        whole, before = self.whole(), digest(self.workdir)
        if whole:
            path = checkpoint.resolve(self.workdir)
            assert path == self.folder / str(whole[0])  # R5
            assert np.array_equal(checkpoint.load_arrays(path)["w"], expected(whole[0])["ema/w"])
        else:
            with pytest.raises(runtime.BadInput, match="there is no whole checkpoint"):
                checkpoint.resolve(self.workdir)
        assert before == digest(self.workdir)  # a reader changes nothing

    @invariant()
    def what_was_set_aside_stays(self):
        Machine.happened += 1
        assert all(digest(self.folder / name) == content for name, content in self.aside.items())

    @invariant()
    def the_log_has_each_step_once_up_to_the_resume(self):
        newest, before = max(self.whole(), default=0), 0
        series = metrics.read_scalars(self.workdir)
        steps, losses = series.get("loss", ([], []))
        for step, loss, skipped in zip(steps, losses, series.get("skipped", ([], []))[1], strict=True):
            if step > newest:  # what the next resume cuts off
                break
            window = range(before + 1, step + 1)
            good = [n for n in window if not is_bad(n)]
            assert skipped == len(window) - len(good)  # R4
            assert loss == np.mean(good) if good else math.isnan(loss)
            before = step
        assert newest - before < LOGGED


FAST = {"max_examples": 8, "stateful_step_count": 10}
LONG = {"max_examples": 250, "stateful_step_count": 12}


@pytest.mark.parametrize("size", [pytest.param(FAST, id="fast"), pytest.param(LONG, id="long", marks=pytest.mark.long)])
def test_promises_hold_in_any_order_of_faults(size, monkeypatch, figure):
    monkeypatch.setattr(events, "_wait_for_a_new_second", lambda _: None)  # a second for each resume
    monkeypatch.setattr(Machine, "sequences", 0)
    monkeypatch.setattr(Machine, "happened", 0)
    how = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    run_state_machine_as_test(Machine, settings=settings(**size, **how))
    figure(
        "orders of training, stops, crashes and damage", f"{Machine.sequences} of {Machine.happened} events; all hold"
    )
