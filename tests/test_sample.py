"""The command that makes pictures: its words, its files, and the sentences for wrong ones."""

import functools
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import script
from PIL import Image

import ddpm_jax
from ddpm_jax import commands, images, orders, recipes, runtime


@pytest.fixture(scope="module")
def sample():
    """The command of scripts/sample.py."""
    return functools.partial(commands.run, script("sample").make)


def job(*words):
    return orders.job(orders.parser("").parse_args(["--checkpoint=.", "--out=a.png", *words]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--label=Cat", "--n=3"], {"kind": "sheet", "label": "Cat", "n": 3, "seed": 0}),
        (["--complete", "--snap", "--steps=5"], {"complete": True, "snap": True, "steps": 5}),
        (
            ["--grid=Female,Male+Pipe x Mohawk, Beanie ,VR"],
            {"kind": "grid", "rows": ["Female", "Male, Pipe"], "columns": ["Mohawk", "Beanie", "VR"]},
        ),
        (["--group=accessories", "--label=Male"], {"kind": "group", "group": "accessories", "label": "Male"}),
        (["--sweep=guidance=0, 1,2.5"], {"kind": "sweep", "key": "guidance", "values": [0.0, 1.0, 2.5]}),
        (["--sweep=steps=1,3"], {"key": "steps", "values": [1, 3]}),
        (["--sweep=sampler=ddim, unipc"], {"key": "sampler", "values": ["ddim", "unipc"]}),
        (["--label=Cat", "--to=Elf", "--to-seed=4"], {"kind": "between", "other": "Elf", "other_seed": 4}),
        (["--swap=Mohawk > Beanie+Pipe"], {"kind": "swap", "out": ["Mohawk"], "into": ["Beanie", "Pipe"]}),
        (["--keep=Female+Mohawk Thin"], {"kind": "reroll", "keep": ["Female", "Mohawk Thin"]}),
        (["--spread=0.2"], {"kind": "variations", "spread": 0.2}),
        (
            ["--weights=Hat=2,Pipe=0.5", "--interval=0.2,0.8", "--rescale=0.7"],
            {"weights": {"Hat": 2.0, "Pipe": 0.5}, "interval": [0.2, 0.8], "rescale": 0.7},
        ),
    ],
)
def test_words_become_a_job(words, expected):
    made = job(*words)
    assert expected.items() <= made.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid=a x b", "--to=Elf"], "--grid and --to ask for different things; give one of them"),
        (["--grid=Female,Male"], "--grid is 'Female,Male'; give rows x columns"),
        (["--sweep=colour=1"], "--sweep cannot vary 'colour'; choose one of sampler, steps"),
        (["--sweep=guidance=one"], "--sweep: 'one' is not a number"),
        (["--interval=0.2"], "--interval is '0.2'; give two times"),
        (["--weights=Hat"], "--weights is 'Hat'; give words and weights"),
        (["--weights=Hat=nan"], "--weights: nan is not finite"),
        (["--swap=Hat"], "--swap is 'Hat'; give words and those in their place"),
        (["--keep=Cat", "--complete"], "--keep leaves all other words open"),
        (["--to=Elf", "--snap"], "--snap does not go with --to"),
        (["--mask=a.png"], "--mask says what of a picture is painted anew; give the picture by --edit"),
        (["--sweep=steps=2.7"], "--sweep=steps takes whole numbers, not 2.7"),
        (["--n=many"], "argument --n: invalid int value: 'many'"),
        (["--nn=3"], "unrecognized arguments: --nn=3"),
    ],
)
def test_words_that_make_no_sense_are_refused(words, message):
    with pytest.raises(runtime.BadInput, match=message):
        job(*words)


