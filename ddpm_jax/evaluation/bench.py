"""What a metric has at hand, and what it returns."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import model
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.evaluation import exact
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

    def share(self, part: float) -> "Sizes":
        """Return a part of each, at least 8."""
        return Sizes(*(max(8, round(size * part)) for size in self))


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A model under judgement: `positions` are the held-out pictures of `split` that it is asked for."""

    subject: Subject
    data: Dataset
    split: str
    positions: np.ndarray
    judge: Judge | None
    root: str
    sizes: Sizes

    @functools.cached_property
    def determined(self) -> bool:
        """Whether a label says what its picture is; see `exact.determined`."""
        return exact.determined(self.data)

    def draw(self, labels: np.ndarray, *, seed: int = 0, **how: Any) -> np.ndarray:
        """Return the subject's picture of each label, in colours of the palette where there is one."""
        drawn, palette = self.subject.draw(labels, seed=seed, **how), self.data.spec.palette
        return drawn if palette is None else model.snap(drawn, palette)

    @functools.cached_property
    def free(self) -> np.ndarray:
        """Pictures of nothing asked, uint8 [n, h, w, c]; where labels do not determine pictures, of held-out labels."""
        n, labels = self.sizes.free, self.data.labels
        if labels.shape[1] and not self.determined:
            return self.draw(np.resize(labels[self.positions], (n, labels.shape[1])))
        return self.draw(np.zeros((n, labels.shape[1]), np.int8))

    def swept(self) -> np.ndarray:
        """Return the held-out positions that sweeps take."""
        n = min(self.sizes.swept, len(self.positions))
        return np.random.default_rng(0).choice(self.positions, n, replace=False)


def share(right: np.ndarray, metric: str, what: str, **more: Any) -> Row:
    """Return the row of a share, from which of n are right."""
    low, high = exact.wilson(int(right.sum()), len(right))
    return Row(metric, what, float(right.mean()), "share", len(right), low, high, **more)


def trained_judge(bench: Bench) -> Judge:
    """Return the judge of a bench. Raises ValueError where there is none."""
    if bench.judge is None:
        raise ValueError(f"nothing judges pictures of {bench.data.spec.name}: no labels, or none held out")
    return bench.judge
