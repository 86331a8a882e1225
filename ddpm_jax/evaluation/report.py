"""The report of an evaluation: rows as JSON, and as a Markdown table."""

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddpm_jax.evaluation.bench import Bench
from ddpm_jax.evaluation.benchmark import METRICS
from ddpm_jax.requests import Settings, passes

HEAD = ("metric", "of", "reached", "95 %", "n", "target", "to compare")


def run(bench: Bench, names: Iterable[str], which: str) -> list[dict[str, Any]]:
    """Return the rows of some metrics as JSON values, each noting `which` weights they are of; print them meanwhile."""
    found = []
    for name in names:
        began = time.monotonic()
        rows = METRICS[name](bench)
        seconds = round(time.monotonic() - began, 1)
        for row in rows:
            found.append({"which": which, **row._asdict(), "details": dict(row.details), "met": row.met})
            print("  ".join(cell for cell in cells(found[-1]) if cell), flush=True)
        if rows:
            found[-1]["seconds"] = seconds  # of the whole metric, at its last row
        else:
            print(f"{name}: not for a model of {bench.data.spec.name}", file=sys.stderr)
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report, under a paragraph that says what was measured and how."""
    about = report["about"]
    how = _setting(about["settings"])
    lines = [
        f"# {about['data']}, {about['split'] or 'nothing'} held out",
        "",
        f"Checkpoint `{about['checkpoint'][:12]}`, step {about['step']}, "
        f"commit `{about['commit'] or 'unknown'}`; {how}; "
        f"sampling seed {about['seed']}; {about['devices']} x {about['device']}, jax {about['jax']}; "
        f"{report['seconds'] / 60:.1f} minutes.",
    ]
    for which in dict.fromkeys(row["which"] for row in report["rows"]):
        rows = [cells(row) for row in report["rows"] if row["which"] == which]
        lines += ["", f"Weights: {which}", "", _line(HEAD), _line(["---"] * len(HEAD)), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row, as JSON values, under `HEAD`."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}" if row["unit"] == "share" else f"{value:.4g}"

    interval = f"{shown(row['low'])} to {shown(row['high'])}" if row["low"] is not None else ""
    if "standard_error" in row["details"]:
        interval = f"± {1.96 * row['details']['standard_error']:.2g}"
    target = "" if row["target"] is None else f"{'>=' if row['more'] else '<='} {shown(row['target'])}"
    target += {True: ", met", False: ", missed", None: ""}[row["met"]]
    unit = "" if row["unit"] == "share" else f" {row['unit']}"
    compare = "" if row["baseline"] is None else f"{row['against']}: {shown(row['baseline'])}"
    return [row["metric"], row["what"], shown(row["value"]) + unit, interval, str(row["n"]), target, compare]


def _setting(settings: dict[str, Any]) -> str:
    """Return the settings that are not the usual ones, in words; "x2": two passes an evaluation, in the interval."""
    usual = Settings._field_defaults
    said = [f"{key} {value}" for key, value in settings.items() if key not in usual or value != usual[key]]
    calls = passes(Settings(**settings))
    return ", ".join(said) + f" (x{calls})" * (calls > 1)


def commit() -> str:
    """Return the commit of the code that runs, with "+" if it was changed since; "" outside a git checkout."""

    def git(*words: str) -> str:
        where = ["git", "-C", str(Path(__file__).parent)]
        return subprocess.run([*where, *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a checkout around an installed package says nothing
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
