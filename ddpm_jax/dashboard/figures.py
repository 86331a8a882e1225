"""Pictures and bars as HTML: crisp pixels, a text for each picture, rows that wrap where the screen is narrow."""

import base64
import html
from collections.abc import Mapping, Sequence

import numpy as np

from ddpm_jax.dashboard import ui

COLOURS = ("#8a8578", "#0f766e")  # of the bars


def row(pictures: np.ndarray, captions: Sequence[str], names: Sequence[str], *, size: int) -> str:
    """Return pictures [n, h, w, c] side by side; `names` are read out, captions stand below.

    They are as wide as whole multiples of their pixels go into `size`.
    """
    size = pictures.shape[2] * max(1, size // pictures.shape[2])
    figures = [
        figure(ui.url(ui.png(picture)), caption, name, size)
        for picture, caption, name in zip(pictures, captions, names, strict=True)
    ]
    return f'<div style="display:flex;flex-wrap:wrap;gap:.6rem;margin-bottom:.4rem">{"".join(figures)}</div>'


def figure(source: str, caption: str, name: str, size: int) -> str:
    """Return one picture with a caption: a file's data URL, `size` wide."""
    style = f"width:{size}px;height:{size}px;image-rendering:pixelated;display:block"
    image = f'<img src="{source}" alt="{html.escape(name)}" title="{html.escape(name)}" style="{style}">'
    text = "font-size:.8rem;line-height:1.25;text-align:center;white-space:pre-line"
    below = f'<figcaption style="{text}">{html.escape(caption)}</figcaption>' if caption else ""
    return f'<figure style="margin:0;width:{size}px">{image}{below}</figure>'


def bars(odds: Mapping[str, Sequence[float]], words: Sequence[str]) -> str:
    """Return the probabilities of words as bars, those of each key in a colour of its own."""
    legend = "".join(
        '<span style="margin-right:1rem;display:inline-block">'
        f'<span style="color:{colour}" aria-hidden="true">&#9632;</span> '
        f"{html.escape(name)}: {html.escape(best(values, words))}</span>"
        for (name, values), colour in zip(odds.items(), COLOURS, strict=False)
    )
    rows = "".join(_bar_row(word, [values[i] for values in odds.values()]) for i, word in enumerate(words))
    grid = "display:grid;grid-template-columns:auto 1fr;gap:.2rem .6rem;align-items:center;max-width:26rem"
    title = "The classifier's reading"
    spoken = html.escape(f"{title}: " + "; ".join(f"{name} {best(values, words)}" for name, values in odds.items()))
    return (
        f'<div style="font-size:.85rem"><p style="margin:.2rem 0 .4rem">{title}. {legend}</p>'
        f'<div role="img" aria-label="{spoken}" style="{grid}">{rows}</div></div>'
    )


def best(odds: Sequence[float], words: Sequence[str]) -> str:
    """Return the likeliest word and its probability, as in `3 (98 %)`."""
    place = int(np.argmax(odds))
    return f"{words[place]} ({100 * odds[place]:.0f} %)"


def base64_png(picture: np.ndarray) -> str:
    """Return a picture [h, w] or [h, w, c] as a PNG file in base64: the form in which a job carries one."""
    return base64.b64encode(ui.png(picture if picture.ndim == 3 else picture[..., None])).decode()


def _bar_row(word: str, shares: Sequence[float]) -> str:
    lines = "".join(
        f'<div style="height:.4rem;border-radius:.2rem;background:{colour};width:{max(0.4, 100 * share):.1f}%"></div>'
        for share, colour in zip(shares, COLOURS, strict=False)
    )
    return f'<div>{html.escape(word)}</div><div style="display:grid;gap:1px">{lines}</div>'


def film(content: bytes, name: str) -> str:
    """Return a GIF file as it is, no wider than the page."""
    style = "max-width:100%;image-rendering:pixelated"
    return f'<img src="{ui.url(content)}" alt="{html.escape(name)}" style="{style}">'
