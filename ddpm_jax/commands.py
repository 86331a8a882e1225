"""What the scripts have in common: wrong input is one sentence on stderr and an exit code of `runtime.Exit`."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import logging

from ddpm_jax import runtime


class Parser(argparse.ArgumentParser):
    """A parser that shows a script's docstring as its help, and raises BadInput instead of printing its usage."""

    def __init__(self, description: str | None) -> None:
        """Take the script's docstring."""
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise BadInput."""
        raise runtime.BadInput(message)


def run(command: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Run a command with its arguments (those of the process unless given) and return its exit code.

    Ctrl-C stops it; a second one ends the process at once, whatever it is at.
    """
    logging.set_verbosity(logging.WARNING)
    before = signal.signal(signal.SIGINT, _stop)
    try:
        command(argv)
    except runtime.Failure as failure:
        print(failure, file=sys.stderr)
        return int(failure.code)
    except ValueError as error:
        print(error, file=sys.stderr)
        return int(runtime.Exit.BAD_INPUT)
    except OSError as error:
        print(error, file=sys.stderr)
        return int(runtime.Exit.STORAGE)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return int(runtime.Exit.STOPPED)
    finally:
        signal.signal(signal.SIGINT, before)
    return int(runtime.Exit.DONE)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # where compiled code computes for long, or swallows what is raised here
    raise KeyboardInterrupt


def refuse_existing(path: str | os.PathLike[str], force: bool) -> None:
    """Raise BadInput if a file would be overwritten without `force`, or its directory is not there or closed to us."""
    target = Path(path)
    if target.is_dir():
        raise runtime.BadInput(f"{target} is a directory; choose another --out")
    if target.exists() and not force:
        raise runtime.BadInput(f"{target} exists; choose another --out or add --force")
    if not target.parent.is_dir():
        raise runtime.BadInput(f"there is no directory {target.parent}; make it first")
    refuse_closed(target.parent)


def refuse_closed(directory: str | os.PathLike[str]) -> None:
    """Raise BadInput for a directory that nothing may be written to."""
    if not os.access(directory, os.W_OK | os.X_OK):
        raise runtime.BadInput(f"nothing may be written to {directory}; choose another --out")
