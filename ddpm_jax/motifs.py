"""Motifs: what pictures without labels are made of, found in the pictures alone, so that those can be drawn first.

A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114). Its code says of each motif whether a picture has
it, and is sampled by a straight-through concrete relaxation (Maddison et al. 2017, arXiv 1611.00712; Bengio et al.
2013, arXiv 1308.3432). Its decoder paints motifs as words are painted (`nets.words.WordLayers`). With a prior of the
codes (`prior.WordPrior`) a free picture is a code, drawn and then painted. Pictures are of a palette's colours.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8

from ddpm_jax import step
from ddpm_jax.nets.words import OPACITY, WordLayers, paint
from ddpm_jax.state import LAYERS

STEPS, BATCH, RATE, LAYER_RATE = 5000, 128, 1e-3, 60.0  # of the fit, and how many times as fast the layers learn
PRIOR_STEPS = 8000  # of the fit of a prior to codes, which are not as independent as words
HIDDEN = 256  # width of the encoder
FEATURE = ("row", "column", "colour")  # what it looks at; up to 2048 the same as float16
MOST_FEATURES = 65_536  # of these
COST = ((0, 0.12, 0.25, 0.45, 0.6), (0.1, 0.5, 1.5, 1.5, 0.15))  # shares of the steps, and what a nat of the code costs
SOFTNESS = (1.0, 0.5)  # temperature of the relaxation at the first step, and from seven tenths of them on
FIRST, EVERY, LAST = 60, 125, 0.9  # steps between which motifs begin anew, and the share of the steps that it ends at
MOST = 16  # of them at a time, four times as many at first
RARE = 5e-4  # share of the pictures below which nothing is a motif
WORTH = 0.002  # nats a picture that a feature must cost for a motif to begin as it
SURE = 3.0  # logits of a motif that begins as a feature: of pictures with it, less without

Params = dict[str, Any]  # "encoder", and of the layers that paint, under state.LAYERS


def encode(encoder: dict[str, Array], picture: Int[Array, "h w"]) -> Float[Array, "motifs"]:
    """Return of each motif the logit that a picture of colours of the palette has it."""
    there = picture[encoder["row"].astype(jnp.int32), encoder["column"].astype(jnp.int32)]
    features = (there == encoder["colour"].astype(jnp.int32)).astype(jnp.float32)
    hidden = nn.silu(features @ encoder["hidden"] + encoder["hidden_bias"])
    return hidden @ encoder["by_hidden"] + features @ encoder["by_feature"] + encoder["bias"]


def init(layers: WordLayers, count: int, images: UInt8[np.ndarray, "n h w"], key: Key[Array, ""]) -> Params:
    """Return the parameters before the fit, of which no motif is there. The key is consumed.

    What the encoder looks at are those colours of pixels, as `row`, `column` and `colour`, that tell pictures apart.
    Raises ValueError where there are none, or too many.
    """
    seen = [(*at, c) for at in np.ndindex(images.shape[1:]) for c in _colours(images[:, *at])]
    if not 0 < len(seen) <= MOST_FEATURES:
        raise ValueError(
            f"net.motifs look at each colour of each pixel that tells pictures apart, of which there are {len(seen)}; "
            f"they are for pixel art, where there are 1 to {MOST_FEATURES}"
        )
    features = np.array(seen, np.float32)
    hidden_key, layers_key = jax.random.split(key)
    encoder = {
        **{name: jnp.asarray(column) for name, column in zip(FEATURE, features.T, strict=True)},
        "hidden": 0.05 * jax.random.normal(hidden_key, (len(features), HIDDEN)),
        "hidden_bias": jnp.zeros(HIDDEN),
        "by_hidden": jnp.zeros((HIDDEN, count)),
        "by_feature": jnp.zeros((len(features), count)),
        "bias": jnp.full(count, -8.0),
    }
    return {"encoder": encoder, LAYERS: layers.init(layers_key, jnp.ones(count))["params"]}


def _colours(column: UInt8[np.ndarray, "n"]) -> list[int]:
    """Return the colours that a pixel has in some pictures, none if it has one in all."""
    found = np.unique(column).tolist()
    return found if len(found) > 1 else []


def fit(
    layers: WordLayers,
    count: int,
    images: UInt8[np.ndarray, "n h w"],
    key: Key[Array, ""],
    *,
    steps: int,
    report: Callable[[int, int, float], None] = lambda step, motifs, nats: None,
) -> tuple[Any, Int[np.ndarray, "n motifs"]]:
    """Return the parameters, and the code of each picture: +1 for a motif that it has and -1 for one without.

    Motifs begin as single features: of what a picture still costs, the dearest. Then what a code costs rises, so that
    motifs become what comes and goes as one, and falls again, for details. Now and then `report` is told the step, how
    many motifs are in use, and what a picture costs by its code, in nats. The key is consumed.
    """
    init_key, steps_key = jax.random.split(key)
    params = init(layers, count, images, init_key)
    adam = step.scale_by_adam(b1=0.9, b2=0.99, layer_rate=LAYER_RATE)
    moments = adam.init(params)
    data, own, features = jnp.asarray(images), _own(params["encoder"], images), len(params["encoder"]["row"])
    advance = jax.jit(functools.partial(_advance, layers=layers, adam=adam, steps=steps))
    look = _looking(layers, data)
    for now in range(steps):
        if now == FIRST or (now and now % EVERY == 0 and now < LAST * steps):
            code, nats = look(params)
            report(now, (~_unused(code)).sum(), nats.sum(axis=(1, 2)).mean())
            unused = np.flatnonzero(_unused(code))[: MOST * (4 if now == FIRST else 1)]
            params, moments = _renew(params, moments, unused, _dearest(nats, own, features, len(unused)))
        params, moments = advance((params, moments), data, steps_key, now)
    code, nats = look(params)
    report(steps, (~_unused(code)).sum(), nats.sum(axis=(1, 2)).mean())
    return params, np.where(code, 1, -1).astype(np.int8)


def _nats(layers: WordLayers, params: Any, code: Array, picture: Array) -> Float[Array, "h w"]:
    """Return -log p of each pixel's colour by a code of zeros and ones."""
    logits = paint(layers, params, 2 * code - 1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, picture.astype(jnp.int32))


