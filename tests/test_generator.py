"""Facts about sampling from a checkpoint: what was asked, reproducibly, or one sentence why not."""

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import checkpoint, generator, runtime


@pytest.fixture(scope="module")
def avatars(trained):
    """The generator of the tiny run."""
    return ddpm_jax.load(trained)


def test_pictures_come_label_by_label_in_palette_colours(avatars):
    pictures = avatars.sample(["Cat", "Robot, Cap"], n=3)
    assert pictures.shape == (6, 16, 16, 3) and pictures.dtype == np.uint8
    colours = {tuple(colour) for colour in pictures.reshape(-1, 3).tolist()}
    assert colours <= {tuple(colour) for colour in avatars.spec.palette.tolist()}


def test_a_picture_depends_on_seed_number_and_label_alone(avatars):
    five, nine = (avatars.sample("Cat", n=n, sampler="ddpm", steps=3, seed=4) for n in (5, 9))
    np.testing.assert_array_equal(five, nine[:5])
    assert (five[0] != five[1]).any() and (five != avatars.sample("Cat", n=5, sampler="ddpm", steps=3, seed=5)).any()


def test_buckets_agree_within_a_level_of_colour(avatars):
    many = avatars.sample("Cat", n=70)
    for n in (1, 16):
        assert (many[:n] != avatars.sample("Cat", n=n)).any(-1).mean() < 0.01


def test_weight_one_is_the_conditional_net_and_weight_zero_ignores_the_label(avatars):
    close = avatars.sample("Cat", n=4, guidance=1.0), avatars.sample("Cat", n=4, guidance=1.0 + 1e-7)
    assert (close[0] != close[1]).any(-1).mean() < 0.01
    np.testing.assert_array_equal(avatars.sample("Cat", n=4, guidance=0), avatars.sample("Robot", n=4, guidance=0))
    assert (avatars.sample("Cat", n=4, guidance=8) != close[0]).any()


def test_moving_a_slider_compiles_nothing(avatars, caplog):
    avatars.sample("Cat", n=2, guidance=2.0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        avatars.sample(["Robot, -Cap", "Elf"], n=5, seed=9, guidance=3.5)
    assert not [record for record in caplog.records if "Compiling" in record.message and "sample" in record.message]


def test_the_trajectory_ends_in_the_picture(avatars):
    frames = avatars.trajectory("Cat", n=2, steps=4)
    assert frames.shape == (2, 4, 16, 16, 3)
    np.testing.assert_array_equal(frames[:, -1], avatars.sample("Cat", n=2, steps=4))


def test_words_that_were_never_seen_together_are_a_warning(avatars, caplog):
    avatars.vectors("Robot, Pale, Cap")
    assert [record.message for record in caplog.records] == [
        "no training image has both Robot and Pale; the picture is a guess"
    ]


def test_averaged_and_raw_parameters_differ(trained, avatars):
    raw = ddpm_jax.load(trained, which="raw")
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), avatars.params, raw.params)
    assert any(jax.tree.leaves(differ))


def test_a_workdir_its_checkpoints_and_a_step_are_the_same_model(trained, avatars):
    for path in (trained / "checkpoints", trained / "checkpoints" / "8"):
        assert ddpm_jax.load(path).meta["sha256"] == avatars.meta["sha256"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"labels": "Cart"}, "unknown .* 'Cart'; did you mean Cat"),
        ({"n": 0}, "n x labels is 0; it must be from 1 to 100000"),
        ({"n": 10**9}, "must be from 1 to 100000"),
        ({"steps": 0}, "steps is 0; it must be from 1 to 1000"),
        ({"steps": 1001}, "steps is 1001; it must be from 1 to 1000"),
        ({"guidance": -1}, "guidance is -1; it must be from 0 to 100"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"sampler": "dddm"}, "unknown sampler 'dddm'; choose one of ddpm, ddim"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(avatars, how, message):
    with pytest.raises(ValueError, match=message):
        avatars.sample(**how)


def test_what_is_not_a_model_is_refused(tmp_path, trained):
    with pytest.raises(runtime.BadInput, match="no whole checkpoint"):
        ddpm_jax.load(tmp_path)
    with pytest.raises(runtime.BadInput, match="which is 'best'; choose ema or raw"):
        ddpm_jax.load(trained, which="best")
    assert issubclass(checkpoint.Damaged, runtime.Failure) and generator.BUCKETS == (1, 16, 64)
