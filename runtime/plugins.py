"""Kernels of a user's own primitives.

Only the user names the files: on the command line, in their `pyproject.toml` (`[tool.detc] kernels = [...]`), or by
`register`. A spec cannot.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from detc.dsl.catalogue.running import BAD_PLUGIN
from detc.dsl.diagnostics import DiagnosticError

_files: list[Path] = []


def register(path: Path) -> None:
    """Use the kernels of a Python file: its public functions and `torch.nn.Module` classes, by their names."""
    if not path.is_file():
        raise DiagnosticError(BAD_PLUGIN.at(None, f"there is no file {path} to take kernels from"))
    _files.append(path.resolve())


def kernels() -> Mapping[str, Callable[..., Any]]:
    """detc's own kernels and the user's.

    Raises:
        DiagnosticError: for a file that cannot be run, or that redefines a primitive.
    """
    from detc.runtime.kernels import KERNELS

    found = dict(KERNELS)
    for path in dict.fromkeys([*_from_pyproject(), *_files]):
        module = _run(path)
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value) or getattr(value, "__module__", None) != module.__name__:
                continue
            if name in found:
                raise DiagnosticError(
                    BAD_PLUGIN.at(
                        None,
                        f'{path} defines "{name}", which exists already',
                        detail="name the kernel, and the op it is for, otherwise; helpers start with an underscore",
                    )
                )
            found[name] = value
    return found


def _from_pyproject() -> list[Path]:
    file = Path("pyproject.toml")
    if not file.is_file():
        return []
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("detc", {})
        return [Path(name).resolve() for name in settings.get("kernels", [])]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DiagnosticError(
            BAD_PLUGIN.at(None, f"[tool.detc] of {file} cannot be read: {error}", detail='write kernels = ["file.py"]')
        ) from None


def _run(path: Path) -> ModuleType:
    name = f"detc_kernels_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DiagnosticError(BAD_PLUGIN.at(None, f"{path} is not a Python file"))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # The user's own code: whatever it raises is theirs to see.
        raise DiagnosticError(
            BAD_PLUGIN.at(None, f"{path} fails when it is run: {type(error).__name__}: {error}")
        ) from error
    return module
