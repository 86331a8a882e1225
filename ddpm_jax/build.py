"""From a ConfigDict to typed callables: the only reader of configurations.

`settings.check` refuses wrong values before anything is compiled; then each section is splatted into one callable, so
a key that is read by nobody is an error too.
"""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ddpm_jax import (
    checkpoint,
    datasets,
    devices,
    hooks,
    losses,
    model,
    nets,
    pipeline,
    requests,
    runtime,
    schedules,
    settings,
    state,
    step,
    train,
)
from ddpm_jax.datasets.spec import Dataset, Spec, pairs_seen, without_labels
from ddpm_jax.evaluation import exact, judge

PRETRAINED = Path(__file__).parent / "pretrained"


def make_model(config: Mapping[str, Any], spec: Spec) -> model.Model:
    """Return the model that a config (as nested values) describes, for the pictures and labels of `spec`."""
    palette = None if spec.palette is None else np.asarray(spec.palette, np.float32) / 127.5 - 1.0
    target = losses.TARGETS[config["loss"]["target"]](palette)
    net = make_net(**config["net"], spec=spec, target=target)
    schedule = make_schedule(**config["schedule"])
    return model.Model(spec, net, schedule, target, losses.WEIGHTINGS[config["loss"]["weighting"]])


def make_net(*, name: str, spec: Spec, target: losses.Target, dtype: str, **fields: Any) -> nets.Net:
    """Return the network. Raises ValueError if it does not take images of this shape."""
    fields = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in fields.items()}
    net = nets.NETS[name](out_channels=target.channels(spec.shape[2]), dtype=jnp.dtype(dtype), **fields)
    net.check_shape(spec.shape)
    return net


def make_schedule(*, name: str, zero_terminal: bool) -> schedules.Schedule:
    """Return the noise schedule."""
    schedule = schedules.SCHEDULES[name]()
    return schedules.zero_terminal(schedule) if zero_terminal else schedule


def make_data(*, storage: str, **section: Any) -> tuple[Dataset, str]:
    """Return the data set, and whether its images live on the device or are streamed."""
    return datasets.load(**section), storage


def build(config: ConfigDict) -> train.Run:
    """Return the run that a configuration describes. Raises BadInput or ValueError, in a sentence, where it cannot be.

    `jax` devices must be set up before (`devices.configure`): arrays are placed on the mesh here.
    """
    settings.check(config)
    values = jsonable(config.to_dict())
    dataset, storage = make_data(**values["data"])
    masks = pipeline.Masks(**values["masks"])
    if masks.none == 1:  # no word is ever shown: the model has none, rather than some that mean nothing
        dataset = without_labels(dataset)
    built, plan, log = make_model(values, dataset.spec), train.Plan(**values["train"]), train.Log(**values["log"])
    over = devices.mesh()
    check_parts(plan, over.size)
    optimizer = step.make_optimizer(**values["optimizer"])
    key = jax.random.key(values["seed"])
    fresh = make_init(built, optimizer, jax.random.fold_in(key, 0), over)
    parts = Parts(built, dataset, optimizer, plan, masks, jax.random.fold_in(key, 1), over)
    feed, advance = (resident_steps if storage == "device" else streamed_steps)(parts)
    seen = pairs_seen(dataset.labels[dataset.train])
    meta = {"config": values, "spec": dataset.spec.to_json(), "fingerprint": dataset.fingerprint, "pairs_seen": seen}
    asked = requests.settle({}, values["sampling"])
    countable = bool(dataset.heldout.size) and exact.determined(dataset)
    check_best(values["checkpoint"]["best_metric"], countable)
    # Only exact match counts words, so for other data none is read, and the judge's data need no loading.
    read = judge.reader(dataset, values["data"]["root"]) if countable else None
    made = hooks.make(built, dataset, parts.key, over, log=log, asked=asked, countable=countable, read=read)
    return train.Run(
        meta=meta,
        check_resume=functools.partial(settings.check_resume, meta),
        init=functools.partial(fine_tuned, built, fresh, values["init_from"]) if values["init_from"] else fresh,
        abstract=devices.placed(jax.eval_shape(fresh, 1), devices.replicate(over)),
        feed=feed,
        advance=advance,
        hooks=made,
        plan=plan,
        log=log,
        saves=train.Saves(**values["checkpoint"]),
    )


