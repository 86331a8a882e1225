"""The verifier: a picture is legal if what a classifier reads off it, drawn exactly, is that very picture.

It can be wrong in one direction alone: a misread picture is called illegal, but what it calls legal is a picture that
the exact renderer makes of some label.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, UInt8

from ddpm_jax.labels import Categorical, LabelSpace

Pictures = UInt8[np.ndarray, "n h w c"]
LEAST_MATCH = 0.05  # of a word's pixels with the wrong ones, for it to be blamed
Read = Callable[[np.ndarray], np.ndarray]  # pictures [n, h, w, c] -> complete labels [n, words]
Render = Callable[[np.ndarray], np.ndarray]  # complete labels [n, words] -> pictures [n, h, w, c]


class Verdict(NamedTuple):
    """Of n pictures: the label read off each, the picture of that label, and whether it is the same."""

    label: Int8[np.ndarray, "n words"]
    ideal: Pictures
    legal: Bool[np.ndarray, " n"]


def verify(read: Read, render: Render, pictures: Pictures) -> Verdict:
    """Return the verdict on pictures; every pixel must agree."""
    label = read(pictures)
    ideal = render(label)
    return Verdict(label, ideal, (ideal == pictures).all(axis=(1, 2, 3)))


def damaged(pictures: Pictures, palette: UInt8[np.ndarray, "k c"], seed: int = 0, most: int = 3) -> Pictures:
    """Return the pictures with 1 to `most` random pixels each of another colour of the palette."""
    rng, out = np.random.default_rng(seed), pictures.copy()
    for picture in out:
        flat = picture.reshape(-1, picture.shape[-1])  # a view
        for at in rng.choice(len(flat), rng.integers(1, most + 1), replace=False):
            others = palette[(palette != flat[at]).any(axis=1)]
            flat[at] = others[rng.integers(len(others))]
    return out


def blame(render: Render, space: LabelSpace, label: np.ndarray, wrong: Bool[np.ndarray, "h w"]) -> str:
    """Return the present word of a complete label [words] whose pixels best match the wrong ones; "" if none matches.

    A word's pixels are those that change when it is absent, or another of its Categorical; the match is the
    intersection with the wrong pixels over the union.
    """
    others = [(word, other) for word in np.flatnonzero(label > 0).tolist() for other in _without(space, label, word)]
    if not others or not wrong.any():
        return ""
    pictures = render(np.stack([label, *(other for _, other in others)]))
    changes = (pictures[1:] != pictures[:1]).any(axis=-1)
    match = (changes & wrong).sum(axis=(1, 2)) / np.maximum((changes | wrong).sum(axis=(1, 2)), 1)
    return space.words[others[match.argmax()][0]] if match.max() >= LEAST_MATCH else ""


def _without(space: LabelSpace, label: np.ndarray, word: int) -> list[np.ndarray]:
    """Return the complete labels that differ in one word: absent if a flag, else each of its rivals instead."""
    group, without = space.owners[word], label.copy()
    without[word] = -1
    if not isinstance(group, Categorical):
        return [without]
    rivals = np.flatnonzero(space.rivals[word])
    swapped = [without.copy() for _ in rivals]
    for other, rival in zip(swapped, rivals, strict=True):
        other[rival] = 1
    return swapped
