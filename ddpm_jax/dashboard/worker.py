"""The one process that samples for the dashboard, and the only part of it that imports jax.

A request is a JSON object on a line of stdin: {"do": a name of `ANSWERS`, and that function's arguments}. The answer is
a line on stdout: {"answer": ...} or {"error": a sentence}. It ends when stdin does, so it never outlives the dashboard.
"""

import base64
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ddpm_jax import build, configs, datasets, devices, engine, generator, process, recipes, requests, runtime, settings
from ddpm_jax.evaluation import classifier, judge

MAX_MEMORY = 6 * 2**30  # bytes of data that this process may hold
MAX_CALLS = 40_000  # of the net for one request: about a minute on two cores
MODELS = 3  # that are kept loaded


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does so on stderr
    logging.set_verbosity(logging.ERROR)
    _cap_memory()
    devices.configure(engine.BUCKETS[-1])
    for line in sys.stdin:
        print(json.dumps(respond(json.loads(line))), file=answers, flush=True)


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Return {"answer": ...} or {"error": a sentence} for a request."""
    arguments = {key: value for key, value in request.items() if key != "do"}
    try:
        return {"answer": ANSWERS[request["do"]](**arguments)}
    except MemoryError:
        return {"error": "the sampling process ran out of its memory; ask for fewer pictures"}
    except (runtime.Failure, ValueError, OSError) as error:
        return {"error": str(error)}
    except Exception as error:  # a page shows a sentence, never a traceback; the log has it
        logging.exception("a request failed: %s", request["do"])
        return {"error": f"this failed: {type(error).__name__}: {str(error)[:300]}"}


def draw(*, model: str, which: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return the pictures of a job (see `recipes`) by a checkpoint, and the recipe that makes them again."""
    loaded = _load(model, which)
    asked = _settings(loaded, job)
    began = time.monotonic()
    drawn = recipes.draw(loaded, job)
    recipe = loaded.recipe(job=job, settings=asked._asdict())
    names = {"rows": list(drawn.row_names), "columns": list(drawn.column_names), "captions": list(drawn.captions)}
    return {"pictures": packed(drawn.pictures), "recipe": recipe, "seconds": time.monotonic() - began, **names}


def animate(*, model: str, which: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return the frames [f, n, h, w, c] of a job's denoising."""
    loaded = _load(model, which)
    _settings(loaded, job)
    return {"frames": packed(recipes.frames(loaded, job)[0])}


def noised(*, model: str, which: str, picture: str, strength: float, seed: int) -> dict[str, Any]:
    """Return a picture (`recipes.packed`) as it looks with the noise of the time `strength`."""
    loaded = _load(model, which)
    x_t = loaded.noised(recipes.unpacked(picture), engine.places(1, seed), strength)
    return {"pictures": packed(np.asarray(process.to_uint8(x_t)))}


def real(*, model: str, which: str, root: str, word: str, number: int) -> dict[str, Any]:
    """Return held-out picture `number` (counted round) of a word from the data set of a model, if it is at hand."""
    loaded = _load(model, which)
    data = _data(loaded.spec.name, loaded.spec.shape[0], root)
    positions = data.heldout[data.labels[data.heldout, loaded.spec.labels.index(word)] > 0]
    return {"pictures": packed(data.pixels(positions[[number % len(positions)]]))}


def read(*, model: str, which: str, root: str, pictures: dict[str, Any]) -> dict[str, Any]:
    """Return what our classifier makes of pictures: a probability for each word of the first Categorical."""
    loaded = _load(model, which)
    reader = _reader(loaded.spec.name, loaded.spec.shape[0], root)
    logits = classifier.logits(reader, unpacked(pictures))[:, reader.space.slice_of(reader.space.groups[0].name)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"words": reader.space.groups[0].words, "odds": (odds / odds.sum(axis=1, keepdims=True)).tolist()}


def options() -> list[dict[str, Any]]:
    """Return the shipped configurations: name, docstring, flat values, and the range or choices of each key."""
    found = []
    for name in configs.names():
        module = configs.module(name)
        values = build.jsonable(runtime.flat(module.get_config().to_dict()))
        found.append({"name": name, "about": (module.__doc__ or "").strip(), "values": values})
    return [{**config, "ranges": settings.RANGES, "choices": settings.CHOICES} for config in found]


def check(*, name: str, changes: dict[str, Any]) -> None:
    """Raise BadInput where a shipped configuration with changes ({"train.steps": 500}) is none that can run."""
    config = configs.module(name).get_config()
    for key in changes.keys() - runtime.flat(config.to_dict()).keys():
        raise runtime.BadInput(f"{key} is not a key of a configuration")
    config.update_from_flattened_dict({key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()})
    settings.check(config)


def packed(array: np.ndarray) -> dict[str, Any]:
    """Return a uint8 array as JSON values."""
    array = np.asarray(array, np.uint8)
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def unpacked(value: dict[str, Any]) -> np.ndarray:
    """Return the array of `packed`."""
    return np.frombuffer(base64.b64decode(value["data"]), np.uint8).reshape(value["shape"])


@functools.lru_cache(MODELS)
def _load(path: str, which: str) -> generator.Generator:
    model = generator.load(path, which)
    devices.keep_compiled(model.meta["config"]["runtime"]["cache"])
    return model


def _settings(model: generator.Generator, job: dict[str, Any]) -> requests.Settings:
    """Return the settings of a job. Raises BadInput for one that would hold the others up for long."""
    asked = model.settings(**{key: job[key] for key in requests.How.__annotations__.keys() & job.keys()})
    cells = len(job.get("rows", "1")) * len(job.get("columns", "1")) * int(job.get("n", 1))
    calls = cells * asked.steps * (1 if asked.guidance == 1 and not asked.weights else 2)
    if calls > MAX_CALLS:
        raise runtime.BadInput(f"that takes {calls} calls of the net, and {MAX_CALLS} are allowed here; ask for less")
    return asked


@functools.lru_cache(1)
def _data(name: str, size: int, root: str) -> datasets.Dataset:
    """Return a data set with the split that its classifier never saw, if it is in the cache: nothing is downloaded."""
    if name not in judge.SPLITS or (name != "avatars" and not Path(root, "cache", f"{name}.npz").exists()):
        raise runtime.BadInput(f"the data set {name} is not under {root}; scripts/prepare_data.py brings it")
    return datasets.load(name, size=size, holdout=judge.SPLITS[name], root=root)


@functools.lru_cache(1)
def _reader(name: str, size: int, root: str) -> classifier.Classifier:
    data = _data(name, size, root)
    if not classifier.is_cached(data, root):
        command = f"python scripts/evaluate.py --classifier={name} --out=classifier.json"
        raise runtime.BadInput(f"no classifier of {name} has been trained yet; this does it in two minutes: {command}")
    return classifier.load(data, root)


def _cap_memory() -> None:
    """End a request that grows too large by a MemoryError, instead of the machine's other work."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))


ANSWERS = {
    "draw": draw,
    "animate": animate,
    "noised": noised,
    "real": real,
    "read": read,
    "options": options,
    "check": check,
}

if __name__ == "__main__":
    main()
