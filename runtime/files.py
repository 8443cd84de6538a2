"""Writing results so that nothing is ever half there."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError

_UNFINISHED = ".writing-"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder (made if needed), of which the file becomes `path` at the end of the block.

    The temporary name has the suffix of `path`. A file that is there is replaced by one with its permissions; what is
    there and no file, such as /dev/stdout or a pipe, is written to and not replaced. A block that fails leaves nothing.
    Raises DiagnosticError cannot-write on any failure of the file system.
    """
    temporary: Path | None = None
    try:
        special = path.exists() and not path.is_file() and not path.is_dir()
        if not special:
            path.parent.mkdir(parents=True, exist_ok=True)
        folder = None if special else path.parent
        handle, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=folder)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if special:
            path.write_bytes(temporary.read_bytes())
        else:
            temporary.chmod(stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o644)
            temporary.replace(path)
    except OSError as error:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: {error.strerror or error}")) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with the temporary name of `whole`. Raises DiagnosticError cannot-write."""
    with whole(path) as temporary:
        write(temporary)


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left in a folder."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def make_folder(path: Path) -> None:
    """Makes a folder for results. Raises DiagnosticError cannot-write."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: {error.strerror}")) from None
