"""The files of an editor's workspace: open buffers before what is on disk, each parsed once a version."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from detc.compiler.modules import (
    MAXIMUM_BYTES,
    Loader,
    Module,
    decode,
    parse_cached,
    read_bytes,
    shown_path,
    specs_folder,
)
from detc.compiler.pieces import modules_of
from detc.compiler.scope import Closure
from detc.dsl import tree as t
from detc.dsl.catalogue import syntax
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.dsl.parser import recover
from detc.dsl.source import Source, Span

# Bounds on looking for specs in a workspace, which may hold a data set of millions of files.
MAXIMUM_FILES = 2_000
MAXIMUM_ENTRIES = 50_000
# How long a list of the workspace's files holds, in seconds.
LISTING_AGE = 10.0
# How many graphs of earlier versions of a file are kept, and how many pieces: several times what the largest file has.
MAXIMUM_GRAPHS = 64
MAXIMUM_PIECES = 1_000
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "dist-packages"}


@dataclass(eq=False)
class Parsed:
    """A version of a file: its text, the tree of what parses, and its syntax errors."""

    file: t.File
    errors: list[Diagnostic]
    # Of a file on disk: when it was changed, and its size.
    stamp: tuple[int, int] | None = None


@dataclass
class Project:
    """What a language server knows.

    `folders` are the workspace's, `roots` further import roots. Both are import roots of every file: who opens a folder
    trusts it. `work` counts what was done, by "parsed" and "elaborated".
    """

    folders: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    work: Counter[str] = field(default_factory=Counter)
    _buffers: dict[Path, str] = field(default_factory=dict)
    _parsed: dict[Path, Parsed] = field(default_factory=dict)
    _loaders: dict[Path, _OverlayLoader] = field(default_factory=dict)
    _listing: tuple[float, list[Path]] = (0.0, [])
    # The specs that come with detc; they do not come and go.
    _library: list[Path] | None = None

    # ---- texts ------------------------------------------------------------------------------------------------------

    def open(self, path: Path, text: str) -> None:
        """An editor holds this text for the file, whatever is on disk."""
        path = path.resolve()
        if self._buffers.get(path) != text:
            self._buffers[path] = text
            self.forget(path)

    def close(self, path: Path) -> None:
        """The file is what is on disk again."""
        if self._buffers.pop(path.resolve(), None) is not None:
            self.forget(path.resolve())

    @property
    def opened(self) -> list[Path]:
        """The files with a buffer."""
        return list(self._buffers)

    def text(self, path: Path) -> str:
        """The text of a file as it is now.

        Raises:
            DiagnosticError: where it cannot be read.
        """
        path = path.resolve()
        return self._buffers[path] if path in self._buffers else self.parsed(path).file.source.text

    def forget(self, path: Path) -> None:
        """A file has changed: it, and what imports it, are to be looked at again."""
        self._parsed.pop(path, None)
        for loader in self._loaders.values():
            loader.forget(path)

    def changed_on_disk(self, path: Path) -> None:
        """A file was made, changed or deleted: imports that looked for it in vain may find it."""
        if path not in self._buffers:
            self.forget(path)

    def rooted(self, folders: tuple[Path, ...]) -> None:
        """The workspace has other folders: imports are looked for anew."""
        self.folders = folders
        self._loaders.clear()
        self.relist()

    def refresh(self) -> None:
        """Notice what has changed on disk."""
        for path, parsed in list(self._parsed.items()):
            if path not in self._buffers and parsed.stamp != _stamp(path):
                self.forget(path)

    def parsed(self, path: Path, importer: Span | None = None) -> Parsed:
        """The tree of a file as it is now.

        Raises:
            DiagnosticError: unreadable-file, not-utf8; of a buffer never.
        """
        path = path.resolve()
        if path in self._parsed:
            return self._parsed[path]
        self.work["parsed"] += 1
        if path in self._buffers:
            source = Source(shown_path(path), self._buffers[path])
            if len(source.text) > MAXIMUM_BYTES:
                error = syntax.TOO_LARGE_FILE.at(Span(source, 0, 0), "this file has more than a megabyte")
                made = Parsed(t.File(Source(source.name, ""), [], [], None, "", []), [error])
            else:
                made = Parsed(*recover(source))
        else:
            name = shown_path(path)
            source = Source(name, decode(read_bytes(path, importer), name, importer))
            try:
                made = Parsed(parse_cached(source), [], _stamp(path))
            except DiagnosticError:
                made = Parsed(*recover(source), _stamp(path))
        self._parsed[path] = made
        return made

    # ---- modules ----------------------------------------------------------------------------------------------------

    def module(self, path: Path) -> Module:
        """The file with its imports resolved, as far as they can be.

        Raises:
            DiagnosticError: where the file cannot be read.
        """
        return self._loader(path).load(path)

    def errors(self, path: Path) -> list[Diagnostic]:
        """What is wrong with the file's own syntax, names and imports.

        Raises:
            DiagnosticError: where the file cannot be read.
        """
        loader = self._loader(path)
        loader.load(path)
        return [*self.parsed(path).errors, *loader.wrong[path.resolve()]]

    def broken_imports(self, path: Path) -> dict[Path, list[Diagnostic]]:
        """The files that this one imports, however indirectly, and that have errors."""
        loader = self._loader(path)
        found = {}
        for imported in loader.imported(path.resolve()):
            errors = [*self.parsed(imported).errors, *loader.wrong.get(imported, [])]
            if errors:
                found[imported] = errors
        return found

    def imports(self, path: Path) -> set[Path]:
        """The files that this one imports, however indirectly."""
        self.module(path)
        return self._loader(path).imported(path.resolve())

    def _loader(self, path: Path) -> _OverlayLoader:
        folder = path.resolve().parent
        if folder not in self._loaders:
            self._loaders[folder] = _OverlayLoader(self)
        return self._loaders[folder]

    # ---- the workspace ----------------------------------------------------------------------------------------------

    def specs(self) -> list[Path]:
        """The specs of the workspace, open ones first. Hidden folders and installed packages are left out."""
        when, listed = self._listing
        if time.monotonic() - when > LISTING_AGE or not when:
            listed = [path for folder in self.folders for path in _specs_below(folder)][:MAXIMUM_FILES]
            self._listing = (time.monotonic(), listed)
        return list(dict.fromkeys([*self._buffers, *listed]))

    def relist(self) -> None:
        """Files came or went."""
        self._listing = (0.0, [])

    def editable(self, path: Path) -> bool:
        """Whether a file is the user's to change: in the workspace, and not of an installed package."""
        return any(
            path.is_relative_to(folder)
            and not _SKIPPED & set(path.relative_to(folder).parts)
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and not {"site-packages", "dist-packages"} & set(path.parts)
            for folder in (f.resolve() for f in self.folders)
        )

    def importable(self, roots: list[Path]) -> list[tuple[str, Path]]:
        """The files under these roots, each with the path by which an import may name it."""
        if self._library is None:
            self._library = _specs_below(specs_folder())
        found: dict[str, Path] = {}
        for root in roots:
            for path in [*self.specs(), *self._library]:
                if path.is_relative_to(root):
                    found.setdefault(path.relative_to(root).as_posix(), path)
        return list(found.items())

    def importable_from(self, path: Path) -> list[tuple[str, Path]]:
        """The files that a file may import, each once, by its shortest name."""
        self.module(path)
        roots = [path.resolve().parent, *self._loader(path).allowed]
        shortest: dict[Path, str] = {}
        for text, file in self.importable(roots):
            if len(text) < len(shortest.get(file, text + " ")):
                shortest[file] = text
        return [(text, file) for file, text in shortest.items()]


