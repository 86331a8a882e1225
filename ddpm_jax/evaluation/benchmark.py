"""The metrics by name; `core` are all rows of the benchmark with one setting, the others vary it."""

from collections.abc import Callable

from ddpm_jax.evaluation import distances, pixels, sweeps, words
from ddpm_jax.evaluation.bench import Bench, Row

Metric = Callable[[Bench], list[Row]]

CORE: dict[str, Metric] = {
    "exact": pixels.exact_match,
    "open": words.open_labels,
    "agreement": words.agreement,
    "legal": words.legal,
    "coverage": words.coverage,
    "distance": distances.distance,
    "off_palette": pixels.off_palette,
    "bits": pixels.bits,
}
METRICS: dict[str, Metric] = {
    **CORE,
    "evaluations": sweeps.by_evaluations,
    "guidance": sweeps.by_guidance,
}