def _loss(params: Params, batch: Array, key: Array, cost: Array, softness: Array, *, layers: WordLayers) -> Array:
    """Return the nats of a pixel: of the picture by its code, and `cost` times those of the code.

    The code's are KL(q || p) of Bernoullis, p the batch's own means.
    """
    logits = jax.vmap(functools.partial(encode, params["encoder"]))(batch)
    soft = nn.sigmoid((logits + jax.random.logistic(key, logits.shape)) / softness)
    code = soft + jax.lax.stop_gradient((soft > 0.5) - soft)
    nats = jax.vmap(functools.partial(_nats, layers, params[LAYERS]))(code, batch).sum(axis=(1, 2))
    q = nn.sigmoid(logits)
    p = jnp.clip(q.mean(axis=0, keepdims=True), 1e-4, 1 - 1e-4)
    there, absent = nn.log_sigmoid(logits) - jnp.log(p), nn.log_sigmoid(-logits) - jnp.log1p(-p)
    return (nats + cost * (q * there + (1 - q) * absent).sum(axis=1)).mean() / batch[0].size


def _advance(
    kept: tuple[Params, Any],
    data: Array,
    key: Array,
    now: Array,
    *,
    layers: WordLayers,
    adam: optax.GradientTransformation,
    steps: int,
) -> tuple[Params, Any]:
    """Return parameters and moments after one step."""
    params, moments = kept
    batch_key, code_key = jax.random.split(jax.random.fold_in(key, now))
    batch = data[jax.random.randint(batch_key, (BATCH,), 0, len(data))]
    done = now / steps
    cost = jnp.interp(done, *map(jnp.array, COST))
    softness = jnp.interp(done, jnp.array((0, 0.7)), jnp.array(SOFTNESS))
    gradient = jax.grad(_loss)(params, batch, code_key, cost, softness, layers=layers)
    gradient, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    change, moments = adam.update(gradient, moments)
    rate = RATE * jnp.minimum(1, (now + 1) / 100) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return jax.tree.map(lambda p, u: p - rate * u, params, change), moments


