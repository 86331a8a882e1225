"""What running a sampler's table means, and the orders at which the tables converge."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_samplers import COSINE, KEY, best_denoiser, every_sampler, noise, run

from ddpm_jax import samplers, schedules
from ddpm_jax.samplers import SAMPLERS

MEANS, STD = (-0.5, 0.6), 0.3
ENDS = COSINE.log_snr(np.array([0.9, 0.1]))
START = np.linspace(-2, 2, 41)


def mixture(x, t):
    """E[x_0 given x_t] of two equal Gaussians, in float64."""
    alpha_bar = COSINE.alpha_bar(t)
    signal, variance = np.sqrt(alpha_bar), alpha_bar * STD**2 + 1 - alpha_bar
    weights = [np.exp(-((x - signal * mean) ** 2) / (2 * variance)) for mean in MEANS]
    parts = [mean + signal * STD**2 / variance * (x - signal * mean) for mean in MEANS]
    return sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights)


def follow(rows, x, history=()):
    """The end of a table in float64; `history` are the exact images at its first times, which are taken for granted."""
    y = before = earlier = np.zeros_like(x)
    for i, (t, to_x, to_y, _) in enumerate(zip(*rows, strict=True)):
        x = history[i] if i < len(history) else x
        x_0 = mixture(x, t)
        known = np.stack([x, y, x_0, before, earlier])
        x, y, before, earlier = np.tensordot(to_x, known, 1), np.tensordot(to_y, known, 1), x_0, before
    return x


def grid(steps):
    """Even in log-SNR between two finite ends."""
    return schedules.time_at(COSINE, np.linspace(*ENDS, steps + 1))


def flow(times):
    """The exact probability flow at some times, by Heun's method in steps so fine that the rest is below 1e-9."""
    images = [START]
    for t, s in itertools.pairwise(times):
        between = np.linspace(COSINE.log_snr(t), COSINE.log_snr(s), 600)
        fine = np.concatenate([[t], schedules.time_at(COSINE, between[1:-1]), [s]])
        images.append(follow(samplers.heun(COSINE, fine), images[-1]))
    return images


END = follow(samplers.heun(COSINE, grid(8000)), START)


@pytest.mark.parametrize(
    ("name", "order", "known"),
    [("ddim", 1, 0), ("heun", 2, 0), ("dpmpp_2m", 2, 2), ("dpmpp_3m", 3, 3), ("unipc", 3, 0)],
)
def test_each_sampler_converges_at_its_order(name, order, known):
    """On a Gaussian mixture, between two finite log-SNRs; the multistep methods are given their first images."""
    errors = []
    for steps in (40, 80, 160):
        times = grid(steps)
        exact = flow(times[:known]) if known else []
        errors.append(np.abs(follow(SAMPLERS[name](COSINE, times), START, exact) - END).max())
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.25)


def test_with_the_usual_start_more_history_is_better():
    for steps in (20, 40, 80):
        first, second, third = (
            np.abs(follow(SAMPLERS[name](COSINE, grid(steps)), START) - END).max()
            for name in ("ddim", "dpmpp_2m", "dpmpp_3m")
        )
        assert first > 4 * second > 6 * third


def test_the_compiled_table_is_the_one_in_float64():
    for name in ("heun", "dpmpp_3m", "unipc"):
        rows = SAMPLERS[name](COSINE, grid(7))
        start = jnp.asarray(START, jnp.float32).reshape(-1, 1, 1)

        def denoise(x_t, t):
            alpha_bar = COSINE.alpha_bar(t)
            signal, variance = jnp.sqrt(alpha_bar), alpha_bar * STD**2 + 1 - alpha_bar
            share = jax.nn.sigmoid((MEANS[1] - MEANS[0]) * signal * (x_t - signal * sum(MEANS) / 2) / variance)
            mean = MEANS[0] + (MEANS[1] - MEANS[0]) * share
            return mean + signal * STD**2 / variance * (x_t - signal * mean)

        x, _ = run(rows, start, denoise)
        np.testing.assert_allclose(np.ravel(x), follow(rows, START), atol=1e-5)


