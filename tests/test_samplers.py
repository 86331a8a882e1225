"""Samplers on data N(MU, STD^2), whose best denoiser is known: exact recursions, laws, orders of convergence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import samplers, schedules
from ddpm_jax.samplers import SAMPLERS

MU, STD = 0.3, 0.5
COSINE = schedules.cosine()
ZERO = schedules.zero_terminal(schedules.linear())
KEY = jax.random.key(7, impl="rbg")  # compiles in half of threefry's time
every_sampler = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS.keys())


def gain(alpha_bar):
    """The slope of E[x_0 given x_t] in x_t."""
    return np.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)


def best_denoiser(schedule):
    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        slope = jnp.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        return MU + slope * (x_t - jnp.sqrt(alpha_bar) * MU)

    return denoise


def compiled(sample, schedule, grid, denoise=None, **options):
    denoise = denoise or best_denoiser(schedule)
    options = {"clip": False} | options
    return jax.jit(lambda x_t, key: sample(denoise, x_t, key, schedule=schedule, grid=grid, **options))


def run(sample, x_t, schedule, grid, denoise=None, **options):
    return compiled(sample, schedule, grid, denoise, **options)(x_t, KEY)


def noise(shape=(8, 8, 3), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def moments(rows, schedule, mean=0.0, variance=1.0):
    """Mean and variance at the grid's end, by the recursion of an affine map a step."""
    for t, signal, scale, c_0, c_e, c_t, sigma in zip(*rows, strict=True):
        slope = gain(schedule.alpha_bar(t))
        k_0 = c_0 - c_e * signal / scale
        k_t = c_t + c_e / scale
        mean = k_0 * (MU + slope * (mean - signal * MU)) + k_t * mean
        variance = (k_0 * slope + k_t) ** 2 * variance + sigma**2
    return mean, variance


