"""Denoising diffusion in JAX and Flax: train on labelled pictures, then make the one you asked for.

In Python:

    import ddpm_jax
    punks = ddpm_jax.load("workdir/punks")
    pictures = punks.sample("Female, Mohawk, -Pipe", n=4)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.generator import Generator, load

__all__ = ["Generator", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for: they bring flax and optax with them."""
    if name in __all__:
        from ddpm_jax import generator

        return getattr(generator, name)
    raise AttributeError(f"module 'ddpm_jax' has no attribute {name!r}")
