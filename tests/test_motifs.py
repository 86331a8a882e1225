"""Motifs: what is drawn together is found together, rare or not, from pictures alone; and free pictures are of it."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import script, tiny_config

import ddpm_jax
from ddpm_jax import build, checkpoint, labels, motifs, prior, runtime, train
from ddpm_jax.evaluation import classifier
from ddpm_jax.nets.words import WordLayers, paint

CHANCES = (0.5, 0.3, 0.3, 0.05)  # of each motif; the last, a single pixel, lies on the first


def pictures(n, seed=0):
    """Pictures [n, 8, 8] of six colours, and which of the four motifs they have, bool [n, 4]."""
    has = np.random.default_rng(seed).random((n, 4)) < CHANCES
    made = np.zeros((n, 8, 8), np.uint8)
    made[:, 6:] = 5  # in all of them
    for motif, (rows, columns, colour) in enumerate(
        ((slice(1, 4), slice(1, 4), 1), (slice(5, 7), slice(0, 5), 2), (slice(0, 5), slice(6, 8), 3), (2, 2, 4))
    ):
        box = made[:, rows, columns]
        shown = has[:, motif] & (has[:, 0] if motif == 3 else True)
        made[:, rows, columns] = np.where(shown.reshape(-1, *[1] * (box.ndim - 1)), colour, box)
        has[:, motif] = shown
    return made, has


LAYERS = WordLayers((8, 8, 8), 6, (), jnp.dtype("float32"))


@pytest.fixture(scope="module")
def found():
    """Pictures, the motifs that they were made of, the fitted layers, and the codes."""
    images, has = pictures(2000)
    return images, has, *motifs.fit(LAYERS, 12, images, jax.random.key(0), steps=700)


def painted(params, codes):
    """The likeliest colours [n, 8, 8] of codes."""
    one = jax.jit(jax.vmap(lambda code: paint(LAYERS, params["word_layers"], code).argmax(-1)))
    return np.asarray(one(jnp.asarray(codes, jnp.float32)))


def test_pictures_are_painted_from_their_codes(found):
    images, _, params, codes = found
    assert (painted(params, codes) == images).all(axis=(1, 2)).mean() > 0.99


def test_codes_are_what_the_encoder_reads_off_pictures_even_of_halves(found):
    images, _, params, codes = found
    halved = jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), params["encoder"])
    read = jax.vmap(functools.partial(motifs.encode, halved))(jnp.asarray(images))
    assert (np.asarray(read > 0) == (codes > 0)).all(axis=1).mean() > 0.99


def test_what_comes_together_is_one_motif(found):
    _, has, _, codes = found
    varied = codes[:, np.ptp(codes, axis=0) > 0]
    likeness = np.abs(np.corrcoef(has.T, varied.T)[:4, 4:])
    assert likeness.max(axis=1) == pytest.approx(1, abs=0.02)


def test_codes_that_are_drawn_are_painted_as_often_as_in_the_pictures(found):
    images, _, params, codes = found
    space, net = labels.motifs(12), prior.WordPrior(32)
    given = prior.logits(net, prior.fit(net, codes, jax.random.key(0), space, steps=1500))

    def draw(key):
        label = prior.complete(given, jnp.zeros(12, jnp.int8), key, space)
        return prior.redraw(given, label, jnp.ones(12, bool), jax.random.fold_in(key, 1), space)

    drawn = painted(params, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000)))
    kinds, counts = np.unique(images.reshape(len(images), -1), axis=0, return_counts=True)
    shares = [(drawn.reshape(len(drawn), -1) == kind).all(axis=1).mean() for kind in kinds]
    assert sum(shares) > 0.98  # of twelve pictures of 2^12 codes
    np.testing.assert_allclose(shares, counts / counts.sum(), atol=0.03)


def test_a_word_drawn_once_more_follows_the_law_of_the_others():
    space = labels.LabelSpace((labels.Categorical("kind", ("Cat", "Dog")), labels.Flags("things", ("Bell", "Collar"))))

    def given(label):  # a bell goes with a cat, for sure; nothing else says anything
        return jnp.array([1.0, 0.0, 100.0 * label[0], 0.0])

    def redrawn(label, loose, n=2000):
        one = functools.partial(prior.redraw, given, jnp.asarray(label, jnp.int8), jnp.asarray(loose), space=space)
        return np.asarray(jax.jit(jax.vmap(lambda key: one(key=key)))(jax.random.split(jax.random.key(0), n)))

    made = redrawn([-1, 1, 1, -1], [False, False, True, True])
    assert (made[:, :3] == [-1, 1, -1]).all() and (made[:, 3] > 0).mean() == pytest.approx(0.5, abs=0.04)
    law = np.exp([1.0, 0.0, 0.0])  # Cat, Dog, neither
    made = redrawn([-1, 1, 1, -1], [True, True, False, False])
    assert (made[:, 2:] == [1, -1]).all() and not (made[:, :2] > 0).all(axis=1).any()
    np.testing.assert_allclose((made[:, :2] > 0).mean(axis=0), (law / law.sum())[:2], atol=0.04)


QUICK = {"masks__none": 1.0, "masks__subset": 0.0, "loss__target": "palette", "sampling__words": "prior"}
QUICK |= {"net__motifs": 6, "net__word_layers": 4, "net__word_prior": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a tiny run whose avatars have no words, but motifs."""
    workdir = tmp_path_factory.mktemp("motifs")
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(motifs, "STEPS", 80)
        quick.setattr(motifs, "PRIOR_STEPS", 50)
        quick.setattr(prior, "PACE", (0.5,))
        train.train(build.build(tiny_config(**QUICK, optimizer__weight_decay=0.5)), str(workdir))
    return workdir


