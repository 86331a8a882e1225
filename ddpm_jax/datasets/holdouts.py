"""Which images are held out where `holdout` is no split's name: a text file of ids."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def listed(path: str, positions: Mapping[str, int], count: int, *, names: Sequence[str], what: str) -> np.ndarray:
    """The bool mask [count] of the images whose ids the text file `path` lists, one a line; "" lists none.

    Empty lines and lines that start with # are skipped. `positions` maps each id, as text, to its position. For errors:
    `names` are the splits that `holdout` may name instead, `what` says what an id is.
    """
    mask = np.zeros(count, bool)
    if path and not Path(path).is_file():
        raise unknown(path, names)
    lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if word and not word.startswith("#"):
            if word not in positions:
                raise ValueError(f"{path} line {number}: {word!r} is not {what}")
            mask[positions[word]] = True
    return mask


def unknown(name: str, names: Sequence[str]) -> ValueError:
    """The error for a `holdout` that is neither one of `names` nor a file."""
    nearest = difflib.get_close_matches(name, names, n=2, cutoff=0.4) or list(names)
    hint = f"did you mean {' or '.join(nearest)}? Or give" if names else "give"
    return ValueError(f"unknown holdout {name!r}; {hint} a text file of ids, one a line")
