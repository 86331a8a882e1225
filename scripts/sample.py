"""Make pictures with a trained model, from words.

One label, or a grid of labels ("|" between them):

    python scripts/sample.py --checkpoint=workdir/punks --label="Female, Mohawk, Earring" --n=16 --out=mohawks.png
    python scripts/sample.py --checkpoint=workdir/punks --rows="Female|Male" --columns="Mohawk|Beanie|VR" --out=grid.png
"""

import argparse
import sys
from typing import NoReturn

from absl import logging

from ddpm_jax import generator, recipes, runtime


class Parser(argparse.ArgumentParser):
    """A parser whose errors are sentences like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput instead of printing the usage."""
        raise runtime.BadInput(message)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True, help="a workdir, one of its checkpoints/<step>, or a released model's name")
    add("--label", default="", help='words, "-" before a word that must not be there: "Female, Mohawk, -Pipe"')
    add("--n", type=int, default=16, help="pictures of the label (default 16)")
    add("--rows", default="", help='labels of the rows of a grid, "|" between them; with --columns')
    add("--columns", default="", help='labels of its columns, "|" between them; --label is added to every cell')
    add("--complete", action="store_true", help="every word that is not named is absent")
    add("--out", required=True, help="the PNG to write; its text chunk holds the recipe")
    add("--gif", default="", help="also write the denoising, step by step, as a GIF")
    add("--seed", type=int, default=0)
    add("--sampler", default="", help="the checkpoint's unless given, as for --steps and --guidance")
    add("--steps", type=int, help="net evaluations per picture")
    add("--guidance", type=float, help="0 unconditional, 1 conditional, more exaggerates")
    add("--snap", action="store_true", help="move each pixel to the nearest palette colour")
    add("--raw", action="store_true", help="the parameters themselves, not their average (EMA)")
    add("--scale", type=int, default=6, help="size of a pixel in the PNG (default 6)")
    add("--force", action="store_true", help="overwrite --out and --gif")
    return parser.parse_args(argv)


def make(args: argparse.Namespace) -> None:
    """Write what the arguments ask for."""
    for path in filter(None, (args.out, args.gif)):
        recipes.refuse_existing(path, args.force)
    if bool(args.rows) != bool(args.columns):
        raise runtime.BadInput("a grid needs both --rows and --columns")
    how = {"seed": args.seed, "sampler": args.sampler, "complete": args.complete}
    how |= {key: value for key in ("steps", "guidance") if (value := getattr(args, key)) is not None}
    model = generator.load(args.checkpoint, "raw" if args.raw else "ema")
    if args.rows:
        rows, columns = split(args.rows), split(args.columns)
        labels = recipes.cross(rows, columns, args.label)
        recipes.attribute_grid(model, rows, columns, args.out, base=args.label, scale=args.scale, snap=args.snap, **how)
    else:
        labels, columns = [args.label] * args.n, [""] * 8
        recipes.sheet(model, args.label, args.out, n=args.n, scale=args.scale, snap=args.snap, **how)
    if args.gif:
        recipes.denoising(model, labels, args.gif, columns=len(columns), scale=args.scale, **how)
    print(f"wrote {args.out}" + (f" and {args.gif}" if args.gif else ""))


def split(text: str) -> list[str]:
    """Return the labels of a list with "|" between them."""
    return [part.strip() for part in text.split("|")]


def main(argv: list[str] | None = None) -> int:
    """Run the command; wrong input ends in one sentence and exit code 65."""
    logging.set_verbosity(logging.WARNING)
    try:
        make(parse(argv))
    except runtime.Failure as failure:
        print(failure, file=sys.stderr)
        return int(failure.code)
    except ValueError as error:
        print(error, file=sys.stderr)
        return int(runtime.Exit.BAD_INPUT)
    except OSError as error:
        print(error, file=sys.stderr)
        return int(runtime.Exit.STORAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
