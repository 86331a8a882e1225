"""Avatars: a data set that its own code draws, with nothing to download: 24,000 of 158,400 pixel-art faces.

An image is an exact function of its label, and no two labels share an image: hats hide hair but never all of it, shades
hide eyes, a pipe lies over a beard; blush, stubble and the shadow of a hat take their colour from the skin. Humans and
elves have one of four skins; zombies, robots and cats have none. `render` draws any of the 158,400.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator

import numpy as np

from ddpm_jax.datasets import avatar_art as art
from ddpm_jax.datasets import holdouts
from ddpm_jax.datasets.spec import Dataset, Spec, dataset
from ddpm_jax.labels import Categorical, Flags, LabelSpace

LABELS = LabelSpace(
    (
        Categorical("kind", ("Human", "Elf", "Zombie", "Robot", "Cat")),
        Categorical("skin", ("Pale", "Tan", "Brown", "Dark")),
        Categorical("hair", ("Short Hair", "Long Hair", "Mohawk", "Curls")),
        Categorical("hat", ("Cap", "Beanie", "Crown", "Wizard Hat")),
        Categorical("beard", ("Stubble", "Beard")),
        Categorical("eyewear", ("Glasses", "Shades")),
        Flags("accessories", ("Blush", "Earring", "Eye Patch", "Pipe", "Scarf", "Smile")),
    )
)
WITH_SKIN = ("Human", "Elf")
PALETTE = np.array([list(bytes.fromhex(colour[1:])) for colour in art.COLOURS.values()], np.uint8)
SIZES = (16, 24)  # 24 shows the shoulders, 16 is the window around the face

COUNT = 24_000
# How much likelier a face becomes by a word, or by two words together. Nothing else decides what is in the data.
ODDS = {
    "Elf": 0.5, "Zombie": 1.6, "Robot": 1.6, "Cat": 1.6, "Cap": 0.3, "Beanie": 0.35, "Crown": 0.3, "Wizard Hat": 0.3,
    "Stubble": 0.35, "Beard": 0.3, "Glasses": 0.35, "Shades": 0.3, "Earring": 0.35, "Eye Patch": 0.1, "Pipe": 0.15,
    "Blush": 0.5, "Scarf": 0.4,
}  # fmt: skip
HABITS = {
    ("Beard", "Pipe"): 4.0, ("Eye Patch", "Earring"): 4.0, ("Elf", "Beard"): 0.4, ("Robot", "Short Hair"): 0.4,
    ("Cat", "Beard"): 0.4, ("Long Hair", "Crown"): 2.0, ("Cap", "Shades"): 2.0, ("Wizard Hat", "Beard"): 3.0,
}  # fmt: skip

TOGETHER = 10  # a pair of words counts from this many faces on
PAIRS = 4
SPLITS = ("iid", "pairs")


def load(*, size: int = 0, holdout: str = "", path: str = "", root: str = "data") -> Dataset:
    """24,000 avatars of 24 colours, ids 0 to 23999; `size` is 16 (the face, the default) or 24 (with shoulders).

    `holdout` is "iid" (id % 10 == 0: 2,400), "pairs" (see `heldout_pairs`), a text file of ids, or "" for none.
    """
    if path:
        raise ValueError(f"avatars takes no path, got {path!r}")
    labels, images = chosen(), drawn(size or SIZES[0])
    red, green, blue = PALETTE[0].tolist()
    spec = Spec("avatars", (*images.shape[1:], 3), LABELS, PALETTE, (red, green, blue), SPLITS)
    held = _heldout(holdout, labels)
    return dataset(spec, images, labels, ids=np.arange(COUNT), train=~held, heldout=held)


def render(labels: np.ndarray, size: int = SIZES[0]) -> np.ndarray:
    """The pictures of complete labels int8 [n, w]: palette indices, uint8 [n, size, size].

    A label that no face can have (two hats, an elf without a skin, an unspecified word) raises ValueError.
    """
    if size not in SIZES:
        raise ValueError(f"avatars has no size {size}; use 16, or 24 (with shoulders)")
    labels = np.asarray(labels)
    _check(labels)
    canvas = np.zeros((len(labels), size * size), np.uint8)
    for word, pixels, codes in _layers(size):
        wearers = np.flatnonzero(labels[:, word] > 0) if word >= 0 else np.arange(len(labels))
        place = np.ix_(wearers, pixels)
        below = canvas[place]
        shaded = np.where(below == _code("s"), _code("d"), below)
        canvas[place] = np.where(codes == _code(art.SHADOW), shaded, codes)
    for letter, tone in zip(art.SKIN, _tones(labels).T, strict=True):
        canvas = np.where(canvas == _code(letter), tone[:, None], canvas)
    return canvas.reshape(-1, size, size)


@functools.cache
def combinations() -> np.ndarray:
    """All complete labels that a face can have, int8 [158400, w], the last words varying fastest. Read-only."""
    kind, skin, *others = LABELS.groups
    options: list[list[tuple[str, ...]]] = [
        [(a, b) for a in kind.words for b in (skin.words if a in WITH_SKIN else [""])]
    ]
    for group in others:
        most = 1 if isinstance(group, Categorical) else len(group.words)
        options.append([some for count in range(most + 1) for some in itertools.combinations(group.words, count)])
    parts = [np.array([[word in some for word in LABELS.words] for some in option]) for option in options]
    index = np.indices([len(part) for part in parts]).reshape(len(parts), -1)
    present = functools.reduce(np.logical_or, [part[i] for part, i in zip(parts, index, strict=True)])
    labels = np.where(present, np.int8(1), np.int8(-1))
    labels.flags.writeable = False
    return labels


@functools.cache
def chosen() -> np.ndarray:
    """The complete labels of the data set, int8 [24000, w], in the order of their ids. Read-only.

    Combination i has a weight by `ODDS` and `HABITS` and a uniform u_i, a hash of i; the 24,000 smallest of
    -log(u_i) / weight_i are in (a weighted draw without replacement), in the order of another hash of i.
    """
    present = combinations() > 0
    weight = np.ones(len(present))
    for word, odds in ODDS.items():
        weight *= np.where(present[:, LABELS.index(word)], odds, 1.0)
    for (one, two), odds in HABITS.items():
        weight *= np.where(present[:, LABELS.index(one)] & present[:, LABELS.index(two)], odds, 1.0)
    number = np.arange(len(present), dtype=np.uint64)
    uniform = ((_hash(number, 1) >> np.uint64(11)) + 0.5) / 2.0**53
    first = np.argsort(-np.log(uniform) / weight, kind="stable")[:COUNT]
    labels = combinations()[first[np.argsort(_hash(number[first], 2), kind="stable")]]
    labels.flags.writeable = False
    return labels


@functools.cache
def drawn(size: int) -> np.ndarray:
    """The pictures of the data set, uint8 [24000, size, size], in the order of their ids. Read-only."""
    images = render(chosen(), size)
    images.flags.writeable = False
    return images


def heldout_pairs() -> list[tuple[str, str]]:
    """The 4 pairs of words that split `pairs` holds out: every face with both words of one is held out.

    Of all pairs a < b (ASCII order) of words other than kinds and skins that 10 faces or more have together, the first
    in the order of sha256("a|b") in hex.
    """
    words = sorted(word for group in LABELS.groups[2:] for word in group.words)
    has = {word: chosen()[:, LABELS.index(word)] > 0 for word in words}
    pairs = [pair for pair in itertools.combinations(words, 2) if (has[pair[0]] & has[pair[1]]).sum() >= TOGETHER]
    return sorted(pairs, key=lambda pair: hashlib.sha256("|".join(pair).encode()).hexdigest())[:PAIRS]


def possible(labels: np.ndarray) -> np.ndarray:
    """Say which complete labels int8 [n, words] a face can have: bool [n]; `render` refuses the others."""
    return ~np.any([wrong for _, wrong in _impossible(labels)], axis=0)


def _heldout(name: str, labels: np.ndarray) -> np.ndarray:
    """The bool mask [n] that a split's name or a file of ids holds out."""
    if name == "iid":
        return np.arange(COUNT) % 10 == 0
    if name == "pairs":
        both = [[LABELS.index(word) for word in pair] for pair in heldout_pairs()]
        return np.any(np.all(labels[:, both] > 0, axis=2), axis=1)
    ids = {str(i): i for i in range(COUNT)}
    return holdouts.listed(name, ids, COUNT, names=SPLITS, what=f"an id of an avatar (0 to {COUNT - 1})")


