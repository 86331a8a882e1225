"""A checkpoint, loaded and ready to be asked: what every way of making pictures with it has in common."""

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ddpm_jax import archive, build, checkpoint, devices, engine, images, model, requests, runtime
from ddpm_jax.datasets.spec import Spec, unseen_pairs
from ddpm_jax.guidance import Guidance
from ddpm_jax.labels import Label
from ddpm_jax.requests import How, Settings, check_range
from ddpm_jax.state import MOTIFS, PRIOR

MAX_PICTURES = 100_000


class Loaded:
    """The parameters of a checkpoint with its model's compiled functions; `generator.Generator` is what users have."""

    weak: "Loaded | None" = None  # a worse one that `autoguidance` leads away from, see `led_away_from`

    def __init__(self, path: Path, which: str) -> None:
        """Read a checkpoint's description and its parameters, verified; nothing else of it."""
        self.path, self.which = path, which
        self.meta = checkpoint.read_meta(path)
        self.spec = Spec.from_json(self.meta["spec"])
        arrays = checkpoint.load_arrays(path, "ema" if which == "ema" else "params")
        over = devices.mesh()
        self.params: Any = jax.device_put(arrays, devices.replicate(over))
        self.model = build.make_model(self.meta["config"], self.spec)
        _check_net(path, arrays, self.model)
        self.defaults: dict[str, Any] = self.meta["config"]["sampling"]
        self.engine = engine.Engine(self.model, over)

    @property
    def nets(self) -> engine.Nets:
        """The parameters in use, and those of a worse net: one that was given, or the early one of this checkpoint."""
        return engine.Nets(self.params, self.weak.params if self.weak else self._early)

    @functools.cached_property
    def _early(self) -> Any:
        """The parameters of the early net that the checkpoint keeps, None if it keeps none; read when first asked."""
        if not archive.names_of(self.meta, "early"):
            return None
        arrays = checkpoint.load_arrays(self.path, "early")
        _check_net(self.path, arrays, self.model)
        return jax.device_put(arrays, devices.replicate(self.engine.over))

    def led_away_from(self, weak: "Loaded") -> Self:
        """Return this model with `autoguidance` as the weight against a worse one, an earlier checkpoint of its run.

        Karras et al. 2024 (arXiv 2406.02507): the worse net answers the same label. Weight 1 is this model alone. It
        takes the place of the early net that a checkpoint may bring along.
        """
        if _shapes(weak.params) != _shapes(self.params):
            raise ValueError(f"{weak.path} has a net of other shapes; take an earlier checkpoint of the same run")
        led = copy.copy(self)
        led.weak = weak
        return led

    def settings(self, **how: Unpack[How]) -> Settings:
        """Return sampler, evaluations, guidance and the like as they will be used: as given, or the checkpoint's."""
        asked = requests.settle(how, self.defaults)
        if asked.guidance != 1 and not self.spec.labels.size:  # it weighs nothing, and is no reason to draw otherwise
            asked = requests.settle({**how, "guidance": 1.0}, self.defaults)
        if asked.words == "prior" and self.model.prior is None:
            raise ValueError("this checkpoint has no word prior (net.word_prior is 0); use words of 'net'")
        if asked.autoguidance != 1 and self.nets.weak is None:
            raise ValueError("this checkpoint keeps no early net (optimizer.early is 0); leave out autoguidance")
        if self.weak and how.get("words") == "prior":
            raise ValueError("words 'prior' leaves nothing open for another checkpoint to be worse at; use net")
        return asked._replace(words="net") if self.weak else asked

    def vectors(self, labels: Label | Sequence[Label], *, n: int = 1, complete: bool = False) -> np.ndarray:
        """Return the vectors, int8 [N, words], of n pictures for each label; warn of words never seen together."""
        several: list[Label] = list(labels) if isinstance(labels, list | tuple) else [cast(Label, labels)]
        check_range("n x labels", n * len(several), 1, MAX_PICTURES)
        parsed = [self.spec.labels.parse(label, complete=complete) for label in several]
        unseen = {pair for vector in parsed for pair in unseen_pairs(self.meta["pairs_seen"], self.spec.labels, vector)}
        for one, two in sorted(unseen):
            logging.warning("no training image has both %s and %s; the picture is a guess", one, two)
        return np.repeat(np.stack(parsed), n, axis=0)

    def editing(self, label: Label | Sequence[Label], *, n: int, complete: bool) -> np.ndarray:
        """Return the vectors that a given picture is changed by. Raises ValueError where they leave nothing of it."""
        vectors = self.vectors(label, n=n, complete=complete)
        if self.model.paints and vectors.size and (vectors != 0).all(axis=1).any():
            raise ValueError(
                "a complete label says every pixel and would leave nothing of the picture; leave words open"
            )
        return vectors

    def joined(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the label vector that says what both say. Raises ValueError where they contradict each other."""
        space = self.spec.labels
        space.parse(((one > 0) | (other > 0)).astype(np.int8))  # two words of one Categorical: said better there
        if (clash := np.flatnonzero(one * other < 0)).size:
            raise ValueError(f"the labels disagree on {space.words[clash[0]]!r}; keep it in one of them")
        return space.parse(np.where(other != 0, other, one))

    def cells(self, rows: Sequence[Label], columns: Sequence[Label]) -> list[np.ndarray]:
        """Return the label vector of each cell of a grid, row by row."""
        parse = self.spec.labels.parse
        return [self.joined(parse(row), parse(column)) for row in rows for column in columns]

    def completed(self, vectors: np.ndarray, at: engine.Places, asked: Settings) -> np.ndarray:
        """Return the labels that pictures are drawn of: with words of 'prior', what is open is decided first."""
        return self.engine.complete(self.nets, vectors, at) if asked.words == "prior" else vectors

    def other_words(self, vectors: np.ndarray, at: engine.Places, asked: Settings, spread: float) -> np.ndarray:
        """Return the labels of variations: that of the first place, and for the others it with some words drawn anew.

        Each word that the label leaves open is drawn anew with probability `spread`; a Categorical as one.
        """
        if asked.words == "net":
            return vectors
        vectors = np.asarray(self.model.opened(vectors))
        first = self.completed(vectors[:1], engine.Places(*(part[:1] for part in at)), asked)[0]
        coins = np.random.default_rng(int(at.seed[0])).random(vectors.shape) < spread
        coins[0] = False
        coins = coins[:, self.model.space.together.argmax(axis=1)]  # its first word's
        return self.completed(np.where((vectors == 0) & coins, 0, first).astype(np.int8), at, asked)

    def swapped(
        self, before: np.ndarray, out: Sequence[str], into: Sequence[str], at: engine.Places, asked: Settings
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a label, completed if the prior decides, and it with words absent (`out`) and present (`into`).

        What nobody asked for and was never seen with the new words is decided anew. Raises ValueError if a word that
        is to go is absent, by the label or by what it was completed to.
        """
        space = self.spec.labels
        whole, gone = self.completed(before[None], at, asked)[0], [space.index(word) for word in out]
        if missing := [space.words[i] for i in gone if whole[i] < 0]:
            raise ValueError(f"{missing[0]} is to be swapped, but it is absent")
        after = space.unspecified(whole, [*out, *into])
        after[gone] = -1
        for word in into:
            after = self.joined(after, space.parse(word))
        pairs = unseen_pairs(self.meta["pairs_seen"], space, after)
        kept = {space.index(word) for word in into} | set(np.flatnonzero(before > 0).tolist())
        loose = [word for pair in pairs for word in pair if space.index(word) not in kept]
        return whole, self.completed(space.unspecified(after, loose)[None], at, asked)[0]

    def guides(self, asked: Settings, vectors: np.ndarray) -> Guidance:
        """Return the guidance of each picture."""
        return requests.guides(asked, self.spec.labels, vectors)

    def render(
        self, vectors: np.ndarray, at: engine.Places, asked: Settings, start: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the pictures [n, h, w, c] of label vectors [n, words], from their own noise or `start`."""
        start, guide = self.engine.noise(at) if start is None else start, self.guides(asked, vectors)
        return self.engine.draw(self.nets, guide, start, at, self.engine.rows(asked, guide))

    def same_noise(self, vectors: Sequence[np.ndarray], *, complete: bool, seed: int = 0, **how: Any) -> np.ndarray:
        """Return a picture for each label vector, all from the noise of picture 0 of a seed.

        What they leave open the net decides (`words`): a prior would complete each by itself.
        """
        snap = how.pop("snap", False)
        parsed = self.vectors(list(vectors), complete=complete)
        at, asked = engine.same_place(len(parsed), seed), self.settings(**cast(How, {"words": "net", **how}))
        return self.snapped(self.render(self.completed(parsed, at, asked), at, asked), snap)

    def snapped(self, pictures: np.ndarray, snap: bool) -> np.ndarray:
        """Return the pictures, moved to the nearest palette colours if asked. Raises ValueError without a palette."""
        if not snap:
            return pictures
        if self.spec.palette is None:
            raise ValueError(f"{self.spec.name} has no palette to snap to; leave snap out")
        return model.snap(pictures, self.spec.palette)

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """Return a picture in the shape of the model's own, uint8 [h, w, c]; see `images.fit`."""
        return images.fit(picture, self.spec.shape, self.spec.background)

    def noised(self, picture: np.ndarray | None, at: engine.Places, strength: float) -> np.ndarray:
        """Return a picture (see `fit`) with the noise of the time `strength`, once for each place: [n, h, w, c].

        Without one, noise alone; ValueError unless `strength` is 1 then.
        """
        check_range("strength", strength, 0, 1)
        if picture is None:
            if strength != 1:
                raise ValueError(f"strength {strength} is of a picture that is changed; give one, or leave it out")
            return self.engine.noise(at)
        given = np.repeat(self.fit(picture)[None], len(at.number), axis=0)
        return self.engine.noised(given, at, strength)

    def recipe(self, **more: Any) -> dict[str, Any]:
        """Return what a picture's file says of its making: the checkpoint's hash, the machine, and `more`.

        The pictures are the same bit for bit on as many devices of that kind: picture i then lies in the same row of
        the same bucket.
        """
        about = {"checkpoint": self.meta["sha256"], "step": self.meta["step"], "which": self.which}
        weak = {} if self.weak is None else {"weak": self.weak.meta["sha256"]}
        here = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "jax": jax.__version__}
        here["buckets"] = list(engine.BUCKETS)
        return {**about, **weak, **here, **more}


def _check_net(path: Path, arrays: Mapping[str, Any], made: model.Model) -> None:
    """Raise BadInput for parameters that are not those of the net as this version builds it."""
    wanted = archive.by_name(jax.eval_shape(made.init, jax.random.key(0)))
    there = archive.by_name(arrays)
    different = [name for name, leaf in wanted.items() if name not in there or there[name].shape != leaf.shape]
    if different:
        raise runtime.BadInput(
            f"{path} was made by another version, whose net differs in {different[0]}; train it anew"
        )


def _shapes(params: Any) -> Any:
    """Return the shapes of a net's parameters; what draws words and motifs before it is no part of it."""
    return jax.tree.map(jnp.shape, {name: part for name, part in params.items() if name not in (PRIOR, MOTIFS)})
