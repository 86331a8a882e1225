"""Guidance: predictions under several labels in, one predictor (x_t, t) -> raw out.

Every form is an affine mix of the net's raw outputs under a few labels, which run as one batch. What the forms differ
in are arrays, made on the host, so that another weight, label or interval is never another compilation; how many labels
there are, whether a weaker net answers, and whether there is rescaling or an interval, is. Palette logits are mixed
before their softmax, so a most likely colour always exists; for eps, x_0 and v, affine in each other, the space makes
no difference.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from ddpm_jax.process import Image, Scalar

Raw = Float[Array, "h w k"]
Label = Integer[np.ndarray, " words"]
Labels = Integer[np.ndarray, "m words"]
Predictor = Callable[[Image, Scalar], Raw]
Conditional = Callable[[Image, Scalar, Array], Raw]


class Guidance(NamedTuple):
    """What is asked of the net for one picture, and how its answers are mixed.

    labels [m, words]; weights [m], one more where a weaker net answers too, of sum 1; plain, those without guidance by
    labels; interval [2], the times between which `weights` hold, and outside of which `plain` does, None for all times;
    rescale, the share to which the mix is brought to the spread of the plain one; None where it is not.
    """

    labels: Any
    weights: Any
    plain: Any
    interval: Any
    rescale: Any


def conditional(label: Label) -> Guidance:
    """Return the net's own prediction under a label."""
    return _guidance(label[None], [1.0], [1.0])


def classifier_free(label: Label, weight: float) -> Guidance:
    """(1 - weight) unconditional + weight conditional (Ho & Salimans 2022, arXiv 2207.12598, Eq. 6, weight = 1 + w).

    Weight 0 is unconditional and weight 1 conditional, exactly. The unconditional label is all zeros: every word
    unspecified.
    """
    return _guidance(np.stack([label, np.zeros_like(label)]), [weight, 1.0 - weight], [1.0, 0.0])


def composed(label: Label, without: Labels, weights: Sequence[float]) -> Guidance:
    """x_full + sum_i w_i (x_full - x_without_i): words of a label with weights of their own; all 0 is conditional.

    `without` [k, words] is the label with the i-th word unspecified. A weight of 0 pads: the number of words is fixed.
    """
    mix = [1.0 + sum(weights), *(-w for w in weights)]
    return _guidance(np.concatenate([label[None], without]), mix, [1.0, *(0.0 for _ in weights)])


def composable(labels: Labels, weights: Sequence[float]) -> Guidance:
    """x_empty + sum_i w_i (x_i - x_empty) over labels [k, words] (Liu et al. 2022, arXiv 2206.01714, Eq. 11).

    Approximate: it takes the labels for independent, which words of one picture are not. One label is classifier-free
    guidance. A weight of 0 pads.
    """
    used = [float(w != 0) for w in weights]
    every = np.concatenate([np.zeros_like(labels[:1]), labels])
    return _guidance(every, [1.0 - sum(weights), *weights], [1.0 - sum(used), *used])


def between(one: Label, other: Label, share: float) -> Guidance:
    """(1 - share) of the prediction under one label and share of that under another: their interpolation."""
    return _guidance(np.stack([one, other]), [1.0 - share, share], [1.0 - share, share])


def against(guide: Guidance, weight: float) -> Guidance:
    """guide + (weight - 1) (plain - weak): away from a worse net, too (Karras et al. 2024, arXiv 2406.02507, Eq. 3).

    Weight 1 is `guide`, and so is any weight outside its interval. The weak net's answer to its first label comes last
    (`predictor`'s `weak`).
    """
    more = weight - 1.0
    mix, straight = np.append(guide.weights + more * guide.plain, -more), np.append(guide.plain, 0.0)
    return guide._replace(weights=mix.astype(np.float32), plain=straight.astype(np.float32))


