"""Exact match, its interval, and what can be solved at all."""

import dataclasses

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.evaluation import exact


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The embedded faces, some held out."""
    return datasets.load("avatars", holdout="iid", root=str(tmp_path_factory.mktemp("data")))


def test_the_pictures_themselves_are_exact_and_a_changed_pixel_is_not(faces):
    positions = faces.heldout[:50]
    drawn = faces.pixels(positions).copy()
    perfect = exact.score(drawn, faces, positions)
    assert (perfect.n, perfect.right, perfect.exact, perfect.wrong_pixels) == (50, 50, 1.0, 0.0)
    drawn[:5, 3, 4, 1] ^= 1
    drawn[0, 0, 0] ^= 255
    found = exact.score(drawn, faces, positions)
    assert found.right == 45 and found.exact == 0.9 and found.wrong_pixels == pytest.approx(6 / 50)
    with pytest.raises(ValueError, match=r"the drawings are \[49, 16, 16, 3\], the pictures \[50, 16, 16, 3\]"):
        exact.score(drawn[:-1], faces, positions)


def test_a_picture_with_a_colour_that_training_never_showed_cannot_be_solved(faces):
    colour = int(faces.images[faces.heldout[0], 0, 0])
    images = faces.images.copy()
    images[faces.train] = np.where(
        images[faces.train] == colour, (colour + 1) % len(faces.spec.palette), images[faces.train]
    )
    without = dataclasses.replace(faces, images=images)
    possible = exact.solvable(without, faces.heldout[:50])
    np.testing.assert_array_equal(possible, ~(images[faces.heldout[:50]] == colour).any(axis=(1, 2)))
    assert exact.solvable(faces, faces.heldout[:50]).all() and not possible.all()
    found = exact.score(faces.pixels(faces.heldout[:50]), without, faces.heldout[:50])
    assert found.solvable == possible.sum() and found.exact_solvable in (0.0, 1.0)


@pytest.mark.parametrize(
    ("right", "n", "interval"), [(190, 200, (0.9104, 0.9726)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))]
)
def test_wilsons_interval(right, n, interval):
    assert exact.wilson(right, n) == pytest.approx(interval, abs=1e-4)
    with pytest.raises(ValueError, match="11 of 10 is no share"):
        exact.wilson(11, 10)


def test_few_splits_are_judged_by_a_thousand_and_others_whole(faces):
    many = dataclasses.replace(faces, heldout=np.arange(5000))
    np.testing.assert_array_equal(exact.asked(many, "iid"), many.heldout)
    expected = np.random.default_rng(0).choice(many.heldout, 1000, replace=False)
    np.testing.assert_array_equal(exact.asked(many, "few500"), expected)
