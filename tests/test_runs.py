"""What lies under a workdir root, and in which state: from files that may be torn, forged, or gone."""

import json
import os
import shutil

import numpy as np
import pytest

from ddpm_jax import archive, runtime
from ddpm_jax.dashboard import jobs, runs
from ddpm_jax.processes import Process

ME = vars(Process.current())
GONE = {**ME, "start_time": 1.0}


def write(folder, job=None, **progress):
    folder.mkdir(parents=True)
    if job is not None:
        job = {"config": "avatars_cfg", "changes": {}, "created": 1.0, **job}
        (folder / jobs.FILE).write_text(json.dumps(job))
    if progress:
        (folder / runtime.PROGRESS).write_text(json.dumps(progress))
    return folder


def test_runs_are_found_two_folders_deep_the_last_changed_first_and_no_hidden_ones(tmp_path):
    for name in ("a", "study/b", "study/deep/c", ".trash/d", "e/.f"):
        write(tmp_path / name, status="done")
    (tmp_path / "empty").mkdir()

    os.utime(tmp_path / "a" / runtime.PROGRESS, (1, 1))
    assert [run.name for run in runs.find_all(tmp_path)] == ["study/b", "a"]
    assert runs.find_all(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/../a", ".trash/d", "a\0b", "", "x" * 300])
def test_a_name_is_one_of_those_found_and_never_a_path(tmp_path, name):
    write(tmp_path / "a", status="done")
    assert runs.find(tmp_path, name) is None
    assert runs.find(tmp_path, "a").folder == tmp_path / "a"


@pytest.mark.parametrize(
    ("state", "job", "progress"),
    [
        ("waiting", {}, {"status": "done"}),
        ("starting", {"state": "started", "process": ME}, {}),
        ("starting", {"state": "started", "process": ME}, {"status": "stopped", **GONE, "pid": 1}),
        ("running", {"state": "started", "process": ME}, {"status": "running", **ME}),
        ("running", None, {"status": "running", **ME}),
        ("killed", None, {"status": "running", **GONE}),
        ("killed", {"state": "started", "process": GONE}, {"status": "running", **GONE}),
        ("done", {"state": "ended", "code": 0}, {"status": "done", **GONE}),
        ("refused", {"state": "ended", "code": 65}, {}),
        ("diverged", {"state": "ended", "code": 70}, {"status": "diverged"}),
        ("storage failed", {"state": "ended", "code": 74}, {"status": "running", **GONE}),
        ("stopped", {"state": "ended", "code": 75}, {"status": "stopped"}),
        ("stopped", {"state": "ended", "code": -15}, {}),
        ("killed", {"state": "ended", "code": -9}, {"status": "running", **GONE}),
        ("failed", {"state": "ended", "code": 1}, {}),
        ("stopped", {"state": "ended"}, {}),
        ("stopped", None, {"status": "stopped", **GONE}),
        ("unknown", None, {"status": 7, "pid": float("inf"), "host": [], "start_time": {}}),
    ],
)
def test_the_state_of_a_run_is_a_word(tmp_path, state, job, progress):
    write(tmp_path / "a", job, **progress)
    (tmp_path / "a" / "metrics.jsonl").touch()
    (run,) = runs.find_all(tmp_path)
    assert run.state == state
    assert run.active == (state in ("waiting", "starting", "running"))


def test_of_a_progress_file_only_finite_numbers_are_kept(tmp_path):
    write(tmp_path / "a", status="done", step=3, steps="many", loss=float("nan"), rate=True, eta_s=[1])
    assert runs.find(tmp_path, "a").progress == {"step": 3}


def test_scalars_are_read_again_where_the_file_has_grown(tmp_path):
    file = write(tmp_path / "a") / "metrics.jsonl"
    file.write_text('{"step": 1, "time": 5.0, "loss": 2.0}\n')
    assert runs.scalars(tmp_path / "a")["loss"][1].tolist() == [2.0]
    with open(file, "a") as more:
        more.write('{"step": 2, "time": 7.5, "loss": "nan"}\n{"step": 3, "time": 9')
    assert runs.scalars(tmp_path / "a")["loss"][0].tolist() == [1, 2]
    assert runs.clock(tmp_path / "a").tolist() == [5.0, 7.5]
    file.write_text('{"step": 1, "time": 5.0, "loss": []}\n')
    assert runs.scalars(tmp_path / "a") == {}
    file.unlink()
    assert runs.scalars(tmp_path / "a") == {}
    assert runs.clock(tmp_path / "a").tolist() == []


def test_samples_are_the_files_named_by_their_step(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("samples_0000500.png", "samples_0001000.png", "samples_1x.png", "other.png"):
        (tmp_path / "samples" / name).touch()
    assert list(runs.samples(tmp_path)) == [500, 1000]
    assert runs.samples(tmp_path / "nowhere") == {}


def test_checkpoints_are_described_or_named_as_damaged(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "a")
    found = runs.checkpoints(tmp_path / "a")
    assert [saved.step for saved in found] == [8, 4]
    assert all(saved.meta and not saved.damage and saved.size > 1000 for saved in found)
    (tmp_path / "a" / "checkpoints" / "8" / "meta" / "metadata").write_text("{")
    damaged, whole = runs.checkpoints(tmp_path / "a")
    assert damaged.meta is None and "illegible" in damaged.damage
    assert runs.newest(tmp_path / "a") == whole
    assert runs.config(runs.find(tmp_path, "a"))["train.steps"] == 8
    assert "a" in runs.models(tmp_path)


def test_a_checkpoint_is_read_once_to_say_that_it_is_whole_and_again_where_it_changed(tmp_path, trained, monkeypatch):
    shutil.copytree(trained, tmp_path / "a")
    read, verify = [], archive.verify
    monkeypatch.setattr(archive, "verify", lambda path: (read.append(path.name), verify(path)))
    assert [runs.newest(tmp_path / "a", verified=True).step for _ in range(3)] == [8, 8, 8]
    assert read == ["8"]
    state = tmp_path / "a" / "checkpoints" / "8" / "state"
    file = max((path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert [runs.newest(tmp_path / "a", verified=True).step for _ in range(3)] == [4, 4, 4]
    assert read == ["8", "8", "4"]
    assert runs.newest(tmp_path / "a").step == 8
    assert "is damaged" in runs.damage(state.parent)


def test_the_log_ends_with_its_last_lines_and_may_be_no_text(tmp_path):
    (tmp_path / jobs.LOG).write_bytes(b"x" * 50_000 + b"\nlast \xff\n")
    assert runs.log_tail(tmp_path, 1) == "last \ufffd"
    assert runs.log_tail(tmp_path / "nowhere") == ""


def test_differences_are_the_settings_in_which_runs_differ():
    found = runs.differences({"a": {"x": 1, "y": (1, 2), "z": 0}, "b": {"x": 1, "y": [1], "w": True}})
    assert found == [
        {"setting": "w", "a": "", "b": "True"},
        {"setting": "y", "a": "[1, 2]", "b": "[1]"},
        {"setting": "z", "a": "0", "b": ""},
    ]


def test_a_running_mean_starts_without_bias_and_passes_over_nan():
    assert runs.smoothed(np.full(5, 3.0), 0.9) == pytest.approx(np.full(5, 3.0))
    assert runs.smoothed(np.array([1.0, 3.0]), 0.5) == pytest.approx([1.0, 7 / 3])
    assert runs.smoothed(np.array([np.nan, 2.0, np.nan]), 0.5) == pytest.approx([np.nan, 2.0, 2.0], nan_ok=True)
    assert runs.smoothed(np.array([1.0, 5.0]), 0.0) == pytest.approx([1.0, 5.0])
