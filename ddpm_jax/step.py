"""One step of training, and one of evaluation, as pure functions of (state, batch, key)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from ddpm_jax.state import LAYERS, MOTIFS, PRIOR, TrainState, within

LEVELS = 4  # quarters of t in [0, 1] whose losses are reported apart


class Losses(NamedTuple):
    """Of one example: `loss` is minimised; `error` is the same without its weight, `t` where it was measured."""

    loss: Array
    error: Array
    t: Array


# (params, data, label [words], t, key) -> (loss, error), scalars, of one example
ExampleLoss = Callable[[Any, Array, Array, Array, Array], tuple[Array, Array]]


class Optimizer(NamedTuple):
    """What an update takes: `transform` without a learning rate, `rate(updates, total)`, and the EMA's decay.

    `early` is the number of updates whose averages are kept in the state, 0 for none.
    """

    transform: optax.GradientTransformation
    rate: Callable[[Array, Array], Array]
    ema: float
    early: int


def make_optimizer(
    *,
    learning_rate: float,
    warmup: int,
    decay: str,
    weight_decay: float,
    clip_norm: float,
    b1: float,
    b2: float,
    layer_rate: float,
    ema: float,
    early: int = 0,
) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) after clipping the global norm, in optax's parts."""
    transform = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        scale_by_adam(b1=b1, b2=b2, layer_rate=layer_rate),
        optax.add_decayed_weights(weight_decay, mask=_decays),
    )

    def rate(updates: Array, total: Array) -> Array:
        rise = jnp.minimum((updates + 1) / (warmup + 1), 1.0)
        if decay == "constant":
            return learning_rate * rise
        done = jnp.clip((updates - warmup) / jnp.maximum(total - warmup, 1), 0.0, 1.0)
        return learning_rate * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * done))

    return Optimizer(transform, rate, ema, early)


def _decays(params: Any) -> Any:
    """Say which parameters decay: matrices and larger ones.

    Not the word prior and the motifs, which no step changes, and of the word layers only what they paint: how high and
    how opaque a word is has no value that says nothing, as 0 is elsewhere.
    """
    kept = (PRIOR, MOTIFS, *(f"{LAYERS}/{name}" for name in ("heights", "order", "opacity", "opacity_everywhere")))
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and not any(within(path, name) for name in kept), params
    )


