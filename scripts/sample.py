"""Make pictures with a trained model, from words.

python scripts/sample.py --checkpoint=workdir/punks --label="Female, Mohawk, Earring" --out=mohawks.png
python scripts/sample.py --checkpoint=workdir/punks --grid="Female,Male x Mohawk,Beanie,VR" --out=grid.png
python scripts/sample.py --checkpoint=workdir/punks --label=Male --group=accessories --out=all.png
python scripts/sample.py --checkpoint=workdir/punks --edit=mine.png --label=Alien --strength=0.6 --out=alien.png
python scripts/sample.py --checkpoint=workdir/punks --recipe=grid.png --out=again.png
"""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ddpm_jax import animation, commands, devices, engine, generator, images, orders, recipes, runtime, streaming


def make(argv: list[str] | None) -> None:
    """Write what the arguments ask for."""
    args = orders.parse(__doc__, argv)
    out, many = Path(args.out), Path(args.out).suffix in ("", ".npz")
    if not many and out.suffix.lower() not in ((".png",) if args.recipe else animation.FORMS):
        raise runtime.BadInput(f"--out={out} must end in .png" + ", .gif, .apng, .webp or .npz" * (not args.recipe))
    if many and out.is_dir():
        commands.refuse_closed(out)
    else:
        commands.refuse_existing(out, args.force)
    if args.recipe:
        recipe, picture, comparison = recipes.again(load(args), args.recipe)
        images.write_png(picture, out, recipe)
        return print(f"wrote {out}: {comparison}")
    job, model = orders.job(args), load(args)
    settings = model.settings(**orders.settings(args))
    if args.away_from and settings.autoguidance == 1 and job.get("key") != "autoguidance":
        raise runtime.BadInput("--away-from does nothing at autoguidance 1; add --autoguidance=2")
    if many:
        return stream(model, job, out)
    moving = out.suffix.lower() != ".png"
    recipes.check_size(model, job, args.scale, steps=settings.steps if moving else 1)
    if moving:
        frames, columns = recipes.frames(model, job)
        animation.write(frames, out, columns=columns, scale=args.scale)
        return print(f"wrote {out}")
    background = model.spec.background if args.transparent else None
    if args.transparent and background is None:
        raise runtime.BadInput(f"{model.spec.name} has no background; leave out --transparent")
    drawn = recipes.draw(model, job)
    recipe = model.recipe(job=job, settings=settings._asdict(), scale=args.scale, background=background)
    images.write_png(recipes.picture(drawn, scale=args.scale, background=background), out, recipe)
    if args.json:
        runtime.write_atomically(f"{out}.json", json.dumps(recipe, indent=2).encode())
    print(f"wrote {out}")


def load(args: argparse.Namespace) -> generator.Generator:
    """Return the generator, with the compilation cache that its configuration names."""
    devices.configure(engine.BUCKETS[-1])
    model = generator.load(args.checkpoint, "raw" if args.raw else "ema")
    devices.keep_compiled(model.meta["config"]["runtime"]["cache"])
    return model.led_away_from(generator.load(args.away_from, model.which)) if args.away_from else model


def stream(model: generator.Generator, job: dict[str, object], out: Path) -> None:
    """Write a sheet's pictures one by one, with a progress bar."""
    if job.pop("kind") != "sheet":
        raise runtime.BadInput(
            f"{out} would be single pictures, which --label and --n make; give a .png for the others"
        )
    n = int(str(job["n"]))
    with tqdm(total=n, unit=" pictures", smoothing=0) as bar:
        for done in streaming.stream(model, out, **job):  # pyright: ignore[reportArgumentType]
            bar.update(done - bar.n)
    print(f"wrote {n} pictures to {out}")


if __name__ == "__main__":
    sys.exit(commands.run(make))
