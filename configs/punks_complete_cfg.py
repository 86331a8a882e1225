"""CryptoPunks by complete labels alone: how well are labels drawn that training never saw? One run for each split.

Run it (a split is one of iid, pairs, skin, length, zombie, few500, few1000, few2000):

    python -m ddpm_jax.main --config=configs/punks_complete_cfg.py --config.data.holdout=skin --workdir=workdir/skin
    python scripts/evaluate.py --checkpoint=workdir/skin --metrics=exact --out=skin.json

RESULTS
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import punks_cfg


def get_config() -> ConfigDict:
    """Return `punks_cfg` without hidden words: nothing is drawn without a label, and every label is whole."""
    config = punks_cfg.get_config()
    config.data.holdout = "pairs"
    config.masks.none = 0.0
    config.masks.subset = 0.0
    config.masks.balance = 0.3
    config.net.word_maps = 64
    config.net.word_layers = 2
    config.train.steps = 1_200
    config.log.eval_every = config.log.exact_every = 600
    config.log.sample_every = 1_200
    config.checkpoint.every = 500
    return config
