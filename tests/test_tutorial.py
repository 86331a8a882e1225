"""docs/tutorial.md: its code runs as it stands, is as short as it says, and draws the punk."""

import re
from pathlib import Path

import numpy as np

from ddpm_jax import images

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(), re.DOTALL)


def test_the_tutorial_runs_and_draws_a_punk_it_was_never_shown(tmp_path, monkeypatch, capsys):
    lines = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
    assert 60 < len(lines) <= 100
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/tutorial.md", "exec"), names)
    said = capsys.readouterr().out
    assert names["curve"][-1] < 0.02 * names["curve"][0] and "loss" in said
    assert names["never_shown"] in said and (names["wrong"] < 30).all()
    assert not (names["labels"] == names["label"]).all(axis=1).any()
    for name in ("training", "noisy", "punk"):
        assert np.ptp(images.read_png(tmp_path / f"{name}.png")) > 100
