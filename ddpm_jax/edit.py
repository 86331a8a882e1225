"""Editing: start from a picture instead of noise, keep a part of it, or find the noise it comes from. For ONE image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from ddpm_jax import process, samplers, schedules
from ddpm_jax.process import Image, Scalar
from ddpm_jax.samplers import Denoiser, Rows
from ddpm_jax.schedules import Grid, Schedule


def from_time(grid: Grid, t: float) -> Grid:
    """Return the grid shrunk so that it starts at t in (0, 1]: as many steps, over less noise."""
    if not 0 < t <= 1:
        raise ValueError(f"the strength {t} is outside (0, 1]; at 0 the picture stays as it is")
    return grid * t


def noised(x_0: Image, key: PRNGKeyArray, log_snr: Scalar) -> Image:
    """Return x_t ~ q(x_t given x_0): where SDEdit starts (Meng et al. 2022, arXiv 2108.01073, Algorithm 1).

    A table over `from_time(grid, t)` leads from it back to an image, the less like x_0 the larger t is.
    """
    return process.q_sample(x_0, jax.random.normal(key, x_0.shape), log_snr)


def slerp(one: Image, other: Image, share: Scalar | float) -> Image:
    """Spherical interpolation of two noises (Shoemake 1985): exact at its ends, and as noisy between them."""
    share = jnp.asarray(share)
    cosine = jnp.sum(one * other) / jnp.sqrt(jnp.sum(jnp.square(one)) * jnp.sum(jnp.square(other)))
    angle = jnp.maximum(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)), 1e-6)
    between = (jnp.sin((1 - share) * angle) * one + jnp.sin(share * angle) * other) / jnp.sin(angle)
    return jnp.where(share == 0, one, jnp.where(share == 1, other, between))


def inversion(schedule: Schedule, grid: Grid) -> Rows:
    """The table from data to noise over a grid's times: DDIM in reverse (Song et al. 2020, Section 4.3).

    It starts at the grid's last time above 0, where `invert` puts the image; x_s = signal_s x_0 + noise_s eps holds for
    s > t as for s < t.
    """
    schedules.check_grid(grid)
    times = grid[grid > 0][::-1]
    if len(times) < 2:
        raise ValueError("an inversion needs 2 steps or more")
    (signal_t, noise_t), (signal_s, noise_s) = (process.scales(schedule.log_snr(t)) for t in (times[:-1], times[1:]))
    c_0 = signal_s - signal_t * noise_s / noise_t
    return samplers.single_step(times[:-1], noise_s / noise_t, c_0, np.zeros_like(c_0))


def invert(denoise: Denoiser, x_0: Image, rows: Rows, log_snr: Scalar) -> Image:
    """Return the noise at which DDIM over the same grid starts to reach x_0 again, nearly.

    `rows` is an `inversion`, `log_snr` that of its first time, where x_0 stands without noise.
    """
    unused = jax.random.key(0)  # the table draws nothing
    return samplers.sample(denoise, process.scales(log_snr)[0] * x_0, unused, rows)[0]


class Paint(NamedTuple):
    """The table of `inpaint` and, for each row, the scales at its end s, and of the jump back from s to t.

    The kept part at s is signal x_0 + noise eps; after it x is back x + again z, (1, 0) where nothing is repeated.
    """

    rows: Rows
    signal: Any
    noise: Any
    back: Any
    again: Any


def painting(schedule: Schedule, grid: Grid, *, repeats: int = 1) -> Paint:
    """Return DDPM's rows, each but the last run `repeats` times with noise put back between (Lugmayr et al. 2022).

    RePaint (arXiv 2201.09865, Algorithm 1) with jumps of one step: the new part has `repeats` tries to agree with the
    kept one. It takes (steps - 1) repeats + 1 evaluations.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; every step is run once at least")
    rows = samplers.ddpm(schedule, grid)
    steps = len(rows.t)
    at = np.repeat(np.arange(steps), [repeats] * (steps - 1) + [1])
    last = np.append(at[1:] != at[:-1], True)
    alpha_bar = schedule.alpha_bar(grid)
    ratio = np.where(last, 1.0, (alpha_bar[:-1] / alpha_bar[1:])[at])
    signal, noise = process.scales(schedule.log_snr(grid[1:]))
    return Paint(Rows(*(column[at] for column in rows)), signal[at], noise[at], np.sqrt(ratio), np.sqrt(1 - ratio))


def inpaint(
    denoise: Denoiser,
    x_t: Image,
    key: PRNGKeyArray,
    paint: Paint,
    *,
    x_0: Image,
    mask: Bool[Array, "h w"],
    **how: Any,
) -> tuple[Image, Any]:
    """Return an image that is x_0 outside the mask, exactly, and new where the mask is True (Lugmayr et al. 2022).

    At every step the kept part is x_0 at that step's noise, drawn anew. `how` is as for `samplers.sample`. A full mask
    with `repeats` = 1 is plain ancestral sampling. The key is consumed.
    """

    def after(x: Image, scales: tuple[Array, ...], key: PRNGKeyArray) -> Image:
        signal, noise, back, again = scales
        eps_key, z_key = jax.random.split(key)
        kept = signal * x_0 + noise * jax.random.normal(eps_key, x.shape)
        x = jnp.where(mask[..., None], x, kept)
        return back * x + again * jax.random.normal(z_key, x.shape)

    scales = tuple(jnp.asarray(column, jnp.float32) for column in paint[1:])
    return samplers.sample(denoise, x_t, key, paint.rows, after=(after, scales), **how)
