"""Facts about the loop: a resume is exact, an end is verified, and every early end has its own name."""

import dataclasses
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from ddpm_jax import archive, build, checkpoint, metrics, runtime, train


def curve(workdir):
    """The logged losses and what else must not depend on interruptions: name -> (steps, values)."""
    timings = ("images_per_second", "data_wait")
    return {name: series for name, series in metrics.read_scalars(workdir).items() if name not in timings}


def assert_same_run(one, two):
    """Equal bit for bit: all arrays of the last state, and the logged curves."""
    states = [checkpoint.read_meta(path / "checkpoints" / "8")["checksums"] for path in (one, two)]
    assert states[0] == states[1] and len(states[0]) > 20
    jax.tree.map(np.testing.assert_array_equal, curve(one), curve(two))


def interrupted(run, at, event):
    """The same run with something happening before the step that would make `at`."""

    def feed(start, stop):
        for step, inputs in enumerate(run.feed(start, stop), start + 1):
            if step == at:
                event()
            yield inputs

    return dataclasses.replace(run, feed=feed)


def ended(workdir):
    """What the progress file says: (status, step)."""
    progress = runtime.read_progress(workdir)
    return progress["status"], progress["step"]


def crash():
    raise KeyError("power cut")


def test_a_finished_run_is_on_disk_verified_and_described(trained):
    assert [path.name for path in (trained / "checkpoints").iterdir()] != []
    meta = checkpoint.read_meta(trained / "checkpoints" / "8")
    assert meta["config"]["net"]["channels"] == 8 and meta["spec"]["name"] == "avatars"
    assert ended(trained) == ("done", 8)
    scalars = metrics.read_scalars(trained)
    assert list(scalars["loss"][0]) == [2, 4, 6, 8] and list(scalars["eval/loss"][0]) == [4, 8]
    assert [path.name for path in (trained / "samples").iterdir()] == ["samples_0000008.png"]
    events = metrics.read_events(trained)
    np.testing.assert_array_equal(events["loss"][0], scalars["loss"][0])
    np.testing.assert_allclose(events["loss"][1], scalars["loss"][1], rtol=1e-6)


def test_training_again_changes_nothing(trained):
    before = curve(trained)
    train.train(build.build(tiny_config()), str(trained))
    jax.tree.map(np.testing.assert_array_equal, curve(trained), before)