def test_no_step_changes_motifs_and_a_free_picture_is_painted_of_them(run):
    before, after = (checkpoint.load_arrays(run / "checkpoints" / step, "params") for step in ("4", "8"))
    assert before["stem"]["kernel"].tolist() != after["stem"]["kernel"].tolist()
    for name in ("motifs", "word_prior"):
        assert jax.tree.all(jax.tree.map(np.array_equal, before[name], after[name]))
    model = ddpm_jax.load(run)
    drawn, again = model.sample(n=8, seed=3), model.sample(n=8, seed=3, steps=1)
    assert (drawn == again).all()  # nothing is left to sample
    by_net = model.sample(n=8, seed=3, words="net")
    assert (drawn != by_net).any()
    assert (drawn == model.sample(n=8, seed=3, guidance=3.0)).all()  # there is no label to weigh
    with pytest.raises(ValueError, match="guidance is -1"):
        model.sample(guidance=-1)
    assert (model.sample(n=2, seed=3)[1] == drawn[1]).all()


def test_a_net_with_motifs_is_led_away_from_one_without(run, tmp_path):
    train.train(build.build(tiny_config(**{**QUICK, "net__motifs": 0, "sampling__words": "net"})), str(tmp_path))
    model = ddpm_jax.load(run)
    led = model.led_away_from(ddpm_jax.load(tmp_path / "checkpoints" / "4"))
    assert (led.sample(n=8, seed=3, autoguidance=5.0) != model.sample(n=8, seed=3, words="net")).any()


def test_variations_keep_most_motifs_and_a_picture_can_be_edited(run):
    model = ddpm_jax.load(run)
    first, *others = model.variations(None, n=6, seed=1, spread=0.0)
    assert all((first == other).all() for other in others)
    assert (first == model.sample(n=1, seed=1)[0]).all()
    assert model.edit(first, strength=0.5).shape == (1, *first.shape)


def test_motifs_need_pictures_without_words_and_what_paints_and_draws_them():
    with pytest.raises(ValueError, match=r"net.motifs are for pictures without labels; avatars has words"):
        build.build(tiny_config(**{**QUICK, "masks__none": 0.1}))
    with pytest.raises(runtime.BadInput, match=r"net.motifs are painted and drawn like words: set net.word_layers"):
        build.build(tiny_config(**{**QUICK, "net__word_layers": 0}))


def test_evaluation_says_what_held_out_pictures_cost_by_their_motifs(run, tmp_path, monkeypatch):
    out, settings = tmp_path / "found.json", classifier.Settings
    monkeypatch.setattr(classifier, "Settings", functools.partial(settings, steps=20, batch=64))
    words = ["--metrics=bits", "--share=0.01", f"--checkpoint={run}", f"--root={tmp_path}", f"--out={out}"]
    assert script("evaluate").main(words) == 0
    rows = [row for row in json.loads(out.read_text())["rows"] if row["metric"] == "bits_per_image"]
    assert ["words of the prior" in row["what"] for row in rows] == [False, True]
    assert rows[1]["details"]["terms"]["words"] > 0 and all(row["value"] > 0 for row in rows)


def test_pictures_that_nothing_tells_apart_have_no_motifs():
    with pytest.raises(ValueError, match=r"tells pictures apart, of which there are 0; they are for pixel art"):
        motifs.init(LAYERS, 4, np.zeros((10, 8, 8), np.uint8), jax.random.key(0))