def test_ddpm_rows_are_equations_6_and_7():
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)[::-1]
    before = np.append(alpha_bar[1:], 1.0)
    rows = samplers.ddpm_rows(schedules.linear(), schedules.linear_grid(1000))
    np.testing.assert_allclose(rows.sigma**2, beta[::-1] * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(rows.c_0, np.sqrt(before) * beta[::-1] / (1 - alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(
        rows.c_t, np.sqrt(1 - beta[::-1]) * (1 - before) / (1 - alpha_bar), rtol=1e-9, atol=1e-15
    )
    np.testing.assert_allclose([rows.signal**2, rows.noise**2], [alpha_bar, 1 - alpha_bar], rtol=1e-9)
    assert not np.any(rows.c_e)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_rows_are_its_equations_12_and_16(eta):
    grid = schedules.linear_grid(50)
    rows = samplers.ddim_rows(COSINE, grid, eta)
    now, then = COSINE.alpha_bar(grid[:-1]), COSINE.alpha_bar(grid[1:])
    sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
    np.testing.assert_allclose(rows.sigma, sigma, rtol=1e-9)
    np.testing.assert_allclose(rows.c_e**2, 1 - then - sigma**2, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(rows.c_0, np.sqrt(then), rtol=1e-12)
    assert not np.any(rows.c_t)


@pytest.mark.parametrize("schedule", [COSINE, ZERO], ids=lambda schedule: schedule.name)
def test_the_ends_are_the_x_0_row(schedule):
    grid = schedules.linear_grid(5)
    for rows in (
        samplers.ddpm_rows(schedule, grid),
        samplers.ddim_rows(schedule, grid),
        samplers.ddim_rows(schedule, grid, 1.0),
    ):
        assert (rows.c_0[-1], rows.c_e[-1], rows.c_t[-1], rows.sigma[-1]) == (1, 0, 0, 0)
        assert all(np.all(np.isfinite(column)) for column in rows)
    first = samplers.ddpm_rows(ZERO, grid)
    alpha_bar = ZERO.alpha_bar(grid[1])
    assert first.c_t[0] == 0 and first.signal[0] == 0
    np.testing.assert_allclose([first.c_0[0], first.sigma[0]], np.sqrt([alpha_bar, 1 - alpha_bar]), rtol=1e-12)


def test_one_ancestral_step_is_the_denoiser():
    x_1 = noise()
    denoise = lambda x_t, t: jnp.sin(x_t) * t  # noqa: E731
    for sample in SAMPLERS.values():
        x_0, frames = run(sample, x_1, COSINE, np.array([1.0, 0.0]), denoise)
        np.testing.assert_allclose(x_0, jnp.sin(x_1), atol=1e-6)
        assert frames is None


def test_two_ancestral_steps_by_hand():
    """The image between is the mean of Eq. 7 and the variance of Eq. 7, beta = (0.1, 0.6), alpha_bar = (0.9, 0.36)."""
    schedule = schedules.linear(beta_start=0.1, beta_end=0.6, steps=2)
    grid = schedules.linear_grid(2)
    sample = compiled(samplers.ddpm, schedule, grid, lambda x_t, t: x_t, observe=lambda x_0: x_0)
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
    sampled, _ = run(samplers.ddim, jnp.asarray(x_1, jnp.float32), schedule, schedules.linear_grid(1000))
    np.testing.assert_allclose(sampled, x, atol=2e-5)


@pytest.mark.parametrize("schedule", [COSINE, ZERO], ids=lambda schedule: schedule.name)
def test_ddim_converges_to_the_flow_at_order_1(schedule):
    """(x_t - sqrt(alpha_bar) MU) / std(x_t) is constant along the probability flow."""
    x_1 = noise()
    alpha_bar = float(schedule.alpha_bar(1.0))
    exact = MU + STD * (x_1 - np.sqrt(alpha_bar) * MU) / np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
    errors = []
    for steps in (16, 32, 64):
        x_0, _ = run(samplers.ddim, x_1, schedule, schedules.linear_grid(steps))
        errors.append(np.max(np.abs(x_0 - exact)))
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(order, 1, atol=0.15)


@pytest.mark.parametrize("rows", [samplers.ddpm_rows, lambda schedule, grid: samplers.ddim_rows(schedule, grid, 0.6)])
def test_the_law_converges_to_the_datas_at_order_1(rows):
    errors = []
    for steps in (512, 1024, 2048):
        mean, variance = moments(rows(ZERO, schedules.linear_grid(steps)), ZERO)
        assert mean == pytest.approx(MU, abs=1e-9)
        errors.append(abs(variance - STD**2))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.1)


@pytest.mark.parametrize(
    ("sample", "rows", "options"),
    [
        (samplers.ddpm, samplers.ddpm_rows, {}),
        (samplers.ddim, lambda schedule, grid: samplers.ddim_rows(schedule, grid, 0.7), {"eta": 0.7}),
    ],
)
def test_samples_follow_the_recursion_of_their_moments(sample, rows, options):
    """From unit noise, with few steps, so that the sampler's law is not yet the data's."""
    grid = np.array([1.0, 0.7, 0.3, 0.05])
    mean, variance = moments(rows(COSINE, grid), COSINE)
    x, _ = run(sample, noise((80, 80, 4)), COSINE, grid, **options)
    assert np.mean(x) == pytest.approx(mean, abs=4 * np.sqrt(variance / x.size))
    assert np.var(x) == pytest.approx(variance, rel=4 * np.sqrt(2 / x.size))


@pytest.mark.parametrize("schedule", [COSINE, ZERO], ids=lambda schedule: schedule.name)
def test_ddim_of_eta_1_is_ddpm(schedule):
    """The same law, and with the same key the same draw."""
    grid = np.array([1.0, 0.8, 0.5, 0.2, 0.1, 0.0])
    expected, _ = run(samplers.ddpm, noise(), schedule, grid, clip=True)
    sampled, _ = run(samplers.ddim, noise(), schedule, grid, clip=True, eta=1.0)
    np.testing.assert_allclose(sampled, expected, atol=5e-6)


def test_from_snr_0_ddpm_forgets_its_start_and_ddim_does_not():
    grid = schedules.linear_grid(4)
    ancestral, flow = compiled(samplers.ddpm, ZERO, grid), compiled(samplers.ddim, ZERO, grid)
    one, other = (ancestral(noise(seed=seed), KEY)[0] for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    one, other = (flow(noise(seed=seed), KEY)[0] for seed in (0, 1))
    assert np.min(np.abs(one - other)) > 0


def test_each_step_and_pixel_draws_its_own_noise():
    grid = schedules.linear_grid(4)
    sample = compiled(samplers.ddpm, ZERO, grid, lambda x_t, t: x_t, observe=lambda x_0: x_0)
    start = jnp.zeros((8, 8, 3))
    _, frames = sample(start, KEY)
    assert len(np.unique(frames[1:])) == frames[1:].size
    assert abs(np.corrcoef(np.ravel(frames[1]), np.ravel(frames[2]))[0, 1]) < 0.9
    _, again = sample(start, KEY)
    _, other = sample(start, jax.random.key(8, impl="rbg"))
    np.testing.assert_array_equal(again, frames)
    assert np.all(other[1:] != frames[1:])


@every_sampler
def test_the_denoiser_is_told_each_time_but_the_last(sample):
    grid = np.array([0.9, 0.5, 0.4, 0.1])
    told = lambda x_t, t: jnp.full_like(x_t, t)  # noqa: E731
    _, frames = run(sample, noise(), COSINE, grid, told, observe=lambda x_0: x_0[0, 0, 0])
    np.testing.assert_array_equal(frames, grid[:-1].astype(np.float32))


def test_a_grid_cut_in_two_is_the_same_path():
    grid = schedules.linear_grid(10)
    whole, _ = run(samplers.ddim, noise(), COSINE, grid)
    half, _ = run(samplers.ddim, noise(), COSINE, grid[:5])
    rest, _ = run(samplers.ddim, half, COSINE, grid[4:])
    np.testing.assert_allclose(rest, whole, atol=1e-6)


@every_sampler
def test_clip_holds_x_0_and_eps_follows(sample):
    grid = schedules.linear_grid(4)
    wild = lambda x_t, t: 3 * x_t  # noqa: E731
    expected, _ = run(sample, noise(), COSINE, grid, lambda x_t, t: jnp.clip(3 * x_t, -1, 1))
    clipped, seen = run(sample, noise(), COSINE, grid, wild, clip=True, observe=lambda x_0: x_0)
    np.testing.assert_array_equal(clipped, expected)
    assert np.max(np.abs(seen)) == 1
    unclipped, _ = run(sample, noise(), COSINE, grid, wild)
    assert np.max(np.abs(unclipped)) > 1


@every_sampler
@pytest.mark.parametrize("steps", [1, 3])
def test_decode_takes_the_last_step_to_0(sample, steps):
    grid = schedules.linear_grid(steps)
    decode = lambda x_t, t: 5 * jnp.sign(x_t) + t  # noqa: E731
    decoded, frames = run(
        sample, noise(), COSINE, grid, decode=decode, observe=lambda x_0: (x_0, jnp.mean(x_0)), clip=True
    )
    before = noise() if steps == 1 else cut(sample, grid)
    np.testing.assert_array_equal(decoded, 5 * jnp.sign(before) + jnp.float32(grid[-2]))
    np.testing.assert_array_equal(frames[0][-1], decoded)
    assert frames[0].shape == (steps, *decoded.shape) and frames[1].shape == (steps,)


def cut(sample, grid):
    """The image one step before the end, by the same draws."""
    seen = run(sample, noise(), COSINE, grid, clip=True, decode=lambda x_t, t: x_t)
    return seen[0]


@every_sampler
def test_decode_is_not_asked_where_the_grid_ends_before_0(sample):
    grid = np.array([1.0, 0.5, 0.2])
    plain, _ = run(sample, noise(), COSINE, grid)
    decoded, _ = run(sample, noise(), COSINE, grid, decode=lambda x_t, t: jnp.full_like(x_t, jnp.nan))
    np.testing.assert_array_equal(decoded, plain)


@every_sampler
def test_mapped_over_images_it_is_the_same_sampler(sample):
    x, keys = jnp.stack([noise(), noise(seed=1)]), jax.random.split(jax.random.key(7), 2)
    grid = schedules.linear_grid(3)
    one = lambda x_t, key: sample(best_denoiser(COSINE), x_t, key, schedule=COSINE, grid=grid)[0]  # noqa: E731
    many, single = jax.jit(jax.vmap(one))(x, keys), jax.jit(one)
    for i in range(2):
        np.testing.assert_allclose(many[i], single(x[i], keys[i]), atol=1e-6)


@every_sampler
def test_a_wrong_grid_is_named(sample):
    with pytest.raises(ValueError, match="its times must fall strictly"):
        run(sample, noise(), COSINE, np.array([0.0, 1.0]))


def test_a_wrong_eta_is_named():
    with pytest.raises(ValueError, match=r"eta 1.5 is outside \[0, 1\]; 0 is deterministic"):
        run(samplers.ddim, noise(), COSINE, schedules.linear_grid(2), eta=1.5)
