"""Several processes are one run: the same numbers, the same end, and one of them writes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import tiny_config
from test_main import command

from ddpm_jax import build, checkpoint, devices, distributed, metrics, runtime, train

LONG = {"train__steps": 30, "log__every": 1, "log__sample_every": 30, "log__eval_every": 10, "checkpoint__every": 10}
MEMBER = """
import dataclasses, json, os, pathlib, signal, sys, time
import jax, numpy as np
from conftest import tiny_config
from ddpm_jax import build, distributed, runtime, train

address, n, i, each, folder, settings = sys.argv[1:]
n, i, folder, settings = int(n), int(i), pathlib.Path(folder), json.loads(settings)
jax.config.update("jax_num_cpu_devices", int(each))
if n > 1:
    assert distributed.connect(f"{address},{n},{i}") == n
    distributed.meet()
if n > 2 and i == 0:  # one that is late, for longer than gloo waits for what processes first do together
    time.sleep(35)
distributed.together(lambda: None)
if n != 2:
    train.train(build.build(tiny_config(**settings)), str(folder / "straight"))

def failing():
    if i == n - 1:
        raise runtime.Storage("the disk is full: " + "é" * 3000)
    return "fine"

def stopped(run):  # the last process is told to stop in the middle
    def feed(start, stop):
        for step, inputs in enumerate(run.feed(start, stop), start + 1):
            if step == 13 and start < 13 and i == n - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield inputs
    return dataclasses.replace(run, feed=feed)

def heard(work):
    try:
        return work()
    except runtime.Failure as failure:
        return [int(failure.code), str(failure)]

if n > 1:
    said = {"failing": heard(lambda: distributed.together(failing)), "first": distributed.from_first(lambda: [i, "é"])}
    said["alike"] = heard(lambda: distributed.check_alike("data" if i else "other data", "data"))
    run = build.build(tiny_config(**settings, runtime__parameters="sharded", data__storage="stream"))
    said["stop"] = heard(lambda: train.train(stopped(run), str(folder / "stopped")))
    held = max(x.addressable_data(0).size / x.size for x in jax.tree.leaves(run.init(1).params) if x.size >= 2**12)
    train.train(run, str(folder / "stopped"))
    print(json.dumps({**said, "largest share": held}))
"""


ODD = "--config.train.batch_size=17"


def free_port():
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def members(folder, n, each, **settings):
    """Start n processes of a run on `each` devices and return what they print as JSON, once all have ended well."""
    words = [f"127.0.0.1:{free_port()}", str(n)], [str(each), str(folder), json.dumps({**LONG, **settings})]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, *words[0], str(i), *words[1]],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n)
    ]
    ended = [process.communicate(timeout=280) for process in started]
    assert [process.returncode for process in started] == [0] * n, ended
    return [json.loads(out.splitlines()[-1]) if out.strip() else None for out, _ in ended]


def difference(one, two):
    """The largest difference of two runs: of the logged losses relative, of the parameters absolute."""
    (steps, losses), (others, values) = (metrics.read_scalars(path)["loss"] for path in (one, two))
    np.testing.assert_array_equal(steps, others)
    states = [checkpoint.load_arrays(checkpoint.resolve(path), "params") for path in (one, two)]
    gaps = jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), *states))
    return float(np.abs(losses / values - 1).max()), max(gaps)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of the same run in this process, on two devices."""
    workdir = tmp_path_factory.mktemp("alone")
    train.train(build.build(tiny_config(**LONG)), str(workdir))
    return workdir


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.long)])
def test_processes_train_stop_fail_and_go_on_as_one(alone, tmp_path, n, figure):
    said = members(tmp_path, n, each=1)
    for name in ("straight", "stopped") if n > 2 else ("stopped",):
        loss, gap = difference(alone, tmp_path / name)
        figure(f"1 against {n} processes, {name}: difference of losses, of parameters", f"{loss:.1e}, {gap:.1e}")
        assert loss < 1e-5 and gap < 1e-5
    for i, one in enumerate(said):
        assert one["first"] == [0, "é"]
        code, sentence = one["failing"]
        said_by = "" if i == n - 1 else f"process {n - 1}: "
        assert code == 74 and sentence.startswith(said_by + "the disk is full: éé")
        assert one["alike"] == [65, "process 1 has data other than process 0's; start all alike"]
        assert one["stop"][0] == 75
        assert one["largest share"] == 1 / n  # of a big array, in one process
    steps = {re.fullmatch(r".*: step (\d+) of 30 is saved in .*", one["stop"][1])[1] for one in said}
    assert len(steps) == 1 and 13 <= int(steps.pop()) <= 15  # all saved the same step
    assert said[-1]["stop"][1].startswith("SIGTERM") and said[0]["stop"][1].startswith("a signal to another process")
    assert len(list(tmp_path.glob("stopped/events.out.tfevents.*"))) == 2  # one process logs, in two parts


