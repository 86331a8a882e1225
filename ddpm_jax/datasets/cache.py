"""The array cache: a data set decoded once, verified by sha256 whenever it is read."""

import contextlib
import json
import logging
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ddpm_jax.datasets import raw

POLL = 0.1  # seconds between two looks at a lock

logger = logging.getLogger(__name__)


def arrays(path: Path, key: Any, decode: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `<path>.npz`; where it is absent, damaged or of another `key`, decoded and written first.

    `key` is the JSON value that says what the arrays were made from. Of several processes one decodes, under a file
    lock; the others wait for it, and say so. Needs NumPy alone.
    """
    found, _ = _read(path, key)
    if found is not None:
        return found
    with locked(_beside(path, ".lock")):
        found, reason = _read(path, key)  # another process may have written it in the meantime
        if found is None:
            if reason:
                logger.warning("%s %s; decoding it again", _beside(path, ".npz"), reason)
            found = decode()
            _write(path, key, found)
        return found


def holds(path: Path, key: Any) -> bool:
    """Say whether `arrays` would decode nothing; looks at the note alone, not at the arrays."""
    try:
        return _beside(path, ".npz").exists() and json.loads(_beside(path, ".json").read_bytes())["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; wait, saying so, while another process holds it. A dead holder frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        if not _try_lock(stream):
            logger.warning("waiting: another process prepares %s", path.with_name(path.stem))
            while not _try_lock(stream):
                time.sleep(POLL)
        try:
            yield
        finally:
            _unlock(stream)


def _read(path: Path, key: Any) -> tuple[dict[str, np.ndarray] | None, str]:
    """The arrays, or None with the reason in words ("" where there is simply no cache)."""
    blob, note = _beside(path, ".npz"), _beside(path, ".json")
    if not blob.exists() or not note.exists():
        return None, ""
    try:
        said = json.loads(note.read_bytes())
        if said["key"] != key:
            return None, "was made from other files or by another version"
        digest = raw.sha256_of(blob)
        if digest != said["sha256"]:
            return None, f"is damaged (sha256 {digest}, expected {said['sha256']})"
        with np.load(blob, allow_pickle=False) as found:
            return dict(found), ""
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        return None, f"cannot be read ({error})"


def _write(path: Path, key: Any, found: dict[str, np.ndarray]) -> None:
    """Write the arrays, then the note with their sha256, each by an atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blob, part = _beside(path, ".npz"), _beside(path, ".part")
    try:
        with part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **found)
        digest = raw.sha256_of(part)
        part.replace(blob)
        part.write_text(json.dumps({"key": key, "sha256": digest}, indent=1))
        part.replace(_beside(path, ".json"))
    finally:
        part.unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    """The file of a set; `with_suffix` would cut the name of `cifar10_3.0.2_train` at the version's last dot."""
    return path.with_name(path.name + suffix)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(stream: IO[bytes]) -> bool:
        """Take the lock if it is free."""
        try:
            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False

    def _unlock(stream: IO[bytes]) -> None:
        """Give the lock back."""
        stream.seek(0)
        msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(stream: IO[bytes]) -> bool:
        """Take the lock if it is free; the kernel frees it when its holder dies."""
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False

    def _unlock(stream: IO[bytes]) -> None:
        """Give the lock back."""
        fcntl.flock(stream, fcntl.LOCK_UN)
