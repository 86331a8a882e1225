"""The process against Gaussian conditioning, its conversions against each other, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import process, schedules

LOG_SNRS = [-20.0, -3.0, 0.0, 2.0, 15.0]


@pytest.fixture
def pair():
    x_key, eps_key = jax.random.split(jax.random.key(0))
    return jax.random.uniform(x_key, (4, 5, 3), minval=-1), jax.random.normal(eps_key, (4, 5, 3))


@pytest.mark.parametrize("log_snr", LOG_SNRS)
def test_the_scales_squares_sum_to_one_and_divide_to_the_snr(log_snr):
    signal, noise = process.scales(np.array([log_snr]))
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-14)
    np.testing.assert_allclose(signal**2 / noise**2, np.exp(log_snr), rtol=1e-12)


def test_q_sample_by_hand():
    """alpha_bar = 0.36: x_t = 0.6 x_0 + 0.8 eps, v = 0.6 eps - 0.8 x_0."""
    log_snr = jnp.log(0.36 / 0.64)
    x_0, eps = jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), -2.0)
    assert process.q_sample(x_0, eps, log_snr)[0, 0, 0] == pytest.approx(-1.3, rel=1e-6)
    assert process.velocity(x_0, eps, log_snr)[0, 0, 0] == pytest.approx(-1.6, rel=1e-6)


@pytest.mark.parametrize("log_snr", LOG_SNRS)
def test_conversions_are_inverses(pair, log_snr):
    x_0, eps = pair
    log_snr = jnp.asarray(log_snr)
    x_t, v = process.q_sample(x_0, eps, log_snr), process.velocity(x_0, eps, log_snr)
    signal, noise = process.scales(log_snr)
    np.testing.assert_allclose(process.x_0_from_v(v, x_t, log_snr), x_0, atol=2e-6)
    np.testing.assert_allclose(process.eps_from_v(v, x_t, log_snr), eps, atol=2e-6)
    np.testing.assert_allclose(process.x_0_from_eps(eps, x_t, log_snr), x_0, atol=1e-6 / float(signal))
    np.testing.assert_allclose(process.eps_from_x_0(x_0, x_t, log_snr), eps, atol=1e-6 / float(noise))


def test_the_ends_are_exact(pair):
    x_0, eps = pair
    clean, gone = jnp.asarray(jnp.inf), jnp.asarray(-jnp.inf)
    np.testing.assert_array_equal(process.q_sample(x_0, eps, clean), x_0)
    np.testing.assert_array_equal(process.q_sample(x_0, eps, gone), eps)
    np.testing.assert_array_equal(process.velocity(x_0, eps, clean), eps)
    np.testing.assert_array_equal(process.velocity(x_0, eps, gone), -x_0)
    np.testing.assert_array_equal(process.x_0_from_eps(eps, x_0, clean), x_0)
    np.testing.assert_array_equal(process.eps_from_x_0(x_0, eps, gone), eps)
    np.testing.assert_array_equal(process.x_0_from_v(-x_0, eps, gone), x_0)
    np.testing.assert_array_equal(process.eps_from_v(eps, x_0, clean), eps)


def test_posterior_is_equations_6_and_7():
    """At neighbours of the table, with the paper's beta_t and alpha_t."""
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha, alpha_bar = 1 - beta, np.cumprod(1 - beta)
    log_snr = schedules.linear().log_snr(np.arange(1, 1001) / 1000)
    c_0, c_t, variance = process.posterior_row(log_snr[:-1], log_snr[1:])
    rest = 1 - alpha_bar[1:]
    np.testing.assert_allclose(c_0, np.sqrt(alpha_bar[:-1]) * beta[1:] / rest, rtol=1e-9)
    np.testing.assert_allclose(c_t, np.sqrt(alpha[1:]) * (1 - alpha_bar[:-1]) / rest, rtol=1e-9)
    np.testing.assert_allclose(variance, (1 - alpha_bar[:-1]) / rest * beta[1:], rtol=1e-9)


@pytest.mark.parametrize(("s", "t"), [(0.01, 0.02), (0.1, 0.9), (0.5, 1.0), (0.0, 0.4)])
def test_posterior_is_gaussian_conditioning_for_any_s(pair, s, t):
    """E[x_s | x_t] = E x_s + Cov(x_s, x_t) / Var(x_t) (x_t - E x_t), all given x_0."""
    x_0, x_t = pair
    schedule = schedules.cosine()
    bar_s, bar_t = schedule.alpha_bar(s), schedule.alpha_bar(t)
    slope = np.sqrt(bar_t / bar_s) * (1 - bar_s) / (1 - bar_t)
    mean, variance = process.posterior(x_t, x_0, schedule.log_snr(jnp.asarray(s)), schedule.log_snr(jnp.asarray(t)))
    expected = np.sqrt(bar_s) * np.asarray(x_0) + slope * (np.asarray(x_t) - np.sqrt(bar_t) * np.asarray(x_0))
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert variance == pytest.approx((1 - bar_s) - slope * np.sqrt(bar_t / bar_s) * (1 - bar_s), rel=1e-5)


def test_the_posteriors_limits_are_the_x_0_row():
    log_snr_s = np.array([1.0])
    np.testing.assert_array_equal(process.posterior_row(np.array([np.inf]), log_snr_s), [[1], [0], [0]])
    signal, noise = process.scales(log_snr_s)
    c_0, c_t, variance = process.posterior_row(log_snr_s, np.array([-np.inf]))
    assert (c_0, c_t, variance) == (signal, 0, noise**2)
    np.testing.assert_array_equal(process.posterior_row(np.array([np.inf]), np.array([-np.inf])), [[1], [0], [0]])


def test_every_byte_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    colours = process.to_float(pixels)
    assert colours.dtype == jnp.float32 and colours[0] == -1 and colours[255] == 1
    np.testing.assert_array_equal(process.to_uint8(colours), pixels)
    np.testing.assert_array_equal(jax.jit(process.to_uint8)(jax.jit(process.to_float)(jnp.asarray(pixels))), pixels)


def test_colours_beyond_the_range_are_clipped_to_bytes():
    np.testing.assert_array_equal(process.to_uint8(np.array([-3.0, 1.001, 77.0, 0.003])), [0, 255, 255, 128])
