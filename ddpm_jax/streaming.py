"""Pictures by the ten thousand: one by one to disk, in bounded memory, going on after a cut."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import images, runtime
from ddpm_jax.generator import Generator
from ddpm_jax.requests import check_range

CHUNK, MOST = 64, 10**7  # pictures that are made at once, and at all
NAMES = "{:06d}.png"


def stream(model: Generator, out: Path, *, label: str, n: int, **how: Any) -> Iterator[int]:
    """Write n pictures of a label into a directory (PNGs) or an .npz, in bounded memory; yield how many are there.

    A stream that was cut short goes on where it was; another job's is refused. An .npz is gathered in `<out>.part`.
    """
    check_range("n", n, 1, MOST)
    job = json.dumps({**model.recipe(), "job": {"kind": "sheet", "label": label, "n": n, **how}}, sort_keys=True)
    part = out if out.suffix != ".npz" else out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    note = part / "recipe.json"
    if any(part.iterdir()) and (not note.is_file() or note.read_text() != job):
        raise runtime.BadInput(f"{part} holds other files, or another job's pictures; choose another --out")
    runtime.write_atomically(note, job.encode())
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        files = [part / NAMES.format(i) for i in range(start, start + count)]
        if not all(file.is_file() for file in files):
            made = model.sample(label, n=count, first=start, **how)
            for file, one in zip(files, made, strict=True):
                images.write_png(images.to_pil(one), file)
        yield start + count
    if part != out:
        _gather(part, out, n, model.spec.shape)


def _gather(part: Path, out: Path, n: int, shape: tuple[int, int, int]) -> None:
    """Put the PNGs of a directory into an .npz as `pictures` uint8 [n, h, w, c], one at a time, and drop them."""
    temporary = part / "pictures.npz"
    with (
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("pictures.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)})
        for i in range(n):
            file.write(images.read_png(part / NAMES.format(i))[..., : shape[2]].tobytes())
    os.replace(temporary, out)
    for file in part.iterdir():
        file.unlink()
    part.rmdir()
