"""The dashboard and a browser for tests. Every test in this folder is marked `browser`.

Fixtures to use:
    page       a Playwright page, 1280x900; console errors and uncaught errors in it fail the test at its end.
    open_page  open_page("monitor") goes to a page of the dashboard and returns when it is drawn; "" is the first one.
    dashboard  the running dashboard of the session: its `url`, `workdir` and `data` (both in a temporary folder, with
               two finished runs, `avatars` and `digits`, of a few steps each), and its `process`.
    serve      serve(workdir, data) starts another dashboard, for tests that kill it or need an empty workdir.
`settled(page)` waits until Streamlit has finished running the page.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ddpm_jax.dashboard import serve as served

from . import chromium, glyphs

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "net.channels": 8,
    "net.multipliers": (1,),
    "net.groups": 2,
    "train.batch_size": 16,
    "runtime.cache": "",
    "train.steps": 20,
    "optimizer.warmup": 0,
    "log.every": 5,
    "log.eval_every": 20,
    "log.sample_every": 20,
    "checkpoint.every": 10,
    "sampling.steps": 3,
}
# These runs compile much and compute little; what a session compiled the next one reads.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax")}
QUICK |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
# What Streamlit asks for at a page's own address before it finds its server one level up; nothing is wrong then.
PROBES = ("/_stcore/health", "/_stcore/host-config")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


class Dashboard(NamedTuple):
    """A dashboard that is served."""

    url: str
    workdir: Path
    data: Path
    process: subprocess.Popen[Any]


def train(config: str, workdir: Path, data: Path, **changes: Any) -> None:
    """Train a shipped configuration, made small, to its end."""
    options = [f"--config.{key}={value}" for key, value in {**SMALL, "data.root": str(data), **changes}.items()]
    command = [sys.executable, "-m", "ddpm_jax.main", f"--config={config}", f"--workdir={workdir}", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **QUICK})
    assert result.returncode == 0, result.stderr[-2000:]


@contextmanager
def running(workdir: Path, data: Path) -> Iterator[Dashboard]:
    """Serve until the end of the block; a dashboard that was killed meanwhile is no error."""
    port = served.free_port("127.0.0.1", 18701)
    script = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "--no-browser", f"--port={port}"]
    with open(workdir.parent / f"dashboard-{port}.log", "wb") as log:
        command = [*script, f"--workdir={workdir}", f"--data={data}"]
        with subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUICK}) as process:
            try:
                wait_for(lambda: is_up(port))
                yield Dashboard(f"http://127.0.0.1:{port}", workdir, data, process)
            finally:
                process.terminate()
                process.wait(30)


def is_up(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).status == 200
    except OSError:
        return False


def wait_for(happens: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what `happens` gives once that is true; fail after some seconds."""
    end = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < end, f"that did not happen within {seconds} seconds"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workdir root with two tiny runs, and a data root with a stand-in for MNIST."""
    folder = tmp_path_factory.mktemp("browser")
    workdir, data = folder / "workdir", folder / "data"
    workdir.mkdir()
    glyphs.write(data)
    train("avatars_cfg", workdir / "avatars", data, **{"net.word_maps": 4, "net.head_channels": 4})
    train("mnist_classes_cfg", workdir / "digits", data, **{"net.attention": ()})
    return workdir, data


@pytest.fixture(scope="session")
def dashboard(places: tuple[Path, Path]) -> Iterator[Dashboard]:
    with running(*places) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Callable[[Path, Path], Dashboard]]:
    with ExitStack() as stack:
        yield lambda workdir, data: stack.enter_context(running(workdir, data))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = chromium.find()
    assert path, "there is no Chromium; `make test-browser` installs one"
    # As root, as in a container, Chromium's sandbox does not start.
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=path, args=[*options, "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened.set_default_timeout(30_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(f"uncaught: {error}"))
    opened.on("console", lambda message: _note(message, errors))
    yield opened
    opened.close()
    assert errors == []


@pytest.fixture
def open_page(page: Any, dashboard: Dashboard) -> Callable[..., Any]:
    def open_it(name: str, query: str = "") -> Any:
        page.goto(f"{dashboard.url}/{name}{query}")
        settled(page)
        return page

    return open_it


def settled(page: Any, seconds: float = 60.0) -> None:
    """Wait until the page has a heading and Streamlit says that it is not running."""
    page.wait_for_selector("h1", timeout=1000 * seconds)
    app = '[data-testid="stApp"]'
    page.wait_for_function(
        f"""() => document.querySelector('{app}')?.dataset.testScriptState === 'notRunning'
            && !document.querySelector('[data-testid="stSpinner"]')""",
        timeout=1000 * seconds,
    )


def copied(places: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """Return a copy of a workdir root, for a test that changes it, and the data root itself."""
    return Path(shutil.copytree(places[0], folder / "workdir")), places[1]


def _note(message: Any, errors: list[str]) -> None:
    address = message.location.get("url", "")
    probe = any(address.endswith(end) and address.count("/") > 4 for end in PROBES)
    if message.type == "error" and not probe:
        errors.append(f"{message.text} ({address})")
