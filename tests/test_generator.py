"""Facts about sampling from a checkpoint: what was asked, reproducibly, or one sentence why not."""

import doctest
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_config

import ddpm_jax
from ddpm_jax import build, checkpoint, engine, generator, runtime, samplers, train


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


def test_a_strength_without_a_picture_is_refused(avatars):
    with pytest.raises(ValueError, match=r"strength 0.3 is of a picture that is changed; give one, or leave it out"):
        avatars.trajectory("Cat", strength=0.3)


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


BLANK = np.zeros((16, 16, 3), np.uint8)


def wrong_pixels(one, other):
    """The share of pixels that differ."""
    return (one != other).any(-1).mean()


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("times", ["linear", "karras"])
def test_every_sampler_draws_in_palette_colours(avatars, sampler, times):
    pictures = avatars.sample("Cat", n=2, sampler=sampler, times=times, steps=5)
    colours = {tuple(colour) for colour in pictures.reshape(-1, 3).tolist()}
    assert colours <= {tuple(colour) for colour in avatars.spec.palette.tolist()}


def test_another_sampler_grid_strength_or_seed_compiles_nothing(avatars, caplog):
    picture = avatars.sample("Cat", n=2, steps=5)[0]
    avatars.edit(picture, "Cat", n=2, steps=5)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for sampler in ("ddpm", "unipc", "dpmpp_3m"):
            avatars.sample("Elf", n=2, steps=5, sampler=sampler, times="log_snr", seed=4)
        avatars.sample("Cat", n=2, steps=5, eta=0.5)
        avatars.edit(picture, "Robot", n=2, steps=5, strength=0.8, seed=3)
    assert not [record.message for record in caplog.records if "Compiling" in record.message]


def test_a_series_in_parts_is_the_series(avatars):
    whole = avatars.sample("Cat", n=6, sampler="ddpm", seed=3)
    parts = [avatars.sample("Cat", n=3, first=first, sampler="ddpm", seed=3) for first in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_labels_may_differ_within_a_call(avatars):
    one, other = avatars.sample(["Cat", "Robot"], guidance=3.0)
    np.testing.assert_array_equal(one, avatars.sample(["Cat", "Elf"], guidance=3.0)[0])
    np.testing.assert_array_equal(other, avatars.sample(["Elf", "Robot"], guidance=3.0)[1])


def test_words_with_weights_of_their_own(avatars):
    plain = avatars.sample("Cat, Cap", n=4)
    assert wrong_pixels(avatars.sample("Cat, Cap", n=4, weights={"Cap": 0.0}), plain) < 0.01
    assert wrong_pixels(avatars.sample("Cat, Cap", n=4, weights={"Cap": 20.0}), plain) > 0.01


def test_led_away_from_an_earlier_checkpoint(trained, avatars):
    led = avatars.led_away_from(ddpm_jax.load(trained / "checkpoints" / "4"))
    assert wrong_pixels(led.sample("Cat", n=4, autoguidance=1.0), avatars.sample("Cat", n=4)) < 0.01
    assert wrong_pixels(led.sample("Cat", n=4, autoguidance=5.0), avatars.sample("Cat", n=4)) > 0.01
    assert led.recipe()["weak"] != led.recipe()["checkpoint"] and "weak" not in avatars.recipe()


@pytest.fixture(scope="module")
def with_early(tmp_path_factory):
    """The configuration and the workdir of a run that kept its averages of step 4."""
    kept = {"optimizer__early": 4, "train__steps": 12, "checkpoint__keep_every": 4}
    config, workdir = tiny_config(**kept, sampling__autoguidance=5.0), tmp_path_factory.mktemp("early")
    train.train(build.build(config), str(workdir))
    return config, workdir


def test_a_run_keeps_what_its_guidance_leads_away_from(with_early):
    workdir = with_early[1]
    model, early = ddpm_jax.load(workdir), ddpm_jax.load(workdir / "checkpoints" / "4")
    jax.tree.map(np.testing.assert_array_equal, model.nets.weak, early.params)
    drawn, led = model.sample("Cat", n=4), model.led_away_from(early)
    np.testing.assert_array_equal(drawn, led.sample("Cat", n=4))
    assert wrong_pixels(drawn, model.sample("Cat", n=4, autoguidance=1.0)) > 0.01
    assert model.recipe().keys() == early.recipe().keys()  # nothing more is needed to make them again
    np.testing.assert_array_equal(model.invert(drawn[0]), ddpm_jax.load(workdir).invert(drawn[0], autoguidance=1.0))


def test_a_resumed_run_has_the_early_net_of_the_unbroken_one(with_early, tmp_path):
    config, whole = with_early
    shutil.copytree(whole / "checkpoints" / "8", tmp_path / "checkpoints" / "8")
    train.train(build.build(config), str(tmp_path))
    for part in ("params", "ema", "early"):
        one, other = (checkpoint.load_arrays(run / "checkpoints" / "12", part) for run in (whole, tmp_path))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    early, late = (checkpoint.load_arrays(tmp_path / "checkpoints" / "8", part) for part in ("early", "ema"))
    assert not jax.tree.all(jax.tree.map(np.array_equal, early, late))


def test_a_checkpoint_without_an_early_net_is_not_led_away_from_it(avatars):
    with pytest.raises(ValueError, match="this checkpoint keeps no early net"):
        avatars.sample("Cat", autoguidance=2.0)
    with pytest.raises(runtime.BadInput, match=r"leads away from an early net, but optimizer.early is 0"):
        build.build(tiny_config(sampling__autoguidance=2.0))


def test_a_grid_joins_the_words_of_rows_and_columns(avatars):
    grid = avatars.grid(["Cat", "Robot"], ["", "Cap", "-Cap"], seed=5)
    assert grid.shape == (2, 3, 16, 16, 3)
    cells = ["Cat", "Cat, Cap", "Cat, -Cap", "Robot", "Robot, Cap", "Robot, -Cap"]
    np.testing.assert_array_equal(grid.reshape(6, 16, 16, 3), avatars.sample(cells, seed=5))
    with pytest.raises(ValueError, match="asks for 'Robot' and 'Cat', but a picture has one kind"):
        avatars.grid(["Cat"], ["Robot"])
    with pytest.raises(ValueError, match="the labels disagree on 'Cap'"):
        avatars.grid(["Cap"], ["-Cap"])


def test_in_a_grid_of_one_noise_cells_differ_by_their_words_alone(avatars):
    same = avatars.grid(["Cat"], ["", "", "Cap"], same_noise=True)[0]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], avatars.sample("Cat", n=3)[0])


