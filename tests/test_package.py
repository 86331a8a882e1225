"""What is installed: the wheel is whole, the import is light, the pinned versions fit, TensorFlow is not needed."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = {"PIL", "absl", "array_record", "clu", "flax", "ml_collections", "optax", "orbax", "streamlit", "tensorboard"}
HEAVY |= {"tensorflow", "tensorflow_datasets", "tensorstore"}


def run_python(code: str, *, cwd: Path, path: Path) -> str:
    """Return what `code` prints in a fresh interpreter that finds packages in `path` first."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="the wheel is built by hatchling: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return archive


def test_the_wheel_has_every_file_of_the_package_and_every_config(wheel: zipfile.ZipFile) -> None:
    files = [path for path in (ROOT / "ddpm_jax").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    code = {path.relative_to(ROOT).as_posix() for path in files}
    configs = {f"ddpm_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    names = set(wheel.namelist())
    assert code | configs <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_has_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"ddpm_jax"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_shipped_configs_are_found_outside_a_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site = Path(str(wheel.filename)).parent / "site"
    code = "from ddpm_jax import configs; from ddpm_jax.configs import punks_cfg; print(configs.find('punks_cfg'))"
    found = run_python(code, cwd=tmp_path, path=site).strip()
    assert Path(found) == site / "ddpm_jax" / "configs" / "punks_cfg.py"


def test_importing_the_package_loads_numpy_and_jax_alone(tmp_path: Path) -> None:
    code = "import ddpm_jax, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    assert not HEAVY & set(run_python(code, cwd=tmp_path, path=ROOT).split())


def applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})


def closure(requirements: list[str]) -> set[str]:
    """Return the names of the installed distributions that `requirements` need, directly or not."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [requirement for requirement in map(Requirement, requirements) if applies(requirement, set())]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            needed = map(Requirement, importlib.metadata.requires(requirement.name) or [])
            todo += [one for one in needed if applies(one, requirement.extras)]
    return {name for name, _ in seen}


def test_tensorflow_is_neither_required_nor_installed() -> None:
    needed = closure(PROJECT["dependencies"])
    assert "tensorflow-datasets" in needed and "numpy" in needed
    assert not [name for name in needed if name.startswith(("tensorflow-cpu", "tf-nightly")) or name == "tensorflow"]
    assert importlib.util.find_spec("tensorflow") is None, "these tests show that all works without TensorFlow"


@pytest.mark.parametrize("file", ["py311.txt", "py313.txt"])
def test_each_requirement_is_pinned_to_a_version_that_fits(file: str) -> None:
    lines = (ROOT / "constraints" / file).read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
