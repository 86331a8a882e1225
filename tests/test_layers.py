"""Data flows downwards: a file imports only what its row of the table below names, inside functions too."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

NUMERIC = {"numpy", "jax", "jaxtyping"}
# What a pure file may take from the standard library: nothing that logs, reads a flag or touches a file.
PURE = set(
    "collections dataclasses difflib enum functools itertools json math operator re types typing warnings".split()
)
STDLIB = set(sys.stdlib_module_names)
# Slow to import or not everywhere at hand: never at the top of a file of the package.
INSIDE_FUNCTIONS = set(
    "PIL array_record matplotlib clu etils orbax tensorboard tensorflow_datasets tensorstore".split()
)

L0 = set("schedules process losses samplers guidance edit likelihood labels masking".split())
L1 = {"nets", "prior"}
L2 = {"datasets", "pipeline"}
L3 = {"model", "state", "step", "engine", "requests", "motifs"}
BELOW_L4 = L0 | L1 | L2 | L3
FILES_OF_L4 = set(
    "checkpoint archive releases metrics events images animation runtime devices processes journal train".split()
)
FILES_OF_L4 |= {"distributed", "goodput"}
L4 = FILES_OF_L4 | {"evaluation"}
L5 = set("settings hooks build loaded generator recipes streaming orders commands export judging topology".split())
L5 |= {"speed", "timing", "scaling", "program", "hlo"}
SCRIPTS = "demo prepare_data sample evaluate benchmark check export dashboard release"
EFFECTS = STDLIB | NUMERIC | BELOW_L4 | FILES_OF_L4 | {"absl"}


class Row(NamedTuple):
    """Files (or folders, with a slash) and what they may import beside each other: names of this package or others."""

    files: str
    may_import: set[str]


TABLE = [
    Row("schedules", PURE | NUMERIC),
    Row("process losses samplers guidance edit likelihood", PURE | NUMERIC | L0),
    Row("labels", PURE | {"numpy"}),
    Row("masking", PURE | NUMERIC | {"labels"}),
    Row("nets/", PURE | NUMERIC | {"flax.linen"}),
    Row("prior", PURE | NUMERIC | {"labels", "flax.linen", "optax"}),
    Row("datasets/", STDLIB | {"numpy", "labels", "PIL", "array_record", "tensorflow_datasets"}),
    Row("pipeline", STDLIB | NUMERIC | {"labels", "masking", "datasets"}),
    Row("model", PURE | NUMERIC | L0 | L1 | {"state", "datasets", "motifs"}),
    Row("requests", PURE | NUMERIC | L0),
    Row("engine", PURE | NUMERIC | L0 | {"prior", "model", "requests"}),
    Row("motifs", PURE | NUMERIC | {"nets", "state", "step", "flax.linen", "optax"}),
    Row("state step", PURE | NUMERIC | L0 | {"optax"}),
    Row("checkpoint archive releases", EFFECTS | {"etils", "ml_dtypes", "orbax", "tensorstore"}),
    Row("metrics events", EFFECTS | {"clu", "tensorboard"}),
    Row("images animation", EFFECTS | {"PIL"}),
    Row("runtime devices distributed processes goodput journal train", EFFECTS),
    Row("evaluation/", EFFECTS | {"PIL", "flax.linen", "optax", "tqdm", "matplotlib"}),
    Row("hooks", EFFECTS | {"evaluation"}),
    Row("program", EFFECTS | {"train"}),
    Row("settings build", EFFECTS | {"hooks", "program"} | {"configs", "evaluation", "ml_collections", "optax"}),
    Row("loaded", EFFECTS | {"build"}),
    Row("generator", EFFECTS | {"evaluation", "build", "loaded"}),
    Row("recipes streaming export judging", EFFECTS | {"evaluation", "build", "generator"}),
    Row("hlo", PURE | NUMERIC),
    Row("topology", EFFECTS | {"build", "settings", "hlo", "ml_collections"}),
    Row("speed", EFFECTS | {"build", "program", "hlo", "configs"}),
    Row("timing", EFFECTS),
    Row("scaling", PURE | {"runtime", "timing"}),
    Row("commands", EFFECTS),
    Row("orders", EFFECTS | {"commands", "recipes"}),
    Row("configs/", STDLIB),
    Row(
        "main",
        STDLIB
        | {
            "absl",
            "jax",
            "ml_collections.config_flags",
            "configs",
            "settings",
            "devices",
            "distributed",
            "runtime",
            "processes",
            "build",
            "train",
        },
    ),
    Row(
        "dashboard/worker",
        EFFECTS | {"evaluation", "build", "configs", "dashboard", "generator", "recipes", "settings"},
    ),
    Row(
        "dashboard/",
        STDLIB
        | {
            "labels",
            "datasets",
            "metrics",
            "archive",
            "releases",
            "images",
            "animation",
            "configs",
            "runtime",
            "processes",
        }
        | {"numpy", "pandas", "altair", "psutil", "streamlit", "streamlit_drawable_canvas", "tensorboard"},
    ),
    Row("__init__", STDLIB | {"generator"}),
]
# Scripts are thin: they call the roots and the effects, and do no mathematics of their own.
SCRIPTS_MAY = STDLIB | L4 | L5 | {"__init__", "configs", "dashboard", "datasets", "engine", "main", "requests"}
SCRIPTS_MAY |= {"absl", "jax", "numpy", "streamlit", "tqdm"}
CONFIGS_MAY = {"ml_collections", "configs"}


class Import(NamedTuple):
    """One imported name: `ddpm_jax.process` and the like, where it stands, and whether it runs with the file."""

    name: str
    line: int
    at_top: bool


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def find_imports(node: ast.AST, at_top: bool = True) -> Iterator[Import]:
    """Yield every import under `node`; a relative one keeps its dots."""
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, at_top) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (Import(f"{module}.{alias.name}", node.lineno, at_top) for alias in node.names)
    at_top = at_top and not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node))
    for child in ast.iter_child_nodes(node):
        yield from find_imports(child, at_top)


def allowed_for(path: str) -> set[str] | None:
    """Return what the file `path` (from the root of the repository) may import; None if no row has it."""
    folder, _, name = path.removesuffix(".py").partition("/")
    if folder == "configs":
        return CONFIGS_MAY
    if folder == "scripts":
        return SCRIPTS_MAY if name in SCRIPTS.split() else None
    for row in TABLE:
        for file in row.files.split():
            if name == file or (file.endswith("/") and name.startswith(file)):
                return row.may_import | {sibling.rstrip("/") for sibling in row.files.split()}
    return None


def own_name(name: str) -> str:
    """Return the name inside ddpm_jax: `process` for `ddpm_jax.process`; `__init__` for the package's public names."""
    inside = name.removeprefix("ddpm_jax").lstrip(".")
    modules = {file.rstrip("/") for row in TABLE for file in row.files.split()}
    return inside if inside.partition(".")[0] in modules else "__init__"


