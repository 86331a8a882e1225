"""CryptoPunks without labels, 32x32: the same pixels with 4 of background around; needs the picture sheet alone.

Run it:

    python -m ddpm_jax.main --config=configs/punks_uncond_cfg.py --config.init_from=punks --workdir=workdir/punks_uncond

Before the first step motifs are found in the pictures, and the prior that draws them is fitted and calibrated: 25
minutes on 2 CPU cores, which train.minutes does not count; a signal ends them. Free pictures are painted of motifs.
Edits are made by the U-Net, and free pictures with `--config.sampling.words=net`, which guidance needs, too. The U-Net
starts from that of `punks` (which learned from the same nine tenths), all but its stem; without `init_from` from
nothing. 45 minutes more at 210 images/s; of 300 pictures of such a run 97.3 % were legal punks (ddpm, 100 evaluations).
`--config.net.motifs=0 --config.net.word_layers=0 --config.net.word_prior=0 --config.sampling.words=net` trains the
U-Net alone.
What the package brings along (`ddpm_jax.load("punks_uncond")`) has motifs by this command with train.steps of 20, and a
U-Net that started from nothing (its card has that command). 97.1 % of 1,000 are legal, the Frechet distance of 5,000 is
0.76 times that of real ones, and of 10,000 no word expected 30 times is off by more than 1.333 times (EMA, seed 0; by
five other seeds 1.31 to 1.47).
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
