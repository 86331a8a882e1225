"""The classifier reads what it was taught, keeps to the rules of its groups, and comes back from its cache."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import raw, spec
from ddpm_jax.evaluation import classifier
from ddpm_jax.labels import Categorical, Flags, LabelSpace

MIRROR = os.environ.get(raw.MIRROR, "")
SPACE = LabelSpace(
    (
        Categorical("face", ("Round", "Long")),  # every picture has one
        Categorical("hat", ("Cap", "Crown", "Hood")),  # or none
        Flags("extras", ("Pipe", "Mole")),
    )
)
QUICK = classifier.Settings(steps=150, batch=16, dropout=0.0)
SHORT = classifier.Settings(steps=2, batch=4)
PALETTE = np.array([[0, 0, 0], [200, 40, 40], [205, 40, 40], [40, 200, 40], [40, 40, 200], [250, 250, 250]], np.uint8)


def complete(texts):
    return np.stack([SPACE.parse(text, complete=True) for text in texts])


LABELS = complete(
    f"{face}, {hat}, {extras}"
    for face in ("Round", "Long")
    for hat in ("", "Cap", "Crown", "Hood")
    for extras in ("", "Pipe", "Mole", "Pipe, Mole")
)


def toy(labels=LABELS, space=SPACE, shape=(5, 6, 3), palette=PALETTE):
    """One pixel tells each group or flag; the two faces differ by five levels of red."""
    images = np.zeros((len(LABELS), 5, 6), np.uint8)
    images[:, 0, 0] = np.where(LABELS[:, 0] > 0, 1, 2)
    images[:, 2, 3] = (LABELS[:, 2:5] > 0) @ np.array([3, 4, 5])
    images[:, 4, 5], images[:, 4, 0] = 5 * (LABELS[:, 5] > 0), 5 * (LABELS[:, 6] > 0)
    if palette is None:
        images = (images * 50)[..., None]
    of = spec.Spec("toy", shape, space, palette)
    n = len(images)
    held = np.arange(n) % 8 == 3
    return spec.dataset(of, images, labels, ids=np.arange(n), train=~held, heldout=held)


@pytest.fixture(scope="module")
def taught():
    data = toy()
    return data, classifier.of(data, classifier.fit(data, settings=QUICK))


def says(logits, optional=(False, True, False), shape=(5, 6, 3), palette=PALETTE):
    """A classifier that reads one label off every picture: its logits are constant."""
    blank = classifier.Classifier({}, SPACE, shape, palette, optional)
    colours = 0 if palette is None else len(palette)
    pictures = jnp.zeros((1, *(shape if palette is None else shape[:2])), jnp.uint8)
    params = classifier.Net(SPACE.size, colours).init(jax.random.key(0), pictures)["params"]
    params["logits"] = {"kernel": 0 * params["logits"]["kernel"], "bias": jnp.array(logits, jnp.float32)}
    return blank._replace(params=params)


def test_what_was_taught_is_read_from_pictures_never_seen(taught):
    data, found = taught
    score = classifier.accuracy(found, data, data.heldout)
    assert (score.n, score.right, score.share, score.high) == (4, 4, 1.0, 1.0)
    assert 0.5 < score.low < 0.52  # Wilson's bound of 4 of 4 is n / (n + z^2)
    assert score.words == dict.fromkeys(SPACE.words, 1.0)
    assert found.optional == (False, True, True)


def test_accuracy_counts_whole_labels_and_single_words(taught):
    data, found = taught
    wrong = data.labels.copy()
    wrong[:2, SPACE.index("Pipe")] *= -1
    wrong[1, SPACE.index("Mole")] *= -1
    score = classifier.accuracy(found, dataclasses.replace(data, labels=wrong), np.arange(8))
    assert (score.n, score.right) == (8, 6)
    assert (score.words["Pipe"], score.words["Mole"], score.words["Cap"]) == (0.75, 0.875, 1.0)


def test_colours_beside_the_palette_are_read_as_the_nearest(taught):
    data, found = taught
    rng = np.random.default_rng(0)
    off = data.pixels(np.arange(32)).astype(int) + rng.integers(-1, 2, (32, 5, 6, 3))
    assert (classifier.read(found, off.clip(0, 255).astype(np.uint8)) == LABELS).all()


@pytest.mark.parametrize(
    ("logits", "text"),
    [
        ([3, 2, 5, 4, 3, -1, 1], "Round, Cap, Mole"),  # the likeliest of each group, however likely others are
        ([-3, -2, -5, -4, -3, -1, -1], "Long"),  # a face there must be, a hat not
        ([-3, -2, -5, 0.1, -3, 1, 1], "Long, Crown, Pipe, Mole"),
    ],
)
def test_a_group_has_at_most_one_word_and_none_only_where_training_had_none(logits, text):
    label = classifier.read(says(logits), np.zeros((1, 5, 6, 3), np.uint8))
    assert label.dtype == np.int8
    assert SPACE.format(label[0], complete=True) == text


def test_probabilities_of_all_possible_labels_add_up_to_one():
    logits = jnp.array(np.random.default_rng(0).normal(size=(1, 7)), jnp.float32).repeat(len(LABELS), axis=0)
    faces_and_hats = says(np.zeros(7))
    assert jnp.exp(-classifier.loss(logits, LABELS, faces_and_hats)).sum() == pytest.approx(1, rel=1e-5)
    always = LABELS[(LABELS[:, 2:5] > 0).any(axis=1)]
    hat_needed = says(np.zeros(7), optional=(False, False, False))
    found = jnp.exp(-classifier.loss(logits[: len(always)], always, hat_needed)).sum()
    assert found == pytest.approx(1, rel=1e-5)


def test_features_are_what_the_logits_are_linear_in(taught):
    data, found = taught
    pictures = data.pixels(np.arange(32))
    features = classifier.features(found, pictures)
    assert features.shape == (32, 128) and features.dtype == np.float32
    assert features.min() == 0 and features.max() > 0
    last = found.params["logits"]
    flags = (features @ last["kernel"] + last["bias"])[:, SPACE.slice_of("extras")] > 0
    assert (np.where(flags, 1, -1) == classifier.read(found, pictures)[:, SPACE.slice_of("extras")]).all()


@pytest.mark.parametrize("n", [0, 1, 3, 4, 9])
def test_padding_changes_nothing(taught, monkeypatch, n):
    data, found = taught
    pictures = data.pixels(np.arange(9))
    whole = classifier.features(found, pictures)
    monkeypatch.setattr(classifier, "BATCH", 4)
    features, labels = classifier.features(found, pictures[:n]), classifier.read(found, pictures[:n])
    assert features.shape == (n, 128) and labels.shape == (n, 7)
    np.testing.assert_allclose(features, whole[:n], rtol=1e-5, atol=1e-5)


def test_a_seed_gives_the_same_parameters_again():
    one, again, other = (classifier.fit(toy(), seed=seed, settings=SHORT) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))
    assert not np.allclose(one["features"]["kernel"], other["features"]["kernel"])
    assert {array.dtype for array in jax.tree.leaves(one)} == {np.dtype(np.float32)}


def test_rarer_words_are_shown_more_often():
    labels = np.full((101, 1), -1, np.int8)
    labels[0] = 1  # with frequency 1/101, against 1 of pictures that have no word
    shown = classifier._batches(labels, 0, classifier.Settings(steps=1000, batch=101))
    assert (shown == 0).mean() == pytest.approx(101**0.5 / (101**0.5 + 100), rel=0.05)
    assert shown.shape == (1000, 101) and len(np.unique(shown)) == 101


def test_only_grey_pictures_without_a_palette_are_moved(monkeypatch):
    calls = []
    monkeypatch.setattr(classifier, "_moved", lambda key, picture: calls.append(1) or picture)
    classifier.fit(toy(), settings=SHORT)
    assert not calls
    classifier.fit(toy(shape=(5, 6, 1), palette=None), settings=SHORT)
    assert calls


def test_pictures_move_a_little_and_each_otherwise():
    picture = np.zeros((28, 28, 1), np.uint8)
    picture[12:16, 12:16] = 240
    keys = jax.random.split(jax.random.key(0), 64)
    moved = np.asarray(jax.vmap(classifier._moved, (0, None))(keys, jnp.asarray(picture)))[..., 0]
    mass = moved.sum(axis=(1, 2))
    at = np.stack([(moved.sum(axis=axis) * np.arange(28)).sum(axis=1) / mass for axis in (2, 1)], axis=1) - 13.5
    assert np.abs(at).max() < 28 * classifier.SHIFT * 1.5 and at.std(axis=0).min() > 0.5  # pixels off the middle
    assert np.abs(at.mean(axis=0)).max() < 0.5
    assert 0.6 < mass.min() / picture.sum() < 0.9 and 1.1 < mass.max() / picture.sum() < 1.7  # wider, narrower


def test_dropout_acts_in_training_alone(monkeypatch):
    seen = []
    call = classifier.Net.__call__
    monkeypatch.setattr(classifier.Net, "__call__", lambda net, x, rate=0.0: seen.append(rate) or call(net, x, rate))
    data = toy()
    found = classifier.of(data, classifier.fit(data, settings=SHORT))
    assert seen[-1] == SHORT.dropout > 0
    net, key = classifier.Net(SPACE.size, len(PALETTE)), {"dropout": jax.random.key(0)}
    plain, dropped = (net.apply({"params": found.params}, data.images, rate, rngs=key)[0] for rate in (0.0, 0.9))
    assert not np.allclose(plain, dropped)
    np.testing.assert_allclose(classifier.features(found, data.pixels(np.arange(32))), plain, rtol=1e-5, atol=1e-5)


def test_a_large_picture_is_halved_until_the_dense_layer_can_see_it():
    params = classifier.Net(1, 0).init(jax.random.key(0), jnp.zeros((1, 50, 34, 1), jnp.uint8))["params"]
    assert params["features"]["kernel"].shape == (7 * 5 * 64, 128)  # 25x17, 13x9, 7x5 places


def test_the_cache_is_trained_once_and_again_only_if_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(classifier, "Settings", lambda: SHORT)
    data, root = toy(), str(tmp_path)
    assert not classifier.is_cached(data, root)
    first = classifier.load(data, root)
    assert classifier.is_cached(data, root) and not classifier.is_cached(data, root, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "fit", None)  # not called
        again = classifier.load(data, root)
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, again.params)) and first[1:3] == again[1:3]
    (file,) = tmp_path.glob("cache/classifier-*.npz")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, classifier.load(data, root).params))
    assert "is damaged" in caplog.text


def test_a_cache_of_other_settings_or_without_its_note_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "Settings", lambda: SHORT)
    data, root = toy(), str(tmp_path)
    classifier.load(data, root)
    (note,) = tmp_path.glob("cache/classifier-*.json")
    monkeypatch.setattr(classifier, "Settings", lambda: SHORT._replace(steps=3))
    assert not classifier.is_cached(data, root)
    monkeypatch.setattr(classifier, "Settings", lambda: SHORT)
    note.write_text("{")
    assert not classifier.is_cached(data, root)


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="toy has no words; a classifier needs labelled pictures"):
        classifier.fit(toy(LABELS[:, :0], LabelSpace()))
    data = toy(shape=(5, 6, 1), palette=None)
    streamed = dataclasses.replace(data, images=list(data.images))
    with pytest.raises(ValueError, match="toy is streamed; a classifier needs its pictures in memory"):
        classifier.fit(streamed)


@pytest.mark.parametrize("pictures", [np.zeros((2, 6, 5, 3), np.uint8), np.zeros((2, 5, 6, 3), np.float32)])
def test_other_pictures_are_refused(pictures):
    with pytest.raises(ValueError, match=r"the pictures are \w+ \[2, .*\]; this classifier reads uint8 \[n, 5, 6, 3\]"):
        classifier.read(says(np.zeros(7)), pictures)


@pytest.mark.long
@pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
@pytest.mark.parametrize(("name", "holdout", "least"), [("mnist", "test", 0.994), ("avatars", "iid", 0.995)])
def test_real_pictures_are_read(tmp_path, name, holdout, least):
    data = datasets.load(name, holdout=holdout, root=str(tmp_path))
    assert classifier.accuracy(classifier.load(data, str(tmp_path)), data, data.heldout).share >= least


@pytest.mark.long
@pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
def test_punks_are_read_but_for_accessories_that_do_not_show(tmp_path):
    """66 of the 1,000 have one that changes no pixel: at best 934 can be known, and the rest guessed."""
    data = datasets.load("punks", holdout="iid", root=str(tmp_path))
    score = classifier.accuracy(classifier.load(data, str(tmp_path)), data, data.heldout)
    assert score.share >= 0.92
    assert np.mean(list(score.words.values())) >= 0.999
