"""What the package brings along: averaged parameters of models, and classifiers, as checkpoints like any other.

`pretrained/<name>` is one checkpoint directory with a card beside it; `pretrained/classifier_<data set>` likewise.
"""

import shutil
import tempfile
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ddpm_jax import archive, runtime

FOLDER = Path(__file__).parent / "pretrained"
CLASSIFIER = "classifier_"
PARTS = ("state", "meta")  # of a checkpoint; what else Orbax writes, nobody reads
# What words do beside the U-Net, and the keys of a configuration that say so.
WORDS = {"word_layers": (("net", "word_layers"), ("net", "word_sets"))}
WORDS |= {"motifs": (("net", "word_layers"), ("net", "motifs"))}
WORDS |= {"word_prior": (("net", "word_prior"), ("sampling", "words"))}
_OWN = ("checksums", "sha256", "format_version")  # what a description says of its own arrays


def models() -> dict[str, Path]:
    """Return name -> checkpoint of the released models."""
    folders = [path for path in sorted(FOLDER.glob("[!_.]*")) if path.is_dir()]
    return {path.name: path for path in folders if not path.name.startswith(CLASSIFIER)}


def classifier(name: str, key: dict[str, Any]) -> Path | None:
    """Return the checkpoint of the released classifier of a data set, None if there is none of this key."""
    path = classifier_folder(name)
    return path if path.is_dir() and archive.read_meta(path)["key"] == key else None


def classifier_folder(name: str) -> Path:
    """Return where the released classifier of a data set lies, or is to lie."""
    return FOLDER / f"{CLASSIFIER}{name}"


def write_model(
    source: archive.PathLike,
    folder: Path,
    words: archive.PathLike | None = None,
    early: archive.PathLike | None = None,
) -> None:
    """Write the averaged parameters of a checkpoint, in float16, and its description without this machine's paths.

    Its word layers, motifs and word prior are those that the checkpoint `words` has, if given: they are learned apart
    from the U-Net as well. Raises BadInput if that learned from other data, or has none. The early net, if it keeps
    one, comes along, or in its place the averages of the checkpoint `early`; BadInput if that has a net of other
    shapes, or learned something else. One that `source` keeps stays behind where free pictures become those of motifs.
    """
    meta, arrays = archive.read_meta(source), archive.load_arrays(source, "ema")
    worse, about = _early(source, meta, early)
    config = meta["config"]
    config["data"]["root"], config["init_from"] = "data", PurePath(config["init_from"]).name
    kept = {key: value for key, value in meta.items() if key not in _OWN} | {"released_from": meta["sha256"]}
    if words is not None:
        other = archive.read_meta(words)
        if other["fingerprint"] != meta["fingerprint"]:
            raise runtime.BadInput(f"{words} learned from other data than {source}")
        learned = archive.load_arrays(words, "ema")
        if not learned.keys() & WORDS.keys():
            raise runtime.BadInput(f"{words} has no word layers and no word prior; see net.word_layers, net.word_prior")
        for name in learned.keys() & WORDS.keys():
            arrays[name] = learned[name]
            if worse and name == "word_layers":  # of the net itself; the others no net is led away from
                worse[name] = learned[name]
            for section, key in WORDS[name]:
                config[section][key] = other["config"][section][key]
        if config["sampling"]["words"] == "prior":
            config["sampling"]["autoguidance"] = 1.0  # which leaves nothing open to be led away from
            if "motifs" in learned and early is None:  # free pictures no longer need it, which is a fifth of all
                worse, config["optimizer"]["early"] = {}, 0
                kept.pop("early_from", None)
        kept["words_from"] = other["sha256"]
    if about:
        config["optimizer"]["early"], kept["early_from"] = about["step"], about["sha256"]
    write(_halves(arrays), kept, folder, meta["step"], _halves(worse))


def _early(
    source: archive.PathLike, meta: dict[str, Any], early: archive.PathLike | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the early net of `source`, if any, and {}; or the averages of `early` and their description."""
    if early is None:
        return (archive.load_arrays(source, "early") if archive.names_of(meta, "early") else {}), {}
    about = archive.read_meta(early)
    if _shapes(about) != _shapes(meta):
        raise runtime.BadInput(f"{early} has a net of other shapes than {source}; give an early checkpoint of its kind")
    if (about["fingerprint"], about["config"]["loss"]) != (meta["fingerprint"], meta["config"]["loss"]):
        raise runtime.BadInput(f"{early} learned from other data, or another target, than {source}")
    return archive.load_arrays(early, "ema"), about


def _shapes(meta: dict[str, Any]) -> dict[str, list[int]]:
    return {name: meta["checksums"][name]["shape"] for name in archive.names_of(meta, "ema")}


def _halves(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: _halves(a) if isinstance(a, dict) else a.astype(np.float16) for name, a in arrays.items()}


def write(
    arrays: dict[str, Any], meta: dict[str, Any], folder: Path, step: int = 0, early: dict[str, Any] | None = None
) -> None:
    """Write arrays as the part `ema` of a checkpoint, and those of `early` if there are any, read back and compared.

    What `folder` held of one before goes.
    """
    from ddpm_jax import checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        saver = checkpoint.Checkpointer(scratch)
        saver.save(step, {"ema": arrays} | ({"early": early} if early else {}), meta)
        saver.close()
        made = Path(scratch, str(step))
        for file in made.rglob("commit_success.txt"):  # Orbax's note of where it was written
            file.unlink()
        archive.verify(made)
        for part in PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
            shutil.move(made / part, folder / part)
