"""Guidance: weights 0 and 1 are exact, the mix is affine, and one call serves both labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import guidance, process

LABEL = jnp.array([1, -1, 0], jnp.int8)
T = jnp.asarray(0.3)


def predict(x_t, t, label):
    return jnp.sin(3 * x_t) * t + jnp.sum(label * jnp.array([0.7, -0.3, 5.0])) * jnp.cos(x_t)


@pytest.fixture
def x_t():
    return jax.random.normal(jax.random.key(1), (4, 4, 2))


@pytest.mark.parametrize("wrap", [float, jnp.float32])
def test_weight_0_is_unconditional_and_weight_1_conditional(x_t, wrap):
    """Bit for bit, even where the two differ by orders of magnitude."""

    def uneven(x_t, t, label):
        return jnp.where(jnp.any(label != 0), 1e-3 * x_t, 1e3 * jnp.square(x_t))

    nothing = jnp.zeros_like(LABEL)
    for weight, label in ((0, nothing), (1, LABEL)):
        guided = guidance.classifier_free(uneven, LABEL, wrap(weight))(x_t, T)
        np.testing.assert_array_equal(guided, uneven(x_t, T, label))


def test_the_guided_output_is_affine_in_the_weight(x_t):
    without, given = predict(x_t, T, jnp.zeros_like(LABEL)), predict(x_t, T, LABEL)
    guided = guidance.classifier_free(predict, LABEL, 3.5)(x_t, T)
    np.testing.assert_allclose(guided, without + 3.5 * (given - without), rtol=1e-5, atol=1e-5)


def test_both_labels_go_through_one_call(x_t):
    calls = []

    def counted(x_t, t, label):
        calls.append(label.shape)
        return predict(x_t, t, label)

    guidance.classifier_free(counted, LABEL, 2.0)(x_t, T)
    assert calls == [LABEL.shape]


def test_an_unspecified_label_is_a_fixed_point(x_t):
    nothing = jnp.zeros_like(LABEL)
    guided = guidance.classifier_free(predict, nothing, 7.0)(x_t, T)
    np.testing.assert_allclose(guided, predict(x_t, T, nothing), rtol=1e-5, atol=1e-6)


def test_a_new_weight_or_label_does_not_compile_again(x_t):
    traced = []

    @jax.jit
    def run(label, weight):
        traced.append(weight)
        return guidance.classifier_free(predict, label, weight)(x_t, T)

    for weight in (0.0, 1.0, 4.0):
        run(LABEL, jnp.float32(weight))
        run(-LABEL, jnp.float32(weight))
    assert len(traced) == 1


def test_guiding_eps_is_guiding_x_0(x_t):
    """x_0 is affine in eps, and the guided mix's coefficients sum to one."""
    log_snr = jnp.asarray(0.4)

    def predict_x_0(x_t, t, label):
        return process.x_0_from_eps(predict(x_t, t, label), x_t, log_snr)

    eps = guidance.classifier_free(predict, LABEL, 2.5)(x_t, T)
    x_0 = guidance.classifier_free(predict_x_0, LABEL, 2.5)(x_t, T)
    np.testing.assert_allclose(process.x_0_from_eps(eps, x_t, log_snr), x_0, rtol=1e-4, atol=1e-5)


def test_guided_palette_logits_sharpen_the_ratio_of_the_two_distributions(x_t):
    """softmax((1 - w) u + w c) is proportional to p_u^(1 - w) p_c^w."""
    guided = jax.nn.softmax(guidance.classifier_free(predict, LABEL, 3.0)(x_t, T))
    p_u = jax.nn.softmax(predict(x_t, T, jnp.zeros_like(LABEL)))
    p_c = jax.nn.softmax(predict(x_t, T, LABEL))
    expected = p_c**3 / p_u**2
    np.testing.assert_allclose(guided, expected / jnp.sum(expected, -1, keepdims=True), rtol=1e-4)


def test_it_maps_over_images_with_their_own_weights(x_t):
    weights, images = jnp.array([0.0, 2.0]), jnp.stack([x_t, 2 * x_t])
    one = lambda weight, x_t: guidance.classifier_free(predict, LABEL, weight)(x_t, T)  # noqa: E731
    many = jax.jit(jax.vmap(one))(weights, images)
    for i in range(2):
        np.testing.assert_allclose(many[i], one(weights[i], images[i]), rtol=1e-5, atol=1e-6)