def undivided(guide: Guidance) -> Guidance:
    """Return the guidance, traced, with no weight but for complete labels where there are such and others.

    For nets that paint complete labels: what these say and what the U-Net says of open ones are logits of two kinds,
    and neither leads away from the other. Where complete labels have no weight (guidance 0), it stays.
    """
    guide = jax.tree.map(jnp.asarray, guide)
    whole = (guide.labels != 0).all(axis=-1)
    kept = jnp.append(whole, whole[0]) if len(guide.weights) > len(whole) else whole  # the weaker net's is the first

    def alone(weights: Array) -> Array:
        rest = jnp.where(kept, weights, 0.0)
        total = rest.sum()
        return jnp.where(total > 0, rest / jnp.where(total > 0, total, 1.0), weights)

    return guide._replace(weights=alone(guide.weights), plain=alone(guide.plain))


def _guidance(labels: np.ndarray, weights: Sequence[float], plain: Sequence[float]) -> Guidance:
    mix, straight = np.asarray(weights, np.float32), np.asarray(plain, np.float32)
    return Guidance(np.asarray(labels, np.int8), mix, straight, None, None)


def deviation(raw: Raw) -> Scalar:
    """Standard deviation over all pixels and channels: the spread of eps, x_0 or v."""
    return jnp.std(raw)


def logit_deviation(raw: Raw) -> Scalar:
    """Standard deviation of logits about each pixel's mean, which no softmax sees."""
    return jnp.std(raw - jnp.mean(raw, axis=-1, keepdims=True))


def predictor(
    predict: Conditional,
    guide: Guidance,
    *,
    weak: Conditional | None = None,
    spread: Callable[[Raw], Scalar] = deviation,
) -> Predictor:
    """Return the guided predictor: predictions under all labels as one call, mixed by time, and rescaled.

    Where the first label alone counts, outside the interval of all but `composable`, the others are not asked, unless
    another picture of a `vmap` is inside its own.

    `weak` answers where the guidance has a weight for it. The interval is that of Kynkaanniemi et al. 2024 (arXiv
    2404.07724), in times; rescaling that of Lin et al. 2023 (arXiv 2305.08891, Eqs. 14-16): rescale = 0 changes
    nothing, 1 gives the mix the plain prediction's spread. Raises ValueError for such a weight without `weak`.
    """
    guide = jax.tree.map(jnp.asarray, guide)
    if len(guide.weights) == len(guide.labels):
        weak = None  # nobody asks it
    elif weak is None:
        raise ValueError("the guidance has a weight for a weaker net, but there is none")

    def everything(x_t: Image, t: Scalar, inside: Array | bool = True) -> Raw:
        raws = jax.vmap(predict, in_axes=(None, None, 0))(x_t, t, guide.labels)
        if weak is not None:
            raws = jnp.concatenate([raws, weak(x_t, t, guide.labels[0])[None]])
        raw = _mix(jnp.where(inside, guide.weights, guide.plain), raws)
        if guide.rescale is None:  # two passes over the largest arrays of sampling are saved
            return raw
        ratio = spread(_mix(guide.plain, raws)) / jnp.maximum(spread(raw), 1e-8)
        return raw * (1.0 + guide.rescale * (ratio - 1.0))

    def mixed(x_t: Image, t: Scalar) -> Raw:
        if len(guide.weights) == 1:
            return predict(x_t, t, guide.labels[0])
        if guide.interval is None:
            return everything(x_t, t)
        inside = (guide.interval[0] <= t) & (t <= guide.interval[1])
        several = (guide.plain[1:] != 0).any()  # composed from nothing: all labels count outside, too
        return jax.lax.cond(
            _for_any(inside | several),
            lambda: everything(x_t, t, inside),
            lambda: predict(x_t, t, guide.labels[0]),
        )

    return mixed


@jax.custom_batching.custom_vmap
def _for_any(flag: Array) -> Array:
    """Say whether a flag holds for any of the pictures of a `vmap`: a branch on it stays one, for all of them."""
    return flag


@_for_any.def_vmap
def _any(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return _for_any(flag.any(axis=0)), False


def _mix(weights: Float[Array, " m"], raws: Float[Array, "m h w k"]) -> Raw:
    """Sum of weights x raws, written out: one pass on a CPU, and no rounding of a matrix unit, which is not exact."""
    return sum((weight * raw for weight, raw in zip(weights, raws, strict=True)), jnp.zeros(()))
