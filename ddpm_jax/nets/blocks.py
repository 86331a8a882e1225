"""Building blocks of the U-Net, each for ONE example: images are [h, w, c], vectors are [d]; `jax.vmap` makes batches.

The blocks are DDPM's (Ho et al. 2020, arXiv 2006.11239, App. B) with scale-shift conditioning (Dhariwal & Nichol
2021, arXiv 2105.05233) and forms that are fast on CPUs and accelerators alike: normalisation by sums over the pixels,
and 2x2 resampling as a reshape and one matrix product.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def space_to_depth(x: Float[Array, "h w c"], factor: int) -> Float[Array, "p q d"]:
    """Move each factor x factor patch into channels: [h, w, c] -> [h/factor, w/factor, factor^2 c]."""
    h, w, c = x.shape
    x = x.reshape(h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 2, 1, 3, 4).reshape(h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Float[Array, "p q d"], factor: int) -> Float[Array, "h w c"]:
    """Undo `space_to_depth`: [p, q, factor^2 c] -> [factor p, factor q, c]."""
    p, q, d = x.shape
    c = d // (factor * factor)
    x = x.reshape(p, q, factor, factor, c)
    return x.transpose(0, 2, 1, 3, 4).reshape(p * factor, q * factor, c)


def time_features(t: Float[Array, ""], size: int, max_frequency: float = 1000.0) -> Float[Array, "size"]:
    """Sines and cosines of t in [0, 1] at size/2 frequencies, geometric from 1 to `max_frequency` radians."""
    frequencies = jnp.geomspace(1.0, max_frequency, size // 2)
    angles = t * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, arXiv 1803.08494) of one [h, w, c] example, statistics in float32.

    flax's own takes the first axis for a batch, which is h here. Returns x * a + b with a and b per channel, so that a
    scale and a shift given by the caller (float32 [c]) cost nothing.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Return the normalised [h, w, c], in the dtype of x."""
        c = x.shape[-1]
        gain = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        mean, variance = _group_moments(x.astype(jnp.float32), self.groups)
        a = gain * jax.lax.rsqrt(variance + self.epsilon)
        b = bias - mean * a
        if scale is not None and shift is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
        return (x.astype(jnp.float32) * a[None, None] + b[None, None]).astype(x.dtype)


def _group_moments(x: Float[Array, "h w c"], groups: int) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Mean and variance of each channel's group, repeated to [c]: sums over pixels, then one small matrix product.

    A product, because XLA would compute a repetition anew, index by index, for every pixel that is normalised by it.
    """
    h, w, c = x.shape
    group = jnp.arange(c) // (c // groups)
    average = (group[:, None] == group[None]) * (groups / (h * w * c))  # [c, c]
    sums = jnp.stack([x.sum(axis=(0, 1)), jnp.square(x).sum(axis=(0, 1))])
    mean, second = jnp.dot(sums, average, precision="highest")
    return mean, jnp.maximum(second - jnp.square(mean), 0.0)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a residual; `embedding` [d] scales and shifts the second normalisation."""

    channels: int
    groups: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, embedding: Array, deterministic: bool) -> Array:
        """Return [h, w, channels] for x [h, w, c] and the embedding [d]; dropout acts unless `deterministic`."""
        conv = {"kernel_size": (3, 3), "dtype": self.dtype}
        scale_shift = nn.Dense(2 * self.channels, kernel_init=nn.initializers.zeros, name="scale_shift")(embedding)
        scale, shift = jnp.split(scale_shift.astype(jnp.float32), 2)  # [channels] each
        h = nn.silu(GroupNorm(self.groups, name="norm_in")(x))
        h = nn.Conv(self.channels, name="conv_in", **conv)(h)  # [h, w, channels]
        h = nn.silu(GroupNorm(self.groups, name="norm_out")(h, scale, shift))
        h = nn.Dropout(self.dropout, deterministic=deterministic)(h)
        h = nn.Conv(self.channels, kernel_init=nn.initializers.zeros, name="conv_out", **conv)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="skip")(x)
        return x + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels (Vaswani et al. 2017, arXiv 1706.03762), residual."""

    groups: int
    head_channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return [h, w, c] for x [h, w, c]."""
        h, w, c = x.shape
        heads = max(1, c // self.head_channels)
        tokens = GroupNorm(self.groups, name="norm")(x).reshape(h * w, c)
        qkv = nn.DenseGeneral((3, heads, c // heads), dtype=self.dtype, name="qkv")(tokens)  # [n, 3, heads, d]
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        logits = jnp.einsum("qhd,khd->hqk", q, k).astype(jnp.float32) / jnp.sqrt(c // heads)
        weights = jax.nn.softmax(logits).astype(v.dtype)  # [heads, n, n]
        mixed = jnp.einsum("hqk,khd->qhd", weights, v).reshape(h * w, c)
        out = nn.Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(mixed)
        return x + out.reshape(h, w, c)


class Classifier(nn.Module):
    """A linear classifier of pixels that starts at zero: `nn.Dense` without a bias, but for its gradient.

    Under `vmap` each example's gradient of the kernel is made before they are summed, which pays for small kernels.
    For reverse-mode differentiation only.
    """

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, painted: tuple[Array, Array] | None = None) -> Array:
        """Return [h, w, channels] for x [h, w, c], and for what `WordLayers` painted, by one product."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.channels))
        if painted is not None:
            features, colours = painted
            x, kernel = jnp.concatenate([x, features], axis=-1), jnp.concatenate([kernel, colours])
        return _product(x.astype(self.dtype), kernel.astype(self.dtype))


@jax.custom_vjp
def _product(x: Float[Array, "h w c"], kernel: Float[Array, "c k"]) -> Float[Array, "h w k"]:
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(kept: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    # jax would ask for the kernel's gradient the other way round, which costs XLA:CPU a transposed copy of `d_out`.
    x, kernel = kept
    return d_out @ kernel.T, jnp.einsum("hwc,hwk->ck", x, d_out)


_product.defvjp(_product_forward, _product_backward)
