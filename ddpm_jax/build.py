"""From a ConfigDict to typed callables: the only reader of configurations.

`check` refuses wrong values before anything is compiled; then each section is splatted into one callable, so a
misspelt, missing or unread key is an error too.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import datasets, losses, model, nets, pipeline, runtime, samplers, schedules, state, step, train
from ddpm_jax.datasets.spec import Dataset, Spec
from ddpm_jax.nets import unet

# Inclusive ranges of the numbers; what a number means stands in configs/default.py.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.size": (0, 1024),
    "masks.none": (0, 1),
    "masks.subset": (0, 1),
    "masks.favour": (0, 1),
    "net.channels": (1, 4096),
    "net.blocks": (1, 16),
    "net.attention_head": (1, 4096),
    "net.stem": (1, 16),
    "net.word_maps": (0, 4096),
    "net.head_channels": (0, 4096),
    "net.groups": (1, 4096),
    "net.dropout": (0, 0.95),
    "optimizer.learning_rate": (1e-9, 1),
    "optimizer.warmup": (0, 10**9),
    "optimizer.weight_decay": (0, 10),
    "optimizer.clip_norm": (1e-6, 1e6),
    "optimizer.b1": (0, 0.99999),
    "optimizer.b2": (0, 0.99999),
    "optimizer.ema": (0, 0.9999999),
    "train.steps": (1, 10**9),
    "train.minutes": (0, 10**6),
    "train.batch_size": (1, 10**6),
    "train.accumulate": (1, 10**4),
    "train.steps_per_dispatch": (1, 10**4),
    "train.bad_steps": (1, 10**6),
    "log.every": (1, 10**9),
    "log.eval_every": (1, 10**9),
    "log.sample_every": (1, 10**9),
    "checkpoint.every": (1, 10**9),
    "checkpoint.keep_newest": (1, 10**6),
    "checkpoint.keep_best": (0, 10**6),
    "checkpoint.keep_every": (0, 10**9),
    "sampling.steps": (1, 1000),
    "sampling.guidance": (0, 100),
    "runtime.devices": (0, 4096),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "data.storage": ("device", "stream"),
    "net.name": tuple(nets.NETS),
    "net.dtype": ("float32", "bfloat16"),
    "schedule.name": tuple(schedules.SCHEDULES),
    "loss.target": tuple(losses.TARGETS),
    "loss.weighting": tuple(losses.WEIGHTINGS),
    "optimizer.decay": ("cosine", "constant"),
    "sampling.sampler": tuple(samplers.SAMPLERS),
}
# Keys that may differ between a run and its resume: they change neither the numbers nor the data.
HARMLESS = ("train.steps", "log.", "checkpoint.", "sampling.", "runtime.", "data.root", "data.storage", "init_from")
EVALUATED, PICTURED = 256, 16  # held-out images whose loss is measured, and whose labels are sampled, while training


def check(config: ConfigDict) -> None:
    """Raise BadInput, naming the key, the value and what is allowed, for a value that no run could use."""
    values = runtime.flat(config.to_dict())
    for key, (low, high) in RANGES.items():
        value = values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise runtime.BadInput(f"{key} is {value!r}; it must be a number from {low:g} to {high:g}")
    for key, allowed in CHOICES.items():
        if values[key] not in allowed:
            raise runtime.BadInput(f"{key} is {values[key]!r}; choose one of {', '.join(allowed)}")
    for key, divisor in (
        ("train.batch_size", "train.accumulate"),
        ("checkpoint.every", "log.every"),
        *((key, "train.steps_per_dispatch") for key in ("train.steps", "log.every", "log.eval_every", "log.sample_every")),
    ):
        if values[key] % values[divisor]:
            raise runtime.BadInput(f"{key} is {values[key]}; it must be a multiple of {divisor}, {values[divisor]}")
    if values["masks.none"] + values["masks.subset"] > 1:
        raise runtime.BadInput("masks.none and masks.subset are shares of the examples; together they must be at most 1")
    if values["train.steps"] * values["train.batch_size"] >= 2**32:
        raise runtime.BadInput("train.steps x train.batch_size must stay below 2^32 images")
    if values["schedule.zero_terminal"] and values["loss.target"] == "eps":
        raise runtime.BadInput("loss.target 'eps' learns nothing at zero terminal SNR; use v, x_0 or palette with it")


def make_model(config: Mapping[str, Any], spec: Spec) -> model.Model:
    """Return the model that a config (as nested values) describes, for the pictures and labels of `spec`."""
    palette = None if spec.palette is None else np.asarray(spec.palette, np.float32) / 127.5 - 1.0
    target = losses.TARGETS[config["loss"]["target"]](palette)
    net = make_net(**config["net"], spec=spec, target=target)
    schedule = make_schedule(**config["schedule"])
    return model.Model(spec, net, schedule, target, losses.WEIGHTINGS[config["loss"]["weighting"]])


def make_net(*, name: str, spec: Spec, target: losses.Target, dtype: str, **fields: Any) -> unet.UNet:
    """Return the network, checked against the image's shape. Raises ValueError if its depth does not divide it."""
    shape = {key: fields[key] for key in ("multipliers", "stem", "channels", "groups")}
    unet.check_shape(spec.shape, **shape)
    fields = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in fields.items()}
    return nets.NETS[name](out_channels=target.channels(spec.shape[2]), dtype=jnp.dtype(dtype), **fields)


