"""CryptoPunks: the facts of the benchmark, checked on the real files; and the builder that TFDS runs."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import cache, punks, raw
from ddpm_jax.datasets.punks import sheet, splits

MIRROR = os.environ.get(raw.MIRROR, "")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(root: str) -> datasets.Dataset:
    return datasets.load("punks", root=root)


@needs_mirror
@pytest.mark.parametrize(
    ("name", "size", "solvable"),
    [
        ("iid", 1000, 999),
        ("pairs", 1373, 1370),
        ("skin", 814, 683),
        ("length", 178, 177),
        ("zombie", 47, 46),
        ("few500", 9500, 9160),
        ("few1000", 9000, 8832),
        ("few2000", 8000, 7950),
    ],
)
def test_a_split_holds_out_as_many_as_the_benchmark_says(root: str, name: str, size: int, solvable: int) -> None:
    found = datasets.load("punks", holdout=name, root=root)
    assert len(found.heldout) == size and len(found.train) == 10_000 - size
    assert set(found.train) | set(found.heldout) == set(range(10_000))
    has = np.zeros((10_000, 222), bool)
    has[np.arange(10_000)[:, None], np.asarray(found.images).reshape(10_000, -1)] = True
    unseen = ~has[found.train].any(axis=0)
    assert (~has[found.heldout][:, unseen].any(axis=1)).sum() == solvable


@needs_mirror
def test_the_held_out_pairs_are_those_of_the_benchmark(whole: datasets.Dataset) -> None:
    pairs = splits.heldout_pairs(punks.labels_for_splits(whole.labels))
    assert len(pairs) == 60 and pairs[0] == ("Regular Shades", "Vampire Hair")
    worn = (whole.labels[:, whole.spec.labels.slice_of("accessories")] > 0).astype(int)
    assert (np.triu(worn.T @ worn, 1) >= splits.TOGETHER).sum() == 985


@needs_mirror
def test_the_stored_images_are_the_sheet(whole: datasets.Dataset, root: str) -> None:
    original = sheet.images(Path(MIRROR, "punks", "punks.png"))
    assert (punks.rgba_palette(root)[np.asarray(whole.images)] == original).all()
    assert (whole.pixels(np.arange(100)) == sheet.over_background(original[:100])).all()
    assert whole.spec.palette is not None and whole.spec.palette[0].tolist() == list(sheet.BACKGROUND)


@needs_mirror
def test_all_222_colours_stay_distinct_over_the_background_alone(root: str) -> None:
    palette = punks.rgba_palette(root)
    assert palette.shape == (222, 4)
    assert len(np.unique(sheet.over_background(palette), axis=0)) == 222
    for other in (0, 255):
        alpha = palette[:, 3:].astype(int)
        assert len(np.unique((palette[:, :3] * alpha + other * (255 - alpha) + 127) // 255, axis=0)) == 219


@needs_mirror
def test_labels_and_images_are_in_one_to_one_correspondence(whole: datasets.Dataset) -> None:
    assert len(np.unique(whole.labels, axis=0)) == 10_000
    assert len(np.unique(np.asarray(whole.images).reshape(10_000, -1), axis=0)) == 10_000


@needs_mirror
def test_labels_are_complete_and_say_what_the_table_says(whole: datasets.Dataset) -> None:
    space, labels = whole.spec.labels, whole.labels
    assert set(np.unique(labels)) == {-1, 1} and labels.shape == (10_000, 96)
    assert ((labels[:, space.slice_of("type")] > 0).sum(axis=1) == 1).all()
    human = (labels[:, [space.index("Male"), space.index("Female")]] > 0).any(axis=1)
    assert ((labels[:, space.slice_of("skin")] > 0).sum(axis=1) == human).all()
    counts = {word: int((labels[:, space.index(word)] > 0).sum()) for word in sheet.TYPES}
    assert counts == {"Male": 6039, "Female": 3840, "Zombie": 88, "Ape": 24, "Alien": 9}
    assert np.bincount((labels[:, space.slice_of("accessories")] > 0).sum(axis=1)).nonzero()[0].tolist() == list(
        range(8)
    )
    written = space.parse("Female, Medium, Green Eye Shadow, Earring, Blonde Bob", complete=True)
    assert (labels[0] == written).all()


@needs_mirror
def test_size_32_is_the_same_picture_with_a_margin_of_background(whole: datasets.Dataset, root: str) -> None:
    padded = datasets.load("punks", size=32, root=root)
    images = np.asarray(padded.images)
    assert padded.spec.shape == (32, 32, 3) and (images[:, 4:28, 4:28] == whole.images).all()
    assert images.sum() == np.asarray(whole.images).sum()
    assert (padded.pixels(np.array([0]))[0, 0, 0] == sheet.BACKGROUND).all()


@needs_mirror
def test_the_sheet_alone_does_without_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "TABLE", sheet.TABLE._replace(path="not/there", url="http://127.0.0.1:1/"))
    found = datasets.load("punks_images", holdout="few500", root=str(tmp_path))
    assert found.labels.shape == (10_000, 0) and len(found.train) == 500
    with pytest.raises(ValueError, match="unknown holdout 'pairs'; did you mean"):
        datasets.load("punks_images", holdout="pairs", root=str(tmp_path))


@needs_mirror
def test_any_list_of_ids_can_be_held_out(root: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("9999\n17\n")
    assert datasets.load("punks", holdout=str(tmp_path / "ids.txt"), root=root).heldout.tolist() == [17, 9999]
    (tmp_path / "ids.txt").write_text("10000\n")
    with pytest.raises(ValueError, match=r"line 1: '10000' is not an id of a punk \(0 to 9999\)"):
        datasets.load("punks", holdout=str(tmp_path / "ids.txt"), root=root)
    with pytest.raises(ValueError, match="unknown holdout 'pair'; did you mean pairs"):
        datasets.load("punks", holdout="pair", root=root)


@needs_mirror
def test_once_cached_numpy_alone_loads_it_without_a_network(
    whole: datasets.Dataset, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(raw.MIRROR)
    for library in ("PIL", "tensorflow_datasets", "array_record", "urllib.request"):
        monkeypatch.setitem(sys.modules, library, None)
    assert datasets.load("punks", root=root).fingerprint == whole.fingerprint


@needs_mirror
def test_a_damaged_cache_is_decoded_again_to_the_same_fingerprint(
    tmp_path: Path, whole: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    datasets.load("punks", root=str(tmp_path))
    blob = tmp_path / "cache" / "punks_labels.npz"
    blob.write_bytes(blob.read_bytes()[:-1000])
    assert datasets.load("punks", root=str(tmp_path)).fingerprint == whole.fingerprint
    assert "punks_labels.npz is damaged" in caplog.text


@needs_mirror
def test_the_tfds_builder_prepares_the_same_images_and_labels(whole: datasets.Dataset, tmp_path: Path) -> None:
    from ddpm_jax.datasets.punks.punks_dataset_builder import Builder

    where = punks.prepare(str(tmp_path), "few500")
    assert where == tmp_path / "tfds" / "punks" / "few500" / "1.0.0"
    assert punks.prepare(str(tmp_path), "few500") == where
    builder = Builder(config="few500", data_dir=str(tmp_path / "tfds"))
    source: Any = builder.as_data_source()
    found = datasets.load("punks", holdout="few500", root=str(tmp_path))
    assert len(source["train"]) == 500 and len(source["test"]) == 9500
    palette = punks.rgba_palette(str(tmp_path))
    features: Any = builder.info.features
    for example, position in zip(source["train"].__getitems__(list(range(500))), found.train, strict=True):
        assert example["id"] == position
        assert (example["image"] == palette[np.asarray(found.images)[position]]).all()
        kind, gender, skin = (features[name].int2str(example[name]) for name in ("type", "gender", "skin"))
        worn = [sheet.ACCESSORIES[one] for one in example["accessories"]]
        words = [gender if kind == "Human" else kind, *([] if skin == "None" else [skin]), *worn]
        assert (whole.spec.labels.parse(", ".join(words), complete=True) == found.labels[position]).all()
    assert "tensorflow" not in sys.modules


def test_the_builder_documents_itself() -> None:
    from ddpm_jax.datasets.punks.punks_dataset_builder import Builder

    assert [config.name for config in Builder.BUILDER_CONFIGS] == [*splits.SPLITS, "all"]
    assert all(config.description for config in Builder.BUILDER_CONFIGS)
    said = Builder.get_metadata()
    assert said.description.startswith("CryptoPunks: 10,000 avatars") and "@misc" in said.citation
    infos = Builder.url_infos or {}
    pinned = {file.url: (file.sha256, file.size) for file in (sheet.SHEET, sheet.TABLE)}
    assert {url: (info.checksum, int(info.size)) for url, info in infos.items()} == pinned


def test_a_few_punks_are_the_first_by_hash() -> None:
    blank = np.zeros(10_000, bool)
    labels = splits.Labels(np.arange(10_000), blank, blank, blank[:, None], ())
    kept = {count: set(np.flatnonzero(~splits.heldout(f"few{count}", labels))) for count in (500, 1000, 2000)}
    assert kept[500] < kept[1000] < kept[2000]
    assert not splits.heldout("", labels).any()


def test_the_rules_of_the_splits_on_a_hand_made_table() -> None:
    worn = np.array([[1, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], bool)
    albino, zombie = np.array([0, 1, 1, 0], bool), np.array([1, 0, 0, 1], bool)
    labels = splits.Labels(np.arange(4), zombie, albino, worn, tuple("abcdef"))
    held = {name: splits.heldout(name, labels).tolist() for name in ("iid", "pairs", "skin", "length", "zombie")}
    assert held == {
        "iid": [True, False, False, False],
        "pairs": [False] * 4,
        "skin": [False, False, True, False],
        "length": [True, False, False, False],
        "zombie": [True, False, False, False],
    }
    with pytest.raises(ValueError, match="unknown holdout 'zombies'; did you mean zombie"):
        splits.heldout("zombies", labels)


def test_colours_are_laid_over_the_background() -> None:
    rgba = np.array([[9, 8, 7, 255], [9, 8, 7, 0], [255, 0, 0, 128]], np.uint8)
    mixed = [round((c * 128 + b * 127) / 255) for c, b in zip((255, 0, 0), sheet.BACKGROUND, strict=True)]
    assert sheet.over_background(rgba).tolist() == [[9, 8, 7], list(sheet.BACKGROUND), mixed]


def test_indices_and_palette_restore_the_images() -> None:
    images = np.random.default_rng(0).integers(0, 3, (5, 4, 4, 4)).astype(np.uint8)
    indices, palette = sheet.indexed(images)
    assert (palette[indices] == images).all() and len(palette) == len(np.unique(palette, axis=0))
    assert palette.tolist() == sorted(palette.tolist())


def test_a_sheet_of_another_shape_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (24, 24)).save(tmp_path / "punks.png")
    with pytest.raises(ValueError, match=r"punks.png has shape \(24, 24, 4\), expected \(2400, 2400, 4\)"):
        sheet.images(tmp_path / "punks.png")


def test_sizes_and_paths_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"punks has no size 48; use 24, or 32 \(padded\)"):
        datasets.load("punks", size=48, root=str(tmp_path))
    with pytest.raises(ValueError, match="punks_images takes no path, got 'here'"):
        datasets.load("punks_images:here", root=str(tmp_path))
    assert not (tmp_path / "cache").exists()


def test_offline_and_without_files_it_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(raw.MIRROR, str(tmp_path / "empty"))
    monkeypatch.setattr(raw, "BACKOFF", ())
    monkeypatch.setattr(sheet, "SHEET", sheet.SHEET._replace(url="http://127.0.0.1:1/punks.png"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:1/punks.png") as refusal:
        datasets.load("punks", root=str(tmp_path))
    assert f"(sha256 {sheet.SHEET.sha256}) as {tmp_path / 'raw' / 'punks' / 'punks.png'}" in str(refusal.value)
    assert cache.arrays(tmp_path / "cache" / "punks_images", 1, dict) == {}
