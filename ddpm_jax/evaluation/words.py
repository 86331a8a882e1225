"""Figures of words: what was asked and what a classifier reads; what the verifier accepts; how often words occur."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpm_jax.evaluation import attributes, verifier
from ddpm_jax.evaluation.bench import Bench, Row, rate, share, trained_judge
from ddpm_jax.evaluation.judge import Judge
from ddpm_jax.labels import Flags

REAL = "held-out real pictures"


def open_labels(bench: Bench) -> list[Row]:
    """Requests of one to three words, and pairs of words never shown together, as the classifier reads the pictures.

    Beside the first: the same requests of held-out real pictures, read off these. Pairs count as read alone: the exact
    renderer, which says what hides what, knows nothing of a pair that no picture has, and leaves a word of it out.
    """
    if not (bench.determined and bench.judge):
        return []
    asked = attributes.requests(bench.data.labels, bench.data.spec.labels, bench.sizes.requests)
    right, read = obeyed(bench.judge, asked, bench.draw(asked))
    rows = [_requested(bench, asked, right, read, "open", "1 to 3 words of a real label")]
    rows[0] = rows[0]._replace(target=0.995, baseline=_real_obeyed(bench.judge, len(asked)), against=REAL)
    train = bench.data.labels[bench.data.train]
    asked = attributes.never_seen(train, bench.data.spec.labels, bench.sizes.unseen)
    if not len(asked):
        return rows
    read = bench.judge.read(bench.draw(asked))
    what = "two words never seen together, both read"
    return [*rows, _requested(bench, asked, attributes.obeyed(asked, read), read, "never_seen", what)]


def agreement(bench: Bench) -> list[Row]:
    """Pictures of complete labels that the classifier reads as asked, where a label does not determine its picture."""
    if not (bench.judge and bench.data.spec.labels.size) or bench.determined:
        return []
    read = bench.judge.read(bench.free)
    right, data = attributes.obeyed(bench.free_labels, read), bench.judge.data
    own = attributes.obeyed(data.labels[data.heldout], bench.judge.read(data.pixels(data.heldout)))
    row = share(right, "agreement", "pictures that are read as the label asked", target=0.995, against=REAL)
    misses = _misses(bench.data.spec.labels.words, bench.free_labels, read)
    return [row._replace(baseline=float(own.mean()), details={"misses": misses})]


def legal(bench: Bench) -> list[Row]:
    """Pictures that the exact renderer makes of some label; and of what labels the legal ones are."""
    if not (bench.judge and bench.judge.render):
        return []
    rows = _verifier_rates(bench.judge)
    space, reach = bench.data.spec.labels, rows[0].value
    kinds = {"free": np.zeros((bench.sizes.verified, space.size), np.int8)}
    if space.size:
        kinds["open"] = attributes.requests(bench.data.labels, space, bench.sizes.requests)
    for kind, labels in kinds.items():
        verdict = bench.judge.verify(bench.free[: len(labels)] if kind == "free" else bench.draw(labels))
        row = share(verdict.legal, "legal", f"{kind} pictures", baseline=reach, against=REAL, target=0.95 * reach)
        rows.append(row._replace(details={"of": _familiar(bench, verdict)}))
        before = np.round(bench.subject.means(labels)).astype(np.uint8)
        rows.append(share(bench.judge.verify(before).legal, "legal_before", f"{kind} pictures before any snapping"))
    return rows


def coverage(bench: Bench) -> list[Row]:
    """How often words occur in free pictures, against the data; beside it, in as many labels drawn from the data."""
    if not bench.judge or (bench.data.spec.labels.size and not bench.determined):
        return []
    data = bench.judge.data
    found = attributes.coverage(bench.judge.read(bench.free), data.labels, data.spec.labels)
    n, rows = len(bench.free), []
    by_chance = attributes.coverage(np.random.default_rng(0).choice(data.labels, n), data.labels, data.spec.labels)
    if found.ratios:
        what = f"of {len(found.ratios)} words the worst: {found.worst_word}"
        row = Row("coverage", what, found.worst, "factor", n, baseline=by_chance.worst, target=1.5, more=False)
        row = row._replace(against="real labels drawn again")
        rows.append(row._replace(details={"ratios": found.ratios, "pictures": n}))
    if found.rare:
        rows.append(rate(found.recall, found.rare, "rare_words", f"rarer words that occur in {n} pictures at all"))
    return rows


def obeyed(judge: Judge, asked: np.ndarray, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pictures show all that was asked of them, bool [n], and the labels [n, words] read off them.

    A picture does if the classifier reads all asked words so, or if it equals, pixel for pixel, the exact drawing of
    what is read with the asked flags put right: some words hide others, and what is hidden cannot be read.
    """
    read = judge.read(pictures)
    flags = np.array([isinstance(group, Flags) for group in judge.data.spec.labels.owners])
    put_right = np.where((asked != 0) & flags, asked, read)
    right, open_case = attributes.obeyed(asked, read), attributes.obeyed(asked, put_right)
    open_case &= ~right
    if judge.render and open_case.any():
        ideal = judge.render(put_right[open_case])
        right[open_case] = (ideal == judge.cropped(pictures[open_case])).all(axis=(1, 2, 3))
    return right, read


