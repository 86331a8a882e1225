"""Facts about runs as processes: exit codes, the lock of a workdir, signals and the progress file."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm_jax import processes, runtime

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and links of POSIX")


def test_each_failure_has_the_exit_code_of_its_kind() -> None:
    kinds = (runtime.BadInput, runtime.Busy, runtime.Diverged, runtime.Storage, runtime.Stopped)
    assert [kind("why").code for kind in kinds] == [65, 69, 70, 74, 75]
    assert (runtime.Exit.DONE, runtime.Failure("why").code) == (0, 1)
    assert issubclass(runtime.BadInput, ValueError)


def test_a_written_file_is_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    runtime.write_atomically(tmp_path / "a", b"old")
    runtime.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.write_atomically(tmp_path / "a", b"old")

    def full(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        runtime.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".progress.json", "progress.json", ".other.json.abcd1234"]
    for name in (*kept, ".progress.json.abcd1234", ".progress.json._1"):
        (tmp_path / name).touch()
    runtime.remove_unfinished(tmp_path, runtime.PROGRESS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_progress_is_read_back_with_the_process_that_wrote_it(tmp_path: Path) -> None:
    runtime.write_progress(tmp_path, step=3, steps=10, loss=0.5, status="running")
    progress = runtime.read_progress(tmp_path)
    assert (progress["step"], progress["steps"], progress["loss"], progress["status"]) == (3, 10, 0.5, "running")
    process = processes.Process.read(progress)
    assert process is not None and process.pid == os.getpid() and process.alive()


@pytest.mark.parametrize("content", [None, b"", b'{"step": 3', b"[1]", b"\xff\xfe"])
def test_progress_that_is_absent_or_illegible_is_empty(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / runtime.PROGRESS).write_bytes(content)
    assert runtime.read_progress(tmp_path) == {}


def test_progress_is_json_even_of_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    runtime.write_progress(tmp_path, loss=float("nan"), rate=float("inf"))
    text = (tmp_path / runtime.PROGRESS).read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (record["loss"], record["rate"]) == (None, None)


def test_a_process_is_told_from_a_later_one_with_its_pid() -> None:
    me = processes.Process.current()
    assert me.alive() and abs(me.start_time - time.time()) < 3600
    assert not processes.Process(me.pid, me.host, me.start_time - 60).alive()
    assert not processes.Process(me.pid, "elsewhere", me.start_time).alive()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = processes.Process(child.pid, me.host, processes.start_time(child.pid) or 0)
    assert other.alive()
    child.communicate(b"\n")
    assert not other.alive()


MAIN = ["python", "-m", "ddpm_jax.main", "--workdir=run"]


@pytest.fixture
def execs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, str]]]:
    """What the process would become: the main job was started with glibc at hand, and nothing is replaced."""
    found: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "orig_argv", MAIN)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setattr(os, "execve", lambda *command: found.append(command))
    return found


def test_the_main_job_starts_over_with_huge_pages(execs: list[tuple[str, list[str], dict[str, str]]]) -> None:
    processes.use_huge_pages()
    ((path, command, environment),) = execs
    assert path == command[0] == sys.executable and command[1:] == MAIN[1:]
    assert environment == {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def no_glibc(_name: str) -> str:
    raise ValueError("unrecognized configuration name")


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (sys, "orig_argv", ["python", "-c", "import runpy", "ddpm_jax.main"]),
        (sys, "orig_argv", ["python", "-m", "ipykernel_launcher", "-f", "ddpm_jax.main"]),
        (sys, "executable", ""),
        (sys, "executable", None),
        (os, "confstr", no_glibc),
        (os, "confstr", lambda name: None),
        (os, "environ", {"GLIBC_TUNABLES": ""}),
    ],
)
def test_what_could_not_be_started_over_goes_on(
    execs: list[object], monkeypatch: pytest.MonkeyPatch, where: object, name: str, value: object
) -> None:
    monkeypatch.setattr(where, name, value)
    processes.use_huge_pages()
    assert execs == []


def test_a_refused_start_over_goes_on(execs: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*command: object) -> None:
        execs.append(command)
        raise PermissionError("not here")

    monkeypatch.setattr(os, "execve", refuse)
    processes.use_huge_pages()
    assert len(execs) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ps says nothing of it")
def test_a_process_that_has_ended_unasked_does_not_live() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child.pid}").exists() and processes.start_time(child.pid) is None


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"pid": "x", "host": "h", "start_time": 0},
        {"pid": 1, "host": "h"},
        {"pid": float("inf"), "host": "h", "start_time": 0},
    ],
)
def test_a_record_that_names_no_process_is_none(record: dict[str, object]) -> None:
    assert processes.Process.read(record) is None


HOLDER = """
import sys, time
from ddpm_jax import processes
import pathlib
with processes.hold(pathlib.Path(sys.argv[1]), beat_s=0.1) as (mine, other):
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the workdir `tmp_path`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / runtime.LOCK)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    yield child
    child.kill()
    child.communicate()


