"""Settings of every test: two CPU devices, shapes checked while testing, and no silent broadcasting of ranks."""

import gc
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests build the same small runs again and again: what one has compiled the others (and the next session) read.
ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_disable_most_optimizations", True)  # tests compile much and compute little
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# A third less time in all: fused loops take long to compile, and two workers have no core left for a third thread. XLA
# reads its flags once, from here in what tests start too, and ends at one that it does not know (any more).
FLAGS = [
    ("--xla_cpu_use_fusion_emitters=false", (0, 11)),  # and the first version that is not given it
    ("--xla_cpu_parallel_codegen_split_count=1", (0, 13)),
]
for flag, until in FLAGS:
    if jax.__version_info__ < until and flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
gc.set_threshold(200_000, 20, 20)  # tracing makes many objects that live: a tenth of the time went to looking at them

CORE = ("schedules", "process", "losses", "samplers", "guidance", "likelihood")
install_import_hook([f"ddpm_jax.{name}" for name in CORE], "beartype.beartype")


def script(name):
    """The module of a file of scripts/, as if imported."""
    where = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


def tiny_config(**changes):
    """The avatars with a net so small that a step takes milliseconds; keys are dotted with __ for the dot."""
    from ddpm_jax.configs import avatars_cfg

    config = avatars_cfg.get_config()
    small = {"net.channels": 8, "net.multipliers": (1,), "net.word_maps": 4, "net.head_channels": 4, "net.groups": 2}
    small |= {"train.batch_size": 16, "train.steps": 8, "optimizer.warmup": 0, "runtime.cache": ""}
    small |= {"log.every": 2, "log.eval_every": 4, "log.sample_every": 8, "checkpoint.every": 4, "sampling.steps": 2}
    config.update_from_flattened_dict(small | {key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a finished tiny run."""
    from ddpm_jax import build, train

    workdir = tmp_path_factory.mktemp("runs") / "trained"  # alone in there, for tests of pages that list runs
    train.train(build.build(tiny_config()), str(workdir))
    return workdir


@pytest.fixture(autouse=True, scope="module")
def verbosity():
    """Give absl's verbosity back, which the scripts lower: tests of warnings may follow in the same process."""
    from absl import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


Figure = Callable[[str, Any], None]


@pytest.fixture
def figure(record_property) -> Figure:
    """Record a row of the table that `make test-long` prints: `figure("kills survived", "50 of 50")`."""

    def record(test: str, value: Any) -> None:
        record_property("figure", [test, str(value)])  # a list: xdist sends it to the process that prints

    return record


def pytest_terminal_summary(terminalreporter, config):
    """Print what the tests recorded with `figure` as one table, where the long tests were asked for."""
    asked = config.option.markexpr or ""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [value for report in reports for name, value in report.user_properties if name == "figure"]
    if not rows or "long" not in asked or "not long" in asked:
        return
    rows = [["test", "figure"], *sorted(rows)]
    width = max(len(test) for test, _ in rows)
    terminalreporter.section("figures")
    for test, value in rows:
        terminalreporter.write_line(f"{test:{width}} | {value}")