def scale_by_adam(*, b1: float, b2: float, layer_rate: float, epsilon: float = 1e-8) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015, arXiv 1412.6980) as optax has it, but for those of `state.LAYERS`.

    These are `layer_rate` times as fast, and all entries of their first axis share one second moment. It is the
    words', most often: a word moves by how often it explains a pixel, where with a moment of its own a rare word moves
    like a common one, and learns the colours of the face that it is on.
    """

    def squares(path: Any, g: Array) -> Array:
        return jnp.square(g).mean(axis=0, keepdims=True) if within(path, LAYERS) else jnp.square(g)

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        nu = jax.tree_util.tree_map_with_path(squares, zeros)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, nu)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda g, m: (1 - b1) * g + b1 * m, updates, state.mu)
        second = jax.tree_util.tree_map_with_path(squares, updates)
        nu = jax.tree.map(lambda g, v: (1 - b2) * g + b2 * v, second, state.nu)

        def change(path: Any, m: Array, v: Array) -> Array:
            u = (m / (1 - b1**count)) / (jnp.sqrt(v / (1 - b2**count)) + epsilon)
            return layer_rate * u if within(path, LAYERS) else u

        return jax.tree_util.tree_map_with_path(change, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def stratified_times(key: Key[Array, ""], n: int) -> Float[Array, "n"]:
    """Draw n times in (0, 1], one in each of n equal strata, in random order (Kingma et al. 2021, arXiv 2107.00630)."""
    offset_key, order_key = jax.random.split(key)
    offsets = jax.random.uniform(offset_key, (n,))
    later = 1.0 - (jax.random.permutation(order_key, n) + offsets) / n
    return jnp.maximum(later, jnp.finfo(later.dtype).eps)  # rounding can make a 0


def mean_loss(
    params: Any, data: Array, label: Array, t: Array, keys: Array, *, loss: ExampleLoss
) -> tuple[Array, Losses]:
    """Return the mean loss of a batch, and the losses [b] it is made of: the loss of one example, vmapped."""
    pairs = jax.vmap(loss, in_axes=(None, 0, 0, 0, 0))(params, data, label, t, keys)
    return pairs[0].mean(), Losses(*pairs, t)


def train_step(
    state: TrainState,
    data: Array,
    label: Array,
    key: Array,
    *,
    loss: ExampleLoss,
    optimizer: Optimizer,
    accumulate: int,
) -> tuple[TrainState, dict[str, Array]]:
    """Return the state after one batch, and its metrics; a batch with a non-finite gradient changes only `step`.

    `data` is [b, ...], `label` [b, words]. With `accumulate` > 1 the batch is cut into so many parts, one at a time.
    """
    inputs = (data, label, *_draw(key, data.shape[0]))
    gradient, losses = _gradient(state.params, inputs, loss, accumulate)
    norm = optax.tree.norm(gradient)
    good = jnp.isfinite(norm) & jnp.isfinite(losses.loss.mean())
    rate = optimizer.rate(state.updates, state.total)
    kept = (state.params, state.ema, state.opt_state, state.early)
    # A branch not taken costs nothing, where selecting would pass over every array once more.
    apply = functools.partial(_updated, gradient=gradient, rate=rate, updates=state.updates, optimizer=optimizer)
    kept = jax.lax.cond(good, apply, lambda kept: kept, kept)
    bad = jnp.where(good, 0, state.bad + 1)
    new = TrainState(state.step + 1, state.updates + good.astype(jnp.int32), bad, state.total, *kept)
    return new, {"gradient_norm": norm, "learning_rate": rate, "bad_in_row": bad, **summary(losses)}


def eval_step(params: Any, data: Array, label: Array, key: Array, *, loss: ExampleLoss) -> dict[str, Array]:
    """Return the loss of a batch without changing anything."""
    return summary(mean_loss(params, data, label, *_draw(key, data.shape[0]), loss=loss)[1])


def summary(losses: Losses) -> dict[str, Array]:
    """Return the mean loss and, for each quarter of t, the sum and the count of the unweighted error."""
    level = jnp.minimum((losses.t * LEVELS).astype(jnp.int32), LEVELS - 1)
    member = level[None] == jnp.arange(LEVELS)[:, None]  # [levels, b]
    error = jnp.where(member, losses.error[None], 0.0).sum(axis=1)
    return {"loss": losses.loss.mean(), "error_sum": error, "error_count": member.sum(axis=1).astype(jnp.float32)}


def _draw(key: Array, n: int) -> tuple[Array, Array]:
    """Draw the times [n] of a whole batch, and a key for each of its examples."""
    t_key, example_key = jax.random.split(key)
    return stratified_times(t_key, n), jax.random.split(example_key, n)


def _gradient(params: Any, inputs: tuple[Array, ...], loss: ExampleLoss, parts: int) -> tuple[Any, Losses]:
    """Return the mean gradient over (data, label, t, keys) and the losses [b], in `parts` equal parts by a scan."""
    gradient = jax.grad(functools.partial(mean_loss, loss=loss), has_aux=True)
    if parts == 1:
        return gradient(params, *inputs)

    def add(total: Any, part: tuple[Array, ...]) -> tuple[Any, Losses]:
        one, losses = gradient(params, *part)
        return jax.tree.map(jnp.add, total, one), losses

    # Example i goes to part i % parts, so that each device keeps its share of every part.
    split = jax.tree.map(lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), inputs)
    total, losses = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), split)
    return jax.tree.map(lambda g: g / parts, total), jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), losses)


def _updated(
    kept: tuple[Any, ...], *, gradient: Any, rate: Array, updates: Array, optimizer: Optimizer
) -> tuple[Any, ...]:
    """Return (params, ema, opt_state, early) after one good batch, `updates` good ones before it."""
    params, ema, opt_state, early = kept
    change, opt_state = optimizer.transform.update(gradient, opt_state, params)
    params = jax.tree.map(lambda p, u: p - rate * u, params, change)
    decay = jnp.minimum(optimizer.ema, (1.0 + updates) / (10.0 + updates))
    ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)
    if optimizer.early:
        early = jax.lax.cond(updates < optimizer.early, lambda: ema, lambda: early)
    return params, ema, opt_state, early
