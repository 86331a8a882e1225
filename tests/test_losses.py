"""Losses: Eq. 14 by hand, targets in each other's units, weightings as their papers write them, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import losses, process, schedules
from ddpm_jax.losses import TARGETS, WEIGHTINGS

PALETTE = np.array([[-1, -1, -1], [1, 0.5, -0.5], [0, 0, 1], [0.25, -0.75, 0]], np.float32)
LABEL = jnp.zeros(3, jnp.int8)
SCHEDULE = schedules.cosine()
TIMES = [1e-6, 0.01, 0.4, 0.9, 1.0]
KEY = jax.random.key(3, impl="rbg")  # compiles in half of threefry's time


@pytest.fixture
def x_0():
    return jax.random.uniform(jax.random.key(0), (6, 5, 3), minval=-1)


def true_raw(name, x_0, eps, log_snr):
    return {"eps": eps, "x_0": x_0, "v": process.velocity(x_0, eps, log_snr)}[name]


def run(predict, data, t, target, weighting=losses.simple, schedule=SCHEDULE):
    arguments = {"schedule": schedule, "target": target, "weighting": weighting}
    return losses.loss_and_error(predict, data, LABEL, jnp.asarray(t), KEY, **arguments)


def test_equation_14_by_hand(x_0):
    """|eps - predict(sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, t)|^2, with eps found by asking for x_t."""
    seen = []

    def predict(x_t, t, label):
        seen.append((x_t, t, label))
        return jnp.cos(x_t)

    weighted, error = run(predict, x_0, 0.3, TARGETS["eps"](None))
    x_t, t, label = seen[0]
    alpha_bar = SCHEDULE.alpha_bar(0.3)
    eps = (np.asarray(x_t) - np.sqrt(alpha_bar) * np.asarray(x_0)) / np.sqrt(1 - alpha_bar)
    assert weighted == error == pytest.approx(np.mean((eps - np.cos(x_t)) ** 2), rel=1e-5)
    assert t == jnp.float32(0.3) and label is LABEL


def test_the_noise_is_standard_normal_and_belongs_to_the_key():
    x_0 = jnp.zeros((64, 64, 3))
    predict = lambda x_t, t, label: x_t  # noqa: E731
    at = functools.partial(losses.loss, predict, x_0, LABEL, jnp.asarray(0.5))
    settings = {"schedule": SCHEDULE, "target": TARGETS["x_0"](None), "weighting": losses.simple}
    first = at(KEY, **settings)
    assert first == pytest.approx(1 - SCHEDULE.alpha_bar(0.5), rel=0.05)
    assert first == at(KEY, **settings)
    assert first != at(jax.random.key(4, impl="rbg"), **settings)


@pytest.mark.parametrize("name", ["eps", "x_0", "v"])
@pytest.mark.parametrize("t", TIMES)
def test_a_perfect_prediction_has_no_error_and_stands_for_x_0(name, t, x_0):
    target, log_snr = TARGETS[name](None), SCHEDULE.log_snr(jnp.asarray(t))
    eps = jax.random.normal(KEY, x_0.shape)
    raw, x_t = true_raw(name, x_0, eps, log_snr), process.q_sample(x_0, eps, log_snr)
    assert target.error(raw, x_0, x_0, eps, log_snr) == 0
    tolerance = 2e-6 / float(process.scales(log_snr)[0]) if name == "eps" else 2e-6
    np.testing.assert_allclose(target.x_0(raw, x_t, log_snr), x_0, atol=tolerance)
    assert target.channels(3) == 3 and target.decode is None


@pytest.mark.parametrize(("name", "ratio"), [("eps", lambda snr: snr), ("v", lambda snr: snr + 1)])
@pytest.mark.parametrize("log_snr", [-4.0, 0.0, 3.0])
def test_errors_are_one_error_in_other_units(name, ratio, log_snr, x_0):
    target, log_snr = TARGETS[name](None), jnp.asarray(log_snr)
    eps = jax.random.normal(KEY, x_0.shape)
    x_t = process.q_sample(x_0, eps, log_snr)
    raw = true_raw(name, x_0, eps, log_snr) + 0.3 * jnp.cos(eps)
    squared = losses.mean_squared(target.x_0(raw, x_t, log_snr), x_0)
    error = target.error(raw, x_0, x_0, eps, log_snr)
    assert error == pytest.approx(float(ratio(jnp.exp(log_snr)) * squared), rel=1e-4)


@pytest.mark.parametrize("weighting", ["min_snr", "edm"])
@pytest.mark.parametrize("log_snr", [-8.0, -1.0, 0.0, 1.6, 1.7, 12.0])
def test_a_weighting_is_one_weighting_in_other_units(weighting, log_snr):
    weigh, log_snr = WEIGHTINGS[weighting], jnp.asarray(log_snr)
    snr, x_0 = float(jnp.exp(log_snr)), float(weigh("x_0", log_snr))
    assert weigh("eps", log_snr) * snr == pytest.approx(x_0, rel=1e-5)
    assert weigh("v", log_snr) * (snr + 1) == pytest.approx(x_0, rel=1e-5)
    assert weigh("palette", log_snr) == x_0


@pytest.mark.parametrize("snr", [0.01, 1.0, 4.9, 5.1, 1000.0])
def test_min_snr_is_its_paper(snr):
    log_snr = jnp.log(jnp.asarray(snr))
    assert losses.min_snr("x_0", log_snr) == pytest.approx(min(snr, 5), rel=1e-5)
    assert losses.min_snr("eps", log_snr, gamma=2.0) == pytest.approx(min(snr, 2) / snr, rel=1e-5)
    assert losses.min_snr("v", log_snr) == pytest.approx(min(snr, 5) / (snr + 1), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.003, 0.5, 2.0, 70.0])
def test_edm_is_its_paper(sigma):
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2, with 1 / SNR = sigma^2."""
    log_snr = -2 * jnp.log(jnp.asarray(sigma))
    assert losses.edm("x_0", log_snr) == pytest.approx((sigma**2 + 0.25) / (sigma * 0.5) ** 2, rel=1e-5)
    assert losses.edm("v", log_snr, sigma_data=1.0) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("weighting", "target", "at_zero", "at_infinity"),
    [
        *[("simple", target, 1, 1) for target in TARGETS],
        ("min_snr", "eps", 1, 0),
        ("min_snr", "x_0", 0, 5),
        ("min_snr", "palette", 0, 5),
        ("min_snr", "v", 0, 0),
        ("edm", "eps", 1 + 4 * 6400, 1),
        ("edm", "x_0", 4, 4 + 250_000),
        ("edm", "palette", 4, 4 + 250_000),
        ("edm", "v", 4, 1),
    ],
)
def test_the_weightings_limits(weighting, target, at_zero, at_infinity):
    weigh = functools.partial(WEIGHTINGS[weighting], target)
    assert weigh(jnp.asarray(-jnp.inf)) == pytest.approx(at_zero, rel=1e-5)
    assert weigh(jnp.asarray(jnp.inf)) == pytest.approx(at_infinity, rel=1e-5)


