"""Open the dashboard in a browser: generate avatars and digits, train, watch.

python scripts/dashboard.py          (or: make dashboard, which sets everything up first)
python scripts/dashboard.py --workdir=workdir --data=data --port=8501
"""

import signal
import subprocess
import sys
from typing import Any

from ddpm_jax import commands, runtime
from ddpm_jax.dashboard import serve


def make(argv: list[str] | None) -> None:
    """Serve until stopped."""
    parser = commands.Parser(__doc__)
    parser.add_argument("--workdir", default="workdir", help="where the runs are and go (default workdir)")
    parser.add_argument("--data", default="data", help="where data sets are and go (default data)")
    parser.add_argument("--address", default="127.0.0.1", help="to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="default: the first free one from 8501 on")
    parser.add_argument("--no-browser", action="store_true", help="print the address alone")
    args = parser.parse_args(argv)
    try:
        import streamlit  # noqa: F401
    except ImportError as error:
        raise runtime.BadInput('the dashboard needs Streamlit: pip install "ddpm_jax[dashboard]"') from error
    if args.port is not None and not 0 < args.port < 65536:
        raise runtime.BadInput(f"--port is {args.port}; it must be from 1 to 65535")
    port = serve.free_port(args.address, args.port or serve.FIRST_PORT, 1 if args.port else 100)
    shown = f"[{args.address}]" if ":" in args.address else args.address
    print(f"the dashboard is at http://{shown}:{port} (Ctrl-C ends it; what is training goes on)", flush=True)
    if not serve.is_loopback(args.address):
        print(f"warning: whoever reaches {args.address} can train and delete runs here", file=sys.stderr, flush=True)
    command = serve.command(address=args.address, port=port, browser=not args.no_browser)
    signal.signal(signal.SIGTERM, _interrupt)
    child = subprocess.Popen(command, env=serve.environment(args.workdir, args.data))
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        code = 0 if child.wait() in (0, -15) else 1
    if code:
        raise runtime.Storage(f"Streamlit ended with code {code}")


def _interrupt(*_: Any) -> None:
    """End as by Ctrl-C: what is served must not outlive this process."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(commands.run(make))