@pytest.mark.long
@pytest.mark.parametrize("each", [1, 8])
def test_the_number_of_devices_does_not_matter(alone, tmp_path, each, figure, monkeypatch):
    if each > 1:
        members(tmp_path, 1, each)
    else:
        one = jax.sharding.Mesh(jax.devices()[:1], ("data",))  # its axis is Auto, as that of `devices.mesh`
        monkeypatch.setattr(devices, "mesh", lambda: one)
        train.train(build.build(tiny_config(**LONG)), str(tmp_path / "straight"))
    loss, gap = difference(alone, tmp_path / "straight")
    figure(f"2 against {each} devices: difference of losses, of parameters", f"{loss:.1e}, {gap:.1e}")
    one, other = (metrics.read_scalars(path)["loss"][1][0] for path in (alone, tmp_path / "straight"))
    figure(f"2 against {each} devices: difference of the first loss", f"{abs(one / other - 1):.1e}")
    assert one == pytest.approx(other, rel=5e-6)  # float32 sums in another order
    assert loss < 1e-5 and gap < 1e-5


@pytest.mark.long
def test_sharded_parameters_train_to_the_same_numbers(alone, tmp_path, figure):
    run = build.build(tiny_config(**LONG, runtime__parameters="sharded"))
    sharded = [x for x in jax.tree.leaves(run.abstract) if not x.sharding.is_fully_replicated]
    assert sharded and all(x.size >= devices.MIN_SHARDED for x in sharded)
    train.train(run, str(tmp_path))
    loss, gap = difference(alone, tmp_path)
    figure("replicated against sharded parameters: difference of losses, of parameters", f"{loss:.1e}, {gap:.1e}")
    assert loss < 1e-5 and gap < 1e-5


def start(tmp_path, port, i, *flags):
    """One of two processes of the main job."""
    return subprocess.Popen(**command(tmp_path, f"--distributed=127.0.0.1:{port},2,{i}", *flags))


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_the_same_step_in_both(tmp_path, victim, figure):
    port, flags = free_port(), ("--config.runtime.devices=1", "--config.train.steps=4000")
    jobs = [start(tmp_path, port, i, *flags) for i in range(2)]
    next(line for line in jobs[0].stderr if line.startswith("step "))
    jobs[victim].send_signal(signal.SIGTERM)
    said = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [75, 75], said
    steps = {re.search(r": step (\d+) of 4000 is saved", text)[1] for text in said}
    assert len(steps) == 1
    assert checkpoint.resolve(tmp_path / "run").name == steps.pop()
    figure(f"SIGTERM to process {victim} of 2", "both saved the same step, exit 75")


@pytest.mark.long
def test_the_end_of_one_process_is_the_end_of_the_other_and_both_go_on(alone, tmp_path, figure):
    flags = ("--config.runtime.devices=1", "--config.checkpoint.every=10", "--config.train.steps=4000")
    jobs = [start(tmp_path, free := free_port(), 0, *flags), start(tmp_path, free, 1, *flags)]
    next(line for line in jobs[0].stderr if line.startswith("step 30/"))
    jobs[1].kill()
    said, _ = [job.communicate(timeout=120)[1] for job in jobs]
    assert jobs[0].returncode == 76 and "another process of this run is gone, run the same command again" in said
    newest = int(checkpoint.resolve(tmp_path / "run").name)
    port, flags = free_port(), (*flags[:2], f"--config.train.steps={newest + 10}")
    jobs = [start(tmp_path, port, i, *flags) for i in range(2)]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0]
    for job in jobs:
        job.stderr.close()
    assert checkpoint.resolve(tmp_path / "run").name == str(newest + 10)
    figure("SIGKILL to one of 2 processes", f"the other ends with 76; both went on from step {newest}")


