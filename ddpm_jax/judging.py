"""A checkpoint before the judges: what `scripts/evaluate.py` and others evaluate, made from a path."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import datasets, generator, runtime
from ddpm_jax.datasets.spec import Dataset, without_labels
from ddpm_jax.evaluation import benchmark, classifier, exact, judge, plots, renderer, report
from ddpm_jax.evaluation.bench import Bench, Sizes
from ddpm_jax.evaluation.subject import Subject
from ddpm_jax.requests import How

SEED = 0


def bench(
    model: generator.Generator, *, how: How, split: str = "", root: str = "data", share: float = 1.0, parts: Path | None
) -> Bench:
    """Return what the metrics take: the model with one setting, the pictures that it is asked for, and its judge.

    `split` "" is what the model held out; another must not have been trained on. `share` of the benchmark's numbers
    of pictures are taken; `parts` is where pictures are kept. Raises BadInput where the model cannot be judged so.
    """
    if not 0 < share <= 1:
        raise runtime.BadInput(f"share is {share:g}; it must be above 0 and at most 1")
    data = trained_on(model, root)
    positions = asked(model, data, split, root)
    if share < 1:
        positions = positions[: max(8, round(share * len(positions)))]
    settings = model.settings(**how)
    subject = Subject(model.engine, model.nets, settings, _identity(model), parts)
    name = split or model.meta["config"]["data"]["holdout"]
    return Bench(subject, data, name, positions, judge.load(model.spec, data, root), root, Sizes().share(share))


def trained_on(model: generator.Generator, root: str) -> Dataset:
    """Return the data set of a model's training. Raises BadInput if what lies under `root` is another."""
    section = {**model.meta["config"]["data"], "root": root}
    section.pop("storage")
    data = datasets.load(**section)
    if not model.spec.labels.size:
        data = without_labels(data)
    if not data.heldout.size:
        raise runtime.BadInput(f"{model.path} held no pictures out, so there is nothing to judge it by")
    if data.fingerprint != model.meta["fingerprint"]:
        raise runtime.BadInput(f"the data under {root} are not those that {model.path} was trained on")
    return data


def asked(model: generator.Generator, data: Dataset, split: str, root: str) -> np.ndarray:
    """Return the positions of the pictures that judge a model: of its own hold-out, or of a split inside of it."""
    section = model.meta["config"]["data"]
    if not split or split == section["holdout"]:
        return exact.asked(data, section["holdout"])
    other = datasets.load(section["name"], size=section["size"], holdout=split, path=section["path"], root=root)
    positions = exact.asked(other, split)
    if seen := int(np.isin(positions, data.train).sum()):
        raise runtime.BadInput(
            f"{model.path} was trained on {seen} of the {len(positions)} pictures of split {split!r}"
        )
    return positions


def model_report(
    checkpoint: str, metrics: str, folder: Path, *, which: str = "ema", **how_judged: Any
) -> dict[str, Any]:
    """Return the report of a checkpoint, and write its plots and failures into a folder, which also keeps pictures.

    `metrics` are names joined by commas, or core, or all: these with the sweeps, and the core for raw weights too.
    """
    names = {"core": list(benchmark.CORE), "all": list(benchmark.METRICS)}.get(metrics, metrics.split(","))
    if unknown := [name for name in names if name not in benchmark.METRICS]:
        raise runtime.BadInput(f"unknown metric {unknown[0]!r}; they are core, all, {', '.join(benchmark.METRICS)}")
    model = generator.load(checkpoint, which)
    judged = bench(model, parts=folder / "parts", **how_judged)
    rows = report.run(judged, names, which)
    if metrics == "all" and which == "ema":
        rows += report.run(_of(judged, generator.load(checkpoint, "raw")), benchmark.CORE, "raw")
    settings = judged.subject.asked._asdict()
    data = {"data": judged.data.spec.name, "split": judged.split, "settings": settings, "seed": SEED}
    found = {"about": model.recipe(**data, commit=report.commit()), "rows": rows}
    plots.draw(found, folder)
    if "exact" in names and judged.determined:
        plots.failures(judged, folder / "failures.png")
    return found


def baseline_report(split: str, root: str = "data") -> dict[str, Any]:
    """Return the score of the punks' renderer on a split."""
    data = datasets.load("punks", holdout=split, root=root)
    positions = exact.asked(data, split)
    drawn = renderer.draw(renderer.load(data, root), data, data.labels[positions])
    return {"baseline": "renderer", "split": split, **exact.score(drawn, data, positions)._asdict()}


def classifier_report(name: str, root: str = "data") -> dict[str, Any]:
    """Return the accuracy of our classifier of a data set on what it never saw; trains it where there is none."""
    data = datasets.load(name, holdout=judge.SPLITS[name], root=root)
    found = classifier.accuracy(classifier.load(data, root), data, data.heldout)
    return {"classifier": name, "split": judge.SPLITS[name], **found._asdict()}


def _of(judged: Bench, model: generator.Generator) -> Bench:
    """Return the same bench for the parameters of another generator of the same checkpoint."""
    subject = dataclasses.replace(judged.subject, nets=model.nets, identity=_identity(model))
    return dataclasses.replace(judged, subject=subject)


def _identity(model: generator.Generator) -> str:
    return f"{model.meta['sha256']} {model.which}"
