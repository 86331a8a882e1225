import itertools

import jax
import numpy as np
import pytest
from test_labels import SPACE

from ddpm_jax import masking


def masks(mask, count, *words):
    """Masks bool [count, w] of as many keys, and of further arguments [count]."""
    return np.asarray(jax.jit(jax.vmap(mask))(jax.random.split(jax.random.key(0), count), *words))


def within(share, expected, count, sigmas=4.5):
    assert np.all(np.abs(share - expected) <= sigmas * np.sqrt(expected * (1 - expected) / count))


def test_reveal_shows_what_is_kept_and_what_that_implies():
    label = SPACE.parse("Zombie, Pipe", complete=True)
    shown = jax.jit(masking.reveal, static_argnums=0)

    def kept(*words):
        return np.asarray(shown(SPACE, label, np.isin(SPACE.words, words)))

    np.testing.assert_array_equal(kept("Zombie"), SPACE.parse("Zombie"))
    np.testing.assert_array_equal(kept("Male"), SPACE.parse("-Male"))
    np.testing.assert_array_equal(kept("Male", "Female"), SPACE.parse("-Male, -Female"))
    np.testing.assert_array_equal(kept("Pipe", "Smile", "Dark"), SPACE.parse("Pipe, -Smile, -Dark"))
    np.testing.assert_array_equal(kept(), np.zeros(10))
    np.testing.assert_array_equal(kept(*SPACE.words), label)
    assert kept("Pipe").dtype == np.int8


def test_reveal_depends_on_the_kept_values_alone():
    every = np.array(list(itertools.product((-1, 1), repeat=10)), np.int8)
    legal = every[~(((every > 0) @ SPACE.rivals) & (every > 0)).any(axis=1)]
    assert len(legal) == 4 * 3 * 2**5
    for keep in np.random.default_rng(0).random((8, 10)) < 0.5:
        shown = np.asarray(jax.vmap(lambda label, keep=keep: masking.reveal(SPACE, label, keep))(legal))
        kept_values = {label.tobytes() for label in legal[:, keep]}
        assert len({row.tobytes() for row in np.concatenate([legal[:, keep], shown], axis=1)}) == len(kept_values)


def test_subset_masks_keep_each_word_alike_and_as_many_as_documented():
    width, count = 10, 20_000
    keep = masks(lambda key: masking.subset(key, width), count)
    # Of a random rate each count from 0 to width is equally likely: the integral of the binomial is 1 / (width + 1).
    expected = np.full(width + 1, 0.5 / (width + 1)) + np.where(np.isin(np.arange(width + 1), (1, 2, 3)), 0.5 / 3, 0)
    within(np.bincount(keep.sum(axis=1), minlength=width + 1) / count, expected, count)
    within(keep.mean(axis=0), np.full(width, expected @ np.arange(width + 1) / width), count)
    pairs = keep[keep.sum(axis=1) == 2]
    together = np.array([np.mean(pairs[:, a] & pairs[:, b]) for a, b in itertools.combinations(range(width), 2)])
    within(together, np.full(45, 1 / 45), len(pairs))


def test_masks_with_a_first_word_keep_it_and_each_other_word_alike():
    width, count = 10, 20_000
    firsts = np.arange(count) % width
    keep = masks(lambda key, first: masking.subset_with(key, width, first), count, firsts)
    assert keep[np.arange(count), firsts].all()
    expected = np.concatenate([[0], np.full(width, 0.5 / width)])
    expected[1:4] += 0.5 / 3
    within(np.bincount(keep.sum(axis=1), minlength=width + 1) / count, expected, count)
    for first in (0, 7):
        others = np.delete(keep[firsts == first], first, axis=1)
        share = (expected @ np.arange(width + 1) - 1) / (width - 1)
        within(others.mean(axis=0), np.full(width - 1, share), len(others))


@pytest.mark.parametrize("size", [1, 2])
def test_small_spaces_have_masks_too(size):
    keep = masks(lambda key: masking.subset(key, size), 1000)
    assert keep.all(axis=1).any() and not keep.all()
    last = np.full(100, size - 1)
    assert masks(lambda key, first: masking.subset_with(key, size, first), 100, last)[:, size - 1].all()


def test_a_mask_is_a_function_of_its_key():
    once, again = (masks(lambda key: masking.subset(key, 27), 50) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert len({row.tobytes() for row in once}) > 45
