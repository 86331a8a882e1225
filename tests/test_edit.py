"""Editing in its limits: what is kept is kept exactly, full masks and full strengths are plain sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_samplers import COSINE, KEY, MU, STD, best_denoiser, noise

from ddpm_jax import edit, process, samplers, schedules

DENOISE = best_denoiser(COSINE)
GRID = schedules.linear_grid(8)
PICTURE = jnp.linspace(-1, 1, 8 * 8 * 3).reshape(8, 8, 3)
FULL, EMPTY = jnp.ones((8, 8), bool), jnp.zeros((8, 8), bool)


def inpaint(mask, *, repeats=1, denoise=DENOISE, key=KEY, **how):
    paint = edit.painting(COSINE, GRID, repeats=repeats)
    return jax.jit(lambda: edit.inpaint(denoise, noise(), key, paint, x_0=PICTURE, mask=mask, **how))()[0]


def test_a_grid_from_a_time_has_as_many_steps():
    np.testing.assert_allclose(edit.from_time(GRID, 0.6), 0.6 * GRID)
    np.testing.assert_array_equal(edit.from_time(GRID, 1.0), GRID)
    for t in (0.0, 1.1, -0.5):
        with pytest.raises(ValueError, match=r"is outside \(0, 1\]; at 0 the picture stays as it is"):
            edit.from_time(GRID, t)


def test_a_picture_is_noised_to_the_scales_of_its_time():
    log_snr = COSINE.log_snr(jnp.float32(0.6))
    signal, scale = process.scales(log_snr)
    eps = (edit.noised(jnp.broadcast_to(PICTURE, (8, 8, 3)), KEY, log_snr) - signal * PICTURE) / scale
    assert abs(float(jnp.mean(eps))) < 0.25 and float(jnp.std(eps)) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(edit.noised(PICTURE, KEY, jnp.float32(40.0)), PICTURE, atol=1e-6)


def test_little_strength_keeps_the_picture_and_much_forgets_it():
    def edited(t):
        start = edit.noised(PICTURE, KEY, COSINE.log_snr(jnp.float32(t)))
        rows = samplers.ddim(COSINE, edit.from_time(GRID, t))
        return samplers.sample(DENOISE, start, KEY, rows, clip=False)[0]

    # The data have one mean and spread; an edit moves a picture towards them
    distance = [float(jnp.mean(jnp.square(edited(t) - PICTURE))) for t in (0.01, 0.3, 1.0)]
    assert distance[0] < 1e-3 < distance[1] < distance[2]


def test_slerp_is_exact_at_its_ends_and_keeps_the_length_between():
    one, other = noise(), noise(seed=1)
    np.testing.assert_array_equal(edit.slerp(one, other, 0.0), one)
    np.testing.assert_array_equal(edit.slerp(one, other, jnp.float32(1.0)), other)
    for share in (0.25, 0.5):
        middle = edit.slerp(one, other, share)
        length = (1 - share) * jnp.linalg.norm(one) + share * jnp.linalg.norm(other)
        assert float(jnp.linalg.norm(middle)) == pytest.approx(float(length), rel=0.02)
    np.testing.assert_allclose(edit.slerp(one, one, 0.3), one, atol=1e-5)


def test_a_full_mask_is_plain_ancestral_sampling():
    plain, _ = jax.jit(lambda: samplers.sample(DENOISE, noise(), KEY, samplers.ddpm(COSINE, GRID)))()
    np.testing.assert_allclose(inpaint(FULL), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("decode", [None, lambda x_t, t: jnp.sign(x_t)])
def test_outside_the_mask_the_picture_stays_exactly(repeats, decode):
    np.testing.assert_array_equal(inpaint(EMPTY, repeats=repeats, decode=decode), PICTURE)
    half = FULL.at[:4].set(False)
    painted = inpaint(half, repeats=repeats, decode=decode)
    np.testing.assert_array_equal(painted[:4], PICTURE[:4])
    assert float(jnp.mean(painted[4:] != PICTURE[4:])) > 0.95


def test_repeats_run_every_step_but_the_last_so_often():
    paint = edit.painting(COSINE, GRID, repeats=3)
    np.testing.assert_array_equal(paint.rows.t, np.append(np.repeat(GRID[:-2], 3), GRID[-2]))
    np.testing.assert_array_equal(paint.back == 1, [*([False, False, True] * 7), True])
    # From s back to t: alpha_bar_s times back^2 is alpha_bar_t, and the variance is whole
    alpha_bar = COSINE.alpha_bar(GRID)
    np.testing.assert_allclose(paint.back[0] ** 2 * alpha_bar[1], alpha_bar[0], rtol=1e-12)
    np.testing.assert_allclose(paint.back**2 + paint.again**2, 1, rtol=1e-12)
    np.testing.assert_allclose(paint.signal**2 + paint.noise**2, 1, rtol=1e-12)
    with pytest.raises(ValueError, match="repeats is 0; every step is run once at least"):
        edit.painting(COSINE, GRID, repeats=0)


@pytest.mark.parametrize("repeats", [1, pytest.param(4, marks=pytest.mark.long)])
def test_at_every_step_the_image_has_the_noise_of_its_time(repeats):
    """Inside and outside of the mask, with data of variance STD^2, whose best denoiser is used."""
    shape = (64, 64, 2)
    known = MU + STD * noise(shape, 3)
    mask = jnp.zeros(shape[:2], bool).at[:32].set(True)
    paint = edit.painting(COSINE, schedules.linear_grid(100), repeats=repeats)
    seen = []

    def denoise(x_t, t):
        jax.debug.callback(lambda t, x: seen.append((float(t), np.asarray(x))), t, x_t, ordered=True)
        return DENOISE(x_t, t)

    edit.inpaint(denoise, noise(shape), KEY, paint, x_0=known, mask=mask, clip=False)
    jax.effects_barrier()
    assert len(seen) == 99 * repeats + 1
    for t, x_t in seen[1:]:
        alpha_bar = COSINE.alpha_bar(t)
        expected = np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
        for part in (x_t[:32], x_t[32:]):
            assert part.std() == pytest.approx(expected, rel=0.08)
            assert part.mean() == pytest.approx(np.sqrt(alpha_bar) * MU, abs=0.08)


@pytest.mark.parametrize("steps", [50, 200])
def test_inversion_finds_the_noise_that_leads_back(steps):
    """The error of the round trip falls with the number of steps."""
    grid = schedules.linear_grid(steps)
    rows = edit.inversion(COSINE, grid)
    np.testing.assert_array_equal(rows.t, grid[1:-1][::-1])
    start = jax.jit(lambda: edit.invert(DENOISE, PICTURE, rows, COSINE.log_snr(jnp.float32(rows.t[0]))))()
    back, _ = jax.jit(lambda: samplers.sample(DENOISE, start, KEY, samplers.ddim(COSINE, grid), clip=False))()
    assert float(jnp.abs(back - PICTURE).max()) < 10 / steps
