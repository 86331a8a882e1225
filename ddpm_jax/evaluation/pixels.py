"""Figures of pixels: exact match, colours off the palette, and the variational bound.

Words used in all files of figures: "complete" labels say every word, "open" ones a few, "free" pictures are of no
label. A metric is a function from a `Bench` to rows; none where its data do not allow it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax import likelihood, model
from ddpm_jax.evaluation import exact, renderer
from ddpm_jax.evaluation.bench import Bench, Row, share

SEEDS = (0, 1, 2)
BOUND_STEPS = 1000  # the T of the variational bound
# Any falling grid gives a bound. Where a net classifies colours L_0 beats the last steps, whose SNR turns
# a rare confident error into thousands of bits: of ends from 0.003 to 0.5 those from 0.2 to 0.3 gave the least.
BOUND_LAST = 0.25
NEAR = 1 / 255


def exact_match(bench: Bench) -> list[Row]:
    """Held-out complete labels whose pictures are right in every pixel: of all, and of those that can be at all."""
    if not bench.determined:
        return []
    labels, real = bench.data.labels[bench.positions], bench.data.pixels(bench.positions)
    drawn = [bench.draw(labels, seed=seed) for seed in SEEDS]
    right = [(pictures == real).all(axis=(1, 2, 3)) for pictures in drawn]
    score = exact.score(drawn[0], bench.data, bench.positions)
    solvable = exact.solvable(bench.data, bench.positions)
    trees = _baseline(bench)
    details = {"seeds": [float(each.mean()) for each in right], "words": _by_word(bench, right[0])}
    against = "decision trees" if trees else ""
    targets = TARGETS.get((bench.data.spec.name, bench.split), {})
    what = f"complete labels held out by {bench.split}"
    rows = [
        share(right[0], "exact", what, details=details, against=against)._replace(
            baseline=trees and trees.exact, target=targets.get("exact")
        ),
    ]
    if solvable.any() and not solvable.all():
        row = share(right[0][solvable], "exact_solvable", f"{what}, solvable", against=against)
        rows.append(row._replace(baseline=trees and trees.exact_solvable, target=targets.get("exact_solvable")))
    wrong = Row("wrong_pixels", what, score.wrong_pixels, "pixels", score.n, baseline=trees and trees.wrong_pixels)
    return [*rows, wrong._replace(against=against, more=False)]


def off_palette(bench: Bench) -> list[Row]:
    """How far the posterior mean of the last evaluation is from the palette, before any snapping or argmax."""
    if bench.data.spec.palette is None:
        return []
    kinds = {"free": np.zeros((bench.sizes.verified, bench.data.spec.labels.size), np.int8)}
    if bench.determined:
        kinds = {"complete": bench.data.labels[bench.positions], **kinds}
    rows = []
    for kind, labels in kinds.items():
        means = bench.subject.means(labels)
        near = model.snap(np.round(means).astype(np.uint8), bench.data.spec.palette)
        error = np.abs(means - near) / 255
        counts, edges = np.histogram(np.log10(np.maximum(error.max(axis=-1), 1e-6)), bins=24, range=(-6, 0))
        details = {
            "max": float(error.max()),
            "log10_edges": edges.tolist(),
            "pixels": counts.tolist(),
            "kind": f"_{kind}",
        }
        rows.append(
            Row(
                "off_palette", f"{kind} pictures, mean colour error", float(error.mean()), "of the range", len(means)
            )._replace(target=NEAR, more=False, details=details)
        )
    return rows


def bits(bench: Bench) -> list[Row]:
    """The variational bound of held-out pictures, under no label and under their complete one.

    With words of a prior also of no label by way of the words, or of motifs: -log p(label, picture) bounds
    -log p(picture), closely where a picture has one label.
    """
    positions = bench.some(bench.sizes.bounds)
    labels, images = bench.data.labels[positions], bench.data.images[positions]
    last = BOUND_LAST if bench.subject.engine.model.target.decode else 1 / BOUND_STEPS
    grid = np.append(np.linspace(1, last, BOUND_STEPS), 0)
    found = {"no label": bench.subject.bounds(np.zeros_like(labels), images, grid)}
    if labels.shape[1]:
        found["complete labels"] = bench.subject.bounds(labels, images, grid)
    details = {"T": BOUND_STEPS, "last": last}
    rows = [row for kind, nats in found.items() for row in _bits(bench, kind, nats, likelihood.Terms._fields, details)]
    if bench.subject.asked.words == "prior":
        said = labels if labels.shape[1] else bench.subject.codes(images)
        given = found["complete labels"] if labels.shape[1] else bench.subject.bounds(said, images, grid)
        nats = np.column_stack([bench.subject.word_bounds(said), given])
        fields = ("words", *likelihood.Terms._fields)
        rows += _bits(bench, "no label but words of the prior", nats, fields, details)
    return rows


def _bits(bench: Bench, kind: str, nats: np.ndarray, fields: Sequence[str], details: dict[str, Any]) -> list[Row]:
    """Return the rows of bounds in nats [n, parts]: bits a dimension, and a picture."""
    total, dims = likelihood.bits(nats.sum(axis=1)), int(np.prod(bench.data.spec.shape))
    mean, error = float(total.mean()), float(total.std(ddof=1) / np.sqrt(len(total))) if len(total) > 1 else 0.0
    parts = dict(zip(fields, likelihood.bits(nats.mean(axis=0)).tolist(), strict=True))
    what, rows = f"held-out pictures, {kind}, without guidance", []
    for name, scale in (("bits_per_dim", dims), ("bits_per_image", 1)):
        row = Row(name, what, mean / scale, "bits", len(total), more=False)
        rows.append(row._replace(details={"standard_error": error / scale, "terms": parts, **details}))
    return rows


def _baseline(bench: Bench) -> exact.Score | None:
    if bench.data.spec.name != "punks":
        return None
    trees = renderer.load(bench.data, bench.root)
    drawn = renderer.draw(trees, bench.data, bench.data.labels[bench.positions])
    return exact.score(drawn, bench.data, bench.positions)


def _by_word(bench: Bench, right: np.ndarray) -> dict[str, list[int]]:
    """Return for each word: held-out pictures that have it, of these the exact, and training pictures that have it."""
    has, seen = bench.data.labels[bench.positions] > 0, (bench.data.labels[bench.data.train] > 0).sum(axis=0)
    counts = np.stack([has.sum(axis=0), (has & right[:, None]).sum(axis=0), seen], axis=1)
    return dict(zip(bench.data.spec.labels.words, counts.tolist(), strict=True))


# (data, split) -> metric -> the benchmark's target
TARGETS: dict[tuple[str, str], dict[str, float]] = {
    ("punks", "iid"): {"exact": 0.999},
    ("punks", "pairs"): {"exact": 1366 / 1373},
    ("punks", "skin"): {"exact_solvable": 0.95},
    ("punks", "length"): {"exact": 177 / 178},
    ("punks", "zombie"): {"exact": 46 / 47},
    ("punks", "few500"): {"exact": 0.75},
    ("punks", "few1000"): {"exact": 0.90},
    ("punks", "few2000"): {"exact": 0.96},
}
