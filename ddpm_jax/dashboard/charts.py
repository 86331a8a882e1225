"""The charts of the pages: curves of runs, bars of words, and the colours that a run keeps in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ddpm_jax.dashboard import runs

COLOURS = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#4d7c0f", "#0369a1", "#6b7280")
NOISE = ("#134e4a", "#0f766e", "#d97706", "#b91c1c")  # from little noise to much
INK = "#57534e"
POINTS = 800  # of a line: more cannot be seen, and would have to be sent
Series = tuple[np.ndarray, np.ndarray]


def curves(
    name: str,
    lines: Mapping[str, Series],
    *,
    smoothing: float = 0.0,
    log: bool = False,
    share: bool = False,
    within: tuple[float, float] | None = None,
    height: int = 250,
    colours: Sequence[str] = COLOURS,
) -> Any:
    """Return lines over steps, one for each name; where they are smoothed, what was measured stays behind them.

    A `share` is shown from 0 to 1. Charts of the same steps `within` have the same axis.
    """
    table = pd.concat([_table(run, *series, smoothing) for run, series in lines.items()])
    log = log and not share
    if log:
        table = table[(table["value"] > 0) & (table["smooth"] > 0)]
    domain = list(lines)
    legend = alt.Legend(
        orient="bottom",
        symbolOpacity=1,
        labelColor=INK,
        columns=1 if any(len(run) > 18 for run in domain) else 3,
        title=None,
    )
    colour = alt.Color(
        "run:N",
        scale=alt.Scale(domain=domain, range=[colours[i % len(colours)] for i in range(len(domain))]),
        legend=legend if len(domain) > 1 else None,
    )
    base = alt.Chart(table).encode(x=_steps(within), color=colour)
    scale = alt.Scale(domain=[0, 1]) if share else alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    axis = alt.Axis(title=None, format="%" if share else ".6~g", labelColor=INK, tickCount=5)
    shown = [alt.Tooltip("run:N"), alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", title=name, format=".4g")]
    drawn = base.mark_line(strokeWidth=2, point=len(table) < 4 * len(domain)).encode(
        y=alt.Y("smooth:Q", scale=scale, axis=axis), tooltip=shown
    )
    if not smoothing:
        return drawn.properties(height=height)
    behind = base.mark_line(strokeWidth=1, opacity=0.25).encode(y=alt.Y("value:Q", scale=scale, axis=axis))
    return alt.layer(behind, drawn).properties(height=height)


def bars(shares: Mapping[str, float]) -> Any:
    """Return a bar from 0 to 1 for each word, the least first."""
    table = pd.DataFrame({"word": list(shares), "share": list(shares.values())})
    return (
        alt.Chart(table)
        .mark_bar(color=COLOURS[0], height={"band": 0.7})
        .encode(
            x=alt.X("share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title=None, format="%", orient="top")),
            y=alt.Y("word:N", sort=None, axis=alt.Axis(title=None, labelColor=INK, labelLimit=140, labelOverlap=False)),
            tooltip=[alt.Tooltip("word:N"), alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(height=max(60, 18 * len(shares)))
    )


def thinned(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> Series:
    """Return at most about `points` of a line, the last always among them."""
    stride = max(1, -(-len(steps) // points))
    kept = np.arange(len(steps) - 1, -1, -stride)[::-1]
    return steps[kept], values[kept]


def levels(scalars: Mapping[str, Series], prefix: str = "error/t_") -> dict[str, Series]:
    """Return what a run measured by noise level: "t 0.00 to 0.25" -> (steps, values)."""
    named = {name.removeprefix(prefix): series for name, series in scalars.items() if name.startswith(prefix)}
    return {f"t {name.replace('_', ' to ')}": series for name, series in sorted(named.items())}


def by_word(scalars: Mapping[str, Series], prefix: str) -> dict[str, float]:
    """Return the newest value of each `prefix`/word, the least first."""
    found = {name.removeprefix(f"{prefix}/"): s[1][-1] for name, s in scalars.items() if name.startswith(f"{prefix}/")}
    return dict(sorted(((word, float(value)) for word, value in found.items()), key=lambda pair: (pair[1], pair[0])))


def _table(run: str, steps: np.ndarray, values: np.ndarray, smoothing: float) -> pd.DataFrame:
    smooth = runs.smoothed(values, smoothing) if smoothing else values
    places, values = thinned(steps, values)
    table = pd.DataFrame({"run": run, "step": places, "value": values, "smooth": thinned(steps, smooth)[1]})
    return table.loc[np.isfinite(table["value"]) & np.isfinite(table["smooth"])]


def _steps(within: tuple[float, float] | None) -> Any:
    axis = alt.Axis(title=None, labelExpr="format(datum.value, '~s')", labelColor=INK, tickCount=5, grid=False)
    scale = alt.Scale(domain=list(within), nice=False) if within else alt.Scale(nice=False, zero=False)
    return alt.X("step:Q", scale=scale, axis=axis)
