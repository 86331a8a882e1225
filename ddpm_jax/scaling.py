"""How the cost of a train step grows: with devices, batch, width and resolution."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ddpm_jax import runtime, timing

PER_DEVICE = 8  # pictures of a device: eight of them share two cores here
DEVICES = (1, 2, 4, 8)
SWEEPS: dict[str, dict[str, Any]] = {  # one thing changed at a time, on one device
    "batch 16": {"batch": 16},
    "batch 32": {"batch": 32},
    "batch 64": {"batch": 64},
    "batch 128": {"batch": 128},
    "batch 64 in 4 parts": {"batch": 64, "changes": {"train.accumulate": 4}},
    "batch 64, remat": {"batch": 64, "changes": {"net.remat": True}},
    "width 24": {"batch": 64, "changes": {"net.channels": 24}},
    "width 96": {"batch": 64, "changes": {"net.channels": 96}},
    "size 32": {"batch": 64, "size": 32, "changes": {"net.attention": [8]}},
    "size 48": {"batch": 64, "size": 48, "changes": {"net.attention": [12]}},
}


class Case(NamedTuple):
    """One row: its name, and the arguments of `timing.ours`."""

    name: str
    arguments: dict[str, Any]


def cases() -> Iterator[Case]:
    """Yield the rows: weak scaling (the same batch for each device), then the sweeps."""
    for count in DEVICES:
        yield Case(f"{count} devices", {"devices": count, "batch": PER_DEVICE * count})
    for name, arguments in SWEEPS.items():
        yield Case(name, {"devices": 1, **arguments})


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row for each of `cases`: what XLA counts of a step on one device and, for weak scaling, images a second.

    Raises BadInput where there are other numbers of devices than asked for: virtual ones are of a CPU.
    """
    for name, arguments in cases():
        with timing.ours("punks", huge_pages=True, **arguments) as side:
            if side.about["devices"] != arguments["devices"]:
                raise runtime.BadInput(f"jax has {side.about['devices']} devices here; set JAX_PLATFORMS=cpu")
            row = {"case": name, **arguments, **side.ask(do="costs")}
            if name.endswith("devices"):
                _, times, _ = timing.in_turn({"ours": side}, "train_step", rounds=5)
                row["images_per_second"] = arguments["batch"] / timing.summary(times)["seconds"]["ours"]
        yield row


def line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of text."""
    moved = sum(row["collective_bytes"].values()) / 1e6
    text = f"{row['case']:20s} {row['flop'] / 1e9:6.1f} GFLOP  {row['temporary_bytes'] / 2**20:6.0f} MiB"
    text += f"  {moved:5.1f} MB moved"
    return text + (f"  {row['images_per_second']:.0f} images/s" if "images_per_second" in row else "")
