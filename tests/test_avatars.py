import hashlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import masking
from ddpm_jax.datasets import avatar_art, avatars

WORDS = avatars.LABELS.words
WEARABLE = WORDS[9:]  # all but kinds and skins


def face(text):
    """One picture [16, 16] of the words named, and of no other."""
    return avatars.render(avatars.LABELS.parse(text, complete=True)[None])[0]


def has(label, word):
    return label[..., avatars.LABELS.index(word)] > 0


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def pictures(**arguments) -> np.ndarray:
    return np.asarray(avatars.load(**arguments).images)


# Labels and pictures are one to one


def test_no_two_labels_have_the_same_picture():
    every = avatars.combinations()
    # 64-bit sums with odd factors: pictures of different sums differ.
    factors = np.random.default_rng(0).integers(0, 2**63, 256, np.uint64) * np.uint64(2) + np.uint64(1)
    sums = [avatars.render(part).reshape(-1, 256) @ factors for part in np.array_split(every, 10)]
    assert len(np.unique(np.concatenate(sums))) == len(np.unique(every, axis=0)) == 158_400


def test_the_small_picture_is_a_window_of_the_large_one():
    some = avatars.combinations()[::331]
    rows, columns = avatar_art.WINDOW
    np.testing.assert_array_equal(avatars.render(some), avatars.render(some, 24)[:, rows, columns])


def test_a_picture_depends_on_its_own_label_alone():
    some = avatars.combinations()[::3001]
    alone = np.concatenate([avatars.render(label[None]) for label in some])
    np.testing.assert_array_equal(avatars.render(some), alone)
    assert alone.dtype == np.uint8 and alone.shape == (len(some), 16, 16)


def test_combinations_are_all_that_a_face_can_have():
    every = avatars.combinations()
    assert every.dtype == np.int8 and set(np.unique(every)) == {-1, 1}
    assert len(every) == (2 * 4 + 3) * 5 * 5 * 3 * 3 * 2**6
    kinds, skins = (every[:, avatars.LABELS.slice_of(name)] > 0 for name in ("kind", "skin"))
    np.testing.assert_array_equal(kinds.sum(axis=1), 1)
    np.testing.assert_array_equal(skins.sum(axis=1), has(every, "Human") | has(every, "Elf"))


@pytest.mark.parametrize("word", WEARABLE)
def test_a_word_shows_whatever_else_is_worn(word):
    index = avatars.LABELS.index(word)
    group = avatars.LABELS.slice_of(avatars.LABELS.owners[index].name)
    free = avatars.combinations()[:: 7 if word in ("Blush", "Eye Patch") else 29]
    free = free[(free[:, group] < 0).all(axis=1)]
    worn = free.copy()
    worn[:, index] = 1
    changed = (avatars.render(free) != avatars.render(worn)).sum(axis=(1, 2))
    assert changed.min() >= 2, f"{word} changes {changed.min()} pixels of a face"


# Things hide each other, and skin shows through


@pytest.mark.parametrize("hair", ["Short Hair", "Long Hair", "Mohawk", "Curls"])
@pytest.mark.parametrize("hat", ["Cap", "Beanie", "Crown", "Wizard Hat"])
def test_a_hat_hides_much_of_the_hair_but_not_all(hair, hat):
    bare = (face("Human, Pale") != face(f"Human, Pale, {hair}")).sum()
    under = (face(f"Human, Pale, {hat}") != face(f"Human, Pale, {hair}, {hat}")).sum()
    assert 0 < under < 0.7 * bare


def test_shades_hide_the_eyes_and_glasses_do_not():
    eyes = slice(7, 9), [4, 5, 10, 11]
    kinds = ["Human, Tan", "Elf, Tan", "Zombie", "Robot", "Cat"]
    for kind in kinds:
        np.testing.assert_array_equal(face(kind)[eyes], face(f"{kind}, Glasses")[eyes])
    assert len({face(f"{kind}, Shades")[eyes].tobytes() for kind in kinds}) == 1
    assert len({face(kind)[eyes].tobytes() for kind in kinds}) == 5


def test_the_pipe_lies_over_the_beard():
    with_beard, without = face("Zombie, Beard, Pipe"), face("Zombie, Pipe")
    bowl = without == list(avatar_art.COLOURS).index("n")
    assert bowl.sum() >= 8
    np.testing.assert_array_equal(with_beard[bowl], without[bowl])


@pytest.mark.parametrize("word", ["Blush", "Stubble", "Beanie", "Mohawk"])
def test_some_words_take_their_colour_from_the_skin(word):
    skins = [("Human, Pale", "Pale"), ("Human, Dark", "Dark"), ("Zombie", "Zombie"), ("Robot", "Robot"), ("Cat", "Cat")]
    letter = 2 if word == "Blush" else 1
    for kind, skin in skins:
        new = face(f"{kind}, {word}")[face(kind) != face(f"{kind}, {word}")]
        assert list(avatar_art.COLOURS).index(avatar_art.TONES[skin][letter]) in new


