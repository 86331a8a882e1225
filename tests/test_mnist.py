"""MNIST from IDX files, from a prepared set and from the real mirror: one set of arrays, whatever the way."""

import gzip
import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax import datasets
from ddpm_jax.datasets import mnist, raw

MIRROR = os.environ.get(raw.MIRROR, "")
TRAIN, TEST = 12, 5
DIGITS = np.arange(TRAIN + TEST).astype(np.uint8) % 10
IMAGES = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 28, 28)).astype(np.uint8)


def write_idx(path: Path, array: np.ndarray) -> raw.File:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + array.tobytes()))
    name = f"mnist/{path.name}"
    return raw.File(name, f"http://127.0.0.1:1/{name}", raw.sha256_of(path), path.stat().st_size)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with the IDX files of a small MNIST, which `mnist` takes for the real one."""
    parts = [IMAGES[:TRAIN], DIGITS[:TRAIN], IMAGES[TRAIN:], DIGITS[TRAIN:]]
    where = tmp_path / "mirror"
    names = [Path(file.path).name for file in mnist.FILES]
    files = [write_idx(where / "mnist" / name, part) for name, part in zip(names, parts, strict=True)]
    monkeypatch.setattr(mnist, "FILES", tuple(files))
    monkeypatch.setattr(mnist, "TRAIN", TRAIN)
    monkeypatch.setattr(mnist, "TEST", TEST)
    digests = {"images": IMAGES, "digits": DIGITS}
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in digests.items()}
    monkeypatch.setattr(mnist, "SHA256", digests)
    monkeypatch.setenv(raw.MIRROR, str(where))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(raw, "BACKOFF", ())
    return where


def test_the_test_set_is_held_out_and_never_trained_on(mirror: Path, tmp_path: Path) -> None:
    found = datasets.load("mnist", root=str(tmp_path))
    assert found.spec.shape == (28, 28, 1) and (np.asarray(found.images)[..., 0] == IMAGES).all()
    assert (found.labels.argmax(axis=1) == DIGITS).all() and (found.labels.sum(axis=1) == -8).all()
    assert found.train.tolist() == list(range(TRAIN)) and found.heldout.tolist() == list(range(TRAIN, TRAIN + TEST))
    assert datasets.load("mnist", holdout="test", root=str(tmp_path)).fingerprint == found.fingerprint
    (tmp_path / "ids.txt").write_text("3\n13\n")
    other = datasets.load("mnist", holdout=str(tmp_path / "ids.txt"), root=str(tmp_path))
    assert other.heldout.tolist() == [3, 13]
    assert other.train.tolist() == [i for i in range(TRAIN) if i != 3]


def test_16_is_the_padded_digit_averaged_and_keeps_its_mean() -> None:
    constant = np.full((1, 28, 28), 200, np.uint8)
    small = mnist.resized(constant, 16)
    assert small.shape == (1, 16, 16)
    assert (small[0, 1:-1, 1:-1] == 200).all() and not small[0, 0].any() and not small[0, :, -1].any()
    small, padded = mnist.resized(IMAGES, 16), mnist.resized(IMAGES, 32)
    exact = padded.reshape(-1, 16, 2, 16, 2).astype(float).mean(axis=(2, 4))
    assert (np.abs(small - exact) <= 0.5).all()
    assert (padded[:, 2:-2, 2:-2] == IMAGES).all() and padded.sum() == IMAGES.sum()


@pytest.mark.parametrize("size", [16, 28, 32])
def test_the_shape_is_that_of_the_size(mirror: Path, tmp_path: Path, size: int) -> None:
    found = datasets.load("mnist", size=size, root=str(tmp_path))
    assert found.spec.shape == np.asarray(found.images).shape[1:] == (size, size, 1)


def test_a_prepared_set_gives_the_same_arrays(mirror: Path, tmp_path: Path) -> None:
    direct = datasets.load("mnist", root=str(tmp_path / "one"))
    where = mnist.prepare(str(mirror))
    assert where == mirror / "tfds" / "mnist" / "3.0.1"
    assert json.loads((where / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    for file in mnist.FILES:
        (mirror / file.path).unlink()
    assert mnist.prepare(str(tmp_path / "two")) == where
    assert datasets.load("mnist", root=str(tmp_path / "two")).fingerprint == direct.fingerprint
    assert "tensorflow" not in sys.modules


def test_other_digits_than_pinned_are_refused(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "SHA256", {"images": mnist.SHA256["images"], "digits": "0" * 64})
    with pytest.raises(ValueError, match=rf"the digits of MNIST have sha256 \w+, expected {'0' * 64}"):
        datasets.load("mnist", root=str(tmp_path))


def test_without_files_or_network_all_four_files_are_named(mirror: Path, tmp_path: Path) -> None:
    for file in mnist.FILES:
        (mirror / file.path).unlink()
    with pytest.raises(ValueError, match="cannot download") as refusal:
        datasets.load("mnist", root=str(tmp_path))
    assert all(f"{file.url} (sha256 {file.sha256}) as" in str(refusal.value) for file in mnist.FILES)


def test_the_pins_are_those_of_tfds() -> None:
    import tensorflow_datasets

    listed = Path(tensorflow_datasets.__file__).parent / "url_checksums" / "mnist.txt"
    pinned = {f"{file.url}\t{file.size}\t{file.sha256}\t{Path(file.path).name}" for file in mnist.FILES}
    assert pinned == set(listed.read_text().splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: b"\1" + body[1:], "is not an IDX file of bytes"),
        (lambda body: body[:-1], "holds 783 bytes, expected 784"),
        (lambda body: body[:4] + struct.pack(">I", 10**9) + body[8:], "expected at most"),
    ],
)
def test_a_broken_idx_file_is_named(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    whole = struct.pack(">HBB3I", 0, 8, 3, 1, 28, 28) + bytes(784)
    (tmp_path / "x.gz").write_bytes(gzip.compress(whole))
    assert mnist.idx(tmp_path / "x.gz").shape == (1, 28, 28)
    (tmp_path / "x.gz").write_bytes(gzip.compress(change(whole)))
    with pytest.raises(ValueError, match=f"x.gz .*{message}"):
        mnist.idx(tmp_path / "x.gz")


def test_sizes_paths_and_holdouts_that_make_no_sense_are_refused(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mnist has no size 20; use 28, 32 \(padded\) or 16"):
        datasets.load("mnist", size=20, root=str(tmp_path))
    with pytest.raises(ValueError, match="mnist takes no path, got 'x'"):
        datasets.load("mnist:x", root=str(tmp_path))
    with pytest.raises(ValueError, match="unknown holdout 'tests'; did you mean test"):
        datasets.load("mnist", holdout="tests", root=str(tmp_path))


@pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
def test_the_real_digits(tmp_path: Path) -> None:
    found = datasets.load("mnist", size=16, root=str(tmp_path))
    assert found.spec.shape == (16, 16, 1) and len(found.train) == 60_000 and len(found.heldout) == 10_000
    digits = found.labels.argmax(axis=1)
    assert digits[:5].tolist() == [5, 0, 4, 1, 9] and digits[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(digits[:60_000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize("paper", ["white", "black", "clear"])
def test_a_sketch_becomes_a_digit_by_mnists_rule(paper: str) -> None:
    """A tall bar, drawn off centre: 20 pixels high, as wide in proportion, its mass in the middle."""
    drawing = np.zeros((300, 400, 4), np.uint8)
    drawing[...] = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255), "clear": (0, 0, 0, 0)}[paper]
    drawing[40:240, 20:60] = (255, 255, 255, 255) if paper == "black" else (0, 0, 0, 255)
    digit = mnist.from_sketch(drawing)
    assert digit.shape == (28, 28, 1) and digit.max() == 255
    rows, columns = np.flatnonzero(digit[..., 0].any(axis=1)), np.flatnonzero(digit[..., 0].any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (4, 23, 12, 15)
    assert mnist.from_sketch(drawing, 16).shape == (16, 16, 1)


def test_a_blank_sketch_is_refused() -> None:
    with pytest.raises(ValueError, match="the sketch is blank"):
        mnist.from_sketch(np.full((50, 50, 3), 200, np.uint8))


@pytest.mark.long
@pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
def test_digits_of_the_set_drawn_large_are_themselves(tmp_path: Path) -> None:
    found = mnist.load(root=str(tmp_path))
    digits = found.images[:60].astype(float)
    large = found.images[:60].repeat(10, axis=1).repeat(10, axis=2).repeat(3, axis=3)
    drawn = np.stack([mnist.from_sketch(one) for one in large]).astype(float)
    distance = np.square(drawn[:, None] - digits[None]).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(60)).mean() > 0.9
