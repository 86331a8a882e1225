"""Samplers on data whose best denoiser is known: exact recursions, laws, orders of convergence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import samplers, schedules
from ddpm_jax.samplers import BEFORE, EARLIER, SAMPLERS, X_0, X, Y

MU, STD = 0.3, 0.5
COSINE = schedules.cosine()
ZERO = schedules.zero_terminal(schedules.linear())
KEY = jax.random.key(7, impl="rbg")  # compiles in half of threefry's time
STEP_BY_STEP = ("ddpm", "ddim", "euler_ancestral")
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
both_schedules = pytest.mark.parametrize("schedule", [COSINE, ZERO], ids=lambda schedule: schedule.name)


def gain(alpha_bar):
    """The slope of E[x_0 given x_t] in x_t."""
    return np.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)


def best_denoiser(schedule):
    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        slope = jnp.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        return MU + slope * (x_t - jnp.sqrt(alpha_bar) * MU)

    return denoise


def compiled(rows, denoise=None, **options):
    denoise = denoise or best_denoiser(COSINE)
    return jax.jit(lambda x_t, key: samplers.sample(denoise, x_t, key, rows, **{"clip": False} | options))


def run(rows, x_t, denoise=None, **options):
    return compiled(rows, denoise, **options)(x_t, KEY)


def noise(shape=(8, 8, 3), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def moments(rows, schedule, mean=0.0, variance=1.0):
    """Mean and variance at the end of a table whose steps look at x_t and x_0 alone, by their recursion."""
    for t, to_x, sigma in zip(rows.t, rows.to_x, rows.sigma, strict=True):
        alpha_bar = schedule.alpha_bar(t)
        slope = gain(alpha_bar)
        mean = to_x[X_0] * (MU + slope * (mean - np.sqrt(alpha_bar) * MU)) + to_x[X] * mean
        variance = (to_x[X_0] * slope + to_x[X]) ** 2 * variance + sigma**2
    return mean, variance


def test_ddpm_rows_are_equations_6_and_7():
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)[::-1]
    before, beta = np.append(alpha_bar[1:], 1.0), beta[::-1]
    rows = samplers.ddpm(schedules.linear(), schedules.linear_grid(1000))
    close = {"rtol": 1e-9, "atol": 1e-15}
    np.testing.assert_allclose(rows.sigma**2, beta * (1 - before) / (1 - alpha_bar), **close)
    np.testing.assert_allclose(rows.to_x[:, X_0], np.sqrt(before) * beta / (1 - alpha_bar), **close)
    np.testing.assert_allclose(rows.to_x[:, X], np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar), **close)
    assert not rows.to_x[:, [Y, BEFORE, EARLIER]].any() and not rows.to_y.any()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_rows_are_its_equations_12_and_16(eta):
    """x_s = sqrt(alpha_bar_s) x_0 + c_e eps with eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)."""
    grid = schedules.linear_grid(50)
    rows = samplers.ddim(COSINE, grid, eta=eta)
    now, then = COSINE.alpha_bar(grid[:-1]), COSINE.alpha_bar(grid[1:])
    sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
    c_e = np.sqrt(np.maximum(1 - then - sigma**2, 0))
    np.testing.assert_allclose(rows.sigma, sigma, rtol=1e-9)
    np.testing.assert_allclose(rows.to_x[:, X], c_e / np.sqrt(1 - now), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(rows.to_x[:, X_0], np.sqrt(then) - c_e * np.sqrt(now / (1 - now)), rtol=1e-7)


def test_euler_ancestral_is_k_diffusions_in_the_scale_of_x_t():
    grid = np.array([0.9, 0.8, 0.5, 0.2, 0.1])
    rows = samplers.euler_ancestral(COSINE, grid)
    signal = np.sqrt(COSINE.alpha_bar(grid))
    sigma = np.sqrt(1 - signal**2) / signal
    now, then = sigma[:-1], sigma[1:]
    up = np.sqrt(then**2 * (now**2 - then**2) / now**2)
    down = np.sqrt(then**2 - up**2)
    # x + d (down - now) + up z with d = (x - x_0) / now, where x is x_t / signal
    np.testing.assert_allclose(rows.to_x[:, X], signal[1:] / signal[:-1] * down / now, rtol=1e-9)
    np.testing.assert_allclose(rows.to_x[:, X_0], signal[1:] * (1 - down / now), rtol=1e-9)
    np.testing.assert_allclose(rows.sigma, signal[1:] * up, rtol=1e-9)


@every_sampler
@both_schedules
def test_the_last_row_is_x_0_and_all_numbers_are_finite(sampler, schedule):
    rows = sampler(schedule, schedules.linear_grid(6))
    np.testing.assert_array_equal(rows.to_x[-1], np.eye(5)[X_0])
    assert rows.sigma[-1] == 0 and all(np.isfinite(column).all() for column in rows)


@every_sampler
def test_every_row_keeps_a_constant_image(sampler):
    """Where x_0 never changes and there is no noise in x, no sampler moves off signal_s x_0."""
    grid = np.array([0.9, 0.7, 0.5, 0.3, 0.1])
    start = np.sqrt(COSINE.alpha_bar(grid))
    rows = sampler(COSINE, grid)._replace(sigma=np.zeros(len(sampler(COSINE, grid).t)))
    x, _ = run(rows, jnp.full((2, 2, 1), start[0]), lambda x_t, t: jnp.ones_like(x_t))
    np.testing.assert_allclose(x, start[-1], atol=2e-6)


def test_from_snr_0_the_first_step_is_the_x_0_row():
    first = samplers.ddpm(ZERO, schedules.linear_grid(5))
    alpha_bar = ZERO.alpha_bar(0.8)
    assert first.to_x[0, X] == 0
    np.testing.assert_allclose([first.to_x[0, X_0], first.sigma[0]], np.sqrt([alpha_bar, 1 - alpha_bar]), rtol=1e-12)


@every_sampler
def test_one_step_is_the_denoiser(sampler):
    x_0, frames = run(sampler(COSINE, np.array([1.0, 0.0])), noise(), lambda x_t, t: jnp.sin(x_t) * t)
    np.testing.assert_allclose(x_0, jnp.sin(noise()), atol=1e-6)
    assert frames is None


def test_two_ancestral_steps_by_hand():
    """The image between is the mean of Eq. 7 and the variance of Eq. 7, beta = (0.1, 0.6), alpha_bar = (0.9, 0.36)."""
    schedule = schedules.linear(beta_start=0.1, beta_end=0.6, steps=2)
    rows = samplers.ddpm(schedule, schedules.linear_grid(2))
    sample = compiled(rows, lambda x_t, t: x_t, observe=lambda x_0, x: x_0)
    drawn = []
    for seed in (0, 1):
        x_1 = noise((40, 40, 2), seed)
        _, frames = sample(x_1, KEY)
        mean = np.sqrt(0.9) * 0.6 / 0.64 * x_1 + np.sqrt(0.4) * 0.1 / 0.64 * x_1
        drawn.append((frames[1] - mean) / np.sqrt(0.1 / 0.64 * 0.6))
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-5)
    assert np.mean(drawn[0]) == pytest.approx(0, abs=0.07) and np.std(drawn[0]) == pytest.approx(1, abs=0.05)


def test_ddim_is_its_recursion_in_float64():
    """x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) eps over the published table of 1000 steps."""
    alpha_bar = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::-1], 1.0)
    x = x_1 = np.asarray(noise(), np.float64)
    for now, then in itertools.pairwise(alpha_bar):
        x_0 = MU + gain(now) * (x - np.sqrt(now) * MU)
        x = np.sqrt(then) * x_0 + np.sqrt(1 - then) * (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
    schedule = schedules.linear()
    rows = samplers.ddim(schedule, schedules.linear_grid(1000))
    sampled, _ = run(rows, jnp.asarray(x_1, jnp.float32), best_denoiser(schedule))
    np.testing.assert_allclose(sampled, x, atol=2e-5)


@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_the_law_converges_to_the_datas_at_order_1(eta):
    errors = []
    for steps in (512, 1024, 2048):
        mean, variance = moments(samplers.ddim(ZERO, schedules.linear_grid(steps), eta=eta), ZERO)
        assert mean == pytest.approx(MU, abs=1e-9)
        errors.append(abs(variance - STD**2))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.1)


@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_samples_follow_the_recursion_of_their_moments(name):
    """From unit noise, with few steps, so that the sampler's law is not yet the data's."""
    rows = SAMPLERS[name](COSINE, np.array([1.0, 0.7, 0.3, 0.05]))
    mean, variance = moments(rows, COSINE)
    x, _ = run(rows, noise((80, 80, 4)))
    assert np.mean(x) == pytest.approx(mean, abs=4 * np.sqrt(variance / x.size))
    assert np.var(x) == pytest.approx(variance, rel=4 * np.sqrt(2 / x.size))


@both_schedules
def test_ddim_of_eta_1_is_ddpm(schedule):
    """Not only in law: the rows are the same numbers."""
    grid = np.array([1.0, 0.8, 0.5, 0.2, 0.1, 0.0])
    one, other = samplers.ddpm(schedule, grid), samplers.ddim(schedule, grid, eta=1.0)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_from_snr_0_ddpm_forgets_its_start_and_ddim_does_not():
    grid = schedules.linear_grid(4)
    ancestral, flow = (compiled(SAMPLERS[name](ZERO, grid), best_denoiser(ZERO)) for name in ("ddpm", "ddim"))
    one, other = (ancestral(noise(seed=seed), KEY)[0] for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    one, other = (flow(noise(seed=seed), KEY)[0] for seed in (0, 1))
    assert np.min(np.abs(one - other)) > 0


def test_each_step_and_pixel_draws_its_own_noise():
    sample = compiled(samplers.ddpm(ZERO, schedules.linear_grid(4)), lambda x_t, t: x_t, observe=lambda x_0, x: x_0)
    start = jnp.zeros((8, 8, 3))
    (_, frames), (_, again) = sample(start, KEY), sample(start, KEY)
    assert len(np.unique(frames[1:])) == frames[1:].size
    assert abs(np.corrcoef(np.ravel(frames[1]), np.ravel(frames[2]))[0, 1]) < 0.9
    np.testing.assert_array_equal(again, frames)
    assert np.all(sample(start, jax.random.key(8, impl="rbg"))[1][1:] != frames[1:])


def test_a_wrong_eta_is_named():
    with pytest.raises(ValueError, match=r"eta 1.5 is outside \[0, 1\]; 0 is deterministic"):
        samplers.ddim(COSINE, schedules.linear_grid(2), eta=1.5)


@every_sampler
def test_a_wrong_grid_is_named(sampler):
    with pytest.raises(ValueError, match="its times must fall strictly"):
        sampler(COSINE, np.array([0.0, 1.0]))
