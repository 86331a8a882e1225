"""What the controls of the avatars page say, as a value: from and to a permalink, a recipe, a job."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.datasets.spec import unseen_pairs
from ddpm_jax.labels import Categorical, LabelSpace

MAX_TEXT = 2000  # characters of a label in a permalink
CHOICES = {
    "which": ("ema", "raw"),
    "sampler": ("ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "heun", "euler_ancestral"),
    "times": ("linear", "quadratic", "trailing", "log_snr", "karras"),
    "words": ("net", "prior"),
}
RANGES: dict[str, tuple[float, float]] = {
    "n": (1, 16),
    "seed": (0, 2**32 - 1),
    "pick": (0, 15),
    "steps": (1, 100),
    "guidance": (0, 10),
}


class Controls(NamedTuple):
    """Everything that says which picture is made: of a model, a label, and how. `pick` is the variation chosen."""

    model: str = ""
    which: str = "ema"
    label: str = "any"
    complete: bool = False
    n: int = 4
    seed: int = 0
    pick: int = 0
    sampler: str = "ddim"
    times: str = "linear"
    words: str = "net"
    steps: int = 10
    guidance: float = 1.0
    snap: bool = False


def starting(model: str, sampling: Mapping[str, Any]) -> Controls:
    """Return the controls of a model at first: its own sampling settings, within what the page offers."""
    steps = int(min(max(sampling["steps"], 1), RANGES["steps"][1]))
    given = {key: sampling[key] for key in ("sampler", "times", "words") if sampling.get(key) in CHOICES[key]}
    return Controls(model=model, steps=steps, guidance=float(min(sampling["guidance"], 10.0)), **given)


def updated(start: Controls, given: Mapping[str, Any], space: LabelSpace) -> tuple[Controls, list[str]]:
    """Return the controls with what texts or JSON values say, and a sentence for each that is not one of theirs.

    `given` comes from an address or a file, that is, from anyone: unknown keys are passed over, values are checked.
    """
    values, problems = {}, []
    for key in given.keys() & set(Controls._fields):
        try:
            values[key] = _value(key, given[key], getattr(start, key), space)
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(str(error)[:200])
    made = start._replace(**values)
    return made._replace(pick=min(made.pick, made.n - 1)), problems


def to_query(now: Controls, start: Controls, step: int) -> dict[str, str]:
    """Return what a permalink says: the model, its step, and all that differs from how the page starts with it."""
    differing = {key: value for key, value in now._asdict().items() if value != getattr(start, key)}
    texts = {key: str(int(value) if isinstance(value, bool) else value) for key, value in differing.items()}
    return {"model": now.model, "checkpoint": str(step), **texts}


def job(now: Controls, kind: str = "sheet", *, pick: bool = False) -> dict[str, Any]:
    """Return the job of the controls: n variations, or with `pick` the chosen one of them; of another kind, its start.

    `words` says what decides open words of a sheet. Those of an edited picture it says itself, cells of a grid share
    their noise instead, and guidance leads away from what a label leaves open: there the net decides.
    """
    words = ("words",) if kind == "sheet" and now.guidance == 1 else ()
    made = {key: getattr(now, key) for key in ("label", "complete", "n", "seed", "snap", *SETTINGS, *words)}
    return {"kind": kind, **made, **({"pick": now.pick} if pick else {})}


def surprise(space: LabelSpace, pairs: str, keep: Mapping[str, int], seed: int) -> dict[str, int]:
    """Return random words that training saw together, as word -> 1, and the words to keep as they are."""
    chance, made = random.Random(seed), dict(keep)
    for place, group in enumerate(space.groups):
        taken = any(made.get(word, 0) > 0 for word in group.words)
        one = not taken and (place < 2 or chance.random() < 0.5)  # a face and a skin; the rest is dress
        wanted = int(one) if isinstance(group, Categorical) else chance.randint(1, 4)
        for word in chance.sample(group.words, len(group.words)):
            if wanted and word not in made and not unseen(space, pairs, {**made, word: 1}):
                made[word], wanted = 1, wanted - 1
    return made


def others(space: LabelSpace, shelves: Mapping[str, Mapping[str, Sequence[str]]], out: str | None) -> list[str]:
    """Return the words that can take a word's place, those of its shelf first; `shelves` are by group and title."""
    if out not in space.words:
        return []
    owner = space.owners[space.index(out)]
    near = [word for words in shelves.get(owner.name, {}).values() if out in words for word in words]
    return [word for word in dict.fromkeys([*near, *owner.words]) if word != out]


def portraits(space: LabelSpace, pairs: str) -> list[str]:
    """Return a label for each word that shows it best: the word alone, on the first face that training saw it on."""
    faces = [group for group in space.groups if isinstance(group, Categorical)]
    found = []
    for word, owner in zip(space.words, space.owners, strict=True):
        said = {word: 1}
        for group in faces[:2]:
            if group is not owner:
                fitting = (face for face in group.words if not unseen(space, pairs, {**said, face: 1}))
                said |= {face: 1 for face in list(fitting)[:1]}
        found.append(space.format(vector(space, said)))
    return found


def vector(space: LabelSpace, states: Mapping[str, int]) -> np.ndarray:
    """Return the label vector of word -> 1 or -1; of two present words of a Categorical the later one counts."""
    said = np.zeros(space.size, np.int8)
    for word, state in states.items():
        if word in space.words:
            place = space.words.index(word)
            said[space.rivals[place] & (said > 0) & (state > 0)] = 0
            said[place] = np.sign(state)
    return space.parse(said)


def states(space: LabelSpace, label: str) -> dict[str, int]:
    """Return word -> 1 or -1 of a label's text, without what a present word of a Categorical implies."""
    said = space.parse(label)
    implied = ((said > 0)[:, None] & space.rivals).any(axis=0) & (said < 0)
    return {space.words[i]: int(said[i]) for i in np.flatnonzero((said != 0) & ~implied)}


def unseen(space: LabelSpace, pairs: str, states: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs of present words that training never saw together."""
    said = np.array([states.get(word, 0) for word in space.words], np.int8)
    return unseen_pairs(pairs, space, said)


def _value(key: str, given: Any, before: Any, space: LabelSpace) -> Any:
    """Return a value of the type that the key has. Raises ValueError with a sentence for the user."""
    text = str(given)[:MAX_TEXT]
    if key == "label":
        return space.format(space.parse(text))
    if key == "model":
        return text[:200]
    if key in CHOICES:
        if text not in CHOICES[key]:
            raise ValueError(f"{key} is {text[:30]!r}; choose one of {', '.join(CHOICES[key])}")
        return text
    if isinstance(before, bool):
        if text.lower() not in ("1", "true", "0", "false"):
            raise ValueError(f"{key} is {text[:30]!r}; give 1 or 0")
        return text.lower() in ("1", "true")
    try:
        number = type(before)(text)
    except ValueError:
        kind = "a whole number" if isinstance(before, int) else "a number"
        raise ValueError(f"{key} is {text[:30]!r}; give {kind}") from None
    low, high = RANGES[key]
    if not low <= number <= high:
        raise ValueError(f"{key} is {text[:30]}; it must be from {low} to {high}")
    return number


SETTINGS = ("sampler", "times", "steps", "guidance")
