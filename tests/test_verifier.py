"""The verifier accepts what the exact renderer makes, and nothing else; it names what is wrong."""

import functools

import numpy as np
import pytest

from ddpm_jax.datasets import avatars
from ddpm_jax.evaluation import judge, verifier

SPACE, PALETTE = avatars.LABELS, avatars.PALETTE


render = functools.partial(judge._faces, (16, 16, 3))


@pytest.fixture(scope="module")
def labels():
    return avatars.chosen()[:200]


def test_a_right_reading_accepts_and_a_wrong_one_or_a_changed_pixel_does_not(labels):
    pictures = render(labels)
    verdict = verifier.verify(lambda _: labels, render, pictures)
    assert verdict.legal.all() and (verdict.ideal == pictures).all()
    misread = np.roll(labels, 1, axis=0)
    assert not verifier.verify(lambda _: misread, render, pictures).legal.any()
    pictures[3, 8, 8, 0] ^= 255
    assert np.flatnonzero(~verifier.verify(lambda _: labels, render, pictures).legal).tolist() == [3]


def test_damage_is_one_to_three_pixels_of_other_palette_colours(labels):
    pictures = render(labels)
    broken = verifier.damaged(pictures, PALETTE)
    changed = (broken != pictures).any(axis=-1)
    assert set(changed.sum(axis=(1, 2)).tolist()) == {1, 2, 3}
    known = {tuple(colour) for colour in PALETTE.tolist()}
    assert {tuple(colour) for colour in broken[changed].tolist()} <= known
    np.testing.assert_array_equal(broken, verifier.damaged(pictures, PALETTE))


@pytest.mark.parametrize("word", ["Pipe", "Scarf", "Glasses", "Mohawk", "Cat"])
def test_the_word_whose_pixels_are_wrong_is_blamed(word):
    base = "Cat, Pipe, Scarf, Glasses, Mohawk"
    label = SPACE.parse(base, complete=True)
    others = verifier._without(SPACE, label, SPACE.index(word))
    for other in others:
        wrong = (render(label[None]) != render(other[None]))[0].any(axis=-1)
        assert verifier.blame(render, SPACE, label, wrong) == word


def test_nobody_is_blamed_for_nothing_or_for_what_no_word_draws():
    label = SPACE.parse("Cat, Pipe", complete=True)
    assert verifier.blame(render, SPACE, label, np.zeros((16, 16), bool)) == ""
    sky = np.zeros((16, 16), bool)
    sky[0, 0] = True
    assert verifier.blame(render, SPACE, label, sky) == ""
