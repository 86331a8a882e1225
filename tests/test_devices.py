"""Facts about devices: how many, the mesh over them, and batches that divide or do not."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ddpm_jax import devices, runtime


@pytest.mark.parametrize(("batch", "count"), [(96, 8), (1, 1), (7, 7)])
def test_a_batch_that_divides_is_accepted(batch: int, count: int) -> None:
    devices.check_batch(batch, count)


@pytest.mark.parametrize(
    ("batch", "count", "nearest"), [(100, 8, "96 or 104"), (3, 8, "8"), (0, 2, "2"), (-5, 4, "4"), (9, 2, "8 or 10")]
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest(batch: int, count: int, nearest: str) -> None:
    sentence = f"^batch_size {batch} is not divisible by {count} devices; try {nearest}$"
    with pytest.raises(runtime.BadInput, match=sentence):
        devices.check_batch(batch, count)


@pytest.mark.parametrize(
    ("batch", "cores", "count"), [(128, 2, 2), (128, 64, 8), (100, 8, 5), (7, 4, 1), (1, 8, 1), (9, 4, 3)]
)
def test_the_automatic_device_count_is_the_largest_divisor(batch: int, cores: int, count: int) -> None:
    assert devices.cpu_devices(batch, cores) == count


def test_devices_are_configured_before_jax_starts() -> None:
    source = "from ddpm_jax import devices; devices.configure(12, 6); import jax; print(jax.device_count())"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == "6", ran.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_NUM_CPU_DEVICES", "3"), ("XLA_FLAGS", "--xla_force_host_platform_device_count=4")]
)
def test_devices_configured_from_outside_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    found: list[object] = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: found.append(setting))
    devices.configure(12)
    assert found == [("jax_num_cpu_devices", devices.cpu_devices(12, devices._cores()))]
    monkeypatch.setenv(name, value)
    devices.configure(12)
    assert len(found) == 1


def test_devices_asked_for_too_late_are_refused() -> None:
    jax.device_count()
    with pytest.raises(runtime.BadInput, match="3 devices were asked for after jax had started"):
        devices.configure(9, 3)


@pytest.mark.parametrize(("batch", "wanted", "sentence"), [(9, 2, "try 8 or 10"), (9, -1, "devices -1 is negative")])
def test_impossible_device_counts_are_refused(batch: int, wanted: int, sentence: str) -> None:
    with pytest.raises(runtime.BadInput, match=sentence):
        devices.configure(batch, wanted)


def test_the_mesh_has_one_axis_over_all_devices() -> None:
    over = devices.mesh()
    assert (over.axis_names, over.size) == (("data",), jax.device_count())
    assert set(over.axis_types) == {jax.sharding.AxisType.Auto}
    batch = jax.device_put(np.arange(8), devices.shard(over))
    assert [shard.data.shape for shard in batch.addressable_shards] == [(8 // over.size,)] * over.size
    assert jax.device_put(np.arange(8), devices.replicate(over)).is_fully_replicated
