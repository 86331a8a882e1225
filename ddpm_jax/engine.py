"""Compiled sampling: a model and its parameters, run over any number of pictures in padded buckets.

Everything that may differ between two pictures, or two calls, is an array: labels and weights, noise, mask, the
sampler's table. A compiled function is made once per bucket, number of evaluations and form of guidance.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ddpm_jax import edit, likelihood, prior, process, requests, samplers
from ddpm_jax.guidance import Guidance
from ddpm_jax.model import Model
from ddpm_jax.requests import Settings, check_range

BUCKETS = (1, 16, 64)  # numbers of pictures that are made at once; a call is padded to one of them
BOUND_TERMS = 16  # terms of a variational bound that are drawn for each picture


class Places(NamedTuple):
    """Which pictures: number [n] of a call with seed [n]. The two say what noise a picture starts from and meets."""

    seed: Any
    number: Any


def places(n: int, seed: int = 0, first: int = 0) -> Places:
    """Return the places of n pictures of one seed, from number `first` on. Raises ValueError beyond 32 bits."""
    for name, value in (("seed", seed), ("first", first), ("the last number", first + n - 1)):
        check_range(name, value, 0, 2**32 - 1)
    return Places(np.full(n, seed, np.uint32), np.arange(first, first + n, dtype=np.uint32))


def same_place(n: int, seed: int = 0) -> Places:
    """Return the place of picture 0 of a seed, n times."""
    return places(n, seed)._replace(number=np.zeros(n, np.uint32))


class Nets(NamedTuple):
    """Parameters of a net, and of a worse one that guidance may lead away from, if there is one."""

    params: Any
    weak: Any = None


class Engine:
    """A model's compiled functions; each compiles when it is first called with arrays of new shapes.

    A bucket is split over the devices of the mesh `over`, or lies whole on each where it does not divide.
    """

    def __init__(self, model: Model, over: Mesh) -> None:
        """Prepare the functions."""
        self.model, self.over = model, over
        self._noise = _batched(functools.partial(start_one, shape=model.spec.shape), mapped=1)
        self._between = _batched(lambda other, share, one: edit.slerp(one, other, share), mapped=2)
        self._complete = _batched(functools.partial(complete_one, model=model), mapped=2)
        self._draw = _batched(functools.partial(draw_one, model=model), mapped=3)
        self._frames = _batched(functools.partial(draw_one, model=model, observe=_seen), mapped=3)
        self._means = _batched(functools.partial(_mean, model=model), mapped=3)
        self._paint = _batched(functools.partial(_paint, model=model), mapped=5)
        self._bound = _batched(functools.partial(_bound, model=model), mapped=3)
        self._word_bound = _batched(functools.partial(_word_bound, model=model), mapped=2)
        self._noised = _batched(_noised, mapped=2)
        self._invert = _batched(functools.partial(_invert, model=model), mapped=2)

    def noise(self, at: Places) -> np.ndarray:
        """Return the noise [n, h, w, c] that pictures start from."""
        return _in_buckets(self.over, self._noise, (at,))

    def between(self, one: np.ndarray, others: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return noises a share [n] of the way from one [h, w, c] to others [n, h, w, c]; see `edit.slerp`."""
        return _in_buckets(self.over, self._between, (others, np.asarray(shares, np.float32)), one)

    def complete(self, nets: Nets, labels: np.ndarray, at: Places) -> np.ndarray:
        """Return complete labels int8 [n, words] for any labels, by the word prior; see `prior.complete`."""
        return _in_buckets(self.over, self._complete, (labels, at), nets.params)

    def rows(self, asked: Settings, guide: Guidance) -> samplers.Rows:
        """Return the sampler's table for pictures under a guidance: one evaluation where that decides every pixel."""
        return requests.rows(requests.once(asked) if self.model.settled(guide) else asked, self.model.schedule)

    def draw(self, nets: Nets, guide: Guidance, start: np.ndarray, at: Places, rows: samplers.Rows) -> np.ndarray:
        """Return the pictures, uint8 [n, h, w, c], that a table makes of `start` under `guide`, each leaf [n, ...]."""
        return _in_buckets(self.over, self._draw, (guide, start, at), nets, _float32(rows))[0]

    def means(self, nets: Nets, guide: Guidance, start: np.ndarray, at: Places, rows: samplers.Rows) -> np.ndarray:
        """Return the posterior means that `draw` decodes, as bytes but not rounded: float32 [n, h, w, c]."""
        return _in_buckets(self.over, self._means, (guide, start, at), nets, _float32(rows))

    def frames(self, nets: Nets, guide: Guidance, start: np.ndarray, at: Places, rows: samplers.Rows) -> np.ndarray:
        """Return what each row of the table takes for the pictures, uint8 [n, rows, h, w, c].

        Where labels say every pixel these are all alike; then it is x_t, where the row leaves them.
        """
        x_0, x_t = _in_buckets(self.over, self._frames, (guide, start, at), nets, _float32(rows))[1]
        return x_t if self.model.settled(guide) else x_0

    def paint(
        self,
        nets: Nets,
        guide: Guidance,
        start: np.ndarray,
        at: Places,
        paint: edit.Paint,
        *,
        pictures: np.ndarray,
        mask: np.ndarray,
    ) -> np.ndarray:
        """Return pictures uint8 [n, h, w, c], unchanged where mask [n, h, w] is False; see `edit.inpaint`."""
        return _in_buckets(self.over, self._paint, (guide, start, at, pictures, mask), nets, _float32(paint))

    def bound(
        self, params: Any, labels: np.ndarray, images: np.ndarray, at: Places, table: likelihood.Table
    ) -> likelihood.Terms:
        """Return the terms [n] of the variational bound of images (as a data set has them) under labels [n, words]."""
        return _in_buckets(self.over, self._bound, (images, labels, at), params, _float32(table))

    def word_bound(self, nets: Nets, labels: np.ndarray, at: Places) -> np.ndarray:
        """Return a bound on -log p of complete labels [n, words] by the word prior, in nats [n]; see `prior.bound`."""
        return _in_buckets(self.over, self._word_bound, (labels, at), nets.params)

    def noised(self, pictures: np.ndarray, at: Places, t: float) -> np.ndarray:
        """Return pictures uint8 [n, h, w, c] with the noise of time t: where `draw` may start."""
        return _in_buckets(self.over, self._noised, (pictures, at), np.float32(self.model.schedule.log_snr(t)))

    def invert(self, nets: Nets, guide: Guidance, pictures: np.ndarray, rows: samplers.Rows) -> np.ndarray:
        """Return the noise [n, h, w, c] that an `edit.inversion` finds for pictures."""
        log_snr = np.float32(self.model.schedule.log_snr(rows.t[0]))
        return _in_buckets(self.over, self._invert, (guide, pictures), nets, _float32(rows), log_snr)


