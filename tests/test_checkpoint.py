"""Facts about checkpoints: what is restored is what was saved, damage is named, and the last whole one stays."""

import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ddpm_jax import archive, checkpoint, devices, runtime


class State(NamedTuple):
    step: Any
    params: Any
    ema: Any
    opt_state: Any


def make_state(step: int, features: int = 8) -> State:
    rng = np.random.default_rng(step)
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 4, features)).astype("f"), "bias": np.zeros(features, "f")}}
    ema = jax.tree.map(lambda p: 0.5 * p, params)
    moments = (np.int32(step), jax.tree.map(lambda p: jnp.asarray(p * p, jnp.bfloat16), params), ())
    return jax.device_put(State(np.int32(step), params, ema, moments), devices.replicate(devices.mesh()))


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def equal(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def save(directory: Path, *steps: int, metrics: dict[int, float] | None = None, **keep: Any) -> None:
    saves = checkpoint.Checkpointer(directory, **keep)
    for step in steps:
        saves.save(step, make_state(step), {"config": {"lr": 0.1}}, {"loss": metrics[step]} if metrics else {})
    saves.close()


def names(directory: Path) -> list[str]:
    return sorted((path.name for path in directory.iterdir()), key=lambda name: (len(name), name))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of one run; read only: tests that break something copy it."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(directory, 10, 20)
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.fixture
def saves(copied: Path) -> Iterator[checkpoint.Checkpointer]:
    saves = checkpoint.Checkpointer(copied)
    yield saves
    saves.close()


def test_what_is_restored_is_what_was_saved(saves: checkpoint.Checkpointer) -> None:
    state, meta = saves.restore(20, abstract(make_state(20)))
    assert equal(state, make_state(20))
    assert isinstance(state, State) and state.opt_state[1]["conv"]["kernel"].dtype == jnp.bfloat16
    assert (meta["step"], meta["config"], meta["format_version"]) == (20, {"lr": 0.1}, archive.FORMAT)


def test_restored_arrays_lie_where_they_are_asked_to(saves: checkpoint.Checkpointer) -> None:
    split = jax.NamedSharding(devices.mesh(), PartitionSpec(None, None, None, "data"))
    wanted = abstract(make_state(20))
    wanted.params["conv"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32, sharding=split)
    state, _ = saves.restore(20, wanted)
    assert state.params["conv"]["kernel"].sharding == split
    assert equal(state, make_state(20))


def test_a_leaf_without_a_sharding_is_refused(saves: checkpoint.Checkpointer) -> None:
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(20))
    with pytest.raises(ValueError, match="abstract state leaf step has no sharding"):
        saves.restore(20, bare)


def test_another_structure_is_refused_with_the_first_differences(saves: checkpoint.Checkpointer) -> None:
    wider = abstract(make_state(20, features=16))
    sentence = r"does not fit this run: ema/conv/bias is float32\[8\] there, float32\[16\] here; .* and 3 more"
    with pytest.raises(runtime.BadInput, match=sentence):
        saves.restore(20, wider)
    other = abstract(make_state(20))._replace(ema={})
    with pytest.raises(runtime.BadInput, match=r"ema/conv/bias is float32\[8\] there, absent here"):
        saves.restore(20, other)


def test_a_save_is_not_disturbed_by_what_becomes_of_the_state(tmp_path: Path) -> None:
    state, saves = make_state(1), checkpoint.Checkpointer(tmp_path)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    wanted = jax.tree.map(np.array, state)
    saves.save(1, state, {})
    for _ in range(20):
        state = step(state)
    saves.close()
    assert equal(checkpoint.load_arrays(tmp_path / "1", "params"), wanted.params)


def test_a_save_shares_no_memory_with_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    composite = checkpoint._composite
    monkeypatch.setattr(checkpoint, "_composite", lambda *args: given.append(args[0]) or composite(*args))
    state, saves = {"a": jnp.arange(1000.0)}, checkpoint.Checkpointer(tmp_path)
    saves.save(1, state, {})
    saves.close()
    assert np.shares_memory(np.asarray(state["a"]), np.asarray(state["a"]))  # a view of jax's own buffer
    assert not np.shares_memory(np.asarray(state["a"]), given[0]["a"])


