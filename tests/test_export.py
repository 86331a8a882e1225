"""An exported sampler draws what the sampler itself draws, for any number of pictures."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import script

import ddpm_jax
from ddpm_jax import export, runtime


@pytest.fixture(scope="module")
def model(trained):
    """The generator of the tiny run."""
    return ddpm_jax.load(trained)


@pytest.mark.parametrize(
    "how", [pytest.param({}, marks=pytest.mark.long), {"guidance": 3.0, "sampler": "ddpm", "steps": 3}]
)
def test_an_artifact_draws_the_same_pictures(model, tmp_path, how):
    path, asked = tmp_path / "a.stablehlo", model.settings(**how)
    assert export.write(model, asked, path, ["cpu", "cuda", "tpu"]) == path.stat().st_size
    assert export.difference(model, asked, path, n=16) == 0
    labels = np.stack([model.spec.labels.parse("Cat, Cap")] * 2)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert "optimization_barrier" in exported.mlir_module()  # else XLA computes with the parameters as it compiles
    sample = exported.call
    for seeds in ([7], [7, 8]):
        made = sample(labels[: len(seeds)], np.array(seeds, np.uint32), np.float32(asked.guidance))
        expected = np.concatenate([model.sample("Cat, Cap", seed=seed, **how) for seed in seeds])
        assert made.shape == expected.shape and (np.asarray(made) != expected).any(-1).mean() < 0.01
    about = json.loads(Path(f"{path}.json").read_text())
    assert about["words"] == list(model.spec.labels.words) and about["settings"]["steps"] == asked.steps


@pytest.mark.parametrize("how", [{"guidance": 2.0}, {"guidance": 3.0, "interval": (0.2, 0.8)}, {"guidance": 1.0}])
def test_an_artifact_is_led_away_from_the_same_net(model, trained, tmp_path, how):
    led = model.led_away_from(ddpm_jax.load(trained / "checkpoints" / "4"))
    asked = led.settings(autoguidance=3.0, **how)
    export.write(led, asked, tmp_path / "a.stablehlo", ["cpu"])
    assert export.difference(led, asked, tmp_path / "a.stablehlo", n=4) == 0
    assert export.difference(model, model.settings(**how), tmp_path / "a.stablehlo", n=4) > 0


def test_an_artifact_holds_no_net_that_it_does_not_ask(model, trained):
    led = model.led_away_from(ddpm_jax.load(trained / "checkpoints" / "4"))
    size, of_led = (len(export.artifact(m, m.settings(), ["cpu"]).serialize()) for m in (model, led))
    assert of_led < 1.1 * size


def test_guidance_that_an_artifact_cannot_hold_is_refused(model):
    with pytest.raises(runtime.BadInput, match="an artifact has one weight, of guidance; leave out weights of words"):
        export.artifact(model, model.settings(weights={"Cat": 2.0}))


def test_an_unknown_platform_is_refused(model):
    with pytest.raises(runtime.BadInput, match="unknown platform 'gpu'; choose of cpu, cuda, tpu"):
        export.artifact(model, model.settings(), ["cpu", "gpu"])


def test_the_command_says_size_and_difference(trained, tmp_path, capsys, monkeypatch):
    main = script("export").main
    command = [f"--checkpoint={trained}", f"--out={tmp_path / 'a.stablehlo'}", "--platforms=cpu"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "for cpu\n" in said and "16 pictures: 0 of 255" in said
    assert main(command) == 65 and "exists; choose another --out" in capsys.readouterr().err
    assert main([*command, "--force", "--words=prior"]) == 65 and "has no word prior" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(command) == 65 and "exporting needs flatbuffers" in capsys.readouterr().err
