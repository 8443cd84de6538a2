"""Checking a file while it is being written: in steps, so that an editor can be served in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from detc.compiler.check import empty, unique
from detc.compiler.elaborate import elaborate
from detc.compiler.language.project import Project
from detc.compiler.modules import choose, shown_path
from detc.compiler.resolve import resolve
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label
from detc.dsl.source import Span


@dataclass(frozen=True)
class Step:
    """All that is known so far, and whether that is all there is."""

    diagnostics: list[Diagnostic]
    done: bool


def check(project: Project, path: Path, near: int = 0) -> Iterator[Step]:
    """The diagnostics of a file: syntax, names and imports at once, then a step for each detector, beginning with those
    nearest to the offset `near`, where the user is at work. They are what `detc check` says of the file."""
    project.refresh()
    try:
        found = project.errors(path)
        module = project.module(path)
    except DiagnosticError as error:
        yield Step(error.diagnostics, True)
        return
    if not found:
        found = [*_broken(project, path), *found]
        if not found:
            found = resolve(module) if module.file.declarations else [empty(module)]
    if module.file.default is not None and not module.incomplete:
        try:
            choose(module, None)
        except DiagnosticError as error:
            found += error.diagnostics
    detectors = [] if any(d.severity == "error" for d in found) else module.detectors
    yield Step(unique(found), not detectors)
    ordered = sorted(detectors, key=lambda d: max(d.start - near, near - d.end, 0))
    for number, detector in enumerate(ordered, 1):
        known = len(module.graphs)
        try:
            found += elaborate(module, detector.name).warnings
            project.work["elaborated"] += len(module.graphs) - known
        except DiagnosticError as error:
            project.work["elaborated"] += 1
            found += error.diagnostics
        yield Step(unique(found), number == len(ordered))


def _broken(project: Project, path: Path) -> Iterator[Diagnostic]:
    """Errors of imported files, the first of each, told where this file imports them."""
    for broken, errors in project.broken_imports(path).items():
        place = Label(_import_of(project, path, broken), "imported here")
        summary = f"{shown_path(broken)}: {errors[0].summary}"
        yield replace(errors[0], summary=summary, labels=(place, *errors[0].labels))


def _import_of(project: Project, path: Path, broken: Path) -> Span:
    """The import by which a file comes to use another."""
    module = project.module(path)
    for statement in module.file.imports:
        origins = {module.names[n.name][1].path for n in statement.names if n.name in module.names}
        indirect = any(broken in project.imports(origin) for origin in origins)
        if broken in origins or indirect or Path(str(statement.path.value)).name == broken.name:
            return Span(module.source, statement.path.start, statement.path.end)
    # The prelude, which no file imports in words.
    return Span(module.source, 0, 0)
