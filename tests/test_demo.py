"""`scripts/demo.py`: what it refuses, and how its failures are told."""

from pathlib import Path
from types import ModuleType

import pytest
from conftest import script

from ddpm_jax import commands, images


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, whose first picture and training end at once and well."""
    module = script("demo")
    monkeypatch.setattr(module, "draw_punks", lambda workdir: 0)
    monkeypatch.setattr(module, "train", lambda workdir, minutes: 0)
    return module


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--workdir=", "--workdir is empty; name a directory, as in --workdir=workdir/demo"),
        ("--workdir= ", "--workdir is empty; name a directory, as in --workdir=workdir/demo"),
        ("--minutes=0", "--minutes is 0; it must be above 0"),
        ("--minutes=-1", "--minutes is -1; it must be above 0"),
        ("--minutes=nan", "--minutes is nan; it must be above 0"),
        ("--minutes=two", "argument --minutes: invalid float value: 'two'"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_code_65(
    demo: ModuleType, flag: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(demo.make, [flag]) == 65
    assert capsys.readouterr().err == f"{sentence}\n"


def test_the_code_of_training_that_ended_early_is_the_demos(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "train", lambda workdir, minutes: 75)
    monkeypatch.delattr(demo, "show")
    with pytest.raises(SystemExit) as end:
        commands.run(demo.make, [])
    assert end.value.code == 75


def test_the_first_picture_needs_no_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert script("demo").draw_punks(str(tmp_path)) == 0
    assert images.read_png(tmp_path / "punks.png").std() > 20
    assert "--checkpoint=punks" in capfd.readouterr().out


def test_pictures_that_cannot_be_made_are_one_sentence(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(demo.make, [f"--workdir={tmp_path}"]) == 65
    assert capsys.readouterr().err.startswith(f"there is no whole checkpoint in {tmp_path}; give a workdir or one of")
