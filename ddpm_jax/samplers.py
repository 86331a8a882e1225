"""Samplers: functions from noise to an image, over a denoiser (x_t, t) -> x_0. For ONE image; `vmap` them.

All samplers are one affine row per step, x_s = c_0 x_0 + c_e eps + c_t x_t + sigma z. The rows are computed in float64
on the host and cast to float32 once; one `lax.scan` runs over them. Labels, weights and guidance are closed over by
the denoiser.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, PRNGKeyArray

from ddpm_jax import process, schedules
from ddpm_jax.process import Image, Scalar
from ddpm_jax.schedules import Schedule

Denoiser = Callable[[Image, Scalar], Image]
Observer = Callable[[Image], Any]


class Rows(NamedTuple):
    """The steps of a sampler, t to s: x_s = c_0 x_0 + c_e eps + c_t x_t + sigma z, eps = (x_t - signal x_0) / noise."""

    t: Float64[np.ndarray, " n"]
    signal: Float64[np.ndarray, " n"]
    noise: Float64[np.ndarray, " n"]
    c_0: Float64[np.ndarray, " n"]
    c_e: Float64[np.ndarray, " n"]
    c_t: Float64[np.ndarray, " n"]
    sigma: Float64[np.ndarray, " n"]


def ddpm(
    denoise: Denoiser,
    x_t: Image,
    key: PRNGKeyArray,
    *,
    schedule: Schedule,
    grid: Float64[np.ndarray, " n"],
    clip: bool = True,
    decode: Denoiser | None = None,
    observe: Observer | None = None,
) -> tuple[Image, Any]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2): at each step draw x_s from q(x_s given x_t, x_0) (Eqs. 6-7).

    x_t is an image at time grid[0]; the image at grid[-1] is returned, with the stacked values of observe(x_0), one a
    step (None without `observe`). With `clip` x_0 is held in [-1, 1] and eps follows it. Where the grid ends at 0,
    `decode` stands for the denoiser in the last step, unclipped. The key is consumed.
    """
    return _run(denoise, x_t, key, ddpm_rows(schedule, grid), _ending(grid, decode), clip=clip, observe=observe)


def ddim(
    denoise: Denoiser,
    x_t: Image,
    key: PRNGKeyArray,
    *,
    schedule: Schedule,
    grid: Float64[np.ndarray, " n"],
    eta: float = 0.0,
    clip: bool = True,
    decode: Denoiser | None = None,
    observe: Observer | None = None,
) -> tuple[Image, Any]:
    """DDIM (Song et al. 2020, arXiv 2010.02502, Eq. 12): deterministic at eta = 0, DDPM's law at eta = 1.

    All else is as for `ddpm`.
    """
    return _run(denoise, x_t, key, ddim_rows(schedule, grid, eta), _ending(grid, decode), clip=clip, observe=observe)


def ddpm_rows(schedule: Schedule, grid: Float64[np.ndarray, " n"]) -> Rows:
    """The rows of q(x_s given x_t, x_0) (Eqs. 6-7): c_e = 0."""
    times, log_snr_s, log_snr_t = _steps(schedule, grid)
    c_0, c_t, variance = process.posterior_row(log_snr_s, log_snr_t)
    return Rows(times, *process.scales(log_snr_t), c_0, np.zeros_like(c_0), c_t, np.sqrt(variance))


def ddim_rows(schedule: Schedule, grid: Float64[np.ndarray, " n"], eta: float = 0.0) -> Rows:
    """c_0 = sqrt(alpha_bar_s), c_e^2 = 1 - alpha_bar_s - sigma^2, sigma = eta times DDPM's (Song et al. 2020, Eq. 12).

    With r = SNR(t) / SNR(s), c_e^2 = (1 - alpha_bar_s) (1 - eta^2 + eta^2 r), a sum of positive terms.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} is outside [0, 1]; 0 is deterministic and 1 is DDPM")
    times, log_snr_s, log_snr_t = _steps(schedule, grid)
    signal_s, noise_s = process.scales(log_snr_s)
    ratio = np.exp(log_snr_t - log_snr_s)
    c_e = noise_s * np.sqrt(1 - eta**2 + eta**2 * ratio)
    sigma = eta * noise_s * np.sqrt(-np.expm1(log_snr_t - log_snr_s))
    return Rows(times, *process.scales(log_snr_t), signal_s, c_e, np.zeros_like(c_e), sigma)


def _steps(schedule: Schedule, grid: Float64[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    schedules.check_grid(grid)
    log_snr = schedule.log_snr(grid)
    return grid[:-1], log_snr[1:], log_snr[:-1]


def _ending(grid: Float64[np.ndarray, " n"], decode: Denoiser | None) -> Denoiser | None:
    return decode if grid[-1] == 0 else None


def _run(
    denoise: Denoiser,
    x_t: Image,
    key: PRNGKeyArray,
    rows: Rows,
    decode: Denoiser | None,
    *,
    clip: bool,
    observe: Observer | None,
) -> tuple[Image, Any]:
    """Scan over the rows; with `decode` the last row is x_0 = decode(x_t, t) instead."""
    stochastic = bool(np.any(rows.sigma))
    columns = [jnp.asarray(column, jnp.float32) for column in rows]
    keys = jax.random.split(key, len(rows.t))

    def step(x_t: Image, at: tuple[list[Scalar], PRNGKeyArray]) -> tuple[Image, Any]:
        (t, signal, noise, c_0, c_e, c_t, sigma), z_key = at
        x_0 = denoise(x_t, t)
        x_0 = jnp.clip(x_0, -1, 1) if clip else x_0
        eps = (x_t - signal * x_0) / noise
        x_s = c_0 * x_0 + c_e * eps + c_t * x_t
        if stochastic:
            x_s += sigma * jax.random.normal(z_key, x_t.shape)
        return x_s, None if observe is None else observe(x_0)

    if decode is None:
        return jax.lax.scan(step, x_t, (columns, keys))
    x_t, frames = jax.lax.scan(step, x_t, ([column[:-1] for column in columns], keys[:-1]))
    x_0 = decode(x_t, columns[0][-1])
    if observe is not None:
        frames = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), frames, observe(x_0))
    return x_0, frames


SAMPLERS: dict[str, Callable[..., tuple[Image, Any]]] = {"ddpm": ddpm, "ddim": ddim}