def test_a_held_workdir_is_refused_with_its_holder(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    sentence = rf"in use by pid {holder.pid} on {processes.Process.current().host}, started \d{{4}}-\d\d-\d\d \d\d:"
    with pytest.raises(runtime.Busy, match=sentence), runtime.lock_workdir(tmp_path):
        pass
    assert processes.start_time(holder.pid) is not None


def test_the_lock_of_a_killed_holder_is_reclaimed_and_said(
    tmp_path: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    with runtime.lock_workdir(tmp_path):
        pass
    assert f"reclaimed the lock of {tmp_path} from pid {holder.pid} on" in caplog.text


def test_a_workdir_is_held_once_also_within_a_process(tmp_path: Path) -> None:
    with runtime.lock_workdir(tmp_path / "new"):
        with pytest.raises(runtime.Busy, match=f"in use by pid {os.getpid()} "), runtime.lock_workdir(tmp_path / "new"):
            pass


def test_a_released_lock_is_taken_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with runtime.lock_workdir(tmp_path):
            pass
    assert caplog.text == ""


def other_host(path: Path) -> None:
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "start_time": time.time()}))


def test_the_lock_of_another_host_holds_while_it_beats(tmp_path: Path) -> None:
    path = tmp_path / runtime.LOCK
    other_host(path)
    done = threading.Event()
    beat = threading.Thread(target=processes._beat, args=(path, done, 0.05), daemon=True)
    beat.start()
    with pytest.raises(runtime.Busy, match="pid 1 on elsewhere"), runtime.lock_workdir(tmp_path, beat_s=0.1):
        pass
    done.set()
    beat.join()


def test_the_silent_lock_of_another_host_is_reclaimed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other_host(tmp_path / runtime.LOCK)
    with runtime.lock_workdir(tmp_path, beat_s=0.05):
        pass
    assert "from pid 1 on elsewhere, started" in caplog.text


def test_a_container_of_another_machine_with_our_name_and_pid_holds_while_it_beats(tmp_path: Path) -> None:
    path, twin = tmp_path / runtime.LOCK, processes.Process.current()
    path.write_text(json.dumps({**vars(twin), "boot": "another"}))
    done = threading.Event()
    beat = threading.Thread(target=processes._beat, args=(path, done, 0.05), daemon=True)
    beat.start()
    with pytest.raises(runtime.Busy, match=f"pid {twin.pid} on"), runtime.lock_workdir(tmp_path, beat_s=0.1):
        pass
    done.set()
    beat.join()


def test_a_holder_beats(tmp_path: Path) -> None:
    path = tmp_path / runtime.LOCK
    with runtime.lock_workdir(tmp_path, beat_s=0.02):
        before = path.stat().st_mtime_ns
        time.sleep(0.2)
        assert path.stat().st_mtime_ns > before


@POSIX
def test_without_kernel_locks_a_live_pid_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_lock", lambda file: True)
    parent = processes.Process(os.getppid(), processes.Process.current().host, processes.start_time(os.getppid()) or 0)
    (tmp_path / runtime.LOCK).write_text(json.dumps(vars(parent)))
    with pytest.raises(runtime.Busy, match=f"pid {os.getppid()}"), runtime.lock_workdir(tmp_path):
        pass


def test_a_torn_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / runtime.LOCK).write_text('{"pid": 1')
    with runtime.lock_workdir(tmp_path):
        assert processes.Process.read(json.loads((tmp_path / runtime.LOCK).read_text())) == processes.Process.current()


def test_a_workdir_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(runtime.Storage, match=r"file/run cannot be written: Not a directory"):
        with runtime.lock_workdir(tmp_path / "file" / "run"):
            pass


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_the_first_signal_is_a_request(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with runtime.stop_signals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        signal.raise_signal(number)  # at once: the same signal, delivered twice
        assert stop.requested == name
    assert signal.getsignal(number) == before


@POSIX
def test_a_request_at_once_is_not_taken_for_an_error_of_what_it_interrupts() -> None:
    with runtime.stop_signals() as stop:
        with pytest.raises(runtime.Stopped, match="SIGTERM: stopped while starting"), stop.at_once():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Exception as error:  # as what reads a file does
                raise AssertionError("the file is damaged") from error
        signal.raise_signal(signal.SIGTERM)  # the same one, delivered twice
        with pytest.raises(runtime.Stopped), stop.at_once():
            raise AssertionError("what was requested before is heard")


def test_outside_the_main_thread_no_signal_is_taken() -> None:
    found: list[str] = []

    def run() -> None:
        with runtime.stop_signals() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [""]


STUBBORN = """
import time
from ddpm_jax import runtime
with runtime.stop_signals() as stop:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        if stop.requested == "SIGINT":
            print("asked", flush=True)
            stop.requested = "asked"
"""


@POSIX
def test_the_second_signal_ends_the_process_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "asked\n"
    time.sleep(0.6)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=10)
    assert child.returncode == -signal.SIGTERM


def test_nested_settings_get_dotted_names() -> None:
    assert runtime.flat({"train": {"steps": 5, "ema": {"decay": 0.9}}, "seed": 0}) == {
        "train.steps": 5,
        "train.ema.decay": 0.9,
        "seed": 0,
    }
