"""MNIST digits by class, 28x28, with classifier-free guidance.

Run it:

    python -m ddpm_jax.main --config=configs/mnist_classes_cfg.py --workdir=workdir/mnist_classes

6,000 steps take 22 minutes on 2 CPU cores. What the package brings along is wider and saw 8.9 million pictures, in 15
minutes on an H200 that three other runs shared: `--config.net.channels=64 --config.train.batch_size=128
--config.train.steps=69400 --config.train.steps_per_dispatch=50 --config.log.every=500
--config.sampling.guidance=1.46`. Our classifier read 99.68 % of 10,000 digits of it as asked, and their Frechet
distance is 1.157 times that of training and test digits (EMA, seed 0). Every figure: docs/results/mnist_classes.md.
"""

from ml_collections import ConfigDict

from ddpm_jax.configs import default


def get_config() -> ConfigDict:
    """Return `mnist_classes`: the digit shown in eight examples of ten, v target."""
    config = default.get_config()
    config.data.name = "mnist"
    config.data.holdout = "test"
    config.masks.subset = 0.1  # "-7" is a label too
    config.net.attention = (7,)
    config.net.head_channels = 0
    config.loss.target = "v"
    config.train.steps = 10_000
    config.sampling.sampler, config.sampling.steps = "dpmpp_2m", 20
    config.sampling.guidance, config.sampling.interval = 2.0, (0.4, 0.8)
    return config
