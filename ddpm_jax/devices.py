"""Devices: how many, how arrays lie on them, and where compiled functions are kept."""

import math
import os
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddpm_jax import runtime

MAX_CPU_DEVICES = 8
MIN_SHARDED = 2**12  # numbers of an array; smaller ones are kept whole everywhere


def check_batch(batch_size: int, devices: int) -> None:
    """Refuse a global batch that does not divide evenly over the devices; the sentence names the nearest that do."""
    if batch_size > 0 and batch_size % devices == 0:
        return
    below = batch_size // devices * devices
    nearest = f"{below} or {below + devices}" if below > 0 else f"{devices}"
    raise runtime.BadInput(f"batch_size {batch_size} is not divisible by {devices} devices; try {nearest}")


def cpu_devices(batch_size: int, cores: int) -> int:
    """Return the largest divisor of a process's batch that is at most the core count and at most 8."""
    most = max(1, min(cores, MAX_CPU_DEVICES, batch_size))
    return max(n for n in range(1, most + 1) if batch_size % n == 0)


def configure(batch_size: int, wanted: int = 0, processes: int = 1) -> None:
    """Give the CPU backend several virtual devices; call it in `main`, before anything asks jax for a device.

    XLA:CPU runs a convolution on one core per device, so one device leaves the other cores idle. `wanted` 0 picks
    `cpu_devices`, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS already say how many. Accelerators are not affected. The
    batch is that of all `processes` together, the devices are this one's.
    """
    if wanted < 0:
        raise runtime.BadInput(f"devices {wanted} is negative; 0 chooses automatically")
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not wanted and (forced or "JAX_NUM_CPU_DEVICES" in os.environ):
        return
    count = wanted or cpu_devices(batch_size // processes, _cores())
    check_batch(batch_size, count * processes)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise runtime.BadInput(
            f"{count} devices were asked for after jax had started; ask before the first jax call"
        ) from error


def keep_compiled(folder: str) -> None:
    """Keep compiled functions in a folder ("~" is the user's) for later processes; "" keeps none."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))


def _cores() -> int:
    """Count the cores this process may use: fewer than the machine has, under taskset or a batch scheduler."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mesh() -> Mesh:
    """Return the one-axis mesh `data` over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard(over: Mesh) -> NamedSharding:
    """Split the leading axis over the devices: for batches."""
    return NamedSharding(over, PartitionSpec("data"))


def replicate(over: Mesh) -> NamedSharding:
    """Keep a copy on every device."""
    return NamedSharding(over, PartitionSpec())


def replicated(shapes: Any, over: Mesh) -> Any:
    """Return shardings of a state, a tree of shapes: a copy on every device."""
    return jax.tree.map(lambda _: replicate(over), shapes)


def sharded(shapes: Any, over: Mesh) -> Any:
    """Return shardings of a state: big arrays split along the largest axis that divides over the devices.

    Fully sharded data parallelism: a device keeps its share of parameters, optimizer and average, and gets the others'
    when a step needs them (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054).
    """

    def one(leaf: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % over.size == 0]
        if math.prod(leaf.shape) < MIN_SHARDED or not axes:
            return replicate(over)
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(over, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(one, shapes)


LAYOUTS = {"replicated": replicated, "sharded": sharded}  # of a run's state: (shapes, mesh) -> shardings


def placed(shapes: Any, shardings: Any) -> Any:
    """Return `jax.eval_shape`'s tree with a sharding at each leaf: what a restore must be told."""
    return jax.tree.map(lambda x, lying: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lying), shapes, shardings)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Place host arrays; each process gives what its own devices keep, so elsewhere it need not be the same."""

    def one(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)


def gathered(tree: Any) -> Any:
    """Return the tree with arrays of which other processes have parts brought here whole; all must call it."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)
