"""`tfds:<name>`: a set that TFDS prepared here, streamed; and one sentence where there is none."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import datasets
from ddpm_jax.datasets import raw
from ddpm_jax.datasets import tfds as prepared
from ddpm_jax.labels import Categorical

COUNTS = {"train": 7, "test": 3, "validation": 2}
KINDS = ("cat", "dog", "fox")
RNG = np.random.default_rng(0)
IMAGES = {split: RNG.integers(0, 256, (count, 4, 5, 3)).astype(np.uint8) for split, count in COUNTS.items()}


def build(root: Path, name: str, features: dict[str, Any], file_format: str = "array_record") -> None:
    """Let TFDS prepare a set of the `features` it is given: images of IMAGES, label i % 3."""
    import tensorflow_datasets

    class Made(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self) -> tensorflow_datasets.core.DatasetInfo:
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=tensorflow_datasets.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
            return {split: self._generate_examples(split) for split in COUNTS}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, Any]]:
            for number, image in enumerate(IMAGES[split]):
                made = {"image": Image.fromarray(image), "label": number % 3, "id": number, "extra": number % 2}
                made["second"] = made["image"]
                yield number, {name: made[name] for name in features}

    Made.name = name
    Made(data_dir=str(root / "tfds")).download_and_prepare(file_format=file_format)


def features(**others: Any) -> dict[str, Any]:
    from tensorflow_datasets import features

    made = {"image": features.Image(shape=(4, 5, 3)), "label": features.ClassLabel(names=KINDS), "id": np.int64}
    return made | others


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    build(root, "pets", features())
    return root


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(raw.MIRROR, raising=False)


def test_a_prepared_set_streams_its_images(root: Path) -> None:
    found = datasets.load("tfds:pets", root=str(root))
    assert isinstance(found.images, datasets.Source) and len(found.images) == 10
    assert found.spec.shape == (4, 5, 3) and found.spec.palette is None and found.spec.name == "tfds:pets"
    both = np.concatenate([IMAGES["train"], IMAGES["test"]])
    for positions in (np.arange(10), np.array([9, 0, 7, 6, 0]), np.array([], int), np.array([3], np.int32)):
        batch = found.images[positions]
        assert batch.dtype == np.uint8 and (batch == both[positions]).all() and len(batch) == len(positions)
    assert (found.pixels(np.array([8])) == both[8:9]).all()
    assert "tensorflow" not in sys.modules


def test_a_position_that_is_not_there_is_refused(root: Path) -> None:
    found = datasets.load("tfds:pets", root=str(root))
    for positions in ([0, 10], [-1]):
        with pytest.raises(IndexError, match="are not in 0 to 9"):
            found.images[np.array(positions)]


def test_class_labels_become_categoricals(root: Path) -> None:
    found = datasets.load("tfds:pets", root=str(root))
    assert found.spec.labels.groups == (Categorical("label", KINDS),)
    assert found.labels.argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]
    assert (found.labels.sum(axis=1) == -1).all()


def test_only_the_train_split_is_trained_on(root: Path, tmp_path: Path) -> None:
    found = datasets.load("tfds:pets", root=str(root))
    assert found.train.tolist() == list(range(7)) and found.heldout.tolist() == [7, 8, 9]
    assert datasets.load("tfds:pets", holdout="test", root=str(root)).fingerprint == found.fingerprint
    other = datasets.load("tfds:pets:1.0.0", holdout="validation", root=str(root))
    assert other.train.tolist() == list(range(7)) and other.heldout.tolist() == [7, 8]
    assert (other.images[other.heldout] == IMAGES["validation"]).all()
    assert found.spec.holdouts == ("test", "validation")
    (tmp_path / "ids.txt").write_text("2\n")
    listed = datasets.load("tfds:pets", holdout=str(tmp_path / "ids.txt"), root=str(root))
    assert len(listed.images) == 7 and listed.heldout.tolist() == [2]
    for name in ("train", "vallidation"):
        with pytest.raises(ValueError, match=f"unknown holdout '{name}'; did you mean"):
            datasets.load("tfds:pets", holdout=name, root=str(root))


def test_labels_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datasets.load("tfds:pets", root=str(root))
    monkeypatch.delattr(prepared, "examples")
    assert (datasets.load("tfds:pets", root=str(root)).labels == before.labels).all()


def test_the_mirror_serves_prepared_sets_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(raw.MIRROR, str(root))
    assert prepared.find("pets", str(tmp_path)) == root / "tfds" / "pets" / "1.0.0"


def test_the_newest_version_counts_unless_one_is_named(tmp_path: Path) -> None:
    for version in ("2.0.0", "10.0.0", "9.9.9"):
        where = tmp_path / "tfds" / "a" / "big" / version
        where.mkdir(parents=True)
        (where / "dataset_info.json").touch()
    assert prepared.find("a/big", str(tmp_path)) == tmp_path / "tfds" / "a" / "big" / "10.0.0"
    assert prepared.find("a/big:2.0.0", str(tmp_path)) == tmp_path / "tfds" / "a" / "big" / "2.0.0"
    assert prepared.find("a/big:3.0.0", str(tmp_path)) is None and prepared.find("a", str(tmp_path)) is None


def test_a_set_that_is_not_prepared_is_told_how_to_be(tmp_path: Path) -> None:
    command = rf"run `tfds build cifar10 --data_dir={tmp_path / 'tfds'} --file_format=array_record`"
    with pytest.raises(ValueError, match=f"tfds set 'cifar10' is not prepared as array_record under .*{command}"):
        datasets.load("tfds:cifar10", root=str(tmp_path))


def test_another_file_format_is_told_how_to_be_prepared(root: Path, tmp_path: Path) -> None:
    where = tmp_path / "tfds" / "pets" / "1.0.0"
    where.mkdir(parents=True)
    said = json.loads((root / "tfds" / "pets" / "1.0.0" / "dataset_info.json").read_text())
    (where / "dataset_info.json").write_text(json.dumps(said | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"1\.0\.0 is in tfrecord form; .* run `tfds build pets "):
        datasets.load("tfds:pets", root=str(tmp_path))


@pytest.mark.parametrize("name", ["", "../pets", "/etc/passwd", "pets/../../x", "pets:latest", "a b"])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a TFDS set; write tfds:<set>"):
        datasets.load("tfds", path=name, root=str(tmp_path))


def test_without_tfds_it_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "array_record", None)
    with pytest.raises(ValueError, match="install tensorflow-datasets and array_record"):
        datasets.load("tfds:pets", root=str(root))


def test_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from tensorflow_datasets import features as kinds

    with pytest.raises(ValueError, match="size 4 is not that of tfds set 'odd'"):
        build(tmp_path, "odd", features())
        datasets.load("tfds:odd", size=4, root=str(tmp_path))
    with pytest.raises(ValueError, match=r"tfds set 'loose' has images of shape .*None.*; a fixed shape"):
        build(tmp_path, "loose", features(image=kinds.Image(shape=(None, None, 3))))
        datasets.load("tfds:loose", root=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"tfds set 'clear' has images of shape \(4, 5, 4\).*; a fixed shape of 1 or 3"
    ):
        build(tmp_path, "clear", {"image": kinds.Image(shape=(4, 5, 4)), "label": features()["label"]})
        datasets.load("tfds:clear", root=str(tmp_path))
    with pytest.raises(ValueError, match="tfds set 'bare' needs one image and a class label, and has features image"):
        build(tmp_path, "bare", {"image": features()["image"]})
        datasets.load("tfds:bare", root=str(tmp_path))
    with pytest.raises(ValueError, match="tfds set 'twins' needs one image"):
        build(tmp_path, "twins", features(second=kinds.Image(shape=(4, 5, 3))))
        datasets.load("tfds:twins", root=str(tmp_path))
