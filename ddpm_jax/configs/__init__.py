"""The shipped configurations: in a checkout the files of the top-level `configs/`, in a wheel the same files here."""

import importlib
from pathlib import Path
from types import ModuleType

_CHECKOUT = Path(__file__).resolve().parents[2]
if (_CHECKOUT / "pyproject.toml").is_file():  # in a wheel that place is site-packages, and its `configs` not ours
    __path__.append(str(_CHECKOUT / "configs"))


def find(name: str) -> str:
    """Return the path of a configuration given as a path or as a shipped name (`punks_cfg`).

    Raises FileNotFoundError, naming the shipped ones, if there is none.
    """
    candidates = [Path(name), *(Path(folder) / f"{name.removesuffix('.py')}.py" for folder in __path__)]
    for path in candidates:
        if path.suffix == ".py" and path.is_file():
            return str(path)
    raise FileNotFoundError(f"no configuration {name!r}; give a path to a .py file or one of {', '.join(names())}")


def names() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted({path.stem for folder in __path__ for path in Path(folder).glob("*_cfg.py")})


def module(name: str) -> ModuleType:
    """Return the module of a shipped configuration. Raises ValueError for any other name: it is never a path."""
    if name not in names():
        raise ValueError(f"unknown configuration {name!r}; choose one of {', '.join(names())}")
    return importlib.import_module(f"ddpm_jax.configs.{name}")
