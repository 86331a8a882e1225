"""What a run needs of devices that are not here: counted from its program, compiled for them ahead of time."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from conftest import CACHE, ROOT, script, tiny_config

from ddpm_jax import checkpoint, devices, hlo, runtime, topology, train

CHIP = topology.Chip(gib=1, tflops=2, gb_per_s=4)
HERE = topology.parse("cpu:2")._replace(chip=CHIP)  # as many devices as the tests have
NO_LIBTPU = importlib.util.find_spec("libtpu") is None
TINY = {"net.channels": 8, "net.multipliers": "(1,)", "net.word_maps": 4, "net.head_channels": 4, "net.groups": 2}


def measured(**changes):
    return topology.measure(tiny_config(**changes), HERE, lambda _: devices.mesh())


@pytest.fixture(scope="module")
def report():
    return measured(train__steps_per_dispatch=2)


def test_a_topology_is_a_kind_of_chip_and_a_layout():
    pod = topology.parse("v5e:16x16")
    assert (pod.name, pod.chips, pod.chip.gib) == ("v5e:16x16", 256, 16)
    assert topology.parse("v5p:4x4x8").chips == 128
    assert topology.parse("gpu:8").layout == (8,)


@pytest.mark.parametrize("name", ["", "v5e", "v5e:", "v5e:4x", "v9:4x4", "cpu:4x4", "gpu:-8", "cpu:8.5", "v5e:4X4"])
def test_an_unknown_topology_is_refused(name):
    with pytest.raises(runtime.BadInput, match=r"topology '.*' is unknown; give a TPU \(v4, v5e, v5p, v6e\) and"):
        topology.parse(name)


@pytest.mark.parametrize("name", ["cpu:0", "gpu:4097", "v5e:1000x1000"])
def test_a_number_of_chips_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=r"topology: the number of chips is .* from 1 to 4096"):
        topology.parse(name)


def test_the_bytes_of_a_chip_add_up(report):
    size = report["bytes_per_chip"]
    assert size["optimizer, average"] - 3 * size["parameters"] < 100  # two moments, an average, some counters
    assert report["checkpoint_bytes"] == size["parameters"] + size["optimizer, average"]
    assert size["in all"] == sum(size.values()) - size["in all"] and size["temporary"] > 0
    assert report["pictures_per_chip"] == 8 and report["memory_bytes"] == 2**30


def test_each_chip_gets_the_gradient_of_all(report):
    assert report["collectives"]["all-reduce"]["bytes"] == pytest.approx(
        report["bytes_per_chip"]["parameters"], rel=0.02
    )


def test_sharded_parameters_are_gathered_and_take_less(report, monkeypatch):
    monkeypatch.setattr(devices, "MIN_SHARDED", 64)  # the tests' net has small arrays only
    sharded = measured(runtime__parameters="sharded")
    for what in ("parameters", "optimizer, average"):
        assert sharded["bytes_per_chip"][what] < 0.6 * report["bytes_per_chip"][what]
    assert sharded["checkpoint_bytes"] == report["checkpoint_bytes"]
    assert sharded["collectives"]["all-gather"]["times"] > 0 and "all-gather" not in report["collectives"]


@pytest.mark.long
def test_steps_of_a_dispatch_are_one_by_one_and_a_batch_in_parts_costs_the_same_arithmetic(report):
    parts = measured(train__accumulate=4)
    assert parts["flop_per_chip"] == pytest.approx(report["flop_per_chip"], rel=0.05)


def test_the_time_of_a_step_is_at_least_that_of_its_arithmetic_and_of_its_state(report):
    bounds = {"arithmetic": report["flop_per_chip"] / 2e12, "memory": report["checkpoint_bytes"] / 2e9}
    assert report["seconds_at_least"] == pytest.approx(bounds)


def test_a_chip_whose_memory_is_too_small_is_refused(report):
    topology.check(report)
    with pytest.raises(runtime.BadInput, match=r"a chip of cpu:2 has 0\.1 MB and the step needs .* take more chips"):
        topology.check({**report, "memory_bytes": 10**5})


def test_a_batch_that_does_not_divide_is_refused_before_a_compiler_is_looked_for():
    pod = topology.parse("v5e:16x16")
    with pytest.raises(runtime.BadInput, match="batch_size 100 is not divisible by 256 devices; try 256"):
        topology.measure(tiny_config(train__batch_size=100), pod, lambda of: pytest.fail("compiled"))


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(runtime.BadInput, match=r"v5e:4x4 needs the compiler of TPUs; install it.*ddpm_jax\[tpu\]"):
        topology.mesh(topology.parse("v5e:4x4"))


def test_a_program_too_large_for_the_compiler_is_bad_input():
    def compile():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM (20.55G exceeds 15.75G).\nmore")

    with pytest.raises(runtime.BadInput, match=r"does not fit into a chip of cpu:2; .* parts: Ran out .* 15.75G\)\.$"):
        topology._compile(SimpleNamespace(compile=compile), HERE)


@pytest.mark.parametrize(("newest", "best", "every"), [(2, 1, 0), (1, 0, 0), (3, 2, 40), (2, 1, 25), (50, 0, 0)])
def test_as_many_checkpoints_are_expected_as_the_rule_can_keep(newest, best, every):
    saves = train.Saves(every=10, keep_newest=newest, keep_best=best, keep_every=every, best_metric="eval/loss")
    there, most = set(), 0
    for step in range(10, 201, 10):
        rule = checkpoint.Retention(newest, best, every, scores={step: step % 100 for step in range(10, 201, 10)})
        most = max(most, len(there) + 1)  # the new one is written before an old one goes
        there = rule.kept(there | {step})
    assert most <= topology.kept(200, saves) <= most + 2


def test_free_space_is_that_of_the_nearest_directory_there_is(tmp_path, report):
    assert topology.free(str(tmp_path / "not" / "there")) > 0
    topology.check({**report, "workdir": "w", "free_bytes": 10**12})
    with pytest.raises(runtime.Storage, match=r"no space: need .* MB, free 0\.0 MB in w$"):
        topology.check({**report, "workdir": "w", "free_bytes": 1})


def test_the_table_is_aligned(report):
    table = list(topology.lines({**report, "topology": "gpu:2", "workdir": "w", "free_bytes": 10**9}))
    assert "MB free in the workdir             1,000.0 w" in table
    assert {len(line.split("  ")[0]) < 32 and line[32:42].strip() != "" for line in table[:-1]} == {True}
    assert "temporary bytes will differ" in table[-1]


PROGRAM = textwrap.dedent("""
    %sum (a: f32[], b: f32[]) -> f32[] {
      ROOT %s = f32[] add(%a, %b)
    }

    %piece.1 (p: bf16[2,4]) -> bf16[8,4] {
      %p = bf16[2,4]{1,0:T(8,128)(2,1)} parameter(0)
      ROOT %g.1 = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, dimensions={0}
    }

    %piece.2 (q: bf16[2,4]) -> bf16[8,4] {
      %q = bf16[2,4]{1,0} parameter(0)
      ROOT %g.2 = bf16[8,4]{1,0} all-gather(%q), channel_id=7, dimensions={0}
    }

    %body (t: (s32[], f32[10])) -> (s32[], f32[10]) {
      %x = f32[10]{0} get-tuple-element(%t), index=1
      %r = f32[10]{0} all-reduce(%x), channel_id=1, to_apply=%sum
      ROOT %o = (s32[], /*index=1*/f32[10]{0}) tuple(%i, %r)
    }

    %condition (t: (s32[], f32[10])) -> pred[] {
      %n = s32[]{:T(128)} constant(5)
      ROOT %lt = pred[] compare(%i, %n), direction=LT
    }

    ENTRY %main (y: f32[16]) -> f32[4] {
      %y = f32[16]{0} parameter(0)
      %f.1 = bf16[8,4]{1,0} fusion(%p), kind=kCustom, calls=%piece.1
      %f.2 = bf16[8,4]{1,0} fusion(%p), kind=kCustom, calls=%piece.2
      %w = (s32[], f32[10]{0}) while(%t), condition=%condition, body=%body
      %c = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%z), channel_id=8
      ROOT %d = f32[4]{0} reduce-scatter(%y), channel_id=9, dimensions={0}, to_apply=%sum
    }
