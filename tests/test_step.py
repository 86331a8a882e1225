"""Facts about one training step, on a loss small enough to do by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from ddpm_jax import build, state, step

OPTIMIZER = {"learning_rate": 0.1, "warmup": 0, "decay": "constant", "weight_decay": 0.0, "clip_norm": 1e6}
OPTIMIZER |= {"b1": 0.9, "b2": 0.99, "layer_rate": 1.0, "ema": 0.999}


def loss(params, data, label, t, key):
    """(w - data)^2: its gradient is 2 (w - mean of data)."""
    error = jnp.square(params["w"] - data).mean()
    return error, error


def make(total=10, **changes):
    """A first state, and the step that follows from it."""
    optimizer = step.make_optimizer(**{**OPTIMIZER, **changes})
    first = state.init({"w": jnp.zeros(3)}, optimizer.transform, total)
    return first, jax.jit(functools.partial(step.train_step, loss=loss, optimizer=optimizer, accumulate=1))


def batch(value=1.0):
    """A batch of 8 equal examples without labels."""
    return jnp.full((8, 3), value), jnp.zeros((8, 0), jnp.int8)


def test_times_are_one_in_each_stratum_and_never_zero():
    t = np.asarray(step.stratified_times(jax.random.key(0), 1000))
    assert t.min() > 0 and t.max() <= 1
    np.testing.assert_array_equal(np.sort(np.ceil(t.astype(np.float64) * 1000 - 1e-4)), np.arange(1, 1001))
    assert abs(np.corrcoef(t, np.arange(1000))[0, 1]) < 0.2


def test_a_step_goes_downhill_and_counts():
    now, advance = make()
    found = {}
    for i in range(5):
        now, found = advance(now, *batch(), jax.random.key(i))
    assert int(now.step) == int(now.updates) == 5 and float(now.params["w"][0]) > 0.3
    assert float(found["loss"]) < 1


def test_a_bad_batch_is_as_if_it_had_not_been():
    now, advance = make()
    now, _ = advance(now, *batch(), jax.random.key(0))
    after, found = advance(now, *batch(jnp.nan), jax.random.key(1))
    for part in ("params", "ema", "opt_state", "updates", "total"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(now, part))
    assert int(after.step) == 2 and int(after.bad) == 1 == int(found["bad_in_row"])
    again, _ = advance(after, *batch(jnp.inf), jax.random.key(2))
    good, _ = advance(again, *batch(), jax.random.key(3))
    assert int(again.bad) == 2 and int(good.bad) == 0 and int(good.updates) == 2


def test_the_ema_of_constants_is_constant_and_warms_up():
    now, advance = make(learning_rate=1e-30)
    now = now._replace(params={"w": jnp.full(3, 2.0)}, ema={"w": jnp.full(3, 2.0)})
    for i in range(3):
        now, _ = advance(now, *batch(), jax.random.key(i))
    np.testing.assert_array_equal(now.ema["w"], jnp.full(3, 2.0))
    moved, _ = advance(now._replace(ema={"w": jnp.zeros(3)}), *batch(), jax.random.key(9))
    np.testing.assert_allclose(moved.ema["w"], 2.0 * (1 - 4 / 13), rtol=1e-6)  # decay (1 + 3) / (10 + 3)


def test_early_averages_are_those_of_the_first_updates_and_stay():
    optimizer = step.make_optimizer(**OPTIMIZER, early=2)
    now = state.init({"w": jnp.zeros(3)}, optimizer.transform, 10, early=True)
    seen = []
    for i in range(4):
        how = {"loss": loss, "optimizer": optimizer, "accumulate": 1}
        now, _ = step.train_step(now, *batch(), jax.random.key(i), **how)
        seen.append((now.ema["w"], now.early["w"]))
    for i, (_, early) in enumerate(seen):
        np.testing.assert_array_equal(early, seen[min(i, 1)][0])
    assert (seen[3][0] != seen[1][0]).any()


def test_accumulation_gives_the_same_step():
    optimizer = step.make_optimizer(**OPTIMIZER)
    first = state.init({"w": jnp.zeros(3)}, optimizer.transform, 10)
    data, label = jax.random.normal(jax.random.key(0), (8, 3)), jnp.zeros((8, 0), jnp.int8)
    results = [
        step.train_step(first, data, label, jax.random.key(1), loss=loss, optimizer=optimizer, accumulate=parts)
        for parts in (1, 4)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *results)


def test_the_learning_rate_rises_falls_and_stays():
    rate = functools.partial(
        step.make_optimizer(**{**OPTIMIZER, "warmup": 9, "decay": "cosine"}).rate, total=jnp.int32(109)
    )
    rates = [float(rate(jnp.int32(n))) for n in (0, 4, 9, 59, 109)]
    np.testing.assert_allclose(rates, [0.01, 0.05, 0.1, 0.05, 0.0], atol=1e-8)
    constant = step.make_optimizer(**{**OPTIMIZER, "warmup": 9}).rate
    assert float(constant(jnp.int32(5000), jnp.int32(10))) == pytest.approx(0.1)


def test_weight_decay_pulls_matrices_and_leaves_vectors():
    optimizer = step.make_optimizer(**{**OPTIMIZER, "weight_decay": 0.5})
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.transform.update(zero, optimizer.transform.init(params), params)
    assert (updates["kernel"] == 0.5).all() and not updates["bias"].any()


def test_weight_decay_leaves_which_word_lies_on_which():
    net = build.build(tiny_config(net__word_layers=2)).abstract.params
    params = {state.LAYERS: jax.tree.map(lambda leaf: jnp.ones(leaf.shape), net[state.LAYERS])}
    optimizer = step.make_optimizer(**{**OPTIMIZER, "weight_decay": 0.5})
    zero = jax.tree.map(jnp.zeros_like, params)
    updates = optimizer.transform.update(zero, optimizer.transform.init(params), params)[0][state.LAYERS]
    assert {name for name, u in updates.items() if not u.any()} == {"heights", "order", "opacity", "opacity_everywhere"}
    assert len(updates) > 4 and {float(u.max()) for u in updates.values()} == {0.0, 0.5}


def test_the_gradient_is_clipped_by_its_global_norm():
    transform = step.make_optimizer(**{**OPTIMIZER, "clip_norm": 1.0, "b1": 0.0, "b2": 0.0}).transform
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    huge = {"a": jnp.array([300.0, 0.0]), "b": jnp.array([0.0, 400.0])}
    _, (_, adam, _) = transform.update(huge, transform.init(params), params)
    np.testing.assert_allclose([adam.mu["a"][0], adam.mu["b"][1]], [0.6, 0.8], rtol=1e-6)


def steps_of_adam(transform, params, n=5):
    """The changes of n steps by gradients that are the same in every call."""
    now, changes = transform.init(params), []
    for i in range(n):
        gradient = jax.tree.map(lambda p, i=i: jax.random.normal(jax.random.key(i), p.shape), params)
        change, now = transform.update(gradient, now, params)
        changes.append(change)
    return changes


def test_adam_is_optax_own_where_no_word_paints():
    params = {"down": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}, "word_maps": {"present": jnp.zeros((2, 3))}}
    ours = steps_of_adam(step.scale_by_adam(b1=0.9, b2=0.99, layer_rate=60.0), params)
    for one, other in zip(ours, steps_of_adam(optax.scale_by_adam(b1=0.9, b2=0.99), params), strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), one, other)


def test_words_share_a_second_moment_so_that_a_small_gradient_stays_small():
    params = {"word_layers": {"maps": jnp.zeros((2, 1))}}
    gradient = {"word_layers": {"maps": jnp.array([[3.0], [0.03]])}}
    transform = step.scale_by_adam(b1=0.0, b2=0.0, layer_rate=6.0)
    change, now = transform.update(gradient, transform.init(params))
    mean = np.sqrt((3.0**2 + 0.03**2) / 2)
    np.testing.assert_allclose(change["word_layers"]["maps"], [[6 * 3 / mean], [6 * 0.03 / mean]], rtol=1e-5)
    assert now.nu["word_layers"]["maps"].shape == (1, 1)


def test_the_error_is_summed_by_quarter_of_time():
    losses = step.Losses(jnp.array([1.0, 2.0, 3.0]), jnp.array([10.0, 20.0, 30.0]), jnp.array([0.1, 0.2, 1.0]))
    found = step.summary(losses)
    assert found["loss"] == 2
    np.testing.assert_array_equal(found["error_sum"], [30, 0, 0, 30])
    np.testing.assert_array_equal(found["error_count"], [2, 0, 0, 1])
