"""The command itself, in processes of its own: exit codes, and what a user reads."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from conftest import CACHE, tiny_config

from ddpm_jax import main, runtime

TINY = """
from conftest import tiny_config
def get_config():
    return tiny_config(train__steps=60, log__sample_every=60, log__eval_every=30, checkpoint__every=30)
"""


def command(tmp_path, *flags):
    """The main job on the tiny avatars, as a list of words, and its environment."""
    (tmp_path / "tiny_cfg.py").write_text(TINY)
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "JAX_PLATFORMS": "cpu"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    words = [
        sys.executable,
        "-m",
        "ddpm_jax.main",
        f"--config={tmp_path / 'tiny_cfg.py'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    return {"args": [*words, *flags], "env": env, "stderr": subprocess.PIPE, "text": True}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.train.stepz=5", 'is wrong: stepz; did you mean "steps"'),
        ("--config.train.steps=-5", "train.steps is -5; it must be from 1"),
        ("--config=punk_cfg", "no configuration 'punk_cfg'; give a path to a .py file or one of avatars_cfg, "),
        ("--config.data.name=avatar", "did you mean avatars"),
        ("--workdir= ", "--workdir is empty; name a directory, as in --workdir=workdir/punks"),
    ],
)
def test_wrong_settings_are_one_sentence_and_code_65(tmp_path, flag, message):
    done = subprocess.run(**command(tmp_path, flag), timeout=120)
    assert done.returncode == 65
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_terminated_run_says_where_it_stopped_and_goes_on(tmp_path):
    with subprocess.Popen(**command(tmp_path)) as job:
        next(line for line in job.stderr if line.startswith("step "))
        job.send_signal(signal.SIGTERM)
        rest = job.stderr.read()
    assert job.returncode == 75 and "SIGTERM: step" in rest and "is saved in" in rest
    done = subprocess.run(**command(tmp_path), timeout=120)
    assert done.returncode == 0
    assert "resuming at step" in done.stderr and "done: step 60 is saved and verified" in done.stderr
    assert "orbax" not in done.stderr.lower()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError(), "jax cannot start with JAX_PLATFORMS='cuda': there is no such device; try cpu"),
        (RuntimeError("no\ndriver"), "jax cannot start with JAX_PLATFORMS='cuda': no driver; try cpu"),
    ],
)
def test_a_platform_without_a_device_is_refused(monkeypatch, error, message):
    def none_there():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "device_count", none_there)
    with pytest.raises(runtime.BadInput, match=message):
        main._devices()


def test_an_interrupt_before_the_loop_is_one_sentence_and_code_75(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_log_our_own", lambda: None)
    monkeypatch.setattr(main.app, "run", interrupt)
    assert main.run() == 75
    assert capsys.readouterr().err == "stopped before the first step\n"


def test_data_that_cannot_be_read_are_not_blamed_on_the_workdir(monkeypatch, tmp_path):
    def unreadable(*_):
        raise OSError(5, "Input/output error", "/data/images.npz")

    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setattr(main, "CONFIG", types.SimpleNamespace(value=tiny_config()))
    monkeypatch.setattr(main, "WORKDIR", types.SimpleNamespace(value=str(tmp_path)))
    monkeypatch.setattr(main, "DISTRIBUTED", types.SimpleNamespace(value="off"))
    monkeypatch.setattr(main, "_built", lambda: None)
    monkeypatch.setattr(main.train, "train", unreadable)
    sentence = r"^reading or writing failed: \[Errno 5\] Input/output error: '/data/images\.npz'$"
    with pytest.raises(runtime.Storage, match=sentence):
        main.main(["main"])


@pytest.mark.parametrize(
    ("words", "flag"),
    [([], "--config"), (["--config=configs/avatars_cfg.py"], "--workdir"), (["--workdir=somewhere"], "--config")],
)
def test_a_flag_that_is_missing_is_named_with_an_example(words, flag):
    done = subprocess.run([sys.executable, "-m", "ddpm_jax.main", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 65 and not Path("somewhere").exists()
    assert done.stderr == f"{flag} is missing, as in --config=configs/punks_cfg.py --workdir=workdir/punks\n"
