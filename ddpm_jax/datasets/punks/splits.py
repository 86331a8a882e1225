"""The benchmark's splits of the punks, each by a rule that anyone can rebuild."""

import hashlib
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.datasets import holdouts

TOGETHER = 10  # a pair of accessories counts from this many punks on
PAIRS = 60


class Labels(NamedTuple):
    """What the rules look at: one row a punk, in the order of the ids."""

    ids: np.ndarray  # int [n]
    zombie: np.ndarray  # bool [n]
    albino: np.ndarray  # bool [n]
    worn: np.ndarray  # bool [n, a], accessories in ASCII order
    accessories: tuple[str, ...]


def heldout(name: str, labels: Labels) -> np.ndarray:
    """The bool mask [n] of the punks that the split `name` holds out; "" holds out none."""
    if name and name not in SPLITS:
        raise holdouts.unknown(name, tuple(SPLITS))
    return SPLITS[name](labels) if name else np.zeros(len(labels.ids), bool)


def heldout_pairs(labels: Labels) -> list[tuple[str, str]]:
    """The 60 accessory pairs (a < b) that split `pairs` holds out, in the order of sha256("a|b")."""
    worn = labels.worn.astype(np.int64)
    together = worn.T @ worn
    pairs = [
        (labels.accessories[a], labels.accessories[b])
        for a, b in itertools.combinations(range(len(labels.accessories)), 2)
        if together[a, b] >= TOGETHER
    ]
    return sorted(pairs, key=lambda pair: _hash("|".join(pair)))[:PAIRS]


def _iid(labels: Labels) -> np.ndarray:
    """Every tenth id."""
    return labels.ids % 10 == 0


def _pairs(labels: Labels) -> np.ndarray:
    """Every punk that wears one of the 60 pairs."""
    index = {word: i for i, word in enumerate(labels.accessories)}
    chosen = np.zeros(len(labels.ids), bool)
    for a, b in heldout_pairs(labels):
        chosen |= labels.worn[:, index[a]] & labels.worn[:, index[b]]
    return chosen


def _skin(labels: Labels) -> np.ndarray:
    """Albino punks that wear any accessory of odd index."""
    return labels.albino & labels.worn[:, 1::2].any(axis=1)


def _length(labels: Labels) -> np.ndarray:
    """Punks with five or more accessories."""
    return labels.worn.sum(axis=1) >= 5


def _zombie(labels: Labels) -> np.ndarray:
    """Zombies with an even id."""
    return labels.zombie & (labels.ids % 2 == 0)


def _few(count: int) -> Callable[[Labels], np.ndarray]:
    """All but the first `count` ids in the order of sha256(str(id))."""

    def rule(labels: Labels) -> np.ndarray:
        kept = sorted(labels.ids.tolist(), key=lambda one: _hash(str(one)))[:count]
        return ~np.isin(labels.ids, kept)

    return rule


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


SPLITS: dict[str, Callable[[Labels], np.ndarray]] = {
    "iid": _iid,
    "pairs": _pairs,
    "skin": _skin,
    "length": _length,
    "zombie": _zombie,
    "few500": _few(500),
    "few1000": _few(1000),
    "few2000": _few(2000),
}
