"""The variational bound: each term against its closed form, and the whole against exact densities."""

from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import likelihood, losses, process, schedules
from ddpm_jax.likelihood import Terms

LINEAR, COSINE = schedules.linear(), schedules.cosine()
ZERO = schedules.zero_terminal(LINEAR)
MU, STD = 0.3, 0.5
SHAPE = (4, 4, 3)


def uniform(shape=SHAPE, seed=0):
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0)


def normal_kl(mean, variance, other_mean, other_variance):
    """KL(N(mean, variance) || N(other_mean, other_variance)), summed over the means."""
    ratio = variance / other_variance
    return 0.5 * np.sum(np.square(mean - other_mean) / other_variance + (ratio - 1 - np.log(ratio)))


def log_snr_of(alpha_bar):
    return np.log(alpha_bar) - np.log1p(-alpha_bar)


def nothing(x_t, t, log_snr):
    return jnp.float32(0)


def bound(rows, x_0, denoise, *, k, key=0, likelihood_0=nothing):
    return likelihood.bound(denoise, likelihood_0, x_0, jax.random.key(key), rows, k=k)


def many(rows, x_0, denoise, *, k, n):
    """The sum over steps, float64 [n], as estimated with n keys."""
    one = lambda key: likelihood.bound(denoise, nothing, x_0, key, rows, k=k).steps  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), n)), np.float64)


# L_T


@pytest.mark.parametrize("alpha_bar", [4e-5, 0.01, 0.3, 0.9, 0.9999])
def test_the_prior_term_is_the_divergence_of_two_gaussians(alpha_bar):
    x_0 = uniform()
    found = likelihood.prior_kl(x_0, jnp.float32(log_snr_of(alpha_bar)))
    mean = np.sqrt(alpha_bar) * np.asarray(x_0, np.float64)
    assert found == pytest.approx(normal_kl(mean, 1 - alpha_bar, 0.0, 1.0), rel=1e-4)


def test_the_prior_term_of_a_grey_image_is_the_variances_alone():
    """-log(1 - alpha_bar) - alpha_bar is alpha_bar^2 / 2, a difference of numbers that are nearly equal."""
    found = likelihood.prior_kl(jnp.zeros(SHAPE), jnp.float32(log_snr_of(1e-3)))
    assert found == pytest.approx(48 / 2 * (1e-6 / 2 + 1e-9 / 3), rel=2e-3)


def test_the_prior_term_is_0_at_snr_0_and_grows_with_the_snr():
    assert likelihood.prior_kl(uniform(), jnp.float32(-jnp.inf)) == 0
    far = likelihood.prior_kl(jnp.ones(SHAPE), jnp.float32(80.0))
    assert far == pytest.approx(0.5 * 48 * 80, rel=1e-6)


# L_(t-1)


