"""What `scripts/benchmark.py` times of this project: a run's own train step, forward pass, sampling and data.

Times depend on shapes alone, so the pictures, labels, colours and weights are random and nothing has to be downloaded.
Run as a program it answers requests, lines of JSON on stdin and stdout, as the peer does (`scripts/peer/peer.py`).
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import archive, build, configs, devices, engine, hlo, pipeline, program, requests, runtime, step, train
from ddpm_jax.datasets import punks
from ddpm_jax.datasets.spec import Dataset, Spec, dataset

PICTURES, COLOURS = 9_000, 222  # as many as punks_cfg trains on, and of its palette
STEPS, GUIDANCE = 10, 1.5  # of sampling
# The peer paints no layers and completes no labels.
U_NET_ALONE = {"net.word_layers": 0, "net.word_sets": "", "net.word_prior": 0, "net.motifs": 0, "sampling.words": "net"}
NETS: dict[str, dict[str, Any]] = {  # what differs from punks_cfg
    "punks": U_NET_ALONE,
    "plain": {
        **U_NET_ALONE,
        "net.channels": 32,
        "net.multipliers": (1, 2, 2),
        "net.blocks": 1,
        "net.stem": 1,
        "net.attention": (),
        "net.word_maps": 0,
        "net.head_channels": 0,
        "loss.target": "eps",
    },
}


class Work(NamedTuple):
    """One net with its data, and an input for it: what both sides are timed on."""

    parts: program.Parts
    config: dict[str, Any]
    params: Any
    x: np.ndarray
    t: np.ndarray
    labels: np.ndarray


def work(net: str, *, batch: int, dtype: str = "float32", size: int = 24, changes: Mapping[str, Any] = {}) -> Work:
    """Return the work of a net of `NETS`, with `changes` to its configuration, on the devices that there are."""
    config = configs.module("punks_cfg").get_config()
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    flat = {**NETS[net], "net.dtype": dtype, "train.batch_size": batch, **changes}
    config.update_from_flattened_dict(flat)
    values = runtime.jsonable(config.to_dict())
    data = random_data(size, indexed=values["loss"]["target"] == "palette")
    model, optimizer = build.make_model(values, data.spec), step.make_optimizer(**values["optimizer"])
    plan, masks, key = train.Plan(**values["train"]), pipeline.Masks(**values["masks"]), jax.random.key(0)
    parts = program.Parts(model, data, optimizer, plan, masks, key, devices.mesh(), "device", "replicated")
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, key)
    # No zeros, as a fresh net has: they would hide it if the peer took an array the wrong way round.
    params = jax.tree.map(lambda p: np.float32(rng.normal(0, (p.size / p.shape[-1]) ** -0.5, p.shape)), shapes)
    x, t = rng.normal(size=(batch, *data.spec.shape)), rng.uniform(0.01, 1, batch)
    return Work(parts, values, params, x.astype(np.float32), t.astype(np.float32), data.labels[:batch])


def random_data(size: int, *, indexed: bool) -> Dataset:
    """Return random pictures with random labels of the punks' words; `indexed` says that they have a palette."""
    rng = np.random.default_rng(0)
    palette = rng.permutation(np.indices((8, 8, 8)).reshape(3, -1).T)[:COLOURS].astype(np.uint8) * 36
    spec = Spec("random", (size, size, 3), punks.LABELS, palette if indexed else None)
    shape = (PICTURES, size, size) if indexed else (PICTURES, size, size, 3)
    images = rng.integers(0, COLOURS, shape, np.uint8)
    labels = np.where(rng.random((PICTURES, spec.labels.size)) < 0.05, 1, -1)
    everything = np.arange(PICTURES)
    return dataset(spec, images, labels, ids=everything, train=everything, heldout=everything[:0])


def write_spec(of: Work, path: str) -> None:
    """Write what a peer needs to do the same work: the net's fields, its weights and the data."""
    data, net = of.parts.dataset, {key: value for key, value in of.config["net"].items() if key != "name"}
    net["out_channels"] = of.parts.model.target.channels(data.spec.shape[2])
    about = {"net": net, "size": data.spec.shape[0], "colours": data.spec.shape[2], "words": data.spec.labels.size}
    about |= {"batch": len(of.x), "steps": STEPS, "guidance": GUIDANCE}
    palette = np.zeros((0, 3)) if data.spec.palette is None else data.spec.palette / 127.5 - 1
    arrays = {"images": data.images, "labels": data.labels, "palette": np.float32(palette), "x": of.x, "t": of.t}
    arrays |= {f"params/{name}": leaf for name, leaf in archive.by_name(of.params).items()}
    np.savez(path, about=json.dumps(about), **arrays)  # pyright: ignore[reportArgumentType]