@every_sampler
def test_the_denoiser_is_told_each_time_but_the_last(sampler):
    times = np.array([0.9, 0.5, 0.4, 0.1])
    _, told = run(
        sampler(COSINE, times), noise(), lambda x_t, t: jnp.full_like(x_t, t), observe=lambda x_0, x: x_0[0, 0, 0]
    )
    np.testing.assert_array_equal(np.unique(told)[::-1][: len(times) - 1], times[:-1].astype(np.float32))


def test_a_grid_cut_in_two_is_the_same_path():
    times = schedules.linear_grid(10)
    whole, _ = run(samplers.ddim(COSINE, times), noise())
    half, _ = run(samplers.ddim(COSINE, times[:5]), noise())
    rest, _ = run(samplers.ddim(COSINE, times[4:]), half)
    np.testing.assert_allclose(rest, whole, atol=1e-6)


@every_sampler
def test_clip_holds_x_0(sampler):
    rows = sampler(COSINE, schedules.linear_grid(4))
    expected, _ = run(rows, noise(), lambda x_t, t: jnp.clip(3 * x_t, -1, 1))
    clipped, seen = run(rows, noise(), lambda x_t, t: 3 * x_t, clip=True, observe=lambda x_0, x: x_0)
    np.testing.assert_array_equal(clipped, expected)
    assert np.max(np.abs(seen)) == 1 and np.max(np.abs(run(rows, noise(), lambda x_t, t: 3 * x_t)[0])) > 1


@every_sampler
@pytest.mark.parametrize("steps", [1, 3])
def test_decode_takes_the_last_row(sampler, steps):
    rows = sampler(COSINE, schedules.linear_grid(steps))
    options = {"clip": True, "observe": lambda x_0, x: (x_0, jnp.mean(x_0))}
    decoded, frames = run(rows, noise(), decode=lambda x_t, t: 5 * jnp.sign(x_t) + t, **options)
    before, _ = run(rows, noise(), decode=lambda x_t, t: x_t, clip=True)
    np.testing.assert_array_equal(decoded, 5 * jnp.sign(before) + jnp.float32(rows.t[-1]))
    np.testing.assert_array_equal(frames[0][-1], decoded)
    assert frames[0].shape == (len(rows.t), *decoded.shape) and frames[1].shape == (len(rows.t),)


@pytest.mark.parametrize("decode", [None, lambda x_t, t: x_t])
def test_what_comes_after_a_row_sees_its_own_value_and_key(decode):
    rows = samplers.ddim(COSINE, schedules.linear_grid(3))
    seen = []

    def after(x, value, key):
        seen.append(value.shape)
        return jnp.full_like(x, value) + 0 * jax.random.normal(key, x.shape)

    x, _ = run(rows, noise(), after=(after, jnp.array([1.0, 2.0, 3.0])), decode=decode)
    np.testing.assert_array_equal(x, 3.0)
    assert set(seen) == {()}


def test_another_table_of_as_many_rows_is_not_another_compilation():
    traced = []

    @jax.jit
    def any_table(rows):
        traced.append(rows)
        return samplers.sample(best_denoiser(COSINE), noise(), KEY, rows)[0]

    tables = [SAMPLERS[name](COSINE, schedules.linear_grid(5)) for name in ("ddpm", "ddim", "unipc", "dpmpp_3m")]
    tables.append(SAMPLERS["heun"](COSINE, 0.9 * schedules.quadratic_grid(3)))
    for rows in tables:
        any_table(samplers.Rows(*(column.astype(np.float32) for column in rows)))
    assert len(traced) == 1


@every_sampler
def test_mapped_over_images_it_is_the_same_sampler(sampler):
    x, keys = jnp.stack([noise(), noise(seed=1)]), jax.random.split(jax.random.key(7), 2)
    rows = sampler(COSINE, schedules.linear_grid(3))
    one = lambda x_t, key: samplers.sample(best_denoiser(COSINE), x_t, key, rows)[0]  # noqa: E731
    many, single = jax.jit(jax.vmap(one))(x, keys), jax.jit(one)
    for i in range(2):
        np.testing.assert_allclose(many[i], single(x[i], keys[i]), atol=1e-6)
