"""A network with its schedule and its target: what training minimises, and what sampling calls, for one example.

Parameters are always an argument; a `Model` holds no arrays but the palette.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from ddpm_jax import guidance, labels, likelihood, losses, motifs, prior
from ddpm_jax.datasets.spec import Spec
from ddpm_jax.guidance import Guidance
from ddpm_jax.nets import Net
from ddpm_jax.nets.words import WordLayers, paint
from ddpm_jax.prior import Logits, WordPrior
from ddpm_jax.samplers import Denoiser
from ddpm_jax.schedules import Schedule
from ddpm_jax.state import LAYERS, MOTIFS, PRIOR

SWEEPS = 2  # over the code of motifs, once it is drawn


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The net, what its raw output means, the noise it was trained on, and the pictures it makes (`spec`).

    `prior`, if any, completes labels; its parameters are those of the net's entry `state.PRIOR`. Pictures without
    labels may have so many `motifs` instead (see motifs.py): codes of these are completed and painted like labels.
    """

    spec: Spec
    net: Net
    schedule: Schedule
    target: losses.Target
    weighting: losses.Weighting
    prior: WordPrior | None = None
    motifs: int = 0

    def init(self, key: Key[Array, ""]) -> Any:
        """Return fresh parameters, float32."""
        label = jnp.zeros(self.spec.labels.size, jnp.int8)
        return self.net.init(key, jnp.zeros(self.spec.shape), jnp.float32(0.5), label)["params"]

    def predict(self, params: Any, x_t: Array, t: Array, label: Array) -> Array:
        """Return the raw output [h, w, k] for x_t [h, w, c] at time t under a three-state label [words], or a code."""
        if self.motifs and label.shape[0]:
            return self._painted(params, label)
        return cast(Array, self.net.apply({"params": params}, x_t, t, label))

    def loss(self, params: Any, data: Array, label: Array, t: Array, key: Array) -> tuple[Array, Array]:
        """Return the weighted loss of one example and its unweighted error; with dropout, if the net has any."""
        loss_key, dropout_key = jax.random.split(key)

        def predict(x_t: Array, t: Array, label: Array) -> Array:
            rngs = {"dropout": dropout_key}
            return cast(Array, self.net.apply({"params": params}, x_t, t, label, deterministic=False, rngs=rngs))

        parts = {"schedule": self.schedule, "target": self.target, "weighting": self.weighting}
        return losses.loss_and_error(predict, data, label, t, loss_key, **parts)

    def eval_loss(self, params: Any, data: Array, label: Array, t: Array, key: Array) -> tuple[Array, Array]:
        """Return the same two numbers without dropout."""
        parts = {"schedule": self.schedule, "target": self.target, "weighting": self.weighting}
        predict = functools.partial(self.predict, params)
        return losses.loss_and_error(predict, data, label, t, key, **parts)

    def bound(
        self, params: Any, data: Array, label: Array, key: Key[Array, ""], table: likelihood.Table, *, terms: int
    ) -> likelihood.Terms:
        """Return the variational bound on -log p(data given label), in nats, of one example.

        `terms` of the table's steps are drawn (see `likelihood.bound`). L_0 is of the palette's colours where the net
        knows them, else of the 256 levels of each channel. The key is consumed.
        """
        x_0 = self.target.clean(data)

        def estimate(raw: Array, x_t: Array, log_snr: Array) -> Array:
            return jnp.clip(self.target.x_0(raw, x_t, log_snr), -1, 1)

        def denoise(x_t: Array, t: Array) -> Array:
            return estimate(self.predict(params, x_t, t, label), x_t, self.schedule.log_snr(t))

        def likelihood_0(x_t: Array, t: Array, log_snr: Array) -> Array:
            raw = self.predict(params, x_t, t, label)
            if self.target.decode:
                return likelihood.categorical(raw, data)
            return likelihood.discretised_gaussian(x_0, estimate(raw, x_t, log_snr), log_snr)

        return likelihood.bound(denoise, likelihood_0, x_0, key, table, k=terms)

    @functools.cached_property
    def space(self) -> labels.LabelSpace:
        """The words that the prior knows: those of labels, or the motifs."""
        return labels.motifs(self.motifs) if self.motifs else self.spec.labels

    @property
    def layers(self) -> WordLayers:
        """What paints the motifs."""
        return self.net.layers(*self.spec.shape[:2])

    def opened(self, label: Array | np.ndarray) -> Array:
        """Return what the prior completes: labels [..., words] themselves, or as many codes that say nothing."""
        if self.motifs and not label.shape[-1]:
            return jnp.zeros((*label.shape[:-1], self.motifs), jnp.int8)
        return jnp.asarray(label)

    def _painted(self, params: Any, code: Array) -> Array:
        return paint(self.layers, params[MOTIFS][LAYERS], code)

    def code(self, params: Any, data: Array) -> Array:
        """Return what motifs a picture has, int8 [motifs] of +1 and -1, by its colours of the palette [h, w]."""
        return jnp.where(motifs.encode(params[MOTIFS]["encoder"], data) > 0, 1, -1).astype(jnp.int8)

    def complete(self, params: Any, label: Array, key: Key[Array, ""]) -> Array:
        """Return the complete label, or code, int8 [words] that the prior makes of a label. The key is consumed.

        Motifs are less independent than words. So each is drawn `SWEEPS` times more, from all others; and they are what
        the picture of their code is read as, which agrees with itself more often than they do.
        """
        given, opened = self.words(params), self.opened(label)
        made = prior.complete(given, opened, key, self.space)
        if not self.motifs:
            return made
        for sweep in range(SWEEPS):
            made = prior.redraw(given, made, opened == 0, jax.random.fold_in(key, sweep), self.space)
        picture = self._painted(params, made).argmax(axis=-1)
        return jnp.where(opened == 0, self.code(params, picture), made)

    def words(self, params: Any) -> Logits:
        """Return the word prior's logits as a function of a label. Raises ValueError where the model has none."""
        if self.prior is None:
            raise ValueError("this model has no word prior (net.word_prior is 0)")
        return prior.logits(self.prior, params[PRIOR])

    def settled(self, guide: Guidance) -> bool:
        """Say whether pictures under a guidance on the host depend on nothing but their labels: one evaluation does."""
        alone = guide.weights.shape[-1] == 1 and self.paints
        return bool(alone and guide.labels.size and (guide.labels != 0).all())

    @property
    def paints(self) -> bool:
        """Whether a complete label says the picture, whatever x_t is: a raw output that does, of the colours."""
        return self.net.paints and self.target.decode is not None

    def denoiser(self, params: Any, guide: Guidance, weak: Any = None) -> tuple[Denoiser, Denoiser | None]:
        """Return the guided (x_t, t) -> x_0, and the same by the most likely colour where the target knows one.

        `weak` are the parameters of a worse net, for guidance against it.
        """
        spread = guidance.logit_deviation if self.target.decode else guidance.deviation
        guide = guidance.undivided(guide) if self.paints and guide.labels.size and len(guide.labels) > 1 else guide
        worse = None if weak is None else functools.partial(self.predict, weak)
        raw = guidance.predictor(functools.partial(self.predict, params), guide, weak=worse, spread=spread)

        def denoise(x_t: Array, t: Array) -> Array:
            return self.target.x_0(raw(x_t, t), x_t, self.schedule.log_snr(t))

        decode = self.target.decode
        return denoise, None if decode is None else lambda x_t, t: decode(raw(x_t, t))


def in_palette(
    pictures: UInt8[np.ndarray, "n h w c"], palette: UInt8[np.ndarray, "k c"] | None
) -> UInt8[np.ndarray, "n h w c"]:
    """Return the pictures in colours of the palette, as they are where there is none."""
    return pictures if palette is None else snap(pictures, palette)


def snap(pictures: UInt8[np.ndarray, "n h w c"], palette: UInt8[np.ndarray, "k c"]) -> UInt8[np.ndarray, "n h w c"]:
    """Return the pictures with every pixel moved to the nearest palette colour (squared distance over channels)."""
    nearest = [np.square(p[..., None, :].astype(np.int32) - palette).sum(-1).argmin(-1) for p in pictures]
    return palette[np.stack(nearest)] if nearest else pictures
