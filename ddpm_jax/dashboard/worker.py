"""The one process that samples for the dashboard, and the only part of it that imports jax.

A request is a JSON object on a line of stdin: {"do": a name of `ANSWERS`, and that function's arguments}. The answer is
a line on stdout: {"answer": ...} or {"error": a sentence}. It ends when stdin does, even in the middle of a request:
it never outlives the dashboard.
"""

import functools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ddpm_jax import configs, datasets, devices, engine, generator, process, recipes, requests, runtime, settings
from ddpm_jax.dashboard.sampler import array, packed
from ddpm_jax.evaluation import classifier, judge

MAX_MEMORY = 6 * 2**30  # bytes of data that this process may hold; the first argument of the command says otherwise
MAX_CALLS = 40_000  # of the net for one request: about a minute on two cores
MAX_TEXT = 2**16  # characters of a label, MAX_PICTURE of a picture
MAX_PICTURE = 2**24
MAX_LIST = 200
MODELS = 3  # that are kept loaded
NO_MEMORY = "the sampling process ran out of its memory; ask for fewer pictures"


def main(max_memory: int = MAX_MEMORY) -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does so on stderr
    logging.set_verbosity(logging.ERROR)
    waiting: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(waiting,), daemon=True).start()
    _cap_memory(max_memory)
    devices.configure(engine.BUCKETS[-1])
    while True:
        print(json.dumps(respond(json.loads(waiting.get()))), file=answers, flush=True)


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Return {"answer": ...} or {"error": a sentence} for a request."""
    do, arguments = request.get("do"), {key: value for key, value in request.items() if key != "do"}
    if do not in ANSWERS:
        return {"error": f"unknown request {str(do)[:40]!r}; choose one of {', '.join(ANSWERS)}"}
    try:
        return {"answer": ANSWERS[do](**arguments)}
    except (runtime.Failure, ValueError, OSError) as error:
        return {"error": str(error)}
    except Exception as error:  # a page shows a sentence, never a traceback; the log has it
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # the latter is XLA's
            return {"error": NO_MEMORY}
        logging.exception("a request failed: %s", do)
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
    """Return the frames [f, n, h, w, c] of a job's denoising, and its recipe."""
    loaded = _load(model, which)
    recipe = loaded.recipe(job=job, settings=_settings(loaded, job)._asdict())
    return {"frames": packed(recipes.frames(loaded, job)[0]), "recipe": recipe}


def noised(*, model: str, which: str, picture: str, strength: float, seed: int) -> dict[str, Any]:
    """Return a picture (`recipes.packed`) as it looks with the noise of the time `strength`."""
    loaded = _load(model, which)
    x_t = loaded.noised(recipes.unpacked(picture), engine.places(1, seed), strength)
    return {"pictures": packed(np.asarray(process.to_uint8(x_t)))}


def real(*, model: str, which: str, root: str, word: str, number: int) -> dict[str, Any]:
    """Return held-out picture `number` (counted round) of a word from the data set of a model, if it is at hand."""
    loaded = _load(model, which)
    data = _data(loaded.spec.name, loaded.spec.shape[0], root)
    positions = data.heldout[data.labels[data.heldout, data.spec.labels.index(word)] > 0]
    return {"pictures": packed(data.pixels(positions[[number % len(positions)]]))}


def read(*, model: str, which: str, root: str, pictures: dict[str, Any]) -> dict[str, Any]:
    """Return what our classifier makes of pictures: a probability for each word of the first Categorical."""
    loaded = _load(model, which)
    reader = _reader(loaded.spec.name, loaded.spec.shape[0], root)
    logits = classifier.run(reader, array(pictures))[1][:, reader.space.slice_of(reader.space.groups[0].name)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"words": reader.space.groups[0].words, "odds": (odds / odds.sum(axis=1, keepdims=True)).tolist()}


def options() -> list[dict[str, Any]]:
    """Return the shipped configurations: name, docstring, flat values, and the range or choices of each key."""
    found = []
    for name in configs.names():
        module = configs.module(name)
        values = runtime.jsonable(runtime.flat(module.get_config().to_dict()))
        found.append({"name": name, "about": (module.__doc__ or "").strip(), "values": values})
    return [{**config, "ranges": settings.RANGES, "choices": settings.CHOICES} for config in found]


def check(*, name: str, changes: dict[str, Any]) -> None:
    """Raise BadInput where a shipped configuration with changes ({"train.steps": 500}) is none that can run."""
    config = configs.module(name).get_config()
    for key in changes.keys() - runtime.flat(config.to_dict()).keys():
        raise runtime.BadInput(f"{key} is not a key of a configuration")
    config.update_from_flattened_dict({key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()})
    settings.check(config)