@pytest.mark.long
def test_where_only_one_process_fails_each_ends_with_a_code_of_its_own(tmp_path, figure):
    port = free_port()
    jobs = [start(tmp_path, port, i, "--config.runtime.devices=1", *flags) for i, flags in enumerate(([], [ODD]))]
    said = [job.communicate(timeout=120)[1] for job in jobs]
    assert jobs[1].returncode == 65 and "batch_size 17 is not divisible by 2 devices; try 16 or 18" in said[1]
    assert jobs[0].returncode in (76, -signal.SIGABRT), said[0]  # jaxlib may be faster than we
    figure("one of 2 processes with another batch size", f"it ends with 65, the other with {jobs[0].returncode}")


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(runtime.BadInput, match=f"port {port} cannot be had .*; try another"):
            distributed.connect(f"127.0.0.1:{port},2,0")


@pytest.mark.parametrize(
    "how", ["", "on", "h,2,0", "h:1,2", "h:1,2,2", "h:1,0,0", "h:x,2,0", "a b:1,2,0", "h:0,2,0", "h:65536,2,0"]
)
def test_what_names_no_processes_is_refused(how):
    with pytest.raises(runtime.BadInput, match=f"--distributed is {how!r}; give auto, off, or host:port,n,i with 0"):
        distributed.connect(how)


def test_processes_are_named_by_address_number_and_index():
    assert distributed.parse("10.0.0.1:1234,4,3") == ("10.0.0.1:1234", 4, 3)
    assert distributed.parse("[::1]:1234,1,0") == ("[::1]:1234", 1, 0)


def test_alone_everything_is_said_and_done_at_once(monkeypatch):
    assert distributed.connect("off") == 1 and distributed.leads()
    assert distributed.together(lambda: 3) == distributed.from_first(lambda: 3) == 3
    with pytest.raises(KeyError):
        distributed.together(lambda: {}["absent"])
    distributed.check_alike("one", "nothing")
    vote = distributed.Vote()
    assert [vote(False), vote(True), vote(False)] == [False, True, False]


def test_the_end_of_another_process_is_told_from_a_bug(monkeypatch):
    closed = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    assert not distributed.is_lost(closed)  # there is no other
    monkeypatch.setattr(distributed, "connected", lambda: True)
    assert distributed.is_lost(closed)
    assert not distributed.is_lost(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert not distributed.is_lost(ValueError("peer"))


def test_the_identity_of_a_run_leaves_out_where_things_lie(tmp_path):
    meta = build.build(tiny_config()).meta
    moved = {**meta, "config": {**meta["config"], "data": {**meta["config"]["data"], "root": "elsewhere"}}}
    other = {**meta, "config": {**meta["config"], "seed": 1}}
    assert train.identity(meta) == train.identity(moved) != train.identity(other)
    assert train.identity({**meta, "fingerprint": "other"}) != train.identity(meta)


def test_sharding_splits_the_largest_axis_that_divides():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 96), np.float32),
        "odd": jax.ShapeDtypeStruct((64, 97), np.float32),
        "prime": jax.ShapeDtypeStruct((101, 103), np.float32),
        "bias": jax.ShapeDtypeStruct((96,), np.float32),
        "step": jax.ShapeDtypeStruct((), np.int32),
    }
    lying = devices.sharded(shapes, devices.mesh())
    specs = {name: tuple(sharding.spec) for name, sharding in lying.items()}
    assert specs == {"kernel": (None, None, None, "data"), "odd": ("data",), "prime": (), "bias": (), "step": ()}
    tree = {name: np.arange(np.prod(s.shape), dtype=s.dtype).reshape(s.shape) for name, s in shapes.items()}
    there = {name: devices.put(tree[name], lying[name]) for name in tree}
    assert there["kernel"].addressable_data(0).shape == (3, 3, 64, 48)
    jax.tree.map(np.testing.assert_array_equal, devices.gathered(there), tree)
