"""The pages' side of the sampling process: futures, a process that dies or hangs, memory, and requests out of date."""

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import psutil
import pytest

from ddpm_jax.dashboard.sampler import Failed, Sampler, array, packed

WAIT = 60.0  # seconds; far longer than any answer here takes


def stand_in(body):
    """The command of a process that answers each request `what` by `body`, quickly and without jax."""
    head = "import json, os, sys, time\ndef answer(what):\n"
    tail = "\nfor line in sys.stdin:\n    print(json.dumps(answer(json.loads(line))), flush=True)\n"
    return (sys.executable, "-c", head + textwrap.indent(body, "    ") + tail)


@pytest.fixture
def start():
    """What makes a Sampler; its process is ended after the test."""
    made = []

    def make(*arguments, **options):
        made.append(Sampler(*arguments, **options))
        return made[-1]

    yield make
    for sampler in made:
        sampler._end()


PID = stand_in("return {'answer': os.getpid()}")


def test_arrays_come_through():
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 1)).astype(np.uint8)
    np.testing.assert_array_equal(array(packed(values)), values)
    np.testing.assert_array_equal(array(packed(values[:, ::-1])), values[:, ::-1])


def test_nothing_is_started_before_it_is_needed_and_then_one_process(start):
    sampler = start(PID)
    assert sampler._process is None
    assert sampler.ask("x").result(WAIT) == sampler.ask("x").result(WAIT) == sampler._process.pid


def test_an_error_is_raised_as_its_sentence(start):
    sampler = start(stand_in("return {'error': 'seed is -1; it must be from 0'} if what['n'] else {'answer': 1}"))
    with pytest.raises(Failed, match=r"^seed is -1; it must be from 0$"):
        sampler.ask("draw", n=1).result(WAIT)
    assert sampler.ask("draw", n=0).result(WAIT) == 1


def test_a_killed_process_is_told_of_and_another_started(start):
    sampler = start(stand_in("time.sleep(what['s']); return {'answer': os.getpid()}"))
    first = sampler.ask("x", s=0).result(WAIT)
    pending = sampler.ask("x", s=600)
    while not pending.running():
        pass
    psutil.Process(first).kill()
    with pytest.raises(Failed, match=r"the sampling process ended \(code -9\); ask again, for fewer pictures"):
        pending.result(WAIT)
    second = sampler.ask("x", s=0).result(WAIT)
    assert second != first and not psutil.pid_exists(first)
    psutil.Process(second).kill()
    psutil.wait_procs([psutil.Process(second)] if psutil.pid_exists(second) else [], timeout=WAIT)
    assert sampler.ask("x", s=0).result(WAIT) not in (first, second)  # it died unasked: nobody need hear of that


BROKEN = {
    "it says nothing and ends": "os._exit(3)",
    "it is cut off in an answer": "sys.stdout.write('{\"answer\": 1'); sys.stdout.flush(); os._exit(0)",
    "it says what is no JSON": "print('Killed', flush=True); return 1",
    "it says a number": "return 1",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_after_a_broken_answer_the_next_is_right(start, body):
    sampler = start(stand_in(f"if what['fail']:\n    {body}\nreturn {{'answer': what['n']}}"))
    with pytest.raises(Failed, match=r"the sampling process (ended|could not be asked)"):
        sampler.ask("x", fail=True, n=0).result(WAIT)
    assert [sampler.ask("x", fail=False, n=n).result(WAIT) for n in range(3)] == [0, 1, 2]


def test_what_cannot_be_sent_or_started_is_a_sentence(start):
    sampler = start(PID)
    for wrong in ({1, 2}, 10**5000):
        with pytest.raises(Failed, match="the sampling process could not be asked: "):
            sampler.ask("x", n=wrong).result(WAIT)
    assert sampler.ask("x").result(WAIT)
    with pytest.raises(Failed, match=r"the sampling process could not be asked: .*no-such-program"):
        start(("no-such-program",)).ask("x").result(WAIT)


def test_a_request_that_takes_too_long_is_given_up(start):
    sampler = start(stand_in("time.sleep(what['s']); return {'answer': 1}"), longest=2.0)
    assert sampler.ask("x", s=0).result(WAIT) == 1
    with pytest.raises(Failed, match="that took longer than 2 seconds and was given up; ask for less"):
        sampler.ask("x", s=600).result(WAIT)
    assert sampler.ask("x", s=0).result(WAIT) == 1


def test_of_waiting_requests_only_the_newest_of_each_owner_is_asked(start, tmp_path):
    gate = tmp_path / "gate"
    body = "while what['wait'] and not os.path.exists(what['wait']): time.sleep(0.01)\nreturn {'answer': what['n']}"
    sampler = start(stand_in(body))
    running = sampler.ask("x", owner="tab 1", wait=str(gate), n=0)
    while not running.running():
        pass
    slider = [sampler.ask("x", owner="tab 1", wait="", n=n) for n in range(1, 11)]
    other = sampler.ask("x", owner="tab 2", wait="", n=11)
    nobody = [sampler.ask("x", wait="", n=n) for n in (12, 13)]
    gate.touch()
    assert [future.result(WAIT) for future in (running, slider[-1], other, *nobody)] == [0, 10, 11, 12, 13]
    for old in slider[:-1]:
        with pytest.raises(CancelledError):
            old.result(WAIT)


def test_many_threads_get_their_own_answers(start):
    sampler, found = start(stand_in("return {'answer': what['n']}")), {}

    def ask(n):
        found[n] = sampler.ask("x", owner=str(n), n=n).result(WAIT)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert found == {n: n for n in range(20)}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is capped on Linux alone")
def test_what_needs_too_much_memory_ends_in_a_sentence(start, trained):
    """The cap is half way between what a process takes for one picture and for 19,000, about 140 MiB more."""
    job = {"kind": "sheet", "label": "Cat", "seed": 0, "steps": 2, "guidance": 1.0}
    asked = {"model": str(trained), "which": "ema"}
    roomy = start()
    roomy.ask("draw", **asked, job={**job, "n": 1}).result(WAIT)
    size = _data_size(roomy._process.pid)
    roomy._end()
    tight = start((sys.executable, "-m", "ddpm_jax.dashboard.worker", str(size + 70 * 2**20)))
    assert tight.ask("draw", **asked, job={**job, "n": 1}).result(WAIT)["seconds"] > 0
    with pytest.raises(
        Failed, match=r"the sampling process (ran out of its memory|ended \(code -?\d+\)).*fewer pictures"
    ):
        tight.ask("draw", **asked, job={**job, "n": 19_000}).result(WAIT)
    assert tight.ask("draw", **asked, job={**job, "n": 1}).result(WAIT)["seconds"] > 0


def _data_size(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


def test_the_pages_import_no_jax():
    program = """
        import importlib, pkgutil, sys
        import ddpm_jax.dashboard
        names = [found.name for found in pkgutil.iter_modules(ddpm_jax.dashboard.__path__)]
        for name in set(names) - {"worker", "app"}:
            importlib.import_module(f"ddpm_jax.dashboard.{name}")
        print(len(names), sorted(sys.modules.keys() & {"jax", "jaxlib", "flax", "optax", "orbax"}))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    count, _, found = result.stdout.strip().partition(" ")
    assert result.returncode == 0, result.stderr
    assert int(count) >= 12 and found == "[]"
