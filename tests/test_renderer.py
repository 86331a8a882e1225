"""The baseline reproduces its published figures, and trees do what they say on a set small enough to do by hand."""

import os
import types

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import raw
from ddpm_jax.evaluation import exact, renderer
from ddpm_jax.labels import Categorical, Flags, LabelSpace

MIRROR = os.environ.get(raw.MIRROR, "")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
SPACE = LabelSpace(
    (
        Categorical("type", ("Male", "Female")),
        Categorical("skin", ("Light", "Dark")),
        Flags("accessories", ("Hat", "Pipe", "Mole")),
    )
)


def drawn(text):
    """Two pixels: a hat hides the first, whose colour else is the skin's; a pipe is the second, but under a hat."""
    vector = SPACE.parse(text, complete=True)
    has = {word: vector[i] > 0 for i, word in enumerate(SPACE.words)}
    first = 9 if has["Hat"] else 1 + 2 * has["Female"] + has["Dark"]
    return [first, 7 if has["Pipe"] and not has["Hat"] else 0]


def toy(texts):
    images = np.array([drawn(text) for text in texts], np.uint8).reshape(-1, 1, 2)
    labels = np.stack([SPACE.parse(text, complete=True) for text in texts])
    spec = types.SimpleNamespace(name="punks", labels=SPACE, shape=(1, 2, 3))
    return types.SimpleNamespace(spec=spec, images=images, labels=labels, train=np.arange(len(texts)))


TEXTS = [
    f"{sex}, {skin}, {', '.join(words)}"
    for sex in ("Male", "Female")
    for skin in ("Light", "Dark")
    for words in ([], ["Hat"], ["Pipe"], ["Hat", "Pipe"], ["Mole"], ["Mole", "Pipe"])
]


def test_rules_of_layers_are_learnt_and_carried_to_combinations_never_seen():
    data = toy(TEXTS)
    fitted = renderer.fit(data)
    unseen = ["Male, Dark, Hat, Pipe, Mole", "Female, Light, Hat, Mole"]
    for texts in (TEXTS, unseen):
        labels = np.stack([SPACE.parse(text, complete=True) for text in texts])
        assert renderer.render(fitted, SPACE, labels).tolist() == [drawn(text) for text in texts]


def test_a_face_that_a_leaf_never_saw_takes_what_most_of_its_faces_have():
    data = toy([text for text in TEXTS if text != "Male, Dark, Hat" and text != "Male, Dark, Hat, Pipe"])
    label = SPACE.parse("Male, Dark, Hat", complete=True)[None]
    assert renderer.render(renderer.fit(data), SPACE, label).tolist() == [[9, 0]]


def test_other_sets_are_refused(tmp_path):
    faces = datasets.load("avatars", root=str(tmp_path))
    with pytest.raises(ValueError, match="the renderer knows the groups of punks alone, not those of avatars"):
        renderer.fit(faces)


@needs_mirror
@pytest.mark.parametrize(
    ("split", "right", "n", "wrong"),
    [
        pytest.param("iid", 991, 1000, 0.04, marks=pytest.mark.long),
        pytest.param("zombie", 43, 47, 0.23, marks=pytest.mark.long),
        pytest.param("length", 175, 178, 0.03, marks=pytest.mark.long),
    ],
)
def test_the_published_figures(tmp_path, split, right, n, wrong):
    data = datasets.load("punks", holdout=split, root=str(tmp_path))
    for _ in range(2):  # fitted, and from the cache
        fitted = renderer.load(data, str(tmp_path))
        found = exact.score(renderer.draw(fitted, data, data.labels[data.heldout]), data, data.heldout)
        assert (found.right, found.n) == (right, n) and found.wrong_pixels == pytest.approx(wrong, abs=0.005)
