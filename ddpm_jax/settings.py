"""What a configuration may say: every key's range, choice or type, and what a resume may not change."""

import difflib
from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from ddpm_jax import devices, losses, nets, requests, runtime, samplers, schedules
from ddpm_jax.configs import default  # pyright: ignore[reportAttributeAccessIssue]

# Inclusive ranges of the numbers; what a number means stands in configs/default.py.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.size": (0, 1024),
    "masks.none": (0, 1),
    "masks.subset": (0, 1),
    "masks.favour": (0, 1),
    "masks.balance": (0, 1),
    "net.channels": (1, 4096),
    "net.blocks": (1, 16),
    "net.attention_head": (1, 4096),
    "net.stem": (1, 16),
    "net.word_maps": (0, 4096),
    "net.word_layers": (0, 4096),
    "net.word_prior": (0, 4096),
    "net.motifs": (0, 4096),
    "net.head_channels": (0, 4096),
    "net.groups": (1, 4096),
    "net.dropout": (0, 0.95),
    "optimizer.learning_rate": (1e-9, 1),
    "optimizer.warmup": (0, 10**9),
    "optimizer.weight_decay": (0, 10),
    "optimizer.clip_norm": (1e-6, 10**6),
    "optimizer.b1": (0, 0.99999),
    "optimizer.b2": (0, 0.99999),
    "optimizer.layer_rate": (1e-3, 10**4),
    "optimizer.ema": (0, 0.9999999),
    "optimizer.early": (0, 10**9),
    "train.steps": (1, 10**9),
    "train.minutes": (0, 10**6),
    "train.batch_size": (1, 10**6),
    "train.accumulate": (1, 10**4),
    "train.steps_per_dispatch": (1, 10**4),
    "train.bad_steps": (1, 10**6),
    "log.every": (1, 10**9),
    "log.eval_every": (1, 10**9),
    "log.exact_every": (1, 10**9),
    "log.sample_every": (1, 10**9),
    "checkpoint.every": (1, 10**9),
    "checkpoint.keep_newest": (1, 10**6),
    "checkpoint.keep_best": (0, 10**6),
    "checkpoint.keep_every": (0, 10**9),
    "sampling.steps": (1, 1000),
    "sampling.guidance": (0, 100),
    "sampling.autoguidance": (0, 100),
    "runtime.devices": (0, 4096),
}
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
TUPLES = {int: "a tuple of whole numbers", float: "a tuple of numbers"}  # by their items
CHOICES: dict[str, tuple[str, ...]] = {
    "data.storage": ("device", "stream"),
    "net.name": tuple(nets.NETS),
    "net.dtype": ("float32", "bfloat16"),
    "schedule.name": tuple(schedules.SCHEDULES),
    "loss.target": tuple(losses.TARGETS),
    "loss.weighting": tuple(losses.WEIGHTINGS),
    "optimizer.decay": ("cosine", "constant"),
    "sampling.sampler": tuple(samplers.SAMPLERS),
    "sampling.times": tuple(schedules.GRIDS),
    "sampling.words": requests.WORDS,
    "checkpoint.best_metric": ("eval/loss", "-eval/exact"),
    "runtime.parameters": tuple(devices.LAYOUTS),
}
# Keys, and sections, that may differ between a run and its resume. None changes what was trained so far or the data;
# train.steps moves the end, and with it the rest of a cosine decay; another learning rate may lead out of a divergence.
HARMLESS = {"train.steps", "train.minutes", "data.root", "data.storage", "init_from", "optimizer.learning_rate"}
HARMLESS_SECTIONS = ("log.", "checkpoint.", "sampling.", "runtime.")