def test_the_loss_is_the_weight_times_the_error(x_0):
    predict = lambda x_t, t, label: 0.5 * x_t  # noqa: E731
    weighted, error = run(predict, x_0, 0.2, TARGETS["v"](None), losses.min_snr)
    assert weighted == losses.min_snr("v", SCHEDULE.log_snr(jnp.asarray(0.2))) * error != error


@pytest.mark.parametrize("name", TARGETS)
def test_losses_and_gradients_are_finite_at_both_ends(name):
    target = TARGETS[name](PALETTE)
    data = jnp.asarray(np.arange(16).reshape(4, 4) % 4, jnp.uint8)
    mix = jnp.ones((3, target.channels(3)))
    schedule = SCHEDULE if name == "eps" else schedules.zero_terminal(SCHEDULE)

    def summed_weights(name, log_snr):
        return sum(weighting(name, log_snr) for weighting in WEIGHTINGS.values())

    def loss_at(mix, t):
        predict = lambda x_t, t, label: x_t @ mix * jnp.exp(t)  # noqa: E731
        settings = {"schedule": schedule, "target": target, "weighting": summed_weights}
        return losses.loss(predict, data, LABEL, t, KEY, **settings)

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss_at), (None, 0)))(mix, jnp.asarray([0.0, *TIMES]))
    assert np.all(np.isfinite(values)) and np.all(values > 0)
    assert np.all(np.isfinite(slopes)) and np.all(np.any(slopes != 0, axis=(1, 2)))


def test_palette_x_0_is_the_posterior_mean():
    """With the exact posterior's logits it equals Tweedie's (x_t + (1 - alpha_bar) d log q(x_t)) / sqrt(alpha_bar)."""
    prior, log_snr = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.asarray(0.5)
    signal, noise = process.scales(log_snr)

    def logits(pixel):
        return jnp.log(prior) - jnp.sum((pixel[None] - signal * PALETTE) ** 2, -1) / (2 * noise**2)

    x_t = jax.random.normal(KEY, (3, 2, 3))
    score = jax.jit(jax.vmap(jax.vmap(jax.grad(lambda pixel: jax.nn.logsumexp(logits(pixel))))))(x_t)
    x_0 = TARGETS["palette"](PALETTE).x_0(jax.jit(jax.vmap(jax.vmap(logits)))(x_t), x_t, log_snr)
    np.testing.assert_allclose(x_0, (x_t + noise**2 * score) / signal, atol=1e-5)


