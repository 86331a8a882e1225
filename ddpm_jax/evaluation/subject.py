"""The model that is judged: what it draws, kept on disk so that a cut evaluation goes on where it was."""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax import engine, likelihood, requests, runtime
from ddpm_jax.engine import Engine, Nets, Places
from ddpm_jax.requests import Settings

CHUNK = 256  # pictures that are made, and kept, at once
VERSION = 1  # of the pictures: raise it where a change of the package draws others


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model with its parameters, the setting that it is judged with, and where its pictures are kept.

    `identity` says which parameters these are (the checkpoint's hash, "ema" or "raw"): kept pictures are used again for
    the same identity, setting, labels and seed only. `parts` None keeps nothing.
    """

    engine: Engine
    nets: Nets
    asked: Settings
    identity: str
    parts: Path | None = None

    def draw(self, labels: np.ndarray, *, seed: int = 0, **how: Any) -> np.ndarray:
        """Return a picture of each label [n, words], uint8 [n, h, w, c]; `how` changes the setting."""
        return self._drawn("draw", self.engine.draw, labels, seed, requests.by_net(self.asked._replace(**how)))

    def means(self, labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Return the last posterior mean behind what `draw` makes, as bytes but not rounded: float32 [n, h, w, c]."""
        return self._drawn("means", self.engine.means, labels, seed, self.asked)

    def bounds(self, labels: np.ndarray, images: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Return the variational bound of pictures under labels [n, words] over a grid of times, in nats.

        float [n, 3]: the prior's, the steps' and the reconstruction's part; see `likelihood.Terms`.
        """
        table = likelihood.table(self.engine.model.schedule, grid)

        def bound(some: np.ndarray, at: Places, part: slice) -> np.ndarray:
            return np.stack(self.engine.bound(self.nets.params, some, images[part], at, table), axis=1)

        what = {"what": "bounds", "grid": grid.tolist(), "terms": engine.BOUND_TERMS, "images": _digest(images)}
        return self._in_parts("bounds", what, labels, 0, bound)

    def codes(self, images: np.ndarray) -> np.ndarray:
        """Return which motifs pictures of colours of the palette [n, h, w] have, int8 [n, motifs] of +1 and -1."""
        read = jax.jit(jax.vmap(functools.partial(self.engine.model.code, self.nets.params)))
        return np.concatenate([read(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)])

    def word_bounds(self, labels: np.ndarray) -> np.ndarray:
        """Return a bound on -log p of complete labels [n, words] by the word prior, in nats [n]."""
        what = {"what": "word_bounds", "terms": engine.BOUND_TERMS}
        return self._in_parts("words", what, labels, 0, lambda some, at, _: self.engine.word_bound(self.nets, some, at))

    def _drawn(
        self, what: str, call: Callable[..., np.ndarray], labels: np.ndarray, seed: int, asked: Settings
    ) -> np.ndarray:
        def draw(some: np.ndarray, at: Places, part: slice) -> np.ndarray:
            if asked.words == "prior":
                some = self.engine.complete(self.nets, some, at)
            guide = requests.guides(asked, self.engine.model.spec.labels, some)
            return call(self.nets, guide, self.engine.noise(at), at, self.engine.rows(asked, guide))

        return self._in_parts(what, {"what": what, "asked": asked._asdict()}, labels, seed, draw)

    def _in_parts(
        self, name: str, what: dict[str, Any], labels: np.ndarray, seed: int, make: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Return what `make` makes of labels, a chunk at a time; chunks that lie on disk are read."""
        made = []
        for start in tqdm(range(0, len(labels), CHUNK), desc=name, unit_scale=CHUNK, disable=None, leave=False):
            part = slice(start, min(start + CHUNK, len(labels)))
            key = {"of": self.identity, **what, "seed": seed, "first": start, "labels": _digest(labels[part])}
            key |= {"n": part.stop - start, "by": _maker()}
            file = self.parts and self.parts / f"{_digest(json.dumps(key, sort_keys=True).encode())[:32]}.npy"
            if file and file.is_file():
                made.append(np.load(file, allow_pickle=False))
                continue
            at = engine.places(part.stop - start, seed, start)
            made.append(make(labels[part], at, part))
            if file:
                _keep(file, made[-1])
        return np.concatenate(made)


def _maker() -> list[Any]:
    """Return what the bits of a picture depend on beside its request."""
    return [VERSION, jax.__version__, jax.devices()[0].device_kind, jax.device_count(), engine.BUCKETS]


def _digest(content: Any) -> str:
    blob = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(blob).hexdigest()


def _keep(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    blob = io.BytesIO()
    np.save(blob, array, allow_pickle=False)
    runtime.write_atomically(file, blob.getvalue())
