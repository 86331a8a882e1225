"""TensorBoard on loopback, in a process that ends when the one that started it does: `python -m ... ROOT`."""

import pathlib
import subprocess
import sys


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
