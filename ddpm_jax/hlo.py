"""What the text of a compiled program says: which collectives a call of it runs, how often, and how large they are."""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "pred": 1, "s8": 1, "u8": 1}  # else 4
COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)")
CALLED = re.compile(r"(\w+)=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Traffic(NamedTuple):
    """How often a kind of collective runs, and the bytes of the whole arrays in all.

    These are the arrays that a device has afterwards; of a reduce-scatter, which leaves it a part, those before.
    """

    times: int
    bytes: int


class _Instruction(NamedTuple):
    inside: str  # the computation it is of
    name: str
    shape: str
    kind: str
    rest: str  # operands and attributes


def collectives(text: str) -> dict[str, Traffic]:
    """Return the traffic of each kind that the program has; what stands in a loop counts as often as the loop turns."""
    instructions = list(_instructions(text))
    shapes = {one.name: one.shape for one in instructions}
    turns = _turns(instructions)
    found: dict[tuple[str, str], Traffic] = {}
    for one in instructions:
        kind = one.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        # A TPU runs one behind other work in several pieces, each of which names its channel.
        channel = re.search(r"channel_id=(\d+)", one.rest)
        key, count = (kind, channel[1] if channel else one.name), turns(one.inside)
        size = max(count * _size(one, shapes), found.get(key, Traffic(0, 0)).bytes)
        found[key] = Traffic(count, size)
    total: dict[str, Traffic] = {}
    for (kind, _), traffic in found.items():
        before = total.get(kind, Traffic(0, 0))
        total[kind] = Traffic(before.times + traffic.times, before.bytes + traffic.bytes)
    return total


def _instructions(text: str) -> Iterator[_Instruction]:
    inside = ""
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            yield _Instruction(inside, *match.groups())
        elif match := COMPUTATION.match(line):
            inside = match[1]


def _size(one: _Instruction, shapes: dict[str, str]) -> int:
    if one.kind == "reduce-scatter":
        return sum(sum(_bytes(shapes.get(name, ""))) for name in re.findall(r"%([\w.-]+)", one.rest.partition(")")[0]))
    if one.kind.endswith("-start") and one.kind != "all-reduce-start":  # operands, results, and perhaps two counters
        sizes = _bytes(one.shape.replace("u32[]", ""))
        return sum(sizes[len(sizes) // 2 :])
    return sum(_bytes(one.shape))


def _bytes(shape: str) -> list[int]:
    """Return the bytes of each array of a shape, which may be a tuple."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{.*?\}", "", shape))
    return [BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in arrays]


def _turns(instructions: list[_Instruction]) -> Callable[[str], int]:
    """Return the function from a computation to how often a call of the program runs it."""
    callers: dict[str, tuple[str, int]] = {}
    limits: dict[str, list[int]] = {}
    for one in instructions:
        if one.kind == "constant" and one.shape.startswith("s32[]"):
            limits.setdefault(one.inside, []).append(int(one.rest.partition(")")[0]))
    for one in instructions:
        called = {what: names.replace("%", "").split(", ") for what, names in CALLED.findall(one.rest)}
        known, limit = TRIPS.search(one.rest), limits.get(called.get("condition", [""])[0], [])
        # A TPU's program does not say how often a loop turns; its condition compares with the only constant it has.
        count = int(known[1]) if known else limit[0] if len(limit) == 1 else 1
        for what, names in called.items():
            callers.update((name, (one.inside, count if what == "body" else 1)) for name in names)

    def turns(inside: str) -> int:
        caller, count = callers.get(inside, ("", 1))
        return count * turns(caller) if caller else 1

    return turns
