"""Guidance: weights 0 and 1 are exact, mixes are affine, all labels go through one call, what moves is arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import guidance, process

LABEL = np.array([1, -1, 0], np.int8)
OTHER = np.array([0, 1, 1], np.int8)
NOTHING = np.zeros(3, np.int8)
T = jnp.asarray(0.3)


def predict(x_t, t, label):
    return jnp.sin(3 * x_t) * t + jnp.sum(label * jnp.array([0.7, -0.3, 5.0])) * jnp.cos(x_t)


def guided(guide, x_t, t=T, predict=predict, **how):
    return guidance.predictor(predict, guide, **how)(x_t, t)


@pytest.fixture
def x_t():
    return jax.random.normal(jax.random.key(1), (4, 4, 2))


def uneven(x_t, t, label):
    """Answers that differ by orders of magnitude, so that a limit is exact only if it is a product with 0 or 1."""
    return jnp.where(jnp.any(label != 0), 1e-3 * x_t, 1e3 * jnp.square(x_t))


@pytest.mark.parametrize(
    ("guide", "label"),
    [
        (guidance.classifier_free(LABEL, 0.0), NOTHING),
        (guidance.classifier_free(LABEL, 1.0), LABEL),
        (guidance.conditional(LABEL), LABEL),
        (guidance.composed(LABEL, np.stack([NOTHING, OTHER]), [0.0, 0.0]), LABEL),
        (guidance.composable(np.stack([LABEL, OTHER]), [0.0, 0.0]), NOTHING),
        (guidance.composable(np.stack([LABEL, OTHER]), [1.0, 0.0]), LABEL),
        (guidance.between(LABEL, NOTHING, 0.0), LABEL),
        (guidance.between(LABEL, NOTHING, 1.0), NOTHING),
    ],
)
def test_the_limits_are_exact_bit_for_bit(x_t, guide, label):
    np.testing.assert_array_equal(guided(guide, x_t, predict=uneven), uneven(x_t, T, label))


def test_the_guided_output_is_affine_in_the_weight(x_t):
    without, given = predict(x_t, T, NOTHING), predict(x_t, T, LABEL)
    out = guided(guidance.classifier_free(LABEL, 3.5), x_t)
    np.testing.assert_allclose(out, without + 3.5 * (given - without), rtol=1e-5, atol=1e-5)


def test_composed_weights_lead_away_from_the_label_without_each_word(x_t):
    full, one, other = (predict(x_t, T, label) for label in (LABEL, NOTHING, OTHER))
    out = guided(guidance.composed(LABEL, np.stack([NOTHING, OTHER]), [0.5, 2.0]), x_t)
    np.testing.assert_allclose(out, full + 0.5 * (full - one) + 2.0 * (full - other), rtol=1e-4, atol=1e-5)


def test_padding_with_weight_0_changes_nothing(x_t):
    short = guided(guidance.composed(LABEL, NOTHING[None], [1.5]), x_t)
    padded = guided(guidance.composed(LABEL, np.stack([NOTHING, OTHER, OTHER]), [1.5, 0.0, 0.0]), x_t)
    np.testing.assert_allclose(padded, short, rtol=1e-6, atol=1e-6)


def test_one_word_in_composables_form_is_classifier_free_guidance(x_t):
    one = guidance.composable(LABEL[None], [2.5])
    np.testing.assert_array_equal(guided(one, x_t), guided(guidance.classifier_free(LABEL, 2.5), x_t))


def test_against_a_weaker_net(x_t):
    def weak(x_t, t, label):
        return 0.5 * predict(x_t, t, label) - 1.0

    strong, worse = predict(x_t, T, LABEL), weak(x_t, T, LABEL)
    alone = guidance.conditional(LABEL)
    out = guided(guidance.against(alone, 2.0), x_t, weak=weak)
    np.testing.assert_allclose(out, 2 * strong - worse, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(guided(guidance.against(alone, 1.0), x_t, weak=weak), strong)
    both = guidance.against(guidance.classifier_free(LABEL, 3.0), 1.5)
    expected = 3 * strong - 2 * predict(x_t, T, NOTHING) + 0.5 * (strong - worse)
    np.testing.assert_allclose(guided(both, x_t, weak=weak), expected, rtol=1e-4, atol=1e-5)
    outside = both._replace(interval=np.array([0.0, float(T) / 2], np.float32))
    np.testing.assert_array_equal(guided(outside, x_t, weak=weak), strong)
    np.testing.assert_array_equal(guided(guidance.conditional(LABEL), x_t, weak=weak), strong)  # nobody asked it
    with pytest.raises(ValueError, match="a weight for a weaker net, but there is none"):
        guided(guidance.against(alone, 2.0), x_t)


@pytest.mark.parametrize(("t", "inside"), [(0.19, False), (0.2, True), (0.5, True), (0.6, True), (0.61, False)])
def test_outside_the_interval_the_prediction_is_conditional(x_t, t, inside):
    guide = guidance.classifier_free(LABEL, 4.0)
    narrow = guide._replace(interval=np.array([0.2, 0.6], np.float32))
    expected = guided(guide, x_t, jnp.float32(t)) if inside else predict(x_t, jnp.float32(t), LABEL)
    np.testing.assert_allclose(guided(narrow, x_t, jnp.float32(t)), expected, rtol=1e-6, atol=1e-6)


def test_composed_from_nothing_all_labels_count_outside_the_interval_too(x_t):
    guide = guidance.composable(np.stack([LABEL, OTHER]), [2.0, 3.0])
    outside = guide._replace(interval=np.array([0.5, 0.9], np.float32))
    expected = guided(guidance.composable(np.stack([LABEL, OTHER]), [1.0, 1.0]), x_t)
    np.testing.assert_allclose(guided(outside, x_t), expected, rtol=1e-6, atol=1e-6)


def test_rescaling_gives_the_spread_of_the_conditional_prediction(x_t):
    guide = guidance.classifier_free(LABEL, 6.0)
    plain, wild = predict(x_t, T, LABEL), guided(guide, x_t)
    whole = guided(guide._replace(rescale=np.float32(1)), x_t)
    assert jnp.std(wild) > 1.5 * jnp.std(plain)
    assert float(jnp.std(whole)) == pytest.approx(float(jnp.std(plain)), rel=1e-5)
    np.testing.assert_array_equal(guided(guide._replace(rescale=np.float32(0)), x_t), wild)
    half = guided(guide._replace(rescale=np.float32(0.5)), x_t)
    np.testing.assert_allclose(half, (whole + wild) / 2, rtol=1e-5, atol=1e-6)


def test_the_spread_of_logits_ignores_what_a_softmax_ignores(x_t):
    shifted = x_t + jnp.arange(4.0)[:, None, None]
    assert float(guidance.logit_deviation(shifted)) == pytest.approx(float(guidance.logit_deviation(x_t)), rel=1e-5)
    assert float(guidance.deviation(shifted)) != pytest.approx(float(guidance.deviation(x_t)), rel=0.1)


@pytest.mark.parametrize("guide", [guidance.classifier_free(LABEL, 2.0), guidance.composed(LABEL, OTHER[None], [1.0])])
def test_all_labels_go_through_one_call(x_t, guide):
    calls = []

    def counted(x_t, t, label):
        calls.append(label.shape)
        return predict(x_t, t, label)

    guided(guide, x_t, predict=counted)
    assert calls == [LABEL.shape]


@pytest.mark.parametrize(("t", "asked"), [(0.1, 1), (0.3, 3)])
def test_outside_the_interval_only_the_first_label_is_asked(x_t, t, asked):
    """For all pictures of a vmap; inside, the others and the weaker net are."""
    calls = []

    def counted(x_t, t, label):
        jax.debug.callback(lambda _: calls.append(1), label, ordered=False)
        return predict(x_t, t, label)

    guide = guidance.against(guidance.classifier_free(LABEL, 3.0), 1.5)._replace(interval=np.array([0.2, 0.6]))
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), guide)

    def one(guide, x_t):
        return guided(guide, x_t, jnp.float32(t), predict=counted, weak=counted)

    jax.block_until_ready(jax.vmap(one)(stacked, jnp.stack([x_t, x_t])))
    jax.effects_barrier()
    assert len(calls) == 2 * asked


def test_one_picture_inside_its_interval_takes_nothing_from_those_outside_theirs(x_t):
    guide = guidance.classifier_free(LABEL, 3.0)
    guides = [guide._replace(interval=np.array(interval, np.float32)) for interval in ([0.0, 0.2], [0.2, 0.6])]
    made = jax.vmap(lambda guide: guided(guide, x_t))(jax.tree.map(lambda *leaves: np.stack(leaves), *guides))
    for i, expected in enumerate((predict(x_t, T, LABEL), guided(guide, x_t))):
        np.testing.assert_allclose(made[i], expected, rtol=1e-6, atol=1e-6)


def test_new_weights_labels_intervals_and_rescaling_do_not_compile_again(x_t):
    """Only rescaling at all is another function: it takes two more passes over all logits. And no interval is one."""
    traced = []

    @jax.jit
    def run(guide):
        traced.append(guide)
        return guided(guide, x_t)

    for weight in (0.0, 1.0, 4.0):
        for label in (LABEL, OTHER):
            guide = guidance.classifier_free(label, weight)._replace(interval=np.array([0.0, 1.0], np.float32))
            run(guide)
            run(guide._replace(interval=np.array([0.1, 0.4], np.float32)))
            run(guide._replace(interval=np.array([0.2, weight], np.float32)))
            run(guide._replace(rescale=np.float32(0.7)))
            run(guide._replace(rescale=np.float32(0.2)))
    assert len(traced) == 2
    for weight in (0.0, 4.0):
        run(guidance.classifier_free(LABEL, weight))
    assert len(traced) == 3


def test_guiding_eps_is_guiding_x_0(x_t):
    """x_0 is affine in eps, and the guided mix's coefficients sum to one."""
    log_snr = jnp.asarray(0.4)

    def predict_x_0(x_t, t, label):
        return process.x_0_from_eps(predict(x_t, t, label), x_t, log_snr)

    guide = guidance.classifier_free(LABEL, 2.5)
    eps, x_0 = guided(guide, x_t), guided(guide, x_t, predict=predict_x_0)
    np.testing.assert_allclose(process.x_0_from_eps(eps, x_t, log_snr), x_0, rtol=1e-4, atol=1e-5)


