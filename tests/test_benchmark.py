"""`scripts/benchmark.py`, and what it is made of: speed.py, timing.py, scaling.py."""

import contextlib
import json
import sys
from typing import ClassVar

import jax
import numpy as np
import pytest
from conftest import ROOT, script

from ddpm_jax import runtime, scaling, speed, timing

TINY = {"net.channels": 8, "net.multipliers": [1], "net.blocks": 1, "net.groups": 2, "net.attention": []}
PEER = ROOT / ".venv-peer" / "bin" / "python"


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(speed, "PICTURES", 64)


def tiny(**more):
    """The arguments of a work so small that it compiles in a second or two."""
    return {"batch": 4, "changes": {**TINY, "net.word_maps": 4, "net.head_channels": 4, **more}}


def test_what_is_timed_is_a_run_of_the_configuration():
    work = speed.work("punks", **tiny())
    assert work.parts.model.net.channels == 8 and work.parts.model.target.name == "palette"
    assert work.parts.dataset.spec.labels.size == 96 and len(work.parts.dataset.spec.palette) == 222
    plain = speed.work("plain", batch=4)
    assert plain.parts.model.net.stem == 1 and plain.parts.model.target.name == "eps"
    assert sum(x.size for x in jax.tree.leaves(plain.params)) == 709_763
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(work.params))


def test_each_thing_that_is_timed_does_its_work():
    ours = speed.Ours(speed.work("punks", **tiny()))
    for what in timing.RUNS:
        assert all(seconds > 0 for seconds in ours.timed(what, 2))
    assert int(ours.state.step) == 2 and int(ours.state.updates) == 2
    assert ours.data().data.shape == (4, 24, 24) and ours.forward().shape == (4, 24, 24, 222)
    made = ours.sample()
    assert made.dtype == np.uint8 and made.shape == (4, 24, 24, 3)


def test_devices_exchange_the_gradient_and_little_else():
    """Each parameter's gradient once, as float32: what docs/performance.md counts on."""
    costs = speed.Ours(speed.work("punks", **tiny())).costs()
    assert jax.device_count() == 2
    assert costs["collective_bytes"]["all-reduce"] == pytest.approx(4 * costs["parameters"], rel=0.01)
    assert costs["flop"] > 6 * costs["parameters"] and costs["temporary_bytes"] > 0


def test_the_bytes_of_collectives_are_counted_from_the_program():
    hlo = """
      %a = f32[3,4]{1,0} all-reduce(%x), channel_id=1
      %b = (f32[10]{0}, bf16[2,2]{1,0}) all-reduce-start(%y, %z), channel_id=2
      %c = s32[] all-gather(%w), dimensions={}
      %d = f32[100]{0} add(%all-reduce.1, %q)
    """
    assert speed.moved(hlo) == {"all-reduce": 48 + 40 + 8, "all-gather": 4}


def test_a_ratio_is_of_the_same_round_and_the_best_peer_counts():
    found = timing.summary({"ours": [1.0, 2.0, 4.0], "slow": [4.0, 8.0, 16.0], "fast": [2.0, 3.0, 2.0]})
    assert found["seconds"] == {"ours": 2.0, "slow": 8.0, "fast": 2.0} and found["times"]["ours"] == [1.0, 2.0, 4.0]
    assert found["ratios"]["slow"] == {"median": 4.0, "least": 4.0, "largest": 4.0}
    assert found["ratios"]["fast"] == {"median": 1.5, "least": 0.5, "largest": 2.0}
    assert (found["best_peer"], found["ratio"]) == ("fast", 1.5)
    alone = timing.summary({"ours": [1.0]})
    assert alone["best_peer"] is None and alone["ratio"] is None


def test_sides_take_turns_and_the_first_run_is_apart(monkeypatch):
    monkeypatch.setattr(timing, "REST_S", 0.0)
    asked = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def ask(self, *, do, count):
            asked.append((self.name, count))
            return {"seconds": [3.0, 1.0, 2.0], "peak_bytes": 7}

    first, times, peak = timing.in_turn({"ours": Fake("ours"), "peer": Fake("peer")}, "train_step", rounds=2)
    assert times == {"ours": [2.0, 2.0], "peer": [2.0, 2.0]} and peak == {"ours": 7, "peer": 7}
    assert set(first) == {"ours", "peer"}
    warm_up = [(name, count) for name in ("ours", "peer") for count in (1, 2)]
    assert asked == [*warm_up, *[("ours", 3), ("peer", 3)] * 2]


def test_a_side_that_ends_is_told_in_a_sentence():
    with pytest.raises(runtime.BadInput, match=r"python.* -c .* ended with code 3: without a word"):
        timing.Side([sys.executable, "-c", "raise SystemExit(3)"], {}, {})
    fails = "import sys; print('ValueError: wrong\\n---\\nsome advice', file=sys.stderr); sys.exit(1)"
    with pytest.raises(runtime.BadInput, match=r"ended with code 1: ValueError: wrong$"):
        timing.Side([sys.executable, "-c", fails], {}, {})


