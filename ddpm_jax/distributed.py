"""Several processes as one run: they join, do the same work, fail together, and agree when to stop.

Process 0 writes: logs, the progress file, checkpoints. Every process computes its part of each step, and gives its part
of what is saved.
"""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from ddpm_jax import devices, runtime

T = TypeVar("T")

JOIN_S, LEAVE_S, FAREWELL_S = 300, 30, 3  # how long a process waits for the others at its start, its end, a failed end
_MESSAGE = 4096  # bytes that a process may tell the others at once
_SENTENCE = 512  # bytes of a sentence among them: as JSON a byte takes six at most
_LOST = re.compile("gloo|nccl|coordination|heartbeat|connection|socket|unavailable|deadline|peer", re.IGNORECASE)


def connect(how: str) -> int:
    """Join the other processes of a run and return how many there are; call it before anything asks jax for a device.

    `how` is "off" (this process alone), "auto" (as Slurm, Open MPI, Cloud TPU or Kubernetes say; alone where none does)
    or "host:port,n,i": n processes, of which this is number i, and the address at which number 0 listens. Raises
    BadInput for anything else. Where the others do not come within `JOIN_S`, jaxlib aborts the process.
    """
    if how == "off":
        return 1
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `runtime.stop_signals`
    address, count, index = (None, None, None) if how == "auto" else parse(how)
    if address is not None and index == 0:
        _check_free(int(address.rpartition(":")[2]))
    times: Any = {"initialization_timeout": JOIN_S, "shutdown_timeout_seconds": LEAVE_S}
    try:
        jax.distributed.initialize(address, count, index, **times)
    except ValueError as error:
        if how == "auto" and "coordinator_address" in str(error):  # no cluster was found
            return 1
        raise runtime.BadInput(f"--distributed={how}: {error}") from error
    return _jax_says().num_processes


def connected() -> bool:
    """Say whether this process is one of several, or was started to be."""
    return jax.distributed.is_initialized()


def meet() -> None:
    """Wait until all processes are here: gloo gives up after 30 s where one is late for what they first do together."""
    if jax.process_count() > 1:
        _exchange(None)


def leave(code: int) -> NoReturn:
    """End a process whose run failed: a regular exit would wait for the others, who may wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _jax_says().process_id == 0:
        # jaxlib aborts the others as soon as the first is gone: they may end by themselves before.
        time.sleep(FAREWELL_S)
    os._exit(code)


def _check_free(port: int) -> None:
    """Raise BadInput for a port that another program listens at: jaxlib may crash there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was in use just now will do
        try:
            probe.bind(("", port))
        except OSError as error:
            said = f"--distributed: port {port} cannot be had ({error.strerror}); try another"
            raise runtime.BadInput(said) from error


def _jax_says() -> Any:
    """Return jax's record of the processes; its public functions would start the devices."""
    from jax._src import distributed

    return distributed.global_state


def parse(how: str) -> tuple[str, int, int]:
    """Return (address, number of processes, index of this one) of "host:port,n,i"."""
    match = re.fullmatch(r"([^\s,]+:\d+),(\d+),(\d+)", how)
    if match is None or not int(match[3]) < int(match[2]) or not 0 < int(match[1].rpartition(":")[2]) < 2**16:
        raise runtime.BadInput(
            f"--distributed is {how!r}; give auto, off, or host:port,n,i with 0 <= i < n, as in 10.0.0.1:1234,4,0"
        )
    return match[1], int(match[2]), int(match[3])


def leads() -> bool:
    """Say whether this is the process that writes."""
    return jax.process_index() == 0


def together(work: Callable[[], T]) -> T:
    """Do the same work in every process; if one fails, all do, so that none is left waiting for it.

    What another process raised is raised here with its code and sentence. The work may not hold a collective.
    """
    if jax.process_count() == 1:
        return work()
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    said = _exchange(None if failure is None else _told(failure))
    if failure is not None:
        raise failure
    for index, other in enumerate(said):
        if other is not None:
            raise _heard(index, *other)
    return result  # pyright: ignore[reportReturnType]


def from_first(work: Callable[[], Any]) -> Any:
    """Do work in process 0 and return its result, JSON values, in every process; its failure is everybody's."""
    if jax.process_count() == 1:
        return work()
    mine = together(work if leads() else lambda: None)
    return _exchange(mine)[0]


def check_alike(of: str, what: str) -> None:
    """Raise BadInput in every process unless all give the same text; `what` names it in the sentence."""
    if jax.process_count() > 1:
        texts = _exchange(of)
        differing = [i for i, text in enumerate(texts) if text != texts[0]]
        if differing:
            raise runtime.BadInput(f"process {differing[0]} has {what} other than process 0's; start all alike")


class Vote:
    """Whether any process wants something; asked once a step, known one step later, so that no step waits for it."""

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._over = devices.mesh()
        self._any = jax.jit(lambda votes: votes.max(), out_shardings=devices.replicate(self._over))
        self._asked: Any = False

    def __call__(self, mine: bool) -> bool:
        """Say what this process wants, and return whether any wanted it at the call before (alone: now)."""
        if jax.process_count() == 1:
            return mine
        votes = devices.put(np.full(self._over.size, mine, np.int8), devices.shard(self._over))
        answer, self._asked = bool(self._asked), self._any(votes)
        return answer


def is_lost(error: Exception) -> bool:
    """Say whether an error looks like the end of another process of the run."""
    return connected() and isinstance(error, jax.errors.JaxRuntimeError) and bool(_LOST.search(str(error)))


def _told(failure: Exception) -> tuple[int, str]:
    code = failure.code if isinstance(failure, runtime.Failure) else runtime.Exit.BUG
    return int(code), str(failure).encode()[:_SENTENCE].decode(errors="ignore")


def _heard(index: int, code: int, sentence: str) -> runtime.Failure:
    failure = runtime.Failure(f"process {index}: {sentence}")
    failure.code = runtime.Exit(code)
    return failure


def _exchange(value: Any) -> list[Any]:
    """Return the JSON value of each process."""
    from jax.experimental import multihost_utils

    text = json.dumps(value, ensure_ascii=False).encode()
    if len(text) > _MESSAGE:
        raise ValueError(f"a message of {len(text)} bytes to other processes; it may have {_MESSAGE}")
    told = multihost_utils.process_allgather(np.frombuffer(text.ljust(_MESSAGE), np.uint8))
    return [json.loads(bytes(row)) for row in np.asarray(told)]
