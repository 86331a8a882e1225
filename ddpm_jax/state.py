"""The state of a training run: arrays only, so that it can be jitted, sharded, saved and compared bit for bit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


class TrainState(NamedTuple):
    """Everything that a resume needs; keys and the order of the data follow from `step` and the run's seed.

    `step` counts batches (data and keys), `updates` those that changed the parameters, `bad` the non-finite ones in a
    row that were skipped just now. `total` is the number of steps of the whole run, the horizon of the learning rate.
    """

    step: Int[Array, ""]
    updates: Int[Array, ""]
    bad: Int[Array, ""]
    total: Int[Array, ""]
    params: Any
    ema: Any
    opt_state: Any


def init(params: Any, optimizer: optax.GradientTransformation, total: int) -> TrainState:
    """Return the state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    # A copy, because the step donates the state and no buffer may be donated twice.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(zero, zero, zero, jnp.asarray(total, jnp.int32), params, ema, optimizer.init(params))
