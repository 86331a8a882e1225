"""The compiled functions of a run over a mesh of devices: its first state, its step, and what feeds the step."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ddpm_jax import devices, model, motifs, pipeline, prior, runtime, state, step, train
from ddpm_jax.datasets.spec import Dataset

Found = dict[str, jax.Array]
Advance = Callable[[state.TrainState, Any], tuple[state.TrainState, Found]]
FINDING = "step %d: %d motifs; a picture costs %.2f nats by its own"


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What the compiled functions of a run are made of; every random number of the run derives from `key`.

    `storage` says where the images are (see configs/default.py), `layout` how the state lies on the mesh `over` (a name
    of `devices.LAYOUTS`).
    """

    model: model.Model
    dataset: Dataset
    optimizer: step.Optimizer
    plan: train.Plan
    masks: pipeline.Masks
    key: jax.Array
    over: jax.sharding.Mesh
    storage: str
    layout: str

    @functools.cached_property
    def abstract_state(self) -> Any:
        """The shapes of the run's state with a sharding at each leaf: what a restore must be told."""
        made, words = self.model, {}
        if made.prior is not None:
            words[state.PRIOR] = prior.shapes(made.prior, made.space)
        if made.motifs:
            find = functools.partial(motifs.init, made.layers, made.motifs, pipeline.resident(self.dataset))
            words[state.MOTIFS] = jax.eval_shape(find, jax.random.key(0))
        shapes = jax.eval_shape(self.first, jax.ShapeDtypeStruct((), jnp.int32), words)
        return devices.placed(shapes, devices.LAYOUTS[self.layout](shapes, self.over))

    def training_key(self) -> jax.Array:
        """Return the root of all keys but the initial parameters'."""
        return jax.random.fold_in(self.key, 1)

    def planner(self, table: pipeline.Tables, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (examples, labels) of a step: `pipeline.plan` with everything but the step filled in."""
        key = jax.random.fold_in(self.training_key(), 0)
        how = {"space": self.dataset.spec.labels, "batch_size": self.plan.batch_size, "masks": self.masks}
        return pipeline.plan(table, at, key, **how)

    def step(self, now: state.TrainState, batch: pipeline.Batch) -> tuple[state.TrainState, Found]:
        """Return the state and metrics after one batch; its key follows from the step alone."""
        key = jax.random.fold_in(jax.random.fold_in(self.training_key(), 1), now.step)
        how = {"loss": self._loss, "optimizer": self.optimizer, "accumulate": self.plan.accumulate}
        return step.train_step(now, *batch, key, **how)

    def _loss(self, params: Any, *example: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the loss of an example by parameters that are gathered first: alone, XLA would move activations."""
        return self.model.loss(jax.lax.with_sharding_constraint(params, devices.replicate(self.over)), *example)

    def first(self, total: jax.Array, words: Any) -> state.TrainState:
        """Return the state before the first of `total` steps; `words` are the parameters of the word prior, if any."""
        params = self.model.init(jax.random.fold_in(self.key, 0)) | words
        return state.init(params, self.optimizer.transform, total, early=self.optimizer.early > 0)

    def words(self) -> Any:
        """Return the parameters of the word prior, fitted to the training labels, under their name; {} without one.

        Of pictures without labels, those of their motifs, too, to whose codes the prior is fitted.
        """
        made, key, found = self.model, jax.random.fold_in(self.key, 2), {}
        if made.prior is None:
            return found
        known, steps = self.dataset.labels[self.dataset.train], prior.STEPS
        if made.motifs:
            find_key, steps = jax.random.fold_in(self.key, 3), motifs.PRIOR_STEPS
            logging.info("finding at most %d motifs in %d pictures", made.motifs, len(self.dataset.train))
            images, report = pipeline.resident(self.dataset), functools.partial(logging.info, FINDING)
            found[state.MOTIFS], known = motifs.fit(
                made.layers, made.motifs, images, find_key, steps=motifs.STEPS, report=report
            )
        logging.info("fitting the word prior to %d labels", len(self.dataset.train))
        fitted = prior.fit(made.prior, known, key, made.space, steps=steps)
        if made.motifs:
            logging.info("calibrating the word prior")
            draw = functools.partial(jax.jit(jax.vmap(self._draw, in_axes=(None, None, 0))), found)
            fitted = prior.calibrate(fitted, known, draw, jax.random.fold_in(self.key, 4))
        return found | {state.PRIOR: fitted}

    def _draw(self, found: Any, fitted: Any, key: jax.Array) -> jax.Array:
        """Return the code of a free picture by the motifs that were found and a prior. The key is consumed."""
        nothing = jnp.zeros(self.dataset.spec.labels.size, jnp.int8)
        return self.model.complete(found | {state.PRIOR: fitted}, nothing, key)

    def table(self) -> pipeline.Tables:
        """Return where the words of the training labels are."""
        return pipeline.tables(self.dataset.labels[self.dataset.train])


def make_init(parts: Parts) -> Callable[[int], state.TrainState]:
    """Return the function from the total number of steps to the first state, placed on the mesh."""
    lying = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state)
    fresh = jax.jit(parts.first, out_shardings=lying)
    words = functools.cache(parts.words)  # timing a run makes a state, too
    return lambda total: fresh(jnp.asarray(total, jnp.int32), words())


