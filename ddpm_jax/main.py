"""Train a model: `python -m ddpm_jax.main --config=configs/punks_cfg.py --workdir=workdir/punks`.

Run the same command again to go on where it stopped. Exit codes are those of `runtime.Exit`.
"""

import os
import re
import shlex
import sys
import traceback
from pathlib import Path

from ddpm_jax import processes

if __name__ == "__main__":
    processes.use_huge_pages()  # before the slow imports, which would run twice

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ddpm_jax import build, configs, devices, distributed, runtime, settings, train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or the name of a shipped one: punks_cfg.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where everything the run writes goes.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "off",
    "The run's processes: off (this one), auto (as Slurm, Open MPI, Cloud TPU or Kubernetes say) or host:port,n,i.",
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Build the run that the flags describe and train it. Raises `runtime.Failure`, which `run` turns into a code."""
    if len(argv) > 1:
        raise runtime.BadInput(f"unexpected argument {argv[1]!r}; settings are --config.<section>.<key>=<value>")
    workdir = str(WORKDIR.value)
    if not workdir.strip():
        raise runtime.BadInput("--workdir is empty; name a directory, as in --workdir=workdir/punks")
    config = CONFIG.value
    settings.check(config)
    processes = distributed.connect(str(DISTRIBUTED.value))
    if config.runtime.devices:
        build.check_parts(train.Plan(**config.train), config.runtime.devices * processes)
    devices.configure(config.train.batch_size // config.train.accumulate, config.runtime.devices, processes)
    devices.keep_compiled(config.runtime.cache)
    try:
        count, kind = _devices()
        distributed.meet()
        if not distributed.leads():
            logging.set_verbosity(logging.WARNING)  # the first speaks for all
        several = f" of {processes} processes" if processes > 1 else ""
        logging.info("devices: %d %s%s", count, kind, several)
        train.train(distributed.together(_built), workdir)
    except runtime.Diverged as error:
        slower = _slower(config.optimizer.learning_rate)
        raise runtime.Diverged(f"{error}; to go on from there at half the rate: {slower}") from error
    except OSError as error:  # of the data or of the workdir
        raise runtime.Storage(f"reading or writing failed: {error}") from error
    except jax.errors.JaxRuntimeError as error:
        if not distributed.is_lost(error):
            raise
        said = str(error).splitlines()[0][:200]
        raise runtime.Lost(f"another process of this run is gone, run the same command again: {said}") from error


def _slower(rate: float) -> str:
    """Return this process's command with half its learning rate."""
    flag = "--config.optimizer.learning_rate"
    words = [word for word in sys.argv[1:] if not word.startswith(f"{flag}=")]
    return shlex.join(["python", "-m", "ddpm_jax.main", *words, f"{flag}={rate / 2:g}"])


def _devices() -> tuple[int, str]:
    """Return how many devices there are, and of which kind. Raises BadInput where JAX_PLATFORMS names one not there."""
    try:
        return jax.device_count(), jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter, without a word, for cuda where no GPU is seen
        if distributed.is_lost(error):
            raise
        asked, why = os.environ.get("JAX_PLATFORMS", ""), " ".join(str(error).split()) or "there is no such device"
        raise runtime.BadInput(f"jax cannot start with JAX_PLATFORMS={asked!r}: {why}; try cpu") from error


def _built() -> train.Run:
    try:
        return build.build(CONFIG.value)
    except ValueError as error:
        raise runtime.BadInput(str(error)) from error


def run() -> int:
    """Run `main` on this process's command line and return the exit code; a `Failure` is one sentence on stderr."""
    _log_our_own()
    try:
        code = _code()
    except Exception:
        if not distributed.connected():
            raise
        traceback.print_exc()
        code = int(runtime.Exit.BUG)
    if code and distributed.connected():
        distributed.leave(code)
    return code


def _code() -> int:
    try:
        app.run(main, flags_parser=parse)
    except runtime.Failure as failure:
        print(failure, file=sys.stderr)
        return int(failure.code)
    except KeyboardInterrupt:  # in the loop it is a request, which train.train answers
        print("stopped before the first step", file=sys.stderr)
        return int(runtime.Exit.STOPPED)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def parse(argv: list[str]) -> list[str]:
    """Parse the flags. Raises BadInput where absl would print its usage, and a wrong configuration a traceback."""
    try:
        return flags.FLAGS(_resolved(argv))
    except (flags.Error, FileNotFoundError) as error:
        said = " ".join(str(error).split())
        if absent := re.match(r"flag (--\w+)=None", said):
            said = f"{absent[1]} is missing, as in --config=configs/punks_cfg.py --workdir=workdir/punks"
        raise runtime.BadInput(said) from error
    except Exception as error:  # a configuration is a Python file: anything can go wrong in it
        said = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").strip("\"'").split())
        said = said.replace("' Did you mean", "; did you mean")
        raise runtime.BadInput(
            f"the configuration, or a --config.<key> on the command line, is wrong: {said}"
        ) from error


def _resolved(argv: list[str]) -> list[str]:
    """Return the arguments with a shipped configuration's name replaced by its path."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--config":
            joined[-1] = f"--config={word}"
        else:
            joined.append(word)
    flag = "--config="
    return [flag + configs.find(word.removeprefix(flag)) if word.startswith(flag) else word for word in joined]


def _log_our_own() -> None:
    """Show this package's log at INFO; Orbax and CLU would add forty lines to each save."""
    logging.set_verbosity(logging.INFO)
    package = str(Path(__file__).parent)
    handler = logging.get_absl_handler()
    handler.addFilter(lambda record: record.levelno > 20 or record.pathname.startswith(package))


if __name__ == "__main__":
    sys.exit(run())