def start_one(at: Places, *, shape: tuple[int, int, int]) -> Array:
    """Return the noise [h, w, c] that the picture of one place starts from."""
    return jax.random.normal(_keys(at)[0], shape)


def draw_one(
    guide: Guidance,
    start: Array,
    at: Places,
    nets: Nets,
    rows: samplers.Rows,
    *,
    model: Model,
    observe: samplers.Observer | None = None,
) -> tuple[Array, Any]:
    """Return one picture, uint8 [h, w, c], from its noise, and what `observe` makes of each row; see `samplers`."""
    denoise, decode = model.denoiser(nets.params, guide, nets.weak)
    x_0, frames = samplers.sample(denoise, start, _keys(at)[1], rows, decode=decode, observe=observe)
    return process.to_uint8(x_0), frames


def _seen(x_0: Array, x_t: Array) -> tuple[Array, Array]:
    return process.to_uint8(x_0), process.to_uint8(x_t)


def complete_one(label: Array, at: Places, params: Any, *, model: Model) -> Array:
    """Return the complete label int8 [words], or code of motifs, that the prior makes of one for a place's picture."""
    return model.complete(params, label, _keys(at)[2])


def _mean(guide: Guidance, start: Array, at: Places, nets: Nets, rows: samplers.Rows, *, model: Model) -> Array:
    denoise, _ = model.denoiser(nets.params, guide, nets.weak)
    return samplers.sample(denoise, start, _keys(at)[1], rows)[0] * 127.5 + 127.5


