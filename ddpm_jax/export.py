"""The whole sampler as one file of StableHLO, which runs where JAX does and nothing of this package is installed."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ddpm_jax import engine, requests, runtime, samplers
from ddpm_jax.generator import Generator

PLATFORMS = ("cpu", "cuda", "tpu")


def artifact(model: Generator, asked: requests.Settings, platforms: Sequence[str] = PLATFORMS) -> jax_export.Exported:
    """Return (labels int8 [b, words], seeds uint32 [b], weight float32 []) -> pictures uint8 [b, h, w, c], exported.

    b is symbolic: the file takes any number. Parameters, sampler and times are inside; `weight` is that of guidance
    where `asked.guidance` is not 1, and unused otherwise. Picture i is what `Generator.sample` makes of the same label
    as picture 0 of the same seed. Raises BadInput for an unknown platform and for weights of words.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        raise runtime.BadInput(f"unknown platform {min(unknown)!r}; choose of {', '.join(PLATFORMS)}")
    if asked.weights:
        raise runtime.BadInput("an artifact has one weight, of guidance; leave out weights of words")
    settled = asked.words == "prior" and model.model.paints
    rows = requests.rows(requests.once(asked) if settled else asked, model.model.schedule)
    one = functools.partial(_picture, model=model, rows=rows, asked=asked)
    (b,) = jax_export.symbolic_shape("b")
    labels = jax.ShapeDtypeStruct((b, model.spec.labels.size), jnp.int8)
    seeds, weight = jax.ShapeDtypeStruct((b,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    call = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))
    return jax_export.export(call, platforms=tuple(platforms))(labels, seeds, weight)


def _picture(
    label: jax.Array,
    seed: jax.Array,
    weight: jax.Array,
    *,
    model: Generator,
    rows: samplers.Rows,
    asked: requests.Settings,
) -> jax.Array:
    at = engine.Places(seed, jnp.uint32(0))
    # They are constants here, which XLA would compute with while it compiles, for seconds, and say so at length.
    nets = jax.tree.map(jax.lax.optimization_barrier, model.nets)  # each apart, so that those not in use are left out
    if asked.words == "prior":
        label = engine.complete_one(label, at, nets.params, model=model.model)
    asks = [asked if asked.guidance == 1.0 else asked._replace(guidance=by) for by in (2.0, 3.0)]
    at_two, at_three = (requests.guide(one, model.spec.labels, np.ones(len(label), np.int8)) for one in asks)
    weights = at_two.weights + (weight - 2.0) * (at_three.weights - at_two.weights)  # affine in that of guidance
    guide = at_two._replace(labels=at_two.labels * label[None], weights=weights)
    start = engine.start_one(at, shape=model.spec.shape)
    return engine.draw_one(guide, start, at, nets, rows, model=model.model)[0]


def write(
    model: Generator, asked: requests.Settings, path: str | os.PathLike[str], platforms: Sequence[str] = PLATFORMS
) -> int:
    """Write the artifact, and beside it `<path>.json` with its words and recipe; return its size in bytes."""
    content = bytes(artifact(model, asked, platforms).serialize())
    about = {"words": model.spec.labels.words, "shape": model.spec.shape, "platforms": list(platforms)}
    runtime.write_atomically(path, content)
    recipe = model.recipe(settings=asked._asdict(), **about)
    runtime.write_atomically(f"{os.fspath(path)}.json", json.dumps(recipe, indent=2).encode())
    return len(content)


def read(path: str | os.PathLike[str]) -> Callable[[np.ndarray, np.ndarray, Any], jax.Array]:
    """Return the function that an artifact holds; it needs JAX alone (see `artifact`)."""
    with open(path, "rb") as file:
        return jax_export.deserialize(bytearray(file.read())).call


def difference(model: Generator, asked: requests.Settings, path: str | os.PathLike[str], n: int = 16) -> int:
    """Return the largest difference of a colour (of 255) between n pictures of an artifact and the generator's own.

    The labels are random words, one of each of the first two groups, and the seeds 0 to n - 1.
    """
    labels, space = [], model.spec.labels
    for rng in (np.random.default_rng(i) for i in range(n)):
        labels.append(space.parse(", ".join(str(rng.choice(group.words)) for group in space.groups[:2])))
    made = read(path)(np.stack(labels), np.arange(n, dtype=np.uint32), np.float32(asked.guidance))
    at = engine.Places(np.arange(n, dtype=np.uint32), np.zeros(n, np.uint32))
    own = model.render(model.completed(np.stack(labels), at, asked), at, asked)
    return int(np.abs(np.asarray(made).astype(int) - own.astype(int)).max())
