"""Labels in three states: words people write on one side, int8 vectors that nets read on the other.

A vector has one entry a word: +1 the word is present, -1 it is absent, 0 nothing is said about it, so that "any hat"
differs from "no hat".
"""

import dataclasses
import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Label = str | Mapping[str, Any] | np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Categorical:
    """A group of words of which at most one is present: naming one says that the others are absent."""

    # A NamedTuple would compare equal to Flags of the same words, and jit would then mix up their compiled functions.
    name: str
    words: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Flags:
    """A group of words of which any number may be present."""

    name: str
    words: tuple[str, ...]


Group = Categorical | Flags


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The words of a data set, in groups; hashable, so it may be a static argument under jit.

    `LabelSpace()` has no words: an unconditional data set. Words are unique in the whole space, whatever their case.
    """

    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        """Make lists tuples, so that the space hashes, and check the names."""
        object.__setattr__(self, "groups", tuple(type(group)(group.name, tuple(group.words)) for group in self.groups))
        _check_unique("group", [group.name for group in self.groups])
        _check_unique("word", self.words)

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """All words, group after group: entry i of a vector speaks of `words[i]`."""
        return tuple(word for group in self.groups for word in group.words)

    @property
    def size(self) -> int:
        """The number of words, which is the length of a vector."""
        return len(self.words)

    @functools.cached_property
    def owners(self) -> tuple[Group, ...]:
        """The group of each word."""
        return tuple(group for group in self.groups for _ in group.words)

    @functools.cached_property
    def exclusive(self) -> np.ndarray:
        """Bool [size]: the words of Categoricals."""
        return np.array([isinstance(group, Categorical) for group in self.owners], bool)

    @functools.cached_property
    def rivals(self) -> np.ndarray:
        """Bool [size, size]: word i present implies word j absent, the two being of one Categorical."""
        rivals = [[a is b and isinstance(a, Categorical) for b in self.owners] for a in self.owners]
        return np.array(rivals, bool) & ~np.eye(self.size, dtype=bool)

    @functools.cached_property
    def together(self) -> np.ndarray:
        """Bool [size, size]: word i and word j are the same, or of one Categorical: what decides one decides both."""
        return self.rivals | np.eye(self.size, dtype=bool)

    def index(self, word: str, group: Group | None = None) -> int:
        """Return the position of a word, of the given group if there is one, in the vector; case does not matter."""
        allowed = group.words if group else self.words
        place = next((i for i, known in enumerate(self.words) if known.casefold() == word.casefold()), -1)
        if place >= 0 and self.words[place] in allowed:
            return place
        near = _nearest(word, allowed)
        group = group or (self.owners[self.words.index(near[0])] if near else None)
        problem = f"unknown {_singular(group.name) if group else 'word'} {word!r}"
        if place >= 0:
            raise ValueError(f"{problem}; it is a word of the group {self.owners[place].name!r}")
        known = f"the words are {_listed(allowed)}" if allowed else "there are no words to ask for"
        hint = f"did you mean {_listed(near)}?" if near else known
        raise ValueError(f"{problem}; {hint}")

    def group(self, name: str) -> Group:
        """Return the group of a name."""
        found = [group for group in self.groups if group.name.casefold() == name.casefold()]
        if found:
            return found[0]
        raise ValueError(f"unknown group {name!r}; the groups are {_listed(group.name for group in self.groups)}")

    def slice_of(self, name: str) -> slice:
        """Return the positions of a group's words in the vector."""
        group = self.group(name)
        start = sum(len(before.words) for before in self.groups[: self.groups.index(group)])
        return slice(start, start + len(group.words))

    def parse(self, label: Label, *, complete: bool = False) -> np.ndarray:
        """Return the int8 vector [size] that a label means.

        A label is text ("Female, Mohawk, -Pipe"; "" and "any" add nothing), a dict from group to word or words
        ({"type": "Zombie", "accessories": ["Beanie", "-Pipe"]}), a vector, or None. Naming a word of a Categorical sets
        its others to -1. Words not named are 0, or -1 with `complete`. Unknown and contradicting words are errors.
        """
        if label is None or isinstance(label, str | Mapping):
            vector = _from_words(self, label or "")
        else:
            vector = _from_array(self, label)
        _check_exclusive(self, vector)
        absent = implied_absent(self, vector) | (complete & (vector == 0))
        return np.where(absent, -1, vector).astype(np.int8)

    def unspecified(self, vector: np.ndarray, words: Iterable[str]) -> np.ndarray:
        """Return the vector without a statement on some words; one present takes along what it says of its rivals."""
        vector = np.array(vector)
        for i in map(self.index, words):
            vector[self.rivals[i] & (vector[i] > 0)] = 0
            vector[i] = 0
        return vector

    def format(self, vector: np.ndarray, *, complete: bool = False) -> str:
        """Return the text of a vector: `parse(format(vector)) == vector`, and the same with `complete=True` in both.

        Absent words that a present one of their Categorical implies are left out; with `complete` all absent words are.
        """
        vector = self.parse(np.asarray(vector))
        if complete and (vector == 0).any():
            raise ValueError(f"the label is not complete: it leaves {self.words[vector.tolist().index(0)]!r} open")
        said = (vector > 0) | ((vector < 0) & ~implied_absent(self, vector) & (not complete))
        terms = ["-" * int(vector[i] < 0) + self.words[i] for i in np.flatnonzero(said)]
        return ", ".join(terms) or ("" if complete else "any")

    def to_json(self) -> list[dict[str, Any]]:
        """Return the space as JSON values; `from_json` is the inverse."""
        return [{"kind": type(group).__name__, "name": group.name, "words": list(group.words)} for group in self.groups]

    @classmethod
    def from_json(cls, groups: list[dict[str, Any]]) -> "LabelSpace":
        """Return the space that `to_json` wrote."""
        for group in groups:
            if group.get("kind") not in KINDS:
                raise ValueError(f"unknown kind of group {group.get('kind')!r}; the kinds are {_listed(KINDS)}")
        return cls(tuple(KINDS[group["kind"]](group["name"], tuple(group["words"])) for group in groups))