def make_schedule(*, name: str, zero_terminal: bool) -> schedules.Schedule:
    """Return the noise schedule."""
    schedule = schedules.SCHEDULES[name]()
    return schedules.zero_terminal(schedule) if zero_terminal else schedule


def make_data(*, storage: str, **section: Any) -> tuple[Dataset, str]:
    """Return the data set, and whether its images live on the device or are streamed."""
    return datasets.load(**section), storage


def build(config: ConfigDict) -> train.Run:
    """Return the run that a configuration describes. Raises BadInput or ValueError, in a sentence, where it cannot be.

    `jax` devices must be set up before (`runtime.configure_devices`): arrays are placed on the mesh here.
    """
    check(config)
    values = jsonable(config.to_dict())
    dataset, storage = make_data(**values["data"])
    built, plan, log = make_model(values, dataset.spec), train.Plan(**values["train"]), train.Log(**values["log"])
    over = runtime.mesh()
    runtime.check_batch(plan.batch_size // plan.accumulate, over.size)
    optimizer = step.make_optimizer(**values["optimizer"])
    key = jax.random.key(values["seed"])
    init = make_init(built, optimizer, jax.random.fold_in(key, 0), over, values["init_from"])
    parts = Parts(built, dataset, optimizer, plan, pipeline.Masks(**values["masks"]), jax.random.fold_in(key, 1), over)
    feed, advance = (resident_steps if storage == "device" else streamed_steps)(parts)
    meta = {"config": values, "spec": dataset.spec.to_json(), "fingerprint": dataset.fingerprint}
    return train.Run(
        meta=meta,
        check_resume=functools.partial(check_resume, meta),
        init=init,
        abstract=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=runtime.replicate(over)), jax.eval_shape(init, 1)
        ),
        feed=feed,
        advance=advance,
        hooks=make_hooks(parts, log, make_sampling(**values["sampling"])),
        plan=plan,
        log=log,
        saves=train.Saves(**values["checkpoint"]),
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
    built: model.Model, optimizer: step.Optimizer, key: jax.Array, over: jax.sharding.Mesh, init_from: str
) -> Callable[[int], state.TrainState]:
    """Return the function from the total number of steps to the first state, replicated over the mesh."""

    @functools.partial(jax.jit, out_shardings=runtime.replicate(over))
    def fresh(total: jax.Array) -> state.TrainState:
        return state.init(built.init(key), optimizer.transform, total)

    def init(total: int) -> state.TrainState:
        return fresh(jnp.asarray(total, jnp.int32))

    return init if not init_from else functools.partial(fine_tuned, built, init, init_from)


