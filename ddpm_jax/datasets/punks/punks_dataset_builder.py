"""CryptoPunks as a TFDS builder: `Builder(data_dir=...).download_and_prepare(file_format="array_record")`."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ddpm_jax.datasets import punks, raw
from ddpm_jax.datasets.punks import sheet, splits

KINDS = ("Human", "Zombie", "Ape", "Alien")
NO_SKIN = "None"  # zombies, apes and aliens


class Builder(tfds.core.GeneratorBasedBuilder):
    """10,000 RGBA punks with their labels; each config but `all` is a split of the benchmark: train and test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar = [
        *(
            tfds.core.BuilderConfig(name=name, description=(rule.__doc__ or f"All but {name[3:]} punks.").strip())
            for name, rule in splits.SPLITS.items()
        ),
        tfds.core.BuilderConfig(name="all", description="All punks in one train split."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(sheet.SIDE, sheet.SIDE, 4), encoding_format="png"),
                    "id": np.int64,
                    "type": tfds.features.ClassLabel(names=KINDS),
                    "gender": tfds.features.ClassLabel(names=("Female", "Male")),
                    "skin": tfds.features.ClassLabel(names=(NO_SKIN, *sheet.SKINS)),
                    "accessories": tfds.features.Sequence(tfds.features.ClassLabel(names=sheet.ACCESSORIES)),
                }
            ),
            homepage="https://github.com/larvalabs/cryptopunks",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        # Our own fetch: it looks into the mirror first, tries again, and knows no unverified file.
        picture, table = raw.fetch([sheet.SHEET, sheet.TABLE], Path(dl_manager.download_dir))
        images, rows = sheet.images(picture), sheet.table(table)
        name = self.builder_config.name if self.builder_config else ""
        held = splits.heldout("" if name == "all" else name, punks.labels_for_splits(punks.label_vectors(rows)))
        parts = {"train": ~held, "test": held} if held.any() else {"train": ~held}
        return {part: self._generate_examples(images, rows, chosen) for part, chosen in parts.items()}

    def _generate_examples(
        self, images: np.ndarray, rows: list[sheet.Punk], chosen: np.ndarray
    ) -> Iterator[tuple[int, Any]]:
        for punk in rows:
            if chosen[punk.id]:
                yield (
                    punk.id,
                    {
                        "image": _png(images[punk.id]),
                        "id": punk.id,
                        "type": punk.kind,
                        "gender": punk.gender,
                        "skin": punk.skin or NO_SKIN,
                        "accessories": list(punk.accessories),
                    },
                )


def _png(image: np.ndarray) -> bytes:
    """The PNG bytes of an RGBA image: TFDS would need TensorFlow to encode an array."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()
