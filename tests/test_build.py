"""Facts about what a configuration becomes, and what only the data and the devices can refuse."""

import jax
import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from ddpm_jax import build, checkpoint, state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__name": "avatar"}, "did you mean avatars"),
        ({"data__holdout": "idd"}, "iid"),
        ({"net__multipliers": (1, 2, 4, 8, 8)}, "16 is not divisible by 32; use at most 4 levels"),
        ({"train__batch_size": 63}, "batch_size 63 is not divisible by 2 devices; try 62 or 64"),
        (
            {"data__storage": "stream", "train__steps_per_dispatch": 2, "train__steps": 2},
            "steps_per_dispatch must be 1",
        ),
    ],
)
def test_what_only_the_data_and_the_devices_can_tell_is_refused_too(changes, message):
    with pytest.raises(ValueError, match=message):
        build.build(tiny_config(**changes))


def test_a_palette_head_needs_a_palette(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="palette"):
        build.build(
            tiny_config(
                data__name="folder", data__path=str(tmp_path), data__holdout="", data__root=str(tmp_path / "data")
            )
        )


def test_fine_tuning_starts_from_the_averaged_parameters_of_another_run(trained):
    run = build.build(tiny_config(init_from=str(trained), seed=5))
    first, saved = run.init(8), checkpoint.load_arrays(trained / "checkpoints" / "8", "ema")
    jax.tree.map(np.testing.assert_array_equal, first.params, saved)
    jax.tree.map(np.testing.assert_array_equal, first.ema, saved)
    assert int(first.step) == 0 and not jax.tree.leaves(first.opt_state)[1].any()


def test_transplanting_moves_words_by_name_and_lists_what_is_fresh():
    old = {
        "word_maps": {"present": np.array([[1.0], [2.0]])},
        "label_in": {"kernel": np.array([[1.0], [2.0], [3.0], [4.0]])},
    }
    old |= {"stem": np.ones(3), "out": np.ones(2)}
    new = {"word_maps": {"present": np.zeros((3, 1))}, "label_in": {"kernel": np.zeros((6, 1))}}
    new |= {"stem": np.zeros(3), "out": np.zeros(4), "extra": np.zeros(1)}
    params, fresh = state.transplant(new, old, ["Hat", "Cat", "Dog"], ["Cat", "Hat"])
    assert params["word_maps"]["present"].ravel().tolist() == [2, 1, 0]
    assert params["label_in"]["kernel"].ravel().tolist() == [2, 1, 0, 4, 3, 0]
    assert params["stem"].all() and not params["out"].any()
    assert set(fresh) == {"out", "extra", "word_maps/present[Dog]", "label_in/kernel[Dog]"}


def test_a_model_that_is_shown_no_label_has_no_words():
    run = build.build(tiny_config(masks__none=1.0, masks__subset=0.0))
    assert run.meta["spec"]["labels"] == [] and "label_in" not in run.abstract.params


def test_parts_of_a_batch_are_named_when_they_do_not_divide():
    with pytest.raises(ValueError, match=r"of 16 images in 16 parts, each part: batch_size 1 is not divisible by 2"):
        build.build(tiny_config(train__accumulate=16))
