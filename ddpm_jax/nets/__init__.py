"""The networks by name: a new one is one file here and one line in `NETS`."""

from ddpm_jax.nets import unet

NETS = {"unet": unet.UNet}
