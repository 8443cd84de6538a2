"""Writing results so that nothing is ever half there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary name in the same folder (made if needed), then renames what it wrote to `path`.

    The temporary name has the suffix of `path`. Raises DiagnosticError cannot-write on any failure of the file system.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: {error.strerror or error}")) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8"))


def make_folder(path: Path) -> None:
    """Makes a folder for results. Raises DiagnosticError cannot-write."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: {error.strerror}")) from None
