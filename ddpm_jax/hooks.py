"""What a run measures of itself now and then: the held-out loss, exact match and words, and a grid of samples."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from ddpm_jax import devices, engine, model, requests, step, train
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.evaluation import subject
from ddpm_jax.state import TrainState

# Held-out images whose loss is measured, whose labels must be drawn exactly, and whose labels are pictured.
EVALUATED, DRAWN, PICTURED = 256, 128, 16


def make(
    built: model.Model,
    dataset: Dataset,
    key: jax.Array,
    over: Mesh,
    *,
    log: train.Log,
    asked: requests.Settings,
    countable: bool,
    read: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[train.Hook, ...]:
    """Return the hooks of a run, on some of its held-out images (training images where none are held out).

    Exact match is measured where it is `countable`: pictures are held out, and their labels determine them (see
    `exact.determined`). `read` turns pictures into complete labels; without it no words are counted.
    """
    if not dataset.heldout.size:
        logging.warning("nothing is held out: eval/loss is measured on training images")
    chosen = (dataset.heldout if dataset.heldout.size else dataset.train)[:EVALUATED]
    batch = dataset.images[chosen], dataset.labels[chosen]
    # What does not divide over the devices lies whole on each.
    batch = devices.put(batch, devices.replicate(over) if len(chosen) % over.size else devices.shard(over))
    evaluate = jax.jit(functools.partial(step.eval_step, loss=built.eval_loss))

    def measure_loss(now: TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {"eval/loss": float(evaluate(now.ema, *batch, jax.random.fold_in(key, 2))["loss"])}, {}

    drawn, at = engine.Engine(built, over), engine.places(min(PICTURED, len(chosen)))
    guide = requests.guides(asked, built.spec.labels, dataset.labels[chosen[:PICTURED]])
    rows = drawn.rows(asked, guide)

    def measure_samples(now: TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {}, {"samples": drawn.draw(engine.Nets(now.ema, now.early), guide, drawn.noise(at), at, rows)}

    made = train.Hook(log.eval_every, measure_loss), train.Hook(log.sample_every, measure_samples)
    if not countable:
        return made
    chosen = np.random.default_rng(0).choice(dataset.heldout, min(DRAWN, len(dataset.heldout)), replace=False)
    measure_exact = functools.partial(exact_match, drawn, dataset, chosen, asked, read)
    return *made, train.Hook(log.exact_every, measure_exact)


def exact_match(
    by: engine.Engine,
    dataset: Dataset,
    chosen: np.ndarray,
    asked: requests.Settings,
    read: Callable[[np.ndarray], np.ndarray] | None,
    now: TrainState,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return eval/exact of the complete labels of some pictures, and eval/exact/<word> of those that have the word.

    With `read`, a classifier, also eval/words, the share of pictures in which it reads every word right, and
    eval/words/<word>.
    """
    labels, space = dataset.labels[chosen], dataset.spec.labels
    drawn = subject.Subject(by, engine.Nets(now.ema, now.early), asked, "ema").draw(labels)
    pictures = model.in_palette(drawn, dataset.spec.palette)
    right = (pictures == dataset.pixels(chosen)).all(axis=(1, 2, 3))
    scalars = by_word("eval/exact", right[:, None] & (labels > 0), labels > 0, space.words)
    scalars["eval/exact"] = float(right.mean())
    if read is not None:
        found = read(pictures)
        scalars |= by_word("eval/words", (found == labels) & (labels > 0), labels > 0, space.words)
        scalars["eval/words"] = float((found == labels).all(axis=1).mean())
    return scalars, {}


def by_word(name: str, right: np.ndarray, has: np.ndarray, words: Sequence[str]) -> dict[str, float]:
    """Return `name`/<word> for each word that pictures [n, words] have: the share of these that is right."""
    counts = has.sum(axis=0)
    return {f"{name}/{words[i]}": float(right[:, i].sum() / counts[i]) for i in np.flatnonzero(counts).tolist()}
