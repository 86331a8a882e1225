"""Figures of words: what was asked and what a classifier reads; what the verifier accepts; how often words occur."""

from typing import Any

import numpy as np

from ddpm_jax.evaluation import attributes, verifier
from ddpm_jax.evaluation.bench import Bench, Row, share, trained_judge


def open_labels(bench: Bench) -> list[Row]:
    """Requests of one to three words, and pairs of words never shown together, as the classifier reads the pictures."""
    if not (bench.determined and bench.judge):
        return []
    rows = [_obeyed(bench, "open", "1 to 3 words of a real label", bench.sizes.requests, target=0.995)]
    if len(asked := _unseen(bench)):
        read = bench.judge.read(bench.draw(asked))
        right = attributes.obeyed(asked, read)
        rows.append(share(right, "never_seen", "two words never seen together", details=_misses(bench, asked, read)))
    return rows


def digits(bench: Bench) -> list[Row]:
    """Pictures of complete labels that the classifier reads as asked, where a label does not determine its picture."""
    if not (bench.judge and bench.data.spec.labels.size) or bench.determined:
        return []
    asked = np.resize(bench.data.labels[bench.positions], (len(bench.free), bench.data.spec.labels.size))
    read = bench.judge.read(bench.free)
    own = attributes.obeyed(bench.data.labels[bench.positions], bench.judge.read(bench.data.pixels(bench.positions)))
    row = share(attributes.obeyed(asked, read), "agreement", "pictures that are read as what was asked", target=0.995)
    return [row._replace(baseline=float(own.mean()), against="held-out real ones", details=_misses(bench, asked, read))]


def legal(bench: Bench) -> list[Row]:
    """Pictures that the exact renderer makes of some label; and of what labels the legal ones are."""
    if not (bench.judge and bench.judge.render):
        return []
    accepted = _verifier_rates(bench)
    reach = accepted[0].value
    rows, kinds = list(accepted), {"free": np.zeros((bench.sizes.verified, bench.data.spec.labels.size), np.int8)}
    if bench.data.spec.labels.size:
        kinds["open"] = _requests(bench, bench.sizes.requests)
    for kind, labels in kinds.items():
        n = len(labels)
        after = bench.free[:n] if kind == "free" else bench.draw(labels)
        before = np.round(bench.subject.means(labels)).astype(np.uint8)
        verdict = bench.judge.verify(after)
        details = {"seen": _familiar(bench, verdict)}
        rows.append(
            share(verdict.legal, "legal", f"{kind} pictures", baseline=reach, against="held-out real ones")._replace(
                target=0.95 * reach, details=details
            )
        )
        rows.append(share(bench.judge.verify(before).legal, "legal_before", f"{kind} pictures before any snapping"))
    return rows


def coverage(bench: Bench) -> list[Row]:
    """How often words occur in free pictures, against the data."""
    if not (bench.judge and bench.judge.data.spec.labels.size):
        return []
    space = bench.judge.data.spec.labels
    found = attributes.coverage(bench.judge.read(bench.free), bench.judge.data.labels, space)
    worst = Row(
        "coverage", f"worst of {len(found.ratios)} words: {found.worst_word}", found.worst, "factor", len(bench.free)
    )
    worst = worst._replace(target=1.5, more=False, details={"ratios": found.ratios})
    recall = Row("recall", f"of the {found.rare} rarer words, found at all", found.recall, "share", len(bench.free))
    return [worst, recall] if found.rare else [worst]


def _requests(bench: Bench, n: int) -> np.ndarray:
    return attributes.requests(bench.data.labels, bench.data.spec.labels, n)


def _unseen(bench: Bench) -> np.ndarray:
    train = bench.data.labels[bench.data.train]
    return attributes.never_seen(train, bench.data.spec.labels, bench.sizes.unseen)


def _obeyed(bench: Bench, metric: str, what: str, n: int, *, target: float) -> Row:
    asked = _requests(bench, n)
    read = trained_judge(bench).read(bench.draw(asked))
    return share(attributes.obeyed(asked, read), metric, what, target=target, details=_misses(bench, asked, read))


def _misses(bench: Bench, asked: np.ndarray, read: np.ndarray) -> dict[str, Any]:
    """Return the words that were missed most, "no Pipe" lacking and "Pipe" too much, with how often."""
    space, counts = bench.data.spec.labels, {}
    for one, found in zip(asked, read, strict=True):
        for word in attributes.differences(space, one, found):
            counts[word] = counts.get(word, 0) + 1
    return {"misses": dict(sorted(counts.items(), key=lambda item: -item[1])[:20])}


def _verifier_rates(bench: Bench) -> list[Row]:
    """Return the verifier's own rates: held-out real pictures that it accepts, and damaged ones."""
    judge = trained_judge(bench)
    real, palette = judge.data.pixels(judge.data.heldout), np.asarray(judge.data.spec.palette, np.uint8)
    unpadded = judge._replace(margin=0)
    broken = verifier.damaged(real, palette)
    accepted = share(unpadded.verify(real).legal, "verifier_accepts", "held-out real pictures")
    return [
        accepted,
        share(unpadded.verify(broken).legal, "verifier_accepts_damaged", "them with 1 to 3 pixels changed"),
    ]


def _familiar(bench: Bench, verdict: verifier.Verdict) -> dict[str, int]:
    """Count the legal pictures' labels: of a training picture, of a held-out one, of none."""
    kinds = np.zeros(len(bench.data.ids), int)
    kinds[bench.data.train] = 1
    known = {
        label.tobytes(): kind for label, kind in zip(trained_judge(bench).data.labels, kinds.tolist(), strict=True)
    }
    found = [known.get(label.astype(np.int8).tobytes(), 2) for label in verdict.label[verdict.legal]]
    return {name: found.count(kind) for name, kind in (("train", 1), ("held out", 0), ("nowhere", 2))}