def _hash(number: np.ndarray, seed: int) -> np.ndarray:
    """Mix uint64 numbers into others that look random: SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = number * np.uint64(2) + np.uint64(seed)
    mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _check(labels: np.ndarray) -> None:
    """Refuse labels that are not complete, or that no face can have."""
    if labels.ndim != 2 or labels.shape[1] != LABELS.size:
        raise ValueError(f"labels of shape {labels.shape} are not avatars; give [n, {LABELS.size}]")
    if not np.isin(labels, (-1, 1)).all():
        row, word = np.argwhere(~np.isin(labels, (-1, 1)))[0]
        raise ValueError(f"label {row} leaves {LABELS.words[word]!r} open; a picture needs every word, -1 or 1")
    for group, wrong in _impossible(labels):
        for row in np.flatnonzero(wrong):
            words = ", ".join(LABELS.words[i] for i in np.flatnonzero(labels[row] > 0))
            count = np.sum(labels[row, LABELS.slice_of(group)] > 0)
            raise ValueError(f"label {row} ({words}) has {count} words of {group!r}; no face has that")


def _impossible(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group of which a face has one word or at most one, and which labels have another number of them."""
    has_skin = np.any(labels[:, [LABELS.index(kind) for kind in WITH_SKIN]] > 0, axis=1)
    for group in LABELS.groups:
        if isinstance(group, Categorical):
            count = np.sum(labels[:, LABELS.slice_of(group.name)] > 0, axis=1)
            least, most = {"kind": (1, 1), "skin": (has_skin, has_skin)}.get(group.name, (0, 1))
            yield group.name, (count < least) | (count > most)


