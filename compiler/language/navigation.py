"""Where things are: definitions, references, and the symbols of a file and of a workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detc.compiler.language.names import Occurrence, Symbol, kind_of
from detc.compiler.language.session import Session
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError

# How many symbols a query of the workspace gives.
MAXIMUM_SYMBOLS = 200


@dataclass(frozen=True)
class Place:
    """Characters `start` to `end` of a file."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Entry:
    """A declaration or a part of one, for an outline: from `start` to `end`, its name at `name_start`."""

    name: str
    kind: str
    detail: str
    start: int
    end: int
    name_start: int
    parts: tuple[Entry, ...] = ()


def definition(session: Session, path: Path, offset: int) -> Place | None:
    """Where what is named at an offset is defined; of an imported file, its start.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    occurrence = session.bindings(path).at(offset)
    if occurrence is None:
        return None
    symbol = occurrence.symbol
    return Place(symbol.path, symbol.start, symbol.start + (0 if symbol.kind == "file" else len(symbol.name)))


def references(session: Session, path: Path, offset: int, definition: bool = True) -> list[Place]:
    """All places, in the workspace and in what it imports, where the symbol at an offset is named.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    occurrence = session.bindings(path).at(offset)
    if occurrence is None:
        return []
    found = occurrences(session, occurrence.symbol, path)
    return [Place(file, o.start, o.end) for file, o in found if definition or o.role != "definition"]


def occurrences(session: Session, symbol: Symbol, path: Path) -> Iterator[tuple[Path, Occurrence]]:
    """Where a symbol is named: in the file at `path`, where it is declared, in their imports, and in the workspace."""
    for file in reachable(session, symbol, path):
        try:
            if symbol.kind != "file" and symbol.name not in session.project.parsed(file).file.source.text:
                continue
            bindings = session.bindings(file)
        except DiagnosticError:
            continue
        for occurrence in bindings.occurrences:
            same = occurrence.symbol == symbol
            if same or (symbol.kind == occurrence.symbol.kind == "file" and symbol.path == occurrence.symbol.path):
                yield file, occurrence


def reachable(session: Session, symbol: Symbol, path: Path) -> list[Path]:
    """The files that may name a symbol; of a variable or label only its own."""
    if symbol.kind in ("variable", "label"):
        return [symbol.path]
    project = session.project
    files = [path.resolve(), symbol.path, *project.imports(path), *project.specs(), *symbol.path.parent.glob("*.det")]
    return list(dict.fromkeys(files))


# ---- outlines -------------------------------------------------------------------------------------------------------


def outline(session: Session, path: Path) -> list[Entry]:
    """The declarations of a file with their parameters, inputs and fields.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    return [_entry(declaration) for declaration in session.project.parsed(path).file.declarations]


def _entry(declaration: t.Declaration) -> Entry:
    parts: list[Entry] = []
    text = declaration.source.text
    if isinstance(declaration, t.Component | t.RecordOf | t.Let):
        parts += [_parameter(p, "parameter", text) for p in declaration.parameters or []]
    if isinstance(declaration, t.Component):
        parts += [_parameter(p, "input", text) for p in declaration.inputs]
    if isinstance(declaration, t.RecordOf):
        for statement in declaration.body:
            name = statement.targets[0]
            parts.append(Entry(name.name, "field", "", statement.start, statement.end, name.start))
    detail = ""
    fields: list[t.Field] = []
    if isinstance(declaration, t.Detector):
        base = declaration.base.base if isinstance(declaration.base, t.With) else declaration.base
        of = declaration.model or base
        detail = " ".join(text[of.start : of.end].split()) if of is not None else ""
        fields = declaration.base.fields if isinstance(declaration.base, t.With) else declaration.fields
    parts += [Entry(".".join(f.path), "field", "", f.start, f.end, f.start) for f in fields]
    whole = max(declaration.end, declaration.span.end)
    kind = kind_of(declaration)
    return Entry(declaration.name, kind, detail, declaration.start, whole, declaration.name_start, tuple(parts))


def _parameter(parameter: t.Parameter, kind: str, text: str) -> Entry:
    end = parameter.default.end if parameter.default is not None else parameter.type.end
    detail = " ".join(text[parameter.start + len(parameter.name) + 1 : end].split())
    return Entry(parameter.name, kind, detail[:80], parameter.start, end, parameter.start)


def workspace_symbols(session: Session, query: str) -> list[Symbol]:
    """The declarations of the workspace whose names have the letters of a query in order, ignoring case."""
    found = []
    for path in session.project.specs():
        try:
            file = session.project.parsed(path).file
        except DiagnosticError:
            continue
        for declaration in file.declarations:
            if _matches(query.lower(), declaration.name.lower()):
                found.append(Symbol(path, declaration.name_start, declaration.name, kind_of(declaration)))
                if len(found) == MAXIMUM_SYMBOLS:
                    return found
    return found


def _matches(query: str, name: str) -> bool:
    letters = iter(name)
    return all(letter in letters for letter in query)
