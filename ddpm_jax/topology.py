"""What a run needs of devices that are not here: its step is compiled for them ahead of time, and no array is made.

A TPU's program comes from its own compiler, libtpu, which needs no TPU. CPU devices stand in for GPUs: the sharding,
the FLOP and the collectives are the same, the temporary bytes are not (nor has it a loop over a dispatch's steps).
"""

import importlib.util
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from ddpm_jax import build, devices, hlo, pipeline, runtime, settings, train
from ddpm_jax.requests import check_range

FORM = re.compile(r"(\w+):(\d+(?:x\d+)*)")
MAX_CHIPS = 4096


class Chip(NamedTuple):
    """A chip's memory, its peak in bfloat16 (in which a TPU multiplies float32, too), and its memory's bandwidth."""

    gib: float = math.inf
    tflops: float = math.inf
    gb_per_s: float = math.inf


class Topology(NamedTuple):
    """Which chips, and how they are laid out: v5e:16x16 is 256 of them."""

    kind: str
    layout: tuple[int, ...]
    chip: Chip

    @property
    def name(self) -> str:
        """As it is written on a command line."""
        return f"{self.kind}:{'x'.join(map(str, self.layout))}"

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.layout)


def parse(name: str) -> Topology:
    """Return the topology of a name. Raises BadInput for any other text."""
    found = FORM.fullmatch(name)
    if not found or found[1] not in CHIPS or (found[1] not in TPU and "x" in found[2]):
        example = f"a TPU ({', '.join(TPU)}) and its layout, as in v5e:16x16, or gpu:8 or cpu:64"
        raise runtime.BadInput(f"topology {name!r} is unknown; give {example}")
    layout = tuple(map(int, found[2].split("x")))
    check_range("topology: the number of chips", math.prod(layout), 1, MAX_CHIPS)
    return Topology(found[1], layout, CHIPS[found[1]])


def mesh(of: Topology) -> Mesh:
    """Return the mesh `data` over the chips of a topology; call it in `main`, before anything asks jax for a device.

    Raises BadInput where libtpu is missing or knows no such layout, and where jax has started with other devices.
    """
    jax.config.update("jax_platforms", "cpu")  # accelerators that are here take no part
    if of.kind not in TPU:
        devices.configure(of.chips, of.chips)
        return devices.mesh()
    chips = _tpu_chips(of)
    if len(chips) != of.chips:
        raise runtime.BadInput(f"topology {of.name} has {len(chips)} devices, not one for each chip")
    return jax.make_mesh((of.chips,), ("data",), axis_types=(AxisType.Auto,), devices=chips)


def _tpu_chips(of: Topology) -> Any:
    if not importlib.util.find_spec("libtpu"):
        raise runtime.BadInput(
            f"topology {of.name} needs the compiler of TPUs; install it, no TPU needed, by pip install 'ddpm_jax[tpu]'"
        )
    # Else libtpu asks the network which TPU this is, and locks it.
    about = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16"}
    for key, value in {**about, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    how: dict[str, Any] = {}
    if of.kind == "v4":  # its two cores are one device
        how["chip_config_name"] = "megacore"
    if of.chips == 1:  # a part of a host, which has 2 x 2
        how["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=of.name, **how).devices
    except jax.errors.JaxRuntimeError as error:
        raise runtime.BadInput(f"topology {of.name} is refused by libtpu: {_said(error)}") from error


def measure(config: ConfigDict, of: Topology, over: Callable[[Topology], Mesh] = mesh) -> dict[str, Any]:
    """Return what one step of a run needs of each chip, and of the links between them, as JSON may hold it.

    Raises BadInput where the batch does not divide over the chips, or the program does not fit into their memory.
    """
    settings.check(config)
    if of.kind not in TPU:  # XLA:CPU takes minutes to compile a loop over steps
        config = _changed(config, "train.steps_per_dispatch", 1)
    values = config.to_dict()
    plan, saves = train.Plan(**values["train"]), train.Saves(**values["checkpoint"])
    build.check_parts(plan, of.chips)
    advance, state, inputs = build.outline(config, over(of))
    lowered, began = _lower(advance, state, inputs), time.perf_counter()
    compiled = _compile(lowered, of)
    seconds, flop = time.perf_counter() - began, float(compiled.cost_analysis()["flops"])
    if plan.accumulate > 1:  # XLA counts the body of a loop once, be it over parts or steps
        flop += (_whole_flop(config, 1) - _whole_flop(config, plan.accumulate)) / of.chips
    traffic, steps = hlo.collectives(compiled.as_text()), plan.steps_per_dispatch
    ahead = pipeline.AHEAD if values["data"]["storage"] == "stream" else 0
    bounds = {"arithmetic": flop / (of.chip.tflops * 1e12), "memory": 2 * held(state) / (of.chip.gb_per_s * 1e9)}
    return {
        "topology": of.name,
        "chips": of.chips,
        "batch_size": plan.batch_size,
        "pictures_per_chip": plan.batch_size // of.chips,
        "parameters": values["runtime"]["parameters"],
        "bytes_per_chip": memory(compiled.memory_analysis(), state, inputs, ahead),
        "memory_bytes": None if math.isinf(of.chip.gib) else int(of.chip.gib * 2**30),
        "flop_per_chip": flop,
        "seconds_at_least": {name: bound for name, bound in bounds.items() if bound},
        "collectives": {kind: {"times": n / steps, "bytes": size / steps} for kind, (n, size) in traffic.items()},
        "seconds_to_compile": seconds,
        "checkpoints": kept(plan.steps, saves),
        "checkpoint_bytes": sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state)),
    }


