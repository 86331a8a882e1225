"""The state of a training run: arrays only, so that it can be jitted, sharded, saved and compared bit for bit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from ddpm_jax.labels import LabelSpace

LAYERS = "word_layers"  # the module of a net that paints complete labels
MOTIFS = "motifs"  # beside a net's modules: what paints motifs (see motifs.py), which no step changes either
PRIOR = "word_prior"  # beside a net's modules: what completes labels (see prior.py), which no step changes
# Arrays whose first axis is words, or so many states of all words one after another (see nets/words.py, nets/unet.py).
BY_WORD = {"word_maps/present": 1, "word_maps/absent": 1, "label_in/kernel": 2}
_WORD_LAYERS = ("maps", "heights", "order", "opacity", "opacity_everywhere", "word_colours", "tones")
BY_WORD |= {f"{LAYERS}/{name}": 1 for name in _WORD_LAYERS}
BY_GROUND = f"{LAYERS}/tones"  # of the words of Categoricals alone


class TrainState(NamedTuple):
    """Everything that a resume needs; keys and the order of the data follow from `step` and the run's seed.

    `step` counts batches (data and keys), `updates` those that changed the parameters, `bad` the non-finite ones in a
    row that were skipped just now. `total` is the number of steps of the whole run, the horizon of the learning rate.
    `early` is what `ema` was after the optimizer's `early` updates (until then, what it is), for guidance to lead away
    from; None where none is kept.
    """

    step: Int[Array, ""]
    updates: Int[Array, ""]
    bad: Int[Array, ""]
    total: Int[Array, ""]
    params: Any
    ema: Any
    opt_state: Any
    early: Any = None


def init(
    params: Any, optimizer: optax.GradientTransformation, total: int | Int[Array, ""], *, early: bool = False
) -> TrainState:
    """Return the state before the first step; with `early` it keeps early averages."""
    zero, opt_state = jnp.zeros((), jnp.int32), optimizer.init(params)
    # Copies, because the step donates the state and no buffer may be donated twice.
    ema, kept = (jax.tree.map(jnp.copy, tree) for tree in (params, params if early else None))
    return TrainState(zero, zero, zero, jnp.asarray(total, jnp.int32), params, ema, opt_state, kept)


def transplant(new: Any, old: Any, new_space: LabelSpace, old_space: LabelSpace) -> tuple[Any, list[str]]:
    """Return the parameters `new` with the values of `old` where name and shape agree, and what stayed fresh.

    Arrays with an axis of words (`BY_WORD`; of `BY_GROUND` those of Categoricals alone) take the rows of the words that
    both know; the others' stay fresh.
    """
    known, fresh = _by_name(old), []

    def graft(path: Any, value: Any) -> np.ndarray:
        name, value = _name(path), np.array(value)
        other = np.asarray(known.get(name, np.zeros(0)))
        states = next((states for end, states in BY_WORD.items() if name.endswith(end)), 0)
        ground = name.endswith(BY_GROUND)
        here, there = (
            [word for word, of_one in zip(space.words, space.exclusive, strict=True) if of_one or not ground]
            for space in (new_space, old_space)
        )
        if states and other.ndim == value.ndim and other.shape[1:] == value.shape[1:]:
            rows = value.reshape(states, len(here), -1)  # a view
            source = other.reshape(states, len(there), -1)
            for i, word in enumerate(here):
                if word in there:
                    rows[:, i] = source[:, there.index(word)]
                else:
                    fresh.append(f"{name}[{word}]")
        elif not states and other.shape == value.shape:
            return other
        else:
            fresh.append(name)
        return value

    return jax.tree_util.tree_map_with_path(graft, new), fresh


def within(path: Any, module: str) -> bool:
    """Say whether a path into a tree of parameters leads into a module, such as `LAYERS`, or one of its arrays."""
    return f"/{module}/" in f"/{_name(path)}/"


def _by_name(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
