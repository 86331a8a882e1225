"""What a run measures of itself now and then: the held-out loss, and a grid of samples."""

import functools
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from ddpm_jax import engine, model, requests, runtime, step, train
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.state import TrainState

EVALUATED, PICTURED = 256, 16  # held-out images whose loss is measured, and whose labels are sampled


def make(
    built: model.Model, dataset: Dataset, key: jax.Array, over: Mesh, *, log: train.Log, asked: requests.Settings
) -> tuple[train.Hook, ...]:
    """Return the hooks of a run, on the first of its held-out images (training images where none are held out)."""
    if not dataset.heldout.size:
        logging.warning("nothing is held out: eval/loss is measured on training images")
    chosen = (dataset.heldout if dataset.heldout.size else dataset.train)[:EVALUATED]
    batch = dataset.images[chosen], dataset.labels[chosen]
    # What does not divide over the devices lies whole on each.
    batch = jax.device_put(batch, runtime.replicate(over) if len(chosen) % over.size else runtime.shard(over))
    evaluate = jax.jit(functools.partial(step.eval_step, loss=built.eval_loss))

    def measure_loss(now: TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {"eval/loss": float(evaluate(now.ema, *batch, jax.random.fold_in(key, 2))["loss"])}, {}

    drawn, at = engine.Engine(built, over), engine.places(min(PICTURED, len(chosen)))
    guide = requests.guides(asked, built.spec.labels, dataset.labels[chosen[:PICTURED]])
    rows = requests.rows(asked, built.schedule)

    def measure_samples(now: TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {}, {"samples": drawn.draw(engine.Nets(now.ema), guide, drawn.noise(at), at, rows)}

    return train.Hook(log.eval_every, measure_loss), train.Hook(log.sample_every, measure_samples)
