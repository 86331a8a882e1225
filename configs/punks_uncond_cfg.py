"""CryptoPunks without labels, 32x32: the same pixels with 4 of background around; needs the picture sheet alone.

Run it:

    python -m ddpm_jax.main --config=configs/punks_uncond_cfg.py --config.init_from=punks --workdir=workdir/punks_uncond

It starts from the U-Net of `punks` (which learned from the same nine tenths), all but its stem; without `init_from` it
starts from nothing. 45 minutes on 2 CPU cores at 210 images/s; of 300 pictures of such a run 97.3 % were legal punks
(ddpm, 100 evaluations).
What the package brings along (`ddpm_jax.load("punks_uncond")`) started from nothing and saw 4.6 million pictures, in
nine minutes on an H200 that three other runs shared: `--config.train.batch_size=128 --config.train.steps=46950
--config.train.steps_per_dispatch=50 --config.optimizer.early=2000 --config.sampling.autoguidance=1.2
--config.sampling.interval='(0.0,0.1)'`, stopped at step 36,000. 94.5 % of 1,000 are legal, and the Frechet distance of
5,000 is 1.44 times that of real ones (EMA, seed 0).
Every figure: docs/results/punks_uncond.md. RGB in and out: in between the net names one of 222 colours.
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
    config.net.motifs, config.net.word_layers, config.net.word_prior = 128, 16, 512
    config.loss.target = "palette"
    config.train.steps = 9_000
    config.log.eval_every = 1_000
    config.sampling.sampler, config.sampling.steps, config.sampling.times = "dpmpp_2m", 20, "log_snr"
    config.sampling.words = "prior"
    return config
