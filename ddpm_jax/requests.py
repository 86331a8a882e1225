"""What may be asked beside a label: sampler, evaluations, guidance; checked, completed and made into arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from ddpm_jax import edit, guidance, samplers, schedules
from ddpm_jax.guidance import Guidance
from ddpm_jax.labels import LabelSpace

MAX_WORDS = 4  # with weights of their own
WORDS = ("net", "prior")
# What says how predictions are mixed, where a way from one label to another has its own mix.
MIXED = ("words", "guidance", "interval", "autoguidance", "rescale", "weights", "compose")


class How(TypedDict, total=False):
    """How a picture is made; whatever is not given is the checkpoint's (`config.sampling`), or stands in `Settings`."""

    sampler: str  # a name of samplers.SAMPLERS
    steps: int  # net evaluations per picture, 1 to 1000; a guided one counts once
    times: str  # a name of schedules.GRIDS: how the times of the evaluations are spaced
    words: str  # what decides the words that a label leaves open: net, as it draws, or prior, before it does. Guidance
    # and weights lead away from what is open, so that with either net is meant; a picture that is edited says the rest
    eta: float  # noise of DDIM: 0 none, 1 as much as DDPM
    guidance: float  # within `interval`: 0 unconditional, 1 conditional, more exaggerates
    interval: tuple[float, float]  # the times between which guidance and autoguidance act; conditional outside
    autoguidance: float  # within `interval`, away from what a worse net says under the same label: the early one of the
    # checkpoint (`config.optimizer.early`), or one that was given; 1 not at all
    rescale: float  # 0 to 1: how far guided outputs are brought back to the spread that they have outside the interval
    weights: Mapping[str, float]  # words of the label (at most 4) and their own weights, instead of `guidance`
    compose: str  # full: a weight leads away from the label without its word, 0 not at all, the whole label always
    # counts; empty: the weighted words alone, from no label (approximate): 0 leaves a word out, 1 is conditional


class Settings(NamedTuple):
    """`How`, complete and checked; see there."""

    sampler: str
    steps: int
    guidance: float
    times: str = "linear"
    words: str = "net"
    eta: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    autoguidance: float = 1.0
    rescale: float = 0.0
    weights: Mapping[str, float] = {}
    compose: str = "full"


def settle(how: How, defaults: Mapping[str, Any]) -> Settings:
    """Return the settings that a request means. Raises ValueError for unknown names and numbers out of range."""
    given = {key: value for key, value in how.items() if value is not None}
    unknown = given.keys() - Settings._fields
    if unknown:
        raise ValueError(f"unknown setting {min(unknown)!r}; the settings are {', '.join(Settings._fields)}")
    asked = Settings(**{**defaults, **({"autoguidance": 1.0} if given.get("weights") else {}), **given})
    _check_name("sampler", asked.sampler, samplers.SAMPLERS)
    _check_name("times", asked.times, schedules.GRIDS)
    _check_name("words", asked.words, WORDS)
    _check_name("compose", asked.compose, ("full", "empty"))
    check_range("steps", asked.steps, 1, 1000)
    check_range("guidance", asked.guidance, 0, 100)
    check_range("autoguidance", asked.autoguidance, 0, 100)
    check_range("rescale", asked.rescale, 0, 1)
    check_range("eta", asked.eta, 0, 1)
    if asked.eta and asked.sampler != "ddim":
        raise ValueError(f"eta is ddim's; {asked.sampler} has none")
    if len(asked.interval) != 2 or not 0 <= asked.interval[0] < asked.interval[1] <= 1:
        raise ValueError(f"interval is {tuple(asked.interval)}; give two rising times from 0 to 1")
    if len(asked.weights) > MAX_WORDS:
        raise ValueError(f"weights names {len(asked.weights)} words; at most {MAX_WORDS} can have one of their own")
    for word, weight in asked.weights.items():
        check_range(f"the weight of {word}", weight, 0, 100)
    if asked.weights and asked.autoguidance != 1:
        raise ValueError("weights of words do not go with autoguidance; leave one of them out")
    if given.get("words") == "prior" and by_net(asked).words == "net":
        raise ValueError("words 'prior' leaves nothing open that guidance or weights could lead away from; use net")
    asked = by_net(asked)
    low, high = map(float, asked.interval)
    numbers = {"guidance": float(asked.guidance), "autoguidance": float(asked.autoguidance)}
    return asked._replace(interval=(low, high), **numbers)


