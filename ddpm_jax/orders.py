"""The command line of `scripts/sample.py`: its words, and the job (see `recipes`) that they mean."""

import argparse
import math
from collections.abc import Mapping
from typing import Any

from ddpm_jax import commands, images, recipes, runtime

SETTINGS = ("sampler", "steps", "times", "eta", "words", "guidance", "autoguidance", "rescale", "compose")
BESIDE = ("recipe", "checkpoint", "raw", "away_from", "out", "force")  # what a recipe does not say


def parser(description: str | None) -> commands.Parser:
    """Return the parser; what to draw, how, and where to write it."""
    made = commands.Parser(description)
    what = made.add_argument_group("what (--label alone: a sheet of --n pictures)").add_argument
    what("--label", default="", help='words, "-" before one that must not be there: "Female, Mohawk, -Pipe"')
    what("--n", type=int, default=16, help="pictures (default 16)")
    what("--complete", action="store_true", help="every word that is not named is absent")
    what("--grid", help='rows x columns of words, "+" within a cell: "Female,Male+Pipe x Mohawk,Beanie,VR"')
    what("--group", help="a contact sheet of the label with each word of a group (accessories)")
    what("--sweep", help="a row for each value of a setting: guidance=0,1,2,4 or steps=1,3,10 or sampler=ddim,unipc")
    what("--to", help="the way from --label to this one, in --n pictures; --to-seed slerps to another noise")
    what("--to-seed", type=int)
    what("--swap", help='the same picture with other words: "Mohawk > Beanie+Pipe"')
    what("--keep", help='new pictures that share these words of the label: "Female+Mohawk"')
    what("--spread", type=float, help="variations of one picture, from 0 (the same) to 1 (unlike)")
    what("--edit", help="a PNG to start from, as it is or enlarged")
    what("--sketch", help="a PNG of a digit, drawn large or small: --edit for a model of MNIST")
    what("--strength", type=float, default=0.5, help="of the edit: 0 keeps the picture, 1 forgets it (default 0.5)")
    what("--mask", help="a PNG of its size: what is not black is painted anew, the rest kept")
    what("--recipe", help="a PNG made here: make it again, and say whether it is the same")
    how = made.add_argument_group("how (the checkpoint's unless given)").add_argument
    how("--checkpoint", required=True, help="a workdir, one of its checkpoints/<step>, or a released model's name")
    how("--raw", action="store_true", help="the parameters themselves, not their average (EMA)")
    how("--seed", type=int, default=0)
    how("--sampler", help="ddpm, ddim, dpmpp_2m, dpmpp_3m, unipc, heun, euler_ancestral")
    how("--steps", type=int, help="net evaluations per picture")
    how("--times", help="how they are spaced: linear, quadratic, trailing, log_snr, karras")
    how("--eta", type=float, help="noise of ddim, 0 to 1")
    how("--words", help="what decides words that the label leaves open: prior, before it is drawn, or net, as it draws")
    how("--guidance", type=float, help="0 unconditional, 1 conditional, more exaggerates")
    how("--interval", help="times between which guidance and autoguidance act: 0.2,0.8")
    how("--autoguidance", type=float, help="1 not at all, more: away from the worse net that a checkpoint keeps")
    how("--rescale", type=float, help="0 to 1: hold the spread of guided outputs to the conditional ones'")
    how("--weights", help='words of the label with weights of their own: "Mohawk=3,Pipe=1.5"')
    how("--compose", help="full or empty: what the weights lead away from")
    how("--away-from", help="an earlier checkpoint: --autoguidance leads away from this one")
    how("--snap", action="store_true", help="move each pixel to the nearest palette colour")
    where = made.add_argument_group("where").add_argument
    where("--out", required=True, help=".png, .gif/.apng/.webp (the denoising), .npz or a directory (--n single ones)")
    where("--scale", type=int, default=6, help="size of a pixel (default 6)")
    where("--transparent", action="store_true", help="clear background, where the data set has one")
    where("--json", action="store_true", help="also write the recipe beside the picture, as <out>.json")
    where("--force", action="store_true", help="overwrite")
    return made


