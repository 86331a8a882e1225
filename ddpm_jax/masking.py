"""What a training example shows of its label: random masks that never depend on a value that they hide.

They pick words by identity. Keeping "a few of the present words" instead would tell the net, by what is missing, how
many there are.
"""

import jax
import jax.numpy as jnp

from ddpm_jax import labels


def reveal(space: labels.LabelSpace, label: jax.Array, keep: jax.Array) -> jax.Array:
    """Return the int8 vector [size] that shows the kept words of one label, and what these alone imply.

    A kept +1 of a Categorical sets the group's other words to -1. Pure; jit it with `space` static, vmap over the rest.
    """
    shown = jnp.where(keep, label, 0).astype(jnp.int8)
    return jnp.where(labels.implied_absent(space, shown), -1, shown).astype(jnp.int8)


def subset(key: jax.Array, size: int) -> jax.Array:
    """Return bool [size], the words to keep: half of the time 1, 2 or 3 of them, else each at one rate u ~ U(0, 1).

    Words are picked by identity alone. Any example may be masked so, provided it was drawn without regard to its label.
    """
    choice, order, each = jnp.split(jax.random.uniform(key, (3 + 2 * size,)), (3, 3 + size))
    return _first_or_rate(choice, order, each)


def subset_with(key: jax.Array, size: int, first: jax.Array | int) -> jax.Array:
    """Return bool [size] like `subset` that always keeps word `first`, counted among the 1, 2 or 3.

    For examples drawn because they have a word: draw the word, then uniformly an example in which it is +1, then keep
    that word and this mask's others. Without `first` kept, its presence would be hidden but not unknown.
    """
    choice, order, each = jnp.split(jax.random.uniform(key, (3 + 2 * size,)), (3, 3 + size))
    return _first_or_rate(choice, order.at[first].set(-1.0), each.at[first].set(-1.0))


def _first_or_rate(choice: jax.Array, order: jax.Array, each: jax.Array) -> jax.Array:
    """Keep the 1, 2 or 3 words of smallest order, or the words below a rate: bool [size], from uniform numbers."""
    rank = jnp.sum(order[:, None] > order[None, :], axis=1)
    return jnp.where(choice[0] < 0.5, rank <= 3 * choice[1], each < choice[2])
