"""What one checkpoint is on disk, how it is described, and how it is read: always compared, never trusted.

`<step>/state` holds the arrays as Orbax writes them; `<step>/meta/metadata` is JSON: what the run says of itself, the
shape, dtype and CRC-32 of every array, and a hash of all that. Orbax alone restores flipped bits without a word.
"""

import hashlib
import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
from absl import logging

from ddpm_jax import runtime

FORMAT = 1
MAX_META_BYTES = 2**26
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")

PathLike = str | os.PathLike[str]


class Damaged(runtime.Storage):
    """A checkpoint is not what was saved; the sentence names it and the part."""


def verify(path: PathLike) -> None:
    """Read a whole checkpoint and compare every array with its checksum; raise `Damaged` naming what differs."""
    meta = read_meta(path)
    read_arrays(path, meta, list(meta["checksums"]))


def names_of(meta: Mapping[str, Any], part: str) -> list[str]:
    """Return the names of the arrays that a checkpoint, described by `meta`, has in a part of the state."""
    return [name for name in meta["checksums"] if name.startswith(f"{part}/")]


def load_arrays(path: PathLike, part: str = "ema") -> dict[str, Any]:
    """Return one part of the state (ema, params, early) as a nested dict of verified NumPy arrays; no other is read.

    float16, which releases are kept in, comes back as float32.
    """
    meta = read_meta(path)
    names = names_of(meta, part)
    if not names:
        parts = sorted({name.partition("/")[0] for name in meta["checksums"]})
        raise runtime.BadInput(f"{path} has no part {part!r}; it has {', '.join(parts)}")
    arrays = read_arrays(path, meta, names)
    return nest({name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()})[part]


def resolve(path: PathLike) -> pathlib.Path:
    """Return the checkpoint that a workdir, its `checkpoints` or one `checkpoints/<step>` stands for: the newest whole.

    Nothing is renamed, for a run may be writing there; a damaged checkpoint is named in the log and passed over.
    """
    given = pathlib.Path(path).absolute()
    if (given / "meta").exists() or (given / "state").exists():
        return given
    directory = given / "checkpoints" if (given / "checkpoints").is_dir() else given
    for step in steps(directory):
        try:
            verify(directory / str(step))
            return directory / str(step)
        except Damaged as error:
            logging.error("%s; an older checkpoint is looked for", error)
    raise runtime.BadInput(f"there is no whole checkpoint in {given}; give a workdir or one of its checkpoints/<step>")


def steps(directory: PathLike) -> list[int]:
    """Return the steps that have a directory, newest first; nothing is said of what they hold."""
    directory = pathlib.Path(directory)
    names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    return sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)


def read_meta(path: PathLike) -> dict[str, Any]:
    """Return the description of a checkpoint, checked against its own hash (kept: `sha256` names the checkpoint)."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise runtime.BadInput(f"there is no checkpoint {path}")
    if any(entry.is_symlink() for entry in path.rglob("*")):
        raise Damaged(f"{path} contains a symbolic link; a checkpoint holds plain files only")
    file = path / "meta" / "metadata"
    try:
        if file.stat().st_size > MAX_META_BYTES:
            raise ValueError(f"more than {MAX_META_BYTES} bytes")
        meta = json.loads(file.read_bytes())
        stated = meta["sha256"]
    except Exception as error:  # whatever flipped bits and strangers make of JSON
        raise Damaged(f"{path} is damaged: meta/metadata is illegible ({first_line(error)})") from error
    if stated != _hash(meta):
        raise Damaged(f"{path} is damaged: meta/metadata is not what was saved (SHA-256 differs)")
    if meta.get("format_version") != FORMAT:
        raise runtime.BadInput(f"{path} has format {meta.get('format_version')}, not {FORMAT}; use a newer ddpm_jax")
    _check_claims(path, meta.get("checksums"))
    return meta


def describe(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the meta of a checkpoint to be: the caller's, and what `read_meta` and `read_arrays` compare."""
    checksums = {
        name: {"shape": list(a.shape), "dtype": str(a.dtype), "crc32": checksum(a)} for name, a in arrays.items()
    }
    described = json.loads(json.dumps({**meta, "format_version": FORMAT, "checksums": checksums}))
    return {**described, "sha256": _hash(described)}


