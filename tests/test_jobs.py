"""The queue of training jobs: one after another, stopped, resumed, deleted; and run files that nobody may trust."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ddpm_jax import runtime
from ddpm_jax.dashboard import jobs, runs
from ddpm_jax.processes import Process, start_time

CONFIG = "avatars_cfg"
# A trainer that writes when it began and ended, and saves (in words) when it is asked to end.
TRAINER = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    (folder / "saved").write_text("yes")
    raise SystemExit(75)
signal.signal(signal.SIGTERM, save)
(folder / "began").write_text(str(time.time()))
time.sleep(float(sys.argv[2]))
(folder / "ended").write_text(str(time.time()))
"""
# The queue of a dashboard whose trainer is the one above.
QUEUE = """
import pathlib, sys
from ddpm_jax.dashboard import jobs
jobs.command = lambda folder, job: [sys.executable, "-c", {trainer!r}, str(folder), str(job.changes.get("seconds", 60))]
jobs.run_queue(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """What starts the queue of `tmp_path`; all that runs at the end of the test is ended."""
    started = []

    def see_to_queue(root):
        started.append(subprocess.Popen([sys.executable, "-c", QUEUE.format(trainer=TRAINER), str(root)]))

    monkeypatch.setattr(jobs, "see_to_queue", see_to_queue)
    yield started
    for child in started:
        child.kill()
        child.wait()
    for path in tmp_path.glob(f"*/{jobs.FILE}"):
        job = jobs.read(path.parent)
        if job and job.trainer and job.trainer.alive():
            os.kill(job.trainer.pid, signal.SIGKILL)


def until(fact, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def state(folder):
    job = jobs.read(folder)
    return job and job.state


def began(folder):
    return lambda: (folder / "began").exists() and state(folder) == "started"


def write(folder, **fields):
    folder.mkdir(exist_ok=True)
    job = {"config": CONFIG, "changes": {}, "created": 1.0, **fields}
    (folder / jobs.FILE).write_text(json.dumps(job))
    return folder


def test_jobs_run_one_after_another_in_the_order_they_came(tmp_path, queue):
    folders = [jobs.add(tmp_path, CONFIG, {"seconds": 0.4}) for _ in range(3)]
    until(lambda: all(state(folder) == "ended" for folder in folders))
    times = [float((folder / name).read_text()) for folder in folders for name in ("began", "ended")]
    assert times == sorted(times)
    assert [jobs.read(folder).code for folder in folders] == [0, 0, 0]
    assert len({folder.name for folder in folders}) == 3
    for child in queue:
        assert child.wait(10) == 0


def test_a_queue_and_its_job_outlive_who_started_them(tmp_path):
    program = f"""
import pathlib, sys
from ddpm_jax.dashboard import jobs
root = pathlib.Path(sys.argv[1])
# The real start of a queue, of a program of ours.
real = jobs.subprocess.Popen
queue = {QUEUE.format(trainer=TRAINER)!r}
jobs.subprocess.Popen = lambda command, **how: real([sys.executable, "-c", queue, command[-1]], **how)
jobs.add(root, {CONFIG!r}, {{"seconds": 60}})
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=20)
    (folder,) = until(lambda: [path.parent for path in tmp_path.glob("*/began")])
    until(began(folder))
    queue = json.loads((tmp_path / jobs.LOCK).read_bytes())["pid"]
    # What a terminal sends to its foreground, or at its end, reaches neither.
    assert len({os.getsid(pid) for pid in (0, queue, jobs.read(folder).trainer.pid)}) == 3
    assert jobs.stop(folder)
    until(lambda: state(folder) == "ended")
    assert jobs.read(folder).code == runtime.Exit.STOPPED


def test_a_job_that_is_stopped_saves_and_can_be_resumed(tmp_path, queue):
    folder = jobs.add(tmp_path, CONFIG, {"seconds": 60})
    until(began(folder))
    assert jobs.stop(folder)
    until(lambda: state(folder) == "ended")
    assert (folder / "saved").read_text() == "yes"
    assert jobs.read(folder).code == runtime.Exit.STOPPED
    assert runs.find(tmp_path, folder.name).state == "stopped"
    (folder / "began").unlink()
    jobs.resume(folder, tmp_path)
    until(began(folder))
    assert jobs.read(folder).alive
    assert jobs.stop(folder)
    until(lambda: state(folder) == "ended")


