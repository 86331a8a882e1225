"""Samplers: from noise to an image, over a denoiser (x_t, t) -> x_0. For ONE image; `vmap` them.

A sampler is a table of numbers: it evaluates the denoiser, and goes on from an affine mix of where it stands, what it
remembers, and its last three estimates of x_0. The tables are computed in float64 on the host; one `lax.scan` runs over
any of them, so that another sampler, grid or starting time is another array, not another compilation.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddpm_jax import process, schedules
from ddpm_jax.process import Image, Scalar
from ddpm_jax.schedules import Grid, Schedule

Denoiser = Callable[[Image, Scalar], Image]
Observer = Callable[[Image, Image], Any]

X, Y, X_0, BEFORE, EARLIER = range(5)  # what a row mixes: x_t, memory, x_0, and the two estimates of x_0 before it


class Rows(NamedTuple):
    """A sampler's table, one row an evaluation: x' = to_x . known + sigma z and y' = to_y . known.

    known = (x, y, x_0, the x_0 before, the x_0 before that), x_0 = denoise(x, t). All but x start as 0. t and sigma are
    [n], to_x and to_y [n, 5], n the number of evaluations; float64 on the host, float32 in a compiled function.
    """

    t: Any
    to_x: Any
    to_y: Any
    sigma: Any


def sample(
    denoise: Denoiser,
    x_t: Image,
    key: PRNGKeyArray,
    rows: Rows,
    *,
    clip: bool = True,
    decode: Denoiser | None = None,
    observe: Observer | None = None,
    after: tuple[Callable[[Image, Any, PRNGKeyArray], Image], Any] | None = None,
) -> tuple[Image, Any]:
    """Return the image that a table leads to from x_t at its first time, and the stacked values of observe(x_0, x').

    With `clip` x_0 is held in [-1, 1]. `decode` stands for the denoiser in the last row, unclipped; give it only where
    that row ends at time 0. `after` = (function, values [n, ...]) makes x' = function(x', value of the row, key). The
    key is consumed. Without `observe` the second value is None.
    """
    table = Rows(*(jnp.asarray(column, jnp.float32) for column in rows))
    z_keys, after_keys = jax.random.split(key, (2, len(table.t)))
    change, values = after or ((lambda x, _, key: x), None)

    def step(carry: tuple[Image, ...], at: tuple[Rows, Any, Array, Array]) -> tuple[tuple[Image, ...], Any]:
        row, value, z_key, after_key = at
        x_0 = denoise(carry[X], row.t)
        x_0 = jnp.clip(x_0, -1, 1) if clip else x_0
        known = (*carry[:X_0], x_0, *carry[X_0:])
        x = change(_mix(row.to_x, known) + _noise(row.sigma, x_0.shape, z_key), value, after_key)
        carry = (x, _mix(row.to_y, known), x_0, carry[X_0])
        return carry, None if observe is None else observe(x_0, x)

    zero = jnp.zeros_like(x_t)
    most = slice(None) if decode is None else slice(-1)
    scanned = jax.tree.map(lambda a: a[most], (table, values, z_keys, after_keys))
    carry, frames = jax.lax.scan(step, (x_t, zero, zero, zero), scanned)
    if decode is None:
        return carry[X], frames
    x_0 = decode(carry[X], table.t[-1])
    x_0 = change(x_0, jax.tree.map(lambda a: a[-1], values), after_keys[-1])
    if observe is not None:
        frames = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), frames, observe(x_0, x_0))
    return x_0, frames


def _mix(weights: Float[Array, " n"], known: tuple[Image, ...]) -> Image:
    return sum((weights[i] * image for i, image in enumerate(known)), jnp.zeros_like(known[0]))


def _noise(sigma: Scalar, shape: tuple[int, ...], key: PRNGKeyArray) -> Image:
    """Draw sigma z; a deterministic row draws nothing."""
    draw = lambda: sigma * jax.random.normal(key, shape)  # noqa: E731
    return jax.lax.cond(sigma > 0, draw, lambda: jnp.zeros(shape))


def ddpm(schedule: Schedule, grid: Grid) -> Rows:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2): x_s drawn from q(x_s given x_t, x_0) (Eqs. 6-7)."""
    log_snr_t, log_snr_s = _ends(schedule, grid)
    c_0, c_t, variance = process.posterior_row(log_snr_s, log_snr_t)
    return single_step(grid[:-1], c_t, c_0, np.sqrt(variance))