def _tones(labels: np.ndarray) -> np.ndarray:
    """The colours of skin, shade and blush: palette indices, uint8 [n, 3]."""
    tones = np.zeros((len(labels), len(art.SKIN)), np.uint8)
    for word, letters in art.TONES.items():
        tones[labels[:, LABELS.index(word)] > 0] = [_code(letter) for letter in letters]
    return tones


@functools.cache
def _layers(size: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The sprites in painting order: word (-1: always), then positions and codes of the pixels that are painted."""
    sprites = _sprites()
    layers = []
    for name in art.LAYERS:
        sprite = sprites[name][art.WINDOW] if size == SIZES[0] else sprites[name]
        word = art.FOLLOWS.get(name, name)
        pixels = np.flatnonzero(sprite)
        layers.append((LABELS.index(word) if word else -1, pixels, sprite.ravel()[pixels]))
    return layers


def _sprites() -> dict[str, np.ndarray]:
    """The sheet as codes, uint8 [24, 24] a sprite; 0 paints nothing."""
    sprites = {}
    for band in art.SHEET.strip().split("\n\n"):
        header, *lines = band.splitlines()
        start, names = header.split(": ")
        rows = slice(int(start), int(start) + len(lines))
        for name, column in zip(names.split(", "), zip(*map(str.split, lines), strict=True), strict=True):
            sprites[name] = np.zeros((art.SIDE, art.SIDE), np.uint8)
            sprites[name][rows] = [[_code(letter) for letter in row] for row in column]
    return sprites


def _code(letter: str) -> int:
    """The number of a letter: a palette index, or one beyond the palette for skin, shade, blush and shadow."""
    return [*art.COLOURS, *art.SKIN, art.SHADOW].index(letter)
