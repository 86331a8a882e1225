"""Checkpoints of every format that ever was (tests/fixtures) are loaded, draw what they drew, and go on."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import archive, build, checkpoint, images, metrics, runtime, train
from ddpm_jax.configs import avatars_cfg

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = sorted(FIXTURES.glob("format_*"))
every_format = pytest.mark.parametrize("kept", FORMATS, ids=[path.name for path in FORMATS])


def test_every_format_has_a_checkpoint_that_is_kept():
    numbers = {checkpoint.read_meta(path / "checkpoints" / "200")["format_version"]: path.name for path in FORMATS}
    assert numbers == {number: f"format_{number}" for number in range(1, archive.FORMAT + 1)}


@every_format
def test_an_old_checkpoint_is_whole_and_draws_what_it_drew(kept):
    checkpoint.verify(kept / "checkpoints" / "200")
    drawn = images.tile(ddpm_jax.load(kept).sample("Robot", n=4, seed=1), 4)
    then = images.read_png(kept / "pictures.png")
    assert drawn.shape == then.shape == (16, 64, 3)
    # Another device, or another XLA, rounds otherwise: where two colours are equally likely the other one may win.
    assert (drawn != then).any(-1).mean() < 0.01


@every_format
def test_training_goes_on_from_an_old_checkpoint(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    saved = checkpoint.read_meta(kept / "checkpoints" / "200")
    config = avatars_cfg.get_config()  # keys that are newer than the checkpoint have their default
    lists = {key: tuple(value) for key, value in runtime.flat(saved["config"]).items() if isinstance(value, list)}
    config.update_from_flattened_dict({**runtime.flat(saved["config"]), **lists, "train.steps": 220})
    run = dataclasses.replace(build.build(config), hooks=())
    train.train(run, str(tmp_path / "run"))
    checkpoint.verify(tmp_path / "run" / "checkpoints" / "220")
    arrays = [checkpoint.load_arrays(tmp_path / "run" / "checkpoints" / step, "params") for step in ("200", "220")]
    moved = [np.abs(one - other).max() for one, other in zip(*map(leaves, arrays), strict=True)]
    assert max(moved) > 1e-5 and np.isfinite(moved).all()
    assert metrics.read_scalars(tmp_path / "run")["loss"][1][-1] < 2  # from the start it is above 3


def leaves(tree):
    """The arrays of a nested dict, by name."""
    return [array for _, array in sorted(archive.by_name(tree).items())]


def test_a_newer_format_is_refused_by_its_number_and_what_to_do(tmp_path):
    newer = archive.FORMAT + 1
    shutil.copytree(FORMATS[-1], tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "200" / "meta" / "metadata"
    meta = {**json.loads(file.read_text()), "format_version": newer}
    del meta["sha256"]
    stated = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**meta, "sha256": stated}))
    with pytest.raises(runtime.BadInput) as refusal:
        ddpm_jax.load(tmp_path / "run" / "checkpoints" / "200")
    said = str(refusal.value)
    assert f"has format {newer}, not {archive.FORMAT}; use a newer ddpm_jax" in said and "\n" not in said