def test_a_second_stop_sends_no_second_signal_which_would_not_save(tmp_path):
    folder, asked = tmp_path / "run", tmp_path / "asked"
    # os.write: a signal that comes while the first line is printed may not print to the same file
    program = f"import os, signal, time\nfile = os.open({str(asked)!r}, os.O_WRONLY | os.O_CREAT)\n"
    program += "signal.signal(signal.SIGTERM, lambda *_: os.write(file, b'asked\\n'))\nos.write(file, b'ready\\n')\n"
    program += "time.sleep(5)\n" * 12
    with subprocess.Popen([sys.executable, "-c", program]) as child:
        until(lambda: asked.exists() and asked.read_text() == "ready\n")
        who = Process(child.pid, Process.current().host, start_time(child.pid))
        write(folder, state="started", process=dataclasses.asdict(who))
        assert runs.find(tmp_path, "run").state == "starting"
        assert jobs.stop(folder)
        until(lambda: asked.read_text() == "ready\nasked\n")
        assert runs.find(tmp_path, "run").state == "stopping"
        assert jobs.stop(folder) and jobs.stop(folder)
        time.sleep(0.2)
        assert asked.read_text() == "ready\nasked\n"
        os.utime(folder / jobs.STOP, (time.time() - jobs.AGAIN_S - 1,) * 2)
        assert jobs.stop(folder)
        until(lambda: asked.read_text() == "ready\nasked\nasked\n", 3)
        child.kill()


def test_a_waiting_job_that_is_stopped_never_starts(tmp_path, queue):
    first = jobs.add(tmp_path, CONFIG, {"seconds": 1})
    second = jobs.add(tmp_path, CONFIG, {"seconds": 1})
    until(began(first))
    assert jobs.waiting(tmp_path) == [second]
    assert jobs.stop(second)
    until(lambda: state(first) == "ended")
    assert queue[0].wait(10) == 0
    assert state(second) == "ended"
    assert not (second / "began").exists()
    assert not jobs.stop(second)


def test_what_runs_or_waits_is_not_deleted_and_what_ended_moves_to_the_trash(tmp_path, queue):
    first, second = (jobs.add(tmp_path, CONFIG, {"seconds": 60}) for _ in range(2))
    until(began(first))
    for folder in (first, second):
        with pytest.raises(runtime.BadInput, match="running or waiting; stop it first"):
            jobs.delete(folder, tmp_path)
    jobs.stop(second)
    jobs.stop(first)
    until(lambda: state(first) == "ended")
    place = jobs.delete(first, tmp_path)
    assert place.parent == tmp_path / jobs.TRASH
    assert (place / "saved").exists()
    assert not first.exists()
    assert [run.name for run in runs.find_all(tmp_path)] == [second.name]


def test_a_run_that_was_started_by_hand_is_not_deleted_while_it_holds_its_workdir(tmp_path):
    folder = tmp_path / "run"
    with runtime.lock_workdir(folder):
        runtime.write_progress(folder, status="running", step=1, steps=2)
        with pytest.raises(runtime.BadInput, match="run is running"):
            jobs.delete(folder, tmp_path)
    assert jobs.delete(folder, tmp_path).exists()