def test_one_part_is_loaded_as_a_nested_dict(saved: Path) -> None:
    ema = checkpoint.load_arrays(saved / "20")
    assert equal(ema, jax.tree.map(np.asarray, make_state(20).ema))
    assert equal(checkpoint.load_arrays(saved / "20", "params"), jax.tree.map(np.asarray, make_state(20).params))


def test_a_part_is_loaded_without_reading_the_others(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(archive, "_restore", lambda state, wanted: read.extend(wanted) or {})
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load_arrays(copied / "20")
    assert read == ["ema/conv/bias", "ema/conv/kernel"]


def test_a_part_that_is_not_there_is_refused(saved: Path) -> None:
    with pytest.raises(runtime.BadInput, match="has no part 'raw'; it has ema, opt_state, params, step"):
        checkpoint.load_arrays(saved / "20", "raw")


def test_a_workdir_stands_for_its_newest_checkpoint(saved: Path) -> None:
    assert (
        checkpoint.resolve(saved.parent)
        == checkpoint.resolve(saved)
        == checkpoint.resolve(saved / "20")
        == saved / "20"
    )
    assert checkpoint.resolve(saved / "10") == saved / "10"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / "7"):
        with pytest.raises(runtime.BadInput, match=f"no whole checkpoint in {path}; give a workdir or"):
            checkpoint.resolve(path)
    with pytest.raises(runtime.BadInput, match="there is no checkpoint"):
        checkpoint.verify(tmp_path / "absent")


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def delete(path: Path, _rng: random.Random) -> None:
    path.unlink()


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def contents(path: Path) -> dict[str, np.ndarray]:
    """All that a checkpoint says and holds."""
    meta = checkpoint.read_meta(path)
    arrays = archive.read_arrays(path, meta, list(meta["checksums"]))
    return {**arrays, "meta": np.array(json.dumps(meta, sort_keys=True))}


@pytest.fixture
def run_of(request: pytest.FixtureRequest) -> Path:
    """The checkpoints of a toy state, or of a real run: the newest two are whole."""
    return request.getfixturevalue(request.param) / ("checkpoints" if request.param == "trained" else ".")


LONG = pytest.mark.long
HARMS = [
    pytest.param("saved", flip, 60, marks=pytest.mark.table),
    pytest.param("saved", truncate, 20, marks=pytest.mark.table),
    pytest.param("saved", delete, 20, marks=pytest.mark.table),
    pytest.param("trained", flip, 200, marks=LONG),
    pytest.param("trained", truncate, 50, marks=LONG),
    pytest.param("trained", delete, 50, marks=LONG),
]


@pytest.mark.parametrize(("run_of", "harm", "trials"), HARMS, indirect=["run_of"])
def test_harm_to_any_file_is_named_or_changes_nothing(
    run_of: Path, tmp_path: Path, harm: Any, trials: int, figure: Any, request: pytest.FixtureRequest
) -> None:
    rng, named = random.Random(0), 0
    newest, older = archive.steps(run_of)[:2]
    right = {step: contents(run_of / str(step)) for step in (newest, older)}
    for trial in range(trials):
        copy = Path(shutil.copytree(run_of, tmp_path / "checkpoints"))
        path = copy / str(newest)
        victim = files(path)[trial % len(files(path))]
        harm(victim, rng)
        bytes_there = [file.read_bytes() for file in files(path)]
        used = newest
        try:
            assert equal(contents(path), right[newest]), victim
        except checkpoint.Damaged as error:
            assert str(path) in str(error)
            named, used = named + 1, older
        assert checkpoint.resolve(copy) == copy / str(used)
        with contextlib.closing(checkpoint.Checkpointer(copy)) as saves:
            assert saves.latest() == used
        assert equal(contents(copy / str(used)), right[used])
        if used == older:
            assert [file.read_bytes() for file in files(copy / f"{newest}.damaged-0")] == bytes_there
        shutil.rmtree(copy)
    assert named > 0  # how many is chance: some files (Orbax's own notes of placement and commit) are not needed
    what = f"{harm.__name__} in files of a checkpoint ({request.node.callspec.id.partition('-')[0]})"
    figure(what, f"{trials} made: {named} named and set aside, {trials - named} without effect, 0 silent")


def test_a_flipped_weight_is_named_by_its_checksum(copied: Path) -> None:
    meta = checkpoint.read_meta(copied / "20")
    for entry in meta["checksums"].values():
        entry["crc32"] ^= 1 if entry["shape"] == [3, 3, 4, 8] and entry["dtype"] == "float32" else 0
    with pytest.raises(checkpoint.Damaged, match=r"20 is damaged: params/conv/kernel, ema/conv/kernel \(2 arrays\)"):
        archive.read_arrays(copied / "20", meta, list(meta["checksums"]))


