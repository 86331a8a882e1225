"""Figures of distributions: free pictures against real ones, in the features of the judge's classifier."""

import numpy as np

from ddpm_jax.evaluation import frechet
from ddpm_jax.evaluation.bench import Bench, Row, trained_judge

FACTOR = {"mnist": 1.3}  # of the distance between real and real that a model should stay within; else 1.2
SUBSETS, SUBSET = 100, 1000  # of the kernel distance, as Binkowski et al. 2018 take them


def distance(bench: Bench) -> list[Row]:
    """Frechet and kernel distance, precision and recall; beside each, what real pictures reach against real ones.

    In the details: what training pictures drawn again, with repetition, reach.
    """
    if bench.judge is None:
        return []
    reference, others, again = (bench.judge.features(some) for some in _real(bench))
    made = bench.judge.features(bench.free[: len(reference)])
    found = [_measured(reference, some) for some in (made, others, again)]
    rows = [
        Row(metric, what, ours, unit, len(made), baseline=real, against="real pictures", more=more)._replace(
            details={"training pictures drawn again": lookup}
        )
        for (metric, what, unit, more), ours, real, lookup in zip(ROWS, *found, strict=True)
    ]
    ratio = Row("frechet_ratio", "of the two distances", found[0][0] / found[1][0], "factor", len(made), more=False)
    return [rows[0], ratio._replace(target=FACTOR.get(bench.judge.data.spec.name, 1.2)), *rows[1:]]


def _measured(reference: np.ndarray, some: np.ndarray) -> tuple[float, ...]:
    """Return the values of `ROWS` of some features [n, d]."""
    kernel = frechet.kernel_distance(reference, some, seed=0, subsets=SUBSETS, size=min(SUBSET, len(some) // 2))
    near = frechet.precision_recall(reference, some)
    return frechet.frechet(reference, some), kernel.mean, near.precision, near.recall


def _real(bench: Bench) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return real pictures thrice: the reference, as many others, and as many drawn from training with repetition.

    The reference is what the judge's classifier never saw where that is enough, else half of a random choice of all.
    """
    data, rng, size = trained_judge(bench).data, np.random.default_rng(0), bench.sizes.distance
    if len(data.heldout) >= size:
        size = min(len(data.heldout), len(bench.free))
        first, second = data.heldout[:size], rng.choice(data.train, size, replace=False)
    else:
        size = min(size, len(data.ids) // 2, len(bench.free))
        first, second = np.split(rng.permutation(len(data.ids))[: 2 * size], 2)
    again = rng.choice(data.train, size)
    return data.pixels(first), data.pixels(second), data.pixels(again)


# metric, what, unit, whether more is better; as `_measured` returns them
ROWS = (
    ("frechet", "free pictures, in the classifier's features", "distance", False),
    ("kernel_distance", "free pictures, in the classifier's features", "distance", False),
    ("precision", "free pictures within the real (k = 3)", "share", True),
    ("recall_k3", "real pictures within the free (k = 3)", "share", True),
)
