"""Facts about animations: frames come back, forms by suffix, and the recipe inside a GIF."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import animation, images, runtime


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read_gif(path: Path) -> list[np.ndarray]:
    with Image.open(path) as gif:
        frames = []
        for i in range(getattr(gif, "n_frames", 1)):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")))
        return frames


def test_frames_of_few_colours_come_back_exactly(tmp_path: Path) -> None:
    palette = random_images(200, 3)
    frames = palette[np.random.default_rng(1).integers(0, 200, (6, 4, 8, 8))]
    animation.write(frames, tmp_path / "a.gif", columns=2, scale=2)
    back = read_gif(tmp_path / "a.gif")
    assert len(back) == 6
    for frame, found in zip(frames, back, strict=True):
        assert np.array_equal(found, images.enlarge(images.tile(frame, 2), 2))


def test_frames_of_many_colours_come_back_nearly(tmp_path: Path) -> None:
    ramp = np.stack(np.meshgrid(*[np.linspace(0, 255, 32)] * 2), axis=-1)
    frames = np.stack([np.dstack([ramp, np.full((32, 32), 40.0 * f)]) for f in range(3)]).astype(np.uint8)[:, None]
    animation.write(frames, tmp_path / "a.gif")
    back = read_gif(tmp_path / "a.gif")
    assert [np.abs(found - frame[0].astype(int)).mean() < 8 for frame, found in zip(frames, back, strict=True)] == [
        True
    ] * 3


def test_grey_frames_and_times_come_back(tmp_path: Path) -> None:
    frames = random_images(3, 1, 8, 8, 1)
    animation.write(frames, tmp_path / "a.gif", ms=50)
    assert all(
        np.array_equal(b[..., 0], f[0, ..., 0]) for b, f in zip(read_gif(tmp_path / "a.gif"), frames, strict=True)
    )
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.info["duration"], gif.info["loop"]) == (50, 0)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8, 3), (8, 8, 3)])
def test_frames_without_a_picture_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[f, n, h, w, c\] with f of 1 or more"):
        animation.write(random_images(*shape), tmp_path / "a.gif")


@pytest.mark.parametrize(("name", "frames"), [("a.gif", 3), ("a.png", 3), ("a.apng", 3), ("a.webp", 3)])
def test_the_suffix_says_the_form_of_an_animation(tmp_path: Path, name: str, frames: int) -> None:
    made = random_images(frames, 2, 8, 8, 3)
    animation.write(made, tmp_path / name, columns=1)
    with Image.open(tmp_path / name) as picture:
        assert picture.n_frames == frames and picture.size == (8, 16)
        if not name.endswith("gif"):  # the others are lossless
            picture.seek(1)
            assert np.array_equal(np.asarray(picture.convert("RGB")), made[1].reshape(16, 8, 3))


def test_another_suffix_is_no_animation(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a.mp4 is no animation; its name must end in one of .gif, .png, .apng, .webp"
    ):
        animation.write(random_images(1, 1, 8, 8, 3), tmp_path / "a.mp4")


def test_a_gif_carries_its_recipe() -> None:
    recipe = {"job": {"kind": "sheet", "label": "Zombie, Mohawk"}, "scale": 4}
    content = animation.encode(random_images(3, 1, 8, 8, 3), recipe=recipe)
    assert animation.recipe_in(content, "it") == recipe
    assert animation.recipe_in(animation.encode(random_images(3, 1, 8, 8, 3)), "it") is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"%!PS-Adobe-3.0 EPSF", "it is not a GIF file"),
        (b"GIF89a" + b"\xff" * 4, "it is 65535x65535 pixels; from 1 to"),
        (b"GIF89a\x08\x00\x08\x00", "it is not a whole GIF file"),
    ],
)
def test_what_is_no_gif_or_too_large_is_refused_before_it_is_decoded(content: bytes, sentence: str) -> None:
    with pytest.raises(runtime.BadInput, match=sentence):
        animation.recipe_in(content, "it")
