"""Who judges a picture: our classifier of a data set and, where an exact renderer exists, the verifier.

The judge is the same for every model of a data set, whatever that model held out: its classifier is trained on the
set's own `iid` (or `test`) split, and the renderer of punks is fitted to all 10,000.
"""

import functools
from typing import NamedTuple

import numpy as np

from ddpm_jax import datasets
from ddpm_jax.datasets import avatars
from ddpm_jax.datasets.spec import Dataset
from ddpm_jax.evaluation import classifier, renderer, verifier
from ddpm_jax.evaluation.classifier import Classifier

LABELLED = {"punks_images": "punks"}  # the same pictures, perhaps padded, with labels
SPLITS = {"punks": "iid", "avatars": "iid", "mnist": "test"}


class Judge(NamedTuple):
    """`data` has all pictures and complete labels, `data.heldout` those that the classifier never saw.

    `render` (labels -> pictures) is exact, or None; `margin` is the padding around a picture in what models draw.
    """

    data: Dataset
    classifier: Classifier
    render: verifier.Render | None
    margin: int

    def read(self, pictures: np.ndarray) -> np.ndarray:
        """Return the complete labels, int8 [n, words], that the classifier reads off pictures."""
        return classifier.read(self.classifier, self.cropped(pictures))

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Return the classifier's features, float32 [n, d]."""
        return classifier.features(self.classifier, self.cropped(pictures))

    def cropped(self, pictures: np.ndarray) -> np.ndarray:
        """Return the pictures without their padding; the judge's own have none."""
        if not self.margin or pictures.shape[1:] == self.data.spec.shape:
            return pictures
        rows, columns = (slice(self.margin, size - self.margin) for size in pictures.shape[1:3])
        return pictures[:, rows, columns]

    def verify(self, pictures: np.ndarray) -> verifier.Verdict:
        """Return the verdict on pictures; their padding must be background. Raises ValueError without a renderer."""
        if self.render is None:
            raise ValueError(f"there is no exact renderer of {self.data.spec.name}, so nothing can be verified")
        label = self.read(pictures)
        verdict = verifier.verify(lambda _: label, self.render, self.cropped(pictures))
        padding = (pictures == np.asarray(self.data.spec.background or 0, np.uint8)).all(axis=-1)
        self.cropped(padding)[:] = True  # a view: only the padding counts
        return verdict._replace(legal=verdict.legal & padding.all(axis=(1, 2)))


def data_for(own: Dataset, root: str) -> Dataset | None:
    """Return the labelled data that judge a model of the data set `own`: a shipped set with its split, else `own`.

    None where nothing has labels, nothing is held out to check the classifier with, or the pictures are streamed.
    """
    spec = own.spec
    name = LABELLED.get(spec.name, spec.name)
    if name in SPLITS:
        size = 0 if spec.name in LABELLED else spec.shape[0]
        return datasets.load(name, size=size, holdout=SPLITS[name], root=root)
    return own if own.spec.labels.size and own.heldout.size and isinstance(own.images, np.ndarray) else None


def load(own: Dataset, root: str) -> Judge | None:
    """Return the judge of pictures like those of a data set; trains the classifier where `root` keeps none."""
    data = data_for(own, root)
    if data is None:
        return None
    margin = (own.spec.shape[0] - data.spec.shape[0]) // 2
    return Judge(data, classifier.load(data, root), _renderer(data, root), margin)


def reader(own: Dataset, root: str) -> verifier.Read | None:
    """Return what reads labels off the pictures of a data set, if its classifier is in the cache already."""
    data = data_for(own, root) if own.spec.labels.size else None
    if data is None or not classifier.is_cached(data, root):
        return None
    return functools.partial(classifier.read, classifier.load(data, root))


def _renderer(data: Dataset, root: str) -> verifier.Render | None:
    if data.spec.name == "punks":
        whole = datasets.load("punks", size=data.spec.shape[0], root=root)
        trees = renderer.load(whole, root)
        return lambda labels: renderer.draw(trees, whole, labels)
    if data.spec.name == "avatars":
        return functools.partial(_faces, data.spec.shape)
    return None


def _faces(shape: tuple[int, int, int], labels: np.ndarray) -> np.ndarray:
    """Return the avatars of complete labels; all black, which no avatar is, for those that no face has."""
    pictures, possible = np.zeros((len(labels), *shape), np.uint8), avatars.possible(labels)
    pictures[possible] = avatars.PALETTE[avatars.render(labels[possible], shape[0])]
    return pictures
