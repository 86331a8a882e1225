"""Faults of the numbers and of the machine, met by real runs: bad batches, signals, kills."""

import contextlib
import dataclasses
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import tiny_config
from test_main import command

from ddpm_jax import archive, build, checkpoint, metrics, runtime, train

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
NO_COLOUR = 255  # an index outside the palette: the real loss of such a picture is nan
PARTS = ("params", "ema", "opt_state", "updates", "total")


def spoilt(inputs):
    """The same inputs with every picture spoilt: of a batch, or of the whole data set on the devices."""
    images = jax.device_put(np.full(inputs[0].shape, NO_COLOUR, np.uint8), inputs[0].sharding)
    return inputs._replace(data=images) if hasattr(inputs, "data") else (images, *inputs[1:])


def with_bad_batches(run, bad):
    """The run with nan in the batches that would make these steps."""

    def feed(start, stop):
        for step, inputs in enumerate(run.feed(start, stop), start + 1):
            yield spoilt(inputs) if step in bad else inputs

    return dataclasses.replace(run, feed=feed)


def equal(one, two):
    """Whether two trees are equal bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def host(state):
    """A copy that no donation takes away."""
    return jax.tree.map(np.array, state)


@pytest.mark.table
@pytest.mark.parametrize(("storage", "warmup"), [("device", 0), pytest.param("stream", 100, marks=pytest.mark.long)])
def test_a_bad_batch_of_the_real_step_changes_nothing_but_the_step(storage, warmup, figure):
    run = build.build(tiny_config(data__storage=storage, optimizer__warmup=warmup))
    now, before = run.init(8), None
    for step, inputs in enumerate(with_bad_batches(run, {3, 4}).feed(0, 6), 1):
        before = host(now)
        now, found = run.advance(now, inputs)
        if step in (3, 4):
            assert all(equal(getattr(now, part), getattr(before, part)) for part in PARTS)
            assert np.isnan(found["loss"]).all() and int(now.bad) == step - 2 == int(found["bad_in_row"][-1])
        else:
            assert int(now.updates) == int(before.updates) + 1 and int(now.bad) == 0
            assert not equal(now.params, before.params)
        assert int(now.step) == step
    assert (int(now.step), int(now.updates)) == (6, 4)
    figure(f"bad batches skipped / good ones applied (data on {storage}, warm-up {warmup})", "2 of 2 / 4 of 4")


def test_one_bad_batch_is_skipped_counted_and_the_run_ends_well(tmp_path):
    train.train(with_bad_batches(build.build(tiny_config()), {5}), str(tmp_path))
    steps, skipped = metrics.read_scalars(tmp_path)["skipped"]
    assert dict(zip(steps, skipped, strict=True)) == {2: 0, 4: 0, 6: 1, 8: 0}
    meta = checkpoint.read_meta(tmp_path / "checkpoints" / "8")
    arrays = archive.read_arrays(tmp_path / "checkpoints" / "8", meta, ["step", "updates"])
    assert (arrays["step"], arrays["updates"]) == (8, 7)


@pytest.mark.table
def test_ten_bad_batches_in_a_row_end_the_run_with_the_last_good_values_saved(tmp_path, figure):
    run = build.build(tiny_config(train__steps=24, checkpoint__keep_newest=1, checkpoint__keep_best=0))
    with pytest.raises(runtime.Diverged, match=r"10 non-finite steps in a row before step 1[67]") as end:
        train.train(with_bad_batches(run, set(range(7, 25))), str(tmp_path))
    assert end.value.code == 70
    assert str(end.value).endswith("all skipped; step 4 is the last good save")
    assert archive.steps(tmp_path / "checkpoints") == [4]  # none was made amid them to take its place
    figure("bad batches in a row until exit 70", 10)


def test_an_ema_alone_that_is_not_finite_is_never_saved(tmp_path):
    run = build.build(tiny_config())

    def advance(state, inputs):
        state, found = run.advance(state, inputs)
        ema = jax.tree.map(lambda x: x * np.nan, state.ema) if int(state.step) == 6 else state.ema
        return state._replace(ema=ema), found

    with pytest.raises(runtime.Diverged, match=r"step 8 is not saved: ema/\S+, .* hold nan or inf") as end:
        train.train(dataclasses.replace(run, advance=advance, hooks=()), str(tmp_path))
    assert end.value.code == 70 and checkpoint.resolve(tmp_path).name == "4"


def test_bad_batches_in_a_row_end_the_run_also_where_a_good_one_closes_the_window(tmp_path):
    run = build.build(tiny_config(train__bad_steps=3))
    with pytest.raises(runtime.Diverged, match="3 non-finite steps in a row before step 6"):
        train.train(with_bad_batches(run, {3, 4, 5}), str(tmp_path))


@pytest.mark.long  # one more step to compile
def test_a_learning_rate_1000_times_too_large_for_one_step_costs_no_good_save(tmp_path):
    usual, large = (
        build.build(tiny_config(train__steps=20, optimizer__learning_rate=rate, optimizer__decay="constant"))
        for rate in (1e-3, 1.0)
    )

    def advance(state, inputs):
        return (large if int(state.step) == 5 else usual).advance(state, inputs)

    train.train(dataclasses.replace(usual, advance=advance), str(tmp_path))
    losses = dict(zip(*metrics.read_scalars(tmp_path)["eval/loss"], strict=True))
    assert losses[4] < 4 and min(losses[step] for step in (8, 12, 16, 20)) > 10 * losses[4]
    assert archive.steps(tmp_path / "checkpoints") == [20, 16, 4]  # the newest two, and the best: from before
    for step in (20, 16, 4):
        checkpoint.verify(tmp_path / "checkpoints" / str(step))


STEPS, EVERY, LOGGED, KEPT = 60, 4, 2, 2
SMALL = {"train.steps": STEPS, "checkpoint.every": EVERY, "log.every": LOGGED, "log.eval_every": 30}
SMALL |= {"log.sample_every": STEPS, "checkpoint.keep_newest": KEPT}


def start(tmp_path, words, **flags):
    """Start the main job of `tests/test_main.py` as tests compile it; what it says goes to the file `words`."""
    how = command(tmp_path, *(f"--config.{name}={value}" for name, value in {**SMALL, **flags}.items()))
    env = {**how["env"], "JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(how["args"], env=env, stderr=words)


def wait_for(job, words, what):
    """Wait until a running job has said something; return whether it has."""
    while what not in words.read_text() and job.poll() is None:
        time.sleep(0.005)
    return what in words.read_text()


def life(tmp_path, moment, of):
    """Run until `moment` seconds after the start, or after the first step; return (exit code, words, leftovers)."""
    words, born, run = tmp_path / "words", time.time(), tmp_path / "run"
    with open(words, "w") as file, start(tmp_path, file) as job:
        trains = of == "training" and wait_for(job, words, "\nstep ")
        old = [path.name for path in run.glob("checkpoints/*tmp*") if path.stat().st_mtime < born] if trains else []
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(moment)
        job.kill()
    return job.returncode, words.read_text(), old


class Reference(NamedTuple):
    """A run that nobody disturbed."""

    checksums: dict[int, dict]
    losses: dict[int, float]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    changes = {name.replace(".", "__"): value for name, value in SMALL.items()}
    train.train(build.build(tiny_config(**changes, checkpoint__keep_every=EVERY)), str(workdir))
    folder = workdir / "checkpoints"
    sums = {step: checkpoint.read_meta(folder / str(step))["checksums"] for step in archive.steps(folder)}
    return Reference(sums, losses(workdir))


def losses(workdir):
    """The logged losses by step; a step that is logged twice is an error."""
    steps, values = metrics.read_scalars(workdir).get("loss", ((), ()))
    assert len(set(steps)) == len(steps)
    return dict(zip(map(int, steps), values, strict=True))


def check_dead(run, words, reference):
    """What a killed run leaves is whole and right, and loses at most one save; return its newest step."""
    whole = []
    for step in archive.steps(run / "checkpoints"):
        try:
            checkpoint.verify(run / "checkpoints" / str(step))
        except checkpoint.Damaged:
            assert len(whole) >= KEPT  # it was being deleted: two newer ones are whole
            continue
        assert checkpoint.read_meta(run / "checkpoints" / str(step))["checksums"] == reference.checksums[step]
        whole.append(step)
    newest, logged = max(whole, default=0), losses(run)
    assert logged == {step: reference.losses[step] for step in logged}
    assert logged.keys() >= set(range(LOGGED, newest + 1, LOGGED))
    said = max((int(step) for step in re.findall(r"^step (\d+)/", words, re.MULTILINE)), default=0)
    assert newest >= (said - 1) // EVERY * EVERY - EVERY
    return newest


@POSIX
@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.long)])
def test_a_run_killed_at_any_moment_goes_on_from_its_newest_whole_step(tmp_path, reference, kills, figure):
    rng, run, newest, ended, unfinished, held = random.Random(0), tmp_path / "run", 0, {}, 0, False
    while sum(ended.values()) < kills:
        of = "training" if rng.random() < 0.75 or kills == 1 else "start-up"
        code, words, old = life(tmp_path, rng.uniform(0, 1.2), of)
        assert old == [], "the start removes what killed saves left"
        if " at step " in words or "starting fresh" in words:
            assert (f"resuming at step {newest} of {STEPS}" if newest else "starting fresh") in words
            assert ("reclaimed the lock" in words) == held
            held = True
        newest = check_dead(run, words, reference)
        unfinished += bool(list(run.glob("checkpoints/*tmp*")))
        if code != -signal.SIGKILL:
            finish(tmp_path, code, words, reference)
            newest, held = 0, False
        else:
            ended[of] = ended.get(of, 0) + 1
    with open(tmp_path / "words", "w") as file, start(tmp_path, file) as job:
        code = job.wait(120)
    finish(tmp_path, code, (tmp_path / "words").read_text(), reference)
    total = f"{kills} of {kills} ({ended.get('start-up', 0)} before the loop, {unfinished} with a save unfinished)"
    figure("kills after which the run goes on, bit for bit", total)


def finish(tmp_path, code, words, reference):
    """The end of a run that was killed is that of the reference; its workdir is removed."""
    run = tmp_path / "run"
    assert code == 0 and f"step {STEPS} is saved and verified" in words
    assert check_dead(run, words, reference) == STEPS and losses(run) == reference.losses
    assert list(metrics.read_events(run)["loss"][0]) == sorted(reference.losses)
    assert runtime.read_progress(run)["status"] == "done"
    assert not list(run.glob("checkpoints/*tmp*")) and not [*run.glob(".*"), *run.glob("samples/.*")]
    shutil.rmtree(run)


@POSIX
@pytest.mark.long
def test_any_signal_in_mid_step_saves_and_exits_with_75(tmp_path, figure):
    words, rng, took, before = tmp_path / "words", random.Random(0), [], 0
    for name in ("SIGTERM", "SIGINT", "SIGUSR1") * 5:
        with open(words, "w") as file, start(tmp_path, file, **{"train.steps": 10**6}) as job:
            assert wait_for(job, words, "\nstep ")
            time.sleep(rng.uniform(0, 0.3))
            began = time.monotonic()
            job.send_signal(getattr(signal, name))
            assert job.wait(60) == runtime.Exit.STOPPED
            took.append(time.monotonic() - began)
        folder = tmp_path / "run" / "checkpoints"
        newest = archive.steps(folder)[0]
        assert f"{name}: step {newest} of {10**6} is saved in {folder / str(newest)}" in words.read_text()
        assert newest > before and words.read_text().count("\n" + name) == 1
        checkpoint.verify(folder / str(newest))
        before = newest
    figure(
        "seconds from a signal to a saved exit",
        f"median {statistics.median(took):.2f}, most {max(took):.2f} of {len(took)}",
    )


@pytest.mark.long
@POSIX
@pytest.mark.table
def test_a_second_interrupt_ends_the_run_at_once_and_the_older_save_is_whole(tmp_path, figure):
    words, slow = tmp_path / "words", {"log.sample_every": 8, "sampling.steps": 1000}
    with open(words, "w") as file, start(tmp_path, file, **slow) as job:
        assert wait_for(job, words, "\nstep 8/")  # pictures are drawn now, for longer than anyone waits
        job.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(0.7)
        began = time.monotonic()
        job.send_signal(signal.SIGINT)
        assert job.wait(60) == -signal.SIGINT
        took = time.monotonic() - began
    assert took < 5 and archive.steps(tmp_path / "run" / "checkpoints") == [4]
    checkpoint.verify(tmp_path / "run" / "checkpoints" / "4")
    figure("seconds from a second interrupt to the end", f"{took:.2f}")
