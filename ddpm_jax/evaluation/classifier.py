"""The classifier: reads the whole label off a picture, and gives the features that our Frechet distance is taken in.

One small net serves every labelled data set. Colours of a palette are looked up, not mixed, because one pixel of some
other shade may be a word; and it ends in a dense layer over all places, because where something is matters. Words that
do not show would be learnt by heart from the rest of a picture: dropout, and one convolution up to 24x24, prevent it.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, Int8, UInt8
from tqdm import tqdm

from ddpm_jax import archive, releases
from ddpm_jax.datasets import cache
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.evaluation import exact
from ddpm_jax.labels import Categorical, LabelSpace
from ddpm_jax.nets import blocks

VERSION = 4  # of the classifiers in the cache
BATCH = 128  # pictures that are read at once
LARGEST = 12  # places a side that the dense layer looks at
TURN, SHIFT = 0.15, 0.07  # how far grey pictures are bent in training, and moved, in parts of a side

Params = dict[str, dict[str, Any]]


class Settings(NamedTuple):
    """How a classifier is trained: `steps` of `batch` pictures by AdamW, at a rate that rises to `rate`."""

    steps: int = 3000
    batch: int = 128
    rate: float = 6e-3
    decay: float = 0.1
    dropout: float = 0.5


class Classifier(NamedTuple):
    """A net: `shape` (h, w, c), `palette` uint8 [k, c] or None, `optional` [groups]: may none of it be there?"""

    params: Params
    space: LabelSpace
    shape: tuple[int, int, int]
    palette: np.ndarray | None
    optional: tuple[bool, ...]


class Accuracy(NamedTuple):
    """Of n pictures: how many labels are right in every word and as a share, its Wilson interval (95 %), per word."""

    n: int
    right: int
    share: float
    low: float
    high: float
    words: dict[str, float]


class Net(nn.Module):
    """Convolutions on ever coarser grids, then two dense layers; `colours` of a palette, 0 where there is none."""

    words: int
    colours: int

    @nn.compact
    def __call__(self, pictures: Array, dropout: float = 0.0) -> tuple[Array, Array]:
        """Return features [n, 128] and logits [n, words] of uint8 [n, h, w, c], or of palette indices [n, h, w]."""
        if self.colours:
            x = nn.Embed(self.colours, 16, embedding_init=nn.initializers.normal(1.0), name="colours")(pictures)
        else:
            x = pictures.astype(jnp.float32) / 127.5 - 1  # [n, h, w, c]
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jax.vmap(functools.partial(blocks.space_to_depth, factor=2))(x)  # [n, h/2, w/2, 4 c]
        x = nn.relu(nn.Conv(32, (3, 3), name="stem")(x))
        while max(x.shape[1:3]) > LARGEST:
            x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
            x = nn.relu(nn.Conv(64, (3, 3))(x))
        x = nn.Dropout(dropout, deterministic=not dropout)(x.reshape(len(x), -1))
        features = nn.relu(nn.Dense(128, name="features")(x))
        return features, nn.Dense(self.words, name="logits")(features)


def load(dataset: Dataset, root: str, *, seed: int = 0) -> Classifier:
    """Return the classifier that `fit` trains (and what it raises): the released one, or one kept in `root`'s cache."""

    about = key(dataset, seed)
    if released := releases.classifier(dataset.spec.name, about):
        return of(dataset, archive.load_arrays(released, "ema"))
    kept = cache.arrays(_place(about, root), about, lambda: archive.by_name(fit(dataset, seed=seed)))
    return of(dataset, archive.nest(kept))


def is_cached(dataset: Dataset, root: str, *, seed: int = 0) -> bool:
    """Say whether `load` would find a trained classifier; its arrays are not read."""
    about = key(dataset, seed)
    return bool(releases.classifier(dataset.spec.name, about)) or cache.holds(_place(about, root), about)