def test_guided_palette_logits_sharpen_the_ratio_of_the_two_distributions(x_t):
    """softmax((1 - w) u + w c) is proportional to p_u^(1 - w) p_c^w."""
    mixed = jax.nn.softmax(guided(guidance.classifier_free(LABEL, 3.0), x_t))
    p_u, p_c = jax.nn.softmax(predict(x_t, T, NOTHING)), jax.nn.softmax(predict(x_t, T, LABEL))
    expected = p_c**3 / p_u**2
    np.testing.assert_allclose(mixed, expected / jnp.sum(expected, -1, keepdims=True), rtol=1e-4)


def test_it_maps_over_images_with_their_own_guidance(x_t):
    guides = [guidance.classifier_free(LABEL, 0.0), guidance.classifier_free(OTHER, 2.0)]
    images = jnp.stack([x_t, 2 * x_t])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *guides)
    many = jax.jit(jax.vmap(guided))(stacked, images)
    for i in range(2):
        np.testing.assert_allclose(many[i], guided(guides[i], images[i]), rtol=1e-5, atol=1e-6)


WHOLE = np.array([1, -1, -1], np.int8)


@pytest.mark.parametrize(
    ("guide", "weights"),
    [
        (guidance.classifier_free(WHOLE, 3.0), [1, 0]),
        (guidance.classifier_free(WHOLE, 0.0), [0, 1]),  # nothing is asked for
        (guidance.classifier_free(LABEL, 3.0), [3, -2]),
        (guidance.composed(WHOLE, np.stack([LABEL, NOTHING]), [2.0, 1.0]), [1, 0, 0]),
        (guidance.composable(np.stack([LABEL, WHOLE]), [0.5, 0.0]), [0.5, 0.5, 0]),  # the padding is not asked
        (guidance.between(WHOLE, -WHOLE, 0.25), [0.75, 0.25]),
        (guidance.against(guidance.conditional(WHOLE), 1.5), [1.5, -0.5]),
        (guidance.against(guidance.classifier_free(WHOLE, 2.0), 1.5), [1.25, 0, -0.25]),
    ],
)
def test_a_complete_label_is_not_led_away_from_an_open_one_where_it_is_painted(guide, weights):
    alone = guidance.undivided(guide)
    assert np.asarray(alone.weights) == pytest.approx(weights)
    assert float(alone.weights.sum()) == pytest.approx(1) and float(alone.plain.sum()) == pytest.approx(1)
    np.testing.assert_array_equal(alone.labels, guide.labels)
