"""The variational bound on -log p(x_0), term by term (Ho et al. 2020, arXiv 2006.11239, Eq. 5). For ONE image, in nats.

    -log p(x_0) <= L_T + sum over steps (t, s) of L_(t-1) + L_0

L_T is what the prior costs, L_(t-1) what a step from t to s does, and L_0 = -log p(x_0 given x at the last time before
0), whose likelihood is passed in. The noise of a step is that of the posterior, so a step costs its error of x_0 times
half of the SNR it gains.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num, PRNGKeyArray

from ddpm_jax import losses, process, schedules
from ddpm_jax.process import Image, Scalar
from ddpm_jax.samplers import Denoiser
from ddpm_jax.schedules import Grid, Schedule, Values

# (x_t, t, log_snr) -> log p(x_0 given x_t) at the last time before 0; the image is closed over
Likelihood = Callable[[Image, Scalar, Scalar], Scalar]


class Table(NamedTuple):
    """The bound's numbers on a grid of T steps: t and log_snr [T] where each starts, weight [T - 1] of all but L_0's.

    float64 on the host, float32 in a compiled function: another grid or schedule of T steps is another array.
    """

    t: Any
    log_snr: Any
    weight: Any


class Terms(NamedTuple):
    """What one image costs, in nats: L_T, the sum of all L_(t-1), and L_0. `sum(terms)` is the bound."""

    prior: Any
    steps: Any
    reconstruction: Any


def table(schedule: Schedule, grid: Grid) -> Table:
    """Return the numbers of a grid that falls to time 0, like `schedules.linear_grid(T)`; ValueError for another."""
    schedules.check_grid(grid)
    if grid[-1] != 0:
        raise ValueError(f"the grid ends at time {grid[-1]}; the bound's last step is the one to time 0, the data")
    log_snr = schedule.log_snr(grid[:-1])
    return Table(grid[:-1], log_snr, step_weight(log_snr[1:], log_snr[:-1]))


def bound(
    denoise: Denoiser, likelihood_0: Likelihood, x_0: Num[Array, "h w c"], key: PRNGKeyArray, rows: Table, *, k: int
) -> Terms:
    """An unbiased estimate of Eq. 5 for one image, from k + 1 evaluations. The key is consumed; `vmap` it.

    L_T is exact. L_0 is of one draw of x at the grid's last time. The sum over steps is estimated from one step in each
    of k strata of (nearly) equal numbers of steps; k = T - 1 is the full sum, where only the noise is drawn. Where the
    sampler clips x_0, so should `denoise`.
    """
    steps = len(rows.weight)
    if not min(1, steps) <= k <= steps:
        raise ValueError(f"k {k} is no number of strata of the grid's {steps} steps before the last; use 1 to {steps}")
    if not jnp.issubdtype(x_0.dtype, jnp.floating):
        raise ValueError(f"x_0 is of type {x_0.dtype}; give colours in [-1, 1], as of process.to_float")
    rows = Table(*(jnp.asarray(column, jnp.float32) for column in rows))
    step_key, eps_key, last_key = jax.random.split(key, 3)
    edges = np.arange(k + 1) * steps // max(k, 1)
    chosen = jax.random.randint(step_key, (k,), edges[:-1], edges[1:])

    def cost(step: tuple[Table, Array]) -> Array:
        at, key = step
        x_t = process.q_sample(x_0, jax.random.normal(key, x_0.shape), at.log_snr)
        return at.weight * squared_error(x_0, denoise(x_t, at.t))

    at = Table(rows.t[:-1][chosen], rows.log_snr[:-1][chosen], rows.weight[chosen])
    costs = jax.lax.map(cost, (at, jax.random.split(eps_key, k)))  # one by one: k images would take k times the memory
    x_t = process.q_sample(x_0, jax.random.normal(last_key, x_0.shape), rows.log_snr[-1])
    log_likelihood = likelihood_0(x_t, rows.t[-1], rows.log_snr[-1])
    return Terms(prior_kl(x_0, rows.log_snr[0]), jnp.sum(costs * np.diff(edges)), -log_likelihood)


def prior_kl(x_0: Image, log_snr_1: Scalar) -> Scalar:
    """L_T = KL(q(x_1 given x_0) || N(0, I)) = (alpha_bar |x_0|^2 + d (-log(1 - alpha_bar) - alpha_bar)) / 2 (Eq. 5)."""
    alpha_bar = schedules.expit(log_snr_1)
    return 0.5 * (alpha_bar * jnp.sum(jnp.square(x_0)) + x_0.size * (jnp.logaddexp(0.0, log_snr_1) - alpha_bar))


def step_kl(x_0: Image, x_0_hat: Image, log_snr_s: Scalar, log_snr_t: Scalar) -> Scalar:
    """L_(t-1) = KL(q(x_s given x_t, x_0) || p(x_s given x_t)) = (SNR(s) - SNR(t)) / 2 |x_0 - x_0_hat|^2, 0 < s < t.

    Eq. 8 with sigma_t^2 the posterior's variance (Eq. 7), in the form of Kingma et al. 2021 (arXiv 2107.00630, Eq. 13).
    """
    return step_weight(log_snr_s, log_snr_t) * squared_error(x_0, x_0_hat)


def step_weight(log_snr_s: Values, log_snr_t: Values) -> Values:
    """(SNR(s) - SNR(t)) / 2 (Kingma et al. 2021, Eq. 13), without cancellation where the step is small."""
    xp = schedules.array_module(log_snr_t)
    return -0.5 * xp.exp(log_snr_s) * xp.expm1(log_snr_t - log_snr_s)


def squared_error(x_0: Float[Array, "..."], x_0_hat: Float[Array, "..."]) -> Scalar:
    """|x_0 - x_0_hat|^2, summed over pixels and channels."""
    return losses.mean_squared(x_0_hat, x_0) * x_0.size


def discretised_gaussian(x_0: Float[Array, "..."], mean: Float[Array, "..."], log_snr: Scalar) -> Scalar:
    """log P(x_0 given x_t) of colours at the 256 levels of a byte, N(mean, 1 / SNR) cut into 256 (Ho et al., Eq. 13).

    A level reaches half a level, 1 / 255, to both sides; the first and the last are open to infinity. The posterior's
    variance is 0 at the last step, so one has to be chosen: (1 - alpha_bar) / alpha_bar, the mean squared error of
    x_t / sqrt(alpha_bar) as an estimate of x_0, which the best mean stays below. On the paper's grid this is its
    sigma_1^2 = beta_1, to 1 in 10,000.
    """
    if x_0.shape != mean.shape:
        raise ValueError(f"the colours have shape {x_0.shape}, their mean {mean.shape}; they must be equal")
    half, precision = 1 / 255, jnp.exp(log_snr / 2)
    error = x_0 - mean
    # both ends in the lower tail, where the difference of two probabilities near 1 is one of two near 0
    far, near = (jax.scipy.special.log_ndtr(precision * (end - jnp.abs(error))) for end in (-half, half))
    between = near + jnp.log(-jnp.expm1(far - near))
    first, last = (jax.scipy.special.log_ndtr(precision * (half + sign * error)) for sign in (1, -1))
    return jnp.sum(jnp.where(x_0 < half - 1, first, jnp.where(x_0 > 1 - half, last, between)))


def categorical(logits: Float[Array, "... k"], indices: Integer[Array, "..."]) -> Scalar:
    """log P(x_0 given x_t) = sum over pixels of log softmax(logits)[index], the colours of a palette."""
    return -losses.cross_entropy(logits, indices) * indices.size


def bits(nats: Any, dims: int = 1) -> Any:
    """nats / (dims log 2): bits an image, or bits a dimension where an image has `dims` of them."""
    if dims < 1:
        raise ValueError(f"{dims} dimensions cannot share the bits; give the number of values of an image, or 1")
    return nats / (dims * math.log(2))
