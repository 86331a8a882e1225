"""Find a Chromium, or install one: `python tests/browser/chromium.py` prints where it is."""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The Chromium of $CHROMIUM, of the PATH, or of Playwright; None where there is none."""
    if named := os.environ.get("CHROMIUM"):
        if not os.access(named, os.X_OK):
            sys.exit(f"CHROMIUM is {named}, which is no program")
        return named
    return next((found for name in NAMES if (found := shutil.which(name))), None) or _playwrights()


def install() -> str | None:
    """Install one by Playwright, or else, as root of a Debian, by apt-get; return where it is."""
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        ways += [["apt-get", "install", "-y", "chromium"]]
    for way in ways:
        if subprocess.run(way).returncode == 0 and (found := find()):
            return found
    return None


def _playwrights() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        path = tool.chromium.executable_path
    return path if os.path.exists(path) else None


if __name__ == "__main__":
    print(find() or install() or sys.exit("no Chromium could be installed; set CHROMIUM to the path of one"))
