"""The training loss of ONE example (Ho et al. 2020, Eq. 14), for four targets and three weightings.

The errors of the targets are one error in other units (Salimans & Ho 2022, Section 4):
|eps - eps'|^2 = SNR |x_0 - x_0'|^2 and |v - v'|^2 = (SNR + 1) |x_0 - x_0'|^2.
Each weighting is that of x_0, so divided, and simplified until its limits at SNR 0 and infinity are numbers.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Num, PRNGKeyArray

from ddpm_jax import process, schedules
from ddpm_jax.process import Image, Scalar
from ddpm_jax.schedules import Schedule

Raw = Float[Array, "h w k"]
Data = Num[Array, "h w"] | Num[Array, "h w c"]
Palette = Float[Array, "k c"] | Float[np.ndarray, "k c"]
Weighting = Callable[[str, Scalar], Scalar]


class Target(NamedTuple):
    """What the network predicts, and what follows from it. All functions are for one example.

    clean: data -> x_0. Data is an index image [h, w] where there is a palette; else bytes or colours [h, w, c].
    channels: image channels -> the network's output channels.
    x_0: (raw, x_t, log_snr) -> the x_0 that raw stands for (for the palette: the posterior mean).
    error: (raw, data, x_0, eps, log_snr) -> unweighted error, averaged over pixels and channels.
    decode: raw -> the most likely colours; None where raw is no distribution.
    """

    name: str
    clean: Callable[[Data], Image]
    channels: Callable[[int], int]
    x_0: Callable[[Raw, Image, Scalar], Image]
    error: Callable[[Raw, Data, Image, Image, Scalar], Scalar]
    decode: Callable[[Raw], Image] | None = None


def loss(
    predict: Callable[[Image, Scalar, Array], Raw],
    data: Data,
    label: Array,
    t: Scalar,
    key: PRNGKeyArray,
    *,
    schedule: Schedule,
    target: Target,
    weighting: Weighting,
) -> Scalar:
    """Weighted error of predict(x_t, t, label) at time t in (0, 1] (Eq. 14). The key is consumed; `vmap` it."""
    return loss_and_error(predict, data, label, t, key, schedule=schedule, target=target, weighting=weighting)[0]


def loss_and_error(
    predict: Callable[[Image, Scalar, Array], Raw],
    data: Data,
    label: Array,
    t: Scalar,
    key: PRNGKeyArray,
    *,
    schedule: Schedule,
    target: Target,
    weighting: Weighting,
) -> tuple[Scalar, Scalar]:
    """The loss of Eq. 14 and its unweighted error, for curves that compare across weightings. The key is consumed."""
    x_0 = target.clean(data)
    log_snr = schedule.log_snr(t)
    eps = jax.random.normal(key, x_0.shape)
    raw = predict(process.q_sample(x_0, eps, log_snr), t, label)
    error = target.error(raw, data, x_0, eps, log_snr)
    return weighting(target.name, log_snr) * error, error


def eps_target(palette: Palette | None = None) -> Target:
    """The network predicts the noise (Ho et al. 2020, Eq. 14). It says nothing of x_0 at SNR 0."""
    return Target(
        "eps",
        clean=_cleaner(palette),
        channels=lambda c: c,
        x_0=process.x_0_from_eps,
        error=lambda raw, data, x_0, eps, log_snr: mean_squared(raw, eps),
    )


def x_0_target(palette: Palette | None = None) -> Target:
    """The network predicts the clean image."""
    return Target(
        "x_0",
        clean=_cleaner(palette),
        channels=lambda c: c,
        x_0=lambda raw, x_t, log_snr: raw,
        error=lambda raw, data, x_0, eps, log_snr: mean_squared(raw, x_0),
    )


def v_target(palette: Palette | None = None) -> Target:
    """The network predicts v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022)."""
    return Target(
        "v",
        clean=_cleaner(palette),
        channels=lambda c: c,
        x_0=process.x_0_from_v,
        error=lambda raw, data, x_0, eps, log_snr: mean_squared(raw, process.velocity(x_0, eps, log_snr)),
    )


def palette_target(palette: Palette | None = None) -> Target:
    """The network predicts logits over the palette's colours, pixel by pixel (Dieleman et al. 2022, arXiv 2211.15089).

    x_0 = softmax(raw) @ palette is the exact posterior mean where the marginals are right. The softmax's sum is divided
    by after the product, as one more column of it: three numbers a pixel are fewer than all colours.
    """
    if palette is None:
        raise ValueError("the palette target needs a palette; choose eps, x_0 or v for data without one")
    colours = np.asarray(palette, np.float32)

    with_one = np.concatenate([colours, np.ones_like(colours[:, :1])], axis=1)

    def x_0(raw: Raw, x_t: Image, log_snr: Scalar) -> Image:
        odds = jnp.exp(raw - raw.max(axis=-1, keepdims=True))
        # full precision: a GPU's default float32 product (TF32) is off by 1e-3
        sums = jnp.einsum("hwk,kc->hwc", odds, with_one, precision="highest")
        return sums[..., :-1] / sums[..., -1:]

    return Target(
        "palette",
        clean=_cleaner(palette),
        channels=lambda c: len(colours),
        x_0=x_0,
        error=lambda raw, data, x_0, eps, log_snr: cross_entropy(raw, data),
        decode=lambda raw: jnp.take(colours, jnp.argmax(raw, axis=-1), axis=0),
    )


def mean_squared(a: Float[Array, "..."], b: Float[Array, "..."]) -> Scalar:
    """Mean of (a - b)^2 over pixels and channels."""
    if a.shape != b.shape:
        raise ValueError(f"the network's output has shape {a.shape}, its target {b.shape}; they must be equal")
    return jnp.mean(jnp.square(a - b))


def cross_entropy(logits: Float[Array, "... k"], indices: Integer[Array, "..."]) -> Scalar:
    """-log softmax(logits)[index], in nats, averaged over pixels; an index outside the palette gives nan."""
    if logits.shape[:-1] != indices.shape:
        raise ValueError(
            f"the logits have shape {logits.shape}, the index image {indices.shape}; use [h, w, k] and [h, w]"
        )
    chosen = jnp.take_along_axis(logits, indices[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def simple(target: str, log_snr: Scalar) -> Scalar:
    """Weight 1 for every target; with eps it is L_simple (Ho et al. 2020, Eq. 14)."""
    one = jnp.ones_like(log_snr)
    return _choose(target, x_0=one, eps=one, v=one)


def min_snr(target: str, log_snr: Scalar, *, gamma: float = 5.0) -> Scalar:
    """x_0: min(SNR, gamma); eps: min(1, gamma / SNR); v: min(SNR, gamma) / (SNR + 1) (Hang et al. 2023, 2303.09556).

    The limits at SNR 0 are 0, 1, 0; at SNR infinity gamma, 0, 0. Palette: as x_0, for its cross-entropy too measures
    how well the clean image is known: it is bounded at SNR 0 and goes to 0 where the noise does.
    """
    if not gamma > 0:
        raise ValueError(f"gamma {gamma} is not positive; the paper uses 5")
    log_gamma = math.log(gamma)
    x_0 = jnp.exp(jnp.minimum(log_snr, log_gamma))
    eps = jnp.exp(jnp.minimum(log_gamma - log_snr, 0.0))
    return _choose(target, x_0=x_0, eps=eps, v=x_0 * schedules.expit(-log_snr))


def edm(
    target: str, log_snr: Scalar, *, sigma_data: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Scalar:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x_0's error, sigma^2 = 1 / SNR (Karras et al. 2022, Table 1).

    x_0 and palette: SNR + 1 / sigma_data^2; eps: 1 + 1 / (SNR sigma_data^2); v: (SNR + 1 / sigma_data^2) / (SNR + 1).
    v's limits are 1 / sigma_data^2 at SNR 0 and 1 at infinity. x_0's grows with SNR and eps' with 1 / SNR: they stop at
    sigma_min and sigma_max, the ends of the paper's range (arXiv 2206.00364). Palette: as x_0, see `min_snr`.
    """
    if not (sigma_data > 0 and 0 < sigma_min < sigma_max):
        raise ValueError(
            f"sigma_data {sigma_data}, sigma_min {sigma_min}, sigma_max {sigma_max}: "
            "the weighting needs sigma_data > 0 and 0 < sigma_min < sigma_max"
        )
    precision = sigma_data**-2
    x_0 = jnp.exp(jnp.minimum(log_snr, -2 * math.log(sigma_min))) + precision
    eps = 1 + jnp.exp(jnp.minimum(-log_snr, 2 * math.log(sigma_max))) * precision
    v = schedules.expit(log_snr) + schedules.expit(-log_snr) * precision
    return _choose(target, x_0=x_0, eps=eps, v=v)


