"""Draw punks with the model that comes along; then train one on faces that this package draws, for about two minutes.

    make demo          (or: python scripts/demo.py --workdir=workdir/demo --minutes=2)

Its pictures are counted against the exact drawings. Run it again and it goes on, or only makes the pictures.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ddpm_jax import animation, commands, devices, engine, generator, images, recipes, runtime
from ddpm_jax.datasets import avatars

PUNKS = "Female+Light,Male+Dark,Zombie,Ape,Alien x "
PUNKS += "Knitted Cap,Bandana+Pipe,Hoodie,Cap+Earring,Headband+Cigarette,Cap Forward"
ROWS = ("Human, Pale", "Human, Dark", "Elf, Tan", "Zombie", "Robot", "Cat")
COLUMNS = ("", "Mohawk", "Curls, Glasses", "Cap", "Wizard Hat, Beard", "Beanie, Pipe")
COLUMNS += ("Crown, Long Hair", "Shades, Earring")


def draw_punks(workdir: str) -> int:
    """Draw a grid with the released model, in a process of its own: training may need the whole device. Its code."""
    flags = ["--checkpoint=punks", f"--grid={PUNKS}", "--complete", f"--out={workdir}/punks.png", "--force"]
    print("scripts/sample.py", *flags, flush=True)
    Path(workdir).mkdir(parents=True, exist_ok=True)
    return subprocess.run([sys.executable, str(Path(__file__).with_name("sample.py")), *flags]).returncode


def train(workdir: str, minutes: float) -> int:
    """Train the embedded set; returns the exit code of the main job."""
    flags = ["--config=avatars_cfg", f"--workdir={workdir}", f"--config.train.minutes={minutes}"]
    print("python -m ddpm_jax.main", *flags, flush=True)
    job = subprocess.Popen([sys.executable, "-m", "ddpm_jax.main", *flags])
    while True:
        try:
            return job.wait()
        except KeyboardInterrupt:  # the job has it too: it saves and ends by itself
            continue


def show(workdir: str) -> None:
    """Write the grid and the denoising, and print how many cells are right to the pixel."""
    devices.configure(engine.BUCKETS[-1])
    model = generator.load(workdir)
    grid, gif = f"{workdir}/grid.png", f"{workdir}/denoising.gif"
    job = {"kind": "grid", "label": "", "rows": ROWS, "columns": COLUMNS}
    job |= {"complete": True, "steps": 10, "sampler": "ddim", "guidance": 1.0}
    drawn = recipes.draw(model, job)
    images.write_png(recipes.picture(drawn, scale=4), grid, model.recipe(job=job, scale=4))
    frames, columns = recipes.frames(model, job)
    animation.write(frames, gif, columns=columns, scale=4)
    labels = [f"{row}, {column}" for row in ROWS for column in COLUMNS]
    asked = np.stack([avatars.LABELS.parse(label, complete=True) for label in labels])
    right = (drawn.pictures == avatars.PALETTE[avatars.render(asked)]).all(axis=(1, 2, 3))
    print(f"\n{right.sum()} of {len(right)} cells ({right.mean():.0%}) equal the exact drawing, pixel for pixel")
    print(f"pictures: {workdir}/punks.png, {grid} and {gif}")
    print("next, your own words (or a bigger job: --config=punks_cfg):")
    command = f'scripts/sample.py --checkpoint={workdir} --label="Cat, Wizard Hat, Pipe" --out={workdir}/cats.png'
    print(f"  {sys.executable} {command}")


def make(argv: list[str] | None) -> None:
    """Train, then show; where training ends early its exit code is the demo's."""
    parser = commands.Parser(__doc__)
    parser.add_argument("--workdir", default="workdir/demo")
    parser.add_argument("--minutes", type=float, default=2.2, help="of training (default 2.2); a run keeps its first")
    args = parser.parse_args(argv)
    if not args.workdir.strip():
        raise runtime.BadInput("--workdir is empty; name a directory, as in --workdir=workdir/demo")
    if not args.minutes > 0:
        raise runtime.BadInput(f"--minutes is {args.minutes:g}; it must be above 0")
    began = time.monotonic()
    if code := draw_punks(args.workdir) or train(args.workdir, args.minutes):
        sys.exit(code)  # the job has said why
    show(args.workdir)
    print(f"{time.monotonic() - began:.0f} seconds in all")


if __name__ == "__main__":
    sys.exit(commands.run(make))
