"""`scripts/prepare_data.py`: what it makes, and its exit codes."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import conftest
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import punks, raw
from ddpm_jax.datasets.punks import sheet

MIRROR = os.environ.get(raw.MIRROR, "")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")


@pytest.fixture
def script() -> ModuleType:
    return conftest.script("prepare_data")


@needs_mirror
def test_punks_are_cached_and_prepared(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["punks", f"--root={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"punks: 10000 images of 24x24x3, 96 words; in {tmp_path / 'cache'}" in said
    assert f"punks for TFDS: {tmp_path / 'tfds' / 'punks' / 'iid' / '1.0.0'}" in said
    assert (tmp_path / "tfds" / "punks" / "iid" / "1.0.0" / "dataset_info.json").exists()


@needs_mirror
def test_where_tfds_is_not_installed_it_says_so_and_training_has_what_it_needs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script.main(["punks", f"--root={tmp_path}"]) == 0
    assert "punks for TFDS: not prepared, tensorflow_datasets is not installed" in capsys.readouterr().out
    assert not (tmp_path / "tfds").exists()
    monkeypatch.delenv(raw.MIRROR)
    assert len(datasets.load("punks", root=str(tmp_path)).images) == 10_000


@needs_mirror
def test_the_images_alone_need_neither_table_nor_tfds(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert script.main(["punks-images", f"--root={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith("punks_images: 10000 images of 24x24x3, 0 words; in")
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.npz")) == ["punks_images.npz"]


def test_data_that_cannot_be_had_ends_in_a_sentence_and_65(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(raw.MIRROR, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(raw, "BACKOFF", ())
    monkeypatch.setattr(sheet, "SHEET", sheet.SHEET._replace(url="http://127.0.0.1:1/punks.png"))
    assert script.main(["punks", f"--root={tmp_path}"]) == 65
    assert "cannot download http://127.0.0.1:1/punks.png" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_ends_in_a_sentence_and_74(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert script.main(["punks-images", f"--root={tmp_path / 'file'}"]) == 74
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_all_is_every_set_that_has_raw_files(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(script, "prepare", lambda name, root: asked.append(name))
    assert script.main(["all"]) == 0
    assert asked == ["punks_images", "punks", "mnist"]
    assert set(script.PREPARED) <= set(asked) <= set(datasets.DATASETS)


def test_an_unknown_name_is_refused_with_the_choices(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["punk"]) == 65
    assert "invalid choice: 'punk' (choose from " in (said := capsys.readouterr().err) and "punks-images" in said


@pytest.mark.parametrize("root", ["", "  "])
def test_an_empty_root_is_refused(script: ModuleType, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["punks", f"--root={root}"]) == 65
    assert capsys.readouterr().err == "--root is empty; name a directory, as in --root=data\n"


def test_the_prepared_default_is_the_split_that_training_defaults_to() -> None:
    assert punks.prepare.__defaults__ == ("iid",)