""")


def test_collectives_are_counted_as_often_as_they_run():
    found = hlo.collectives(PROGRAM)
    assert found == {
        "all-gather": (1, 64),  # one, run in two pieces
        "all-reduce": (5, 5 * 40),  # in a loop, whose condition says how often it turns
        "collective-permute": (1, 12),
        "reduce-scatter": (1, 64),
    }
    known = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert hlo.collectives(known)["all-reduce"] == (3, 3 * 40)


def run(*words):
    """Run the command for a tiny net, compiled and cached as all tests do."""
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    command = [sys.executable, str(ROOT / "scripts" / "check.py"), "--config=avatars_cfg", *flags, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def test_the_command_answers_for_more_devices_than_there_are(tmp_path: Path):
    out = tmp_path / "check.json"
    words = ["--topology=gpu:8", "--config.train.batch_size=16", f"--workdir={tmp_path}", f"--out={out}"]
    done = run(*words)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["chips"], report["pictures_per_chip"], report["memory_bytes"]) == (8, 2, 80 * 2**30)
    assert "8 gpu:8" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology=cpu:8", "--memory-gib=0"], "--memory-gib is 0.0; it must be from"),
        (["--topology=cpu:8", "--out=there/is/none.json"], "there is no directory there/is"),
        (["--topology=cpu:8", "--config=nope"], "no configuration 'nope'; give a path"),
        ([], "the following arguments are required: --topology"),
    ],
)
def test_wrong_arguments_are_one_sentence(words, sentence, capsys):
    assert script("check").main(words) == runtime.Exit.BAD_INPUT
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.long
@pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed: pip install 'ddpm_jax[tpu]'")
@pytest.mark.parametrize("name", ["v5e:4x4", "v4:2x2x1", "v6e:1x1"])
def test_a_tpu_is_compiled_for_without_one(name, tmp_path: Path):
    out = tmp_path / "check.json"
    done = run(f"--topology={name}", "--config.train.steps_per_dispatch=2", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    report, of = json.loads(out.read_text(encoding="utf-8")), topology.parse(name)
    size = report["bytes_per_chip"]
    assert report["chips"] == of.chips and size["padding"] > 0 and size["program"] > 0
    assert report["seconds_at_least"]["arithmetic"] == report["flop_per_chip"] / (of.chip.tflops * 1e12)
    if of.chips > 1:
        assert report["collectives"]["all-reduce"]["bytes"] == pytest.approx(size["parameters"], rel=0.02)
    assert math.isfinite(report["flop_per_chip"]) and report["flop_per_chip"] > 0


@pytest.mark.skipif(NO_LIBTPU, reason="libtpu is not installed: pip install 'ddpm_jax[tpu]'")
def test_a_layout_that_no_tpu_has_is_refused():
    with pytest.raises(runtime.BadInput, match=r"topology v5e:3x5 is refused by libtpu: .*not divisible"):
        topology.mesh(topology.parse("v5e:3x5"))
