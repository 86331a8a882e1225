"""The diffusion process of Ho et al. 2020 (arXiv 2006.11239) in continuous time, for ONE image.

The package's ten symbols:

    t          time in [0, 1]; 0 is clean data, 1 is (nearly) pure noise
    s          the earlier time of a step from t, s < t
    x_0        clean image, colours in [-1, 1]
    x_t        noisy image at time t: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps
    eps        the noise in x_t, standard normal
    v          sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, arXiv 2202.00512)
    z          fresh standard normal noise of a sampling step
    alpha_bar  share of the signal's variance at t
    log_snr    log(alpha_bar / (1 - alpha_bar)); the only way in which times enter this file
    raw        what the network returns: eps, x_0, v or palette logits
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, UInt8

from ddpm_jax import schedules
from ddpm_jax.schedules import Values

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""]


def scales(log_snr: Values) -> tuple[Values, Values]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), the scales of x_0 and eps in x_t (Eq. 4); exact at log_snr +-inf."""
    xp = schedules.array_module(log_snr)
    return xp.sqrt(schedules.expit(log_snr)), xp.sqrt(schedules.expit(-log_snr))


def q_sample(x_0: Image, eps: Image, log_snr: Scalar) -> Image:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps (Eq. 4)."""
    signal, noise = scales(log_snr)
    return signal * x_0 + noise * eps


def velocity(x_0: Image, eps: Image, log_snr: Scalar) -> Image:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, Section 4)."""
    signal, noise = scales(log_snr)
    return signal * eps - noise * x_0


def x_0_from_eps(eps: Image, x_t: Image, log_snr: Scalar) -> Image:
    """x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Eq. 4 solved for x_0); no number at SNR 0."""
    signal, noise = scales(log_snr)
    return (x_t - noise * eps) / signal


def x_0_from_v(v: Image, x_t: Image, log_snr: Scalar) -> Image:
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho 2022, Appendix D), exact at every SNR."""
    signal, noise = scales(log_snr)
    return signal * x_t - noise * v


def eps_from_x_0(x_0: Image, x_t: Image, log_snr: Scalar) -> Image:
    """eps = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar) (Eq. 4 solved for eps); no number at t = 0."""
    signal, noise = scales(log_snr)
    return (x_t - signal * x_0) / noise


def eps_from_v(v: Image, x_t: Image, log_snr: Scalar) -> Image:
    """eps = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v (Salimans & Ho 2022, Appendix D), exact at every SNR."""
    signal, noise = scales(log_snr)
    return noise * x_t + signal * v


def posterior_row(log_snr_s: Values, log_snr_t: Values) -> tuple[Values, Values, Values]:
    """c_0, c_t and the variance of q(x_s given x_t, x_0) = N(c_0 x_0 + c_t x_t, variance) (Eqs. 6-7) for any s < t.

    With r = SNR(t) / SNR(s): c_0 = sqrt(alpha_bar_s) (1 - r), variance = (1 - alpha_bar_s) (1 - r) (Kingma et al. 2021,
    Appendix A), which is (sqrt(alpha_bar_s), 0, 1 - alpha_bar_s) from SNR 0 and (1, 0, 0) to s = 0.
    """
    xp = schedules.array_module(log_snr_t)
    signal_s, noise_s = scales(log_snr_s)
    signal_t, noise_t = scales(log_snr_t)
    gain = -xp.expm1(log_snr_t - log_snr_s)
    return signal_s * gain, signal_t / signal_s * (noise_s / noise_t) ** 2, noise_s**2 * gain


def posterior(x_t: Image, x_0: Image, log_snr_s: Scalar, log_snr_t: Scalar) -> tuple[Image, Scalar]:
    """Mean and variance of q(x_s given x_t, x_0) (Eqs. 6-7), for any s < t."""
    c_0, c_t, variance = posterior_row(log_snr_s, log_snr_t)
    return c_0 * x_0 + c_t * x_t, variance


def to_float(pixels: UInt8[Array, "..."] | UInt8[np.ndarray, "..."]) -> Float32[Array, "..."]:
    """Bytes 0..255 to float32 colours in [-1, 1]."""
    return jnp.asarray(pixels).astype(jnp.float32) / 127.5 - 1


def to_uint8(colours: Float[Array, "..."] | Float[np.ndarray, "..."]) -> UInt8[Array, "..."]:
    """Colours in [-1, 1] to the nearest bytes; values beyond are clipped. Inverse of `to_float`."""
    return jnp.round(jnp.clip(jnp.asarray(colours) * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)