def test_a_picture_its_sidecar_and_the_picture_again(trained, tmp_path, sample, capsys):
    out = tmp_path / "grid.png"
    command = [f"--checkpoint={trained}", "--grid=Cat,Robot x Cap,Crown", f"--out={out}", "--json", "--seed=3"]
    assert sample(command) == 0 and f"wrote {out}" in capsys.readouterr().out
    recipe = images.read_recipe(out)
    assert recipe == json.loads(Path(f"{out}.json").read_text())
    assert recipe["job"]["columns"] == ["Cap", "Crown"] and len(recipe["checkpoint"]) == 64
    assert {"device", "jax", "settings"} <= recipe.keys() and recipe["settings"]["steps"] == 2
    assert sample(command) == 65 and "exists; choose another --out or add --force" in capsys.readouterr().err
    assert sample([*command, "--force"]) == 0
    capsys.readouterr()
    assert sample([f"--checkpoint={trained}", f"--recipe={out}", f"--out={tmp_path / 'again.png'}"]) == 0
    assert "the same picture, bit for bit" in capsys.readouterr().out
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_where_nothing_may_be_written_no_picture_is_begun(trained, tmp_path, sample, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a test that runs as root may write everywhere
    assert sample([f"--checkpoint={trained}", f"--out={tmp_path / 'a.png'}"]) == 65
    assert f"nothing may be written to {tmp_path}; choose another --out" in capsys.readouterr().err
    assert sample([f"--checkpoint={trained}", f"--out={tmp_path}"]) == 65
    assert f"nothing may be written to {tmp_path}; choose another --out" in capsys.readouterr().err


def test_a_directory_is_not_overwritten_by_a_picture(trained, tmp_path, sample, capsys):
    (tmp_path / "a.png").mkdir()
    for force in ([], ["--force"]):
        assert sample([f"--checkpoint={trained}", f"--out={tmp_path / 'a.png'}", *force]) == 65
        assert "a.png is a directory; choose another --out" in capsys.readouterr().err


def test_a_sketch_is_a_drawing_of_any_size():
    model = types.SimpleNamespace(
        spec=types.SimpleNamespace(name="mnist", shape=(16, 16, 1)), edit=lambda given, label, n: given[None]
    )
    drawing = np.full((90, 120, 3), 255, np.uint8)
    drawing[20:70, 50:60] = 0
    drawn = recipes.draw(
        model, {"kind": "edit", "picture": recipes.packed(drawing), "sketch": True, "label": "1", "n": 1}
    )
    assert drawn.pictures.shape == (2, 16, 16, 1) and drawn.pictures.max() > 200


def test_a_clear_background(trained, tmp_path, sample):
    out, model = tmp_path / "a.png", ddpm_jax.load(trained)
    assert (
        sample([f"--checkpoint={trained}", "--label=Cat", "--n=1", "--scale=1", "--transparent", f"--out={out}"]) == 0
    )
    picture, drawn = images.read_png(out), model.sample("Cat")[0]
    np.testing.assert_array_equal(picture[..., 3] == 0, (drawn == model.spec.background).all(-1))
    np.testing.assert_array_equal(picture[..., :3], drawn)


@pytest.mark.parametrize(("suffix", "frames"), [("gif", 3), ("apng", 3), ("webp", 3)])
def test_an_animation_by_its_suffix(trained, tmp_path, sample, suffix, frames):
    out = tmp_path / f"denoising.{suffix}"
    assert sample([f"--checkpoint={trained}", "--label=Cat", "--n=2", "--steps=3", f"--out={out}"]) == 0
    with Image.open(out) as picture:
        assert picture.n_frames == frames and picture.size == (2 * 16 * 6, 16 * 6)


def test_single_pictures_into_a_directory_and_an_archive(trained, tmp_path, sample, capsys):
    command = [f"--checkpoint={trained}", "--label=Cat", "--n=3"]
    assert sample([*command, f"--out={tmp_path / 'cats'}"]) == 0
    assert sample([*command, f"--out={tmp_path / 'cats.npz'}"]) == 0
    first = images.read_png(tmp_path / "cats" / "000000.png")
    np.testing.assert_array_equal(np.load(tmp_path / "cats.npz")["pictures"][0], first)
    assert sample([*command, f"--out={tmp_path / 'cats'}"]) == 0  # nothing left to do
    capsys.readouterr()
    assert sample([*command, "--to=Elf", f"--out={tmp_path / 'more'}"]) == 65
    assert "would be single pictures" in capsys.readouterr().err


def test_led_away_from_an_earlier_checkpoint_on_the_command_line(trained, tmp_path, sample):
    weak = f"--away-from={trained / 'checkpoints' / '4'}"
    out = tmp_path / "led.png"
    assert sample([f"--checkpoint={trained}", "--label=Cat", "--n=2", weak, "--autoguidance=2", f"--out={out}"]) == 0
    led = ddpm_jax.load(trained).led_away_from(ddpm_jax.load(trained / "checkpoints" / "4"))
    assert images.read_recipe(out)["weak"] == led.recipe()["weak"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--label=Cart"], "did you mean Cat"),
        (["--n=0"], "must be from 1 to 100000"),
        (["--group=hats"], "unknown group 'hats'; the groups are kind"),
        (["--steps=1001"], "steps is 1001; it must be from 1 to 1000"),
        (["--sampler=dddm"], "unknown sampler 'dddm'"),
        (["--checkpoint=/nowhere"], "no whole checkpoint"),
        (["--out=/nowhere/a.png"], "there is no directory"),
        (["--transparent", "--group=hat"], "a picture with words in it has no clear background"),
        (["--edit=/nowhere.png"], "/nowhere.png cannot be read"),
        (["--recipe=/nowhere.png"], "/nowhere.png cannot be read"),
        (["--recipe=a.png", "--label=Cat"], "--recipe says all of a picture; leave out --label"),
        (["--recipe=a.png", "--seed=3"], "--recipe says all of a picture; leave out --seed"),
        (["--checkpoint=punk"], "or a released model: mnist, mnist_classes, punks, punks_uncond"),
        (["--scale=0"], "scale 0 is not 1 or more"),
        (["--n=5000"], "at most 16777216 are drawn"),
        (["--out=a.jpg"], "--out=a.jpg must end in .png, .gif, .apng, .webp or .npz"),
        (["--recipe=a.png", "--out=a.gif"], "--out=a.gif must end in .png"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_65(trained, tmp_path, sample, capsys, wrong, message):
    assert sample([f"--checkpoint={trained}", f"--out={tmp_path / 'a.png'}", *wrong]) == 65
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


DEAF = """
import time
from ddpm_jax import commands
def command(argv):
    while True:
        try:
            print("at work", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            if argv == ["heard"]:
                raise
"""


@pytest.mark.parametrize(("argv", "code"), [("heard", 75), ("unheard", -signal.SIGINT)])
def test_ctrl_c_stops_a_command_and_a_second_one_even_where_the_first_went_unheard(argv, code):
    words = [sys.executable, "-c", f"{DEAF}\nraise SystemExit(commands.run(command, [{argv!r}]))"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout.readline() == "at work\n"
        job.send_signal(signal.SIGINT)
        if code < 0:
            assert job.stdout.readline() == "at work\n"
            job.send_signal(signal.SIGINT)
        assert job.wait(60) == code
