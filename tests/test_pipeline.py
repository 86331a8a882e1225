"""Facts about what a step sees: shuffles, shares of masks, and two storages with the same batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import devices, labels, masking, pipeline
from ddpm_jax.datasets import spec

SPACE = labels.LabelSpace((labels.Categorical("kind", ("Cat", "Dog", "Bird")), labels.Flags("has", ("Hat", "Pipe"))))
MASKS = pipeline.Masks(none=0.1, subset=0.3, favour=0.5)


def examples(n=50, seed=0):
    """Complete labels in which a hat is likelier on a cat and a pipe is rare."""
    rng = np.random.default_rng(seed)
    label = -np.ones((n, 5), np.int8)
    kind = rng.integers(0, 3, n)
    label[np.arange(n), kind] = 1
    label[rng.uniform(size=n) < np.where(kind == 0, 0.8, 0.2), 3] = 1
    label[rng.uniform(size=n) < 0.15, 4] = 1
    return label


def planner(label, batch_size, masks=MASKS, seed=0):
    """The compiled plan of a run: step -> (examples, labels)."""
    how = {"space": SPACE, "batch_size": batch_size, "masks": masks}
    return jax.jit(functools.partial(pipeline.plan, pipeline.tables(label), key=jax.random.key(seed), **how))


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000])
def test_every_epoch_is_a_permutation_of_its_own(n):
    index = jnp.arange(3 * n, dtype=jnp.uint32)
    order = jax.vmap(functools.partial(pipeline.shuffled, n=n, key=jax.random.key(0)))(index)
    epochs = np.asarray(order).reshape(3, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (3, 1)))
    if n >= 64:
        assert not (epochs[0] == epochs[1]).all() and np.abs(np.corrcoef(epochs[0], np.arange(n))[0, 1]) < 0.3


def test_the_shuffle_has_no_favourites():
    n, epochs = 7, 4000
    index = jnp.arange(epochs * n, dtype=jnp.uint32)
    order = np.asarray(jax.vmap(functools.partial(pipeline.shuffled, n=n, key=jax.random.key(1)))(index))
    first = np.bincount(order.reshape(epochs, n)[:, 0], minlength=n)
    assert ((first - epochs / n) ** 2 / (epochs / n)).sum() < 30  # chi-square, 6 degrees of freedom: p < 4e-5


def test_without_favour_each_epoch_shows_each_example_once():
    plan = planner(examples(48), 16, pipeline.Masks(0.1, 0.3, 0.0))
    seen = np.concatenate([plan(step=jnp.int32(step))[0] for step in range(3)])
    np.testing.assert_array_equal(np.sort(seen), np.arange(48))


def test_a_plan_depends_on_seed_and_step_alone():
    label = examples()
    one, two, other = planner(label, 16), planner(label, 16), planner(label, 16, seed=1)
    jax.tree.map(np.testing.assert_array_equal, one(step=jnp.int32(7)), two(step=jnp.int32(7)))
    assert not (one(step=jnp.int32(7))[0] == one(step=jnp.int32(8))[0]).all()
    assert not (one(step=jnp.int32(7))[0] == other(step=jnp.int32(7))[0]).all()


def test_shown_labels_never_contradict_the_example_and_have_the_asked_shares():
    label = examples()
    example, shown = planner(label, 20_000)(step=jnp.int32(0))
    example, shown = np.asarray(example), np.asarray(shown)
    assert ((shown == 0) | (shown == label[example])).all()
    full, none = (shown != 0).all(axis=1).mean(), (shown == 0).all(axis=1).mean()
    # a subset of five words may happen to be all of them (rate 1/6 of the half by rate, 1/6 more by the closure)
    assert 0.6 < full < 0.67 and 0.1 < none < 0.13


def test_what_is_hidden_has_its_exact_frequencies_given_what_is_shown():
    label = examples(50)
    example, shown = (np.asarray(part) for part in planner(label, 200_000)(step=jnp.int32(0)))
    for word, state, other in ((4, 1, 3), (3, 1, 0), (3, -1, 4), (0, 1, 3)):
        request = np.asarray(masking.reveal(SPACE, jnp.asarray(label[0] * 0 + state), jnp.arange(5) == word))
        chosen = example[(shown == request).all(axis=1)]
        expected = (label[label[:, word] == state, other] > 0).mean()
        error = np.sqrt(expected * (1 - expected) / len(chosen))
        assert len(chosen) > 500 and abs((label[chosen, other] > 0).mean() - expected) < 5 * error


def test_balanced_whole_labels_show_every_word_as_often_and_hide_nothing():
    label = examples(50)
    example, shown = planner(label, 20_000, pipeline.Masks(0.2, 0.0, 0.5, balance=1.0))(step=jnp.int32(0))
    example, shown = np.asarray(example), np.asarray(shown)
    whole = (shown != 0).all(axis=1)
    assert 0.78 < whole.mean() < 0.82 and (shown[whole] == label[example[whole]]).all() and not shown[~whole].any()
    # a word's share: 1/5 of the draws are for it, the others' examples have it or not
    word_of = [(label[np.flatnonzero(label[:, word] > 0)] > 0).mean(axis=0) for word in range(5)]
    np.testing.assert_allclose((label[example[whole]] > 0).mean(axis=0), np.mean(word_of, axis=0), atol=0.02)
    counts = np.bincount(example[~whole], minlength=50)  # what is shown without its label keeps its frequency
    assert counts.min() > 40 and counts.max() < 130


def dataset(images, label):
    """A data set that holds out every fifth image."""
    about = spec.Spec("made", images.shape[1:], SPACE)
    held = np.arange(len(label)) % 5 == 0
    return spec.dataset(about, images, label, ids=np.arange(len(label)), train=~held, heldout=held)


class Slow:
    """A `Source` that counts what it read."""

    def __init__(self, images):
        self.images, self.reads = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, positions):
        self.reads += 1
        return self.images[positions]


def test_streamed_batches_are_the_resident_ones():
    label = examples()
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    data = dataset(images, label)
    plan, split = planner(label[data.train], 8), devices.shard(devices.mesh())
    streamed = list(pipeline.stream(data, lambda step: plan(step=jnp.int32(step)), 3, 9, split))
    assert len(streamed) == 6
    resident = jnp.asarray(pipeline.resident(data))
    for step, batch in zip(range(3, 9), streamed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, pipeline.gather(resident, *plan(step=jnp.int32(step))))
        assert batch.data.sharding == split


def test_a_stream_reads_ahead_a_little_and_passes_errors_on():
    label = examples()
    source = Slow(np.zeros((50, 2, 2, 1), np.uint8))
    about = spec.Spec("made", (2, 2, 1), SPACE)
    data = spec.Dataset(about, source, label, np.arange(50), np.arange(50), np.arange(0), "")
    plan = planner(label, 4)
    stream = pipeline.stream(data, lambda step: plan(step=jnp.int32(step)), 0, 100, devices.shard(devices.mesh()))
    next(stream)
    assert source.reads <= (pipeline.AHEAD + 1) * jax.device_count()  # each device's part is a read
    source.images = None
    with pytest.raises(TypeError):
        list(stream)
    with pytest.raises(ValueError, match="'device' needs images in memory, made streams; use 'stream'"):
        pipeline.resident(data)