def test_weak_scaling_keeps_the_batch_of_a_device_and_every_case_can_be_built():
    cases = list(scaling.cases())
    assert len({case.name for case in cases}) == len(cases)
    weak = [case.arguments for case in cases if case.name.endswith("devices")]
    assert [arguments["batch"] / arguments["devices"] for arguments in weak] == [8, 8, 8, 8]
    for case in cases[len(weak) :]:
        speed.work("punks", **{key: value for key, value in case.arguments.items() if key != "devices"})


def test_a_scaling_row_is_of_as_many_devices_as_it_says(monkeypatch):
    costs = {"flop": 4e9, "temporary_bytes": 2**20, "collective_bytes": {"all-reduce": 13_000_000}}

    class Fake:
        about: ClassVar = {"devices": 2}

        def ask(self, *, do, count=0):
            return costs if do == "costs" else {"seconds": [0.5], "peak_bytes": 0}

    monkeypatch.setattr(timing, "REST_S", 0.0)
    monkeypatch.setattr(timing, "ours", lambda net, **arguments: contextlib.nullcontext(Fake()))
    monkeypatch.setattr(scaling, "cases", lambda: [scaling.Case("2 devices", {"devices": 2, "batch": 16})])
    (row,) = scaling.measure()
    assert row["images_per_second"] == 32
    assert scaling.line(row) == "2 devices               4.0 GFLOP       1 MiB   13.0 MB moved  32 images/s"
    monkeypatch.setattr(scaling, "cases", lambda: [scaling.Case("4 devices", {"devices": 4, "batch": 32})])
    with pytest.raises(runtime.BadInput, match="jax has 2 devices here; set JAX_PLATFORMS=cpu"):
        next(scaling.measure())


def test_a_dispatchs_time_is_shared_by_its_steps(monkeypatch):
    ours = speed.Ours(speed.work("punks", **tiny(**{"train.steps_per_dispatch": 4})))
    monkeypatch.setattr(ours, "train_step", lambda: np.zeros(1))
    monkeypatch.setattr(speed.time, "perf_counter", iter([10.0, 18.0]).__next__)
    assert ours.timed("train_step", 1) == [2.0]


def test_both_sides_must_run_on_the_same_kind_of_device():
    timing.check_device("cpu", "cpu")
    timing.check_device("gpu", "cuda")
    with pytest.raises(runtime.BadInput, match="jax runs on gpu here, the peer would on cpu; set --device"):
        timing.check_device("gpu", "cpu")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--what=training"], "unknown 'training'; choose of train_step, forward, sample, data"),
        (["--nets=big"], "unknown 'big'; choose of punks, plain"),
        (["--dtypes=float16"], "unknown 'float16'; choose of float32, bfloat16"),
        (["--forms=cuda_graphs"], "unknown 'cuda_graphs'; choose of eager, channels_last, compile"),
        (["--rounds=0"], "rounds is 0; it must be from 1 to 1000"),
        (["--batch=0"], "batch is 0; it must be from 1 to 4096"),
        (["--dispatch=0"], "dispatch is 0; it must be from 1 to 10000"),
        (["--batch=20"], "sampling is in buckets of (1, 16, 64) pictures; --batch=20 is none of them"),
        (["--peer=/nowhere/python"], "there is no /nowhere/python; run `make benchmark`, which makes it"),
    ],
)
def test_a_wrong_flag_is_told_in_a_sentence(tmp_path, capsys, flags, sentence):
    assert script("benchmark").main([*flags, f"--out={tmp_path / 'a.json'}"]) == runtime.Exit.BAD_INPUT
    assert sentence in capsys.readouterr().err


def test_the_command_writes_what_it_measured(tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    flags = ["--what=data", "--nets=plain", "--batch=2", "--rounds=1", f"--out={out}"]
    assert script("benchmark").main(flags) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["cores"] >= 1
    (row,) = written["rows"]
    assert row["what"] == "data" and row["seconds"]["ours"] > 0 and row["first_s"]["ours"] > row["seconds"]["ours"]
    assert "plain data float32" in capsys.readouterr().out


@pytest.mark.skipif(not PEER.is_file(), reason="no .venv-peer: `make benchmark` makes the peer's environment")
@pytest.mark.parametrize("net", speed.NETS)
def test_the_peer_is_the_same_net(net):
    how = {"batch": 2, "rounds": 1, "device": "cpu", "dispatch": 1}
    row = timing.compare("forward", net, "float32", peer=str(PEER), forms=["channels_last"], **how)
    assert 0 < row["differences"]["channels_last"] < timing.EQUAL
    assert row["ratio"] > 0