def check_parts(plan: train.Plan, count: int) -> None:
    """Raise BadInput unless each part of a batch divides over the devices."""
    try:
        devices.check_batch(plan.batch_size // plan.accumulate, count)
    except runtime.BadInput as error:
        what = f"of {plan.batch_size} images in {plan.accumulate} parts, each part: " if plan.accumulate > 1 else ""
        raise runtime.BadInput(f"{what}{error}") from error


def check_best(metric: str, countable: bool) -> None:
    """Raise BadInput for a best metric that is never measured; `countable` says that exact match is."""
    if metric == "-eval/exact" and not countable:
        raise runtime.BadInput(
            "checkpoint.best_metric '-eval/exact' needs held-out pictures that their labels determine; use eval/loss"
        )


class Parts(NamedTuple):
    """What the compiled functions of a run are made of; `key` is the root of all keys but the initial parameters'."""

    model: model.Model
    dataset: Dataset
    optimizer: step.Optimizer
    plan: train.Plan
    masks: pipeline.Masks
    key: jax.Array
    over: jax.sharding.Mesh

    def planner(self, table: pipeline.Tables, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (examples, labels) of a step: `pipeline.plan` with everything but the step filled in."""
        key = jax.random.fold_in(self.key, 0)
        how = {"space": self.dataset.spec.labels, "batch_size": self.plan.batch_size, "masks": self.masks}
        return pipeline.plan(table, at, key, **how)

    def step(self, now: state.TrainState, batch: pipeline.Batch) -> tuple[state.TrainState, dict[str, jax.Array]]:
        """Return the state and metrics after one batch; its key follows from the step alone."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), now.step)
        how = {"loss": self.model.loss, "optimizer": self.optimizer, "accumulate": self.plan.accumulate}
        return step.train_step(now, *batch, key, **how)


def make_init(
    built: model.Model, optimizer: step.Optimizer, key: jax.Array, over: jax.sharding.Mesh
) -> Callable[[int], state.TrainState]:
    """Return the function from the total number of steps to the first state, replicated over the mesh."""

    @functools.partial(jax.jit, out_shardings=devices.replicate(over))
    def fresh(total: jax.Array) -> state.TrainState:
        return state.init(built.init(key), optimizer.transform, total)

    def init(total: int) -> state.TrainState:
        return fresh(jnp.asarray(total, jnp.int32))

    return init


def fine_tuned(
    built: model.Model, init: Callable[[int], state.TrainState], init_from: str, total: int
) -> state.TrainState:
    """Return the first state with the EMA parameters of another checkpoint where they fit; log what did not."""
    path = model_path(init_from)
    words = Spec.from_json(checkpoint.read_meta(path)["spec"]).labels.words
    fresh = init(total)
    params, left = state.transplant(fresh.params, checkpoint.load_arrays(path, "ema"), built.spec.labels.words, words)
    if jax.tree.all(jax.tree.map(np.array_equal, params, fresh.params)):
        raise runtime.BadInput(f"init_from: no array of {path} fits this net; give a checkpoint with the same net.*")
    logging.info("started from %s; fresh: %s", path, ", ".join(left) or "nothing")
    params = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), params, fresh.params)
    return fresh._replace(params=params, ema=jax.tree.map(jnp.copy, params))


def model_path(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the checkpoint of a released model's name, a workdir, or one of its checkpoints."""
    released = PRETRAINED / str(path_or_name)
    return checkpoint.resolve(released if released.is_dir() else path_or_name)


def resident_steps(parts: Parts) -> tuple[Any, Any]:
    """Return (feed, advance) for images that lie on the devices and are gathered inside the compiled step."""
    table = pipeline.tables(parts.dataset.labels[parts.dataset.train])
    arrays = jax.device_put((pipeline.resident(parts.dataset), table), devices.replicate(parts.over))
    split = devices.shard(parts.over)

    def one(now: state.TrainState, arrays: Any) -> tuple[state.TrainState, dict[str, jax.Array]]:
        images, table = arrays
        # The plan is small: made whole on every device, its loop needs no word from the others.
        plan = jax.lax.with_sharding_constraint(parts.planner(table, now.step), devices.replicate(parts.over))
        batch = jax.lax.with_sharding_constraint(pipeline.gather(images, *plan), split)
        return parts.step(now, batch)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(now: state.TrainState, arrays: Any) -> tuple[state.TrainState, dict[str, jax.Array]]:
        if parts.plan.steps_per_dispatch == 1:  # XLA:CPU takes minutes to compile a scan over train steps
            return _with_axis(*one(now, arrays))
        return jax.lax.scan(lambda at, _: one(at, arrays), now, length=parts.plan.steps_per_dispatch)

    def feed(start: int, stop: int) -> Iterator[Any]:
        return itertools.repeat(arrays, (stop - start) // parts.plan.steps_per_dispatch)

    return feed, advance


def streamed_steps(parts: Parts) -> tuple[Any, Any]:
    """Return (feed, advance) for images that a thread reads ahead, following the same plan."""
    if parts.plan.steps_per_dispatch > 1:
        raise runtime.BadInput("train.steps_per_dispatch must be 1 where data.storage is 'stream'")
    table = pipeline.tables(parts.dataset.labels[parts.dataset.train])
    compiled, table = jax.jit(parts.planner), jax.device_put(table)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(now: state.TrainState, batch: pipeline.Batch) -> tuple[state.TrainState, dict[str, jax.Array]]:
        return _with_axis(*parts.step(now, batch))

    def feed(start: int, stop: int) -> Iterator[pipeline.Batch]:
        planner = functools.partial(compiled, table)
        return pipeline.stream(parts.dataset, planner, start, stop, devices.shard(parts.over))

    return feed, advance


def _with_axis(now: state.TrainState, found: dict[str, jax.Array]) -> tuple[state.TrainState, dict[str, jax.Array]]:
    return now, jax.tree.map(lambda x: x[None], found)


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested config values as JSON would give them back: tuples become lists."""
    return json.loads(json.dumps(values))
