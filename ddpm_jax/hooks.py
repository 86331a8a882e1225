"""What a run measures of itself now and then: the held-out loss, and a grid of samples."""

import functools
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from ddpm_jax import model, runtime, step, train
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.state import TrainState

EVALUATED, PICTURED = 256, 16  # held-out images whose loss is measured, and whose labels are sampled


def make(
    built: model.Model,
    dataset: Dataset,
    key: jax.Array,
    over: Mesh,
    *,
    log: train.Log,
    sampler: model.Sampler,
    grid: np.ndarray,
    guidance: float,
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

    pictures = dataset.labels[chosen[:PICTURED]]
    draw = built.sampler(sampler=sampler, grid=grid, guided=built.guided(guidance))
    keys = jax.random.split(jax.random.fold_in(key, 3), len(pictures))

    def measure_samples(now: TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {}, {"samples": np.asarray(draw(now.ema, pictures, keys, guidance)[0])}

    return train.Hook(log.eval_every, measure_loss), train.Hook(log.sample_every, measure_samples)
