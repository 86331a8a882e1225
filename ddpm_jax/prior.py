"""The word prior: decides what a label leaves open, word by word, before the picture of the label is drawn.

A label of three states is a complete one that absorbing diffusion has partly undone: unspecified is the absorbing state
(Austin et al. 2021, arXiv 2107.03006, Section 3.1). The way back, one word after another in any order, is an any-order
autoregressive model (Hoogeboom et al. 2022, arXiv 2110.02037), so that any open label can be completed.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from ddpm_jax import labels

STEPS, BATCH, RATE = 2000, 512, 2e-3  # of the fit
PORTION = 50  # of them at a time
RAREST = 1e-6  # share of labels that something never seen is taken to have
PACE = (0.7, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15)  # of `calibrate`: the share of what is off that a round mends
OF_PAIRS, FEW = 0.7, 4  # the part of that share for pairs of words, and how many labels each is taken to be in besides
DRAWS, AT_ONCE = 8192, 512  # labels of a round, and of them at a time
CERTAIN, EVIDENCE = 8.0, 2.0  # logits: of what no label contradicts, and for each label that could have

Label = Int[Array, "words"]
Logits = Callable[[Label], Float[Array, "words"]]  # a label -> of each word, the logit that it is present
Draw = Callable[[Any, Key[Array, "n"]], Int[Array, "n words"]]  # a prior's parameters, and keys -> complete labels


class WordPrior(nn.Module):
    """The net: from a label [words] the logits [words] of each word to be present, given what the label says.

    A `deep` one has a normalised residual block in the place of one layer, for words that say much of each other.
    """

    width: int
    deep: bool = False

    @nn.compact
    def __call__(self, label: Label) -> Float[Array, "words"]:
        """Return the logits; those of words that the label specifies mean nothing."""
        said = jnp.concatenate([label > 0, label < 0]).astype(jnp.float32)  # [2 words]
        x = nn.Dense(self.width, name="said")(said)
        x = self._block(x) if self.deep else self._layer(nn.silu(x))
        zeros = nn.initializers.zeros
        by_pairs = nn.Dense(label.shape[0], use_bias=False, kernel_init=zeros, name="pairs")(said[: label.shape[0]])
        return by_pairs + nn.Dense(label.shape[0], kernel_init=zeros, name="open")(x)

    def _layer(self, x: Array) -> Array:
        return x + nn.silu(nn.Dense(self.width, name="hidden")(x))

    def _block(self, x: Array) -> Array:
        inner = nn.silu(nn.Dense(self.width, name="hidden")(nn.LayerNorm(name="norm_in")(x)))
        x += nn.Dense(self.width, kernel_init=nn.initializers.normal(0.01), name="back")(inner)
        return nn.silu(nn.LayerNorm(name="norm_out")(x))


def logits(prior: WordPrior, params: Any) -> Logits:
    """Return a prior with its parameters as a function of a label."""
    return cast(Logits, functools.partial(prior.apply, {"params": params}))


def bound(given: Logits, label: Label, key: Key[Array, ""], space: labels.LabelSpace) -> Float[Array, ""]:
    """Return an estimate of a bound on -log p(complete label), in nats: the expected cost of a random order of words.

    words / (words - t) times the sum of -log p over hidden words, where t ~ U{0, ..., words - 1} random words are shown
    (Hoogeboom et al. 2022, Section 3). A word shown shows its whole Categorical, which is one decision: one of its
    words, or none with the logit 0. The key is consumed.
    """
    words, together = label.shape[0], space.together
    t_key, order_key = jax.random.split(key)
    t = jax.random.randint(t_key, (), 0, words)
    rank = jnp.argsort(jax.random.uniform(order_key, (words,)))
    hidden = ~(together & (rank < t)[None]).any(axis=1)
    chances = given(jnp.where(hidden, 0, label))
    sums = functools.partial(jnp.dot, together.astype(np.float32), precision="highest")  # over what is decided at once
    # Nothing's logit is 0. Less the largest of what is decided at once, no logit is too large for exp.
    top = jax.lax.stop_gradient(jnp.where(together, chances, 0.0).max(axis=1, initial=0.0))
    total = jnp.exp(-top) + sums(jnp.exp(chances - top))
    nats = top + jnp.log(total) - sums(jnp.where(label > 0, chances, 0.0))
    return words / (words - t) * jnp.sum(jnp.where(hidden, nats, 0.0))


def complete(given: Logits, label: Label, key: Key[Array, ""], space: labels.LabelSpace) -> Label:
    """Return the complete label that a label becomes: its open words are drawn one after another, in random order.

    What it says, and implies, stays. A Categorical is drawn as one; where the label rules out some of its words, among
    the others, and before all else (so that of two such groups the first does not know what the other rules out). The
    key is consumed.
    """
    together = space.together
    label = jnp.where(labels.implied_absent(space, label), -1, label).astype(label.dtype)
    order_key, none_key, word_key = jax.random.split(key, 3)
    partly = (together & (label == 0)[None]).any(axis=1) & (label != 0)
    order = jnp.argsort(jax.random.uniform(order_key, label.shape) - partly)
    return _drawn(given, label, order, (none_key, word_key), together=together, loose=jnp.zeros(label.shape, bool))


def redraw(
    given: Logits, label: Label, loose: Bool[Array, "words"], key: Key[Array, ""], space: labels.LabelSpace
) -> Label:
    """Return a complete label of which the loose words were drawn once more, each from all others (Gibbs sampling).

    Of a Categorical all words are to be loose, or none. What was drawn early, of few words, so comes to agree with what
    came later. The key is consumed.
    """
    order_key, none_key, word_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, len(label))
    return _drawn(given, label, order, (none_key, word_key), together=space.together, loose=loose)


def _drawn(
    given: Logits, label: Array, order: Array, keys: tuple[Array, Array], *, together: np.ndarray, loose: Array
) -> Array:
    """Return a label whose words are drawn in an order: those that are open, and what is loose once it is opened."""
    none, noise = (jax.random.gumbel(key, label.shape) for key in keys)

    def decide(label: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        word, none = at
        label = jnp.where(jnp.asarray(together)[word] & loose, 0, label).astype(label.dtype)
        undecided = (together & (label == 0)[None]).any(axis=1)
        chances = given(jnp.where(undecided, 0, label)) + noise  # their largest is drawn by softmax (Gumbel)
        mine = jnp.asarray(together)[word] & (label == 0)
        best = jnp.argmax(jnp.where(mine, chances, -jnp.inf))
        drawn = jnp.where((jnp.arange(len(label)) == best) & (chances > none), 1, -1)
        return jnp.where(mine, drawn, label).astype(label.dtype), None

    return jax.lax.scan(decide, label, (order, none))[0]


def shapes(prior: WordPrior, space: labels.LabelSpace) -> Any:
    """Return the shapes of what `fit` returns."""
    return jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros(space.size, jnp.int8))["params"]


def _odds(present: np.ndarray, space: labels.LabelSpace) -> np.ndarray:
    """Return log of how often each word is present, over how often none of its Categorical is, in labels [n, words].

    From here Adam need not learn that a rare word is rare, nor that every picture has one of some words.
    """
    none = (present.astype(np.float32) @ space.together == 0).mean(axis=0)
    return np.log(np.maximum(present.mean(axis=0), RAREST)) - np.log(np.maximum(none, RAREST))


def _ruled_out(present: np.ndarray, space: labels.LabelSpace) -> np.ndarray:
    """Return what word i says of the logit of word j before anything is learned, [words, words], by labels [n, words].

    At most `CERTAIN`: a plus where each label with i has a word of j's Categorical, and a minus where none has both, of
    `EVIDENCE` for each label that would by chance; of all a Categorical's words where none has any of them. Some words
    are too rare for Adam to learn from them what never, or always, goes with them.
    """
    has, together = present.astype(np.float32), space.together
    group = np.minimum(has @ together, 1)  # whether a label has a word of each word's Categorical
    count, both, any_of = has.sum(axis=0), has.T @ has, has.T @ group
    chance = np.outer(count, group.mean(axis=0))
    chance = np.where(any_of == 0, chance, np.outer(count, has.mean(axis=0)))
    always = (any_of == count[:, None]) & (count > 0)[:, None]
    return CERTAIN * always.astype(np.float32) - np.where(both == 0, np.minimum(EVIDENCE * chance, CERTAIN), 0)


def fit(
    prior: WordPrior,
    complete_labels: Int[np.ndarray, "n words"],
    key: Key[Array, ""],
    space: labels.LabelSpace,
    *,
    steps: int = STEPS,
) -> Any:
    """Return the parameters of a prior for complete labels: `steps` of Adam on `bound`.

    `STEPS` of them take half a minute on two cores for the words of punks. Labels are drawn evenly, whatever the masks
    of the pictures' training favour. The key is consumed.
    """
    init_key, steps_key = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps), b2=0.99)

    def mean_bound(params: Any, some: Array, keys: Array) -> Array:
        given = logits(prior, params)
        return jax.vmap(lambda label, key: bound(given, label, key, space))(some, keys).mean()

    def step(kept: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        params, moments = kept
        draw_key, bound_key = jax.random.split(key)
        some = table[jax.random.randint(draw_key, (BATCH,), 0, len(table))]
        gradient = jax.grad(mean_bound)(params, some, jax.random.split(bound_key, BATCH))
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    table = jnp.asarray(complete_labels)
    params = prior.init(init_key, table[0])["params"]
    params["open"]["bias"] = jnp.asarray(_odds(complete_labels > 0, space), jnp.float32)
    params["pairs"]["kernel"] = jnp.asarray(_ruled_out(complete_labels > 0, space), jnp.float32)
    run = jax.jit(lambda kept, keys: jax.lax.scan(step, kept, keys)[0])
    kept, keys = (params, optimizer.init(params)), jax.random.split(steps_key, steps)
    for at in range(0, steps, PORTION):
        kept = jax.block_until_ready(run(kept, keys[at : at + PORTION]))  # in between signals are heard
    return kept[0]


def calibrate(params: Any, complete_labels: Int[np.ndarray, "n words"], draw: Draw, key: Key[Array, ""]) -> Any:
    """Return the parameters of a prior that `draw` makes labels of with words and pairs as often as in these.

    A prior learns what follows true labels, and is asked what follows its own (exposure bias, Bengio et al. 2015, arXiv
    1506.03099): what is rare gets rarer. So, in rounds of `DRAWS` labels, each word's bias moves by a share of how far
    its log odds are off, and what a word says of another by one of how far their log lift is, both at most 1, and a
    smaller share each time (Robbins & Monro 1951). The key is consumed.
    """
    odds, lift = _log_odds(complete_labels), _log_lift(complete_labels)
    for at, pace in enumerate(PACE):
        keys = jax.random.split(jax.random.fold_in(key, at), (DRAWS // AT_ONCE, AT_ONCE))
        made = np.concatenate([np.asarray(draw(params, some)) for some in keys])
        bias = params["open"]["bias"] + pace * np.clip(odds - _log_odds(made), -1, 1)
        pairs = params["pairs"]["kernel"] + OF_PAIRS * pace * np.clip(lift - _log_lift(made), -1, 1)
        params = params | {"open": params["open"] | {"bias": bias}, "pairs": {"kernel": pairs}}
    return params


def _log_odds(complete_labels: np.ndarray) -> np.ndarray:
    """Return of each word the log odds of its share of labels [n, words].

    Of 1 / `DRAWS` more than its share, and of the rest: what no label has, or each, has finite ones.
    """
    share = (complete_labels > 0).mean(axis=0, dtype=np.float32)
    return np.log(share + 1 / DRAWS) - np.log(1 - share + 1 / DRAWS)


def _log_lift(complete_labels: np.ndarray) -> np.ndarray:
    """Return how often two words come together in labels [n, words], over how often by chance, [words, words], as logs.

    Of `FEW` / `DRAWS` more than either share: what is as rare as that says little. On the diagonal 0.
    """
    has = (complete_labels > 0).astype(np.float32)
    share, both = has.mean(axis=0), has.T @ has / len(has)
    lift = np.log(both + FEW / DRAWS) - np.log(np.outer(share, share) + FEW / DRAWS)
    return np.where(np.eye(len(lift), dtype=bool), 0, lift)
