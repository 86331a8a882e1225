"""Requests say what the data allow, never-seen pairs were never seen, and coverage counts what is there."""

import numpy as np
import pytest

from ddpm_jax.evaluation import attributes
from ddpm_jax.labels import Categorical, Flags, LabelSpace

SPACE = LabelSpace((Categorical("type", ("Cat", "Dog", "Fox")), Flags("extras", ("Hat", "Pipe", "Scarf", "Bow"))))
TEXTS = ("Cat, Hat, Pipe", "Dog", "Dog, Hat, Scarf", "Fox, Pipe, Scarf", "Cat, Bow")
LABELS = np.stack([SPACE.parse(text, complete=True) for text in TEXTS])


def test_a_request_is_one_to_three_words_of_one_real_label_with_one_of_them_present():
    asked = attributes.requests(LABELS, SPACE, 500)
    assert asked.shape == (500, SPACE.size) and (asked > 0).any(axis=1).all()
    # each is what some label says, where it says anything
    assert ((asked[:, None] == 0) | (asked[:, None] == LABELS[None])).all(axis=2).any(axis=1).all()
    said = (asked[:, SPACE.slice_of("extras")] != 0).sum(axis=1)
    assert said.max() == 3 and (asked < 0).any()
    np.testing.assert_array_equal(asked, attributes.requests(LABELS, SPACE, 500))
    assert (asked != attributes.requests(LABELS, SPACE, 500, seed=1)).any()


def test_words_are_picked_by_identity_not_by_being_present():
    """Of requests for one flag and no more the share that any flag is asked present follows its frequency."""
    space = LabelSpace((Flags("extras", ("A", "B")),))
    labels = np.array([[1, -1]] * 90 + [[1, 1]] * 10, np.int8)
    asked = attributes.requests(labels, space, 4000)
    # of the labels with A alone a request of one word must name A; of the others A and B alike
    one = (asked != 0).sum(axis=1) == 1
    share = (asked[one, 1] > 0).mean()
    assert share == pytest.approx(10 / (90 * 0.5 + 10) / 2, abs=0.03)


def test_labels_without_a_present_word_ask_for_nothing():
    with pytest.raises(ValueError, match="no label has a word that is present"):
        attributes.requests(np.full((3, SPACE.size), -1, np.int8), SPACE, 5)


def test_never_seen_pairs_are_all_pairs_that_never_occur_and_only_possible_ones():
    asked = attributes.never_seen(LABELS, SPACE, 100)
    pairs = {tuple(SPACE.words[i] for i in np.flatnonzero(one > 0)) for one in asked}
    assert pairs == {
        ("Cat", "Scarf"),
        ("Dog", "Pipe"),
        ("Dog", "Bow"),
        ("Fox", "Hat"),
        ("Fox", "Bow"),
        ("Hat", "Bow"),
        ("Pipe", "Bow"),
        ("Scarf", "Bow"),
    }
    cat = next(one for one in asked if one[0] > 0)
    assert cat[:3].tolist() == [1, -1, -1]  # a type excludes the others, as in any label
    assert len(attributes.never_seen(LABELS, SPACE, 3)) == 3
    everything = np.concatenate([LABELS, asked])
    assert len(attributes.never_seen(everything, SPACE, 100)) == 0


def test_what_is_not_asked_does_not_matter():
    asked = np.stack([SPACE.parse("Cat, Hat, -Pipe"), SPACE.parse("Scarf"), SPACE.parse("")])
    read = np.stack([SPACE.parse(text, complete=True) for text in ("Cat, Hat, Bow", "Dog, Hat", "Fox")])
    assert attributes.obeyed(asked, read).tolist() == [True, False, True]
    assert attributes.differences(SPACE, SPACE.parse("Cat, Hat, -Pipe"), SPACE.parse("Dog, Pipe", complete=True)) == [
        "no Cat",
        "no Hat",
        "Dog",
        "Pipe",
    ]
    with pytest.raises(ValueError, match=r"labels asked \[3, 7\] and read \[2, 7\] are not of one shape"):
        attributes.obeyed(asked, read[:2])


def test_coverage_by_hand():
    real = np.full((100, SPACE.size), -1, np.int8)
    real[:50, 0] = 1  # Cat: half
    real[:40, 3] = 1  # Hat: 40 %
    real[0, 4] = real[1, 5] = 1  # Pipe and Scarf: rare
    read = np.full((100, SPACE.size), -1, np.int8)
    read[:25, 0] = 1
    read[:48, 3] = 1
    read[7, 4] = 1
    found = attributes.coverage(read, real, SPACE)
    assert found.ratios == pytest.approx({"Cat": 0.5, "Hat": 1.2})
    assert (found.worst, found.worst_word, found.recall, found.rare) == (2.0, "Cat", 0.5, 2)
    assert attributes.coverage(real, real, SPACE).worst == 1.0
    never = attributes.coverage(np.full_like(real, -1), real, SPACE)
    assert never.worst == 100.0 and never.recall == 0.0  # Cat is expected 50 times, and counts as half a time
