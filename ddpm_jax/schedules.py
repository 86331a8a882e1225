"""Noise schedules: alpha_bar(t) and log_snr(t) for real t in [0, 1], and grids of times.

A schedule is one formula for the log signal-to-noise ratio, log_snr = log(alpha_bar / (1 - alpha_bar)). Everything else
follows without cancellation: alpha_bar = expit(log_snr) and 1 - alpha_bar = expit(-log_snr). The same formula serves
float64 NumPy arrays (coefficients, on the host) and float32 JAX arrays (inside `jit`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64

Values = TypeVar("Values", np.ndarray, np.floating, Array)
Grid = Float64[np.ndarray, " n"]
SIGMA_MAX = 80.0  # noise / signal that t = 1 counts as in grids by sigma, where it is more (Karras et al., Table 1)


def array_module(x: object) -> ModuleType:
    """`jax.numpy` for JAX arrays (traced ones too), `numpy` for all else."""
    return jnp if isinstance(x, jax.Array) else np


def expit(x: Values) -> Values:
    """1 / (1 + e^-x), accurate in relative terms on both tails; expit(-inf) = 0 and expit(inf) = 1."""
    xp = array_module(x)
    return xp.asarray(xp.exp(-xp.logaddexp(0.0, -x)))


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule: alpha_bar(0) = 1, falling with t; t = 0 is clean data.

    `formula(t, xp)` is log_snr(t) written over the array module `xp` (numpy or jax.numpy).
    """

    name: str
    formula: Callable[[Any, ModuleType], Any]

    @overload
    def log_snr(self, t: float | Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]: ...
    @overload
    def log_snr(self, t: Float[Array, "..."]) -> Float[Array, "..."]: ...
    def log_snr(self, t: Any) -> Any:
        """log(alpha_bar / (1 - alpha_bar)) at t: +inf at t = 0; -inf at t = 1 where the terminal SNR is zero."""
        if isinstance(t, jax.Array):
            return self.formula(t, jnp)
        t = np.asarray(t, np.float64)
        if not np.all((t >= 0) & (t <= 1)):
            raise ValueError(f"time {t} is outside [0, 1]; 0 is clean data and 1 is noise")
        with np.errstate(divide="ignore"):
            return np.asarray(self.formula(t, np))

    @overload
    def alpha_bar(self, t: float | Float[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]: ...
    @overload
    def alpha_bar(self, t: Float[Array, "..."]) -> Float[Array, "..."]: ...
    def alpha_bar(self, t: Any) -> Any:
        """The share of the signal's variance at t (Ho et al. 2020, below Eq. 4)."""
        return expit(self.log_snr(t))


def linear(*, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Schedule:
    """beta_i linear in i (Ho et al. 2020, Section 4): alpha_bar(i / steps) = prod_{j <= i} (1 - beta_j).

    Between the table's entries log_snr is linear; before the first, 1 - alpha_bar is linear in t.
    """
    if not (0 < beta_start <= beta_end < 1 and steps >= 1):
        raise ValueError(
            f"beta_start {beta_start}, beta_end {beta_end}, steps {steps}: "
            "a linear schedule needs 0 < beta_start <= beta_end < 1 and at least one step"
        )
    log_alpha_bar = np.cumsum(np.log1p(-np.linspace(beta_start, beta_end, steps)))
    table = log_alpha_bar - np.log(-np.expm1(log_alpha_bar))
    times = np.arange(1, steps + 1) / steps

    def formula(t: Any, xp: ModuleType) -> Any:
        noise = (beta_start * steps) * xp.minimum(t, 1 / steps)
        first = xp.log1p(-noise) - xp.log(noise)
        later = xp.interp(t, xp.asarray(times, t.dtype), xp.asarray(table, t.dtype))
        return xp.where(t < 1 / steps, first, later)

    return Schedule("linear", formula)


def cosine(*, offset: float = 0.008, max_beta: float = 0.999, steps: int = 1000) -> Schedule:
    """alpha_bar = cos^2(theta(t)) / cos^2(theta(0)), theta = pi/2 (t + offset) / (1 + offset) (Nichol & Dhariwal 2021).

    The paper's clip beta <= max_beta touches the last of its steps alone, so alpha_bar stops falling at
    (1 - max_beta) alpha_bar(1 - 1/steps). max_beta = 1 lets it fall to zero.
    """
    if not (0 <= offset < 1 and 0 < max_beta <= 1 and steps >= 2):
        raise ValueError(
            f"offset {offset}, max_beta {max_beta}, steps {steps}: "
            "a cosine schedule needs 0 <= offset < 1, 0 < max_beta <= 1 and at least two steps"
        )
    quarter = np.pi / 2 / (1 + offset)

    # cos^2(theta_0) - cos^2(theta) = sin(theta - theta_0) sin(theta + theta_0), and cos(theta) = sin(pi/2 - theta)
    def unclipped(t: Any, xp: ModuleType) -> Any:
        rise = xp.log(xp.sin(quarter * t)) + xp.log(xp.sin(quarter * (t + 2 * offset)))
        return 2 * xp.log(xp.sin(quarter * (1 - t))) - rise

    last = (1 - max_beta) * expit(unclipped(np.float64(1 - 1 / steps), np))
    floor = _logit(float(last))
    return Schedule("cosine", lambda t, xp: xp.maximum(unclipped(t, xp), floor))


def sigmoid(*, start: float = -3.0, end: float = 3.0, tau: float = 1.0, floor: float = 1e-9) -> Schedule:
    """alpha_bar = (S(end) - S(x)) / (S(end) - S(start)), S(x) = expit(x / tau), x from start to end (arXiv 2212.11972).

    alpha_bar is not let below `floor`, the paper's 1e-9 (Jabri et al. 2022); floor = 0 lets it fall to zero.
    """
    if not (start < end and tau > 0 and 0 <= floor < 1):
        raise ValueError(
            f"start {start}, end {end}, tau {tau}, floor {floor}: "
            "a sigmoid schedule needs start < end, tau > 0 and 0 <= floor < 1"
        )
    width = (end - start) / tau / 2
    log_cosh_ratio = float(np.logaddexp(start / tau, 0) - np.logaddexp(end / tau, 0) + width)
    log_floor = _logit(floor)

    # S(a) - S(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2)), so the SNR is a quotient of hyperbolic sines
    def formula(t: Any, xp: ModuleType) -> Any:
        log_snr = _log_sinh(width * (1 - t), xp) - _log_sinh(width * t, xp) + log_cosh_ratio
        return xp.maximum(log_snr, log_floor)

    return Schedule("sigmoid", formula)


def zero_terminal(schedule: Schedule) -> Schedule:
    """Rescale so that alpha_bar(1) = 0: sqrt(alpha_bar) is shifted and stretched (Lin et al. 2023, Algorithm 1).

    The paper keeps the first step's value in place; here alpha_bar(0) = 1 is kept, which time 0 asks for.
    """
    signal_1 = float(np.sqrt(schedule.alpha_bar(1.0)))

    def formula(t: Any, xp: ModuleType) -> Any:
        log_snr = schedule.formula(t, xp)
        signal = xp.sqrt(expit(log_snr))
        drop = expit(-log_snr) / (1 + signal) / (1 - signal_1)  # 1 - the rescaled signal, without the cancellation
        rescaled = xp.maximum(signal - signal_1, 0.0) / (1 - signal_1)
        return xp.where(t < 1, 2 * xp.log(rescaled) - xp.log(drop) - xp.log1p(rescaled), -xp.inf)

    return Schedule(f"{schedule.name}, zero terminal SNR", formula)


def time_at(schedule: Schedule, log_snr: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return the times at which a schedule has these log_snr, by bisection; beyond its range, its ends."""
    low, high = np.zeros_like(log_snr), np.ones_like(log_snr)
    for _ in range(60):
        middle = (low + high) / 2
        noisier = schedule.log_snr(middle) < log_snr
        low, high = np.where(noisier, low, middle), np.where(noisier, middle, high)
    return (low + high) / 2


def linear_grid(steps: int, schedule: Schedule | None = None) -> Grid:
    """The times i / steps from 1 down to 0: DDPM's own grid."""
    return _places(steps)


def quadratic_grid(steps: int, schedule: Schedule | None = None) -> Grid:
    """The times (i / steps)^2: finer towards the data (Song et al. 2020, arXiv 2010.02502, Appendix D.2)."""
    return _places(steps) ** 2


def trailing_grid(steps: int, schedule: Schedule | None = None, *, table: int = 1000) -> Grid:
    """The times i / steps rounded to those of a table of 1000, counted from its end (Lin et al. 2023, Table 2)."""
    if steps > table:
        raise ValueError(f"a trailing grid has at most {table} steps, not {steps}")
    return np.round(_places(steps) * table) / table


def log_snr_grid(steps: int, schedule: Schedule, *, last: float = 1e-3) -> Grid:
    """Times evenly spaced in log_snr from t = 1 to `last`, then 0 (Lu et al. 2022, arXiv 2206.00927, Section 4)."""
    return _by_sigma(steps, schedule, last, lambda first, end, u: np.exp((1 - u) * np.log(first) + u * np.log(end)))


def karras_grid(steps: int, schedule: Schedule, *, last: float = 1e-3, rho: float = 7.0) -> Grid:
    """sigma^(1 / rho) = noise / signal evenly spaced from t = 1 to `last`, then 0 (Karras et al. 2022, Eq. 5)."""

    def sigma(first: float, end: float, u: np.ndarray) -> np.ndarray:
        return ((1 - u) * first ** (1 / rho) + u * end ** (1 / rho)) ** rho

    return _by_sigma(steps, schedule, last, sigma)


def _by_sigma(steps: int, schedule: Schedule, last: float, spaced: Callable[[float, float, np.ndarray], Any]) -> Grid:
    """Times whose sigma is spaced(first, end, u) for u from 0 to 1; above 80, sigma counts as 80 (Karras et al.)."""
    places = _places(steps)
    if steps == 1:
        return places
    first, end = (np.exp(-schedule.log_snr(np.array([1.0, last])) / 2)).tolist()
    times = time_at(schedule, -2 * np.log(spaced(min(first, SIGMA_MAX), end, np.linspace(0, 1, steps))))
    return np.concatenate([[1.0], times[1:-1], [last, 0.0]])


def _places(steps: int) -> Grid:
    if steps < 1:
        raise ValueError(f"a grid of {steps} steps is empty; use at least 1 step")
    return np.arange(steps, -1, -1) / steps


def check_grid(grid: Float64[np.ndarray, "..."]) -> None:
    """Raise ValueError unless the times fall strictly and lie in [0, 1]."""
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid of shape {grid.shape} has no step; give at least two times in one row")
    if not (np.all(grid >= 0) and np.all(grid <= 1)):
        raise ValueError(f"the grid from {grid.max()} to {grid.min()} leaves [0, 1]; 0 is clean data and 1 is noise")
    rises = np.flatnonzero(np.diff(grid) >= 0)
    if len(rises):
        i = rises[0]
        raise ValueError(f"the grid goes from {grid[i]} to {grid[i + 1]} at step {i}; its times must fall strictly")


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p)) if p > 0 else -np.inf


def _log_sinh(x: Any, xp: ModuleType) -> Any:
    """log(2 sinh(x)) for x >= 0, without overflow."""
    return x + xp.log(-xp.expm1(-2 * x))


SCHEDULES: dict[str, Callable[..., Schedule]] = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}
GRIDS: dict[str, Callable[[int, Schedule], Grid]] = {
    "linear": linear_grid,
    "quadratic": quadratic_grid,
    "trailing": trailing_grid,
    "log_snr": log_snr_grid,
    "karras": karras_grid,
}
