"""Does a picture show what was asked for? Requests of a few words, and how often words occur, against the data."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8

from ddpm_jax.labels import LabelSpace

Labels = Int8[np.ndarray, "n words"]
MOST_WORDS = 3  # of a request
COMMON = 30  # times that a word must be expected for its ratio to say something


def requests(labels: Labels, space: LabelSpace, n: int, seed: int = 0) -> Labels:
    """Return n open labels: of a real one each 1 to 3 words, picked by identity, at least one of them present.

    `labels` are complete. Words are drawn anew until one is present, so that every request asks for something.
    """
    rng = np.random.default_rng(seed)
    able = np.flatnonzero((labels > 0).any(axis=1))
    if not able.size:
        raise ValueError("no label has a word that is present; there is nothing to ask for")
    return np.stack([_request(labels[i], space, rng) for i in rng.choice(able, n)])


def _request(label: np.ndarray, space: LabelSpace, rng: np.random.Generator) -> np.ndarray:
    while True:
        words = rng.choice(space.size, min(rng.integers(1, MOST_WORDS + 1), space.size), replace=False)
        if (label[words] > 0).any():
            asked = np.zeros_like(label)
            asked[words] = label[words]
            return space.parse(asked)


def never_seen(labels: Labels, space: LabelSpace, n: int, seed: int = 0) -> Labels:
    """Return up to n open labels of two words that occur, but never together; at least one is of a group of flags.

    (Two words of categorical groups exclude each other, as two types do, or by nature, as a zombie and a skin do.)
    """
    present = (labels > 0).astype(np.float32)
    flag = ~space.exclusive
    occurs, together = present.any(axis=0), present.T @ present
    possible = (together == 0) & np.logical_and.outer(occurs, occurs) & np.logical_or.outer(flag, flag)
    pairs = np.argwhere(np.triu(possible, 1))
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:n]
    asked = np.zeros((len(chosen), space.size), np.int8)
    np.put_along_axis(asked, pairs[chosen], 1, axis=1)
    return np.stack([space.parse(one) for one in asked]) if len(asked) else asked


def obeyed(asked: Labels, read: Labels) -> Bool[np.ndarray, " n"]:
    """Say which pictures show all that was asked: `read` [n, words] agrees wherever `asked` is not 0."""
    if asked.shape != read.shape:
        raise ValueError(f"labels asked {list(asked.shape)} and read {list(read.shape)} are not of one shape")
    return ((asked == 0) | (asked == read)).all(axis=1)


def differences(space: LabelSpace, asked: np.ndarray, read: np.ndarray) -> list[str]:
    """Return what a picture lacks ("no Pipe") or has too much ("Mohawk"), by two labels [words], one of them asked."""
    lacking = [f"no {space.words[i]}" for i in np.flatnonzero((asked > 0) & (read < 0))]
    return lacking + [space.words[i] for i in np.flatnonzero((asked < 0) & (read > 0))]


class Coverage(NamedTuple):
    """How often words occur in n pictures against the data.

    worst: the largest factor, above 1, by which a word expected `COMMON` times or more is too frequent or too rare (one
    that never occurs counts as half a time), of the word `worst_word`. recall: the share of the `rare` rarer words that
    occur at all. ratios: found / expected of every common word.
    """

    worst: float
    worst_word: str
    recall: float
    rare: int
    ratios: dict[str, float]


def coverage(read: Labels, real: Labels, space: LabelSpace) -> Coverage:
    """Compare the words read off pictures with the complete labels of the data."""
    expected = (real > 0).mean(axis=0) * len(read)
    found = (read > 0).sum(axis=0)
    common, rare = expected >= COMMON, (expected > 0) & (expected < COMMON)
    ratios = {space.words[i]: float(max(found[i], 0.5) / expected[i]) for i in np.flatnonzero(common).tolist()}
    factors = {word: max(ratio, 1 / ratio) for word, ratio in ratios.items()}
    word = max(factors, key=factors.__getitem__, default="")
    recall = float((found[rare] > 0).mean()) if rare.any() else 1.0
    return Coverage(factors.get(word, 1.0), word, recall, int(rare.sum()), ratios)
