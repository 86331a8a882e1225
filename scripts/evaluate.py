"""Judge a model by the benchmark: every figure with its interval, beside a baseline, as a table, JSON and plots.

    python scripts/evaluate.py --checkpoint=workdir/punks --out=punks.json
    python scripts/evaluate.py --checkpoint=workdir/punks --metrics=exact,open --steps=3 --out=quick.json
    python scripts/evaluate.py --baseline --split=iid --out=baseline.json
    python scripts/evaluate.py --classifier=punks --out=classifier.json

A model is judged on what its own training held out, with one setting: the checkpoint's, unless told otherwise. Beside
the JSON lie its table (.md) and a folder of plots and failures; a command that was cut goes on where it was.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from absl import logging

from ddpm_jax import commands, devices, engine, generator, judging, runtime
from ddpm_jax.evaluation import benchmark, judge

HOW = {"sampler": str, "steps": int, "times": str, "words": str, "guidance": float, "autoguidance": float}
MODELS = ("metrics", *HOW, "raw", "share")  # flags that only a checkpoint has


def make(argv: list[str] | None) -> None:
    """Print the rows, and write them."""
    parser = commands.Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", help="a workdir, one of its checkpoints/<step>, or a released model's name")
    add("--baseline", action="store_true", help="the renderer of punks instead of a model")
    add("--classifier", choices=tuple(judge.SPLITS), help="our classifier of a data set instead: train and judge it")
    add(
        "--metrics",
        default="core",
        help=f"core, all (with sweeps and raw weights), or of {','.join(benchmark.METRICS)}",
    )
    add("--split", default="", help="what to judge by (default: what the model held out; of the baseline: iid)")
    for name, kind in HOW.items():
        add(f"--{name}", type=kind, help="instead of the checkpoint's")
    add("--raw", action="store_true", help="the parameters themselves, not their average (EMA)")
    add("--share", type=float, default=1.0, help="of the benchmark's pictures and requests: less is a quick look")
    add("--root", default="data", help="where the data and our classifiers lie (default data)")
    add("--out", required=True, help="the JSON file to write")
    add("--force", action="store_true", help="overwrite")
    args = parser.parse_args(argv)
    if sum(map(bool, (args.checkpoint, args.baseline, args.classifier))) != 1:
        raise runtime.BadInput("give one of --checkpoint, --baseline and --classifier")
    out, given = Path(args.out), [flag for flag in MODELS if getattr(args, flag) != parser.get_default(flag)]
    if out.suffix != ".json":
        raise runtime.BadInput(f"--out={out} must end in .json")
    if not args.checkpoint and given:
        raise runtime.BadInput(f"--{given[0]} is of --checkpoint; leave it out")
    if args.classifier and args.split:
        raise runtime.BadInput("--split is not of --classifier, whose split is fixed; leave it out")
    for path in (out, out.with_suffix(".md")):
        commands.refuse_existing(path, args.force)
    logging.set_verbosity(logging.ERROR)  # that words of a held-out label were never seen together is no news here
    devices.configure(engine.BUCKETS[-1])
    if args.checkpoint:
        how = {key: getattr(args, key) for key in HOW}
        model = generator.load(args.checkpoint, "raw" if args.raw else "ema")
        by = {"how": how, "split": args.split, "root": args.root, "share": args.share}
        judging.write_report(model, args.metrics, out, **by)
    else:
        judging.write_json(out, other(args))
    print(f"wrote {out}")


def other(args: argparse.Namespace) -> dict[str, Any]:
    """Return the score of what stands beside the models: the renderer, or a classifier."""
    if args.classifier:
        found = judging.classifier_report(args.classifier, args.root)
        line = "{share:.2%} of {n} whole labels are read right"
        line += "; {drawn_alike:.2%} are drawn just so from what is read" * ("drawn_alike" in found)
    else:
        found = judging.baseline_report(args.split or "iid", args.root)
        line = "{right} of {n} exact ({exact:.1%}, {low:.1%} to {high:.1%}), {wrong_pixels:.2f} wrong pixels; "
        line += "{exact_solvable:.1%} of the {solvable} solvable"
    print(line.format(**found))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
