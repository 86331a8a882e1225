"""CryptoPunks without labels, 32x32: the same pixels with 4 of background around; needs the picture sheet alone.

Run it:

    python -m ddpm_jax.main --config=configs/punks_uncond_cfg.py --workdir=workdir/punks_uncond

10 minutes on 2 CPU cores (210 images/s); `ddpm_jax.load("punks_uncond")` is what came of it. Of 300 pictures 38.3 % are
legal punks. Every figure: docs/results/punks_uncond.md. RGB in and out: in between the net names one of 222 colours.
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import default


def get_config() -> ConfigDict:
    """Return `config1_cryptopunks`: RGB at 32x32 by a palette head, every id divisible by ten held out."""
    config = default.get_config()
    config.data.name = "punks_images"
    config.data.size = 32
    config.data.holdout = "iid"
    config.net.attention = (8,)
    config.net.word_maps = 0
    config.loss.target = "palette"
    config.train.steps = 2_000
    config.log.eval_every = 1_000
    config.sampling.sampler, config.sampling.steps, config.sampling.times = "ddpm", 20, "log_snr"
    return config
