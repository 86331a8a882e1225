"""How the dashboard is served: the command line of Streamlit, with the theme, the limits and the address."""

import errno
import ipaddress
import os
import pathlib
import socket
import sys

from ddpm_jax import runtime

APP = pathlib.Path(__file__).with_name("app.py")
FIRST_PORT = 8501
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_HERE = "--address is {!r}, which is none of this machine's; try 127.0.0.1"
ROOT, DATA = "DDPM_JAX_WORKDIR", "DDPM_JAX_DATA"  # how the pages learn where runs and data are
OPTIONS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
    "server.enableCORS": "true",  # with the next: a page of another origin gets neither an answer nor a websocket
    "server.enableXsrfProtection": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "8",  # MB
    "server.maxMessageSize": "64",  # MB
    "server.showEmailPrompt": "false",
    "theme.base": "light",
    "theme.primaryColor": "#0f766e",
    "theme.backgroundColor": "#fbfaf7",
    "theme.secondaryBackgroundColor": "#f1eee7",
    "theme.textColor": "#0b0e12",  # so dark that captions, 60 % of it, still have a contrast of 4.5
    "theme.codeTextColor": "#0b0e12",
    "theme.headingFontSizes": "1.4rem",  # but of a title: see `app`
    "theme.baseRadius": "0.375rem",
    "theme.showWidgetBorder": "true",
}


def command(*, address: str, port: int, browser: bool) -> list[str]:
    """Return the command that serves the dashboard."""
    given = {"server.address": address, "server.port": str(port), "server.headless": str(not browser).lower()}
    options = [f"--{key}={value}" for key, value in {**OPTIONS, **given}.items()]
    options += [f"--server.allowedHosts={name}" for name in hosts(address)]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *options]


def hosts(address: str) -> list[str]:
    """Return the names under which pages may be opened; none for an address that stands for all of a machine's.

    The same origin is no protection alone: a stranger's name may be made to lead to this machine (DNS rebinding).
    """
    if is_loopback(address):
        return list(dict.fromkeys([*LOOPBACK, address]))
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return [address]
    return [] if found.is_unspecified else [str(found)]


def environment(workdir: str, data: str) -> dict[str, str]:
    """Return the environment that tells the pages where runs and data are."""
    return {**os.environ, ROOT: str(pathlib.Path(workdir).absolute()), DATA: str(pathlib.Path(data).absolute())}


def free_port(address: str, first: int = FIRST_PORT, tries: int = 100) -> int:
    """Return the first of `tries` ports, from `first` on, that nobody listens on at an address."""
    try:
        family = socket.getaddrinfo(address, first, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise runtime.BadInput(NOT_HERE.format(address)) from error
    for port in range(first, min(first + tries, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise runtime.BadInput(NOT_HERE.format(address)) from error
                continue
            return port
    if tries == 1:
        raise runtime.BadInput(f"port {first} cannot be had at {address}; give another, or leave out --port")
    raise runtime.BadInput(f"no port from {first} to {first + tries - 1} is free; give another with --port")


def is_loopback(address: str) -> bool:
    """Say whether an address is this machine's own: a name that only looks like one is not."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
