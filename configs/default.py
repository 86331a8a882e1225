"""Every key of a configuration, once, with its unit. The other files of this folder state only what differs.

Sections name the parts that read them (`ddpm_jax/build.py` hands each section to one typed callable). Any key can be
set on the command line: `python -m ddpm_jax.main --config=configs/punks_cfg.py --config.train.steps=1000`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the defaults; they name no data set: add `--config.data.name=folder:DIR`, or run another file."""
    config = ConfigDict()
    config.seed = 0  # every random number of a run derives from it
    config.init_from = ""  # a checkpoint, workdir or released name to fine-tune from; "" = start fresh

    config.data = ConfigDict()
    config.data.name = ""  # punks, punks_images, mnist, avatars, folder, or tfds:<name>
    config.data.size = 0  # pixels a side; 0 = the data set's own
    config.data.holdout = ""  # a split of the data set, or a text file of ids, kept out of training; "" = nothing
    config.data.path = ""  # folder: the directory of the images
    config.data.root = "data"  # where downloads and the decoded cache are kept
    config.data.storage = "device"  # device: gathered inside the step; stream: read ahead by a thread on the host

    config.masks = ConfigDict()  # how much of a label a training example shows; the rest of the probability: all of it
    config.masks.none = 0.1  # share of examples without any label, which make guidance possible
    config.masks.subset = 0.3  # share of examples with some words only, which make open labels possible
    config.masks.favour = 0.5  # of those, share drawn by a word they have (rare words are then seen more often)
    config.masks.balance = 0.0  # of those that show all of it, share drawn by a word they have

    config.net = ConfigDict()
    config.net.name = "unet"
    config.net.channels = 48  # of the finest level
    config.net.multipliers = (1, 2)  # of the channels, one per level; each level halves the resolution
    config.net.blocks = 2  # residual blocks per level and direction
    config.net.attention = ()  # heights, after the stem, of the levels with self-attention; () = none
    config.net.attention_head = 32  # channels per attention head
    config.net.stem = 2  # space-to-depth factor at the entrance; 1 = none
    config.net.word_maps = 48  # channels of the learned map that each word adds to the input; 0 = none
    config.net.head_channels = 32  # features per pixel that the colour classifier reads; 0 = a plain convolution
    config.net.word_layers = 0  # features per pixel that complete labels paint, for the colour classifier; 0 = none
    config.net.word_sets = ""  # words, with commas, each of which has all words paint other layers, as Female does
    config.net.word_prior = 0  # width of the net that completes open labels, fitted before the first step; 0 = none
    config.net.motifs = 0  # found in pictures without labels before the first step, to be drawn like words; 0 = none
    config.net.groups = 8  # of the normalisation
    config.net.dropout = 0.0
    config.net.dtype = "float32"  # of activations: float32 or bfloat16 (accelerators)
    config.net.remat = False  # recompute activations in the backward pass: less memory, more time

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # linear, cosine or sigmoid
    config.schedule.zero_terminal = False  # rescale to zero signal at t = 1 (not for the eps target)

    config.loss = ConfigDict()
    config.loss.target = "eps"  # eps, x_0, v or palette: what the net predicts
    config.loss.weighting = "simple"  # simple, min_snr or edm

    config.optimizer = ConfigDict()  # AdamW
    config.optimizer.learning_rate = 1e-3  # at its peak
    config.optimizer.warmup = 200  # updates of linear rise
    config.optimizer.decay = "cosine"  # cosine (to zero at the last step) or constant
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0  # of the gradient, global
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.99
    config.optimizer.layer_rate = 60.0  # how many times as fast net.word_layers learn
    config.optimizer.ema = 0.999  # of the parameters; the decay rises to it as (1 + n) / (10 + n)
    config.optimizer.early = 0  # updates after which the averages are kept, for autoguidance; 0 = none

    config.train = ConfigDict()
    config.train.steps = 10_000  # in all
    config.train.minutes = 0.0  # if above 0: the steps that fit into this time, timed at the start and then kept
    config.train.batch_size = 64  # of all devices together
    config.train.accumulate = 1  # parts a batch is cut into, one after another, to save memory
    config.train.steps_per_dispatch = 1  # steps per call of the compiled function (accelerators; CPUs want 1)
    config.train.bad_steps = 10  # non-finite steps in a row, all skipped, that stop the run

    config.log = ConfigDict()
    config.log.every = 50  # steps between scalars; they are means over these steps
    config.log.eval_every = 500  # steps between losses on held-out images (on training images if none are)
    config.log.exact_every = 1000  # steps between counts of held-out labels that are drawn exactly, word by word
    config.log.sample_every = 1000  # steps between sample grids

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 500  # steps; a multiple of log.every
    config.checkpoint.keep_newest = 2
    config.checkpoint.keep_best = 1  # of those saved at a step where best_metric was measured, the smaller the better
    config.checkpoint.best_metric = "eval/loss"  # or -eval/exact, the minus saying that larger is better
    config.checkpoint.keep_every = 0  # steps; 0 = none beside the above

    config.sampling = ConfigDict()  # what `load(...).sample` does unless told otherwise
    config.sampling.sampler = "ddim"
    config.sampling.steps = 10  # net evaluations per image
    config.sampling.times = "linear"  # how the times of the evaluations are spaced; a name of schedules.GRIDS
    config.sampling.words = "net"  # what decides the words a label leaves open: net, as it draws, or prior, before it
    config.sampling.guidance = 1.0  # 0 = unconditional, 1 = conditional, more = guided
    config.sampling.interval = (0.0, 1.0)  # times between which guidance and autoguidance act; conditional outside
    config.sampling.autoguidance = 1.0  # away from the averages of optimizer.early, where the same is wrong, but more

    config.runtime = ConfigDict()
    config.runtime.devices = 0  # virtual CPU devices; 0 = as many as the cores and the batch allow, at most 8
    config.runtime.parameters = "replicated"  # on every device, or sharded: each keeps its share of big arrays
    config.runtime.cache = "~/.cache/ddpm_jax"  # of compiled functions; "" = none
    return config
