"""The command itself, in processes of its own: exit codes, and what a user reads."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import CACHE

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
        ("--config.train.stepz=5", 'is wrong: stepz\' Did you mean "steps"'),
        ("--config.train.steps=-5", "train.steps is -5; it must be from 1"),
        ("--config=punk_cfg", "no configuration 'punk_cfg'; give a path to a .py file or one of avatars_cfg, "),
        ("--config.data.name=avatar", "did you mean avatars"),
    ],
)
def test_wrong_settings_are_one_sentence_and_code_65(tmp_path, flag, message):
    done = subprocess.run(**command(tmp_path, flag), timeout=120)
    assert done.returncode == 65
    assert message in done.stderr and "Traceback" not in done.stderr


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
