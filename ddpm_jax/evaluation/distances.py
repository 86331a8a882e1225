"""Figures of distributions: free pictures against real ones, in the features of the judge's classifier.

The Frechet distance is of the features as they are (Heusel et al. 2017), so that strong ones count for more. `scaled`
are features of deviation 1 in the reference, where one that six pictures of 10,000 show counts as much as any: for the
kernel distance, whose cubic kernel is made for such, for neighbours, and for a second Frechet distance.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import frechet
from ddpm_jax.evaluation.bench import Bench, Row, Sizes, rate, trained_judge
from ddpm_jax.evaluation.frechet import Estimate, PrecisionRecall

FACTOR = {"mnist": 1.3}  # of the distance between real and real that a model should stay within; else 1.2
SUBSETS, SUBSET = 100, 1000  # of the kernel distance, as Binkowski et al. 2018 take them
FEWEST = 8  # pictures that are worth comparing
REAL = "real pictures"


class Measured(NamedTuple):
    """What some pictures are like beside the reference; all but `frechet` in scaled features."""

    frechet: float
    scaled: float
    kernel: Estimate
    near: PrecisionRecall


def distance(bench: Bench) -> list[Row]:
    """Frechet and kernel distance, precision and recall; beside each, what real pictures reach against real ones.

    In the details: what training pictures drawn again, with repetition, reach.
    """
    if bench.judge is None:
        return []
    pictures = _real(bench)
    if min(map(len, pictures)) < FEWEST:
        return []
    n = min(len(pictures[0]), len(bench.free))
    reference, *others = (bench.judge.features(some) for some in (*pictures, bench.free[:n]))
    real, table, made = (_measured(reference, some) for some in others)
    what = f"{bench.unasked}, in the classifier's features"
    target = FACTOR.get(bench.judge.data.spec.name, 1.2)
    lookup = {"training pictures drawn again": table.frechet}
    row = Row("frechet", what, made.frechet, "distance", n, baseline=real.frechet, against=REAL, more=False)
    rows = [row._replace(details=lookup)]
    rows += _ratio("of these two distances", made.frechet, real.frechet, n, target)
    rows += _ratio("of such distances in scaled features", made.scaled, real.scaled, n)
    what = f"{bench.unasked}, in scaled features"
    kernel = Row("kernel_distance", what, made.kernel.mean, "distance", n, baseline=real.kernel.mean, more=False)
    lookup = {"standard_error": made.kernel.error, "training pictures drawn again": table.kernel.mean}
    rows.append(kernel._replace(against=REAL, details=lookup))
    precision = rate(made.near.precision, n, "precision", f"{bench.unasked} among the real (k = 3)")
    recall = rate(made.near.recall, len(reference), "recall", f"real pictures among {bench.unasked} (k = 3)")
    return [
        *rows,
        precision._replace(baseline=real.near.precision, against=REAL),
        recall._replace(baseline=real.near.recall, against=REAL),
    ]


def _ratio(what: str, made: float, real: float, n: int, target: float | None = None) -> list[Row]:
    """Return how many times the distance of real pictures the made ones have; nothing where that is 0."""
    return [Row("frechet_ratio", what, made / real, "factor", n, target=target, more=False)] if real > 0 else []


def _measured(reference: np.ndarray, some: np.ndarray) -> Measured:
    deviation = reference.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    plain, reference, some = frechet.frechet(reference, some), reference / scale, some / scale
    size = min(SUBSET, min(len(reference), len(some)) // 2)
    kernel = frechet.kernel_distance(reference, some, seed=0, subsets=SUBSETS, size=size)
    near = frechet.precision_recall(reference, some)
    return Measured(plain, frechet.frechet(reference, some), kernel, near)


def _real(bench: Bench) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return real pictures thrice: the reference, as many others, and as many drawn from training with repetition.

    The reference is what the judge's classifier never saw where that is enough, else half of a random choice of all.
    """
    data, rng = trained_judge(bench).data, np.random.default_rng(0)
    if len(data.heldout) >= Sizes().distance:
        size = min(len(data.heldout), len(data.train), bench.sizes.free)
        first, second = (rng.choice(part, size, replace=False) for part in (data.heldout, data.train))
    else:
        size = min(bench.sizes.distance, len(data.ids) // 2)
        first, second = np.split(rng.permutation(len(data.ids))[: 2 * size], 2)
    again = bench.data.pixels(rng.choice(bench.data.train, size))
    return data.pixels(first), data.pixels(second), again