def _requested(bench: Bench, asked: np.ndarray, right: np.ndarray, read: np.ndarray, metric: str, what: str) -> Row:
    misses = _misses(bench.data.spec.labels.words, asked[~right], read[~right])
    return share(right, metric, what, details={"misses": misses})


def _real_obeyed(judge: Judge, n: int) -> float:
    """Return the share of held-out real pictures that obey a request made of their own label."""
    data, rng = judge.data, np.random.default_rng(0)
    chosen = rng.choice(data.heldout, min(n, len(data.heldout)), replace=False)
    asked = np.concatenate([attributes.requests(data.labels[[i]], data.spec.labels, 1, seed=int(i)) for i in chosen])
    return float(obeyed(judge, asked, data.pixels(chosen))[0].mean())


def _misses(words: Sequence[str], asked: np.ndarray, read: np.ndarray) -> dict[str, int]:
    """Return the words that were missed most, "no Pipe" lacking and "Pipe" too much, with how often."""
    lacking, too_much = ((asked > 0) & (read < 0)).sum(axis=0), ((asked < 0) & (read > 0)).sum(axis=0)
    counts = {f"no {word}": int(count) for word, count in zip(words, lacking, strict=True)}
    counts |= {word: int(count) for word, count in zip(words, too_much, strict=True)}
    return {word: count for word, count in sorted(counts.items(), key=lambda item: -item[1])[:20] if count}


def _verifier_rates(judge: Judge) -> list[Row]:
    """Return the verifier's own rates: held-out real pictures that it accepts, and damaged ones."""
    real, palette = judge.data.pixels(judge.data.heldout), np.asarray(judge.data.spec.palette, np.uint8)
    bare, broken = judge._replace(margin=0), verifier.damaged(real, palette)
    accepted = share(bare.verify(real).legal, "verifier_accepts", REAL)
    return [accepted, share(bare.verify(broken).legal, "verifier_accepts_damaged", "them with 1 to 3 pixels changed")]


def _familiar(bench: Bench, verdict: verifier.Verdict) -> dict[str, int]:
    """Count the legal pictures' labels: of a training picture, of a held-out one, of none."""
    kinds = np.zeros(len(bench.data.ids), int)
    kinds[bench.data.train] = 1
    labels = trained_judge(bench).data.labels
    known: dict[bytes, Any] = {label.tobytes(): kind for label, kind in zip(labels, kinds.tolist(), strict=True)}
    found = [known.get(label.astype(np.int8).tobytes(), 2) for label in verdict.label[verdict.legal]]
    return {name: found.count(kind) for name, kind in (("train", 1), ("held out", 0), ("nowhere", 2))}
