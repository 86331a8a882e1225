"""The networks by name: a new one is one file here, with a subclass of `Net`, and one line in `NETS`."""

from collections.abc import Callable

from ddpm_jax.nets import unet
from ddpm_jax.nets.net import Net

__all__ = ["NETS", "Net"]

NETS: dict[str, Callable[..., Net]] = {"unet": unet.UNet}
