"""Distances between two sets of pictures in a space of features: Frechet, kernel (KID), precision and recall.

Every function takes features float [n, d], one row a picture, and computes in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "_ d"]
BLOCK = 500  # rows whose distances to all others are held at once: 40 MB where these are 10,000
SAME = 1e-12  # of their squared norms: a squared distance that rounding makes of equal rows


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


class PrecisionRecall(NamedTuple):
    """The share of made pictures that look real, and the share of real ones that could have been made."""

    precision: float
    recall: float


def frechet(a: Features, b: Features) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017, arXiv 1706.08500, Eq. 6).

    The trace of the root is the sum of the singular values of C_a^(1/2) C_b^(1/2), which, unlike the roots of
    eigenvalues, are exact to rounding where a covariance lacks rank (fewer rows than features).
    """
    a, b = _checked(a, b, least=2)
    root_a, root_b = _root(np.atleast_2d(np.cov(a, rowvar=False))), _root(np.atleast_2d(np.cov(b, rowvar=False)))
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    traces = np.square(root_a).sum() + np.square(root_b).sum()
    return max(0.0, float(apart + traces - 2 * np.linalg.svd(root_a @ root_b, compute_uv=False).sum()))


def kernel_distance(a: Features, b: Features, *, seed: int, subsets: int, size: int) -> Estimate:
    """KID: mean unbiased MMD^2 of subsets, k(x, y) = (x . y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).

    Subsets have `size` rows, drawn without replacement, but share rows with each other. Their deviation is therefore
    divided not by sqrt(subsets): with f the share of the rows in a subset, error^2 = variance (1 / subsets +
    f / (1 - f)), as it is for means of rows; where both sets have one law it is too large.
    """
    a, b = _checked(a, b, least=3)
    fewest = min(len(a), len(b))
    if subsets < 2 or not 2 <= size < fewest:
        raise ValueError(
            f"{subsets} subsets of {size} rows cannot be drawn from {len(a)} and {len(b)}; "
            f"use at least 2 subsets of 2 to {fewest - 1} rows"
        )
    rng = np.random.default_rng(seed)
    pairs = ([rng.choice(x, size, replace=False) for x in (a, b)] for _ in range(subsets))
    found = np.array([_mmd(*pair) for pair in pairs])
    share = size / fewest
    return Estimate(float(found.mean()), float(np.sqrt(found.var(ddof=1) * (1 / subsets + share / (1 - share)))))


def precision_recall(real: Features, made: Features, k: int = 3, *, block: int = BLOCK) -> PrecisionRecall:
    """Shares of one set inside the manifold of the other (Kynkaanniemi et al. 2019, arXiv 1904.06991, Eqs. 1-2).

    A set's manifold is the union of the balls about its rows that reach to the k-th nearest other row of the set.
    `block` rows are compared with all others at a time; it changes nothing but the memory taken.
    """
    if k < 1 or block < 1:
        raise ValueError(f"k {k} and block {block} count rows; both are at least 1")
    real, made = _checked(real, made, least=k + 1)
    real_radius, made_radius = _radius(real, k, block), _radius(made, k, block)
    looks_real, could_be_made = np.zeros(len(made), bool), np.zeros(len(real), bool)
    for rows, squared in _distances(made, real, block):
        looks_real[rows] = (squared <= real_radius).any(axis=1)
        could_be_made |= (squared <= made_radius[rows, None]).any(axis=0)
    return PrecisionRecall(float(looks_real.mean()), float(could_be_made.mean()))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
    """MMD^2 without bias, of equally many rows (Gretton et al. 2012, Eq. 3): rows are not compared with themselves."""
    n, d = x.shape
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (n * (n - 1)) - 2 * xy.mean())


def _radius(x: np.ndarray, k: int, block: int) -> np.ndarray:
    """Return the squared distance [n] of each row to its k-th nearest other row; the nearest of all is itself."""
    radius = np.empty(len(x))
    for rows, squared in _distances(x, x, block):
        radius[rows] = np.partition(squared, k, axis=1)[:, k]
    return radius


def _distances(x: np.ndarray, y: np.ndarray, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of x and their squared distances [rows, rows of y]; those that rounding may have made count as 0."""
    x_norm, y_norm = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    for start in range(0, len(x), block):
        rows = slice(start, start + block)
        norms = x_norm[rows, None] + y_norm
        squared = norms - 2 * x[rows] @ y.T
        yield rows, np.where(squared > SAME * norms, squared, 0.0)


def _checked(a: np.ndarray, b: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as float64. Raises ValueError unless they are [n, d] of one d, finite, with `least` rows."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise ValueError(f"the features have shapes {a.shape} and {b.shape}; give [n, d] and [m, d]")
    if min(len(a), len(b)) < least:
        raise ValueError(f"{len(a)} and {len(b)} rows are too few; this distance needs at least {least} of each")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("some features are not finite; a row with nan or infinity has no distance")
    return a.astype(np.float64), b.astype(np.float64)