def test_the_newest_whole_one_is_used_and_damaged_ones_are_set_aside(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "20" / "meta" / "metadata").write_text("{}")
    (copied / "30").mkdir()  # an empty directory counts as a checkpoint for Orbax
    saves = checkpoint.Checkpointer(copied)
    assert saves.latest() == 10
    assert names(copied) == ["10", "20.damaged-0", "30.damaged-0"]
    assert f"{copied / '20'} is damaged: meta/metadata is illegible" in caplog.text
    assert "it is kept as 20.damaged-0" in caplog.text
    saves.save(20, make_state(20), {})
    saves.close()
    assert checkpoint.resolve(copied) == copied / "20"
    (copied / "20" / "meta" / "metadata").write_text("{}")
    assert checkpoint.resolve(copied) == copied / "10"  # a reader passes over it and renames nothing
    assert checkpoint.Checkpointer(copied).latest() == 10
    assert names(copied) == ["10", "20.damaged-0", "20.damaged-1", "30.damaged-0"]


def test_a_directory_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert checkpoint.Checkpointer(tmp_path / "absent").latest() is None


def test_the_next_save_works_beside_a_damaged_older_checkpoint(copied: Path) -> None:
    (copied / "10" / "meta" / "metadata").write_text("{}")
    save(copied, 30)
    assert checkpoint.resolve(copied) == copied / "30"


def test_leftovers_of_killed_saves_are_removed(copied: Path) -> None:
    for n in range(20):
        (copied / f"30.orbax-checkpoint-tmp-{n}" / "state").mkdir(parents=True)
    assert checkpoint.resolve(copied) == copied / "20"
    assert len(checkpoint.remove_leftovers(copied)) == 20
    assert names(copied) == ["10", "20"]
    assert checkpoint.remove_leftovers(copied / "absent") == []