@pytest.mark.parametrize("beta", [1e-6, 1e-4, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("alpha_bar_s", [1e-8, 4e-5, 0.3, 0.99, 0.9999, 1 - 1e-8])
def test_a_step_is_the_divergence_of_two_posteriors(beta, alpha_bar_s):
    """Means and variance as the paper writes them (Eqs. 6-7), beta the step's own."""
    alpha_bar_t = alpha_bar_s * (1 - beta)
    noise_t = beta + (1 - beta) * (1 - alpha_bar_s)  # 1 - alpha_bar_t
    variance = (1 - alpha_bar_s) / noise_t * beta
    x_0, x_0_hat = uniform(seed=0), uniform(seed=1)
    mean, other = (np.sqrt(alpha_bar_s) * beta / noise_t * np.asarray(x, np.float64) for x in (x_0, x_0_hat))
    expected = normal_kl(mean, variance, other, variance)
    log_snr_s, log_snr_t = log_snr_of(alpha_bar_s), np.log(alpha_bar_t) - np.log(noise_t)
    squared = np.square(np.asarray(x_0, np.float64) - np.asarray(x_0_hat)).sum()
    assert likelihood.step_weight(log_snr_s, log_snr_t) * squared == pytest.approx(expected, rel=1e-7, abs=0)
    if beta > 1e-3:  # in float32 a shorter step is lost in log_snr itself, which is why tables are made in float64
        found = likelihood.step_kl(x_0, x_0_hat, jnp.float32(log_snr_s), jnp.float32(log_snr_t))
        assert found == pytest.approx(expected, rel=2e-3, abs=0)


def test_a_step_of_almost_nothing_costs_almost_nothing():
    """From SNR 1 to e^-d: 1 - e^-d = d - d^2 / 2 + ..., to all digits of d."""
    for step in (1e-6, 1e-9, 1e-12):
        expected = (step - step**2 / 2 + step**3 / 6) / 2
        assert likelihood.step_weight(np.float64(0), np.float64(-step)) == pytest.approx(expected, rel=1e-13, abs=0)


def test_a_step_from_snr_0_costs_the_snr_it_reaches():
    found = likelihood.step_kl(jnp.ones(SHAPE), jnp.zeros(SHAPE), jnp.float32(np.log(3.0)), jnp.float32(-jnp.inf))
    assert found == pytest.approx(3 / 2 * 48)


def test_the_weights_are_those_of_the_papers_equation_12():
    """beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps'|^2, |eps - eps'|^2 = SNR(t) |x_0 - x_0'|^2."""
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)
    variance = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta[1:]
    of_eps = beta[1:] ** 2 / (2 * variance * (1 - beta[1:]) * (1 - alpha_bar[1:]))
    rows = likelihood.table(LINEAR, schedules.linear_grid(1000))
    expected = (of_eps * alpha_bar[1:] / (1 - alpha_bar[1:]))[::-1]
    np.testing.assert_allclose(rows.weight, expected, rtol=1e-9)
    np.testing.assert_allclose(rows.t, np.arange(1000, 0, -1) / 1000)
    np.testing.assert_allclose(schedules.expit(rows.log_snr), alpha_bar[::-1], rtol=1e-9)


# L_0


def every_level(mean, log_snr):
    """P of each of the 256 levels of one pixel, float64."""
    colours = process.to_float(np.arange(256, dtype=np.uint8)).reshape(256, 1, 1, 1)
    means = jnp.full((1, 1, 1), mean)
    log_p = jax.vmap(lambda x_0: likelihood.discretised_gaussian(x_0, means, jnp.float32(log_snr)))(colours)
    return np.exp(np.asarray(log_p, np.float64))


@pytest.mark.parametrize("log_snr", [-2.0, 2.0, 6.0, 9.2, 13.0])
@pytest.mark.parametrize("mean", [-1.0, -0.9973, 0.1234, 1.0])
def test_the_256_levels_share_all_probability(mean, log_snr):
    assert every_level(mean, log_snr).sum() == pytest.approx(1, abs=2e-4)


def test_a_level_has_the_probability_between_its_edges():
    """By the error function, in float64; the outer levels are open."""
    mean, log_snr = 0.98, 7.0
    edges = (np.arange(1, 256) - 0.5) / 127.5 - 1
    below = np.array([0, *(0.5 + 0.5 * erf((edge - mean) * np.exp(log_snr / 2) / np.sqrt(2)) for edge in edges), 1])
    np.testing.assert_allclose(every_level(mean, log_snr), np.diff(below), atol=2e-6)
    assert every_level(mean, log_snr)[255] > 0.2


def test_levels_far_from_the_mean_keep_their_tails():
    """log of erfc's asymptotic form where the probability itself is 0 in float32; below and above alike."""
    log_snr, mean = 9.0, 0.0
    precision = np.exp(log_snr / 2)
    for byte, sign in ((200, 1), (55, -1)):
        x_0 = process.to_float(np.full((1, 1, 1), byte, np.uint8))
        u = precision * (abs(byte / 127.5 - 1) - 1 / 255)
        expected = -(u**2) / 2 - np.log(u * np.sqrt(2 * np.pi)) + np.log1p(-1 / u**2 + 3 / u**4)
        found = likelihood.discretised_gaussian(x_0, jnp.full((1, 1, 1), mean), jnp.float32(log_snr))
        assert found == pytest.approx(expected, rel=1e-5), sign


def test_the_chosen_variance_is_the_papers_beta_1():
    log_snr = LINEAR.log_snr(1 / 1000)
    assert np.exp(-log_snr) == pytest.approx(1e-4, rel=2e-4)


def test_pixels_and_channels_add_up():
    x_0, mean = process.to_float(np.arange(48, dtype=np.uint8).reshape(SHAPE) * 5), uniform()
    parts = [
        likelihood.discretised_gaussian(x_0[i : i + 1, j : j + 1, c : c + 1], mean[i : i + 1, j : j + 1, c : c + 1], s)
        for s in [jnp.float32(3.0)]
        for i, j, c in np.ndindex(SHAPE)
    ]
    assert likelihood.discretised_gaussian(x_0, mean, jnp.float32(3.0)) == pytest.approx(np.sum(parts), rel=1e-5)


def test_palette_indices_cost_their_log_softmax():
    logits = 5 * uniform((4, 3, 7))
    indices = np.arange(12, dtype=np.uint8).reshape(4, 3) % 7
    p = np.exp(np.asarray(logits, np.float64))
    p = np.take_along_axis(p / p.sum(-1, keepdims=True), indices[..., None].astype(int), -1)
    assert likelihood.categorical(logits, jnp.asarray(indices)) == pytest.approx(np.log(p).sum(), rel=1e-5)


# the estimator

GRID = np.array([1.0, 0.9, 0.7, 0.6, 0.5, 0.3, 0.25, 0.1, 0.0])  # 7 steps, and the last


def off_by_time(x_0):
    """A denoiser whose error depends on the time alone, so that no noise is in the terms."""
    return lambda x_t, t: x_0 + jnp.sin(9 * t)


def exact_terms(rows, x_0):
    """The terms of `off_by_time`, float64."""
    return rows.weight * np.square(np.sin(9 * rows.t[:-1])) * x_0.size


def test_all_strata_are_the_full_sum():
    rows, x_0 = likelihood.table(COSINE, GRID), uniform()
    found = many(rows, x_0, off_by_time(x_0), k=7, n=3)
    np.testing.assert_allclose(found, exact_terms(rows, x_0).sum(), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_fewer_strata_estimate_it_without_bias(k):
    rows, x_0 = likelihood.table(COSINE, GRID), uniform()
    truth, found = exact_terms(rows, x_0).sum(), many(rows, x_0, off_by_time(x_0), k=k, n=20000)
    assert found.mean() == pytest.approx(truth, abs=4 * found.std() / np.sqrt(len(found)))
    assert found.std() > 0.01 * truth


def test_every_stratum_is_drawn_from_once():
    """With terms of 1, 10, 100 ... the digits of an estimate say which steps it took, each times its stratum's size."""
    rows, x_0 = likelihood.table(COSINE, GRID), uniform()
    size = np.sqrt(10.0 ** np.arange(7) / rows.weight / x_0.size)

    def denoise(x_t, t):
        return x_0 + jnp.interp(t, rows.t[6::-1].astype(np.float32), size[::-1].astype(np.float32))

    digits = {f"{round(value):07d}"[::-1] for value in many(rows, x_0, denoise, k=3, n=200)}
    # strata of 2, 2 and 3 steps
    assert digits == {
        f"{'20' if i else '02'}{'20' if j else '02'}{'300 030 003'.split()[m]}" for i, j, m in np.ndindex(2, 2, 3)
    }


def test_each_step_draws_noise_of_its_own():
    """n equal rows: n independent draws have n times the variance of one, where one draw n times would have n^2."""
    one = likelihood.Table(np.array([0.5, 0.5]), np.array([0.0, 0.0]), np.array([1.0]))
    eight = likelihood.Table(np.full(9, 0.5), np.zeros(9), np.ones(8))
    spread = [many(rows, uniform(), lambda x_t, t: x_t, k=k, n=4000).var() for rows, k in ((one, 1), (eight, 8))]
    assert spread[1] / spread[0] == pytest.approx(8, rel=0.2)


def test_x_is_noised_as_its_time_says():
    """The error of x_t / sqrt(alpha_bar) is d / SNR(t), so a step costs d (SNR(s) / SNR(t) - 1) / 2."""
    rows, x_0 = likelihood.table(COSINE, GRID), uniform()
    unscaled = lambda x_t, t: x_t / jnp.sqrt(COSINE.alpha_bar(t))  # noqa: E731
    found = many(rows._replace(weight=np.where(rows.t[:-1] < 1, rows.weight, 0)), x_0, unscaled, k=7, n=4000)
    snr = np.exp(rows.log_snr[1:])
    expected = 48 * (snr[1:] / snr[:-1] - 1).sum() / 2
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(len(found)))


def test_a_perfect_denoiser_costs_the_prior_alone():
    rows, x_0 = likelihood.table(COSINE, GRID), uniform()
    terms = bound(rows, x_0, lambda x_t, t: x_0, k=3)
    assert terms.steps == 0 and terms.reconstruction == 0
    assert terms.prior == likelihood.prior_kl(x_0, jnp.float32(COSINE.log_snr(1.0)))
    assert sum(terms) == terms.prior
    assert sum(bound(likelihood.table(ZERO, GRID), x_0, lambda x_t, t: x_0, k=3)) == 0


def test_the_last_term_is_the_likelihood_at_the_last_time():
    rows, x_0 = likelihood.table(COSINE, GRID), jnp.zeros((64, 64, 3))
    seen = {}

    def likelihood_0(x_t, t, log_snr):
        seen.update(x_t=x_t, t=t, log_snr=log_snr)
        return jnp.float32(-7)

    assert bound(rows, x_0, lambda x_t, t: x_0, k=1, likelihood_0=likelihood_0).reconstruction == 7
    assert seen["t"] == jnp.float32(0.1) and seen["log_snr"] == pytest.approx(COSINE.log_snr(0.1), rel=1e-6)
    assert np.std(seen["x_t"]) == pytest.approx(np.sqrt(1 - COSINE.alpha_bar(0.1)), rel=0.03)


def test_one_step_is_the_prior_and_the_last_term():
    rows = likelihood.table(COSINE, schedules.linear_grid(1))
    terms = bound(rows, uniform(), lambda x_t, t: x_t, k=0)
    assert terms.steps == 0 and terms.prior > 0


def test_another_grid_of_as_many_steps_is_not_another_compilation():
    x_0, count = uniform(), []

    @jax.jit
    def compiled(rows):
        count.append(1)
        return bound(rows, x_0, off_by_time(x_0), k=2)

    one, other = (compiled(likelihood.table(schedule, GRID)) for schedule in (LINEAR, COSINE))
    assert len(count) == 1 and one.steps != other.steps


def test_a_model_of_each_target_is_bounded_in_a_few_lines():
    """As evaluation calls it: mapped over images, logits or x_0; a net that knows the image costs the prior alone."""
    rows = likelihood.table(ZERO, schedules.linear_grid(6))
    palette = np.array([[-1, -1, -1], [1, 1, 1], [0.2, 0.4, -0.6]], np.float32)
    indices = jnp.asarray(np.arange(32).reshape(2, 4, 4) % 3, jnp.uint8)

    def one(data, key, *, name):
        target = losses.TARGETS[name](palette)
        x_0 = target.clean(data)

        def predict(x_t, t):
            return 50 * jax.nn.one_hot(data, 3) if target.decode else x_0

        def denoise(x_t, t):
            return jnp.clip(target.x_0(predict(x_t, t), x_t, ZERO.log_snr(t)), -1, 1)

        def likelihood_0(x_t, t, log_snr):
            if target.decode:
                return likelihood.categorical(predict(x_t, t), data)
            return likelihood.discretised_gaussian(x_0, denoise(x_t, t), log_snr)

        return likelihood.bound(denoise, likelihood_0, x_0, key, rows, k=5)

    keys = jax.random.split(jax.random.key(0), 2)
    for name in ("palette", "x_0"):
        terms = jax.jit(jax.vmap(lambda data, key, name=name: one(data, key, name=name)))(indices, keys)
        np.testing.assert_allclose(terms.steps, 0, atol=1e-5)
        assert all(term.shape == (2,) for term in terms)
        if name == "palette":
            np.testing.assert_allclose(sum(terms), 0, atol=1e-5)
        else:
            assert np.all(terms.reconstruction > 1)


# the whole bound


def gaussian_gap(steps):
    """The bound's excess over the exact -log p, in nats a pixel, for data N(MU, STD^2) and the best denoiser.

    The pixels are the quantiles of that law, so that only the noise is drawn. Steps are evenly spaced from time 1, of
    SNR 0, to 0.1. There the exact density of x_0 given x_t takes over, as its mean over x_t: a draw would add noise.
    """
    rows = likelihood.table(ZERO, np.append(np.linspace(1, 0.1, steps), 0))
    x_0 = (MU + STD * jax.scipy.special.ndtri(jnp.arange(0.5, 2**17) / 2**17)).reshape(256, 256, 2)

    def slope(alpha_bar):
        return jnp.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)

    def denoise(x_t, t):
        alpha_bar = ZERO.alpha_bar(t)
        return MU + slope(alpha_bar) * (x_t - jnp.sqrt(alpha_bar) * MU)

    def likelihood_0(x_t, t, log_snr):
        alpha_bar = schedules.expit(log_snr)
        variance = slope(alpha_bar) * (1 - alpha_bar) / jnp.sqrt(alpha_bar)
        bias = (1 - slope(alpha_bar) * jnp.sqrt(alpha_bar)) * (x_0 - MU)
        squared = jnp.square(bias) + jnp.square(slope(alpha_bar)) * (1 - alpha_bar)
        return -0.5 * jnp.sum(squared / variance + jnp.log(2 * jnp.pi * variance))

    def excess(key):
        terms = likelihood.bound(denoise, likelihood_0, x_0, key, rows, k=steps - 1)
        return (sum(terms) + jax.scipy.stats.norm.logpdf(x_0, MU, STD).sum()) / x_0.size

    return jax.jit(excess)(jax.random.key(0, impl="rbg"))