def _looking(layers: WordLayers, data: Array) -> Any:
    """Return the function from parameters to all pictures' likeliest codes, bool [n, motifs], and nats [n, h, w]."""

    def one(params: Params, picture: Array) -> tuple[Array, Array]:
        code = encode(params["encoder"], picture) > 0
        return code, _nats(layers, params[LAYERS], code.astype(jnp.float32), picture)

    many = jax.jit(jax.vmap(one, in_axes=(None, 0)))

    def look(params: Params) -> tuple[np.ndarray, np.ndarray]:
        found = [many(params, data[i : i + 2 * BATCH]) for i in range(0, len(data), 2 * BATCH)]
        code, nats = (np.concatenate([np.asarray(part) for part in both]) for both in zip(*found, strict=True))
        return code, nats

    return look


def _unused(code: np.ndarray) -> np.ndarray:
    """Say of each motif whether no picture has it, or all have."""
    share = code.mean(axis=0)
    return (share < RARE) | (share > 1 - RARE)


def _renew(params: Params, moments: Any, unused: np.ndarray, starts: list[int]) -> tuple[Params, Any]:
    """Begin motifs anew, each as a single feature; there may be fewer of these (positions), then some stay unused.

    So are unused codes of vector quantisation (Dhariwal et al. 2020, arXiv 2005.00341).
    """
    params, mu = jax.tree.map(np.array, params), jax.tree.map(np.array, moments.mu)
    for motif, feature in zip(unused, starts, strict=False):
        for encoder, layers in ((params["encoder"], params[LAYERS]), (mu["encoder"], mu[LAYERS])):
            for name in ("by_hidden", "by_feature"):
                encoder[name][:, motif] = 0
            for name in ("maps", "heights", "opacity", "order", "word_colours"):
                layers[name][motif] = 0
            encoder["bias"][motif] = layers["opacity_everywhere"][motif] = 0
        params["encoder"]["by_feature"][feature, motif], params["encoder"]["bias"][motif] = 2 * SURE, -SURE
        params[LAYERS]["opacity_everywhere"][motif] = OPACITY
    return jax.tree.map(jnp.asarray, params), moments._replace(mu=jax.tree.map(jnp.asarray, mu))


def _own(encoder: dict[str, Array], images: np.ndarray) -> np.ndarray:
    """Return the position of the feature that each pixel has, int [n, pixels]; their number where it tells nothing."""
    row, column, colour = (np.asarray(encoder[name], int) for name in FEATURE)
    table = np.full((*images.shape[1:], int(images.max()) + 1), len(row))
    table[row, column, colour] = np.arange(len(row))
    return table[*np.indices(images.shape)[1:], images].reshape(len(images), -1)


def _dearest(nats: np.ndarray, own: np.ndarray, features: int, most: int) -> list[int]:
    """Return the positions of at most `most` of the features that cost nats [n, h, w] most, the dearest first.

    What comes with a feature is taken to be explained by it before the next is chosen.
    """
    nats, count, chosen = nats.reshape(own.shape).copy(), np.bincount(own.ravel(), minlength=features + 1), []
    for _ in range(most):
        cost = np.bincount(own.ravel(), nats.ravel(), minlength=features + 1)[:features]
        feature = int(cost.argmax())
        if cost[feature] < WORTH * len(own):
            break
        chosen.append(feature)
        have = (own == feature).any(axis=1)
        shared = np.bincount(own[have].ravel(), minlength=features + 1) / np.maximum(count, 1)
        nats[have] *= (1 - shared)[own[have]]
    return chosen
