"""What a run promises of disks, devices, compilers and seeds, where no other file shows it."""

import dataclasses
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from conftest import CACHE, script, tiny_config
from test_machine import make_run, toy

from ddpm_jax import archive, build, checkpoint, commands, main, program, runtime, speed, train

TESTS = Path(__file__).parent


def alone(code, *words, devices=2, before=(), timeout=300):
    """Run code in a process of its own with so many devices; its last line of output is JSON."""
    env = {**os.environ, "PYTHONPATH": str(TESTS), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    command = [*before, sys.executable, "-c", code, *map(str, words)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def run_toy(workdir, event, at, steps=12):
    """Run the main job on the toy run of the state machine in this process; something happens before step `at`."""

    def feed(start, stop):
        for step in range(start + 1, stop + 1):
            if step == at:
                event()
            yield None

    made = make_run(steps, feed, toy()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
        patch.setattr(main, "CONFIG", types.SimpleNamespace(value=tiny_config()))
        patch.setattr(main, "WORKDIR", types.SimpleNamespace(value=str(workdir)))
        patch.setattr(main, "DISTRIBUTED", types.SimpleNamespace(value="off"))
        patch.setattr(main, "_built", lambda: made)
        main.main(["main"])


def test_a_workdir_that_is_a_file_ends_the_run_with_74_before_the_first_step(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(runtime.Storage, match=r"run cannot be written: (File exists|Not a directory)") as ended:
        run_toy(tmp_path / "run", pytest.fail, at=1)
    assert ended.value.code == 74


# On a disk of 8 MB in a mount namespace of its own, once the save of step 4 is whole.
DISK = """
import json, os, shutil, subprocess, sys, time
import conftest, test_machine
test_machine.SIZE = 100_000
import test_promises
from ddpm_jax import archive, checkpoint, runtime
disk, deed = sys.argv[1:]
run = f"{disk}/run"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
def saved():
    while not archive.steps(f"{run}/checkpoints"):
        time.sleep(0.01)
def fill():
    saved()
    left = os.statvfs(disk)
    with open(f"{disk}/filler", "wb") as file:
        file.write(bytes(left.f_bavail * left.f_frsize - 300_000))
def remove():
    saved()
    shutil.rmtree(run)
if deed == "read-only":
    test_promises.run_toy(run, None, at=0, steps=4)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
try:
    test_promises.run_toy(run, {"full": fill, "removed": remove}.get(deed), at=6)
except runtime.Failure as error:
    whole = archive.steps(f"{run}/checkpoints")
    for step in whole:
        checkpoint.verify(f"{run}/checkpoints/{step}")
    print(json.dumps([error.code, str(error), whole]))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("deed", "sentence", "left"),
    [
        ("full", r"^no space: need 1\.2 MB, free 0\.\d MB in .*; step 8 was not saved, older ones are$", [4]),
        ("read-only", r"^.*run cannot be written: Read-only file system$", [4]),
        ("removed", "No such file or directory|is gone|is damaged", []),
    ],
    ids=["full", "read-only", "removed"],
)
def test_a_disk_that_fails_ends_the_run_with_74_and_older_saves_whole(tmp_path, figure, deed, sentence, left):
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*private, "mount", "-t", "tmpfs", "none", tmp_path]).returncode:
        pytest.skip("this user may not mount a file system of its own")
    code, said, whole = alone(DISK, tmp_path, deed, before=private)
    assert re.search(sentence, said), said
    assert (code, whole) == (74, left)
    figure(f"workdir {deed}", f"exit code {code}, {len(whole)} of {len(left)} older saves whole")


@pytest.mark.parametrize(
    ("n", "message"),
    [("-1", "n x labels is -1; it must be from 1 to 100000"), ("1000000000", "pixels, and at most 16777216 are drawn")],
    ids=["negative", "a billion"],
)
def test_a_number_of_pictures_out_of_range_is_one_sentence(trained, tmp_path, capsys, n, message):
    words = [f"--checkpoint={trained}", f"--out={tmp_path / 'a.png'}", f"--n={n}"]
    assert commands.run(script("sample").make, words) == 65
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


# Saves a state on four devices, split over them or whole on each, and restores it on as many as there may be.
ELSEWHERE = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from ddpm_jax import checkpoint, devices
def over(n):
    return Mesh(np.array(jax.devices()[:n]), ("data",), axis_types=(AxisType.Auto,))
draw = np.random.default_rng(0)
state = {"params": {"w": draw.normal(size=(64, 96)).astype("float32"), "b": draw.normal(size=3).astype("float32")}}
state |= {"half": jax.numpy.asarray(draw.normal(size=(8, 1024)), "bfloat16"), "step": np.int32(7)}
shapes = jax.eval_shape(lambda: state)
found = {}
for layout, lies in devices.LAYOUTS.items():
    saves = checkpoint.Checkpointer(f"{sys.argv[1]}/{layout}")
    saves.save(1, jax.device_put(state, lies(shapes, over(4))), {})
    saves.wait()
    for n in (1, 2, 4, 8):
        restored, _ = saves.restore(1, devices.placed(shapes, lies(shapes, over(n))))
        same = [np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (state, restored)))]
        on = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)}
        split = restored["params"]["w"].addressable_shards[0].data.size
        found[f"{layout} {n}"] = [all(same), sorted(on), split]
    saves.close()
print(json.dumps(found))
"""


def test_what_four_devices_saved_any_number_restores_bit_for_bit(tmp_path):
    found = alone(ELSEWHERE, tmp_path, devices=8)
    size = 64 * 96
    assert found == {
        f"{layout} {n}": [True, [n], size // n if layout == "sharded" else size]
        for layout in ("replicated", "sharded")
        for n in (1, 2, 4, 8)
    }


# A run of four devices to its end, and its state in a process that has another number of them.
TRAINED_ON = """
import json, sys
from conftest import tiny_config
from ddpm_jax import build, train
train.train(build.build(tiny_config(runtime__parameters=sys.argv[2])), sys.argv[1])
print("0")
"""
RESTORED_ON = """
import json, pathlib, sys
import numpy as np
from conftest import tiny_config
from ddpm_jax import archive, build, checkpoint, train
run, folder = build.build(tiny_config(runtime__parameters=sys.argv[2])), pathlib.Path(sys.argv[1]) / "checkpoints"
saves = checkpoint.Checkpointer(folder)
now, meta = train.start(run, saves, folder)
saves.close()
sums = {name: archive.checksum(np.asarray(leaf)) for name, leaf in archive.by_name(now).items()}
print(json.dumps([sums[name] == entry["crc32"] for name, entry in meta["checksums"].items()]))
"""


@pytest.mark.long
@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_a_run_of_four_devices_goes_on_with_one_two_and_eight(tmp_path, layout, figure):
    alone(TRAINED_ON, tmp_path, layout, devices=4)
    same = {n: alone(RESTORED_ON, tmp_path, layout, devices=n) for n in (1, 2, 8)}
    assert all(all(arrays) and len(arrays) > 20 for arrays in same.values())
    equal = ", ".join(f"{sum(arrays)} of {len(arrays)} arrays on {n}" for n, arrays in same.items())
    figure(f"saved on 4 devices ({layout}), equal bit for bit", equal)


@pytest.mark.long
def test_two_hundred_steps_compile_each_function_once_and_keep_memory_flat(tmp_path, caplog, figure):
    run = build.build(
        tiny_config(
            train__steps=200,
            checkpoint__every=10,
            log__every=5,
            log__eval_every=10,
            log__sample_every=10,
            log__exact_every=10,
        )
    )
    process, seen, compiled = psutil.Process(), {}, Counter()

    class Compiled(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("Compiling "):
                compiled[record.getMessage().split(" with ")[0]] += 1

    def feed(start, stop):
        for step, inputs in enumerate(run.feed(start, stop), start + 1):
            if step in (60, 200):
                seen[step] = process.memory_info().rss / 1e6, len(jax.live_arrays()), sum(compiled.values())
            yield inputs

    handler, logger = Compiled(), logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            train.train(dataclasses.replace(run, feed=feed), str(tmp_path))
    finally:
        logger.removeHandler(handler)
    ours = {name: times for name, times in compiled.items() if any(w in name for w in ("advance", "eval_step", "many"))}
    assert compiled and ours["Compiling jit(advance)"] == 1, compiled
    (megabytes, arrays, before), (later, arrays_later, after) = seen[60], seen[200]
    assert after == before, f"{after - before} compilations between steps 60 and 200"
    assert abs(arrays_later - arrays) <= 2 and later - megabytes < 30
    figure("compilations between steps 60 and 200, with evaluation and sampling", after - before)
    figure("memory from step 60 to step 200", f"{later - megabytes:+.1f} MB of {later:.0f} MB")


PICTURES = """
import json, sys
import numpy as np
import ddpm_jax
model = ddpm_jax.load(sys.argv[1])
draw = lambda n: model.sample("Cat", n=n, sampler="ddpm", steps=4, seed=3)
one, seven, sixteen, many, again = (draw(n) for n in (1, 7, 16, 64, 64))
np.save(sys.argv[2], many)
same = [np.array_equal(many, again), np.array_equal(seven, sixteen[:7])]
differ = [float((part != many[: len(part)]).any(-1).mean()) for part in (one, seven)]
print(json.dumps([same, differ]))
"""
TOLERANCE = 0.01  # of the pixels may have another colour on other devices or in another bucket


@pytest.mark.long
def test_a_seed_makes_the_same_pictures_twice_and_nearly_the_same_on_other_devices(trained, tmp_path, figure):
    many, differ = {}, {}
    for n in (1, 4):
        same, differ[n] = alone(PICTURES, trained, tmp_path / f"{n}.npy", devices=n)
        assert same == [True, True]  # twice, and 7 of 16 in the same bucket
        many[n] = np.load(tmp_path / f"{n}.npy")
    across = float((many[1] != many[4]).any(-1).mean())
    worst = max(across, *differ[1], *differ[4])
    assert worst < TOLERANCE
    figure("the same seed twice, and 7 pictures of 16, on 1 and 4 devices", "equal bit for bit")
    figure(
        "pixels that differ: 1 and 7 against 64 pictures, 1 against 4 devices", f"{worst:.2%} of {many[1][..., 0].size}"
    )


@pytest.mark.long
def test_a_save_blocks_training_for_a_moment_only(tmp_path, figure):
    state = program.make_init(speed.work("punks", batch=8).parts)(1)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    began = time.perf_counter()
    for array in arrays:
        archive.checksum(array)
    summed, blocked, whole = time.perf_counter() - began, [], []
    saves = checkpoint.Checkpointer(tmp_path)
    for step in range(7):
        began = time.perf_counter()
        saves.save(step, state, {})
        blocked.append(time.perf_counter() - began)
        saves.wait()
        whole.append(time.perf_counter() - began)
    saves.close()
    blocks, takes = statistics.median(blocked[2:]), statistics.median(whole[2:])  # the first ones open Orbax
    assert blocks < takes
    size = f"{sum(array.nbytes for array in arrays) / 1e6:.0f} MB in {len(arrays)} arrays"
    figure(f"a save of punks_cfg ({size}): blocks training", f"{blocks * 1e3:.0f} ms (median of 5)")
    figure("a save of punks_cfg: until it is on disk, read back and compared", f"{takes * 1e3:.0f} ms")
    figure("a save of punks_cfg: one pass of checksums (two are made)", f"{summed * 1e3:.0f} ms")