def ddim(schedule: Schedule, grid: Grid, *, eta: float = 0.0) -> Rows:
    """x_s = sqrt(alpha_bar_s) x_0 + c_e eps + sigma z (Song et al. 2020, arXiv 2010.02502, Eq. 12), sigma = eta DDPM's.

    Deterministic at eta = 0, where it is Euler's method on the probability flow; DDPM's law at eta = 1. With
    r = SNR(t) / SNR(s), c_e^2 = (1 - alpha_bar_s) (1 - eta^2 + eta^2 r), a sum of positive terms.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} is outside [0, 1]; 0 is deterministic and 1 is DDPM")
    log_snr_t, log_snr_s = _ends(schedule, grid)
    (signal_t, noise_t), (signal_s, noise_s) = process.scales(log_snr_t), process.scales(log_snr_s)
    ratio = np.exp(log_snr_t - log_snr_s)
    c_e = noise_s * np.sqrt(1 - eta**2 + eta**2 * ratio)
    sigma = eta * noise_s * np.sqrt(-np.expm1(log_snr_t - log_snr_s))
    return single_step(grid[:-1], c_e / noise_t, signal_s - c_e * signal_t / noise_t, sigma)


def euler_ancestral(schedule: Schedule, grid: Grid) -> Rows:
    """Euler to sigma_down, then noise of sigma_up (Crowson's k-diffusion): in other letters, DDIM of eta = 1."""
    return ddim(schedule, grid, eta=1.0)


def heun(schedule: Schedule, grid: Grid) -> Rows:
    """Heun's second order in sigma = noise / signal (Karras et al. 2022, arXiv 2206.00364, Algorithm 1).

    x_s / signal_s = x_t / signal_t + (sigma_s - sigma_t) (eps(x_t, t) + eps(x_s', s)) / 2, where x_s' is DDIM's and x_t
    waits in the memory y. Two evaluations a step, but one for a step to 0, and one from where sigma is above 1000: half
    of so long a step would magnify the difference of two nearly equal estimates.
    """
    log_snr_t, log_snr_s = _ends(schedule, grid)
    euler = ddim(schedule, grid)
    rows = []
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        row = Rows(t, euler.to_x[i], np.eye(5)[X], np.float64(0))
        rows.append(row)
        if log_snr_t[i] >= -2 * np.log(1000) and np.isfinite(log_snr_s[i]):
            (signal_t, noise_t), (signal_s, noise_s) = process.scales(log_snr_t[i]), process.scales(log_snr_s[i])
            half = signal_s * (noise_s / signal_s - noise_t / signal_t) / 2
            to_x = np.zeros(5)
            to_x[[Y, BEFORE]] = signal_s / signal_t + half / noise_t, -half * signal_t / noise_t
            to_x[[X, X_0]] = half / noise_s, -half * signal_s / noise_s
            rows.append(Rows(s, to_x, np.zeros(5), np.float64(0)))
    return Rows(*(np.stack(column) for column in zip(*rows, strict=True)))


def dpmpp_2m(schedule: Schedule, grid: Grid) -> Rows:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): DDIM towards an x_0 carried on in log-SNR.

    The first step, and the last to time 0, are of first order.
    """
    return _dpmpp(schedule, grid, order=2)


def dpmpp_3m(schedule: Schedule, grid: Grid) -> Rows:
    """DPM-Solver++(3M): the same from two earlier estimates (Lu et al. 2022, Appendix B.3); it starts as 2M does.

    The authors' program, and others after it, take half of the second derivative, which leaves it at second order; this
    one is of third. From a finite SNR (an edit) its first step, of first order, leaves the whole at second.
    """
    return _dpmpp(schedule, grid, order=3)


def _dpmpp(schedule: Schedule, grid: Grid, *, order: int) -> Rows:
    """With h = (log_snr_s - log_snr_t) / 2: x_s = noise_s / noise_t x_t + signal_s (1 - e^-h) (x_0 + differences)."""
    log_snr_t, log_snr_s = _ends(schedule, grid)
    carried, h, gain = _exponential(log_snr_t, log_snr_s)
    to_x = np.zeros((len(h), 5))
    to_x[:, X], to_x[:, X_0] = carried, gain
    for i in range(1, len(h)):
        if not np.isfinite(h[i - 1 : i + 1]).all():
            continue
        r = h[i - 1] / h[i]
        if order == 2 or i == 1 or not np.isfinite(h[i - 2]):
            to_x[i, [X_0, BEFORE]] += gain[i] / (2 * r) * np.array([1, -1])
            continue
        r_2 = h[i - 2] / h[i]
        # h and h^2 times the derivatives of the parabola through (x_0, before, earlier), as their weights
        near, far = np.array([1, -1, 0]) / r, np.array([0, 1, -1]) / r_2
        slope, bend = near + r / (r + r_2) * (near - far), 2 * (near - far) / (r + r_2)
        phi = np.expm1(-h[i]) / h[i] + 1
        to_x[i, X_0:] += process.scales(log_snr_s[i])[0] * (phi * slope - (phi / h[i] - 0.5) * bend)
    return Rows(grid[:-1], to_x, np.zeros_like(to_x), np.zeros_like(h))


def unipc(schedule: Schedule, grid: Grid) -> Rows:
    """UniPC-2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv 2302.04867): a predictor, corrected by the next evaluation.

    Each evaluation at x first corrects the step that led there (the corrected point is y), then predicts on from it.
    Third order. The first step, and the last to time 0, are of first order.
    """
    log_snr_t, log_snr_s = _ends(schedule, grid)
    carried, h, gain = _exponential(log_snr_t, log_snr_s)
    to_x, to_y = np.zeros((len(h), 5)), np.zeros((len(h), 5))
    for i in range(len(h)):
        to_y[i] = np.eye(5)[X]
        if i and np.isfinite(h[i - 1]):  # the step from i - 1 to here, by x_0 there (BEFORE), here, and earlier
            second = i > 1 and np.isfinite(h[i - 2])
            weights = _corrector(h[i - 1], h[i - 2] / h[i - 1] if second else None)
            to_y[i] = carried[i - 1] * np.eye(5)[Y] + gain[i - 1] * weights
        to_x[i] = carried[i] * to_y[i]
        to_x[i, X_0] += gain[i]
        if i and np.isfinite(h[i - 1 : i + 1]).all():
            to_x[i, [X_0, BEFORE]] += gain[i] * h[i] / (2 * h[i - 1]) * np.array([1, -1])
    return Rows(grid[:-1], to_x, to_y, np.zeros_like(h))


def _corrector(h: float, r: float | None) -> np.ndarray:
    """Weights [5] of UniC over a step h, of order 2 where the step before was r h (Zhao et al. 2023, Eq. 8-9)."""
    weights = np.zeros(5)
    weights[BEFORE] = 1.0
    here = 0.5
    if r is not None:
        phi = np.expm1(-h) / -h - 1
        b = np.array([phi, 2 * (phi / -h - 0.5)]) / np.expm1(-h)
        earlier, here = np.linalg.solve(np.array([[1.0, 1.0], [-r, 1.0]]), b)
        weights[[EARLIER, BEFORE]] += earlier / -r * np.array([1, -1])
    weights[[X_0, BEFORE]] += here * np.array([1, -1])
    return weights


def _exponential(log_snr_t: np.ndarray, log_snr_s: np.ndarray) -> tuple[np.ndarray, ...]:
    """noise_s / noise_t, h, and signal_s (1 - e^-h): the exact step where x_0 is constant (Lu et al. 2022, Eq. 9)."""
    signal_s, noise_s = process.scales(log_snr_s)
    h = (log_snr_s - log_snr_t) / 2
    return noise_s / process.scales(log_snr_t)[1], h, -signal_s * np.expm1(-h)


def _ends(schedule: Schedule, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """log_snr where each step starts and where it ends."""
    schedules.check_grid(grid)
    log_snr = schedule.log_snr(grid)
    return log_snr[:-1], log_snr[1:]


def single_step(t: np.ndarray, c_t: np.ndarray, c_0: np.ndarray, sigma: np.ndarray) -> Rows:
    """The table of x_s = c_t x_t + c_0 x_0 + sigma z."""
    to_x = np.stack([c_t, 0 * t, c_0, 0 * t, 0 * t], axis=1)
    return Rows(t, to_x, np.zeros_like(to_x), sigma)


SAMPLERS: dict[str, Callable[..., Rows]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "unipc": unipc,
    "heun": heun,
    "euler_ancestral": euler_ancestral,
}
