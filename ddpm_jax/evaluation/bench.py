"""What a metric has at hand, and what it returns."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import model
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.evaluation import exact, judge
from ddpm_jax.evaluation.judge import Judge
from ddpm_jax.evaluation.subject import Subject


class Row(NamedTuple):
    """One figure of the report.

    unit: "share" (with Wilson's interval low..high), or what the value counts. baseline: what something simpler, or the
    real data, reach, named by `against`. target: of the benchmark, at least (`more`) or at most.
    """

    metric: str
    what: str
    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    against: str = ""
    target: float | None = None
    more: bool = True
    details: Mapping[str, Any] = types.MappingProxyType({})

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more else self.value <= self.target


class Sizes(NamedTuple):
    """How many pictures, requests or labels each metric takes (the benchmark's own, by default)."""

    requests: int = 1000
    unseen: int = 200
    free: int = 10_000
    verified: int = 1000
    distance: int = 5000
    bounds: int = 1000
    swept: int = 200

    def part(self, share: float) -> "Sizes":
        """Return a share of each, at least 8."""
        return Sizes(*(max(8, round(size * share)) for size in self))


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A model under judgement: `positions` are the held-out pictures of `split` that it is asked for."""

    subject: Subject
    data: Dataset
    split: str
    positions: np.ndarray
    root: str
    sizes: Sizes

    @functools.cached_property
    def judge(self) -> Judge | None:
        """Who reads and verifies the pictures; made (and its classifier trained) when it is first asked for."""
        return judge.load(self.data, self.root)

    @functools.cached_property
    def determined(self) -> bool:
        """Whether a label says what its picture is; see `exact.determined`."""
        return exact.determined(self.data)

    def draw(self, labels: np.ndarray, *, seed: int = 0, **how: Any) -> np.ndarray:
        """Return the subject's picture of each label, in colours of the palette where there is one."""
        return model.in_palette(self.subject.draw(labels, seed=seed, **how), self.data.spec.palette)

    @property
    def unasked(self) -> str:
        """What `free` is, in words."""
        return "free pictures" if self.determined or not self.data.spec.labels.size else "pictures of held-out labels"

    @functools.cached_property
    def free(self) -> np.ndarray:
        """Pictures of nothing asked, uint8 [n, h, w, c]; where labels do not determine pictures, of held-out labels."""
        return self.draw(self.free_labels)

    @property
    def free_labels(self) -> np.ndarray:
        """The labels [n, words] of `free`: all open, or held-out ones in turn."""
        n, labels = self.sizes.free, self.data.labels
        if labels.shape[1] and not self.determined:
            return np.resize(labels[self.positions], (n, labels.shape[1]))
        return np.zeros((n, labels.shape[1]), np.int8)

    def some(self, n: int) -> np.ndarray:
        """Return n of the positions, drawn by seed 0; all of them, in order, where there are no more."""
        if n >= len(self.positions):
            return self.positions
        return np.random.default_rng(0).choice(self.positions, n, replace=False)


def share(right: np.ndarray, metric: str, what: str, **more: Any) -> Row:
    """Return the row of a share, from which of n are right."""
    return rate(float(right.mean()), len(right), metric, what, **more)


def rate(value: float, n: int, metric: str, what: str, **more: Any) -> Row:
    """Return the row of a share of n, with its interval."""
    low, high = exact.wilson(round(value * n), n)
    return Row(metric, what, value, "share", n, low, high, **more)


def trained_judge(bench: Bench) -> Judge:
    """Return the judge of a bench. Raises ValueError where there is none."""
    if bench.judge is None:
        raise ValueError(f"nothing judges pictures of {bench.data.spec.name}: no labels, or none held out")
    return bench.judge
