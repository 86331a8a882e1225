"""Write a sampler as one file of StableHLO, which needs JAX alone to run, on a CPU, a GPU or a TPU.

python scripts/export.py --checkpoint=workdir/punks --steps=5 --out=punks.stablehlo

import jax, numpy as np
with open("punks.stablehlo", "rb") as file:
    sample = jax.export.deserialize(bytearray(file.read())).call
pictures = sample(labels, seeds, np.float32(1))  # int8 [b, words], uint32 [b]; the words stand in punks.stablehlo.json
"""

import importlib.util
import sys

from ddpm_jax import commands, export, generator, runtime


def make(argv: list[str] | None) -> None:
    """Write what the arguments ask for, and compare it with the sampler itself."""
    parser = commands.Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="a workdir, one of its checkpoints/<step>, or a released model's name")
    add("--out", required=True, help="the file to write; <out>.json will say its words and recipe")
    add("--raw", action="store_true", help="the parameters themselves, not their average (EMA)")
    add("--sampler", help="the checkpoint's unless given, as for the next five")
    add("--steps", type=int, help="net evaluations per picture")
    add("--times", help="how they are spaced")
    add("--words", help="what decides the words that a label leaves open: net or prior")
    add("--guidance", type=float, help="1: none; else a pass more, and the weight is an argument")
    add("--autoguidance", type=float, help="1: none, and the file holds one net instead of two")
    add("--platforms", default="cpu,cuda,tpu", help="where it is to run (default cpu,cuda,tpu)")
    add("--force", action="store_true", help="overwrite")
    args = parser.parse_args(argv)
    if not importlib.util.find_spec("flatbuffers"):
        raise runtime.BadInput("exporting needs flatbuffers; install it by pip install 'ddpm_jax[export]'")
    commands.refuse_existing(args.out, args.force)
    model = generator.load(args.checkpoint, "raw" if args.raw else "ema")
    how = {key: getattr(args, key) for key in ("sampler", "steps", "times", "words", "guidance", "autoguidance")}
    asked = model.settings(**how)
    size = export.write(model, asked, args.out, args.platforms.split(","))
    print(f"wrote {args.out} ({size / 1e6:.1f} MB) for {args.platforms}")
    if "cpu" in args.platforms.split(","):
        largest = export.difference(model, asked, args.out)
        print(f"largest difference of a colour from the sampler itself, 16 pictures: {largest} of 255")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
