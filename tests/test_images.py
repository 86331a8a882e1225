"""Facts about pictures: pixels stay where they are, recipes and frames come back, hostile files are refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import images, runtime


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_pixels_of_one_picture_are_those_of_the_array(shape: tuple[int, ...]) -> None:
    array = random_images(*shape)
    assert np.array_equal(np.asarray(images.to_pil(array)), array[..., 0] if shape[2:] == (1,) else array)


@pytest.mark.parametrize("array", [np.zeros((4, 5), np.float32), np.zeros((4, 5, 2), np.uint8), np.zeros(3, np.uint8)])
def test_what_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an image is .*; give uint8 \[h, w\] or"):
        images.to_pil(array)


def test_tiles_lie_in_rows() -> None:
    batch = random_images(5, 2, 3, 3)
    sheet = images.tile(batch, 3, gap=1)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, 3)
    for i, image in enumerate(batch):
        row, column = divmod(i, 3)
        assert np.array_equal(sheet[3 * row : 3 * row + 2, 4 * column : 4 * column + 3], image)
    assert (sheet[2] == 255).all() and (sheet[:, 3] == 255).all() and (sheet[3:, 8:] == 255).all()


def test_fewer_images_than_columns_make_a_short_row() -> None:
    assert images.tile(random_images(2, 4, 4, 1), 8).shape == (4, 8, 1)


@pytest.mark.parametrize(("shape", "columns"), [((4, 4, 3), 2), ((1, 4, 4, 3), 0)])
def test_an_impossible_layout_is_refused(shape: tuple[int, ...], columns: int) -> None:
    with pytest.raises(ValueError, match=r"in . columns; give \[n, h, w, c\] and 1 column or more"):
        images.tile(random_images(*shape), columns)


def test_enlarged_pixels_stay_pixels() -> None:
    batch = random_images(2, 3, 4, 3)
    large = images.enlarge(batch, 5)
    assert large.shape == (2, 15, 20, 3)
    assert np.array_equal(large[:, 2::5, 3::5], batch)
    with pytest.raises(ValueError, match="scale 0 is not 1 or more"):
        images.enlarge(batch, 0)


def test_a_grid_is_tiles_enlarged() -> None:
    batch = random_images(4, 3, 3, 3)
    picture = images.grid(batch, 2, scale=2)
    assert picture.size == (12, 12)
    assert np.array_equal(np.asarray(picture)[::2, ::2], images.tile(batch, 2))


def test_an_attribute_grid_has_each_image_and_legible_names() -> None:
    cells = random_images(2, 3, 8, 8, 3)
    picture = np.asarray(images.attribute_grid(cells, ["Male", "Female"], ["Mohawk Dark", "Pipe", "-"], scale=3))
    for image in cells.reshape(-1, 8, 8, 3):
        assert contains(picture, images.enlarge(image, 3))
    ink = (picture == 0).all(axis=-1)
    assert ink[:28].sum() > 60 and ink[28:, :60].sum() > 60  # above the columns, before the rows


def contains(picture: np.ndarray, image: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(picture, image.shape)[:, :, 0]
    candidates = np.argwhere((windows[:, :, 0, 0] == image[0, 0]).all(axis=-1))
    return any(np.array_equal(windows[y, x], image) for y, x in candidates)


def test_names_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="a grid of 2x3 images has 2 row names and 1 column names"):
        images.attribute_grid(random_images(2, 3, 8, 8, 3), ["a", "b"], ["c"])


def test_a_recipe_comes_back_with_its_picture(tmp_path: Path) -> None:
    array = random_images(4, 4, 3)
    recipe = {"label": "Female, -Pipe", "seed": 3, "guidance": 1.5, "note": "Übung ☕"}
    images.write_png(images.to_pil(array), tmp_path / "a.png", recipe)
    assert images.read_recipe(tmp_path / "a.png") == recipe
    assert np.array_equal(images.read_png(tmp_path / "a.png"), array)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_picture_without_a_recipe_has_none(tmp_path: Path) -> None:
    images.write_png(images.to_pil(random_images(4, 4, 4)), tmp_path / "a.png")
    assert images.read_recipe(tmp_path / "a.png") is None
    assert images.read_png(tmp_path / "a.png").shape == (4, 4, 4)


@pytest.mark.parametrize("text", ["[1]", "{'a'", "null"])
def test_a_recipe_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt(images.RECIPE, text)
    images.to_pil(random_images(4, 4, 3)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(runtime.BadInput, match=r"a\.png carries a recipe that is not a JSON object"):
        images.read_recipe(tmp_path / "a.png")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def of_pillow(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


BOMB = chunk(b"zTXt", b"ddpm_jax\0\0" + zlib.compress(bytes(2 * 2**20)))
HOSTILE = {
    "169 megapixels": (
        png(13000, 13000, chunk(b"IDAT", zlib.compress(bytes(100)))),
        "is 13000x13000 pixels; from 1 to",
    ),
    "no pixels": (png(0, 5), "is 0x5 pixels"),
    "a product that overflows 32 bits": (png(2**31, 2**31), "is 2147483648x2147483648 pixels"),
    "EPS": (of_pillow("EPS"), "is not a PNG file"),
    "GIF": (of_pillow("GIF"), "is not a PNG file"),
    "nothing": (b"", "is not a PNG file"),
    "a signature": (b"\x89PNG\r\n\x1a\n", "is not a PNG file"),
    "no data": (png(4, 4), "is not a whole PNG file"),
    "torn data": (of_pillow("PNG")[:-24], "is not a whole PNG file"),
    "broken data": (png(4, 4, chunk(b"IDAT", b"no zlib")), "is not a whole PNG file"),
    "a text that grows": (png(4, 4, BOMB), "is not a whole PNG file"),
}


@pytest.mark.parametrize(("content", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(runtime.BadInput, match=rf"a\.png {sentence}"):
        images.read_png(tmp_path / "a.png")


def test_the_size_is_refused_before_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was given the file"))
    (tmp_path / "a.png").write_bytes(HOSTILE["169 megapixels"][0])
    for read in (images.read_png, images.read_recipe):
        with pytest.raises(runtime.BadInput, match="13000x13000 pixels"):
            read(tmp_path / "a.png")


def test_a_file_of_boundless_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(runtime.BadInput, match="has 67108865 bytes; at most 67108864 are read"):
        images.read_recipe(tmp_path / "a.png")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runtime.BadInput, match=r"a\.png cannot be read: No such file"):
        images.read_recipe(tmp_path / "a.png")


def test_a_contact_sheet_has_each_picture_and_a_caption_below() -> None:
    made = random_images(5, 8, 8, 3)
    sheet = np.asarray(images.contact_sheet(made, ["Mohawk Dark", "Pipe", "a", "b", "c"], 3, scale=3))
    cell_w, cell_h = (sheet.shape[1] - 6) // 3, (sheet.shape[0] - 6) // 2
    for i, image in enumerate(made):
        top, left = 6 + i // 3 * cell_h, 6 + i % 3 * cell_w
        cell = sheet[top : top + cell_h, left : left + cell_w]
        offset = (cell_w - 6 - 24) // 2
        assert np.array_equal(cell[:24, offset : offset + 24], images.enlarge(image, 3))
        assert (cell[24:] < 128).any()
    with pytest.raises(ValueError, match="5 images have 1 captions"):
        images.contact_sheet(made, ["a"], 3)


def test_one_colour_becomes_clear() -> None:
    made = random_images(2, 4, 4, 3)
    made[:, 0] = (9, 8, 7)
    clear = images.transparent(made, (9, 8, 7))
    assert not clear[:, 0, :, 3].any() and (clear[:, 1:, :, 3] == 255).all() and np.array_equal(clear[..., :3], made)
    with pytest.raises(ValueError, match="images of 1 channels have no background"):
        images.transparent(made[..., :1], (9, 8, 7))


def test_a_picture_is_fitted_to_a_model() -> None:
    made = random_images(4, 6, 3)
    fit = images.fit
    assert np.array_equal(fit(made, (4, 6, 3), None), made)
    assert np.array_equal(fit(images.enlarge(made, 7), (4, 6, 3), None), made)
    grey = fit(made, (4, 6, 1), None)
    assert grey.shape == (4, 6, 1) and np.array_equal(fit(grey[..., 0], (4, 6, 1), None), grey)
    clear = np.concatenate([made, np.zeros((4, 6, 1), np.uint8)], axis=-1)
    assert (fit(clear, (4, 6, 3), (1, 2, 3)) == (1, 2, 3)).all() and (fit(clear, (4, 6, 3), None) == 255).all()


@pytest.mark.parametrize("shape", [(5, 6, 3), (3, 6, 3), (8, 6, 3), (8, 12, 3)])
def test_a_picture_of_another_size_is_not_resampled(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"the picture is \d+x\d+; give 6x4, or a multiple of it whose pixels are square"
    ):
        images.fit(random_images(*shape), (4, 6, 3), None)
