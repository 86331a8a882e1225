"""CryptoPunks by complete labels alone: how well are labels drawn that training never saw? One run for each split.

Run it (a split is one of iid, pairs, skin, length, zombie, few500, few1000, few2000):

    python -m ddpm_jax.main --config=configs/punks_complete_cfg.py --config.data.holdout=skin --workdir=workdir/skin
    python scripts/evaluate.py --checkpoint=workdir/skin --metrics=exact --out=skin.json

Three to four minutes on one CPU core (`--config.runtime.devices=1`; 500 images/s). Exact, in % of all and of the
solvable: skin 83.9 and 100.0, pairs 99.5 and 99.7, length 99.4 and 100.0, zombie 97.9 and 100.0, few500 88.4 and 91.6,
few1000 94.6 and 96.3, few2000 98.0 and 98.4, iid by three seeds 99.9, 99.7 and 99.7, length 99.4, 97.2 and 98.9 (EMA,
one evaluation: a complete label leaves nothing to sample). With the word prior it inherits it answers open labels too.
With 500 labels, `--config.optimizer.weight_decay=3` draws about 1.7 more of a hundred. What was tried: docs/study.md.
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import punks_cfg


def get_config() -> ConfigDict:
    """Return the layers of `punks_cfg` by themselves: every label is whole, and nothing is left for the U-Net."""
    config = punks_cfg.get_config()
    config.data.holdout = "pairs"
    config.masks.none = 0.0
    config.masks.subset = 0.0
    config.masks.balance = 0.3
    # The U-Net would draw what labels leave open, and here they leave nothing open.
    config.net.channels, config.net.multipliers, config.net.blocks = 8, (1,), 1
    config.net.attention, config.net.word_maps, config.net.head_channels = (), 0, 8
    config.train.steps = 900
    config.log.eval_every = config.log.exact_every = 300
    config.log.sample_every = 900
    config.checkpoint.every = 300
    config.sampling.sampler, config.sampling.steps, config.sampling.times = "ddim", 1, "linear"
    return config
