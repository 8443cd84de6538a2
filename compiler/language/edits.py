"""Changes to text: renaming, layout, and quick fixes of diagnostics."""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate
from pathlib import Path

from detc.compiler.language.check import check
from detc.compiler.language.names import Bindings, Symbol, bind, is_name, kind_of
from detc.compiler.language.navigation import occurrences, reachable
from detc.compiler.language.project import Project
from detc.compiler.language.session import Session
from detc.compiler.modules import shown_path, specs_folder
from detc.dsl import tree as t
from detc.dsl.catalogue import names
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.dsl.format import format_source
from detc.dsl.source import Source

# How long the outcome of a rename is checked, in seconds, beyond the files that it changes.
PATIENCE = 4.0
# Texts with more lines are laid out in one edit: finding the lines that differ takes the square of their number.
MAXIMUM_LINES = 5_000
# How many imports are offered for one unknown name.
MAXIMUM_IMPORTS = 5


@dataclass(frozen=True, order=True)
class Edit:
    """`text` in place of the characters `start` to `end`."""

    start: int
    end: int
    text: str


class Refused(Exception):
    """Something cannot be renamed; the message says why."""


@dataclass(frozen=True)
class Fix:
    """A change that mends a diagnostic. `sure` where it is what the diagnostic itself proposes."""

    title: str
    edits: tuple[Edit, ...]
    sure: bool


# ---- renaming -------------------------------------------------------------------------------------------------------


def renameable(session: Session, path: Path, offset: int) -> tuple[int, int]:
    """The start and end of the name at an offset.

    Raises:
        Refused: where there is none, or none that can be renamed.
        DiagnosticError: where the file cannot be read.
    """
    occurrence = session.bindings(path).at(offset)
    if occurrence is None:
        raise Refused("there is no name here that can be renamed")
    _check_symbol(session, occurrence.symbol)
    return occurrence.start, occurrence.end


def rename(session: Session, path: Path, offset: int, new: str) -> dict[Path, list[Edit]]:
    """The edits by which the symbol at an offset gets a new name, everywhere in the workspace.

    What the files mean stays the same: the edited files are bound and checked before the edits are given.

    Raises:
        Refused: where the name cannot be had, or something would mean something else.
        DiagnosticError: where the file cannot be read.
    """
    renameable(session, path, offset)
    occurrence = session.bindings(path).at(offset)
    assert occurrence is not None
    symbol = occurrence.symbol
    if not is_name(new):
        raise Refused(f'"{new}" is not a name')
    if new == symbol.name:
        return {}
    edits: dict[Path, list[Edit]] = {}
    for file, found in occurrences(session, symbol, path):
        if not session.project.editable(file):
            raise Refused(f"{shown_path(file)} names it too, and is not a file of the workspace")
        edits.setdefault(file, []).append(Edit(found.start, found.end, new))
    _check_outcome(session, symbol, path, edits, new)
    return edits


def _check_symbol(session: Session, symbol: Symbol) -> None:
    if symbol.kind == "label":
        raise Refused(f'"{symbol.name}" is a label: it is the key of weights in checkpoints, which would not load')
    if symbol.kind == "file":
        raise Refused("rename the file itself, and then its imports")
    if not session.project.editable(symbol.path):
        where = "detc's own library" if symbol.path.is_relative_to(specs_folder()) else shown_path(symbol.path)
        raise Refused(f'"{symbol.name}" is declared in {where}, which is not in the workspace')
    found = session.declaration(symbol)
    if found is not None and kind_of(found[0]) == "op" and symbol.kind in ("op", "parameter", "input"):
        raise Refused(f'"{symbol.name}" is a primitive\'s: its kernel, in Python, is found and called by that name')


def _check_outcome(session: Session, symbol: Symbol, path: Path, edits: dict[Path, list[Edit]], new: str) -> None:
    """Refuse a rename after which a name means something else, or something no longer compiles."""
    project = session.project
    after = Project(project.folders, project.roots)
    for file in project.opened:
        after.open(file, project.text(file))
    for file, changes in edits.items():
        if project.parsed(file).errors:
            raise Refused(f"{shown_path(file)} has syntax errors: mend them first")
        after.open(file, applied(project.text(file), changes))
    moved = {file: _Moved(changes) for file, changes in edits.items()}
    for file in edits:
        for error in after.errors(file):
            raise Refused(f'"{new}" cannot be had: {error.summary}')
        if _bound(session.bindings(file), moved, file, symbol, new) != _bound(bind(after.module(file)), {}, file):
            raise Refused(f'"{new}" means something else already in {shown_path(file)}')
    # Where a name's owner is known only in a detector, elaboration tells.
    began = time.monotonic()
    for file in sorted(reachable(session, symbol, path), key=lambda f: f not in edits):
        if file not in edits and (not edits.keys() & _imports(project, file) or time.monotonic() - began > PATIENCE):
            continue
        errors = {error.summary for error in _errors(after, file)}
        fresh = errors - {error.summary for error in _errors(project, file)} if errors else set()
        for summary in sorted(fresh):
            raise Refused(f"{shown_path(file)} would no longer compile: {summary}")


