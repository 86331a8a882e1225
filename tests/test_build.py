"""Facts about what a configuration becomes, and what only the data and the devices can refuse."""

import jax
import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from ddpm_jax import build, checkpoint, losses, nets, runtime, state
from ddpm_jax.configs import avatars_cfg, default, mnist_cfg, mnist_classes_cfg, punks_cfg, punks_uncond_cfg
from ddpm_jax.datasets import spec
from ddpm_jax.labels import Categorical, Flags, LabelSpace
from ddpm_jax.nets import unet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__name": "avatar"}, "did you mean avatars"),
        ({"data__holdout": "idd"}, "iid"),
        ({"net__multipliers": (1, 2, 4, 8, 8)}, "16 is not divisible by 32; use at most 4 levels"),
        ({"net__attention": (6,)}, "net.attention 6 is no level's height; they are 8$"),
        (
            {"net__word_sets": "Cat, Cap"},
            "net.word_sets 'Cat, Cap': two of them can be present at once; take words of one",
        ),
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


@pytest.mark.parametrize(
    ("module", "shape", "heights"),
    [
        (avatars_cfg, (16, 16, 3), ()),
        (punks_cfg, (24, 24, 3), (6,)),
        (punks_uncond_cfg, (32, 32, 3), (8,)),
        (mnist_cfg, (16, 16, 1), (4,)),
        (mnist_classes_cfg, (28, 28, 1), (7,)),
        (default, (64, 64, 3), ()),
    ],
)
def test_the_shipped_nets_take_their_images_and_attend_where_they_say(module, shape, heights):
    section = runtime.jsonable(module.get_config().net.to_dict())
    made = build.make_nets(**section, spec=spec.Spec("made", shape, LabelSpace()), target=losses.TARGETS["eps"](None))
    assert made["net"].attention == heights


def test_a_new_net_is_one_line_of_the_table(monkeypatch):
    class Pixelwise(unet.UNet):
        def check_shape(self, shape):
            raise ValueError("not mine")

    monkeypatch.setitem(nets.NETS, "pixelwise", Pixelwise)
    section = {**runtime.jsonable(default.get_config().net.to_dict()), "name": "pixelwise"}
    with pytest.raises(ValueError, match="not mine"):
        build.make_nets(**section, spec=spec.Spec("made", (5, 5, 3), LabelSpace()), target=losses.TARGETS["eps"](None))


def test_a_palette_head_needs_a_palette(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="palette"):
        build.build(
            tiny_config(
                data__name="folder", data__path=str(tmp_path), data__holdout="", data__root=str(tmp_path / "data")
            )
        )


def test_fewer_images_than_a_batch_are_refused(tmp_path):
    for i in range(10):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"{i}.png")
    folder = {
        "data__name": "folder",
        "data__path": str(tmp_path),
        "data__holdout": "",
        "data__root": str(tmp_path / "d"),
    }
    with pytest.raises(runtime.BadInput, match="there are 10 images to train on, a batch needs 128"):
        build.build(tiny_config(**folder, train__batch_size=128))


def test_fine_tuning_starts_from_the_averaged_parameters_of_another_run(trained):
    run = build.build(tiny_config(init_from=str(trained), seed=5))
    first, saved = run.init(8), checkpoint.load_arrays(trained / "checkpoints" / "8", "ema")
    jax.tree.map(np.testing.assert_array_equal, first.params, saved)
    jax.tree.map(np.testing.assert_array_equal, first.ema, saved)
    assert int(first.step) == 0 and not jax.tree.leaves(first.opt_state)[1].any() and first.early is None
    early = build.build(tiny_config(init_from=str(trained), optimizer__early=4)).init(8).early
    jax.tree.map(np.testing.assert_array_equal, early, saved)


def test_fine_tuning_from_a_net_without_a_common_array_is_refused(trained):
    run = build.build(tiny_config(init_from=str(trained), net__channels=16, net__head_channels=8, net__word_maps=8))
    with pytest.raises(runtime.BadInput, match=r"init_from: no array of .*checkpoints/8 fits this net; give a checkpo"):
        run.init(8)


def space(kinds, things):
    return LabelSpace((Categorical("kind", kinds.split()), Flags("thing", things.split())))


def test_transplanting_moves_words_by_name_and_lists_what_is_fresh():
    old = {
        "word_maps": {"present": np.array([[1.0], [2.0]])},
        "label_in": {"kernel": np.array([[1.0], [2.0], [3.0], [4.0]])},
    }
    old |= {"stem": np.ones(3), "out": np.ones(2)}
    new = {"word_maps": {"present": np.zeros((3, 1))}, "label_in": {"kernel": np.zeros((6, 1))}}
    new |= {"stem": np.zeros(3), "out": np.zeros(4), "extra": np.zeros(1)}
    params, fresh = state.transplant(new, old, space("", "Hat Cat Dog"), space("", "Cat Hat"))
    assert params["word_maps"]["present"].ravel().tolist() == [2, 1, 0]
    assert params["label_in"]["kernel"].ravel().tolist() == [2, 1, 0, 4, 3, 0]
    assert params["stem"].all() and not params["out"].any()
    assert set(fresh) == {"out", "extra", "word_maps/present[Dog]", "label_in/kernel[Dog]"}


def test_transplanting_moves_tones_by_the_names_of_the_words_that_have_them():
    old = {state.LAYERS: {"tones": np.ones((2, 3, 4)) * np.array([1.0, 2.0])[:, None, None]}}
    new = {state.LAYERS: {"tones": np.zeros((2, 3, 4))}}
    params, fresh = state.transplant(new, old, space("Elf Cat", "Cap Hat"), space("Cat Elf", "Hat"))
    assert params[state.LAYERS]["tones"][:, 0, 0].tolist() == [2, 1] and not fresh
    params, fresh = state.transplant(new, old, space("Dog Elf", "Hat"), space("Cat Elf", "Hat"))
    assert params[state.LAYERS]["tones"][:, 0, 0].tolist() == [0, 2] and fresh == ["word_layers/tones[Dog]"]


def test_a_model_that_is_shown_no_label_has_no_words():
    run = build.build(tiny_config(masks__none=1.0, masks__subset=0.0))
    assert run.meta["spec"]["labels"] == [] and "label_in" not in run.abstract.params


def test_parts_of_a_batch_are_named_when_they_do_not_divide():
    with pytest.raises(ValueError, match=r"of 16 images in 16 parts, each part: batch_size 1 is not divisible by 2"):
        build.build(tiny_config(train__accumulate=16))


def test_what_pictures_are_is_the_ground_of_their_layers():
    space = LabelSpace((Flags("things", ("Bell",)), Categorical("kind", ("Cat", "Dog")), Flags("more", ("Cap",))))
    section = runtime.jsonable(avatars_cfg.get_config().net.to_dict())
    made = build.make_nets(**section, spec=spec.Spec("made", (16, 16, 3), space), target=losses.TARGETS["eps"](None))
    assert made["net"].word_ground == (1, 2)
