"""`scripts/evaluate.py`: the score that it writes, and what it refuses."""

import json

import numpy as np
import pytest
from conftest import script

import ddpm_jax
from ddpm_jax import datasets
from ddpm_jax.evaluation import exact


@pytest.fixture(scope="module")
def evaluate():
    """The main function of the script."""
    return script("evaluate").main


def test_a_model_is_judged_by_what_its_training_held_out(trained, tmp_path, evaluate, capsys, monkeypatch):
    monkeypatch.setattr(exact, "asked", lambda data, holdout: data.heldout[:40])
    out = tmp_path / "score.json"
    assert evaluate([f"--checkpoint={trained}", "--steps=1", f"--root={tmp_path}", f"--out={out}"]) == 0
    found, model = json.loads(out.read_text()), ddpm_jax.load(trained)
    data = datasets.load("avatars", holdout="iid", root=str(tmp_path))
    drawn = model.sample(list(data.labels[data.heldout[:40]]), steps=1)
    wrong = (drawn != data.pixels(data.heldout[:40])).any(-1).sum((1, 2))
    assert found["n"] == 40 and found["right"] == (wrong == 0).sum()
    assert found["wrong_pixels"] == pytest.approx(np.mean(wrong)) and found["checkpoint"] == model.meta["sha256"]
    assert found["settings"]["steps"] == 1 and found["split"] == "iid"
    assert "of 40 exact" in capsys.readouterr().out
    again = [f"--checkpoint={trained}", f"--root={tmp_path}", f"--out={out}"]
    assert evaluate(again) == 65 and "exists; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --checkpoint or --baseline"),
        (["--baseline", "--checkpoint=x"], "give either --checkpoint or --baseline"),
        (["--checkpoint=/nowhere"], "no whole checkpoint"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_65(tmp_path, evaluate, capsys, words, message):
    assert evaluate([*words, f"--root={tmp_path}", f"--out={tmp_path / 'a.json'}"]) == 65
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
