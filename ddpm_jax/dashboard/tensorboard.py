"""TensorBoard on loopback, in a process that ends when the one that started it does: `python -m ... ROOT`."""

import pathlib
import subprocess
import sys
import threading


class Board:
    """The TensorBoard of all runs under a root; started when it is asked for, and only once."""

    def __init__(self, root: pathlib.Path) -> None:
        """Take the root; nothing is started yet."""
        self.address = ""
        self._root, self._starting = root, threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def alive(self) -> bool:
        """Say whether it serves."""
        return bool(self.address) and self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it unless it serves; whether it does then `alive` says."""
        with self._starting:
            if not self.alive():
                self._process, self.address = start(self._root)


def start(root: pathlib.Path) -> tuple[subprocess.Popen[str], str]:
    """Start it for all runs under a root; return the process and its address, "" where it did not start."""
    command = [sys.executable, "-m", "ddpm_jax.dashboard.tensorboard", str(root)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout
    return child, child.stdout.readline().strip()


def main() -> None:
    """Serve, print the address, and end when stdin does."""
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(argv=["tensorboard", f"--logdir={sys.argv[1]}", "--host=127.0.0.1", "--port=0"])
    print(board.launch(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