def test_latest_removes_leftovers_but_not_a_save_in_flight(copied: Path) -> None:
    (copied / "30.orbax-checkpoint-tmp").mkdir()
    saves = checkpoint.Checkpointer(copied)
    saves.save(40, make_state(40), {})
    assert saves.latest() == 40
    saves.close()
    assert names(copied) == ["10", "20", "40"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_state_is_refused_and_replaces_nothing(copied: Path, value: float) -> None:
    state, saves = make_state(30), checkpoint.Checkpointer(copied, keep_newest=1)
    state.ema["conv"]["bias"] = state.ema["conv"]["bias"].at[0].set(value)
    with pytest.raises(runtime.Diverged, match=r"step 30 is not saved: ema/conv/bias \(1 arrays\) hold nan or inf"):
        saves.save(30, state, {})
    saves.close()
    assert names(copied) == ["10", "20"]


def test_non_finite_bfloat16_is_seen(tmp_path: Path) -> None:
    with pytest.raises(runtime.Diverged, match=r"a .* hold nan or inf"):
        checkpoint.Checkpointer(tmp_path).save(1, {"a": jnp.full(3, jnp.nan, jnp.bfloat16)}, {})


@pytest.mark.parametrize("step", [20, 5])
def test_a_step_that_is_there_or_past_is_not_silently_skipped(copied: Path, step: int) -> None:
    saves = checkpoint.Checkpointer(copied)
    with pytest.raises(runtime.Storage, match=f"step {step} was not saved: step 20 is already in"):
        saves.save(step, make_state(step), {})
    saves.close()


def test_retention_keeps_newest_best_and_every_kth(tmp_path: Path) -> None:
    losses = {1: 9.0, 2: 1.0, 3: 8.0, 4: 7.0, 5: 6.0, 6: 5.0, 7: 4.0, 8: 3.0, 9: 2.0}
    save(tmp_path, *range(1, 6), metrics=losses, keep_newest=2, keep_best=1, keep_every=3, best_metric="loss")
    assert names(tmp_path) == ["2", "3", "4", "5"]
    save(tmp_path, *range(6, 10), metrics=losses, keep_newest=2, keep_best=1, keep_every=3, best_metric="loss")
    assert names(tmp_path) == ["2", "3", "6", "8", "9"]  # the scores of an earlier process are remembered


def test_a_metric_that_grows_at_each_save_costs_no_newest(tmp_path: Path) -> None:
    grows = {step: float(step) for step in range(1, 7)}
    save(tmp_path, *grows, metrics=grows, keep_newest=1, keep_best=2, best_metric="loss")
    assert {"1", "2", "6"} <= set(names(tmp_path))
    save(tmp_path / "largest", *grows, metrics=grows, keep_newest=1, keep_best=2, best_metric="-loss")
    assert names(tmp_path / "largest") == ["5", "6"]


def test_kept_is_a_function_of_steps_and_scores() -> None:
    retention = checkpoint.Retention(newest=1, best=2, every=0, scores={1: 3.0, 2: 1.0, 3: 1.0, 4: 2.0, 99: 0.0})
    assert retention.kept([1, 2, 3, 4, 5]) == {2, 3, 5}
    retention.whole = 1
    assert retention.kept([1, 2, 3, 4, 5]) == {1, 2, 3, 5}


def test_the_last_whole_checkpoint_outlives_newer_damaged_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = checkpoint.Checkpointer(tmp_path, keep_newest=1)
    saves.save(1, make_state(1), {})
    saves.wait()
    monkeypatch.setattr(archive, "checksum", lambda array: 0)  # what is written now will not compare
    for step in (2, 3):
        saves.save(step, make_state(step), {})
        monkeypatch.undo()
        with pytest.raises(checkpoint.Damaged, match=f"{step} is damaged"):
            saves.wait()
        monkeypatch.setattr(archive, "checksum", lambda array: 0)
    monkeypatch.undo()
    assert "1" in names(tmp_path)
    assert saves.latest() == 1
    saves.close()


@pytest.mark.parametrize("keep", [{"keep_newest": 0}, {"keep_best": -1}, {"keep_every": -1}])
def test_a_retention_that_keeps_nothing_is_refused(tmp_path: Path, keep: dict[str, Any]) -> None:
    with pytest.raises(runtime.BadInput, match=r"keep_\(newest, best, every\) is .*; give at least \(1, 0, 0\)"):
        checkpoint.Checkpointer(tmp_path, **keep)


def test_best_without_a_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runtime.BadInput, match="keep_best 1 needs best_metric"):
        checkpoint.Checkpointer(tmp_path, keep_best=1)


def test_too_little_space_is_told_before_writing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = checkpoint.Checkpointer(copied)
    usage = shutil.disk_usage(copied)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(runtime.Storage, match=r"no space: need 0\.0 MB, free 0\.0 MB in .*; step 30 was not saved"):
        saves.save(30, make_state(30), {})
    saves.close()
    assert names(copied) == ["10", "20"]