def resident_steps(parts: Parts) -> tuple[Any, Any]:
    """Return (feed, advance) for images that lie on the devices and are gathered inside the compiled step."""
    table = pipeline.tables(parts.dataset.labels[parts.dataset.train])
    arrays = jax.device_put((pipeline.resident(parts.dataset), table), runtime.replicate(parts.over))
    split = runtime.shard(parts.over)

    def one(now: state.TrainState, arrays: Any) -> tuple[state.TrainState, dict[str, jax.Array]]:
        images, table = arrays
        example, label = parts.planner(table, now.step)
        batch = jax.lax.with_sharding_constraint(pipeline.gather(images, example, label), split)
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
    planner = jax.jit(functools.partial(parts.planner, table))

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(now: state.TrainState, batch: pipeline.Batch) -> tuple[state.TrainState, dict[str, jax.Array]]:
        return _with_axis(*parts.step(now, batch))

    def feed(start: int, stop: int) -> Iterator[pipeline.Batch]:
        return pipeline.stream(parts.dataset, planner, start, stop, runtime.shard(parts.over))

    return feed, advance


def _with_axis(now: state.TrainState, found: dict[str, jax.Array]) -> tuple[state.TrainState, dict[str, jax.Array]]:
    return now, jax.tree.map(lambda x: x[None], found)


def make_sampling(*, sampler: str, steps: int, guidance: float) -> dict[str, Any]:
    """Return how pictures are made: the sampler's function, its grid of times, and the guidance weight."""
    grid = schedules.linear_grid(steps)
    return {"sampler": samplers.SAMPLERS[sampler], "grid": grid, "guidance": guidance}


def make_hooks(parts: Parts, log: train.Log, sampling: dict[str, Any]) -> tuple[train.Hook, ...]:
    """Return what is measured now and then: the held-out loss, and a grid of samples for held-out labels."""
    dataset = parts.dataset
    chosen = (dataset.heldout if dataset.heldout.size else dataset.train)[:EVALUATED]
    data, label = np.asarray(dataset.images[chosen]), dataset.labels[chosen]
    key = jax.random.fold_in(parts.key, 2)
    evaluate = jax.jit(functools.partial(step.eval_step, loss=parts.model.eval_loss))

    def measure_loss(now: state.TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {"eval/loss": float(evaluate(now.ema, data, label, key)["loss"])}, {}

    pictures = label[:PICTURED]
    guided = parts.dataset.spec.labels.size > 0 and sampling["guidance"] != 1.0
    draw = parts.model.sampler(**sampling, guided=guided)
    keys = jax.random.split(jax.random.fold_in(parts.key, 3), len(pictures))

    def measure_samples(now: state.TrainState) -> tuple[dict[str, float], dict[str, Any]]:
        return {}, {"samples": np.asarray(draw(now.ema, pictures, keys, sampling["guidance"])[0])}

    return train.Hook(log.eval_every, measure_loss), train.Hook(log.sample_every, measure_samples)


def check_resume(meta: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise BadInput, with the first differences in words, if a checkpoint is not of the run that `meta` describes.

    Keys that change neither the numbers nor the data (`HARMLESS`) may differ.
    """
    new, old = runtime.flat(meta["config"]), runtime.flat(saved["config"])
    differing = [key for key in {**old, **new} if new.get(key) != old.get(key) and not key.startswith(HARMLESS)]
    words = [f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differing]
    if not words and saved["fingerprint"] != meta["fingerprint"]:
        words = ["the data are not those it was trained on"]
    if words:
        raise runtime.BadInput(f"this workdir holds another run: {'; '.join(words[:3])}; choose another --workdir")


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested config values as JSON would give them back: tuples become lists."""
    return json.loads(json.dumps(values))
