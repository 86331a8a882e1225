"""The array cache: what is read is what was written, damage is noticed, and one process of several decodes."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.datasets import cache

KEY = {"version": 1}
MADE = {"images": np.arange(12, dtype=np.uint8).reshape(3, 4), "names": np.array("a, b")}


def decode() -> dict[str, np.ndarray]:
    return MADE


def never() -> dict[str, np.ndarray]:
    raise AssertionError("decoded again")


def test_arrays_are_decoded_once(tmp_path: Path) -> None:
    cache.arrays(tmp_path / "set", KEY, decode)
    found = cache.arrays(tmp_path / "set", KEY, never)
    assert found.keys() == MADE.keys()
    assert all((found[name] == MADE[name]).all() and found[name].dtype == MADE[name].dtype for name in MADE)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["set.json", "set.lock", "set.npz"]


def test_arrays_of_another_key_are_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.arrays(tmp_path / "set", KEY, decode)
    other = {"images": np.zeros(2)}
    assert cache.arrays(tmp_path / "set", {"version": 2}, lambda: other) is other
    assert "set.npz was made from other files or by another version; decoding it again" in caplog.text
    cache.arrays(tmp_path / "set", {"version": 2}, never)


def test_versions_in_a_name_are_told_apart(tmp_path: Path) -> None:
    cache.arrays(tmp_path / "set_3.0.1_train", KEY, decode)
    cache.arrays(tmp_path / "set_3.0.2_train_test", KEY, decode)
    cache.arrays(tmp_path / "set_3.0.1_train", KEY, never)
    files = [f"set_{name}.{kind}" for name in ("3.0.1_train", "3.0.2_train_test") for kind in ("json", "lock", "npz")]
    assert sorted(one.name for one in tmp_path.iterdir()) == files


def test_every_flipped_byte_is_noticed_and_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.arrays(tmp_path / "set", KEY, decode)
    blob = tmp_path / "set.npz"
    whole = blob.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 20).astype(int):
        caplog.clear()
        blob.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = cache.arrays(tmp_path / "set", KEY, decode)
        assert found is MADE
        assert "set.npz is damaged (sha256 " in caplog.text and "decoding it again" in caplog.text
        cache.arrays(tmp_path / "set", KEY, never)


@pytest.mark.parametrize("note", ["", "[]", '{"key": {"version": 1}}', "{"])
def test_a_broken_note_is_named_and_repaired(tmp_path: Path, note: str, caplog: pytest.LogCaptureFixture) -> None:
    cache.arrays(tmp_path / "set", KEY, decode)
    (tmp_path / "set.json").write_text(note)
    assert cache.arrays(tmp_path / "set", KEY, decode) is MADE
    assert "set.npz cannot be read" in caplog.text
    cache.arrays(tmp_path / "set", KEY, never)


def test_a_pickle_inside_is_not_run(tmp_path: Path) -> None:
    cache.arrays(tmp_path / "set", KEY, decode)
    with (tmp_path / "set.npz").open("wb") as stream:
        np.savez(stream, allow_pickle=True, images=np.array([{"a": 1}], object))
    note = {"key": KEY, "sha256": cache.raw.sha256_of(tmp_path / "set.npz")}
    (tmp_path / "set.json").write_text(json.dumps(note))
    assert cache.arrays(tmp_path / "set", KEY, decode) is MADE


def test_a_failed_decode_leaves_nothing_and_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cache.arrays(tmp_path / "set", KEY, never)
    assert [one.name for one in tmp_path.iterdir()] == ["set.lock"]
    assert cache.arrays(tmp_path / "set", KEY, decode) is MADE


def test_of_four_processes_one_decodes_and_the_others_wait_and_say_so(tmp_path: Path) -> None:
    code = f"""
import pathlib, time, numpy as np
from ddpm_jax.datasets import cache
root = pathlib.Path({str(tmp_path)!r})
def decode():
    with open(root / "decoded", "a") as stream:
        stream.write("x")
    while len(list(root.glob("started_*"))) < 4:
        time.sleep(0.01)
    time.sleep(0.3)
    return {{"images": np.arange(5)}}
import os
(root / f"started_{{os.getpid()}}").touch()
print(cache.arrays(root / "set", 1, decode)["images"].sum())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [one.communicate(timeout=600) for one in running]
    assert [out for out, _ in told] == ["10\n"] * 4
    assert (tmp_path / "decoded").read_text() == "x"
    waited = [error for _, error in told if f"waiting: another process prepares {tmp_path / 'set'}" in error]
    assert len(waited) == 3


def test_a_dead_holder_frees_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = f"""
import os, pathlib
from ddpm_jax.datasets import cache
with cache.locked(pathlib.Path({str(tmp_path / "set.lock")!r})):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with caplog.at_level(logging.WARNING), cache.locked(tmp_path / "set.lock"):
        assert caplog.text == ""
