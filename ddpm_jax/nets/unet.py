"""The U-Net for one example: (x_t [h, w, c], t, label [words]) -> raw output [h, w, out_channels].

What the raw output means (eps, x_0, v or palette logits) is the target's business (`losses.py`); the net only needs to
know how many channels it has, and whether each pixel ends in a classifier over colours.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ddpm_jax.nets import blocks, words
from ddpm_jax.nets.net import Net


class UNet(Net):
    """A U-Net with scale-shift conditioning, optional space-to-depth stem, attention and word maps.

    Fields: `channels` of the finest level, `multipliers` one per level (each level halves the resolution), residual
    `blocks` per level and direction, `attention` the heights (after the stem) at which self-attention runs, `stem`
    the space-to-depth factor (1 = none), `word_maps` channels of the word maps (0 = none), `head_channels` features per
    pixel that a linear colour classifier reads (0 = a plain output convolution), `word_layers` features per pixel that
    it reads instead where the label is complete (0 = none), `word_sets` the positions of the words that change these,
    `word_ground` of those that lie under the others at first, `groups` of the normalisation, `dropout` rate, `dtype` of
    activations, `remat` to trade recomputation for memory.
    """

    out_channels: int
    channels: int = 48
    multipliers: Sequence[int] = (1, 2)
    blocks: int = 2
    attention: Sequence[int] = ()
    attention_head: int = 32
    stem: int = 2
    word_maps: int = 48
    head_channels: int = 0
    word_layers: int = 0
    word_sets: Sequence[int] = ()
    word_ground: Sequence[int] = ()
    groups: int = 8
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")
    remat: bool = False

    @nn.compact
    def __call__(
        self, x_t: Float[Array, "h w c"], t: Float[Array, ""], label: Int[Array, "words"], deterministic: bool = True
    ) -> Float[Array, "h w out"]:
        """Return the raw output for x_t at time t in [0, 1] under a three-state label.

        In training (not `deterministic`) there is dropout, and each set of word layers paints with its own maps alone.
        """
        embedding = self._embed(t, label)
        x = blocks.space_to_depth(x_t.astype(self.dtype), self.stem)
        if label.shape[0] and self.word_maps:
            shape = (x.shape[0], x.shape[1], self.word_maps)
            x = jnp.concatenate([x, words.WordMaps(shape, self.dtype, name="word_maps")(label)], axis=-1)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="stem")(x)  # [h/stem, w/stem, channels]
        x, skips = self._down(x, embedding, deterministic)
        x = self._level_block(x, embedding, len(self.multipliers) - 1, "middle", deterministic)
        x = self._up(x, skips, embedding, deterministic)
        return self._head(x, label, deterministic)

    def _embed(self, t: Array, label: Array) -> Array:
        """One vector [4 channels] for the time and the label: the embedding that every block sees."""
        size = 4 * self.channels
        vector = nn.Dense(size, name="time_in")(blocks.time_features(t, 2 * self.channels))
        if label.shape[0]:
            states = jnp.concatenate([label > 0, label < 0]).astype(jnp.float32)  # [2 words]
            vector += nn.Dense(size, name="label_in")(states)
        return nn.silu(nn.Dense(size, name="embedding")(nn.silu(vector)))

    def _level_block(self, x: Array, embedding: Array, level: int, name: str, deterministic: bool) -> Array:
        block = nn.remat(blocks.ResBlock, static_argnums=(3,)) if self.remat else blocks.ResBlock
        channels = self.channels * self.multipliers[level]
        x = block(channels, self.groups, self.dropout, self.dtype, name=name)(x, embedding, deterministic)
        if x.shape[0] in self.attention:
            x = blocks.SelfAttention(self.groups, self.attention_head, self.dtype, name=f"{name}_attention")(x)
        return x

    def _down(self, x: Array, embedding: Array, deterministic: bool) -> tuple[Array, list[Array]]:
        skips = []
        for level, multiplier in enumerate(self.multipliers):
            if level:
                x = blocks.space_to_depth(x, 2)  # [h/2, w/2, 4 c]
                x = nn.Dense(self.channels * multiplier, dtype=self.dtype, name=f"down_{level}")(x)
            for i in range(self.blocks):
                x = self._level_block(x, embedding, level, f"down_{level}_{i}", deterministic)
                skips.append(x)
        return x, skips

    def _up(self, x: Array, skips: list[Array], embedding: Array, deterministic: bool) -> Array:
        for level in reversed(range(len(self.multipliers))):
            for i in range(self.blocks):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._level_block(x, embedding, level, f"up_{level}_{i}", deterministic)
            if level:
                channels = self.channels * self.multipliers[level - 1]
                x = nn.Dense(4 * channels, dtype=self.dtype, name=f"up_{level}")(x)
                x = blocks.depth_to_space(x, 2)  # [2h, 2w, channels]
        return x

    def _head(self, x: Array, label: Array, deterministic: bool) -> Array:
        """Read out each pixel: directly, or through `head_channels` features that all stem pixels classify alike."""
        x = nn.silu(blocks.GroupNorm(self.groups, name="norm_out")(x))
        pixel_channels = self.head_channels or self.out_channels
        zeros = nn.initializers.zeros
        init = nn.initializers.lecun_normal() if self.head_channels else zeros
        x = nn.Conv(self.stem**2 * pixel_channels, (3, 3), kernel_init=init, dtype=self.dtype, name="out")(x)
        x = blocks.depth_to_space(x, self.stem)  # [h, w, pixel_channels]
        if self.head_channels:
            painted = None
            if label.shape[0] and self.word_layers:
                painted = self.layers(x.shape[0], x.shape[1])(label, deterministic)
                x = jnp.where((label != 0).all(), 0, x)  # a complete label says every pixel
            # Without a bias, one pass less over the largest array of the net: the features have one already.
            x = blocks.Classifier(self.out_channels, self.dtype, name="classify")(x, painted)
        return x.astype(jnp.float32)

    @nn.nowrap
    def layers(self, height: int, width: int) -> words.WordLayers:
        """Return what paints complete labels of pictures of a size, with its fields as this net says."""
        shape = (height, width, self.word_layers)
        sets, ground = tuple(self.word_sets), tuple(self.word_ground)
        return words.WordLayers(shape, self.out_channels, sets, self.dtype, ground, name="word_layers")

    @property
    def paints(self) -> bool:
        """Whether it has word layers."""
        return bool(self.word_layers and self.head_channels)

    @nn.nowrap
    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError unless images of `shape` pass the stem and all levels without remainder."""
        for size in shape[:2]:
            self._check_size(size)
        heights = [shape[0] // (self.stem * 2**level) for level in range(len(self.multipliers))]
        for height in self.attention:
            if height not in heights:
                known = ", ".join(map(str, heights))
                raise ValueError(f"net.attention {height} is no level's height; they are {known}")
        for height, multiplier in zip(heights, self.multipliers, strict=True):
            self._check_width(self.channels * multiplier, height in self.attention)

    @nn.nowrap
    def _check_size(self, size: int) -> None:
        if size % self.stem:
            raise ValueError(f"net.stem {self.stem} does not divide the image size {size}; use 1")
        levels = next(n for n in range(len(self.multipliers), 0, -1) if size % (self.stem * 2 ** (n - 1)) == 0)
        if levels < len(self.multipliers):
            factor = self.stem * 2 ** (len(self.multipliers) - 1)
            plural = "level" if levels == 1 else "levels"
            raise ValueError(f"{size} is not divisible by {factor}; use at most {levels} {plural} in net.multipliers")

    @nn.nowrap
    def _check_width(self, width: int, attends: bool) -> None:
        if width % self.groups:
            raise ValueError(f"net.groups {self.groups} does not divide the {width} channels of a level")
        heads = max(1, width // self.attention_head)
        if attends and width % heads:
            raise ValueError(f"{width} channels do not divide into {heads} attention heads; change net.attention_head")
