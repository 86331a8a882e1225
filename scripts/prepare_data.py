"""Download, verify and decode data sets, once; training then needs no network.

    python scripts/prepare_data.py punks
    python scripts/prepare_data.py all --root=/data

Raw files come from the directory in DDPM_JAX_MIRROR if they are there, else from the network. Each set is decoded into
the array cache that training reads; punks and mnist are also prepared for TFDS, as array_record, where it is installed.
"""

import importlib.util
import logging
import sys
from pathlib import Path

from ddpm_jax import commands, datasets, runtime
from ddpm_jax.datasets import mnist, punks

PREPARED = {"punks": punks.prepare, "mnist": mnist.prepare}
NAMES = {"punks-images": ["punks_images"], "punks": ["punks"], "mnist": ["mnist"]}
NAMES["all"] = ["punks_images", "punks", "mnist"]


def prepare(name: str, root: str) -> None:
    """Prepare one data set and say what there is now."""
    found = datasets.load(name, root=root)
    shape = "x".join(map(str, found.spec.shape))
    print(f"{name}: {len(found.images)} images of {shape}, {found.spec.labels.size} words; in {Path(root, 'cache')}")
    if name in PREPARED:
        lacking = [one for one in ("tensorflow_datasets", "array_record") if not importlib.util.find_spec(one)]
        where = f"not prepared, {lacking[0]} is not installed" if lacking else PREPARED[name](root)
        print(f"{name} for TFDS: {where}")


def make(argv: list[str] | None) -> None:
    """Prepare what the arguments name."""
    parser = commands.Parser(__doc__)
    parser.add_argument("name", choices=NAMES, help="punks-images: the sheet without its labels")
    parser.add_argument("--root", default="data", help="where everything goes (default data)")
    args = parser.parse_args(argv)
    if not args.root.strip():
        raise runtime.BadInput("--root is empty; name a directory, as in --root=data")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in NAMES[args.name]:
        prepare(name, args.root)


def main(argv: list[str] | None = None) -> int:
    """Run the command; data that cannot be had or is wrong ends in one sentence and exit code 65, a full disk in 74."""
    return commands.run(make, argv)


if __name__ == "__main__":
    sys.exit(main())