@pytest.mark.parametrize("storage", ["device", pytest.param("stream", marks=pytest.mark.long)])
def test_a_crash_and_a_signal_leave_no_trace_in_the_result(trained, tmp_path, storage):
    config = tiny_config(data__storage=storage)
    with pytest.raises(KeyError):
        train.train(interrupted(build.build(config), 7, crash), str(tmp_path))
    assert ended(tmp_path) == ("failed", 6)
    stopping = interrupted(build.build(config), 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(runtime.Stopped, match=r"SIGTERM: step 5 of 8 is saved in .*checkpoints/5"):
        train.train(stopping, str(tmp_path))
    assert ended(tmp_path) == ("stopped", 5)
    train.train(build.build(config), str(tmp_path))
    assert_same_run(trained, tmp_path)
    steps, _ = metrics.read_events(tmp_path)["loss"]
    np.testing.assert_array_equal(steps, [2, 4, 6, 8])


def test_a_signal_while_a_fresh_run_starts_ends_it_then_and_there(tmp_path):
    def starting(total):  # motifs and a prior are found here, which may take long
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    with pytest.raises(runtime.Stopped, match="SIGTERM: stopped while starting"):
        train.train(dataclasses.replace(build.build(tiny_config()), init=starting), str(tmp_path))


def test_a_signal_while_a_run_resumes_harms_no_save_and_is_heard_after_a_step(trained, tmp_path, monkeypatch):
    run, true = build.build(tiny_config()), archive.checksum
    with pytest.raises(KeyError):
        train.train(interrupted(run, 7, crash), str(tmp_path))

    def reading(*given):
        monkeypatch.setattr(archive, "checksum", true)
        os.kill(os.getpid(), signal.SIGTERM)
        return true(*given)

    monkeypatch.setattr(archive, "checksum", reading)
    before = archive.steps(tmp_path / "checkpoints")
    with pytest.raises(runtime.Stopped, match=rf"SIGTERM: step {before[0] + 1} of 8 is saved"):
        train.train(run, str(tmp_path))
    assert not list(tmp_path.glob("checkpoints/*damaged*"))


def test_a_run_killed_before_its_first_save_starts_fresh_and_its_logs_are_kept(trained, tmp_path):
    run = build.build(tiny_config())
    with pytest.raises(KeyError):
        train.train(interrupted(run, 4, crash), str(tmp_path))
    assert list(curve(tmp_path)["loss"][0]) == [2]
    train.train(run, str(tmp_path))
    assert_same_run(trained, tmp_path)
    (kept,) = tmp_path.glob("metrics.jsonl.old-0")
    assert '"step": 2' in kept.read_text() and len(list(tmp_path.glob("events.out.old-0.*"))) == 1


def test_the_last_step_is_saved_whatever_the_interval(tmp_path):
    train.train(build.build(tiny_config(train__steps=7)), str(tmp_path))
    assert archive.steps(tmp_path / "checkpoints") == [7, 4]
    checkpoint.verify(tmp_path / "checkpoints" / "7")
    assert ended(tmp_path) == ("done", 7) and list(curve(tmp_path)["loss"][0]) == [2, 4, 6, 7]


def test_a_crash_right_after_a_save_began_waits_for_it(tmp_path, monkeypatch):
    read_back, written = checkpoint.Checkpointer._read_back, []

    def slowly(self, step, size):
        time.sleep(0.5)
        read_back(self, step, size)
        written.append(step)

    def crash_early():
        assert written == []
        crash()

    monkeypatch.setattr(checkpoint.Checkpointer, "_read_back", slowly)
    with pytest.raises(KeyError, match="power cut"):
        train.train(interrupted(build.build(tiny_config()), 5, crash_early), str(tmp_path))
    assert written == [4] and checkpoint.resolve(tmp_path).name == "4"


def test_leftovers_of_20_crashes_go_at_the_start_of_the_next_run_unless_one_lives(tmp_path):
    run, folder = build.build(tiny_config()), tmp_path / "checkpoints"
    for n in range(20):
        (folder / f"{4 * n}.orbax-checkpoint-tmp-{n}" / "state").mkdir(parents=True)
    with runtime.lock_workdir(tmp_path), pytest.raises(runtime.Busy):
        train.train(run, str(tmp_path))
    assert len(list(folder.iterdir())) == 20
    train.train(run, str(tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]


@pytest.mark.long  # XLA:CPU takes minutes to compile a scan over train steps
def test_several_steps_per_dispatch_are_the_same_run(trained, tmp_path):
    config = tiny_config(train__steps_per_dispatch=2)
    train.train(build.build(config), str(tmp_path))
    one, two = (checkpoint.load_arrays(path / "checkpoints" / "8") for path in (trained, tmp_path))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, two)
    np.testing.assert_allclose(curve(tmp_path)["loss"][1], curve(trained)["loss"][1], rtol=1e-5)


def test_minutes_become_steps_that_a_resume_keeps(tmp_path):
    run = build.build(tiny_config(train__minutes=0.002))
    total = train.timed_steps(run)
    assert 1 <= total <= 1000
    run = dataclasses.replace(run, init=lambda _: build.build(tiny_config()).init(6))
    train.train(run, str(tmp_path))
    assert runtime.read_progress(tmp_path)["steps"] == 6
    train.train(build.build(tiny_config(train__minutes=0.002)), str(tmp_path))
    assert checkpoint.resolve(tmp_path).name == "6"
    sentence = r"train.minutes was 0.002 and is 3, but minutes are timed at the start only; give --config.train.minutes"
    with pytest.raises(runtime.BadInput, match=sentence + r"=0 --config\.train\.steps=N"):
        train.train(build.build(tiny_config(train__minutes=3.0)), str(tmp_path))
    train.train(build.build(tiny_config(train__steps=6)), str(tmp_path))


def test_non_finite_steps_in_a_row_end_the_run_and_spare_the_last_save(trained, tmp_path):
    run = build.build(tiny_config(train__bad_steps=3))

    def advance(state, inputs):
        state, found = run.advance(state, inputs)
        bad = jnp.where(state.step > 5, state.step - 5, 0)
        return state, {**found, "bad_in_row": bad[None]}

    with pytest.raises(runtime.Diverged, match=r"3 non-finite steps in a row before step 8"):
        train.train(dataclasses.replace(run, advance=advance), str(tmp_path))
    assert checkpoint.resolve(tmp_path).name == "4"
    assert ended(tmp_path) == ("diverged", 8)


def test_a_state_that_is_not_finite_ends_the_run_unsaved(tmp_path, monkeypatch):
    run = build.build(tiny_config())

    def advance(state, inputs):
        state, found = run.advance(state, inputs)
        return state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params)), found

    with pytest.raises(runtime.Diverged, match=r"step 8 is not saved: params/.* hold nan or inf"):
        train.train(dataclasses.replace(run, advance=advance, hooks=()), str(tmp_path))
    assert ended(tmp_path) == ("diverged", 8)


def test_an_error_is_not_hidden_by_a_disk_that_takes_no_word_of_it(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    def crash_and_fill():
        monkeypatch.setattr(runtime, "write_progress", full)
        crash()

    with pytest.raises(KeyError, match="power cut"):
        train.train(interrupted(build.build(tiny_config()), 2, crash_and_fill), str(tmp_path))


def test_fewer_steps_than_are_done_are_refused(trained):
    with pytest.raises(runtime.BadInput, match=r"train.steps is 4, but step 8 is done; give 8 or more"):
        train.train(build.build(tiny_config(train__steps=4)), str(trained))


def test_another_config_and_a_second_writer_are_refused(trained):
    with pytest.raises(runtime.BadInput, match=r"net.channels was 8 and is 16"):
        train.train(build.build(tiny_config(net__channels=16)), str(trained))
    with runtime.lock_workdir(trained), pytest.raises(runtime.Busy, match=r"is in use"):
        train.train(build.build(tiny_config()), str(trained))