def parse(description: str | None, argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments. Raises BadInput for a request beside a recipe, which says all of a picture."""
    made = parser(description)
    args = made.parse_args(argv)
    more = [name for name, value in vars(args).items() if name not in BESIDE and value != made.get_default(name)]
    if args.recipe and more:
        raise runtime.BadInput(f"--recipe says all of a picture; leave out --{more[0].replace('_', '-')}")
    return args


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Return the job that the arguments mean. Raises BadInput for two at once, or one that cannot be read."""
    asked = [
        name
        for name in ("grid", "group", "sweep", "to", "swap", "keep", "spread", "edit", "sketch")
        if _given(args, name)
    ]
    if len(asked) > 1:
        raise runtime.BadInput(f"--{asked[0]} and --{asked[1]} ask for different things; give one of them")
    if args.mask and not (args.edit or args.sketch):
        raise runtime.BadInput("--mask says what of a picture is painted anew; give the picture by --edit")
    common = {"label": args.label, "seed": args.seed, **settings(args)}
    if not asked:
        return {"kind": "sheet", "n": args.n, "complete": args.complete, "snap": args.snap, **common}
    if asked[0] in ("edit", "sketch"):
        return _edit(args, common)
    more: dict[str, Any] = {"complete": args.complete}
    if asked[0] in ("grid", "group", "sweep", "swap", "keep"):
        more["snap"] = args.snap
    elif args.snap:
        raise runtime.BadInput(f"--snap does not go with --{asked[0]}")
    if asked[0] == "grid":
        rows, columns = _two(args.grid, " x ", "--grid", "rows x columns, as in 'Female,Male x Mohawk,Beanie'")
        return {"kind": "grid", "rows": _cells(rows), "columns": _cells(columns), **more, **common}
    if asked[0] == "group":
        return {"kind": "group", "group": args.group, **more, **common}
    if asked[0] == "sweep":
        key, values = _two(args.sweep, "=", "--sweep", "a setting and its values, as in guidance=0,1,2")
        return {"kind": "sweep", "n": args.n, "key": key, "values": _values(key, values), **more, **common}
    if asked[0] == "to":
        return {"kind": "between", "other": args.to, "n": args.n, "other_seed": args.to_seed, **more, **common}
    if asked[0] == "swap":
        out, into = _two(args.swap, ">", "--swap", "words and those in their place, as in 'Mohawk > Beanie'")
        return {"kind": "swap", "out": _words(out), "into": _words(into), **more, **common}
    if asked[0] == "keep":
        if args.complete:
            raise runtime.BadInput("--keep leaves all other words open; leave out --complete")
        return {"kind": "reroll", "keep": _words(args.keep), "n": args.n, "snap": args.snap, **common}
    return {"kind": "variations", "n": args.n, "spread": args.spread, **more, **common}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given (see `requests.How`)."""
    given: dict[str, Any] = {key: getattr(args, key) for key in SETTINGS if getattr(args, key) is not None}
    if args.interval:
        low, high = _two(args.interval, ",", "--interval", "two times, as in 0.2,0.8")
        given["interval"] = [_number(low, "--interval"), _number(high, "--interval")]
    if args.weights:
        pairs = [
            _two(pair, "=", "--weights", "words and weights, as in Mohawk=3,Pipe=1") for pair in args.weights.split(",")
        ]
        given["weights"] = {word: _number(weight, "--weights") for word, weight in pairs}
    return given


def _edit(args: argparse.Namespace, common: Mapping[str, Any]) -> dict[str, Any]:
    given = recipes.packed(images.read_png(args.edit or args.sketch))
    made = {"kind": "edit", "picture": given, "sketch": bool(args.sketch), "n": args.n, **common}
    if args.mask:
        if args.snap:
            raise runtime.BadInput("--snap does not go with --mask: what is kept stays as it is")
        return {**made, "complete": args.complete, "mask": recipes.packed(images.read_png(args.mask))}
    return {**made, "complete": args.complete, "snap": args.snap, "strength": args.strength}


def _given(args: argparse.Namespace, name: str) -> bool:
    return getattr(args, name) is not None


def _two(text: str, mark: str, flag: str, form: str) -> tuple[str, str]:
    one, found, other = text.partition(mark)
    if not found or not one.strip() or mark in other:
        raise runtime.BadInput(f"{flag} is {text!r}; give {form}")
    return one.strip(), other.strip()


def _cells(text: str) -> list[str]:
    return [cell.strip().replace("+", ", ") for cell in text.split(",")]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split("+") if word.strip()]


def _values(key: str, text: str) -> list[Any]:
    if key in ("sampler", "times", "words", "compose"):
        return [value.strip() for value in text.split(",")]
    if key not in (*SETTINGS, "seed"):
        raise runtime.BadInput(f"--sweep cannot vary {key!r}; choose one of {', '.join((*SETTINGS, 'seed'))}")
    numbers = [_number(value, "--sweep") for value in text.split(",")]
    if key in ("steps", "seed") and any(number != int(number) for number in numbers):
        raise runtime.BadInput(f"--sweep={key} takes whole numbers, not {text}")
    return [int(number) if key in ("steps", "seed") else number for number in numbers]


def _number(text: str, flag: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise runtime.BadInput(f"{flag}: {text!r} is not a number") from error
    if not math.isfinite(number):
        raise runtime.BadInput(f"{flag}: {text} is not finite")
    return number