def test_variations_are_near_the_first_the_less_they_are_spread(avatars):
    first = avatars.sample("Cat", n=4)[0]
    still, near = avatars.variations("Cat", n=4, spread=0.0), avatars.variations("Cat", n=4, spread=0.3)
    np.testing.assert_array_equal(still, np.stack([first] * 4))
    np.testing.assert_array_equal(near[0], first)
    far = avatars.variations("Cat", n=4, spread=1.0)
    assert 0 < wrong_pixels(near[1:], first) <= wrong_pixels(far[1:], first)


def test_a_swap_keeps_the_noise_and_changes_the_words(avatars):
    before, after = avatars.swap("Cat, Cap, -Pipe", ["Cap"], ["Crown"], seed=2)
    labels = ["Cat, Cap, -Pipe", "Cat, -Cap, Crown, -Pipe"]
    expected = [avatars.sample(label, n=2, seed=2)[0] for label in labels]
    np.testing.assert_array_equal([before, after], expected)
    _, other = avatars.swap("Cat, Cap", ["Cat"], ["Robot"])
    np.testing.assert_array_equal(other, avatars.sample("Robot, Cap", n=2)[0])
    with pytest.raises(ValueError, match="Cap is to be swapped, but it is absent"):
        avatars.swap("Cat, -Cap", ["cap"], ["Crown"])
    assert len(avatars.swap("Cat", ["Cap"], ["Crown"])) == 2  # the picture may have one


def test_a_reroll_asks_for_the_words_that_are_kept_alone(avatars):
    pictures = avatars.reroll("Cat, Cap, Pipe, -Scarf", ["cat", "Pipe", "Scarf"], n=3, seed=8)
    np.testing.assert_array_equal(pictures, avatars.sample("Cat, Pipe, -Scarf", n=3, seed=8))