def _choose(target: str, *, x_0: Scalar, eps: Scalar, v: Scalar) -> Scalar:
    weights = {"eps": eps, "x_0": x_0, "v": v, "palette": x_0}
    if target not in weights:
        raise ValueError(f"no weighting for target {target!r}; choose one of {', '.join(weights)}")
    return weights[target]


def _cleaner(palette: Palette | None) -> Callable[[Data], Image]:
    colours = None if palette is None else np.asarray(palette, np.float32)

    def clean(data: Data) -> Image:
        if jnp.issubdtype(data.dtype, jnp.floating):
            return data
        if colours is not None and data.ndim == 2:
            return jnp.take(colours, data, axis=0)
        if data.dtype == jnp.uint8 and data.ndim == 3:
            return process.to_float(data)
        raise ValueError(
            f"data of type {data.dtype} and shape {data.shape} is no image; "
            "give colours or bytes [h, w, c], or a palette and its indices [h, w]"
        )

    return clean


TARGETS: dict[str, Callable[[Palette | None], Target]] = {
    "eps": eps_target,
    "x_0": x_0_target,
    "v": v_target,
    "palette": palette_target,
}
WEIGHTINGS: dict[str, Callable[..., Scalar]] = {"simple": simple, "min_snr": min_snr, "edm": edm}