def read_arrays(path: PathLike, meta: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named arrays of a checkpoint in host memory; sizes are compared before reading, bytes after."""
    wanted = {name: meta["checksums"][name] for name in names}
    try:
        arrays = _restore(pathlib.Path(path) / "state", wanted)
        different = [name for name, entry in wanted.items() if checksum(arrays[name]) != entry["crc32"]]
    except Exception as error:  # flipped bits surface as whatever the parser that met them raises
        raise Damaged(f"{path} is damaged: its arrays cannot be read ({first_line(error)})") from error
    if different:
        raise Damaged(f"{path} is damaged: {', '.join(different[:3])} ({len(different)} arrays) are not what was saved")
    return arrays


def check_fits(path: pathlib.Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse another structure: Orbax would cast, cut or leave out."""
    there = {name: kind(entry) for name, entry in saved.items()}
    here = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
    different = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if different:
        shown = [f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here" for name in different]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        raise runtime.BadInput(f"{path} does not fit this run: {'; '.join(shown[:3])}{more}")


def _restore(state: pathlib.Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Read arrays through TensorStore itself, which tells sizes before it reads.

    Orbax's own restore takes any size, and leaves tasks behind that print tracebacks where a file is damaged.
    """
    import tensorstore as ts

    def spec(name: str) -> dict[str, Any]:
        base = {"driver": "file", "path": f"{state.as_posix()}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{name.replace('/', '.')}/"}
        return {"driver": "zarr", "kvstore": store}

    context = ts.Context()
    opening = {name: ts.open(spec(name), open=True, read=True, context=context) for name in wanted}
    opened = {name: future.result() for name, future in opening.items()}
    for name, array in opened.items():
        found = {"shape": list(array.shape), "dtype": array.dtype.name}
        chunk = math.prod(n or 1 for n in array.chunk_layout.read_chunk.shape or ())
        if kind(found) != kind(wanted[name]) or chunk > max(1, array.size):
            raise ValueError(f"{name} is {kind(found)} in chunks of {chunk}, saved as {kind(wanted[name])}")
    reading = {name: array.read() for name, array in opened.items()}
    return {name: np.asarray(future.result()) for name, future in reading.items()}


def _check_claims(path: pathlib.Path, checksums: Any) -> None:
    """Refuse what a stranger's description could claim: odd names, and arrays larger than the files."""
    claimed = 0
    try:
        for name, entry in checksums.items():
            if not _NAME.fullmatch(name) or not all(type(n) is int and n >= 0 for n in entry["shape"]):
                raise ValueError(f"{name[:80]!r} of shape {str(entry['shape'])[:80]}")
            claimed += math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path} describes an illegal array ({first_line(error)})") from error
    held = sum(file.stat().st_size for file in (path / "state").rglob("*") if file.is_file())
    if claimed > held:  # nothing is compressed
        raise Damaged(f"{path} claims {claimed / 1e6:.0f} MB of arrays, but its files hold {held / 1e6:.1f} MB")


def by_name(tree: Any) -> dict[str, Any]:
    """Flatten to names like `params/conv/kernel`: NamedTuples, dicts and tuples look alike on disk and on return."""
    import jax

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn names like `params/conv/kernel` into nested dicts: the inverse of `by_name` on nested dicts."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def checksum(array: np.ndarray) -> int:
    """Return the CRC-32 of an array's bytes: it differs for every flipped bit and every burst of up to 32."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def kind(entry: Mapping[str, Any] | None) -> str:
    """Name a dtype and shape, as in `float32[3, 3]`."""
    return f"{entry['dtype']}{entry['shape']}" if entry else "absent"


def first_line(error: BaseException) -> str:
    """Return what an error says, cut to a piece that fits into a sentence."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _hash(meta: Mapping[str, Any]) -> str:
    """Hash all of a description but the hash itself."""
    said = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