class _OverlayLoader(Loader):
    """A loader that reads a project's buffers, keeps modules with errors, and loads anew what an edit touches."""

    def __init__(self, project: Project) -> None:
        super().__init__((*project.roots, *project.folders))
        self.project = project
        # By file: what is wrong with its names and imports, and the files it imports.
        self.wrong: dict[Path, list[Diagnostic]] = {}
        self._imports: dict[Path, set[Path]] = {}
        self._earlier: dict[Path, Module] = {}

    def parsed(self, path: Path, importer: Span | None) -> t.File:
        return self.project.parsed(path, importer).file

    def fill(self, module: Module, prelude: bool) -> None:
        module.incomplete = bool(self.project.parsed(module.path).errors)
        self.wrong[module.path] = self.names(module, prelude)

    def exists(self, path: Path) -> bool:
        return path in self.project.opened or super().exists(path)

    def importable(self) -> list[str]:
        return [text for text, _ in self.project.importable(self.allowed)]

    def _module(self, path: Path, importer: Span | None, prelude: bool = False) -> Module:
        resolved = path.resolve()
        if self._loading:
            self._imports.setdefault(self._loading[-1][0], set()).add(resolved)
        if resolved in self.modules:
            return self.modules[resolved]
        self._imports[resolved] = set()
        module = super()._module(path, importer, prelude)
        self._reuse(module)
        return module

    def _reuse(self, module: Module) -> None:
        """Graphs and pieces of the version before stay true where no file that declares what they are made of has
        changed; this file's own declarations are new. Warnings name places that may have moved."""
        earlier = self._earlier.pop(module.path, None)
        if earlier is None:
            return
        graphs = [(key, made) for key, made in earlier.graphs.items() if not made[1] and self._holds(made[2])]
        pieces = [(key, piece) for key, piece in earlier.pieces.items() if self._holds(piece.closure)]
        module.graphs = dict(graphs[-MAXIMUM_GRAPHS:])
        module.pieces = dict(pieces[-MAXIMUM_PIECES:])

    def _holds(self, closure: Closure) -> bool:
        """Whether the files that declare a configured component are as they were when it was made."""
        return all(module is not None and self.modules.get(module.path) is module for module in modules_of(closure))

    def imported(self, path: Path) -> set[Path]:
        """All files that a file imports, however indirectly."""
        found: set[Path] = set()
        stack = [path]
        while stack:
            new = self._imports.get(stack.pop(), set()) - found
            found |= new
            stack.extend(new)
        return found - {path}

    def forget(self, path: Path) -> None:
        """Drop a file's module, those of what imports it, and those that look for files in vain."""
        stale = [p for p in self.modules if p == path or path in self.imported(p) or self.wrong.get(p)]
        if self._prelude is not None and path == self._prelude.path:
            self._prelude = None
            stale = list(self.modules)
        for p in stale:
            self._earlier[p] = self.modules.pop(p)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def _specs_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    entries = 0
    for parent, folders, names in os.walk(folder.resolve()):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED)
        entries += len(folders) + len(names)
        found += [Path(parent) / name for name in sorted(names) if name.endswith(".det")]
        if entries > MAXIMUM_ENTRIES or len(found) > MAXIMUM_FILES:
            break
    return found
