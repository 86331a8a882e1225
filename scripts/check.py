"""Say what a run needs of chips that are not here: whether it fits, what a step costs, what goes over the links.

    python scripts/check.py --config=punks_cfg --topology=v5e:16x16 --config.train.batch_size=2048
    python scripts/check.py --config=punks_cfg --topology=gpu:8 --config.runtime.parameters=sharded --out=check.json

The run's step is compiled for the chips (v4, v5e, v5p or v6e: any machine will do, with pip install 'ddpm_jax[tpu]')
or for as many virtual CPU devices. It exits with 65 if the run does not fit there, 74 if its checkpoints do not.
"""

import json
import sys

from ddpm_jax import commands, requests, runtime, topology
from ddpm_jax import main as training


def make(argv: list[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parser = commands.Parser(__doc__)
    add = parser.add_argument
    add("--topology", required=True, help="v5e:16x16 and the like (v4, v5e, v5p, v6e), gpu:8 or cpu:64")
    add("--workdir", default="", help="where the run would save; its free space is compared")
    add("--memory-gib", type=float, help="of a chip (default: as published for a TPU, 80 for a GPU)")
    add("--peak-tflops", type=float, help="of a chip; gives a lower bound on the time of a step for a GPU or CPU, too")
    add("--out", default="", help="a JSON file to write")
    add("--force", action="store_true", help="overwrite")
    parser.epilog = "and --config=FILE or its name, --config.SECTION.KEY=VALUE, as in training"
    args, of_config = parser.parse_known_args(argv)
    asked = topology.parse(args.topology)
    for field, value in (("gib", args.memory_gib), ("tflops", args.peak_tflops)):
        if value is not None:
            requests.check_range("--memory-gib" if field == "gib" else "--peak-tflops", value, 1e-3, 1e6)
            asked = asked._replace(chip=asked.chip._replace(**{field: value}))
    if args.out:
        commands.refuse_existing(args.out, args.force)
    if any(word.startswith("--distributed") for word in of_config):
        raise runtime.BadInput("--distributed is for training; the chips that are asked for are --topology's")
    extra = training.parse(["check", "--workdir=.", *of_config])[1:]
    if extra:
        raise runtime.BadInput(f"unexpected argument {extra[0]!r}; settings are --config.<section>.<key>=<value>")
    report = topology.measure(training.CONFIG.value, asked)
    if args.workdir:
        report |= {"workdir": args.workdir, "free_bytes": topology.free(args.workdir)}
    print("\n".join(topology.lines(report)))
    if args.out:
        runtime.write_atomically(args.out, json.dumps(report, indent=1).encode())
        print(f"wrote {args.out}")
    topology.check(report)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