def test_the_bound_tends_to_the_density_at_order_1():
    """The excess halves as the steps double; drawing so few pixels makes it uncertain by 1 or 2 %."""
    gaps = np.array([gaussian_gap(steps + 1) for steps in (8, 16, 32)])
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2, rtol=0.1)
    assert 0.05 < gaps[-1] < 0.06


def test_bits():
    assert likelihood.bits(np.log(8.0)) == pytest.approx(3)
    assert likelihood.bits(np.log(8.0), 6) == pytest.approx(0.5)
    np.testing.assert_allclose(likelihood.bits(jnp.log(jnp.array([2.0, 4.0])), 2), [0.5, 1], rtol=1e-6)
    assert isinstance(bound(likelihood.table(COSINE, GRID), uniform(), off_by_time(uniform()), k=1), Terms)


# sentences


@pytest.mark.parametrize("k", [0, 8])
def test_a_wrong_number_of_strata_is_named(k):
    with pytest.raises(ValueError, match=f"k {k} is no number of strata of the grid's 7 steps .* use 1 to 7"):
        bound(likelihood.table(COSINE, GRID), uniform(), off_by_time(uniform()), k=k)


def test_a_grid_that_stops_before_the_data_is_named():
    with pytest.raises(ValueError, match=r"the grid ends at time 0\.1; the bound's last step is the one to time 0"):
        likelihood.table(COSINE, GRID[:-1])