class Ours:
    """A work's compiled functions, as a run and a generator use them; what is timed compiles at its first call."""

    def __init__(self, of: Work) -> None:
        """Put weights and inputs on the devices."""
        self.work, parts = of, of.parts
        self.params = jax.device_put(of.params, devices.replicate(parts.over))
        self.inputs = jax.device_put((of.x, of.t, of.labels), devices.shard(parts.over))
        self.predict = jax.jit(jax.vmap(parts.model.predict, in_axes=(None, 0, 0, 0)))
        self.engine, self.at = engine.Engine(parts.model, parts.over), engine.places(len(of.x))
        how: requests.How = {"sampler": "ddim", "steps": STEPS, "times": "linear", "guidance": GUIDANCE}
        asked = requests.settle(how, of.config["sampling"])
        self.guide = requests.guides(asked, parts.dataset.spec.labels, of.labels)
        self.rows = requests.rows(asked, parts.model.schedule)

    @functools.cached_property
    def run(self) -> tuple[Any, Any]:
        """The train step of a run, and its constant inputs."""
        feed = program.make_feed(self.work.parts)
        return program.make_advance(self.work.parts), next(feed(0, self.work.parts.plan.steps_per_dispatch))

    @functools.cached_property
    def state(self) -> Any:
        """The state of a run: at first a fresh one, then what `train_step` made of it."""
        return program.make_init(self.work.parts)(10_000)

    @functools.cached_property
    def batch(self) -> Callable[[int], pipeline.Batch]:
        """The data of a step: which pictures, how much of their labels, and the pictures themselves."""
        parts = self.work.parts
        images, table = jax.device_put((pipeline.resident(parts.dataset), pipeline.tables(parts.dataset.labels)))
        compiled = jax.jit(lambda images, table, at: pipeline.gather(images, *parts.planner(table, at)))
        return functools.partial(compiled, images, table)

    def train_step(self) -> Any:
        """One dispatch: `train.steps_per_dispatch` steps with their data, masks, optimizer and average."""
        advance, inputs = self.run
        self.state, found = advance(self.state, inputs)
        return found

    def data(self) -> Any:
        """The data of one step."""
        return self.batch(0)

    def forward(self) -> Any:
        """The net's answer for a batch."""
        return self.predict(self.params, *self.inputs)

    def sample(self) -> Any:
        """A batch of pictures from noise, guided, as bytes on the host."""
        return self.engine.draw(engine.Nets(self.params), self.guide, self.work.x, self.at, self.rows)

    def timed(self, what: str, count: int) -> list[float]:
        """Seconds of each of `count` runs, to the end of all work on the devices; a dispatch's are its steps' mean."""
        run, seconds = getattr(self, what), []
        steps = self.work.parts.plan.steps_per_dispatch if what == "train_step" else 1
        for _ in range(count):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds.append((time.perf_counter() - began) / steps)
        return seconds

    def costs(self) -> dict[str, Any]:
        """What XLA says of one step on one device: FLOP, bytes in use, and bytes moved by each kind of collective."""
        advance, inputs = self.run
        compiled = advance.lower(self.state, inputs).compile()
        memory = compiled.memory_analysis()
        steps = self.work.parts.plan.steps_per_dispatch  # XLA counts a loop's body once
        found = {"flop": float(compiled.cost_analysis()["flops"]), "collective_bytes": moved(compiled.as_text())}
        found |= {"temporary_bytes": memory.temp_size_in_bytes, "argument_bytes": memory.argument_size_in_bytes}
        return {**found, "steps_per_dispatch": steps, "parameters": sum(x.size for x in jax.tree.leaves(self.params))}


def moved(text: str) -> dict[str, int]:
    """Return the bytes of each kind of collective in a compiled program's text."""
    return {kind: traffic.bytes for kind, traffic in hlo.collectives(text).items()}


def answer(ours: Ours, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request asks and return the figures."""
    if request["do"] == "outputs":
        write_spec(ours.work, request["spec"])
        np.save(request["to"], np.asarray(ours.forward(), np.float32))
        return {}
    if request["do"] == "costs":
        return ours.costs()
    seconds = ours.timed(request["do"], request["count"])
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", resident),
    }


def main() -> None:
    """Answer requests until stdin ends; the first line is {"devices": n, ...arguments of `work`}."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    first = json.loads(sys.stdin.readline())
    devices.configure(first["batch"], first.pop("devices"))
    ours = Ours(work(**first))
    about = {"version": f"jax {jax.__version__}", "platform": jax.default_backend()}
    about |= {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(ours, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
