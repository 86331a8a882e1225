"""A checkpoint before the judges: what `scripts/evaluate.py` and others evaluate, made from a path."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import archive, datasets, generator, releases, runtime
from ddpm_jax.datasets.spec import Dataset, without_labels
from ddpm_jax.evaluation import benchmark, classifier, exact, judge, plots, renderer, report
from ddpm_jax.evaluation.bench import Bench, Sizes
from ddpm_jax.evaluation.subject import Subject
from ddpm_jax.requests import How


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
        n = min(len(positions), max(8, round(share * len(positions))))
        positions = np.random.default_rng(0).choice(positions, n, replace=False)
    settings = model.settings(**how)
    subject = Subject(model.engine, model.nets, settings, _identity(model), parts)
    name = split or model.meta["config"]["data"]["holdout"]
    return Bench(subject, data, name, positions, root, Sizes().part(share))


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
    if not isinstance(data.images, np.ndarray):
        raise runtime.BadInput(
            f"{data.spec.name} is streamed, and judged on what its training held out; leave out split"
        )
    other = datasets.load(section["name"], size=section["size"], holdout=split, path=section["path"], root=root)
    positions = exact.asked(other, split)
    if seen := int(np.isin(positions, data.train).sum()):
        raise runtime.BadInput(
            f"{model.path} was trained on {seen} of the {len(positions)} pictures of split {split!r}"
        )
    return positions


def write_report(model: generator.Generator, metrics: str, out: Path, **judged_by: Any) -> None:
    """Judge a model by `metrics` and write the JSON `out`, its table, and plots and failures into a folder beside it.

    `metrics` are names joined by commas, core, or all: these with the sweeps and, of averaged weights, the core of the
    raw ones too, if the checkpoint has them (a release has not). `judged_by` goes to `bench`. The folder keeps what was
    drawn: a cut evaluation goes on where it was.
    """
    check_metrics(metrics)
    began, folder = time.monotonic(), out.with_suffix("")
    judged = bench(model, parts=folder / "parts", **judged_by)
    names = {"core": list(benchmark.CORE), "all": list(benchmark.METRICS)}.get(metrics, metrics.split(","))
    rows = report.run(judged, names, model.which)
    if metrics == "all" and model.which == "ema" and archive.names_of(model.meta, "params"):
        rows += report.run(_of(judged, generator.load(model.path, "raw")), benchmark.CORE, "raw")
    about = {"data": judged.data.spec.name, "split": judged.split, "settings": judged.subject.asked._asdict()}
    about = model.recipe(**about, seed=0, sizes=judged.sizes._asdict(), commit=report.commit())
    found = {"about": about, "rows": rows, "seconds": round(time.monotonic() - began, 1)}
    write_json(out, found)
    runtime.write_atomically(out.with_suffix(".md"), report.markdown(found).encode())
    plots.draw(found, folder)
    if any(row["metric"] == "exact" for row in rows):
        plots.failures(judged, folder / "failures.png")


def write_json(out: Path, found: dict[str, Any]) -> None:
    """Write a report as JSON."""
    runtime.write_atomically(out, json.dumps(found, indent=1, allow_nan=False).encode())


def check_metrics(metrics: str) -> None:
    """Raise BadInput for a name that is no metric's."""
    for name in metrics.split(","):
        if name not in ("core", "all", *benchmark.METRICS):
            raise runtime.BadInput(f"unknown metric {name!r}; they are core, all, {', '.join(benchmark.METRICS)}")


def baseline_report(split: str, root: str = "data") -> dict[str, Any]:
    """Return the score of the punks' renderer on a split."""
    data = datasets.load("punks", holdout=split, root=root)
    positions = exact.asked(data, split)
    drawn = renderer.draw(renderer.load(data, root), data, data.labels[positions])
    return {"baseline": "renderer", "split": split, **exact.score(drawn, data, positions)._asdict()}


def classifier_report(name: str, root: str = "data") -> dict[str, Any]:
    """Return the accuracy of our classifier of a data set on what it never saw; trains it where there is none.

    Where an exact renderer exists, `drawn_alike` is the share of those pictures that are drawn just so from what is
    read: some words hide others, which no reader can see.
    """
    data = datasets.load(name, holdout=judge.SPLITS[name], root=root)
    reader = classifier.load(data, root)
    accuracy = classifier.accuracy(reader, data, data.heldout)
    found: dict[str, Any] = {"classifier": name, "split": judge.SPLITS[name], **accuracy._asdict()}
    who = judge.load(data, root)
    if who is not None and who.render:
        found["drawn_alike"] = float(who.verify(data.pixels(data.heldout)).legal.mean())
    return found


def release_classifier(name: str, root: str = "data") -> Path:
    """Put our classifier of a data set into the package, trained first where there is none; returns its folder."""
    data, folder = datasets.load(name, holdout=judge.SPLITS[name], root=root), releases.classifier_folder(name)
    releases.write(classifier.load(data, root).params, {"key": classifier.key(data)}, folder)
    return folder


def _of(judged: Bench, model: generator.Generator) -> Bench:
    """Return the same bench for the parameters of another generator of the same checkpoint."""
    subject = dataclasses.replace(judged.subject, nets=model.nets, identity=_identity(model))
    return dataclasses.replace(judged, subject=subject)


def _identity(model: generator.Generator) -> str:
    return f"{model.meta['sha256']} {model.which}" + (f" away from {model.weak.meta['sha256']}" if model.weak else "")
