"""From a ConfigDict to typed callables: the only reader of configurations.

`settings.check` refuses wrong values before anything is compiled; then each section is splatted into one callable, so
a key that is read by nobody is an error too.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
    prior,
    program,
    releases,
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
from ddpm_jax.labels import Categorical


def make_model(config: Mapping[str, Any], spec: Spec) -> model.Model:
    """Return the model that a config (as nested values) describes, for the pictures and labels of `spec`."""
    palette = None if spec.palette is None else np.asarray(spec.palette, np.float32) / 127.5 - 1.0
    target = losses.TARGETS[config["loss"]["target"]](palette)
    schedule, weighting = make_schedule(**config["schedule"]), losses.WEIGHTINGS[config["loss"]["weighting"]]
    made = make_nets(**config["net"], spec=spec, target=target)
    return model.Model(spec=spec, schedule=schedule, target=target, weighting=weighting, **made)


def make_nets(*, spec: Spec, word_prior: int = 0, motifs: int = 0, **section: Any) -> dict[str, Any]:
    """Return the network, the word prior if one is asked for and there are words, and how many motifs are.

    Raises ValueError for motifs of pictures that have labels.
    """
    if motifs and spec.labels.size:
        raise ValueError(
            f"net.motifs are for pictures without labels; {spec.name} has words: set it to 0, or masks.none to 1"
        )
    words = prior.WordPrior(word_prior, deep=motifs > 0) if word_prior and (motifs or spec.labels.size) else None
    return {"net": make_net(**section, spec=spec), "prior": words, "motifs": motifs}


def make_net(
    *, name: str, spec: Spec, target: losses.Target, dtype: str, word_sets: str = "", **fields: Any
) -> nets.Net:
    """Return the network. Raises ValueError if it does not take images of this shape, or for an unknown word."""
    if spec.labels.size:
        fields["word_sets"] = [spec.labels.index(word.strip()) for word in word_sets.split(",") if word.strip()]
        owners = [spec.labels.owners[i] for i in fields["word_sets"]]
        if len(owners) > 1 and not (isinstance(owners[0], Categorical) and owners.count(owners[0]) == len(owners)):
            raise ValueError(f"net.word_sets {word_sets!r}: two of them can be present at once; take words of one kind")
        fields["word_ground"] = np.flatnonzero(spec.labels.exclusive).tolist()
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
    parts = assemble(config, devices.mesh())
    values, dataset = runtime.jsonable(config.to_dict()), parts.dataset
    log, over = train.Log(**values["log"]), parts.over
    seen = pairs_seen(dataset.labels[dataset.train])
    meta = {"config": values, "spec": dataset.spec.to_json(), "fingerprint": dataset.fingerprint, "pairs_seen": seen}
    asked = requests.settle({}, values["sampling"])
    if asked.autoguidance != 1 and parts.plan.steps <= parts.optimizer.early:
        logging.warning("autoguidance does nothing: the run ends before optimizer.early, %d", parts.optimizer.early)
    countable = bool(dataset.heldout.size) and exact.determined(dataset)
    check_best(values["checkpoint"]["best_metric"], countable)
    # Only exact match counts words, so for other data none is read, and the judge's data need no loading.
    read = judge.reader(dataset, values["data"]["root"]) if countable else None
    key, fresh = parts.training_key(), program.make_init(parts)
    made = hooks.make(parts.model, dataset, key, over, log=log, asked=asked, countable=countable, read=read)
    return train.Run(
        meta=meta,
        check_resume=functools.partial(settings.check_resume, meta),
        init=functools.partial(fine_tuned, parts.model, fresh, values["init_from"]) if values["init_from"] else fresh,
        abstract=parts.abstract_state,
        feed=program.make_feed(parts),
        advance=program.make_advance(parts),
        hooks=made,
        plan=parts.plan,
        log=log,
        saves=train.Saves(**values["checkpoint"]),
    )


def outline(config: ConfigDict, over: jax.sharding.Mesh) -> tuple[program.Advance, Any, Any]:
    """Return the step of a run over a mesh of any devices, and the shapes of what it takes: `program.outline`."""
    return program.outline(assemble(config, over))


def assemble(config: ConfigDict, over: jax.sharding.Mesh) -> program.Parts:
    """Return the checked parts of a run over a mesh; of the data, nothing is placed on a device yet."""
    settings.check(config)
    values = runtime.jsonable(config.to_dict())
    dataset, storage = make_data(**values["data"])
    masks = pipeline.Masks(**values["masks"])
    if masks.none == 1:  # no word is ever shown: the model has none, rather than some that mean nothing
        dataset = without_labels(dataset)
    if values["sampling"]["words"] == "prior" and not (dataset.spec.labels.size or values["net"]["motifs"]):
        raise runtime.BadInput("sampling.words is 'prior', but the data have no words; use 'net', or net.motifs")
    plan = train.Plan(**values["train"])
    check_parts(plan, over.size)
    if len(dataset.train) < plan.batch_size:
        raise runtime.BadInput(f"there are {len(dataset.train)} images to train on, a batch needs {plan.batch_size}")
    return program.Parts(
        model=make_model(values, dataset.spec),
        dataset=dataset,
        optimizer=step.make_optimizer(**values["optimizer"]),
        plan=plan,
        masks=masks,
        key=jax.random.key(values["seed"]),
        over=over,
        storage=storage,
        layout=values["runtime"]["parameters"],
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


def fine_tuned(
    built: model.Model, init: Callable[[int], state.TrainState], init_from: str, total: int
) -> state.TrainState:
    """Return the first state with the EMA parameters of another checkpoint where they fit; log what did not."""
    path = model_path(init_from)
    space = Spec.from_json(checkpoint.read_meta(path)["spec"]).labels
    fresh = init(total)
    given, here = checkpoint.load_arrays(path, "ema"), jax.tree.map(np.asarray, devices.gathered(fresh.params))
    for name in (state.PRIOR, state.MOTIFS):  # fitted to these data
        given.pop(name, None)
    params, left = state.transplant(here, given, built.spec.labels, space)
    if jax.tree.all(jax.tree.map(np.array_equal, params, here)):
        raise runtime.BadInput(f"init_from: no array of {path} fits this net; give a checkpoint with the same net.*")
    logging.info("started from %s; fresh: %s", path, ", ".join(left) or "nothing")
    params = jax.tree.map(lambda new, old: devices.put(new, old.sharding), params, fresh.params)
    ema, early = (jax.tree.map(jnp.copy, tree) for tree in (params, params if fresh.early else None))
    return fresh._replace(params=params, ema=ema, early=early)


def model_path(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the checkpoint of a released model's name, a workdir, or one of its checkpoints; BadInput without one."""
    released = releases.models()
    try:
        return checkpoint.resolve(released.get(str(path_or_name), path_or_name))
    except runtime.BadInput as error:
        if Path(path_or_name).exists():
            raise
        raise runtime.BadInput(f"{error}, or a released model: {', '.join(released)}") from error