def violations(path: str, source: str) -> list[str]:
    """Return one sentence for each import of the file `path` that its row does not allow."""
    allowed = allowed_for(path)
    if allowed is None:
        return [f"{path} is in no row of tests/test_layers.py; give it its place there"]
    # A TFDS builder's file is a class of that library; it is itself imported inside a function.
    top_is_fine = not path.startswith("ddpm_jax/") or path.endswith("_dataset_builder.py")
    found = []
    for name, line, at_top in find_imports(ast.parse(source)):
        inside = name.partition(".")[0] == "ddpm_jax"
        wanted = own_name(name) if inside else name
        parents = {wanted[:end] for end, dot in enumerate(wanted + ".") if dot == "."}
        if not parents & allowed or (not inside and parents & set(L0 | L1 | L2 | L3 | L4 | L5) - STDLIB):
            found.append(f"{path}:{line} imports {name}, which its layer does not allow")
        elif at_top and parents & INSIDE_FUNCTIONS and not top_is_fine:
            found.append(f"{path}:{line} imports {name} at the top; import it inside the function that needs it")
    return found


def sources() -> list[str]:
    """Return the paths of all files that the table speaks about."""
    files = [file for pattern in ("ddpm_jax/**/*.py", "scripts/*.py", "configs/*.py") for file in ROOT.glob(pattern)]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