def fit(dataset: Dataset, *, seed: int = 0, settings: Settings | None = None) -> Params:
    """Return float32 parameters, the same for a seed. ValueError for a data set that has no words, or is streamed."""
    if not dataset.spec.labels.size:
        raise ValueError(f"{dataset.spec.name} has no words; a classifier needs labelled pictures")
    if not isinstance(dataset.images, np.ndarray):
        raise ValueError(f"{dataset.spec.name} is streamed; a classifier needs its pictures in memory")
    settings = settings or Settings()
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.rate, settings.steps // 10, settings.steps)
    optimizer = optax.adamw(rate, weight_decay=settings.decay)
    init_key, key = jax.random.split(jax.random.key(seed))
    params = _net(of(dataset, {})).init(init_key, jnp.asarray(dataset.images[dataset.train[:1]]))["params"]
    state, step = (params, optimizer.init(params)), _step(dataset, optimizer, settings.dropout)
    batches = _batches(dataset.labels[dataset.train], seed, settings)
    for number, positions in enumerate(tqdm(batches, f"training the classifier of {dataset.spec.name}", mininterval=5)):
        state = jax.block_until_ready(step(state, jax.random.fold_in(key, number), positions))
    return jax.tree.map(np.asarray, state[0])


def of(dataset: Dataset, params: Params) -> Classifier:
    """Return the classifier of a data set with the parameters that `fit` gave."""
    space, present = dataset.spec.labels, dataset.labels[dataset.train] > 0
    optional = [bool((~present[:, space.slice_of(group.name)].any(axis=1)).any()) for group in space.groups]
    return Classifier(params, space, dataset.spec.shape, dataset.spec.palette, tuple(optional))


def read(classifier: Classifier, pictures: UInt8[np.ndarray, "n h w c"]) -> Int8[np.ndarray, "n words"]:
    """Return the complete labels, +1 or -1, that the classifier reads. Raises ValueError for pictures of another kind.

    Of a Categorical it is the likeliest word, or none if that is likelier and some training picture had none.
    """
    logits = run(classifier, pictures)[1]
    present = logits > 0
    for group, optional in zip(classifier.space.groups, classifier.optional, strict=True):
        mine = classifier.space.slice_of(group.name)
        if isinstance(group, Categorical):
            best = np.arange(len(group.words)) == logits[:, mine].argmax(axis=1)[:, None]
            present[:, mine] = best & (present[:, mine] | (not optional))
    return np.where(present, np.int8(1), np.int8(-1))