@functools.lru_cache(MODELS)
def _load(path: str, which: str) -> generator.Generator:
    model = generator.load(path, which)
    devices.keep_compiled(model.meta["config"]["runtime"]["cache"])
    return model


def _settings(model: generator.Generator, job: dict[str, Any]) -> requests.Settings:
    """Return the settings of a job. Raises BadInput for one that is malformed or would hold the others up for long."""
    asked = _settled(model, job)
    needed = calls(model, job, asked)
    if needed > MAX_CALLS:
        raise runtime.BadInput(f"that takes {needed} calls of the net, and {MAX_CALLS} are allowed here; ask for less")
    return asked


def _settled(model: generator.Generator, job: Mapping[str, Any]) -> requests.Settings:
    check_types(job)
    return model.settings(**{key: job[key] for key in requests.How.__annotations__.keys() & job.keys()})


def calls(model: generator.Generator, job: Mapping[str, Any], asked: requests.Settings) -> int:
    """Return how often a job calls the net for a picture, at most: outside its interval, guidance takes one call."""
    kind, n = job.get("kind"), job.get("n") or 1
    if kind == "sweep" and job.get("key") and job.get("values"):
        if job["key"] not in (*asked._fields, "seed"):
            raise runtime.BadInput(f"key is {job['key'][:40]!r}; a sweep is over seed, {', '.join(asked._fields)}")
        each = ({**job, "kind": "sheet", job["key"]: value} for value in job["values"])
        return sum(calls(model, one, _settled(model, one)) for one in each)
    words = model.spec.labels.group(job["group"]).words if kind == "group" and job.get("group") else ()
    cells = len(job.get("rows") or ()) * len(job.get("columns") or ())
    pictures = {"grid": cells, "group": len(words), "swap": 2}.get(str(kind), n)
    steps = (asked.steps - 1) * (job.get("repeats") or 4) + 1 if job.get("mask") else asked.steps
    return pictures * steps * (2 if kind == "between" else requests.passes(asked))


def check_types(job: Mapping[str, Any]) -> None:
    """Raise BadInput where a value of a job is not of its kind, or longer than any that makes sense."""
    if not isinstance(job, Mapping):
        raise runtime.BadInput(f"a job is a JSON object, not {type(job).__name__}")
    for key, value in job.items():
        fits, words = TYPES.get(key, (lambda _: True, ""))  # an unknown key is named by `recipes.draw`
        if value is not None and not fits(value):
            raise runtime.BadInput(f"{key} is {str(value)[:40]!r}; it must be {words}")


def _is_text(value: Any, most: int = MAX_TEXT) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_list(value: Any, of: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_LIST and all(of(item) for item in value)


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


def _listen(waiting: queue.Queue[str]) -> None:
    """Pass on the lines of stdin; when it ends so does the process, whatever it is doing."""
    for line in sys.stdin:
        waiting.put(line)
    os._exit(0)


def _cap_memory(limit: int) -> None:
    """End a request that grows too large by a MemoryError, instead of the machine's other work."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


ANSWERS = {answer.__name__: answer for answer in (draw, animate, noised, real, read, options, check)}
TEXT = (_is_text, f"text of at most {MAX_TEXT} characters")
PICTURE = (functools.partial(_is_text, most=MAX_PICTURE), "a PNG file in base64")
WHOLE = (lambda value: type(value) is int, "a whole number")
NUMBER = (_is_number, "a number")
YES_NO = (lambda value: isinstance(value, bool), "true or false")
WORDS = (lambda value: _is_list(value, _is_text), f"a list of 1 to {MAX_LIST} texts")
TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("kind", "label", "other", "group", "key", "sampler", "times", "words", "compose"), TEXT),
    **dict.fromkeys(("picture", "mask"), PICTURE),
    **dict.fromkeys(("n", "pick", "seed", "other_seed", "first", "steps", "repeats"), WHOLE),
    **dict.fromkeys(("spread", "strength", "guidance", "autoguidance", "rescale", "eta"), NUMBER),
    **dict.fromkeys(("snap", "sketch", "complete", "same_noise"), YES_NO),
    **dict.fromkeys(("rows", "columns", "out", "into", "keep"), WORDS),
    "values": (lambda value: _is_list(value, lambda v: _is_number(v) or _is_text(v)), f"a list of 1 to {MAX_LIST}"),
    "interval": (lambda value: _is_list(value, _is_number) and len(value) == 2, "two numbers"),
    "weights": (
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
        "a number for each word",
    ),
}

if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
