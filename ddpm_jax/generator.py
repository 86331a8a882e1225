"""`load(path_or_name)` gives a `Generator`: what scripts, notebooks and the dashboard call to make pictures."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, UInt8

from ddpm_jax import build, checkpoint, model, process, runtime, samplers, schedules
from ddpm_jax.datasets.spec import Spec, unseen_pairs
from ddpm_jax.labels import Label

BUCKETS = (1, 16, 64)  # numbers of pictures that are made at once; a call is padded to one of them
MAX_PICTURES = 100_000


class Generator:
    """A trained model, ready to sample. Make one with `load`.

    Attributes: `params` the parameters in use, `spec` the pictures' shape, palette and words, `meta` the checkpoint's
    description, `path` where it lies, `which` "ema" or "raw".
    """

    def __init__(self, path: Path, which: str) -> None:
        """Read a checkpoint's description and its parameters, verified; nothing else of it."""
        self.path, self.which = path, which
        self.meta = checkpoint.read_meta(path)
        self.spec = Spec.from_json(self.meta["spec"])
        self.params: Any = jax.tree.map(
            jnp.asarray, checkpoint.load_arrays(path, "ema" if which == "ema" else "params")
        )
        self.model = build.make_model(self.meta["config"], self.spec)
        self.defaults: dict[str, Any] = self.meta["config"]["sampling"]
        self._compiled = functools.cache(self._compile)

    def sample(
        self,
        labels: Label | Sequence[Label] = None,
        *,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        sampler: str = "",
        steps: int | None = None,
        guidance: float | None = None,
        snap: bool = False,
    ) -> UInt8[np.ndarray, "N h w c"]:
        """Return n pictures for each label, uint8 [N, h, w, c], label by label.

        A label is words ("Female, Mohawk, -Pipe"), a dict, a three-state vector or None (anything); a list of them is
        several. `complete` means that every word not named is absent. `sampler`, `steps` (net evaluations) and
        `guidance` (0 unconditional, 1 conditional, more exaggerates) are the checkpoint's unless given. `snap` moves
        each pixel to the nearest palette colour. Picture i depends on (seed, i) and its label alone.

        Raises ValueError for unknown words, samplers and numbers out of range.
        """
        if snap and self.spec.palette is None:
            raise ValueError(f"{self.spec.name} has no palette to snap to; leave snap out")
        vectors = self.vectors(labels, n=n, complete=complete)
        pictures = self._render(vectors, seed, self.settings(sampler=sampler, steps=steps, guidance=guidance))
        return model.snap(pictures, self.spec.palette) if snap and self.spec.palette is not None else pictures

    def trajectory(
        self,
        labels: Label | Sequence[Label] = None,
        *,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        sampler: str = "",
        steps: int | None = None,
        guidance: float | None = None,
    ) -> UInt8[np.ndarray, "N f h w c"]:
        """Return each step's estimate of the pictures that `sample` makes of the same arguments, the last step last."""
        vectors = self.vectors(labels, n=n, complete=complete)
        return self._render(vectors, seed, self.settings(sampler=sampler, steps=steps, guidance=guidance), frames=True)

    def vectors(self, labels: Label | Sequence[Label], *, n: int = 1, complete: bool = False) -> np.ndarray:
        """Return the vectors, int8 [N, words], of n pictures for each label; warn of words never seen together."""
        several: list[Label] = list(labels) if isinstance(labels, list | tuple) else [cast(Label, labels)]
        _check_range("n x labels", n * len(several), 1, MAX_PICTURES)
        parsed = [self.spec.labels.parse(label, complete=complete) for label in several]
        unseen = {pair for vector in parsed for pair in unseen_pairs(self.meta["pairs_seen"], self.spec.labels, vector)}
        for one, two in sorted(unseen):
            logging.warning("no training image has both %s and %s; the picture is a guess", one, two)
        return np.repeat(np.stack(parsed), n, axis=0)

    def _render(self, vectors: np.ndarray, seed: int, how: dict[str, Any], frames: bool = False) -> np.ndarray:
        """Return pictures [N, h, w, c], or their frames [N, steps, h, w, c], for labels [N, words], by buckets."""
        _check_range("seed", seed, 0, 2**32 - 1)
        draw = self._compiled(how["sampler"], how["steps"], self.model.guided(how["guidance"]), frames)
        made = []
        for start in range(0, len(vectors), BUCKETS[-1]):
            part = vectors[start : start + BUCKETS[-1]]
            bucket = next(size for size in BUCKETS if size >= len(part))
            padded = np.pad(part, ((0, bucket - len(part)), (0, 0)))
            pair = draw(self.params, padded, _keys(seed, start, bucket), np.float32(how["guidance"]))
            made.append(np.asarray(pair[1 if frames else 0])[: len(part)])
        return np.concatenate(made)

    def settings(self, *, sampler: str = "", steps: int | None = None, guidance: float | None = None) -> dict[str, Any]:
        """Return sampler, steps and guidance as they will be used: as given, or the checkpoint's."""
        given = {"sampler": sampler or None, "steps": steps, "guidance": guidance}
        how = {**self.defaults, **{key: value for key, value in given.items() if value is not None}}
        if how["sampler"] not in samplers.SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; choose one of {', '.join(samplers.SAMPLERS)}")
        _check_range("steps", how["steps"], 1, 1000)
        _check_range("guidance", how["guidance"], 0, 100)
        return {**how, "guidance": float(how["guidance"])}

    def recipe(self, **more: Any) -> dict[str, Any]:
        """Return what a picture's file says of its making: the checkpoint's hash, and `more`."""
        about = {"checkpoint": self.meta["sha256"], "step": self.meta["step"], "which": self.which}
        here = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        return {**about, **here, **more}

    def _compile(self, sampler: str, steps: int, guided: bool, frames: bool) -> Any:
        grid, observe = schedules.linear_grid(steps), process.to_uint8 if frames else None
        return self.model.sampler(sampler=samplers.SAMPLERS[sampler], grid=grid, guided=guided, observe=observe)


def load(path: str | os.PathLike[str], which: str = "ema") -> Generator:
    """Return the generator of a workdir, one of its checkpoints, or a released model's name.

    `which` is "ema" (the averaged parameters) or "raw". Raises runtime.BadInput if there is none, and
    checkpoint.Damaged if its arrays are not those that were saved.
    """
    if which not in ("ema", "raw"):
        raise runtime.BadInput(f"which is {which!r}; choose ema or raw")
    return Generator(build.model_path(path), which)


def _keys(seed: int, start: int, n: int) -> Array:
    """Return the keys [n] of pictures start, start + 1, ...: each is folded from the seed by its number."""
    numbers = jnp.arange(start, start + n, dtype=jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(numbers)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
