"""Figures of another implementation, in files.

A figure is a JSON file, or one compressed by gzip, of one of three kinds: a layout (state-dict key -> shape), values
of a forward pass and its detections, or losses and gradient norms of a training pass.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detc.dsl.catalogue.checkpoint import REFERENCE_MALFORMED
from detc.dsl.diagnostics import DiagnosticError


@dataclass(frozen=True)
class Reference:
    """A file of figures: of which configuration, and of which kind ("layout", "forward" or "losses")."""

    path: Path
    config: str
    kind: str

    def read(self) -> dict[str, Any]:
        content: dict[str, Any] = _read(self.path)
        return content


def find_references(paths: Iterable[Path]) -> list[Reference]:
    """The figures in these files and folders.

    Raises:
        DiagnosticError: reference-malformed.
    """
    found = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.name.endswith((".json", ".json.gz")))
            found += [reference for file in files if (reference := _reference(file)) is not None]
        else:
            reference = _reference(path)
            if reference is None:
                raise _malformed(path, "is JSON, and neither a layout nor figures of a forward or training pass")
            found.append(reference)
    return found


def _malformed(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError(REFERENCE_MALFORMED.at(None, f"{path} {why}"))


def _read(path: Path) -> Any:
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    except OSError as error:
        # gzip's errors are among these, without an error number.
        raise _malformed(path, f"cannot be read: {error.strerror or error}") from None
    except (EOFError, ValueError, RecursionError, zlib.error):
        raise _malformed(path, "is not whole JSON") from None


def _reference(path: Path) -> Reference | None:
    """What a file has figures of; None where it is something else."""
    content = _read(path)
    by_name = path.name.removesuffix(".gz").removesuffix(".json").removesuffix(".py").replace("__", "/")
    if not isinstance(content, dict) or not content:
        return None
    for kind, shown in (("forward", _is_forward), ("losses", _is_losses)):
        if isinstance(content.get(kind), dict):
            if not shown(content):
                raise _malformed(path, f"has figures of a {kind} pass that are not complete")
            return Reference(path, str(content.get("config", by_name)).removesuffix(".py"), kind)
    if all(isinstance(shape, list) and all(isinstance(size, int) for size in shape) for shape in content.values()):
        return Reference(path, by_name, "layout")
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(_is_number(v) for v in value)


def _is_forward(content: Mapping[str, Any]) -> bool:
    modules = list(content["forward"].values())
    if not all(isinstance(module, dict) and all(isinstance(t, dict) for t in module.values()) for module in modules):
        return False
    tensors = [tensor for module in modules for tensor in module.values()]
    size = content.get("input")
    return (
        all(_is_numbers(t.get("shape")) and _is_numbers(t.get("sample")) and _is_number(t.get("l2")) for t in tensors)
        and _is_numbers(size)
        and len(size) == 4
        and ("detections" not in content or _are_detections(content))
    )


def _are_detections(content: Mapping[str, Any]) -> bool:
    columns = str(content.get("detection_columns", "")).split(",")
    rows = content["detections"]
    return (
        {"x1", "y1", "x2", "y2", "score"} <= set(columns)
        and isinstance(rows, list)
        and all(_is_numbers(row) and len(row) == len(columns) for row in rows)
    )


def _is_losses(content: Mapping[str, Any]) -> bool:
    norms = content.get("grad_l2")
    return (
        all(_is_numbers(values) for values in content["losses"].values())
        and _is_number(content.get("total"))
        and isinstance(norms, dict)
        and all(_is_number(norm) for norm in norms.values())
        and isinstance(content.get("frozen"), list)
    )