def by_net(asked: Settings) -> Settings:
    """Return the settings with words of "net" where guidance or weights lead away from what a label leaves open."""
    guided = asked.guidance != 1 or asked.autoguidance != 1 or asked.weights
    return asked._replace(words="net") if guided else asked


def refuse(what: str, how: How, settings: Sequence[str]) -> None:
    """Raise ValueError for settings that are given and would be ignored."""
    if given := [key for key in settings if how.get(key) is not None]:
        raise ValueError(f"{what} takes no {given[0]}; leave it out")


def grid(asked: Settings, schedule: schedules.Schedule) -> schedules.Grid:
    """Return the times of a request, from 1 to 0."""
    return schedules.GRIDS[asked.times](asked.steps, schedule)


def rows(asked: Settings, schedule: schedules.Schedule, *, start: float = 1.0) -> samplers.Rows:
    """Return the sampler's table, from a time `start` in (0, 1], over as many steps as the evaluations pay for.

    That is one step each, but Heun's method takes two for most: one evaluation may stay unused.
    """
    options = {"eta": asked.eta} if asked.eta else {}

    def over(steps: int) -> samplers.Rows:
        times = edit.from_time(grid(asked._replace(steps=steps), schedule), start)
        return samplers.SAMPLERS[asked.sampler](schedule, times, **options)

    if asked.sampler != "heun":
        return over(asked.steps)
    most = over(asked.steps // 2 + 1)
    return most if len(most.t) <= asked.steps else over((asked.steps + 1) // 2)


def passes(asked: Settings) -> int:
    """Return how often one evaluation calls a net within the interval of guidance: once, and for all it leads from."""
    guided = len(asked.weights) or asked.guidance != 1
    return 1 + guided + (asked.autoguidance != 1)


def once(asked: Settings) -> Settings:
    """Return the settings of a single evaluation: all that is needed where a label says every pixel."""
    return asked._replace(sampler="ddim", eta=0.0, steps=1)


def guides(asked: Settings, space: LabelSpace, vectors: np.ndarray) -> Guidance:
    """Return the guidance of each picture, stacked, for label vectors [n, words].

    Weight 1 is the conditional net alone: one pass instead of two.
    """
    return stacked([guide(asked, space, vector) for vector in vectors])


def stacked(several: Sequence[Guidance]) -> Guidance:
    """Return one guidance with an axis for pictures."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *several)


def guide(asked: Settings, space: LabelSpace, vector: np.ndarray) -> Guidance:
    """Return the guidance of one picture, for a label vector [words]."""
    if asked.weights:
        made = _by_word(asked, space, vector)
    elif space.size == 0 or asked.guidance == 1.0:
        made = guidance.conditional(vector)
    else:
        made = guidance.classifier_free(vector, asked.guidance)
    if asked.autoguidance != 1.0:
        made = guidance.against(made, asked.autoguidance)
    rescale = np.float32(asked.rescale) if asked.rescale else None
    always = asked.interval == (0.0, 1.0) or len(made.weights) == 1
    interval = None if always else np.asarray(asked.interval, np.float32)
    return made._replace(interval=interval, rescale=rescale)


def _by_word(asked: Settings, space: LabelSpace, vector: np.ndarray) -> Guidance:
    """Return the guidance of words with weights of their own; those that the label leaves open are errors."""
    words, weights = list(asked.weights), list(asked.weights.values())
    for word in words:
        if not vector[space.index(word)]:
            raise ValueError(f"{word} has a weight but the label leaves it open; name it in the label")
    padding = MAX_WORDS - len(words)
    if asked.compose == "empty":
        if (rest := space.unspecified(vector, words)).any():
            word = space.words[int(np.flatnonzero(rest)[0])]
            raise ValueError(
                f"compose 'empty' knows the weighted words alone; give {word} a weight, too, or use 'full'"
            )
        alone = [np.where(space.unspecified(vector, [word]) != vector, vector, 0) for word in words]
        return guidance.composable(np.stack([*alone, *[vector] * padding]), [*weights, *[0.0] * padding])
    without = [space.unspecified(vector, [word]) for word in words]
    return guidance.composed(vector, np.stack([*without, *[vector] * padding]), [*weights, *[0.0] * padding])


def _check_name(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