def _bound(
    bindings: Bindings, moved: Mapping[Path, _Moved], file: Path, symbol: Symbol | None = None, new: str = ""
) -> list[tuple[int, Path, int, str]]:
    """What each name refers to, as it will be once texts have moved."""
    found = []
    for occurrence in bindings.occurrences:
        target = occurrence.symbol
        name = new if target == symbol else target.name
        start = moved[target.path].of(target.start) if target.path in moved else target.start
        here = moved[file].of(occurrence.start) if file in moved else occurrence.start
        found.append((here, target.path, start, name))
    return sorted(found)


class _Moved:
    """Where offsets into a text are after edits."""

    def __init__(self, edits: list[Edit]) -> None:
        ordered = sorted(edits)
        self._starts = [edit.start for edit in ordered]
        self._shifts = [0]
        for edit in ordered:
            self._shifts.append(self._shifts[-1] + len(edit.text) - (edit.end - edit.start))

    def of(self, offset: int) -> int:
        # What starts where an edit starts stays there.
        return offset + self._shifts[bisect_right(self._starts, offset - 1)]


def _imports(project: Project, file: Path) -> set[Path]:
    try:
        return project.imports(file)
    except DiagnosticError:
        return set()


def _errors(project: Project, file: Path) -> list[Diagnostic]:
    *_, last = check(project, file)
    return [d for d in last.diagnostics if d.severity == "error"]


def applied(text: str, edits: list[Edit]) -> str:
    """The text after edits that do not overlap."""
    parts, place = [], 0
    for edit in sorted(edits):
        parts += [text[place : edit.start], edit.text]
        place = edit.end
    return "".join([*parts, text[place:]])


# ---- layout ---------------------------------------------------------------------------------------------------------


def formatted(project: Project, path: Path) -> list[Edit]:
    """The edits that lay a file out as `detc fmt` does: of the lines that differ, so that a cursor elsewhere stays.

    Raises:
        DiagnosticError: where the file cannot be read or parsed.
    """
    text = project.text(path)
    laid_out = format_source(Source(shown_path(path), text))
    before, after = text.splitlines(keepends=True), laid_out.splitlines(keepends=True)
    if len(before) > MAXIMUM_LINES:
        return [Edit(0, len(text), laid_out)]
    starts = [0, *accumulate(map(len, before))]
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [
        Edit(starts[first], starts[last], "".join(after[start:end]))
        for what, first, last, start, end in changes
        if what != "equal"
    ]


# ---- quick fixes ----------------------------------------------------------------------------------------------------


def fixes(session: Session, path: Path, diagnostic: Diagnostic) -> Iterator[Fix]:
    """What mends a diagnostic whose culprit is in the file at `path`."""
    if not diagnostic.labels:
        return
    span = diagnostic.labels[0].span
    if diagnostic.suggestion is not None:
        wrong, right = diagnostic.suggestion.wrong, diagnostic.suggestion.right
        place = _within(span.text, wrong, last=diagnostic.kind is names.UNKNOWN_FIELD)
        if place is not None:
            start = span.start + place
            yield Fix(f'write "{right}"', (Edit(start, start + len(wrong), right),), sure=True)
    if diagnostic.kind is names.UNKNOWN_NAME and is_name(span.text):
        yield from _imports_of(session, path, span.text)


def _within(text: str, word: str, last: bool) -> int | None:
    """Where a word stands in a text, as an argument's name if it is one."""
    edge = r"\b" if word.isidentifier() else ""
    found = [m.start() for m in re.finditer(f"{edge}{re.escape(word)}{edge}", text)]
    named = [m.start() for m in re.finditer(rf"\b{re.escape(word)}\s*=(?!=)", text)]
    if not found:
        return None
    return found[-1] if last else (named or found)[0]


def _imports_of(session: Session, path: Path, name: str) -> Iterator[Fix]:
    """Imports that would make a name known."""
    project = session.project
    for count, (text, _) in enumerate(importing(session, path, name)):
        if count == MAXIMUM_IMPORTS:
            return
        yield Fix(f'import {name} from "{text}"', (import_edit(project.parsed(path).file, name, text),), sure=False)


def importing(session: Session, path: Path, name: str) -> Iterator[tuple[str, t.Declaration]]:
    """The files that declare a name, as an import in the file at `path` names them."""
    project = session.project
    for text, file in project.importable_from(path):
        if file == path.resolve():
            continue
        try:
            parsed = project.parsed(file)
        except DiagnosticError:
            continue
        for declaration in parsed.file.declarations:
            if declaration.name == name:
                yield text, declaration


def import_edit(file: t.File, name: str, path: str) -> Edit:
    """The edit that imports a name: into an import of the same file, or a new one after the last."""
    for statement in file.imports:
        if statement.path.value == path:
            end = statement.names[-1].end
            return Edit(end, end, f", {name}")
    text = file.source.text
    line = f'import {name} from "{path}"\n'
    if file.imports:
        end = text.find("\n", file.imports[-1].end)
        return Edit(len(text), len(text), f"\n{line}") if end < 0 else Edit(end + 1, end + 1, line)
    # After the comment that the file begins with.
    start = 0
    while text.startswith("#", start) and "\n" in text[start:]:
        start = text.index("\n", start) + 1
    return Edit(start, start, f"\n{line}\n" if start else f"{line}\n")
