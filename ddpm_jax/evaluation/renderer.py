"""The baseline: punks drawn by decision trees over their labels, fitted in seconds with NumPy alone.

Per gender and pixel a tree splits on accessories, each time on the one that leaves the smallest entropy of the colour
given the base face (type and skin, which say the gender too). A leaf has one colour per base face, the commonest; a
base face that it never saw takes the colour that most of its base faces have.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ddpm_jax.datasets import cache
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.labels import LabelSpace

VERSION = 1  # of the trees in the cache
LEAF = -1


class Renderer(NamedTuple):
    """All trees as tables of nodes; `roots` [2, pixels] is where that of a gender and pixel starts.

    accessory [nodes]: what a node splits on, or LEAF; children [nodes, 2]: the nodes without and with it; colours
    [nodes, faces]: the palette index of each base face, in leaves.
    """

    roots: Int[np.ndarray, "2 pixels"]
    accessory: Int[np.ndarray, " nodes"]
    children: Int[np.ndarray, "nodes 2"]
    colours: UInt8[np.ndarray, "nodes faces"]


class Parts(NamedTuple):
    """What the trees look at, of n labels: gender (0 female), number of the base face, accessories."""

    gender: Int[np.ndarray, " n"]
    face: Int[np.ndarray, " n"]
    accessories: Bool[np.ndarray, "n accessories"]


def load(dataset: Dataset, root: str) -> Renderer:
    """Return the renderer fitted to a data set's training pictures; it is kept in the array cache under `root`."""
    key = {"version": VERSION, "fingerprint": dataset.fingerprint}
    path = Path(root, "cache", f"renderer-{dataset.fingerprint[:16]}")
    return Renderer(**cache.arrays(path, key, lambda: fit(dataset)._asdict()))


def fit(dataset: Dataset) -> Renderer:
    """Fit the trees to a data set's training pictures. Raises ValueError for any but the labelled punks."""
    if dataset.spec.name != "punks" or not isinstance(dataset.images, np.ndarray):
        raise ValueError(f"the renderer knows the groups of punks alone, not those of {dataset.spec.name}")
    parts = _parts(dataset.spec.labels, dataset.labels[dataset.train])
    pixels = dataset.images[dataset.train].reshape(len(dataset.train), -1)
    nodes: list[tuple[int, int, int, np.ndarray]] = []
    roots = []
    for gender in (0, 1):
        mine = parts.gender == gender
        face, accessories = parts.face[mine], parts.accessories[mine]
        roots.append([_grow(nodes, column, face, accessories) for column in pixels[mine].T])
    accessory, without, having, colours = zip(*nodes, strict=True)
    children = np.stack([without, having], axis=1).astype(np.int32)
    return Renderer(np.array(roots, np.int32), np.array(accessory, np.int32), children, np.stack(colours))


def render(renderer: Renderer, space: LabelSpace, labels: np.ndarray) -> UInt8[np.ndarray, "n pixels"]:
    """Return the palette indices of complete labels int8 [n, words], pixel after pixel in rows."""
    parts = _parts(space, labels)
    node = renderer.roots[parts.gender]  # [n, pixels]
    row = np.arange(len(labels))[:, None]
    while (renderer.accessory[node] != LEAF).any():
        split = renderer.accessory[node]
        down = renderer.children[node, parts.accessories[row, split].astype(np.int32)]
        node = np.where(split == LEAF, node, down)
    return renderer.colours[node, parts.face[:, None]]


def draw(renderer: Renderer, dataset: Dataset, labels: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    """Return the pictures of complete labels int8 [n, words]."""
    height, width, _ = dataset.spec.shape
    if dataset.spec.palette is None:
        raise ValueError(f"{dataset.spec.name} has no palette")
    return dataset.spec.palette[render(renderer, dataset.spec.labels, labels)].reshape(-1, height, width, 3)


def _parts(space: LabelSpace, labels: np.ndarray) -> Parts:
    types, skins = labels[:, space.slice_of("type")] > 0, labels[:, space.slice_of("skin")] > 0
    female = types[:, space.group("type").words.index("Female")]
    skin = np.where(skins.any(axis=1), skins.argmax(axis=1), skins.shape[1])
    face = types.argmax(axis=1) * (skins.shape[1] + 1) + skin
    return Parts(1 - female.astype(np.int32), face, labels[:, space.slice_of("accessories")] > 0)


def _grow(
    nodes: list[tuple[int, int, int, np.ndarray]], colour: np.ndarray, face: np.ndarray, accessories: np.ndarray
) -> int:
    """Append the tree of one pixel's colours [n] to `nodes`, and return where it starts."""
    place = len(nodes)
    faces, here = np.unique(face, return_inverse=True)
    colours, kind = np.unique(colour, return_inverse=True)
    cell = here * len(colours) + kind
    table = np.bincount(cell, minlength=len(faces) * len(colours)).reshape(len(faces), len(colours))
    nodes.append((LEAF, place, place, _leaf(faces, colours, table)))
    chosen = _best_split(table, cell, accessories)
    if chosen is not None:
        having = accessories[:, chosen]
        one, other = (_grow(nodes, colour[mine], face[mine], accessories[mine]) for mine in (~having, having))
        nodes[place] = (chosen, one, other, nodes[place][3])
    return place


def _best_split(table: np.ndarray, cell: np.ndarray, accessories: np.ndarray) -> int | None:
    """Return the accessory whose split leaves the least entropy; None if none leaves less than there is.

    `table` counts [faces, colours], `cell` [n] is the entry of it that each picture counts in.
    """
    before = _entropy(table)
    used = np.flatnonzero(accessories.any(axis=0) & ~accessories.all(axis=0))
    if before == 0 or not used.size:
        return None
    one_hot = np.zeros((len(cell), table.size), np.float32)
    one_hot[np.arange(len(cell)), cell] = 1
    having = (accessories[:, used].T.astype(np.float32) @ one_hot).reshape(len(used), *table.shape)
    after = np.round(_entropy(having) + _entropy(table - having), 6)  # so that equal ones are equal: the first wins
    return int(used[after.argmin()]) if after.min() < before - 1e-6 else None


def _entropy(counts: np.ndarray) -> np.ndarray:
    """n H(colour given face), in nats, of counts [..., faces, colours]."""
    counts = counts.astype(np.float64)
    return _x_log_x(counts.sum(axis=-1)).sum(axis=-1) - _x_log_x(counts).sum(axis=(-1, -2))


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, 1))


def _leaf(faces: np.ndarray, colours: np.ndarray, table: np.ndarray, n: int = 25) -> np.ndarray:
    """Return the colour of each of n base faces: its commonest here, or for those not here what most faces have."""
    best = colours[table.argmax(axis=1)]
    values, votes = np.unique(best, return_counts=True)
    out = np.full(n, values[votes.argmax()], np.uint8)
    out[faces] = best
    return out
