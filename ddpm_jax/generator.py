"""`load(path_or_name)` gives a `Generator`: what scripts, notebooks and the dashboard call to make pictures."""

import os
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ddpm_jax import build, edit, engine, guidance, loaded, requests, runtime
from ddpm_jax.labels import Label
from ddpm_jax.requests import How, check_range

Labels = Label | Sequence[Label]
Pictures = UInt8[np.ndarray, "n h w c"]


class Generator(loaded.Loaded):
    """A trained model, ready to sample. Make one with `load`.

    Attributes: `params` the parameters in use, `spec` the pictures' shape, palette and words, `meta` the checkpoint's
    description, `path` where it lies, `which` "ema" or "raw".

    In every method a label is words ("Female, Mohawk, -Pipe"), a dict, a three-state vector or None (anything), and
    `complete` means that every word not named is absent. `how` (see `requests.How`) are sampler, steps, guidance and
    the like, the checkpoint's unless given. All raise ValueError for unknown words, names and numbers out of range.

    >>> model = ddpm_jax.load(workdir)
    >>> model.sample("Cat, Cap").shape
    (1, 16, 16, 3)
    """

    def sample(
        self,
        labels: Labels = None,
        *,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        first: int = 0,
        snap: bool = False,
        **how: Unpack[How],
    ) -> Pictures:
        """Return n pictures for each label (one or a list of them), uint8 [N, h, w, c], label by label.

        `snap` moves each pixel to the nearest palette colour. Picture i depends on (seed, i) and its label alone;
        `first` is the i of the first one, for a long series in parts.

        >>> model.sample(["Cat, Cap", {"kind": "Robot"}], n=2, steps=3, guidance=2.0).shape
        (4, 16, 16, 3)
        """
        vectors, asked = self.vectors(labels, n=n, complete=complete), self.settings(**how)
        at = engine.places(len(vectors), seed, first)
        return self.snapped(self.render(self.completed(vectors, at, asked), at, asked), snap)

    def trajectory(
        self,
        labels: Labels = None,
        *,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        picture: np.ndarray | None = None,
        strength: float = 1.0,
        **how: Unpack[How],
    ) -> UInt8[np.ndarray, "n f h w c"]:
        """Return each evaluation's estimate of the pictures that `sample` (with a picture, `edit`) makes, in order.

        Where complete labels say every pixel, all estimates would be one: then x_t after each evaluation.
        """
        parse, asked = self.vectors if picture is None else self.editing, self.settings(**how)
        vectors = parse(labels, n=n, complete=complete)
        at = engine.places(len(vectors), seed)
        vectors = self.completed(vectors, at, asked) if picture is None else vectors
        start = self.noised(picture, at, strength)
        rows = requests.rows(asked, self.model.schedule, start=strength)
        return self.engine.frames(self.nets, self.guides(asked, vectors), start, at, rows)

    def grid(
        self,
        rows: Sequence[Label],
        columns: Sequence[Label],
        *,
        same_noise: bool = False,
        complete: bool = False,
        **how: Any,
    ) -> UInt8[np.ndarray, "r c h w channels"]:
        """Return a picture for each row's words together with each column's; `how` also takes `seed` and `snap`.

        With `same_noise` all cells start from the same noise and differ by their words alone.

        >>> model.grid(["Cat", "Robot"], ["Cap", "Crown", ""], same_noise=True).shape
        (2, 3, 16, 16, 3)
        """
        cells = self.cells(rows, columns)
        pictures = (self.same_noise if same_noise else self.sample)(cells, complete=complete, **how)
        return pictures.reshape(len(rows), len(columns), *pictures.shape[1:])

    def variations(
        self,
        label: Label,
        *,
        n: int = 8,
        spread: float = 0.4,
        complete: bool = False,
        seed: int = 0,
        **how: Unpack[How],
    ) -> Pictures:
        """Return picture 0 of a seed, then n - 1 like it: from its noise, turned towards others by a share `spread`."""
        check_range("spread", spread, 0, 1)
        vectors, asked, at = self.vectors(label, n=n, complete=complete), self.settings(**how), engine.places(n, seed)
        vectors = self.other_words(vectors, at, asked, spread)
        noise = self.engine.noise(at)
        start = self.engine.between(noise[0], noise, np.append(0.0, np.full(n - 1, spread)))
        return self.render(vectors, engine.same_place(n, seed), asked, start)

    def swap(
        self,
        label: Label,
        out: Sequence[str],
        into: Sequence[str],
        *,
        complete: bool = False,
        seed: int = 0,
        **how: Any,
    ) -> Pictures:
        """Return two pictures of one noise: of a label, and with `out` gone (ValueError if absent), `into` there."""
        asked = self.settings(**{key: value for key, value in how.items() if key != "snap"})
        before, at = self.spec.labels.parse(label, complete=complete), engine.same_place(1, seed)
        both = self.swapped(before, out, into, at, asked)
        return self.same_noise(both, complete=False, seed=seed, **{**how, "words": "net"})

    def reroll(self, label: Label, keep: Sequence[str], *, n: int = 8, seed: int = 0, **how: Any) -> Pictures:
        """Return n new pictures of which only the words to `keep` are asked, as the label has them."""
        space, kept = self.spec.labels, [self.spec.labels.index(word) for word in keep]
        vector = space.parse(label)
        if open_words := [space.words[i] for i in kept if not vector[i]]:
            raise ValueError(f"{open_words[0]} is to be kept but the label does not name it")
        loose = [word for i, word in enumerate(space.words) if i not in kept]
        vector = np.where(np.isin(np.arange(space.size), kept), vector, space.unspecified(vector, loose))
        return self.sample(space.parse(vector), n=n, seed=seed, **how)

    def interpolate(
        self,
        one: Label,
        other: Label,
        *,
        frames: int = 8,
        complete: bool = False,
        seed: int = 0,
        other_seed: int | None = None,
        **how: Unpack[How],
    ) -> Pictures:
        """Return pictures from one label's to another's, unguided: predictions mixed, noises of two seeds slerped."""
        requests.refuse("an interpolation", how, requests.MIXED)
        check_range("frames", frames, 2, loaded.MAX_PICTURES)
        ends = self.vectors([one, other], complete=complete)
        shares = np.linspace(0, 1, frames)
        guide = requests.stacked([guidance.between(ends[0], ends[1], share) for share in shares.tolist()])
        seeds = seed, seed if other_seed is None else other_seed
        first, last = (self.engine.noise(engine.places(1, each)) for each in seeds)
        start = self.engine.between(first[0], np.repeat(last, frames, axis=0), shares)
        rows = requests.rows(self.settings(**how), self.model.schedule)
        return self.engine.draw(engine.Nets(self.params), guide, start, engine.same_place(frames, seed), rows)

    def edit(
        self,
        picture: np.ndarray,
        label: Label = None,
        *,
        strength: float = 0.5,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        snap: bool = False,
        **how: Unpack[How],
    ) -> Pictures:
        """Return n pictures that a picture (uint8 [h, w, c]) becomes under a label (SDEdit, Meng et al. 2022).

        `strength` from 0 to 1 is the time to which it is noised: 0 returns it as it is, 1 forgets it. It may be grey,
        with alpha, or enlarged by a whole number (see `images.fit`). ValueError for a label that says every pixel.

        >>> cat = model.sample("Cat")[0]
        >>> model.edit(cat, "Robot", strength=0.7, n=2).shape
        (2, 16, 16, 3)
        """
        requests.refuse("an edit", how, ("words",))
        vectors, asked, at = self.editing(label, n=n, complete=complete), self.settings(**how), engine.places(n, seed)
        if strength == 0:
            return np.repeat(self.fit(picture)[None], n, axis=0)
        start = self.noised(picture, at, strength)
        rows = requests.rows(asked, self.model.schedule, start=strength)
        return self.snapped(self.engine.draw(self.nets, self.guides(asked, vectors), start, at, rows), snap)

    def inpaint(
        self,
        picture: np.ndarray,
        mask: Bool[np.ndarray, "h w"],
        label: Label = None,
        *,
        repeats: int = 4,
        n: int = 1,
        complete: bool = False,
        seed: int = 0,
        **how: Unpack[How],
    ) -> Pictures:
        """Return n pictures that are new where the mask is True and untouched elsewhere (RePaint, Lugmayr et al. 2022).

        The sampler is ancestral; every step is run `repeats` times, so that new and old agree.

        >>> model.inpaint(np.zeros((16, 16, 3), np.uint8), np.eye(16, dtype=bool)).shape
        (1, 16, 16, 3)
        """
        requests.refuse("inpainting", how, ("sampler", "eta", "words"))
        check_range("repeats", repeats, 1, 100)
        known, mask = self.fit(picture), np.asarray(mask, bool)
        if mask.shape != known.shape[:2]:
            raise ValueError(f"the mask is {list(mask.shape)}; the picture is {list(known.shape[:2])}")
        vectors, asked, at = self.editing(label, n=n, complete=complete), self.settings(**how), engine.places(n, seed)
        grid = requests.grid(asked, self.model.schedule)
        paint = edit.painting(self.model.schedule, grid, repeats=repeats)
        given = {"pictures": np.repeat(known[None], n, axis=0), "mask": np.repeat(mask[None], n, axis=0)}
        guide = self.guides(asked, vectors)
        return self.engine.paint(self.nets, guide, self.engine.noise(at), at, paint, **given)

    def invert(self, picture: np.ndarray, label: Label = None, **how: Unpack[How]) -> Float[np.ndarray, "h w c"]:
        """Return the noise from which DDIM makes the picture under a label (DDIM inversion; none by default)."""
        asked = self.settings(**how)._replace(guidance=1.0, autoguidance=1.0, weights={})
        grid = requests.grid(asked, self.model.schedule)
        guide = self.guides(asked, self.vectors(label))
        rows = edit.inversion(self.model.schedule, grid)
        return self.engine.invert(self.nets, guide, self.fit(picture)[None], rows)[0]

    def rerender(
        self, picture: np.ndarray, label: Label, *, complete: bool = False, **how: Unpack[How]
    ) -> UInt8[np.ndarray, "h w c"]:
        """Return the picture that its own noise (`invert`, under no label) makes under a label."""
        asked = self.settings(**{**how, "sampler": "ddim", "eta": 0.0})
        start = self.invert(picture, None, **how)[None]
        return self.render(self.vectors(label, complete=complete), engine.places(1), asked, start)[0]


def load(path: str | os.PathLike[str], which: str = "ema") -> Generator:
    """Return the generator of a workdir, one of its checkpoints, or a released model; `which` weights: "ema" or "raw".

    Raises runtime.BadInput if there is none, and checkpoint.Damaged if its arrays are not those that were saved.
    """
    if which not in ("ema", "raw"):
        raise runtime.BadInput(f"which is {which!r}; choose ema or raw")
    return Generator(build.model_path(path), which)
