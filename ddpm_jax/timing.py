"""Times of several sides doing the same work, taken in turn, so that what else the machine does falls on all alike.

A side is a process that answers lines of JSON: `ddpm_jax/speed.py`, or `scripts/peer/peer.py` in another environment.
"""

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from ddpm_jax import processes, runtime

PEER = Path(__file__).resolve().parents[1] / "scripts" / "peer" / "peer.py"
# Nothing compiled before is taken; a GPU is shared with the peer; the error comes last.
OURS = {"JAX_COMPILATION_CACHE_DIR": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
ERROR = re.compile(r"[\w.]+(Error|Exception|Exit)\b")
REST_S = 0.3  # between two sides: PyTorch's threads go on spinning for a while
RUNS = {"train_step": 3, "forward": 10, "sample": 1, "data": 20}  # of each side in a round; the median counts
EQUAL = 1e-4  # how far the outputs of both nets may be apart in float32


class Side:
    """A process that does the work of one side."""

    def __init__(self, command: Sequence[str], first: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Start it with its first line, and keep what it says of itself."""
        pipe, self._said = subprocess.PIPE, tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._said, text=True, env={**os.environ, **environment}
        )
        self._to, self._from = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self._command = " ".join(command)
        self.about = self.ask(**first)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return its answer. Raises BadInput where it ended instead: what it was asked it cannot do here."""
        try:
            self._to.write(json.dumps(request) + "\n")
            self._to.flush()
            answered = self._from.readline()
        except BrokenPipeError:
            answered = ""
        if answered:
            return json.loads(answered)
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["without a word"]
        last = next((line for line in reversed(lines) if ERROR.match(line)), lines[-1])  # libraries add advice after it
        self.close()
        raise runtime.BadInput(f"{self._command} ended with code {code}: {last}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


@contextlib.contextmanager
def ours(net: str, *, huge_pages: bool = False, devices: int = 0, **arguments: Any) -> Iterator[Side]:
    """Start our side on a work (see `speed.work`)."""
    environment = {**OURS, **(processes.HUGE_PAGES if huge_pages else {})}
    first = {"net": net, "devices": devices, **arguments}
    side = Side([sys.executable, "-m", "ddpm_jax.speed"], first, environment)
    with contextlib.closing(side):
        yield side


def compare(
    what: str,
    net: str,
    dtype: str,
    *,
    batch: int,
    rounds: int,
    device: str,
    peer: str,
    forms: Sequence[str],
    dispatch: int,
) -> dict[str, Any]:
    """Return the times of our side and, with a `peer` (its Python), of each of its forms, and their ratios.

    A ratio is the peer's time by ours in the same round: above 1, ours is faster.
    """
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        training = what == "train_step"  # where the main job gives itself huge pages; the peer gets the same
        arguments = {"dtype": dtype, "batch": batch, "changes": {"train.steps_per_dispatch": dispatch}}
        own = stack.enter_context(ours(net, huge_pages=training, **arguments))
        if peer:
            check_device(own.about["platform"], device)
        sides, spec = {"ours": own}, str(Path(folder, "spec.npz"))
        own.ask(do="outputs", spec=spec, to=str(Path(folder, "ours.npy")))
        differences = {}
        for form in forms if peer else ():
            first = {"spec": spec, "form": form, "dtype": dtype, "device": device, "dispatch": dispatch}
            cold = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder, form))}
            environment = cold | processes.HUGE_PAGES if training else cold
            side = Side([peer, str(PEER)], first, environment)
            sides[form] = stack.enter_context(contextlib.closing(side))
            side.ask(do="outputs", to=str(Path(folder, "peer.npy")))
            one, other = (np.load(Path(folder, f"{name}.npy")) for name in ("ours", "peer"))
            differences[form] = float(np.abs(one - other).max())
            if dtype == "float32" and device == "cpu" and not differences[form] <= EQUAL:
                raise runtime.BadInput(f"the nets differ by {differences[form]:.2g}: {form} does not do the same work")
        first_s, times, peak = in_turn(sides, what, rounds)
        about = {name: side.about for name, side in sides.items()}
    found = {"what": what, "net": net, "dtype": dtype, "batch": batch, "dispatch": dispatch, "about": about}
    return {**found, **summary(times), "first_s": first_s, "peak_bytes": peak, "differences": differences}


def check_device(ours: str, peer: str) -> None:
    """Raise BadInput unless both sides run on the same kind of device; jax calls every GPU "gpu"."""
    if (ours == "cpu") != (peer == "cpu"):
        raise runtime.BadInput(f"jax runs on {ours} here, the peer would on {peer}; set --device, or JAX_PLATFORMS=cpu")


def in_turn(
    sides: Mapping[str, Side], what: str, rounds: int
) -> tuple[dict[str, float], dict[str, Any], dict[str, int]]:
    """Return each side's seconds to its first result (it compiles), its time in each round, and its peak memory.

    The forward pass was compiled before, when the outputs of both were compared.
    """
    first, times, peak = {}, {name: [] for name in sides}, {}
    for name, side in sides.items():
        began = time.perf_counter()
        side.ask(do=what, count=1)
        first[name] = time.perf_counter() - began
        side.ask(do=what, count=2)  # compiled again for the shapes and layouts of what came out, if at all
    for _ in range(rounds):
        for name, side in sides.items():
            time.sleep(REST_S)
            answer = side.ask(do=what, count=RUNS[what])
            times[name].append(statistics.median(answer["seconds"]))
            peak[name] = answer["peak_bytes"]
    return first, times, peak


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the median of each side, and the median, least and largest ratio of each peer to ours, the best apart."""
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratios = {}
    for name in list(times)[1:]:
        pairs = [peer / own for own, peer in zip(times["ours"], times[name], strict=True)]
        ratios[name] = {"median": statistics.median(pairs), "least": min(pairs), "largest": max(pairs)}
    best = min(ratios, key=lambda name: ratios[name]["median"], default=None)
    return {
        "times": dict(times),
        "seconds": seconds,
        "ratios": ratios,
        "best_peer": best,
        "ratio": best and ratios[best]["median"],
    }


def line(row: Mapping[str, Any]) -> str:
    """Return one measurement in a line."""
    name = f"{row['net']} {row['what']} {row['dtype']}"
    text = f"{name:32s} ours {row['seconds']['ours'] * 1e3:8.2f} ms"
    for form, ratio in row["ratios"].items():
        text += f"  {form} {row['seconds'][form] * 1e3:.2f} ms x{ratio['median']:.2f}"
    return text


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, system, Python."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