@pytest.mark.parametrize("path", sources())
def test_a_file_imports_only_what_its_layer_allows(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_no_import_goes_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}  # a folder is one node
    for path in sources():
        node = own_name(path.removesuffix(".py").replace("/", ".")).partition(".")[0]
        if path.startswith("ddpm_jax/"):
            names = [found.name for found in find_imports(ast.parse((ROOT / path).read_text(encoding="utf-8")))]
            wanted = {own_name(name).partition(".")[0] for name in names if name.startswith("ddpm_jax.")}
            graph.setdefault(node, set()).update(wanted - {node})
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= {"process", "checkpoint"}


FORBIDDEN = {
    "a library of another layer": ("ddpm_jax/process.py", "import optax"),
    "inside a function": ("ddpm_jax/process.py", "def f():\n    import optax"),
    "inside a method": ("ddpm_jax/process.py", "class A:\n    def f(self):\n        from flax import linen"),
    "while type checking": ("ddpm_jax/nets/unet.py", "if TYPE_CHECKING:\n    from ddpm_jax import step"),
    "upwards": ("ddpm_jax/step.py", "from ddpm_jax import checkpoint"),
    "upwards, a name of the module": ("ddpm_jax/step.py", "from ddpm_jax.checkpoint import verify"),
    "upwards, as a module": ("ddpm_jax/step.py", "import ddpm_jax.checkpoint as c"),
    "another part of a library": ("ddpm_jax/nets/unet.py", "from flax import nnx"),
    "the whole library": ("ddpm_jax/nets/unet.py", "import flax"),
    "the package itself": ("ddpm_jax/step.py", "import ddpm_jax"),
    "a public name": ("ddpm_jax/step.py", "from ddpm_jax import load"),
    "relative": ("ddpm_jax/samplers.py", "from . import process"),
    "relative, a name of the module": ("ddpm_jax/samplers.py", "from .process import q_sample"),
    "a file like a script": ("ddpm_jax/samplers.py", "import process"),
    "effects in a pure layer": ("ddpm_jax/losses.py", "import logging"),
    "the config outside build": ("ddpm_jax/generator.py", "import ml_collections"),
    "evaluation knows no build": ("ddpm_jax/evaluation/exact.py", "from ddpm_jax import build"),
    "mathematics in a script": ("scripts/sample.py", "from ddpm_jax import samplers"),
}


@pytest.mark.parametrize(("path", "source"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    (sentence,) = violations(path, source)
    line = source.count("\n") + 1
    assert sentence.startswith(f"{path}:{line} imports ") and sentence.endswith("which its layer does not allow")


def test_allowed_imports_are_not_found() -> None:
    assert (
        violations("ddpm_jax/samplers.py", "import math\nimport jax.numpy as jnp\nfrom ddpm_jax import process") == []
    )
    assert violations("ddpm_jax/nets/unet.py", "from flax import linen as nn\nfrom ddpm_jax.nets import blocks") == []
    assert violations("ddpm_jax/datasets/mnist.py", "def f():\n    import tensorflow_datasets as tfds") == []
    assert violations("ddpm_jax/datasets/mnist.py", "if TYPE_CHECKING:\n    from PIL import Image") == []
    assert violations("scripts/sample.py", "import ddpm_jax\nfrom ddpm_jax import load, recipes") == []


@pytest.mark.parametrize("module", ["orbax.checkpoint", "etils"])
def test_a_heavy_library_at_the_top_is_found(module: str) -> None:
    (sentence,) = violations("ddpm_jax/checkpoint.py", f"import {module}")
    assert sentence == (
        f"ddpm_jax/checkpoint.py:1 imports {module} at the top; import it inside the function that needs it"
    )


@pytest.mark.parametrize("path", ["ddpm_jax/helpers.py", "ddpm_jax/extra/nets.py", "scripts/other.py"])
def test_a_file_without_a_row_is_found(path: str) -> None:
    assert violations(path, "") == [f"{path} is in no row of tests/test_layers.py; give it its place there"]