def test_a_pid_that_belongs_to_another_process_by_now_is_not_signalled(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        who = Process(other.pid, Process.current().host, (start_time(other.pid) or 0) - 3600)
        folder = write(tmp_path / "run", state="started", process=dataclasses.asdict(who))
        assert not jobs.stop(folder)
        time.sleep(0.2)
        assert other.poll() is None
        assert runs.find(tmp_path, "run").state == "stopped"
        assert jobs.delete(folder, tmp_path).exists()
        other.kill()


def test_the_job_of_a_queue_that_was_killed_is_waited_for(tmp_path, queue):
    first = jobs.add(tmp_path, CONFIG, {"seconds": 2.5})
    until(began(first))
    queue[0].kill()
    queue[0].wait()
    assert jobs.read(first).alive
    second = jobs.add(tmp_path, CONFIG, {"seconds": 0})
    until(lambda: state(second) == "ended")
    assert float((second / "began").read_text()) > float((first / "ended").read_text())
    assert (jobs.read(first).state, jobs.read(first).code) == ("ended", None)


def test_a_job_whose_queue_was_killed_can_be_resumed_once_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "see_to_queue", lambda root: None)
    gone = Process(2**22 - 1, Process.current().host, 1.0)
    folder = write(tmp_path / "run", state="started", process=dataclasses.asdict(gone))
    jobs.resume(folder, tmp_path)
    assert jobs.waiting(tmp_path) == [folder]


def test_a_job_that_is_deleted_under_the_queue_does_not_end_it(tmp_path, queue):
    first, second = jobs.add(tmp_path, CONFIG, {"seconds": 0.5}), jobs.add(tmp_path, CONFIG, {"seconds": 0})
    until(began(first))
    first.rename(tmp_path / ".gone")
    until(lambda: state(second) == "ended")
    assert queue[0].wait(10) == 0
    assert jobs.read(second).code == 0


def forged(**fields):
    return json.dumps({"config": CONFIG, "changes": {}, "created": 1, **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        forged()[:-1],
        forged(created="now"),
        forged(created=float("inf")),
        forged(changes=[]),
        forged(config=7),
        forged(state="soon"),
        forged(code="75"),
        forged(process={"pid": -1, "host": "a", "start_time": 1}),
        forged(process={"pid": float("inf"), "host": "a", "start_time": 1}),
        forged(process={"pid": "me"}),
        forged(shell="rm"),
        b"[" * 100_000,
    ],
    ids=range(15),
)
def test_a_run_file_that_is_forged_or_torn_is_no_job_and_stops_no_queue(tmp_path, queue, content):
    folder = tmp_path / "forged"
    folder.mkdir()
    (folder / jobs.FILE).write_bytes(content)
    assert jobs.read(folder) is None
    assert not jobs.stop(folder)
    jobs.resume(folder, tmp_path)
    assert jobs.waiting(tmp_path) == []
    assert not queue
    assert runs.find(tmp_path, "forged").state == "unknown"


def test_a_configuration_is_a_shipped_name_and_never_a_path(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "see_to_queue", lambda root: None)
    for name in ("../../x.py", "/tmp/x.py", "default", "avatars_cfg; rm", "a\0b", "x" * 300):
        with pytest.raises(runtime.BadInput, match="unknown configuration"):
            jobs.add(tmp_path, name, {})
    assert list(tmp_path.iterdir()) == []
    assert jobs.add(tmp_path, CONFIG, {}).parent == tmp_path


def test_the_command_of_a_job_is_a_list_of_words_with_tuples_as_python_has_them():
    job = jobs.Job(CONFIG, {"net.multipliers": [1, 2], "net.attention": [6], "train.minutes": 2.2}, 1.0)
    words = jobs.command(pathlib.Path("/w/a b"), job)
    assert words[1:5] == ["-m", "ddpm_jax.main", f"--config={CONFIG}", "--workdir=/w/a b"]
    assert words[5:] == ["--config.net.multipliers=(1, 2)", "--config.net.attention=(6,)", "--config.train.minutes=2.2"]


def test_waiting_jobs_are_neglected_where_no_queue_lives(tmp_path):
    assert not jobs.neglected(tmp_path)
    write(tmp_path / "run")
    assert jobs.neglected(tmp_path)
    (tmp_path / jobs.LOCK).write_text(json.dumps(dataclasses.asdict(Process.current())))
    assert not jobs.neglected(tmp_path)
    (tmp_path / jobs.LOCK).write_text(json.dumps({**dataclasses.asdict(Process.current()), "start_time": 1.0}))
    assert jobs.neglected(tmp_path)
