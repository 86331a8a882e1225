"""Judge drawings of held-out labels pixel for pixel: a model's, or the baseline's.

    python scripts/evaluate.py --checkpoint=workdir/punks --out=punks.json
    python scripts/evaluate.py --baseline --split=iid --out=baseline.json

A model is judged on what its own training held out, with one setting: the checkpoint's, unless --steps says otherwise.
"""

import argparse
import json
import sys
import time
from typing import Any

from absl import logging

from ddpm_jax import commands, datasets, engine, generator, runtime
from ddpm_jax.evaluation import exact, renderer


def make(argv: list[str] | None) -> None:
    """Print the score, and write it as JSON."""
    parser = commands.Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", help="a workdir, one of its checkpoints/<step>, or a released model's name")
    add("--baseline", action="store_true", help="the renderer of punks instead of a model")
    add("--split", default="iid", help="of the baseline: what to hold out (default iid)")
    add("--steps", type=int, help="net evaluations per picture")
    add("--raw", action="store_true", help="the parameters themselves, not their average (EMA)")
    add("--root", default="data", help="where the data lie (default data)")
    add("--out", required=True, help="the JSON file to write")
    add("--force", action="store_true", help="overwrite")
    args = parser.parse_args(argv)
    if bool(args.checkpoint) == args.baseline:
        raise runtime.BadInput("give either --checkpoint or --baseline")
    commands.refuse_existing(args.out, args.force)
    began = time.monotonic()
    about, score = baseline(args) if args.baseline else model(args)
    result = {**about, **score._asdict(), "seconds": round(time.monotonic() - began, 1)}
    runtime.write_atomically(args.out, json.dumps(result, indent=2).encode())
    print(f"{score.right} of {score.n} exact ({score.exact:.1%}, {score.low:.1%} to {score.high:.1%}), ", end="")
    print(f"{score.wrong_pixels:.2f} wrong pixels; {score.exact_solvable:.1%} of the {score.solvable} solvable")


def baseline(args: argparse.Namespace) -> tuple[dict[str, Any], exact.Score]:
    """Return the renderer's score on a split of the punks."""
    data = datasets.load("punks", holdout=args.split, root=args.root)
    positions = exact.asked(data, args.split)
    drawn = renderer.draw(renderer.load(data, args.root), data, data.labels[positions])
    return {"baseline": "renderer", "split": args.split}, exact.score(drawn, data, positions)


def model(args: argparse.Namespace) -> tuple[dict[str, Any], exact.Score]:
    """Return a model's score on the complete labels that its training held out."""
    logging.set_verbosity(logging.ERROR)  # that words of a held-out label were never seen together is no news here
    runtime.configure_devices(engine.BUCKETS[-1])
    drawing = generator.load(args.checkpoint, "raw" if args.raw else "ema")
    section = {**drawing.meta["config"]["data"], "root": args.root}
    section.pop("storage")
    data = datasets.load(**section)
    if not (data.heldout.size and data.spec.labels.size):
        raise runtime.BadInput(f"{drawing.path} held no labelled pictures out, so there is nothing to judge it by")
    if data.fingerprint != drawing.meta["fingerprint"]:
        raise runtime.BadInput(f"the data under {args.root} are not those that {drawing.path} was trained on")
    positions = exact.asked(data, section["holdout"])
    how = drawing.settings(steps=args.steps)
    drawn = drawing.sample(list(data.labels[positions]), steps=args.steps)
    about = drawing.recipe(split=section["holdout"], settings=how._asdict(), seed=0)
    return about, exact.score(drawn, data, positions)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
