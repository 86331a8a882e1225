"""Facts about the pictures on disk and the command that makes them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import images, recipes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sample():
    """The main function of scripts/sample.py."""
    where = importlib.util.spec_from_file_location("sample", ROOT / "scripts" / "sample.py")
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module.main


def test_a_grid_crosses_its_rows_with_its_columns():
    assert recipes.cross(["Cat", "Elf, Pale"], ["", "Cap"], "Smile") == [
        "Smile, Cat", "Smile, Cat, Cap", "Smile, Elf, Pale", "Smile, Elf, Pale, Cap",
    ]  # fmt: skip


def test_a_recipe_says_all_that_made_the_picture(trained, tmp_path):
    model = ddpm_jax.load(trained)
    pictures = recipes.sheet(model, "Cat", tmp_path / "cats.png", n=3, seed=7)
    recipe = images.read_recipe(tmp_path / "cats.png")
    about = {"label": "Cat", "n": 3, "seed": 7, "sampler": "ddim", "steps": 2, "guidance": 1.0, "complete": False}
    assert about.items() <= recipe.items() and recipe["which"] == "ema" and len(recipe["checkpoint"]) == 64
    how = {key: recipe[key] for key in ("n", "seed", "sampler", "steps", "guidance", "complete", "snap")}
    np.testing.assert_array_equal(model.sample(recipe["label"], **how), pictures)


def test_the_command_writes_a_grid_and_a_gif(trained, tmp_path, sample, capsys):
    out, gif = tmp_path / "grid.png", tmp_path / "grid.gif"
    command = [f"--checkpoint={trained}", "--rows=Cat|Robot", "--columns=|Cap", f"--out={out}", f"--gif={gif}"]
    assert sample(command) == 0 and "wrote" in capsys.readouterr().out
    assert images.read_recipe(out)["rows"] == ["Cat", "Robot"] and gif.read_bytes()[:6] == b"GIF89a"
    assert sample(command) == 65 and "exists; choose another --out or add --force" in capsys.readouterr().err
    assert sample([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--label=Cart"], "did you mean Cat"),
        (["--n=0"], "must be from 1 to 100000"),
        (["--rows=Cat"], "needs both --rows and --columns"),
        (["--checkpoint=/nowhere"], "no whole checkpoint"),
        (["--out=/nowhere/a.png"], "there is no directory"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_65(trained, tmp_path, sample, capsys, wrong, message):
    assert sample([f"--checkpoint={trained}", f"--out={tmp_path / 'a.png'}", *wrong]) == 65
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())
