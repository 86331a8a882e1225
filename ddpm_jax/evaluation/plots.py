"""Pictures of a report: plots of its details, and the failures beside the real pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax import images
from ddpm_jax.evaluation import attributes, judge, verifier
from ddpm_jax.evaluation.bench import Bench
from ddpm_jax.labels import LabelSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAILURES = 24  # that are shown at most
WRONG = (255, 0, 255)


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots of those rows that have what it takes, and return their files."""
    drawn = []
    for row in report["rows"]:
        plot = PLOTS.get(row["metric"])
        if plot and row["which"] == report["rows"][0]["which"]:
            drawn.append(folder / f"{row['metric']}{row['details'].get('kind', '')}.png")
            _save(plot, row, drawn[-1])
    return drawn


def failures(bench: Bench, path: Path) -> int:
    """Write a picture of held-out labels that were not drawn exactly, at most 24, and return how many there were.

    A row each: what was asked and what seems wrong, then what came out, the real picture, and the wrong pixels.
    """
    asked, real = bench.data.labels[bench.positions], bench.data.pixels(bench.positions)
    drawn = bench.draw(asked)
    wrong = (drawn != real).any(axis=-1)
    failed = np.flatnonzero(wrong.any(axis=(1, 2)))
    shown = failed[np.argsort(-wrong[failed].sum(axis=(1, 2)), kind="stable")][:FAILURES]
    if not len(shown):
        path.unlink(missing_ok=True)
        return 0
    marked = np.where(wrong[..., None], np.asarray(WRONG, np.uint8), real // 2)
    triples = np.stack([drawn[shown], real[shown], marked[shown]], axis=1)
    # A picture of failures is no reason to train a classifier: it names words where one is at hand.
    who = bench.judge if judge.reader(bench.data, bench.root) else None
    names = [_complaint(who, bench.data.spec.labels, asked[i], drawn[i], wrong[i]) for i in shown]
    images.write_png(images.attribute_grid(triples, names, ["drawn", "real", "wrong"], scale=4), path)
    return len(failed)


def _complaint(
    who: judge.Judge | None, space: LabelSpace, asked: np.ndarray, drawn: np.ndarray, wrong: np.ndarray
) -> str:
    """Return the words of a label, and what is wrong: words that are read otherwise, else the word whose pixels are."""
    named: list[str] = []
    if who:
        named = attributes.differences(space, asked, who.read(drawn[None])[0])
        if not named and who.render:
            named = [f"in {verifier.blame(who.render, space, asked, wrong) or 'no word'}"]
    return f"{space.format(asked, complete=True)} | {', '.join([f'{wrong.sum()} px', *named[:3]])}"


def _save(plot: Any, row: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot(figure.add_subplot(), row)
    figure.savefig(path, dpi=120)


def _words(axes: "Axes", row: dict[str, Any]) -> None:
    """Exact match of each word's held-out pictures against how many training pictures have the word."""
    counts = {word: count for word, count in row["details"]["words"].items() if count[0] and count[2]}
    has, right, seen = np.array(list(counts.values())).reshape(-1, 3).T
    axes.scatter(seen, right / has, s=10 + 2 * np.sqrt(has), alpha=0.6)
    for word, x, y in zip(counts, seen, right / has, strict=True):
        if y < np.sort(right / has)[min(8, len(has) - 1)]:
            axes.annotate(word, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xscale="log", xlabel="training pictures with the word", ylabel="exact of the held-out pictures with it")


def _evaluations(axes: "Axes", row: dict[str, Any]) -> None:
    for name, counts in row["details"]["right"].items():
        axes.plot(
            [int(steps) for steps in counts], [right / row["n"] for right in counts.values()], "o-", label=name, ms=3
        )
    axes.set(xscale="log", xlabel="net evaluations per picture", ylabel=f"share right, {row['n']} pictures")
    axes.legend(fontsize=8)


def _off_palette(axes: "Axes", row: dict[str, Any]) -> None:
    edges = np.array(row["details"]["log10_edges"])
    axes.bar(10 ** edges[:-1], row["details"]["pixels"], np.diff(10**edges), align="edge")
    axes.axvline(1 / 255, color="black", ls=":", label="1/255")
    axes.set(xscale="log", yscale="log", xlabel="largest channel error of a pixel, of the range", ylabel="pixels")
    axes.legend(fontsize=8)


def _guidance(axes: "Axes", row: dict[str, Any]) -> None:
    for i, (form, values) in enumerate(row["details"].items()):
        for key, style in (("obeyed", "o-"), ("legal", "s:")):
            points = [(float(weight), each[key]) for weight, each in values.items() if key in each]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=f"C{i}", label=f"{key}, {form}", ms=3)
    axes.set(xlabel="guidance", ylabel=f"share of {row['n']} open labels")
    axes.legend(fontsize=7)


PLOTS = {
    "exact": _words,
    "exact_by_evaluations": _evaluations,
    "open_by_evaluations": _evaluations,
    "off_palette": _off_palette,
    "open_by_guidance": _guidance,
}
