"""Exact match: a drawing is right if every pixel is."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ddpm_jax.datasets.spec import Dataset

SAMPLED = ("few500", "few1000", "few2000")  # splits that are too large to be judged whole
MOST = 1000  # labels of these that are


class Score(NamedTuple):
    """Of n drawings: how many are exact and as a share, its Wilson interval (95 %), and mean wrong pixels of a picture.

    `solvable` of them have no colour that training never showed; `exact_solvable` is the share of these.
    """

    n: int
    right: int
    exact: float
    low: float
    high: float
    wrong_pixels: float
    solvable: int
    exact_solvable: float


def determined(dataset: Dataset) -> bool:
    """Say whether a label says what its picture is: there are words, and no two pictures share a label."""
    labels = dataset.labels
    return bool(labels.shape[1]) and len(set(map(bytes, labels))) == len(labels)


def asked(dataset: Dataset, holdout: str) -> np.ndarray:
    """Return the positions of the pictures that judge a split: all held out, or of `few*` a thousand by seed 0."""
    if holdout not in SAMPLED:
        return dataset.heldout
    return np.random.default_rng(0).choice(dataset.heldout, MOST, replace=False)


def score(drawn: UInt8[np.ndarray, "n h w c"], dataset: Dataset, positions: np.ndarray) -> Score:
    """Compare drawings with the pictures at some positions of a data set. Raises ValueError for another shape."""
    real = dataset.pixels(positions)
    if drawn.shape != real.shape:
        raise ValueError(f"the drawings are {list(drawn.shape)}, the pictures {list(real.shape)}")
    wrong = (drawn != real).any(axis=-1).sum(axis=(1, 2))
    possible = solvable(dataset, positions)
    right = int((wrong == 0).sum())
    low, high = wilson(right, len(wrong))
    of_possible = float((wrong[possible] == 0).mean()) if possible.any() else 0.0
    share = right / len(wrong)
    return Score(len(wrong), right, share, low, high, float(wrong.mean()), int(possible.sum()), of_possible)


def solvable(dataset: Dataset, positions: np.ndarray) -> np.ndarray:
    """Say which pictures, bool [n], have only colours that a training picture has; all, where there is no palette."""
    if dataset.spec.palette is None:
        return np.ones(len(positions), bool)
    known = np.zeros(len(dataset.spec.palette), bool)
    known[np.unique(dataset.images[dataset.train])] = True
    return np.asarray(known[dataset.images[positions]].all(axis=(1, 2)))


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a share right / n (Wilson 1927), 95 % by default."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} is no share")
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # at the ends the interval reaches them exactly, and rounding must not say less
    return (middle - half if right else 0.0), (middle + half if right < n else 1.0)