def _changed(config: ConfigDict, key: str, value: Any) -> ConfigDict:
    changed = ConfigDict(config.to_dict())
    changed.update_from_flattened_dict({key: value})
    return changed


def _lower(advance: Any, state: Any, inputs: Any) -> Any:
    return advance.lower(state, inputs)


def _compile(lowered: Any, of: Topology) -> Any:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = f"the step does not fit into a chip of {of.name}; take more chips, fewer pictures or more parts"
        raise runtime.BadInput(f"{what}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return the first line of what a compiler said, without its code."""
    return str(error).partition("\n")[0].partition(": ")[2]


def _whole_flop(config: ConfigDict, accumulate: int) -> float:
    """Count the FLOP of a step that is not cut over devices, the body of a loop once."""
    config = _changed(config, "train.accumulate", accumulate)
    one = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:1])
    return float(_lower(*build.outline(config, one)).cost_analysis()["flops"])


def held(shapes: Any) -> int:
    """Return the bytes that one device keeps of a tree of shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def memory(said: Any, state: Any, inputs: Any, ahead: int) -> dict[str, int]:
    """Return the bytes of a chip by what they are for; `ahead` is how many more inputs wait there."""
    parameters, whole = held(state.params), held(state)
    found = {"parameters": parameters, "optimizer, average": whole - parameters, "data": held(inputs) * (1 + ahead)}
    # What the program does not read is no argument of it.
    found["padding"] = max(said.argument_size_in_bytes - whole - held(inputs), 0)
    found["temporary"] = said.temp_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes
    found["program"] = said.generated_code_size_in_bytes
    return found | {"in all": sum(found.values())}


def kept(steps: int, saves: train.Saves) -> int:
    """Return how many checkpoints can be on disk at once: those that stay, and one that is being written."""
    every = steps // math.lcm(saves.every, saves.keep_every) if saves.keep_every else 0
    return min(saves.keep_newest + saves.keep_best + every, math.ceil(steps / saves.every)) + 1


def free(workdir: str) -> int:
    """Return the free bytes where a workdir is, or would be made."""
    folder = Path(workdir).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a report as a table of names and values."""
    chips, limit, flop = report["chips"], report["memory_bytes"], report["flop_per_chip"]
    rows = [("chips", f"{chips:>10,} {report['topology']}")]
    rows += [("pictures a step", f"{report['batch_size']:>10,} {report['pictures_per_chip']:,} a chip")]
    rows += [("parameters", f"{report['parameters']:>10}")]
    rows += [(f"MB a chip: {what}", f"{size / 1e6:>10,.1f}") for what, size in report["bytes_per_chip"].items()]
    if limit:
        part = report["bytes_per_chip"]["in all"] / limit
        rows += [("MB a chip: its memory", f"{limit / 1e6:>10,.1f} of which {part:.1%} are used")]
    rows += [("GFLOP a step", f"{flop * chips / 1e9:>10,.1f} {flop / 1e9:,.2f} a chip")]
    for what, seconds in report["seconds_at_least"].items():
        rows += [(f"ms a step, at least: {what}", f"{seconds * 1e3:>10.3f} {WHY[what]}")]
    for kind, traffic in sorted(report["collectives"].items()):
        rows += [(f"MB a step: {kind}", f"{traffic['bytes'] / 1e6:>10,.1f} in {traffic['times']:g}")]
    rows += [("s to compile", f"{report['seconds_to_compile']:>10.1f}")]
    count, size = report["checkpoints"], report["checkpoint_bytes"]
    rows += [("MB of checkpoints", f"{count * size / 1e6:>10,.1f} at most {count} of {size / 1e6:,.1f}")]
    if "free_bytes" in report:
        rows += [("MB free in the workdir", f"{report['free_bytes'] / 1e6:>10,.1f} {report['workdir']}")]
    yield from (f"{name:32s}{value}" for name, value in rows)
    if report["topology"].startswith("gpu"):
        yield "compiled for CPUs: a GPU's sharding, FLOP and collectives; its temporary bytes will differ"


def check(report: Mapping[str, Any]) -> None:
    """Raise BadInput where a chip's memory is too small for a report, Storage where the workdir's disk is."""
    needed, limit = report["bytes_per_chip"]["in all"], report["memory_bytes"]
    if limit and needed > limit:
        raise runtime.BadInput(
            f"a chip of {report['topology']} has {limit / 1e6:,.1f} MB and the step needs {needed / 1e6:,.1f} MB; "
            "take more chips, a smaller train.batch_size or a larger train.accumulate"
        )
    needed = report["checkpoints"] * report["checkpoint_bytes"]
    if report.get("free_bytes", math.inf) < needed:
        space = f"need {needed / 1e6:,.1f} MB, free {report['free_bytes'] / 1e6:,.1f} MB"
        raise runtime.Storage(f"no space: {space} in {report['workdir']}")


WHY = {"arithmetic": "FLOP at the chip's peak", "memory": "the state, read and written once"}
# As published: memory, TFLOP/s in bfloat16, GB/s. GPUs differ too much for one row.
CHIPS = {
    "v4": Chip(32, 275, 1228),
    "v5e": Chip(16, 197, 819),
    "v5p": Chip(95, 459, 2765),
    "v6e": Chip(32, 918, 1640),
    "gpu": Chip(80),
    "cpu": Chip(),
}
TPU = tuple(kind for kind in CHIPS if kind.startswith("v"))
