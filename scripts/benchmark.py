"""Time this project, and beside it, in the same run, the same net in PyTorch (`make benchmark` installs that).

    python scripts/benchmark.py --peer=.venv-peer/bin/python --out=benchmark.json
    python scripts/benchmark.py --what=sample --nets=punks --out=sampling.json
    python scripts/benchmark.py --scaling --out=scaling.json

The peer's best form counts; a ratio above 1 means that ours is faster. Nothing is downloaded: pictures are random.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from ddpm_jax import commands, engine, runtime, scaling, speed, timing
from ddpm_jax.requests import check_range

FORMS = {
    "cpu": "eager,channels_last,compile,compile_channels_last",
    "cuda": "channels_last,compile_channels_last,cuda_graphs",
}


def make(argv: list[str] | None) -> None:
    """Print a line for each measurement, and write them all."""
    parser = commands.Parser(__doc__)
    add = parser.add_argument
    add("--peer", default="", help="the Python of an environment with PyTorch; without it ours is timed alone")
    add("--what", default="train_step,forward,sample,data", help=f"of {','.join(timing.RUNS)}")
    add("--nets", default=",".join(speed.NETS), help="punks (that of punks_cfg), plain (a small one without a stem)")
    add("--dtypes", default="float32", help="float32, bfloat16, or both")
    add("--forms", default="", help="of the peer (default: all that make sense on the device)")
    add("--device", default="cpu", choices=tuple(FORMS), help="where the peer runs; ours takes what jax finds")
    add("--batch", type=int, default=64)
    add("--dispatch", type=int, default=1, help="train steps in one call of ours; on a GPU take 50")
    add("--rounds", type=int, default=7)
    add("--scaling", action="store_true", help="instead: devices, batch, width and size against cost")
    add("--out", required=True, help="the JSON file to write")
    add("--force", action="store_true", help="overwrite")
    args = parser.parse_args(argv)
    commands.refuse_existing(args.out, args.force)
    for name, value, most in (
        ("batch", args.batch, 4096),
        ("dispatch", args.dispatch, 10_000),
        ("rounds", args.rounds, 1000),
    ):
        check_range(name, value, 1, most)
    if args.peer and not os.access(args.peer, os.X_OK):
        raise runtime.BadInput(f"there is no {args.peer}; run `make benchmark`, which makes it")
    found: dict[str, Any] = {"machine": timing.machine(), "rows": []}
    for row in scaling.measure() if args.scaling else compare(args):
        found["rows"].append(row)
        print((scaling if args.scaling else timing).line(row), flush=True)
        runtime.write_atomically(args.out, json.dumps(found, indent=1).encode())
    print(f"wrote {args.out}")


def compare(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of all that is asked for."""
    forms = chosen(args.forms or FORMS[args.device], FORMS[args.device].split(","))
    nets, whats = chosen(args.nets, speed.NETS), chosen(args.what, timing.RUNS)
    if "sample" in whats and args.batch not in engine.BUCKETS:
        raise runtime.BadInput(
            f"sampling is in buckets of {engine.BUCKETS} pictures; --batch={args.batch} is none of them"
        )
    how = {"batch": args.batch, "rounds": args.rounds, "device": args.device, "peer": args.peer}
    for net, what, dtype in itertools.product(nets, whats, chosen(args.dtypes, ("float32", "bfloat16"))):
        dispatch = args.dispatch if what == "train_step" else 1
        yield timing.compare(what, net, dtype, dispatch=dispatch, forms=forms, **how)


def chosen(value: str, known: Any) -> list[str]:
    """Return the names of a list with commas. Raises BadInput for one that is not known."""
    names = value.split(",")
    for name in names:
        if name not in known:
            raise runtime.BadInput(f"unknown {name!r}; choose of {', '.join(known)}")
    return names


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
