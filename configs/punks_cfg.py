"""CryptoPunks by type, skin and 87 accessories, native 24x24, with classifier-free guidance.

Run it:

    python -m ddpm_jax.main --config=configs/punks_cfg.py --workdir=workdir/punks

From nothing that takes half an hour on one of two busy CPU cores, and draws 99.1, 99.5 and 99.2 % of held-out complete
labels exactly (seeds 0, 1 and 2), obeys 99.8 to 99.9 % of requests of one to three words, and of its free pictures 99.0
to 99.3 % are legal punks: docs/results/seeds.
The package brings along more than that (`ddpm_jax.load("punks")`), on 2 CPU cores: 24,000 steps of the U-Net without
layers (`--config.net.word_layers=0 --config.masks.none=0.1 --config.masks.subset=0.3 --config.masks.balance=0
--config.train.steps=24000`; 130 minutes beside other work), and from there (`--config.init_from=`) the 4,500 steps that
this file says (42 minutes). Its layers and word prior are those of punks_complete_cfg with `iid` held out (900 steps,
three minutes), put beside the U-Net by `scripts/release.py --words=`. Of held-out complete labels 99.9 % are
drawn exactly, 99.8 % of requests of one to three words are obeyed, and 99.5 % of free pictures are legal punks (EMA,
seed 0, words of the prior; one evaluation, since complete labels need no more). Every figure: docs/results/punks.md.
Why it is as it is: docs/study.md.
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
    config.net.word_prior = 256
    config.loss.target = "palette"
    config.masks.none, config.masks.subset, config.masks.balance = 0.2, 0.6, 0.3
    config.train.steps = 4_500
    config.log.eval_every = config.checkpoint.every = 1_000
    config.log.exact_every = config.log.sample_every = 1_500
    config.sampling.sampler, config.sampling.steps, config.sampling.times = "ddpm", 20, "log_snr"
    config.sampling.words = "prior"
    config.checkpoint.best_metric = "-eval/exact"
    return config
