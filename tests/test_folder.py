"""`folder:<dir>`: what is derived from a directory of made images, and what is said of each thing that is wrong."""

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import datasets
from ddpm_jax.datasets import folder
from ddpm_jax.labels import Categorical, Flags

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def photo(height: int = 4, width: int = 6) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images of two colours, and a file that is none."""
    where = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "b.PNG", "c.bmp")):
        save(where / name, np.full((4, 6, 3), (10, 20, 30 + number % 2), np.uint8))
    (where / "notes.txt").write_text("not an image")
    (where / ".thumbs").mkdir()
    save(where / ".thumbs" / "a.png", photo())
    return where


def load(where: Path, **how: str | int) -> datasets.Dataset:
    return datasets.load(f"folder:{where}", root=str(where.parent / "data"), **how)  # pyright: ignore[reportArgumentType]


def test_images_with_few_colours_become_palette_indices(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = load(pictures)
    assert found.spec.name == "folder:pictures" and found.spec.shape == (4, 6, 3) and found.spec.labels.size == 0
    assert found.spec.palette is not None and found.spec.palette.tolist() == [[10, 20, 30], [10, 20, 31]]
    assert np.asarray(found.images)[:, 0, 0].tolist() == [0, 1, 0] and found.train.tolist() == [0, 1, 2]
    assert found.pixels(np.array([1]))[0, 0, 0].tolist() == [10, 20, 31]
    assert "folder:pictures: 3 images of 4x6x3, 2 colours" in caplog.text


def test_more_than_256_colours_have_no_palette(tmp_path: Path) -> None:
    many = np.stack([np.arange(257) // 256, np.arange(257) % 256, np.zeros(257)], axis=-1).astype(np.uint8)[None]
    save(tmp_path / "few" / "a.png", many[:, :256])
    save(tmp_path / "many" / "a.png", many)
    few, found = load(tmp_path / "few"), load(tmp_path / "many")
    assert few.spec.palette is not None and len(few.spec.palette) == 256
    assert found.spec.palette is None and (np.asarray(found.images)[0] == many).all()


def test_indices_and_palette_restore_the_images() -> None:
    images = RNG.integers(0, 4, (5, 3, 3, 3)).astype(np.uint8)
    found = folder.indexed(images)
    assert (found["palette"][found["images"]] == images).all()
    assert found["palette"].tolist() == sorted(found["palette"].tolist())


def test_every_usual_pixel_format_is_read(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (4, 6)).astype(np.uint8)
    save(tmp_path / "grey" / "8.png", grey)
    save(tmp_path / "grey" / "16.png", grey.astype(np.uint16) * 256 + 7)
    save(tmp_path / "grey" / "alpha.png", np.stack([grey, np.full_like(grey, 255)], axis=-1))
    found = load(tmp_path / "grey")
    assert found.spec.shape == (4, 6, 1) and (found.pixels(np.arange(3))[..., 0] == grey).all()

    flat = np.zeros((4, 6, 3), np.uint8) + np.array([0, 255, 0], np.uint8)
    save(tmp_path / "colour" / "rgb.png", flat)
    save(tmp_path / "colour" / "p.png", flat, "P")
    save(tmp_path / "colour" / "rgba.png", flat, "RGBA")
    found = load(tmp_path / "colour")
    assert found.spec.shape == (4, 6, 3) and (found.pixels(np.arange(3)) == flat).all()

    save(tmp_path / "mixed" / "grey.png", grey)
    save(tmp_path / "mixed" / "rgb.png", flat)
    found = load(tmp_path / "mixed")
    assert found.spec.shape == (4, 6, 3) and (found.pixels(np.array([0]))[0] == grey[..., None]).all()


def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[0] = 255
    image[1, 1] = (200, 0, 0, 255)
    save(tmp_path / "a" / "a.png", image)
    found = load(tmp_path / "a")
    assert found.spec.background == (255, 255, 255)
    assert found.pixels(np.array([0]))[0].tolist() == [[[255] * 3, [255] * 3], [[255] * 3, [200, 0, 0]]]


def test_columns_of_the_table_become_groups(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures / "attributes.csv").write_text(
        'file, type, worn, pet, "eyes"\nb.PNG, Human, Hat / Pipe,,blue\nc.bmp, Ape,, Dog,\na.png, Human, Pipe,,green\n'
    )
    with caplog.at_level(logging.INFO):
        found = load(pictures)
    assert found.spec.labels.groups == (
        Categorical("type", ("Ape", "Human")),
        Flags("worn", ("Hat", "Pipe")),
        Flags("pet", ("Dog",)),
        Categorical("eyes", ("blue", "green")),
    )
    said = [found.spec.labels.format(row, complete=True) for row in found.labels]
    assert said == ["Human, Pipe, green", "Human, Hat, Pipe, blue", "Ape, Dog"]
    assert set(np.unique(found.labels)) == {-1, 1}
    assert "Categorical type: Ape, Human" in caplog.text and "Flags worn: Hat, Pipe" in caplog.text


def test_subdirectories_are_classes(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/young/3.png"):
        save(tmp_path / "pets" / name, photo())
    found = load(tmp_path / "pets")
    assert found.spec.labels.groups == (Categorical("class", ("cat", "dog")),)
    assert found.labels.argmax(axis=1).tolist() == [0, 0, 1]


def test_a_directory_with_the_name_of_an_image_is_none(tmp_path: Path) -> None:
    save(tmp_path / "pets" / "sheet.png" / "1.png", photo())
    found = load(tmp_path / "pets")
    assert len(found.images) == 1 and found.spec.labels.words == ("sheet.png",)


def test_a_file_lists_what_is_held_out_by_name_or_id(pictures: Path) -> None:
    (pictures / "held.txt").write_text("c.bmp\n0\n")
    assert load(pictures, holdout=str(pictures / "held.txt")).heldout.tolist() == [0, 2]
    (pictures / "held.txt").write_text("d.bmp\n")
    with pytest.raises(ValueError, match=r"held.txt line 1: 'd.bmp' is not an image of .*pictures"):
        load(pictures, holdout=str(pictures / "held.txt"))
    with pytest.raises(ValueError, match="unknown holdout 'iid'; give a text file of ids"):
        load(pictures, holdout="iid")


def test_the_arrays_are_cached_until_a_file_changes(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(pictures).fingerprint
    with monkeypatch.context() as patch:
        patch.delattr(folder, "_array")
        assert load(pictures).fingerprint == before
    save(pictures / "c.bmp", np.zeros((4, 6, 3), np.uint8))  # of the same length
    assert load(pictures).fingerprint != before


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_directory_that_is_not_there_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ValueError, match=rf"'{place}' is not a directory; write folder:<directory of images>"):
        datasets.load("folder", path=place, root=str(tmp_path))


def test_a_directory_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no images \(\.png, "):
        load(tmp_path / "empty")


def test_a_broken_image_is_named(pictures: Path) -> None:
    save(pictures / "d.png", photo(64, 64))
    whole = (pictures / "d.png").read_bytes()
    (pictures / "d.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"d\.png is a broken image \("):
        load(pictures)
    (pictures / "d.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n")
    with pytest.raises(ValueError, match=r"d\.png is not an image \(PNG, "):
        load(pictures)


def test_an_image_of_another_size_is_named(pictures: Path) -> None:
    save(pictures / "d.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ValueError, match=r"d\.png is 1x1, but a\.png is 4x6; all images need one size"):
        load(pictures)
    (pictures / "d.png").unlink()
    with pytest.raises(ValueError, match=r"size 4 is not that of the images in .*, 4x6; leave it at 0"):
        load(pictures, size=4)


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    save(tmp_path / "dot" / "a.png", np.zeros((1, 1, 3), np.uint8))
    assert load(tmp_path / "dot", size=1).spec.shape == (1, 1, 3)


@pytest.mark.parametrize("side", [1025, 13_000, 20_000])
def test_a_huge_image_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "huge" / "a.png", photo())
    whole = (tmp_path / "huge" / "a.png").read_bytes()
    head = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
    (tmp_path / "huge" / "a.png").write_bytes(whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:])
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")
    with pytest.raises(ValueError, match=r"a\.png is (\d+x\d+ \(height x width\), more|far larger) than 1024x1024"):
        load(tmp_path / "huge")


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("F", (4, 6)).save(tmp_path / "deep" / "a.tif", "TIFF")
    (tmp_path / "deep" / "a.tif").rename(tmp_path / "deep" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not an image"):
        load(tmp_path / "deep")
    with pytest.raises(ValueError, match=r"a\.png has pixels of mode 'F'; save it with 8 bits a channel"):
        folder._array(Image.new("F", (4, 6)), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,kind\na.png,x\n", r"has columns \['name', 'kind'\]; the first must be 'file'"),
        ("file\na.png\n", r"has columns \['file'\]"),
        ("", r"has columns \[\]"),
        ("file,kind,kind\na.png,x,y\n", "each named once"),
        ("file,kind\na.png\n", "row 2 has 1 cells, expected 2"),
        ("file,kind\na.png,x\nb.PNG,y\na.png,x\n", r"row 4 is the second of 'a\.png'"),
        ("file,kind\na.png,x\nb.PNG,y\n", r"c\.bmp has no row in .*attributes\.csv"),
        ("file,kind\na.png,x\nb.PNG,y\nc.bmp,x\nd.png,x\n", r"d\.png is in .*attributes\.csv, but not there"),
        ("file,kind\na.png,\nb.PNG,\nc.bmp,\n", r"attributes\.csv: column 'kind' has no words"),
        ("file,one,two\na.png,x,y\nb.PNG,y,x\nc.bmp,x,x\n", r"attributes\.csv: word 'x' occurs twice"),
        ('file,kind\na.png,"x, y"\nb.PNG,y\nc.bmp,x\n', r"attributes\.csv: word 'x, y' cannot stand in a label"),
    ],
)
def test_a_slip_in_the_table_is_named(pictures: Path, table: str, message: str) -> None:
    (pictures / "attributes.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        load(pictures)