def test_palette_x_0_is_the_softmax_average_for_logits_of_any_size():
    raw = 1e4 * jax.random.normal(jax.random.key(0), (3, 3, len(PALETTE)))
    for logits in (raw / 1e4, raw, raw - 1e6):
        x_0 = TARGETS["palette"](PALETTE).x_0(logits, jnp.zeros((3, 3, 3)), jnp.zeros(()))
        np.testing.assert_allclose(x_0, jax.nn.softmax(logits) @ PALETTE, atol=1e-6)


def test_palette_error_is_cross_entropy():
    target = TARGETS["palette"](PALETTE)
    data = jnp.array([[0, 3], [2, 1]], jnp.uint8)
    even = jnp.zeros((2, 2, 4))
    x_0, log_snr = target.clean(data), jnp.asarray(0.0)
    np.testing.assert_array_equal(x_0, PALETTE[np.asarray(data)])
    assert target.channels(3) == 4
    assert target.error(even, data, x_0, x_0, log_snr) == pytest.approx(np.log(4), rel=1e-6)
    p = np.array([0.1, 0.2, 0.3, 0.4])
    raw = jnp.broadcast_to(jnp.log(p), (2, 2, 4))
    assert target.error(raw, data, x_0, x_0, log_snr) == pytest.approx(-np.mean(np.log(p)), rel=1e-6)
    sure = 1e4 * jax.nn.one_hot(data, 4)
    assert target.error(sure, data, x_0, x_0, log_snr) == 0
    np.testing.assert_array_equal(target.x_0(sure, x_0, log_snr), x_0)


def test_palette_decode_is_the_most_likely_colour():
    """It need not be the one nearest to the posterior mean."""
    target = TARGETS["palette"](PALETTE)
    raw = jnp.log(jnp.array([[[0.4, 0.3, 0.3 - 1e-6, 1e-6]]]))
    assert target.decode is not None
    np.testing.assert_array_equal(target.decode(raw)[0, 0], PALETTE[0])


def test_an_index_outside_the_palette_shows_as_nan():
    target = TARGETS["palette"](PALETTE)
    data = jnp.array([[0, 4]], jnp.uint8)
    assert np.isnan(losses.cross_entropy(jnp.zeros((1, 2, 4)), data))
    assert np.all(np.isnan(target.clean(data)[0, 1])) and np.all(np.isfinite(target.clean(data)[0, 0]))


@pytest.mark.parametrize("name", TARGETS)
def test_data_may_be_indices_bytes_or_colours(name, x_0):
    target = TARGETS[name](PALETTE)
    np.testing.assert_array_equal(target.clean(jnp.array([[1, 2]], jnp.int32)), PALETTE[None, 1:3])
    pixels = process.to_uint8(x_0)
    np.testing.assert_array_equal(target.clean(pixels), process.to_float(pixels))
    assert target.clean(x_0) is x_0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TARGETS["palette"](None), "palette target needs a palette; choose eps, x_0 or v"),
        (
            lambda: TARGETS["eps"](None).clean(jnp.zeros((2, 2), jnp.uint8)),
            r"type uint8 and shape \(2, 2\) is no image",
        ),
        (
            lambda: TARGETS["eps"](None).clean(jnp.zeros((2, 2, 3), jnp.int32)),
            "type int32 .* is no image; give colours",
        ),
        (
            lambda: losses.mean_squared(jnp.zeros((2, 2, 1)), jnp.zeros((2, 2, 3))),
            r"shape \(2, 2, 1\), its target \(2, 2, 3\)",
        ),
        (
            lambda: losses.cross_entropy(jnp.zeros((2, 2, 4)), jnp.zeros((2, 3), jnp.uint8)),
            r"the index image \(2, 3\); use",
        ),
        (lambda: losses.min_snr("v", jnp.zeros(()), gamma=0.0), "gamma 0.0 is not positive; the paper uses 5"),
        (lambda: losses.edm("v", jnp.zeros(()), sigma_data=0.0), "sigma_data 0.0.* needs sigma_data > 0"),
        (
            lambda: losses.simple("x0", jnp.zeros(())),
            "no weighting for target 'x0'; choose one of eps, x_0, v, palette",
        ),
    ],
)
def test_a_wrong_value_is_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