def make_advance(parts: Parts) -> Advance:
    """Return the compiled function from a state, which it consumes, and an input of `make_feed` to the next state.

    It makes `plan.steps_per_dispatch` steps, and their metrics have that as leading axis. Raises BadInput for several
    steps a dispatch where images are streamed.
    """
    if parts.storage != "device" and parts.plan.steps_per_dispatch > 1:
        raise runtime.BadInput("train.steps_per_dispatch must be 1 where data.storage is 'stream'")
    lying = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state)
    one = functools.partial(_resident_step, parts) if parts.storage == "device" else parts.step

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(lying, devices.replicate(parts.over)))
    def advance(now: state.TrainState, inputs: Any) -> tuple[state.TrainState, Found]:
        if parts.plan.steps_per_dispatch == 1:  # XLA:CPU takes minutes to compile a scan over train steps
            now, found = one(now, inputs)
            return now, jax.tree.map(lambda x: x[None], found)
        return jax.lax.scan(lambda at, _: one(at, inputs), now, length=parts.plan.steps_per_dispatch)

    return advance


def _resident_step(parts: Parts, now: state.TrainState, arrays: Any) -> tuple[state.TrainState, Found]:
    """Make a step of images that lie on the devices, gathered inside it."""
    images, table = arrays
    # The plan is small: made whole on every device, its loop needs no word from the others.
    plan = jax.lax.with_sharding_constraint(parts.planner(table, now.step), devices.replicate(parts.over))
    batch = jax.lax.with_sharding_constraint(pipeline.gather(images, *plan), devices.shard(parts.over))
    return parts.step(now, batch)


def make_feed(parts: Parts) -> Callable[[int, int], Iterator[Any]]:
    """Return the function from (start, stop) to the inputs of these steps.

    Images on the devices are the same input again and again; streamed ones are read ahead by a thread. Both follow the
    same plan.
    """
    if parts.storage == "device":
        arrays = devices.put(_resident_arrays(parts), devices.replicate(parts.over))
        return lambda start, stop: itertools.repeat(arrays, (stop - start) // parts.plan.steps_per_dispatch)
    planner = functools.partial(jax.jit(parts.planner), jax.device_put(parts.table()))
    return lambda start, stop: pipeline.stream(parts.dataset, planner, start, stop, devices.shard(parts.over))


def _resident_arrays(parts: Parts) -> Any:
    return pipeline.resident(parts.dataset), parts.table()


def outline(parts: Parts) -> tuple[Advance, Any, Any]:
    """Return a run's step and the shapes, with shardings, of its state and inputs; no array is placed anywhere.

    So `advance.lower(state, inputs).compile()` works for devices that are not here.
    """
    if parts.storage == "device":
        inputs, lying = _resident_arrays(parts), devices.replicate(parts.over)
    else:
        spec, size = parts.dataset.spec, parts.plan.batch_size
        inputs = np.zeros((size, *spec.stored_shape), np.uint8), np.zeros((size, spec.labels.size), np.int8)
        lying = devices.shard(parts.over)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lying), inputs)
    return make_advance(parts), parts.abstract_state, shapes