def features(classifier: Classifier, pictures: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Return the layer before the logits, d = 128, none negative. Raises ValueError for pictures of another kind."""
    return run(classifier, pictures)[0]


def accuracy(classifier: Classifier, dataset: Dataset, positions: np.ndarray) -> Accuracy:
    """Compare what is read off the pictures at positions [n], n > 0, of a data set with their labels."""
    agree = read(classifier, dataset.pixels(positions)) == dataset.labels[positions]
    right = int(agree.all(axis=1).sum())
    words = dict(zip(classifier.space.words, agree.mean(axis=0).tolist(), strict=True))
    return Accuracy(len(agree), right, right / len(agree), *exact.wilson(right, len(agree)), words)


def loss(logits: Float[Array, "n words"], labels: Int[Array, "n words"], classifier: Classifier) -> Float[Array, " n"]:
    """-log p(complete label): softmax over a Categorical, where `optional` with logit 0 for none; sigmoid of a flag."""
    total = -jnp.sum(logits * (labels > 0), axis=1)
    for group, optional in zip(classifier.space.groups, classifier.optional, strict=True):
        mine = logits[:, classifier.space.slice_of(group.name)]
        if isinstance(group, Categorical):
            total += jax.nn.logsumexp(jnp.pad(mine, ((0, 0), (0, int(optional)))), axis=1)
        else:
            total += nn.softplus(mine).sum(axis=1)
    return total


def key(dataset: Dataset, seed: int = 0) -> dict[str, Any]:
    """Return what the parameters that `fit` gives depend on: a kept classifier is used for the same alone."""
    return {"version": VERSION, "fingerprint": dataset.fingerprint, "seed": seed, "settings": Settings()._asdict()}


def _place(about: dict[str, Any], root: str) -> Path:
    return Path(root, "cache", f"classifier-{about['fingerprint'][:16]}-{about['seed']}")


def _net(classifier: Classifier) -> Net:
    return Net(classifier.space.size, 0 if classifier.palette is None else len(classifier.palette))


def _batches(labels: Int8[np.ndarray, "n words"], seed: int, settings: Settings) -> Int[np.ndarray, "steps batch"]:
    """Draw the training pictures of each step, one more often by 1 / sqrt(frequency) of its rarest word."""
    odds = np.where(labels > 0, (labels > 0).mean(axis=0), 1.0).min(axis=1) ** -0.5
    return np.random.default_rng(seed).choice(len(labels), (settings.steps, settings.batch), p=odds / odds.sum())


def _step(dataset: Dataset, optimizer: optax.GradientTransformation, dropout: float) -> Any:
    """Return the jitted training step (state, key, positions [batch]) -> state; the device holds the training set."""
    images, labels = jnp.asarray(dataset.images[dataset.train]), jnp.asarray(dataset.labels[dataset.train])
    blank = of(dataset, {})
    net, grey = _net(blank), blank.palette is None and blank.shape[2] == 1

    def mean_loss(params: Params, pictures: Array, labels: Array, key: Array) -> Array:
        logits: Any = net.apply({"params": params}, pictures, dropout, rngs={"dropout": key})[1]
        return loss(logits, labels, blank).mean()

    @jax.jit
    def step(state: Any, key: Array, positions: Array) -> Any:
        params, moments = state
        move_key, drop_key = jax.random.split(key)
        pictures = images[positions]
        if grey:
            pictures = jax.vmap(_moved)(jax.random.split(move_key, len(pictures)), pictures)
        gradient = jax.grad(mean_loss)(params, pictures, labels[positions], drop_key)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    return step


def _moved(key: Array, picture: UInt8[Array, "h w 1"]) -> Float[Array, "h w 1"]:
    """Return a grey picture under a random affine map close to the identity. (Pixel art would not survive one.)"""
    sides = jnp.array(picture.shape[:2]).reshape(2, 1)
    bend = jax.random.uniform(key, (2, 3), minval=-1, maxval=1)
    places = jnp.indices(picture.shape[:2]).reshape(2, -1) - (sides - 1) / 2  # [2, h w], from the middle
    source = places + TURN * bend[:, :2] @ places + SHIFT * sides * bend[:, 2:] + (sides - 1) / 2
    values = jax.scipy.ndimage.map_coordinates(picture[..., 0].astype(jnp.float32), list(source), 1, mode="nearest")
    return values.reshape(picture.shape)


def run(classifier: Classifier, pictures: UInt8[np.ndarray, "n h w c"]) -> tuple[np.ndarray, ...]:
    """Return features and logits, batch after batch of one size. Raises ValueError for pictures of another kind."""
    if pictures.dtype != np.uint8 or pictures.shape[1:] != classifier.shape:
        said, wanted = list(pictures.shape), ", ".join(map(str, classifier.shape))
        raise ValueError(f"the pictures are {pictures.dtype} {said}; this classifier reads uint8 [n, {wanted}]")
    batches = max(1, -(-len(pictures) // BATCH))
    padded = np.zeros((batches, BATCH, *classifier.shape), np.uint8)
    padded.reshape(-1, *classifier.shape)[: len(pictures)] = pictures
    done = [_forward(_net(classifier), classifier.params, part, classifier.palette) for part in padded]
    return tuple(np.concatenate(parts)[: len(pictures)] for parts in zip(*done, strict=True))


@functools.partial(jax.jit, static_argnums=0)
def _forward(net: Net, params: Params, pictures: Array, palette: Array | None) -> Any:
    if palette is not None:
        pictures = jax.lax.map(functools.partial(_nearest, palette.astype(jnp.float32)), pictures)
    return net.apply({"params": params}, pictures)


def _nearest(p: Float[Array, "k c"], picture: UInt8[Array, "h w c"]) -> Int[Array, "h w"]:
    """Return the index of the colour p nearest to each pixel x: the least |p|^2 - 2 p.x, exact in float32."""
    cross = jnp.tensordot(picture.astype(jnp.float32), p.T, 1)  # [h, w, k]
    return jnp.argmin(jnp.square(p).sum(axis=1).reshape(1, 1, -1) - 2 * cross, axis=-1)