# The data set


def test_the_data_set_is_what_the_renderer_draws():
    data = avatars.load()
    assert data.spec.shape == (16, 16, 3) and data.spec.name == "avatars"
    assert data.labels.shape == (24_000, 27)
    np.testing.assert_array_equal(data.images, avatars.render(data.labels))
    np.testing.assert_array_equal(data.ids, np.arange(24_000))
    assert len(data.train) == 24_000 and len(data.heldout) == 0
    assert len(np.unique(data.labels, axis=0)) == 24_000


def test_the_large_pictures_have_the_same_labels():
    small, large = avatars.load(), avatars.load(size=24, holdout="iid")
    assert large.spec.shape == (24, 24, 3)
    np.testing.assert_array_equal(small.labels, large.labels)


def test_the_palette_is_small_and_in_use():
    palette = avatars.PALETTE
    assert palette.dtype == np.uint8 and len(np.unique(palette, axis=0)) == len(palette) == 24
    np.testing.assert_array_equal(np.unique(pictures(size=24)), np.arange(24))
    assert avatars.load().spec.background == tuple(palette[0])


def test_the_data_set_never_changes():
    """Weights and results belong to exactly these arrays.

    To renew after a wanted change of art or odds: put the printed digests here, and say in the change that avatars
    checkpoints and tables of results are void.
    """
    assert sha256(avatars.chosen()) == "df1c408d1c8ff9413b6ea2e11e4e1441e2bfdc3fc82baa23a52aa7d5a38d88cf"
    assert (
        sha256(avatars.PALETTE[pictures(size=24)]) == "6479797f0c2bfa922a4773af8443d74a626d0f48ff02d239d5c9570baf841f77"
    )


def test_every_word_is_present_and_absent_often_enough():
    share = (avatars.chosen() > 0).mean(axis=0)
    assert share.min() > 0.1 and share.max() < 0.55, dict(zip(WORDS, share, strict=True))


def test_habits_make_words_depend_on_each_other():
    chosen = avatars.chosen()
    smokers = has(chosen, "Pipe")
    assert has(chosen, "Beard")[smokers].mean() > 1.3 * has(chosen, "Beard")[~smokers].mean()


# What is held out


def test_iid_holds_out_every_tenth_id_and_no_word_more_than_another():
    data = avatars.load(holdout="iid")
    np.testing.assert_array_equal(data.ids[data.heldout], np.arange(0, 24_000, 10))
    np.testing.assert_array_equal(np.union1d(data.train, data.heldout), np.arange(24_000))
    share = (data.labels > 0).mean(axis=0)
    spread = np.sqrt(share * (1 - share) / 2400)
    assert np.all(np.abs((data.labels[data.heldout] > 0).mean(axis=0) - share) < 4.5 * spread)


def test_pairs_are_never_seen_together_but_each_word_is():
    data = avatars.load(holdout="pairs")
    pairs = avatars.heldout_pairs()
    assert pairs[0] == ("Blush", "Shades") and len(pairs) == 4
    assert all(a < b for a, b in pairs)
    together = np.stack([has(data.labels, a) & has(data.labels, b) for a, b in pairs])
    np.testing.assert_array_equal(np.flatnonzero(together.any(axis=0)), data.heldout)
    assert together.any(axis=1).all() and not together[:, data.train].any()
    assert len(data.train) > 16_000 and (data.labels[data.train] > 0).sum(axis=0).min() > 1500


def test_a_file_of_ids_holds_out_those(tmp_path):
    (tmp_path / "ids.txt").write_text("5\n17\n")
    np.testing.assert_array_equal(avatars.load(holdout=str(tmp_path / "ids.txt")).heldout, [5, 17])


# What is refused


def changed(text, **states):
    label = avatars.LABELS.parse(text, complete=True)
    for word, state in states.items():
        label[avatars.LABELS.index(word)] = state
    return label


ERRORS = [
    (changed("Cat", Crown=0), "label 1 leaves 'Crown' open; a picture needs every word, -1 or 1"),
    (changed("Cat, Cap", Crown=1), "label 1 (Cat, Cap, Crown) has 2 words of 'hat'; no face has that"),
    (changed("Elf"), "label 1 (Elf) has 0 words of 'skin'; no face has that"),
    (changed("Robot, Pale"), "label 1 (Robot, Pale) has 1 words of 'skin'; no face has that"),
    (changed("Pale"), "label 1 (Pale) has 0 words of 'kind'; no face has that"),
]


