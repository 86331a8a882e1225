"""A network with its schedule and its target: what training minimises, and what sampling calls, for one example.

Parameters are always an argument; a `Model` holds no arrays but the palette.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key, UInt8

from ddpm_jax import guidance, losses, process
from ddpm_jax.datasets.spec import Spec
from ddpm_jax.schedules import Schedule

Sampler = Callable[..., tuple[Array, Any]]  # a function of samplers.py
Observer = Callable[[Array], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The net, what its raw output means, the noise it was trained on, and the pictures it makes (`spec`)."""

    spec: Spec
    net: nn.Module
    schedule: Schedule
    target: losses.Target
    weighting: losses.Weighting

    def init(self, key: Key[Array, ""]) -> Any:
        """Return fresh parameters, float32."""
        label = jnp.zeros(self.spec.labels.size, jnp.int8)
        return self.net.init(key, jnp.zeros(self.spec.shape), jnp.float32(0.5), label)["params"]

    def predict(self, params: Any, x_t: Array, t: Array, label: Array) -> Array:
        """Return the raw output [h, w, k] for x_t [h, w, c] at time t under a three-state label [words]."""
        return cast(Array, self.net.apply({"params": params}, x_t, t, label))

    def loss(self, params: Any, data: Array, label: Array, t: Array, key: Array) -> tuple[Array, Array]:
        """Return the weighted loss of one example and its unweighted error; with dropout, if the net has any."""
        loss_key, dropout_key = jax.random.split(key)

        def predict(x_t: Array, t: Array, label: Array) -> Array:
            rngs = {"dropout": dropout_key}
            return cast(Array, self.net.apply({"params": params}, x_t, t, label, deterministic=False, rngs=rngs))

        parts = {"schedule": self.schedule, "target": self.target, "weighting": self.weighting}
        return losses.loss_and_error(predict, data, label, t, loss_key, **parts)

    def eval_loss(self, params: Any, data: Array, label: Array, t: Array, key: Array) -> tuple[Array, Array]:
        """Return the same two numbers without dropout."""
        parts = {"schedule": self.schedule, "target": self.target, "weighting": self.weighting}
        predict = functools.partial(self.predict, params)
        return losses.loss_and_error(predict, data, label, t, key, **parts)

    def guided(self, weight: float) -> bool:
        """Say whether a guidance weight asks for the unconditional pass too; weight 1 is the conditional net alone."""
        return self.spec.labels.size > 0 and weight != 1.0

    def sampler(
        self, *, sampler: Sampler, grid: np.ndarray, guided: bool, observe: Observer | None = None
    ) -> Callable[..., Any]:
        """Return the compiled (params, labels [n, words], keys [n], weight) -> (pictures, frames).

        Pictures are uint8 [n, h, w, c]; frames are what `observe` makes of each step's estimate of x_0, stacked (None
        without it). Not `guided` means the conditional net alone: one pass instead of two, and no weight.
        """
        one = functools.partial(self.sample, sampler=sampler, grid=grid, guided=guided, observe=observe)
        return jax.jit(jax.vmap(one, in_axes=(None, 0, 0, None)))

    def sample(
        self,
        params: Any,
        label: Array,
        key: Array,
        weight: Array,
        *,
        sampler: Sampler,
        grid: np.ndarray,
        guided: bool,
        observe: Observer | None,
    ) -> tuple[Array, Any]:
        """Return one picture, uint8 [h, w, c], under a label [words], and its frames. The key is consumed."""
        predict = functools.partial(self.predict, params)
        raw = guidance.classifier_free(predict, label, weight) if guided else lambda x_t, t: predict(x_t, t, label)
        start_key, sampler_key = jax.random.split(key)
        x_t = jax.random.normal(start_key, self.spec.shape)

        def denoise(x_t: Array, t: Array) -> Array:
            return self.target.x_0(raw(x_t, t), x_t, self.schedule.log_snr(t))

        decode = self.target.decode
        last = None if decode is None else lambda x_t, t: decode(raw(x_t, t))
        how = {"schedule": self.schedule, "grid": grid, "decode": last, "observe": observe}
        x_0, frames = sampler(denoise, x_t, sampler_key, **how)
        return process.to_uint8(x_0), frames


def snap(pictures: UInt8[np.ndarray, "n h w c"], palette: UInt8[np.ndarray, "k c"]) -> UInt8[np.ndarray, "n h w c"]:
    """Return the pictures with every pixel moved to the nearest palette colour (squared distance over channels)."""
    nearest = [np.square(p[..., None, :].astype(np.int32) - palette).sum(-1).argmin(-1) for p in pictures]
    return palette[np.stack(nearest)] if nearest else pictures