FULL_DISK = """
import resource, sys
import numpy as np
from ddpm_jax import checkpoint, runtime
saves = checkpoint.Checkpointer(sys.argv[1], keep_newest=1)
state = {"a": np.random.default_rng(0).normal(size=10**6)}
saves.save(1, state, {})
saves.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
saves.save(2, state, {})
try:
    saves.save(3, state, {})
except runtime.Storage as error:
    saves.close()
    sys.exit(f"{error.code} {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes there")
def test_a_save_that_fails_behind_the_training_is_an_error(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert "74 no space: need 8.0 MB, free" in ran.stderr
    assert "step 2 was not saved" in ran.stderr
    assert archive.steps(tmp_path) == [1]
    checkpoint.verify(tmp_path / "1")


def test_a_workdir_that_disappears_is_an_error(copied: Path) -> None:
    saves = checkpoint.Checkpointer(copied)
    saves.save(30, make_state(30), {})
    saves.wait()
    shutil.rmtree(copied)
    with pytest.raises(runtime.Storage, match=r"step 40 was not saved in .*: No such file or directory"):
        saves.save(40, make_state(40), {})
    saves.close()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(runtime.Storage, match=r"file/checkpoints cannot be made: Not a directory"):
        checkpoint.Checkpointer(tmp_path / "file" / "checkpoints").save(1, make_state(1), {})


def rewrite_meta(path: Path, **changes: Any) -> None:
    """Change a description as a stranger would: with the right hash."""
    meta = json.loads((path / "meta" / "metadata").read_text())
    meta.pop("sha256")
    meta |= changes
    stated = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (path / "meta" / "metadata").write_text(json.dumps({**meta, "sha256": stated}))


HUGE = {"shape": [10**12], "dtype": "float32", "crc32": 0}
HOSTILE = {
    "a huge shape": ({"ema/a": HUGE}, "claims 4000000 MB of arrays, but its files hold"),
    "a huge dtype": ({"ema/a": {**HUGE, "shape": [1000], "dtype": "(1000000,)f8"}}, "claims 8000 MB"),
    "a negative shape": ({"ema/a": {**HUGE, "shape": [-4, -4]}}, "illegal array .*ema/a.* of shape"),
    "a shape of text": ({"ema/a": {**HUGE, "shape": ["4"]}}, "illegal array"),
    "a name upwards": ({"ema/../../a": {**HUGE, "shape": [1]}}, "illegal array .*ema/../../a"),
    "an absolute name": ({"/etc/passwd": {**HUGE, "shape": [1]}}, "illegal array"),
    "no dtype": ({"ema/a": {"shape": [1]}}, "illegal array"),
    "an unknown dtype": ({"ema/a": {**HUGE, "shape": [1], "dtype": "pickle"}}, "illegal array"),
    "no dict": ([1, 2], "illegal array"),
    "an array that is not there": ({"ema/a": {**HUGE, "shape": [1]}}, "arrays cannot be read"),
    "another shape": (
        {"ema/conv/bias": {**HUGE, "shape": [800]}},
        r"ema/conv/bias is float32\[8\].*saved as float32\[800\]",
    ),
}


@pytest.mark.parametrize(("checksums", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_strangers_claims_are_refused_before_reading(copied: Path, checksums: Any, sentence: str) -> None:
    rewrite_meta(copied / "20", checksums=checksums)
    with pytest.raises(checkpoint.Damaged, match=sentence):
        checkpoint.load_arrays(copied / "20")


def test_a_chunk_larger_than_its_array_is_refused_before_reading(copied: Path) -> None:
    import tensorstore as ts

    base = {"driver": "file", "path": f"{copied / '20' / 'state'}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": "ema.conv.bias/"}
    chunks = {"shape": [8], "chunks": [10**12], "dtype": "<f4"}
    ts.open({"driver": "zarr", "kvstore": kvstore, "metadata": chunks}, create=True, delete_existing=True).result()
    with pytest.raises(checkpoint.Damaged, match=r"ema/conv/bias is float32\[8\] in chunks of 1000000000000"):
        checkpoint.load_arrays(copied / "20")


def test_a_changed_description_is_refused(copied: Path) -> None:
    file = copied / "20" / "meta" / "metadata"
    file.write_text(file.read_text().replace('"lr": 0.1', '"lr": 0.2'))
    with pytest.raises(checkpoint.Damaged, match="meta/metadata is not what was saved"):
        checkpoint.read_meta(copied / "20")


def test_a_description_of_boundless_size_is_not_read(copied: Path) -> None:
    with open(copied / "20" / "meta" / "metadata", "wb") as file:
        file.truncate(archive.MAX_META_BYTES + 1)
    with pytest.raises(checkpoint.Damaged, match="more than 67108864 bytes"):
        checkpoint.read_meta(copied / "20")


def test_a_later_format_is_refused(copied: Path) -> None:
    rewrite_meta(copied / "20", format_version=2)
    with pytest.raises(runtime.BadInput, match="has format 2, not 1; use a newer ddpm_jax"):
        checkpoint.read_meta(copied / "20")


def test_a_link_out_of_the_checkpoint_is_refused(copied: Path) -> None:
    (copied / "20" / "state" / "link").symlink_to("/etc/passwd")
    with pytest.raises(checkpoint.Damaged, match="contains a symbolic link"):
        checkpoint.verify(copied / "20")


def test_nest_inverts_by_name() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert archive.by_name(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert archive.nest(archive.by_name(tree)) == tree


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32"])
def test_each_flipped_bit_changes_the_checksum(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(jnp.dtype(dtype))
    flipped = np.array(array)
    flipped.view(np.uint8)[1, 2] ^= 1
    assert archive.checksum(array) != archive.checksum(flipped)
    assert archive.checksum(array.T) == archive.checksum(np.ascontiguousarray(array.T))
    assert archive.checksum(np.zeros((), dtype=jnp.dtype(dtype))) != archive.checksum(np.zeros(2, jnp.dtype(dtype)))