def test_a_rising_grid_is_named():
    with pytest.raises(ValueError, match="its times must fall strictly"):
        likelihood.table(COSINE, np.array([1.0, 1.0, 0.0]))


def test_bytes_for_colours_are_named():
    x_0 = jnp.zeros(SHAPE, jnp.uint8)
    with pytest.raises(ValueError, match=r"x_0 is of type uint8; give colours in \[-1, 1\]"):
        bound(likelihood.table(COSINE, GRID), x_0, lambda x_t, t: x_t, k=1)


def test_another_shape_of_the_estimate_is_named():
    x_0, grey = jnp.zeros((2, 2, 3)), jnp.zeros((2, 2, 1))
    with pytest.raises(ValueError, match=r"output has shape \(2, 2, 1\), its target \(2, 2, 3\)"):
        likelihood.squared_error(x_0, grey)
    with pytest.raises(ValueError, match=r"the colours have shape \(2, 2, 3\), their mean \(2, 2, 1\)"):
        likelihood.discretised_gaussian(x_0, grey, jnp.float32(1))


def test_other_shapes_of_logits_are_named():
    with pytest.raises(ValueError, match=r"the logits have shape \(2, 3, 4\), the index image \(3, 2\)"):
        likelihood.categorical(jnp.zeros((2, 3, 4)), jnp.zeros((3, 2), jnp.int32))


def test_no_dimensions_are_named():
    with pytest.raises(ValueError, match="0 dimensions cannot share the bits"):
        likelihood.bits(1.0, 0)
