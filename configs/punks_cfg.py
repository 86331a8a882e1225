"""CryptoPunks by type, skin and 87 accessories, native 24x24, with classifier-free guidance.

Run it:

    python -m ddpm_jax.main --config=configs/punks_cfg.py --workdir=workdir/punks

130 minutes on 2 CPU cores that had much else to do (alone, at 405 images/s, it would be 63); the package brings along
what came of it (`ddpm_jax.load("punks")`): 975 of all 1,000 held-out complete labels are drawn exactly, and 99.0 % of
requests of one to three words are obeyed (EMA, seed 0, the sampling below, which makes free pictures coherent far more
often than few or deterministic steps do). Every figure: docs/results/punks.md. Why it is as it is: docs/study.md.
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import default


def get_config() -> ConfigDict:
    """Return `cryptopunks_classes_fast`: palette head, word maps, the `iid` tenth of the punks held out."""
    config = default.get_config()
    config.data.name = "punks"
    config.data.holdout = "iid"
    config.net.attention = (6,)
    config.net.word_layers = 16
    config.net.word_sets = "Female"
    config.loss.target = "palette"
    config.masks.none, config.masks.subset, config.masks.balance = 0.2, 0.6, 0.3
    config.train.steps = 4_500
    config.log.eval_every = config.checkpoint.every = 1_000
    config.log.exact_every = config.log.sample_every = 1_500
    config.sampling.sampler, config.sampling.steps, config.sampling.times = "ddpm", 20, "log_snr"
    config.checkpoint.best_metric = "-eval/exact"
    return config
