"""This process: its memory, how it is told from a later one with the same pid, and a file that it alone holds."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_LOADED = time.time()
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # an environment, read before a program's first line


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same pid by its start time (seconds since 1970)."""

    pid: int
    host: str
    start_time: float
    boot: str = ""  # of the machine, where it says: containers on several machines may share a host name and a pid

    @classmethod
    def current(cls) -> "Process":
        """Return the process that asks."""
        return cls(os.getpid(), socket.gethostname(), start_time(os.getpid()) or _LOADED, _boot())

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Process | None":
        """Return the process that a lock or progress file names; None if it names none."""
        try:
            boot = str(record.get("boot", ""))
            return cls(int(record["pid"]), str(record["host"]), float(record["start_time"]), boot)
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def here(self) -> bool:
        """Say whether it ran on this machine, since it was started."""
        return self.host == socket.gethostname() and self.boot in ("", _boot())

    def alive(self) -> bool:
        """Say whether it still runs on this host; two seconds of tolerance, as clocks are corrected."""
        started = start_time(self.pid) if self.here() else None
        return started is not None and abs(started - self.start_time) < 2

    def __str__(self) -> str:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.start_time))
        return f"pid {self.pid} on {self.host}, started {started}"


def start_time(pid: int) -> float | None:
    """Return when a process of this host started, in seconds since 1970; None if it is gone or the host cannot say."""
    try:
        if sys.platform == "linux":
            state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if state == "Z":  # it has ended, and its parent has not asked how
                return None
            ticks = int(fields[18])
            boot = re.search(r"btime (\d+)", pathlib.Path("/proc/stat").read_text())
            return (int(boot[1]) if boot else 0) + ticks / os.sysconf("SC_CLK_TCK")
        text = subprocess.check_output(["ps", "-o", "lstart=", "-p", str(pid)], env={"LC_ALL": "C"}, text=True)
        return time.mktime(time.strptime(text.strip()))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _boot() -> str:
    """Return the mark of this start of the machine; "" where the system has none."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def use_huge_pages() -> None:
    """Start `python -m ddpm_jax.main` over, in the same process, with memory in huge pages.

    XLA:CPU maps the memory of its intermediate values anew at every call. In pages of 2 MiB instead of 4 KiB a training
    step took 15 % less time. glibc reads the setting before the first line of a program; one given already is kept.
    Nothing happens where the main job was started in another way (its command line would not start it again), where
    glibc is not at hand, or where the system refuses.
    """
    ours = ("-m", "ddpm_jax.main") in itertools.pairwise(sys.orig_argv)
    if ours and sys.executable and _has_glibc() and "GLIBC_TUNABLES" not in os.environ:
        with contextlib.suppress(OSError):
            os.execve(
                sys.executable,
                [sys.executable, *sys.orig_argv[1:]],
                {**os.environ, **HUGE_PAGES},
            )


def _has_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):  # Windows, musl, macOS
        return False


@contextlib.contextmanager
def hold(path: pathlib.Path, beat_s: float = 5.0) -> Iterator[tuple[bool, Process | None]]:
    """Yield (whether the file is now this process's alone, the other process that it named).

    The kernel's file lock goes with its process, so a crash leaves nothing behind on this host. Not every network
    file system carries such locks to other hosts: the holder also touches the file every `beat_s`, and a file that
    another host wrote is taken over only if it stays untouched for three beats.
    """
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "rb+", buffering=0) as file:
        locked = _lock(file)
        other = _named(path)
        if not locked or (other and _lives(path, other, beat_s)):
            yield False, other
            return
        file.truncate(0)
        file.write(json.dumps(dataclasses.asdict(Process.current())).encode())
        done = threading.Event()
        beat = threading.Thread(target=_beat, args=(path, done, beat_s), daemon=True)
        beat.start()
        try:
            yield True, other
        finally:
            done.set()
            beat.join()
            file.truncate(0)


def _named(path: pathlib.Path) -> Process | None:
    try:
        return Process.read(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _lock(file: BinaryIO) -> bool:
    """Take the kernel's exclusive lock without waiting; it ends with this process, however it ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # Windows locks bytes against reading too: lock one far behind the holder's name
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # no such locks here: the beat decides
    return True


def _lives(path: pathlib.Path, other: Process, beat_s: float) -> bool:
    """Say whether the other process is seen to live: by pid on this host, by watching its beat on another."""
    if other.here():
        return other.pid != os.getpid() and other.alive()
    before = _touched(path)
    deadline = time.monotonic() + 3 * beat_s
    while time.monotonic() < deadline:
        time.sleep(beat_s / 4)
        if _touched(path) != before:
            return True
    return False


def _touched(path: pathlib.Path) -> int:
    with open(path, "rb") as file:  # a network file system asks its server at an open, not at a stat
        return os.fstat(file.fileno()).st_mtime_ns


def _beat(path: pathlib.Path, done: threading.Event, beat_s: float) -> None:
    while not done.wait(beat_s):
        with contextlib.suppress(OSError):
            os.utime(path)
