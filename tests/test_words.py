"""Figures of words, on judges and models that are made up so that the right answer is known."""

import dataclasses
import types

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import avatars
from ddpm_jax.evaluation import bench, judge, words
from ddpm_jax.labels import Categorical, Flags, LabelSpace

SPACE = LabelSpace((Categorical("type", ("Cat", "Dog")), Flags("extras", ("Beard", "Mole", "Hat"))))


def render(labels):
    """One row of pixels: type, beard, hat, and the mole, which a beard hides."""
    cat, _, beard, mole, hat = (labels > 0).T
    return np.stack([cat * 200, beard * 100, hat * 50, mole * 70 * ~beard], axis=1).astype(np.uint8)[:, None, :, None]


def reader_of(label):
    """A judge that reads one label off every picture."""
    data = types.SimpleNamespace(spec=types.SimpleNamespace(labels=SPACE))

    class Fixed(judge.Judge):
        def read(self, pictures):
            return np.repeat(SPACE.parse(label, complete=True)[None], len(pictures), axis=0)

    return Fixed(data, None, render, 0)


@pytest.mark.parametrize(
    ("shown", "read", "asked", "right"),
    [
        ("Cat, Hat", "Cat, Hat", "Cat, Hat, -Mole", True),
        ("Cat, Hat", "Cat, Hat", "Mole", False),
        ("Cat, Beard, Mole", "Cat, Beard", "Mole", True),  # hidden: the picture is that of what was asked
        ("Cat, Beard", "Cat, Beard, Mole", "-Mole", True),  # and the other way round
        ("Cat, Mole", "Cat", "Mole", True),  # misread, but drawn exactly
        ("Cat", "Dog", "Cat", False),  # a type is read or it is not
        ("Cat, Hat", "Dog", "Hat", False),  # the drawing of a dog with a hat is another picture
    ],
)
def test_what_a_beard_hides_is_neither_lacking_nor_too_much(shown, read, asked, right):
    picture = render(SPACE.parse(shown, complete=True)[None])
    found, labels = words.obeyed(reader_of(read), SPACE.parse(asked)[None], picture)
    assert found.tolist() == [right]
    assert (labels[0] == SPACE.parse(read, complete=True)).all()


def test_padding_is_cropped_and_must_be_background():
    faces = datasets.load("avatars", holdout="iid")
    own = faces.pixels(np.arange(3))
    wide = np.pad(own, ((0, 0), (4, 4), (4, 4), (0, 0)))
    border = np.ones((24, 24), bool)
    border[4:20, 4:20] = False
    wide[:, border] = faces.spec.background

    class Knowing(judge.Judge):
        def read(self, pictures):
            return faces.labels[: len(pictures)]

    who = Knowing(faces, None, lambda labels: faces.pixels(np.arange(len(labels))), 4)
    assert (who.cropped(wide) == own).all() and who.cropped(own) is own  # real pictures are judged beside padded ones
    assert who.verify(wide).legal.tolist() == [True] * 3
    wide[1, 0, 5] ^= 255
    wide[2, 10, 10] ^= 255
    assert who.verify(wide).legal.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="there is no exact renderer of avatars"):
        who._replace(render=None).verify(wide)


@pytest.fixture(scope="module")
def kinds():
    """The faces, of whose labels only the kind is known: many pictures share one."""
    faces = datasets.load("avatars", holdout="iid")
    spec = dataclasses.replace(faces.spec, labels=LabelSpace(faces.spec.labels.groups[:1]))
    return dataclasses.replace(faces, spec=spec, labels=faces.labels[:, :5])


class Kinds(judge.Judge):
    """Reads the kind off the first pixel of a picture."""

    def read(self, pictures):
        return np.where(np.arange(5) == pictures[:, 0, 0, :1], 1, -1).astype(np.int8)


def test_where_labels_do_not_determine_pictures_agreement_is_counted(kinds):
    positions = kinds.heldout[:50]

    class Subject:
        def draw(self, labels, *, seed):
            pictures = np.zeros((len(labels), 16, 16, 3), np.uint8)
            pictures[:, 0, 0, 0] = labels.argmax(axis=1)
            pictures[::5, 0, 0, 0] = (labels.argmax(axis=1)[::5] + 1) % 5
            return pictures

    spec = dataclasses.replace(kinds.spec, palette=None)
    data = dataclasses.replace(kinds, spec=spec, images=np.zeros((len(kinds.ids), 16, 16, 3), np.uint8))
    judged = bench.Bench(Subject(), data, "iid", positions, "data", bench.Sizes(free=200))
    judged.__dict__["judge"] = Kinds(data, None, None, 0)
    assert not judged.determined and judged.unasked == "pictures of held-out labels"
    (row,) = words.agreement(judged)
    assert (row.value, row.n, row.met) == (0.8, 200, False)
    # all real pictures are black, so that kind 0 is read off each
    assert row.baseline == pytest.approx((kinds.labels[kinds.heldout, 0] > 0).mean())
    wrong = (judged.free_labels[::5] > 0).sum(axis=0)
    assert row.details["misses"]["no Human"] == wrong[0] and row.details["misses"]["Human"] == wrong[4]
    assert words.open_labels(judged) == words.legal(judged) == words.coverage(judged) == []


def test_legal_labels_are_known_from_training_held_out_or_new():
    faces = datasets.load("avatars", holdout="iid")
    judged = types.SimpleNamespace(data=faces, judge=types.SimpleNamespace(data=faces))
    known = {label.tobytes() for label in faces.labels}
    new = next(label for label in avatars.combinations() if label.tobytes() not in known)
    label = np.stack([*faces.labels[[1, 2, 3, 10, 20]], new, faces.labels[4]])
    verdict = types.SimpleNamespace(label=label, legal=np.array([True] * 6 + [False]))
    assert words._familiar(judged, verdict) == {"train": 3, "held out": 2, "nowhere": 1}


def test_words_never_seen_together_count_as_read_and_a_drawing_that_leaves_one_out_does_not():
    shown = np.stack([SPACE.parse(label, complete=True) for label in ("Cat", "Cat, Beard", "Cat, Mole", "Dog, Hat")])

    def hatless_cats(labels):
        return render(np.where((np.arange(5) == 4) & (labels[:, :1] > 0), -1, labels))

    fixed = reader_of("Cat")._replace(render=hatless_cats)
    data = types.SimpleNamespace(
        spec=types.SimpleNamespace(labels=SPACE),
        labels=shown,
        train=np.arange(4),
        heldout=np.arange(4),
        pixels=lambda places: render(shown[places]),
    )
    fixed = fixed._replace(data=data)
    stub = types.SimpleNamespace(
        determined=True,
        judge=fixed,
        data=data,
        sizes=types.SimpleNamespace(requests=4, unseen=20),
        draw=lambda asked: hatless_cats(np.where(asked == 0, -1, asked)),
    )
    row = next(row for row in words.open_labels(stub) if row.metric == "never_seen")
    assert row.n > 0 and row.value == 0
