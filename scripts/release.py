"""Put a trained model, or a classifier, into the package: averaged parameters alone, in `ddpm_jax/pretrained/<name>`.

    python scripts/release.py --checkpoint=workdir/punks --name=punks
    python scripts/release.py --classifier=punks

`ddpm_jax.load("punks")` finds it then. Write its card, README.md, beside it: data, command, results, limits.
"""

import re
import sys

from ddpm_jax import checkpoint, commands, judging, releases, runtime
from ddpm_jax.evaluation import judge


def make(argv: list[str] | None) -> None:
    """Write it, and say how large it is."""
    parser = commands.Parser(__doc__)
    parser.add_argument("--checkpoint", help="a workdir, or one of its checkpoints/<step>")
    parser.add_argument("--name", help="what it is to be called")
    parser.add_argument(
        "--words", help="another checkpoint of these data, whose word layers, motifs and prior are taken instead"
    )
    parser.add_argument("--early", help="another checkpoint, of few steps, for guidance to lead away from")
    parser.add_argument("--classifier", choices=tuple(judge.SPLITS), help="our classifier of a data set instead")
    parser.add_argument("--root", default="data", help="where the data and our classifiers lie (default data)")
    args = parser.parse_args(argv)
    if bool(args.classifier) == bool(args.checkpoint) or bool(args.checkpoint) != bool(args.name):
        raise runtime.BadInput("give --checkpoint and --name, or --classifier")
    if args.name and not re.fullmatch(r"[a-z0-9_]+", args.name):
        raise runtime.BadInput(f"--name is {args.name!r}; use small letters, digits and _")
    if args.classifier:
        folder = judging.release_classifier(args.classifier, args.root)
    else:
        folder = releases.FOLDER / args.name
        words, early = (checkpoint.resolve(path) if path else None for path in (args.words, args.early))
        releases.write_model(checkpoint.resolve(args.checkpoint), folder, words, early)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"wrote {folder} ({size / 1e6:.1f} MB)")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