def _paint(
    guide: Guidance,
    start: Array,
    at: Places,
    picture: Array,
    mask: Array,
    nets: Nets,
    paint: edit.Paint,
    *,
    model: Model,
) -> Array:
    denoise, decode = model.denoiser(nets.params, guide, nets.weak)
    x_0 = process.to_float(picture)
    painted, _ = edit.inpaint(denoise, start, _keys(at)[1], paint, x_0=x_0, mask=mask, decode=decode)
    return process.to_uint8(painted)


def _bound(
    data: Array, label: Array, at: Places, params: Any, table: likelihood.Table, *, model: Model
) -> likelihood.Terms:
    return model.bound(params, data, label, _keys(at)[1], table, terms=min(BOUND_TERMS, len(table.weight)))


def _word_bound(label: Array, at: Places, params: Any, *, model: Model) -> Array:
    keys = jax.random.split(_keys(at)[2], BOUND_TERMS)
    return jax.vmap(lambda key: prior.bound(model.words(params), label, key, model.space))(keys).mean()


def _noised(picture: Array, at: Places, log_snr: Array) -> Array:
    return edit.noised(process.to_float(picture), _keys(at)[0], log_snr)


def _invert(guide: Guidance, picture: Array, nets: Nets, rows: samplers.Rows, log_snr: Array, *, model: Model) -> Array:
    denoise, _ = model.denoiser(nets.params, guide, nets.weak)
    return edit.invert(denoise, process.to_float(picture), rows, log_snr)


def _keys(at: Places) -> tuple[Array, Array, Array]:
    """Return the keys of the noise that a picture starts from, of what its sampler draws, and of its words."""
    key = jax.random.fold_in(jax.random.key(at.seed), at.number)
    start_key, sampler_key = jax.random.split(key)
    # Not split in three, which changes the first two where jax_threefry_partitionable is off.
    return start_key, sampler_key, jax.random.fold_in(key, 2)


def _float32(table: Any) -> Any:
    return jax.tree.map(lambda column: np.asarray(column, np.float32), table)


def _batched(one: Callable[..., Any], *, mapped: int) -> Callable[..., Any]:
    """Compile a function of one picture for many: its first `mapped` arguments have one entry a picture."""

    def many(*arguments: Any) -> Any:
        axes = [0] * mapped + [None] * (len(arguments) - mapped)
        return jax.vmap(one, in_axes=axes)(*arguments)

    return jax.jit(many)


def _in_buckets(over: Mesh, call: Callable[..., Any], arrays: Any, *shared: Any) -> Any:
    """Return `call` of arrays (leaves [n, ...]) and what all pictures share, at most a bucket at a time, as NumPy."""
    n, whole = len(jax.tree.leaves(arrays)[0]), NamedSharding(over, PartitionSpec())
    shared, made = jax.device_put(shared, whole), []
    for start in range(0, n, BUCKETS[-1]):
        size = min(BUCKETS[-1], n - start)
        bucket = next(bucket for bucket in BUCKETS if bucket >= size)

        def padded(x: Any, start: int = start, size: int = size, bucket: int = bucket) -> np.ndarray:
            part = np.asarray(x)[start : start + size]
            return np.concatenate([part, np.zeros((bucket - size, *part.shape[1:]), part.dtype)])

        split = whole if bucket % over.size else NamedSharding(over, PartitionSpec("data"))
        result = call(*jax.device_put(jax.tree.map(padded, arrays), split), *shared)
        if jax.process_count() > 1:  # what lies on the devices of others is brought here
            result = jax.device_put(result, whole)
        made.append(jax.tree.map(lambda x, size=size: np.asarray(x)[:size], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)
