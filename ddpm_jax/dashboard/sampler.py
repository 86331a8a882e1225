"""The pages' side of `worker`: one process for all of them, asked one thing at a time."""

import base64
import collections
import concurrent.futures
import contextlib
import json
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import numpy as np

COMMAND = (sys.executable, "-m", "ddpm_jax.dashboard.worker")
LONGEST = 180.0  # seconds that one request may take before the process is ended


class Failed(Exception):
    """A request failed; the text is a sentence for the user."""


class _Request(NamedTuple):
    owner: str
    what: dict[str, Any]
    future: concurrent.futures.Future[Any]


class Sampler:
    """Starts the sampling process when it is first needed, again where it ended, and gives its answers as futures.

    Of requests that wait, only the newest of each `owner` (a part of a page in one tab) is kept: a slider that moves
    ten times is answered twice.
    """

    def __init__(self, command: tuple[str, ...] = COMMAND, longest: float = LONGEST) -> None:
        """Take the command of the process and the seconds a request may take; nothing is started yet."""
        self._command, self._longest = command, longest
        self._waiting: collections.deque[_Request] = collections.deque()
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def ask(self, do: str, *, owner: str = "", **arguments: Any) -> concurrent.futures.Future[Any]:
        """Return the future answer to a request (see `worker`); it raises `Failed` with a sentence."""
        request = _Request(owner, {"do": do, **arguments}, concurrent.futures.Future())
        with self._changed:
            for old in [old for old in self._waiting if owner and old.owner == owner]:
                self._waiting.remove(old)
                old.future.cancel()
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                request = self._waiting.popleft()
            if request.future.set_running_or_notify_cancel():
                try:
                    request.future.set_result(self._answer(request.what))
                except Failed as error:
                    request.future.set_exception(error)
                except Exception as error:  # this thread serves all pages: it goes on
                    self._end()  # what it says next may be the answer to this request
                    request.future.set_exception(Failed(f"the sampling process could not be asked: {error}"))

    def _answer(self, what: dict[str, Any]) -> Any:
        process = self._started()
        assert process.stdin and process.stdout
        late = threading.Event()
        timer = threading.Timer(self._longest, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            print(json.dumps(what), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if late.is_set():
            self._end()
            raise Failed(f"that took longer than {self._longest:.0f} seconds and was given up; ask for less")
        if not line.endswith("\n"):
            code = self._end()
            raise Failed(f"the sampling process ended (code {code}); ask again, for fewer pictures if it happens twice")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply["answer"]

    def _end(self) -> int | None:
        """End the process, if there is one, and return its exit code; the next request starts another."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):  # of what was not sent yet
                pipe.close()
        return process.wait()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        return self._process


def array(packed: dict[str, Any]) -> np.ndarray:
    """Return the uint8 array that `packed` made JSON values of."""
    return np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["shape"])


def packed(values: np.ndarray) -> dict[str, Any]:
    """Return a uint8 array as JSON values, for a request or an answer."""
    values = np.asarray(values, np.uint8)
    return {"shape": list(values.shape), "data": base64.b64encode(values.tobytes()).decode()}
