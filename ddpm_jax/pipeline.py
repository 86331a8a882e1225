"""What a training step sees: `plan` says which images and how much of their labels, as a pure function of (seed, step).

No iterator state exists, so a resume needs none. Small sets lie on the device and are gathered inside the step; larger
ones are read ahead by a thread. Both follow the same plan, so both give the same batches.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Shaped

from ddpm_jax import labels, masking
from ddpm_jax.datasets.spec import Dataset, Source

Values = np.ndarray | Array  # on the host, or on the devices
Planner = Callable[[int], tuple[Array, Array]]  # step -> (examples [b], labels [b, words])
AHEAD = 3  # batches that a stream reads before they are asked for
ROUNDS = 4  # of the Feistel network; 4 make a permutation look random (Luby & Rackoff 1988)


class Masks(NamedTuple):
    """Shares of the examples that show nothing and some words of their label; the others show all of it.

    Of those that show some words, the share `favour` was drawn for one of the words present in it; of those that show
    all, the share `balance`.
    """

    none: float
    subset: float
    favour: float
    balance: float = 0.0


class Tables(NamedTuple):
    """The training labels and where each word occurs, as arrays: all that `plan` needs.

    `labels` is [n, words]; of the m words that occur at all, `words` [m] are their indices, and the examples with word
    i are `members[starts[i] : starts[i] + counts[i]]`.
    """

    labels: Values
    words: Values
    starts: Values
    counts: Values
    members: Values


class Batch(NamedTuple):
    """`data` is [b, h, w] palette indices or [b, h, w, c] values, uint8; `label` is int8 [b, words], three-state."""

    data: Array
    label: Array


def tables(label: np.ndarray) -> Tables:
    """Index the complete training labels, int8 [n, words]."""
    counts = (label > 0).sum(axis=0)
    words = np.flatnonzero(counts)
    members = np.concatenate([np.flatnonzero(label[:, word] > 0) for word in words] or [np.zeros(0, int)])
    starts = np.cumsum(counts[words]) - counts[words]
    as_int = functools.partial(np.asarray, dtype=np.int32)
    return Tables(label, as_int(words), as_int(starts), as_int(counts[words]), as_int(members))


def plan(
    table: Tables, step: Int[Array, ""], key: Key[Array, ""], *, space: labels.LabelSpace, batch_size: int, masks: Masks
) -> tuple[Int[Array, "b"], Int[Array, "b words"]]:
    """Return the examples of a step, each epoch showing each once in a new order, and what is shown of their labels.

    `key` is the run's own: the order of an epoch and the masks of a step are folded from it.
    """
    table = Tables(*map(jnp.asarray, table))
    order_key, mask_key = jax.random.split(key)
    n = table.labels.shape[0]
    index = jnp.uint32(step) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    shuffle = functools.partial(shuffled, n=n, key=order_key)
    example = jax.vmap(shuffle)(index)
    if not space.size:
        return example, jnp.zeros((batch_size, 0), jnp.int8)
    keys = jax.random.split(jax.random.fold_in(mask_key, step), batch_size)
    choose = functools.partial(_masked, table, space=space, masks=masks)
    return jax.vmap(choose)(example, keys)


def shuffled(index: Int[Array, ""], *, n: int, key: Key[Array, ""]) -> Int[Array, ""]:
    """Return the example at place `index` of an endless sequence of shuffles of n: index // n is the epoch.

    The shuffle is a Feistel network over the next power of four, walked until it lands below n (Black & Rogaway 2002,
    "Ciphers with arbitrary finite domains"): constant memory, whatever n is.
    """
    epoch, place = index // n, index % n
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low = jnp.uint32(2**half - 1)
    salts = jax.random.bits(jax.random.fold_in(key, epoch), (ROUNDS,), jnp.uint32)

    def network(value: Array) -> Array:
        left, right = value >> half, value & low
        for salt in salts:
            left, right = right, left ^ (_mix(right ^ salt) & low)
        return (left << half) | right

    return jax.lax.while_loop(lambda v: v >= n, network, network(jnp.uint32(place))).astype(jnp.int32)


def _mix(x: Array) -> Array:
    """Scramble 32 bits (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _masked(
    table: Tables, example: Array, key: Array, *, space: labels.LabelSpace, masks: Masks
) -> tuple[Array, Array]:
    """Return (example, its label as shown): all, none, some words, or another example drawn for a word it has."""
    kind_key, favour_key, word_key, member_key, subset_key = jax.random.split(key, 5)
    kind = jax.random.uniform(kind_key)
    share = jnp.select([kind < masks.subset, kind < masks.subset + masks.none], [masks.favour, 0.0], masks.balance)
    favour = jax.random.bernoulli(favour_key, share)
    i = jax.random.randint(word_key, (), 0, table.words.shape[0])
    member = table.members[table.starts[i] + jax.random.randint(member_key, (), 0, table.counts[i])]
    example = jnp.where(favour, member, example)
    some = masking.subset(subset_key, space.size)
    with_word = masking.subset_with(subset_key, space.size, table.words[i])
    keep = jnp.where(favour, with_word, some)
    keep = jnp.where(kind < masks.subset, keep, kind >= masks.subset + masks.none)
    return example, masking.reveal(space, table.labels[example], keep)


def gather(images: Shaped[Array, "n ..."], example: Int[Array, "b"], label: Int[Array, "b words"]) -> Batch:
    """Return the batch of a plan from images that lie on the device."""
    return Batch(images[example], label)


def stream(
    dataset: Dataset, planner: Planner, start: int, stop: int, sharding: jax.sharding.Sharding
) -> Iterator[Batch]:
    """Yield the batches of steps start..stop-1, read and moved to the devices by a thread, `AHEAD` of their use.

    `planner(step)` is the run's plan; images are read by position from the data set's array or `Source`. A process
    reads what its own devices get.
    """

    def read(step: int) -> Batch:
        example, label = (np.asarray(part) for part in planner(step))
        position = dataset.train[example]

        def images(index: tuple[slice, ...] | None) -> np.ndarray:
            return dataset.images[position[index[0] if index else slice(None)]]

        shape = (len(example), *dataset.spec.stored_shape)
        data = jax.make_array_from_callback(shape, sharding, images)
        return Batch(data, jax.make_array_from_callback(label.shape, sharding, label.__getitem__))

    with futures.ThreadPoolExecutor(1, "read-ahead") as pool:
        queue = collections.deque(pool.submit(read, step) for step in range(start, min(start + AHEAD, stop)))
        for step in range(start + AHEAD, stop + AHEAD):
            batch = queue.popleft().result()
            if step < stop:
                queue.append(pool.submit(read, step))
            yield batch


def resident(dataset: Dataset) -> np.ndarray:
    """Return the training images as one array, to be kept on the devices. Raises ValueError for a `Source`."""
    if isinstance(dataset.images, Source) and not isinstance(dataset.images, np.ndarray):
        raise ValueError(f"data.storage 'device' needs images in memory, {dataset.spec.name} streams; use 'stream'")
    return dataset.images[dataset.train]
