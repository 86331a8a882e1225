"""The two raw files of CryptoPunks, and what they say of each punk."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.datasets import pictures, raw

COUNT, SIDE, ACROSS = 10_000, 24, 100  # punks, pixels a side, punks in a row of the sheet
BACKGROUND = (0x63, 0x85, 0x96)  # over it all 222 colours stay distinct; over black or white three pairs collapse

SHEET = raw.File(
    "punks/punks.png",
    "https://raw.githubusercontent.com/larvalabs/cryptopunks/11532167fa705ced569fc3206df0484f9027e1ee/punks.png",
    "ac39af4793119ee46bbff351d8cb6b5f23da60222126add4268e261199a2921b",
    848174,
)
TABLE = raw.File(
    "punks/cryptopunks.csv",
    "https://raw.githubusercontent.com/cryptopunksnotdead/punks.attributes/"
    "2169f94a3c5004bfaadfc85e8d28c085e40e1047/original/cryptopunks.csv",
    "5342c9e7bcadeaac288c76543a4721343e95943f8ab3b92e0b64dd8f6eec92c0",
    653238,
)

TYPES = ("Male", "Female", "Zombie", "Ape", "Alien")
SKINS = ("Albino", "Light", "Medium", "Dark")
# fmt: off
ACCESSORIES = (
    "3D Glasses", "Bandana", "Beanie", "Big Beard", "Big Shades", "Black Lipstick", "Blonde Bob", "Blonde Short",
    "Blue Eye Shadow", "Buck Teeth", "Cap", "Cap Forward", "Chinstrap", "Choker", "Cigarette", "Classic Shades",
    "Clown Eyes Blue", "Clown Eyes Green", "Clown Hair Green", "Clown Nose", "Cowboy Hat", "Crazy Hair", "Dark Hair",
    "Do-rag", "Earring", "Eye Mask", "Eye Patch", "Fedora", "Front Beard", "Front Beard Dark", "Frown", "Frumpy Hair",
    "Goat", "Gold Chain", "Green Eye Shadow", "Half Shaved", "Handlebars", "Headband", "Hoodie", "Horned Rim Glasses",
    "Hot Lipstick", "Knitted Cap", "Luxurious Beard", "Medical Mask", "Messy Hair", "Mohawk", "Mohawk Dark",
    "Mohawk Thin", "Mole", "Mustache", "Muttonchops", "Nerd Glasses", "Normal Beard", "Normal Beard Black",
    "Orange Side", "Peak Spike", "Pigtails", "Pilot Helmet", "Pink With Hat", "Pipe", "Police Cap",
    "Purple Eye Shadow", "Purple Hair", "Purple Lipstick", "Red Mohawk", "Regular Shades", "Rosy Cheeks",
    "Shadow Beard", "Shaved Head", "Silver Chain", "Small Shades", "Smile", "Spots", "Straight Hair",
    "Straight Hair Blonde", "Straight Hair Dark", "Stringy Hair", "Tassle Hat", "Tiara", "Top Hat", "VR",
    "Vampire Hair", "Vape", "Welding Goggles", "Wild Blonde", "Wild Hair", "Wild White Hair",
)
# fmt: on


class Punk(NamedTuple):
    """One row of the table. `skin` is "" for zombies, apes and aliens; `kind` is Human for the others."""

    id: int
    kind: str
    gender: str
    skin: str
    accessories: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its complete label: type, skin if it has one, accessories."""
        face = (self.gender if self.kind == "Human" else self.kind, self.skin)
        return tuple(word for word in (*face, *self.accessories) if word)


def images(path: Path) -> np.ndarray:
    """The punks of the sheet, uint8 RGBA [10000, 24, 24, 4], in the order of their ids."""
    side = ACROSS * SIDE
    sheet = np.asarray(pictures.open_image(path, (side, side)))
    if sheet.shape != (side, side, 4):
        raise ValueError(f"{path} has shape {sheet.shape}, expected {(side, side, 4)}")
    return sheet.reshape(ACROSS, SIDE, ACROSS, SIDE, 4).swapaxes(1, 2).reshape(COUNT, SIDE, SIDE, 4)


def table(path: Path) -> list[Punk]:
    """The rows of the table, in the order of their ids."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    return [
        Punk(
            id=int(row["id"]),
            kind=row["type"],
            gender=row["gender"],
            skin=row["skin tone"],
            accessories=tuple(word for word in row["accessories"].split(" / ") if word),
        )
        for row in rows
    ]


def indexed(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices uint8 [n, h, w] and the sorted palette uint8 [k, 4] of RGBA images [n, h, w, 4], k <= 256."""
    codes = np.ascontiguousarray(rgba).view(">u4")[..., 0]
    palette, indices = np.unique(codes, return_inverse=True)
    return indices.reshape(codes.shape).astype(np.uint8), palette.astype(">u4").view(np.uint8).reshape(-1, 4)


def over_background(rgba: np.ndarray) -> np.ndarray:
    """RGBA colours [..., 4] laid over the background #638596: uint8 [..., 3], rounded to nearest."""
    colour, alpha = rgba[..., :3].astype(np.int32), rgba[..., 3:].astype(np.int32)
    return ((colour * alpha + np.array(BACKGROUND) * (255 - alpha) + 127) // 255).astype(np.uint8)
