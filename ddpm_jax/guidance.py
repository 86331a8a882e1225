"""Guidance: predictors in, one predictor (x_t, t) -> raw out.

Raw outputs are mixed: palette logits before their softmax, so a most likely colour always exists. For eps, x_0 and v,
affine in each other, the space makes no difference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from ddpm_jax.process import Image, Scalar

Raw = Float[Array, "h w k"]
Label = Num[Array, " words"]
Predictor = Callable[[Image, Scalar], Raw]


def classifier_free(predict: Callable[[Image, Scalar, Label], Raw], label: Label, weight: Scalar | float) -> Predictor:
    """(1 - weight) unconditional + weight conditional (Ho & Salimans 2022, arXiv 2207.12598, Eq. 6, weight = 1 + w).

    Weight 0 is unconditional and weight 1 conditional, exactly. The unconditional label is all zeros: every word
    unspecified. Both run as one call over a stack of two labels.
    """
    labels = jnp.stack([jnp.zeros_like(label), label])

    def predictor(x_t: Image, t: Scalar) -> Raw:
        without, given = jax.vmap(predict, in_axes=(None, None, 0))(x_t, t, labels)
        return (1 - weight) * without + weight * given

    return predictor
