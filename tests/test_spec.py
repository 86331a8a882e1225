"""`Spec`, `Dataset`, holdout files and `load`: the promises that hold for every data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import holdouts, spec
from ddpm_jax.labels import Categorical, Flags, LabelSpace

SPACE = LabelSpace((Categorical("kind", ("A", "B")), Flags("things", ("Hat",))))
PALETTE = np.array([[0, 0, 0], [255, 128, 1]], np.uint8)
SPEC = spec.Spec("made", (2, 2, 3), SPACE, PALETTE, (1, 2, 3), ("iid",))
IMAGES = np.array([[[0, 1], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 1]]], np.uint8)
LABELS = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, -1]])
HELD = np.array([False, True, False])


def make(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, held: np.ndarray = HELD) -> spec.Dataset:
    return spec.dataset(SPEC, images, labels, ids=np.arange(len(images)), train=~held, heldout=held)


@pytest.mark.parametrize("one", [SPEC, spec.Spec("plain", (4, 6, 1), LabelSpace())])
def test_a_spec_survives_json(one: spec.Spec) -> None:
    again = spec.Spec.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one and hash(again) == hash(one)
    assert again.shape == one.shape and again.holdouts == one.holdouts and again.background == one.background
    if one.palette is not None:
        assert again.palette is not None and again.palette.dtype == np.uint8


def test_a_spec_that_no_image_fits_is_refused() -> None:
    for shape in ((0, 2, 3), (2, 10**12, 3), (2, 2, 4)):
        with pytest.raises(ValueError, match="of made: sides must be 1 to 4096, channels 1 or 3"):
            spec.Spec("made", shape, SPACE)
    for palette in (PALETTE.astype(int), PALETTE[0], PALETTE[:, :1]):
        with pytest.raises(ValueError, match=r"of made; expected uint8 \[k, 3\]"):
            spec.Spec("made", (2, 2, 3), SPACE, palette)
    for count in (0, 257):
        with pytest.raises(ValueError, match=f"the palette of made has {count} colours; it may have 1 to 256"):
            spec.Spec("made", (2, 2, 3), SPACE, np.zeros((count, 3), np.uint8))


def test_specs_of_other_palettes_differ() -> None:
    assert SPEC != spec.Spec("made", (2, 2, 3), SPACE, PALETTE[::-1], (1, 2, 3), ("iid",))


def test_a_dataset_has_the_types_that_its_users_count_on() -> None:
    made = make()
    assert (made.labels.dtype, made.ids.dtype, made.train.dtype) == (np.int8, np.int64, np.int32)
    assert made.train.tolist() == [0, 2] and made.heldout.tolist() == [1]
    assert (made.pixels(np.array([2])) == PALETTE[IMAGES[2:]]).all()


def test_positions_do_for_masks() -> None:
    made = spec.dataset(SPEC, IMAGES, LABELS, ids=np.arange(3), train=np.array([2, 0]), heldout=np.array([1]))
    assert made.train.tolist() == [0, 2] and made.fingerprint == make().fingerprint


def test_the_fingerprint_changes_with_all_that_training_sees() -> None:
    images, labels = IMAGES.copy(), LABELS.copy()
    images[2, 0, 0] = 1
    labels[2] = -1
    others = [make(images=images), make(labels=labels), make(held=np.array([True, False, False]))]
    assert len({made.fingerprint for made in [make(), *others]}) == 4
    assert make().fingerprint == make(images=np.asfortranarray(IMAGES)).fingerprint


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels of made have shape \(3, 2\), expected \(3, 3\)"):
        make(labels=LABELS[:, :2])
    with pytest.raises(ValueError, match="made has no image left to train on: 3 images, 3 held out"):
        make(held=np.ones(3, bool))
    with pytest.raises(ValueError, match="made would train on held-out images"):
        spec.dataset(SPEC, IMAGES, LABELS, ids=np.arange(3), train=np.arange(3), heldout=HELD)


def test_a_holdout_file_lists_ids(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("# the odd one\n\n 7 \n7\n")
    how = {"names": ("iid", "pairs"), "what": "an id (7 to 9)"}
    positions = {"7": 0, "8": 1, "9": 2}
    assert holdouts.listed(str(file), positions, 3, **how).tolist() == [True, False, False]
    assert holdouts.listed("", positions, 3, **how).tolist() == [False] * 3
    file.write_text("8\n10\n")
    with pytest.raises(ValueError, match=r"ids.txt line 2: '10' is not an id \(7 to 9\)"):
        holdouts.listed(str(file), positions, 3, **how)
    with pytest.raises(ValueError, match="unknown holdout 'pair'; did you mean pairs"):
        holdouts.listed("pair", positions, 3, **how)


def test_load_names_the_nearest_data_set() -> None:
    with pytest.raises(ValueError, match="unknown data set 'minst'; did you mean mnist"):
        datasets.load("minst")
    with pytest.raises(ValueError, match="the data sets are punks, punks_images, mnist, avatars, folder, tfds"):
        datasets.load("xyzzy")


def test_load_refuses_what_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="'folder:a' names a path already; leave out path 'b'"):
        datasets.load("folder:a", path="b")
    with pytest.raises(ValueError, match="size -1 is negative; use 0"):
        datasets.load("punks", size=-1)


def test_pairs_that_never_occur_together_are_found():
    space = LabelSpace((Categorical("kind", ("Cat", "Dog")), Flags("has", ("Hat", "Pipe"))))
    labels = np.array([[1, -1, 1, -1], [-1, 1, -1, 1]], np.int8)
    pairs = spec.pairs_seen(labels)
    assert spec.unseen_pairs(pairs, space, np.array([1, -1, 1, 1])) == [("Cat", "Pipe"), ("Hat", "Pipe")]
    assert spec.unseen_pairs(pairs, space, np.array([-1, 0, 1, 0])) == []