def test_the_ends_of_an_interpolation_are_its_labels_pictures(avatars):
    way = avatars.interpolate("Cat", "Robot", frames=5, seed=1, other_seed=2)
    assert wrong_pixels(way[0], avatars.sample("Cat", seed=1)[0]) < 0.01
    between = avatars.interpolate("Cat", "Robot", frames=5, seed=1)
    assert wrong_pixels(between[-1], avatars.sample("Robot", seed=1)[0]) < 0.01
    assert wrong_pixels(way[2], way[0]) > 0 and wrong_pixels(way[2], way[-1]) > 0


def test_editing_with_strength_0_returns_the_picture(avatars):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(avatars.edit(picture, "Cat", strength=0, n=2), [picture, picture])
    large = picture.repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(avatars.edit(large, "Cat", strength=0)[0], picture)
    assert avatars.edit(picture, "Cat", strength=0.5).shape == (1, 16, 16, 3)


def test_what_is_not_masked_stays(avatars):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = np.zeros((16, 16), bool)
    np.testing.assert_array_equal(avatars.inpaint(picture, mask, "Cat")[0], picture)
    mask[:8] = True
    painted = avatars.inpaint(picture, mask, "Cat", n=2, repeats=2)
    np.testing.assert_array_equal(painted[:, 8:], [picture[8:]] * 2)
    assert wrong_pixels(painted[:, :8], picture[:8]) > 0.5


def test_inversion_and_rendering_again(avatars):
    picture = avatars.sample("Cat")[0]
    assert avatars.invert(picture, steps=5).shape == (16, 16, 3)
    assert avatars.rerender(picture, "Robot", steps=5, sampler="unipc").shape == (16, 16, 3)


def test_the_examples_of_the_documentation_run(trained, avatars):
    known = {"workdir": trained, "ddpm_jax": ddpm_jax, "model": avatars}
    assert doctest.testmod(generator, extraglobs=known) == (0, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.sample("Cart"), "unknown .* 'Cart'; did you mean Cat"),
        (lambda model: model.sample(n=0), "n x labels is 0; it must be from 1 to 100000"),
        (lambda model: model.sample(n=10**9), "must be from 1 to 100000"),
        (lambda model: model.sample(steps=0), "steps is 0; it must be from 1 to 1000"),
        (lambda model: model.sample(seed=-1), "seed is -1; it must be from 0 to 4294967295"),
        (lambda model: model.sample(first=2**32 - 1, n=2), "the last number is 4294967296"),
        (
            lambda model: model.edit(np.zeros((16, 16, 3), np.uint8), strength=2),
            "strength is 2; it must be from 0 to 1",
        ),
        (lambda model: model.edit(np.zeros((17, 16, 3), np.uint8)), "the picture is 16x17; give 16x16"),
        (lambda model: model.inpaint(np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8))), r"the mask is \[8, 8\]"),
        (lambda model: model.reroll("Cat, Cap", ["Cup"]), "unknown .* 'Cup'; did you mean Cap"),
        (lambda model: model.reroll("Cat", ["Cap"]), "Cap is to be kept but the label does not name it"),
        (lambda model: model.interpolate("Cat", "Elf", guidance=2), "an interpolation takes no guidance; leave it out"),
        (lambda model: model.inpaint(BLANK, np.eye(16), sampler="ddim"), "inpainting takes no sampler; leave it out"),
        (lambda model: model.edit(BLANK, "Cart", strength=0), "did you mean Cat"),
        (lambda model: model.edit(BLANK, n=10**12), "n x labels is 1000000000000; it must be from 1"),
        (lambda model: model.variations("Cat", spread=2), "spread is 2; it must be from 0 to 1"),
        (lambda model: model.interpolate("Cat", "Elf", frames=1), "frames is 1; it must be from 2"),
        (lambda model: model.invert(np.zeros((16, 16, 3), np.uint8), steps=1), "an inversion needs 2 steps or more"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(avatars, call, message):
    with pytest.raises(ValueError, match=message):
        call(avatars)


def test_what_is_not_a_model_is_refused(tmp_path, trained):
    with pytest.raises(runtime.BadInput, match="no whole checkpoint"):
        ddpm_jax.load(tmp_path)
    with pytest.raises(runtime.BadInput, match="which is 'best'; choose ema or raw"):
        ddpm_jax.load(trained, which="best")
    assert issubclass(checkpoint.Damaged, runtime.Failure) and engine.BUCKETS == (1, 16, 64)
