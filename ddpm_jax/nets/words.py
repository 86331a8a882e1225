"""What words do to pixels, for ONE label [words] of +1 present, -1 absent, 0 unspecified: maps, and layers of paint."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

HIGHEST = 30.0  # of a layer: exp of it, times some, is a float32 still
GROUND = -4.0  # height that what a picture is starts with
ROLES = 8  # that a pixel can have in any picture, in some mixture
OPACITY = 3.0  # that a word starts with, before the sigmoid: it hides what it lies on until pictures show more


class WordMaps(nn.Module):
    """The sum of one learned [h, w, c] map per (word, state); an unspecified word (0) adds nothing.

    `label` is [words] of +1 present, -1 absent, 0 unspecified. Present maps start small, absent maps at zero.
    """

    shape: tuple[int, int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Return [h, w, c] for a label [words]."""
        shape = (label.shape[0], *self.shape)
        present = self.param("present", nn.initializers.normal(0.1), shape)
        absent = self.param("absent", nn.initializers.zeros, shape)
        maps = jnp.tensordot((label > 0).astype(self.dtype), present.astype(self.dtype), 1)
        return maps + jnp.tensordot((label < 0).astype(self.dtype), absent.astype(self.dtype), 1)


class WordLayers(nn.Module):
    """What the words of a complete label paint, as features of each pixel that a linear classifier reads.

    Each word has a map of features [h, w, d]. A pixel reads a sum and a topmost. The sum is of the present words' maps,
    since the shade of a beard is the beard's and the skin's, and of the canvas, which is what all pictures have in
    common. The topmost is the words' mean, weighted by exp(height), among which nothing has the height 0. A height is
    the word's place in one order for all pixels plus what it has at this one, so that the order of two words never seen
    together follows from others'; the words of `ground` (positions) start as the lowest, for what a picture is lies
    under what it has. As far as the topmost is opaque it takes the place of the sum: glasses hide eyes, rouge does not.
    Both spread to the pixels around, for things are of one piece: over black eyes nobody could tell that glasses hide,
    but beside them. What a picture is has tones besides: the colours it gives to the roles that a pixel can have in any
    picture (skin, its shadow, an outline), of which each pixel is a mixture. So an alien's forehead, which no picture
    shows bare, has the colour of its cheeks. What is opaque hides them, too. While a word of `sets` (positions) is
    present, other maps and roles are used: a woman's hat is not a man's. Maps start at zero and stay there where no
    picture has shown the word. Outside training (`deterministic`), such a word is painted as in another set: no woman
    of the data wears a hoodie, and asked for one she has a man's. Where a label leaves a word open, neither words nor
    canvas paint.
    """

    shape: tuple[int, int, int]
    colours: int
    sets: tuple[int, ...]
    dtype: jnp.dtype
    ground: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, label: Array, deterministic: bool = True) -> tuple[Array, Array]:
        """Return features [h, w, f] for a label [words], and the rows [f, colours] that read them."""
        (h, w, d), words, sets = self.shape, label.shape[0], 1 + len(self.sets)
        zeros, normal, opaque = nn.initializers.zeros, nn.initializers.normal, nn.initializers.constant(OPACITY)
        maps = self.param("maps", zeros, (words, sets, h, w, d))
        heights = _spread(self.param("heights", zeros, (words, sets, h, w)))
        heights = heights + self.param("order", self._order, (words, 1, 1, 1))
        opacity = _spread(self.param("opacity", zeros, (words, sets, h, w)))
        opacity = nn.sigmoid(opacity + self.param("opacity_everywhere", opaque, (words, 1, 1, 1)))
        # Apart, because each array of the layers has a second moment of its own in Adam (see step.py).
        of_maps = [self.param(name, normal(0.2), (d, self.colours)) for name in ("sum_colours", "topmost_colours")]
        of_words = self.param("word_colours", zeros, (words, self.colours))
        complete = (label != 0).all().astype(jnp.float32)
        canvas = complete * self.param("canvas", zeros, (1, h, w, d))[0]  # of one "word": see step.scale_by_adam
        # [words]; of floats it is linear, for motifs.py learns through it.
        present = complete * ((label > 0) if jnp.issubdtype(label.dtype, jnp.integer) else (label + 1) / 2)
        mine = jnp.stack([jnp.float32(1), *[present[i] for i in self.sets]])
        mine = mine.at[0].add(-mine[1:].sum())  # [sets], 1 for the one in use
        chosen = jnp.outer(present, mine)
        if deterministic:
            chosen = _borrow(chosen, (maps[..., 0] != 0).any(axis=(2, 3)))  # a feature tells: all learn together
        chosen = chosen.astype(self.dtype)
        weights = jnp.exp(jnp.clip(heights, -HIGHEST, HIGHEST))  # [words, sets, h, w]
        both = jnp.concatenate([maps, maps * weights[..., None]], axis=-1)
        added, topmost = jnp.split(jnp.tensordot(chosen, both.astype(self.dtype), 2), 2, axis=-1)  # [h, w, d] each
        cover = jnp.stack([weights, weights * opacity], axis=-1)
        total, covered = jnp.split(jnp.tensordot(chosen, cover.astype(self.dtype), 2).astype(jnp.float32), 2, axis=-1)
        topmost, covered = topmost / (1.0 + total), covered / (1.0 + total)  # [h, w, d], [h, w, 1]
        added = (1.0 - covered) * (added + canvas) + covered * topmost
        features, rows = [added, topmost], of_maps
        if self.ground:
            roles, tones = self._tones(present, mine)
            features, rows = [*features, (1.0 - covered) * roles], [*rows, tones]
        # The words' own colours as one more row: a pass less over the largest array of the net.
        features, rows = [*features, jnp.ones((h, w, 1))], [*rows, jnp.dot(present, of_words)[None]]
        return jnp.concatenate([part.astype(self.dtype) for part in features], axis=-1), jnp.concatenate(rows)

    def _tones(self, present: Array, mine: Array) -> tuple[Array, Array]:
        """Return the roles of each pixel [h, w, roles], and what colours [roles, colours] the ground gives them."""
        of_sets = self.param("roles", nn.initializers.zeros, (1, len(mine), *self.shape[:2], ROLES))[0]
        of_ground = self.param("tones", nn.initializers.normal(0.2), (len(self.ground), ROLES, self.colours))
        return jnp.tensordot(mine, of_sets, 1), jnp.tensordot(present[np.array(self.ground)], of_ground, 1)

    def _order(self, key: Array, shape: tuple[int, ...]) -> Array:
        del key
        return jnp.zeros(shape).at[np.array(self.ground, int)].set(GROUND)


def paint(layers: WordLayers, params: Any, label: Float[Array, "words"]) -> Float[Array, "h w colours"]:
    """Return the logits of each pixel's colour by a complete label (+1 and -1) alone; differentiable by it."""
    features, rows = layers.apply({"params": params}, label, deterministic=False)
    return features @ rows


def _spread(maps: Float[Array, "*many h w"]) -> Float[Array, "*many h w"]:
    """Return maps to which the mean of 3 x 3 pixels is added, zeros lying around the picture."""
    return maps + nn.avg_pool(maps[..., None], (3, 3), padding="SAME")[..., 0]


def _borrow(chosen: Float[Array, "words sets"], learned: Bool[Array, "words sets"]) -> Float[Array, "words sets"]:
    """Return the choice of maps, of a word that its set has not learned from the first set that has."""
    sets = chosen.shape[1]
    lender = jnp.where(learned, jnp.arange(sets), learned.argmax(axis=1, keepdims=True))
    return jnp.einsum("ws,wsl->wl", chosen, jax.nn.one_hot(lender, sets))
