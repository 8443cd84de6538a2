"""What several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from detc.dsl.diagnostics import Diagnostic
from detc.dsl.render import to_text


def split_spec(spec: str) -> tuple[Path, str | None]:
    """SPEC or SPEC:NAME, as a path and the name of a detector."""
    path, colon, name = spec.rpartition(":")
    if colon and path and "/" not in name and "\\" not in name:
        return Path(path), name
    return Path(spec), None


def report(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics to the standard error stream."""
    for diagnostic in diagnostics:
        print(to_text(diagnostic, colour(sys.stderr)) + "\n", file=sys.stderr)


def colour(stream: object) -> bool:
    """Whether a stream shows colours: a terminal, and the user does not object (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and not os.environ.get("NO_COLOR")


def choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is not one of those allowed."""
    import typer

    if value not in allowed:
        raise typer.BadParameter(f"{option} is one of {', '.join(allowed)}, and not {value!r}")