def check(config: ConfigDict) -> None:
    """Raise BadInput, naming the key, the value and what is allowed, for a value that no run could use."""
    values = runtime.flat(config.to_dict())
    _check_keys(values, runtime.flat(default.get_config().to_dict()))
    for key, (low, high) in RANGES.items():
        if not low <= values[key] <= high:
            raise runtime.BadInput(f"{key} is {values[key]!r}; it must be from {low} to {high}")
    if not values["net.multipliers"] or min(values["net.multipliers"]) < 1:
        raise runtime.BadInput(
            f"net.multipliers is {values['net.multipliers']}; give one number of 1 or more per level"
        )
    for key, allowed in CHOICES.items():
        if values[key] not in allowed:
            raise runtime.BadInput(f"{key} is {values[key]!r}; choose one of {', '.join(allowed)}")
    for key, divisor in (
        ("train.batch_size", "train.accumulate"),
        ("checkpoint.every", "log.every"),
        *(
            (key, "train.steps_per_dispatch")
            for key in ("train.steps", "log.every", "log.eval_every", "log.exact_every", "log.sample_every")
        ),
    ):
        if values[key] % values[divisor]:
            raise runtime.BadInput(f"{key} is {values[key]}; it must be a multiple of {divisor}, {values[divisor]}")
    if values["masks.none"] + values["masks.subset"] > 1:
        raise runtime.BadInput(
            "masks.none and masks.subset are shares of the examples; together they must be at most 1"
        )
    if values["train.steps"] * values["train.batch_size"] >= 2**32:
        raise runtime.BadInput("train.steps x train.batch_size must stay below 2^32 images")
    if values["net.word_layers"] and (values["loss.target"] != "palette" or not values["net.head_channels"]):
        raise runtime.BadInput("net.word_layers paint colours: they need loss.target 'palette' and net.head_channels")
    if values["net.motifs"] and not (values["net.word_layers"] and values["net.word_prior"]):
        raise runtime.BadInput(
            "net.motifs are painted and drawn like words: set net.word_layers and net.word_prior, too"
        )
    if values["sampling.words"] == "prior" and not values["net.word_prior"]:
        raise runtime.BadInput("sampling.words is 'prior', but net.word_prior is 0; use words of 'net', or a width")
    if values["sampling.words"] == "prior" and {values["sampling.guidance"], values["sampling.autoguidance"]} != {1}:
        raise runtime.BadInput("sampling.words is 'prior', which takes no guidance; use 'net', or 1 for both weights")
    if values["sampling.autoguidance"] != 1 and not values["optimizer.early"]:
        raise runtime.BadInput("sampling.autoguidance leads away from an early net, but optimizer.early is 0; set it")
    if values["schedule.zero_terminal"] and values["loss.target"] == "eps":
        raise runtime.BadInput("loss.target 'eps' learns nothing at zero terminal SNR; use v, x_0 or palette with it")


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse unknown keys, missing keys, and values of another type than the default's (an int will do for a float)."""
    for key in sorted(values.keys() ^ known.keys()):
        near = difflib.get_close_matches(key, known.keys() - values.keys(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise runtime.BadInput(f"{key} is {'not a key' if key in values else 'missing'} of a configuration{hint}")
    for key, value in values.items():
        if not _fits(value, known[key]):
            raise runtime.BadInput(f"{key} is {value!r}; it must be {_kind(known[key])}")


def _fits(value: Any, like: Any) -> bool:
    """Say whether a value is of the type of a key's default; an int will do for a float, and of a tuple each item."""
    if type(like) is tuple:
        return type(value) is tuple and all(_fits(item, _item(like)) for item in value)
    return type(value) is type(like) or (type(like) is float and type(value) is int)


def _kind(like: Any) -> str:
    return TUPLES[type(_item(like))] if type(like) is tuple else KINDS[type(like)]


def _item(like: tuple[Any, ...]) -> Any:
    """Return an item of a tuple such as `like`: those of an empty one are whole numbers."""
    return like[0] if like else 0


def check_resume(meta: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise BadInput, with the first differences in words, if a checkpoint is not of the run that `meta` describes.

    Keys that change neither the numbers nor the data (`HARMLESS`) may differ.
    """
    new, old = runtime.flat(meta["config"]), runtime.flat(saved["config"])
    # A key that is younger than the checkpoint had its default's effect.
    old = runtime.flat(runtime.jsonable(default.get_config().to_dict())) | old
    keys = [key for key in {**old, **new} if key not in HARMLESS and not key.startswith(HARMLESS_SECTIONS)]
    differing = [key for key in keys if new.get(key) != old.get(key)]
    words = [f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differing]
    if not words and saved["fingerprint"] != meta["fingerprint"]:
        words = ["the data are not those it was trained on"]
    for key in ("train.steps", "optimizer.learning_rate"):
        if not words and new[key] != old[key]:
            logging.info("%s was %s and is %s from here on", key, old[key], new[key])
    if words:
        raise runtime.BadInput(f"this workdir holds another run: {'; '.join(words[:3])}; choose another --workdir")
