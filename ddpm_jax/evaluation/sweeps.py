"""Figures of settings: samplers by evaluations, and guidance by weight, form and interval."""

from typing import Any

import numpy as np

from ddpm_jax import samplers
from ddpm_jax.evaluation import attributes, words
from ddpm_jax.evaluation.bench import Bench, Row, share

EVALUATIONS = (1, 2, 3, 5, 10, 20, 50)
ANCESTRAL = 1000  # evaluations of ddpm beside these
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"interval": (0.0, 1.0)},
    "interval 0.2 to 0.8": {"interval": (0.2, 0.8)},
    "rescale 0.7": {"interval": (0.0, 1.0), "rescale": 0.7},
}
FEW_COMPLETE, FEW_OPEN, SLACK = 3, 10, 2  # evaluations that should do, and pictures of 200 that they may lose


def by_evaluations(bench: Bench) -> list[Row]:
    """Exact match of every sampler, and obeyed open labels of the subject's own, by net evaluations per picture.

    What labels leave open is the net's to decide here and in `by_guidance`: a word prior takes neither.
    """
    if not bench.determined:
        return []
    positions = bench.some(bench.sizes.swept)
    labels, real = bench.data.labels[positions], bench.data.pixels(positions)
    right: dict[str, dict[int, np.ndarray]] = {}
    for name in samplers.SAMPLERS:
        steps = (*EVALUATIONS, ANCESTRAL) if name == "ddpm" else EVALUATIONS
        how = {} if name == bench.subject.asked.sampler else {"sampler": name, "eta": 0.0}
        drawn = {n: bench.draw(labels, steps=n, **how) for n in steps}
        right[name] = {n: (pictures == real).all(axis=(1, 2, 3)) for n, pictures in drawn.items()}
    rows = [_fewest("exact_by_evaluations", "complete labels", right, bench.subject.asked.sampler, FEW_COMPLETE)]
    if bench.judge:
        own = bench.subject.asked.sampler
        asked = attributes.requests(bench.data.labels, bench.data.spec.labels, len(positions))
        obeyed = {n: words.obeyed(bench.judge, asked, bench.draw(asked, steps=n, words="net"))[0] for n in EVALUATIONS}
        rows.append(_fewest("open_by_evaluations", "open labels", {own: obeyed}, own, FEW_OPEN))
    return rows


def _fewest(metric: str, what: str, right: dict[str, dict[int, np.ndarray]], own: str, few: int) -> Row:
    """Return the row of how many fewer of the same pictures `few` evaluations get right than the best number does."""
    best = max(right[own], key=lambda n: int(right[own][n].sum()))
    n = len(right[own][few])
    lost = int(right[own][best].sum() - right[own][few].sum())
    counts = {name: {str(steps): int(each.sum()) for steps, each in of.items()} for name, of in right.items()}
    details = {"right": counts, "best": best, "won": int((right[own][few] & ~right[own][best]).sum())}
    what = f"{what}: right ones that {own} loses with {few} evaluations, of its best number's ({best})"
    return Row(metric, what, lost, "pictures", n, target=SLACK * n / 200, more=False, details=details)


def by_guidance(bench: Bench) -> list[Row]:
    """Obeyed open labels, and legal pictures among them, by weight, with and without an interval and rescaling."""
    if not (bench.determined and bench.judge):
        return []
    asked = attributes.requests(bench.data.labels, bench.data.spec.labels, bench.sizes.swept)
    found: dict[str, dict[str, dict[str, float]]] = {}
    best: tuple[float, np.ndarray, str] | None = None
    for form, how in FORMS.items():
        for weight in WEIGHTS:
            drawn = bench.draw(asked, guidance=weight, words="net", **how)
            right, _ = words.obeyed(bench.judge, asked, drawn)
            legal = float(bench.judge.verify(drawn).legal.mean()) if bench.judge.render else None
            found.setdefault(form, {})[str(weight)] = {"obeyed": float(right.mean())} | (
                {} if legal is None else {"legal": legal}
            )
            if best is None or right.mean() > best[0]:
                best = float(right.mean()), right, f"{form}, weight {weight:g}"
    assert best is not None
    return [share(best[1], "open_by_guidance", f"open labels at the best of the sweep: {best[2]}", details=found)]