def motifs(count: int) -> LabelSpace:
    """Return the words by which motifs go (see motifs.py): "motif 1" and so on."""
    return LabelSpace((Flags("motifs", tuple(f"motif {i + 1}" for i in range(count))),))


def implied_absent(space: LabelSpace, vector: Any) -> Any:
    """Say which words are absent because another of their Categorical is present: bool [size], NumPy or jax."""
    return ((vector > 0)[:, None] & space.rivals).any(axis=0)


def _from_words(space: LabelSpace, label: str | Mapping[str, Any]) -> np.ndarray:
    """Turn words into a vector; a leading minus sign says absent."""
    vector = np.zeros(space.size, np.int8)
    for term, group in _terms(space, label):
        state, word = -1 if term.startswith("-") else 1, term.removeprefix("-").strip()
        if not word:
            raise ValueError("a minus sign needs a word after it, the one to be absent")
        index = space.index(word, group)
        if vector[index] == -state:
            raise ValueError(f"the label asks for {space.words[index]!r} and for its absence; keep one of the two")
        vector[index] = state
    return vector


def _from_array(space: LabelSpace, label: Any) -> np.ndarray:
    """Check a vector that somebody else made, and copy it."""
    vector = np.asarray(label)
    if vector.dtype.kind not in "biuf":
        raise ValueError(f"a label is text, a dict of groups, a vector or None, not {type(label).__name__}")
    if vector.shape != (space.size,):
        raise ValueError(f"a label vector of shape {vector.shape} does not fit {space.size} words; give [{space.size}]")
    for wrong in vector[~np.isin(vector, (-1, 0, 1))]:
        raise ValueError(f"a label vector holds {wrong}; its values are -1 (absent), 0 (unspecified) and 1 (present)")
    return vector.astype(np.int8)


def _terms(space: LabelSpace, label: str | Mapping[str, Any]) -> Iterable[tuple[str, Group | None]]:
    """Yield the words of a label, each with the one group it must come from where the label says so."""
    for name, value in label.items() if isinstance(label, Mapping) else [("", label)]:
        group = space.group(str(name)) if isinstance(label, Mapping) else None
        words = [value] if isinstance(value, str | int | np.integer) else value or ()
        terms = [term.strip() for word in words for term in str(word).split(",") if term.strip()]
        yield from ((term, group) for term in terms if term.casefold() != "any")


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the 3 known words most like this one, the best first; what is longer than it does not count."""

    def likeness(other: str) -> tuple[float, int, str]:
        start = other.casefold()[: len(word)]
        return difflib.SequenceMatcher(None, word.casefold(), start).ratio(), -len(other), other

    return [other for other in sorted(known, key=likeness, reverse=True)[:3] if likeness(other)[0] >= 0.5]


def _check_exclusive(space: LabelSpace, vector: np.ndarray) -> None:
    """Refuse two present words of one Categorical."""
    clash = np.flatnonzero((vector > 0) & implied_absent(space, vector))
    if clash.size:
        one, two = (space.words[i] for i in clash[:2])
        noun = _singular(space.owners[clash[0]].name)
        raise ValueError(f"the label asks for {one!r} and {two!r}, but a picture has one {noun}; keep one of the two")


def _check_unique(noun: str, names: Iterable[str]) -> None:
    """Refuse names that text could not carry, and names used twice."""
    seen = set()
    for name in names:
        if not name or name != name.strip() or "," in name or name.startswith("-") or name.casefold() == "any":
            raise ValueError(f"{noun} {name!r} cannot stand in a label; avoid ',', outer spaces, a first '-' and 'any'")
        if name.casefold() in seen:
            raise ValueError(f"{noun} {name!r} occurs twice; give each {noun} its own name")
        seen.add(name.casefold())


def _singular(name: str) -> str:
    """Return an English group name in the singular: accessories -> accessory."""
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def _listed(names: Iterable[str]) -> str:
    """Join names for an error message, at most a dozen of them."""
    names = list(names)
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "(there are none)"


KINDS = {"Categorical": Categorical, "Flags": Flags}