@pytest.mark.parametrize(("label", "message"), ERRORS)
def test_a_label_that_no_face_can_have_is_refused(label, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        avatars.render(np.stack([changed("Cat"), label]))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=re.escape("labels of shape (27,) are not avatars; give [n, 27]")):
        avatars.render(changed("Cat"))
    with pytest.raises(ValueError, match=re.escape("avatars has no size 32; use 16, or 24 (with shoulders)")):
        avatars.load(size=32)
    with pytest.raises(ValueError, match="avatars takes no path, got 'here'"):
        avatars.load(path="here")
    with pytest.raises(ValueError, match="unknown holdout 'pair'; did you mean pairs"):
        avatars.load(holdout="pair")


# Masks: whatever is shown of a label, the words not shown are as frequent as among all faces that fit what is shown


class Table(NamedTuple):
    """All labels [n, w], and for each word the positions [w, n] of those that have it, `counts` [w] of them."""

    labels: jax.Array
    having: jax.Array
    counts: jax.Array


def table():
    present = avatars.chosen() > 0
    return Table(
        jnp.asarray(avatars.chosen()), jnp.asarray(np.argsort(~present, axis=0).T), jnp.asarray(present.sum(axis=0))
    )


def drawn(scheme, count=100_000):
    """Examples and what a masking scheme shows of them: int8 [count, w] twice."""
    rows = table()

    def one(key):
        example, keep = scheme(rows, key)
        return example, masking.reveal(avatars.LABELS, rows.labels[example], keep)

    examples, shown = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))
    return avatars.chosen()[np.asarray(examples)], np.asarray(shown)


def any_example(rows, key):
    return jax.random.randint(key, (), 0, len(rows.labels))


def with_word(rows, key):
    """An example that has a word drawn first, and that word."""
    word_key, example_key = jax.random.split(key)
    word = jax.random.randint(word_key, (), 0, len(rows.counts))
    return rows.having[word, jax.random.randint(example_key, (), 0, rows.counts[word])], word


def by_identity(rows, key):
    example_key, mask_key = jax.random.split(key)
    return any_example(rows, example_key), masking.subset(mask_key, len(rows.counts))


def by_identity_with_word(rows, key):
    example_key, mask_key = jax.random.split(key)
    example, word = with_word(rows, example_key)
    return example, masking.subset_with(mask_key, len(rows.counts), word)


def few_present_words(rows, key):
    """The obvious scheme, which is wrong: 1, 2 or 3 of the words that are present."""
    example_key, order_key, count_key = jax.random.split(key, 3)
    example = any_example(rows, example_key)
    present = rows.labels[example] > 0
    order = jnp.argsort(jnp.argsort(jax.random.uniform(order_key, present.shape) + ~present))
    return example, (order < jax.random.randint(count_key, (), 1, 4)) & present


def hidden_first_word(rows, key):
    """Wrong as well: the example has a word drawn first, which the mask may then hide."""
    example_key, mask_key = jax.random.split(key)
    return with_word(rows, example_key)[0], masking.subset(mask_key, len(rows.counts))


def deviations(full, shown, least=300):
    """How far word frequencies are from the exact conditionals, in sigmas, by request made `least` times or more."""
    requests, which, counts = np.unique(shown, axis=0, return_inverse=True, return_counts=True)
    found = {}
    for i in np.flatnonzero(counts >= least):
        fits = ((avatars.chosen() == requests[i]) | (requests[i] == 0)).all(axis=1)
        exact = (avatars.chosen()[fits] > 0).mean(axis=0)
        got = (full[which.ravel() == i] > 0).mean(axis=0)
        sigma = np.sqrt(exact * (1 - exact) / counts[i])
        certain = sigma == 0
        np.testing.assert_array_equal(got[certain], exact[certain])
        found[avatars.LABELS.format(requests[i])] = np.abs(got - exact)[~certain] / sigma[~certain]
    return found


@pytest.mark.parametrize("scheme", [by_identity, by_identity_with_word])
def test_masks_by_identity_leave_the_exact_conditionals(scheme):
    found = deviations(*drawn(scheme))
    alone = {f"-{word}" for word in WORDS} if scheme is by_identity else set(WORDS)
    assert alone <= set(found), "each word is asked for alone"
    sigmas = np.concatenate(list(found.values()))
    assert len(sigmas) > 600 and sigmas.max() < 4.5
    assert np.mean(sigmas**2) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("scheme", [few_present_words, hidden_first_word])
def test_masks_that_look_at_what_they_hide_do_not(scheme):
    found = deviations(*drawn(scheme))
    sigmas = np.concatenate(list(found.values()))
    assert len(sigmas) > 600 and np.mean(sigmas**2) > 1.4
