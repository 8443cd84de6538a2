"""Files and what they import."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from detc.dsl import tree as t
from detc.dsl.catalogue import names, syntax
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label, suggest
from detc.dsl.parser import parse
from detc.dsl.source import Source, Span

MAXIMUM_BYTES = 1_000_000


@dataclass(eq=False)
class Module:
    """A file whose imports are resolved. `names` maps what the file can see to declarations and where they are from."""

    path: Path
    file: t.File
    names: dict[str, tuple[t.Declaration, Module]] = field(default_factory=dict)
    # What the typing rules of this file's primitives gave, by declaration, attributes and input types: a detector
    # applies the same convolution to the same feature type many times, and the detectors of a file share most.
    inferred: dict[Any, Any] = field(default_factory=dict, repr=False)
    # Its detectors before they are elaborated, and those they are variants of, by declaration.
    values: dict[Any, Any] = field(default_factory=dict, repr=False)
    # The graphs (None where there are mistakes), diagnostics and models of its detectors, by model and class count:
    # many rows of a table differ in nothing else than data or schedule.
    graphs: dict[Any, Any] = field(default_factory=dict, repr=False)
    # Pieces of those graphs: what components added, by component and types of the inputs.
    pieces: dict[Any, Any] = field(default_factory=dict, repr=False)
    # Whether some of its text could not be parsed, so that it may declare more than is known.
    incomplete: bool = False

    @property
    def source(self) -> Source:
        return self.file.source

    @property
    def detectors(self) -> list[t.Detector]:
        return [d for d in self.file.declarations if isinstance(d, t.Detector)]


def specs_folder() -> Path:
    """The folder of the specs that come with detc; the last import root."""
    return Path(str(files("detc") / "specs")).resolve()


class Loader:
    """Reads files, each once, and resolves their imports under the given roots."""

    def __init__(self, roots: tuple[Path, ...] = ()) -> None:
        self.roots = tuple(r.resolve() for r in roots)
        self.modules: dict[Path, Module] = {}
        self._loading: list[tuple[Path, Span | None]] = []
        self._prelude: Module | None = None
        # The folders that files may be read from.
        self.allowed: list[Path] = []

    def load(self, path: Path) -> Module:
        """The module of the file a user named; its folder becomes an import root.

        Raises:
            DiagnosticError: with every fault of the file and its imports.
        """
        folder = path.resolve().parent
        specs = specs_folder()
        self.allowed = [folder, *self.roots, specs]
        # A spec of detc's own, or of a project with folders, may sit deeper than what it imports.
        self._prelude = self._prelude or self._module(specs / "lib" / "ops.det", None, prelude=True)
        return self._module(path, None)

    def _module(self, path: Path, importer: Span | None, prelude: bool = False) -> Module:
        resolved = path.resolve()
        if resolved in self.modules:
            return self.modules[resolved]
        for index, (loading, _) in enumerate(self._loading):
            if loading == resolved:
                raise DiagnosticError(self._cycle(index, importer))
        self._loading.append((resolved, importer))
        try:
            module = Module(resolved, self.parsed(path, importer))
            self.fill(module, prelude)
        finally:
            self._loading.pop()
        self.modules[resolved] = module
        return module

    def parsed(self, path: Path, importer: Span | None) -> t.File:
        """The tree of a file, which is imported at `importer`.

        Raises:
            DiagnosticError: where it cannot be read or parsed.
        """
        name = shown_path(path)
        return parse_cached(Source(name, decode(read_bytes(path, importer), name, importer)))

    def _cycle(self, index: int, importer: Span | None) -> Diagnostic:
        spans = [span for _, span in self._loading[index + 1 :] if span is not None]
        assert importer is not None
        return names.IMPORT_CYCLE.at(
            importer,
            "these files import each other",
            label="this import closes the circle",
            detail="move what both need into a third file",
            labels=tuple(Label(s, "which is imported here") for s in spans),
        )

    def fill(self, module: Module, prelude: bool) -> None:
        """Give the module the names that it can see.

        Raises:
            DiagnosticError: with every name and import that is wrong.
        """
        errors = self.names(module, prelude)
        if errors:
            raise DiagnosticError(errors)

    def names(self, module: Module, prelude: bool) -> list[Diagnostic]:
        """Give the module the names that it can see, and say which are wrong."""
        errors: list[Diagnostic] = []
        places: dict[str, Span] = {}
        if not prelude and self._prelude is not None:
            module.names.update(self._prelude.names)

        def declare(name: str, span: Span, declaration: t.Declaration, origin: Module) -> None:
            if name in places:
                errors.append(
                    names.DUPLICATE_NAME.at(
                        span,
                        f'"{name}" is declared twice',
                        label="declared again here",
                        labels=(Label(places[name], "first declared here"),),
                    )
                )
                return
            places[name] = span
            module.names[name] = (declaration, origin)

        for declaration in module.file.declarations:
            declare(declaration.name, declaration.span, declaration, module)
        for statement in module.file.imports:
            try:
                origin = self._imported(module, statement)
            except DiagnosticError as error:
                errors.extend(error.diagnostics)
                continue
            own = {d.name: d for d in origin.file.declarations}
            for name in statement.names:
                span = Span(module.source, name.start, name.end)
                if name.name in own:
                    declare(name.name, span, own[name.name], origin)
                elif not origin.incomplete:
                    errors.append(
                        names.UNKNOWN_IMPORT.at(
                            span,
                            f'{shown_path(origin.path)} does not declare "{name.name}"',
                            detail=suggest(name.name, own) or f"it declares {', '.join(sorted(own)) or 'nothing'}",
                        )
                    )
        return errors

    def _imported(self, module: Module, statement: t.Import) -> Module:
        span = Span(module.source, statement.path.start, statement.path.end)
        text = str(statement.path.value)
        outside = False
        for folder in [module.path.parent, *self.allowed]:
            candidate = folder / text
            try:
                resolved = candidate.resolve()
                exists = self.exists(resolved)
            except (OSError, ValueError):
                continue
            if not any(resolved.is_relative_to(root) for root in self.allowed):
                outside = True
                continue
            if exists:
                return self._module(candidate, span)
        if outside:
            raise DiagnosticError(
                names.IMPORT_OUTSIDE_ROOTS.at(
                    span,
                    f'"{text}" is outside the import roots',
                    detail="name its folder with --import-root if you trust it",
                    notes=(f"import roots: {', '.join(shown_path(r) for r in self.allowed)}",),
                )
            )
        raise DiagnosticError(
            names.IMPORT_NOT_FOUND.at(
                span,
                f'there is no "{text}"',
                detail=suggest(text, self.importable()),
                notes=(f"looked in: {', '.join(shown_path(r) for r in [module.path.parent, *self.allowed])}",),
            )
        )

    def exists(self, path: Path) -> bool:
        """Whether there is a file to import."""
        return path.is_file()

    def importable(self) -> list[str]:
        """The paths that an import may name, as it writes them."""
        return [str(p.relative_to(root)) for root in self.allowed for p in sorted(root.glob("**/*.det"))[:500]]


def shown_path(path: Path) -> str:
    """The path as a user would type it: relative to where they are, where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)


def spec_files(paths: list[Path]) -> tuple[list[Path], list[Diagnostic]]:
    """The specs among these paths and in these folders, and a diagnostic for each folder without any."""
    specs: list[Path] = []
    diagnostics: list[Diagnostic] = []
    for path in paths:
        found = sorted(path.rglob("*.det")) if path.is_dir() else [path]
        if not found:
            diagnostics.append(syntax.UNREADABLE_FILE.at(None, f"there are no .det files in {path}"))
        specs += found
    return specs, diagnostics


def read_bytes(path: Path, importer: Span | None = None) -> bytes:
    """What a spec's file holds.

    Raises:
        DiagnosticError: unreadable-file, too-large-file; at `importer` where a spec asked for it.
    """
    try:
        if path.is_file() and path.stat().st_size > MAXIMUM_BYTES:
            raise DiagnosticError(_too_large(shown_path(path), importer))
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        near = suggest(path.name, [p.name for p in path.parent.glob("*.det")] if path.parent.is_dir() else [])
        raise DiagnosticError(
            syntax.UNREADABLE_FILE.at(importer, f"cannot read {shown_path(path)}: {reason}", detail=near)
        ) from None


def decode(data: bytes, name: str, importer: Span | None = None) -> str:
    """The text of a spec, without a byte order mark.

    Raises:
        DiagnosticError: not-utf8, too-large-file; at `importer` where a spec asked for it.
    """
    if len(data) > MAXIMUM_BYTES:
        raise DiagnosticError(_too_large(name, importer))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DiagnosticError(
            syntax.NOT_UTF8.at(
                importer,
                f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} in line {line}",
                detail="save it as UTF-8",
            )
        ) from None


def _too_large(name: str, importer: Span | None) -> Diagnostic:
    return syntax.TOO_LARGE_FILE.at(importer, f"{name} has more than a megabyte")


# ---- the cache of parsed files --------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """The user's own, for what is quicker to remember than to make. Raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detc"


@cache
def _parser_version() -> bytes:
    """Changes when the grammar, the parser or the tree does."""
    digest = hashlib.sha256()
    for name in ("grammar.lark", "parser.py", "tree.py"):
        digest.update(files("detc.dsl").joinpath(name).read_bytes())
    return digest.digest()


def parse_cached(source: Source) -> t.File:
    """`parse`, remembering what it made in the user's cache folder, as Python does with its byte code: parsing is
    most of a check's time. The entry's name is a hash of the text and of the parser, so that a stale entry is never
    found. A cache that cannot be read or written is done without."""
    if os.environ.get("DETC_NO_CACHE"):
        return parse(source)
    key = hashlib.sha256(_parser_version() + source.text.encode()).hexdigest()
    try:
        folder = cache_folder() / "parsed"
    except RuntimeError:
        # There is no home.
        return parse(source)
    entry = folder / key
    try:
        if entry.stat().st_uid == os.getuid():
            file: t.File = pickle.loads(entry.read_bytes())
            _place(file, source)
            return file
    except (OSError, pickle.PickleError, EOFError, AttributeError, ValueError, TypeError, RecursionError):
        pass
    file = parse(source)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _place(file, Source("", ""))
        data = pickle.dumps(file, protocol=5)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            temporary.write(data)
        Path(temporary.name).replace(entry)
    except (OSError, RecursionError):
        pass
    _place(file, source)
    return file


def _place(file: t.File, source: Source) -> None:
    """Put the tree in this source: a cached tree knows offsets, and the text is at hand."""
    file.source = source
    for declaration in file.declarations:
        declaration.source = source


def choose(module: Module, name: str | None) -> str:
    """The name of the detector that is meant: the given one, the file's default, or its only one.

    Raises:
        DiagnosticError: where there is none, or none of that name.
    """
    known = [d.name for d in module.detectors]
    default = module.file.default
    if name is None and default is not None:
        name, span = default.name, Span(module.source, default.start, default.end)
    else:
        span = None
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        if not module.file.declarations:
            raise DiagnosticError(
                syntax.EMPTY_FILE.at(None, f"{module.source.name} declares nothing", detail="declare a detector")
            )
        raise DiagnosticError(
            names.NO_DETECTOR.at(
                None,
                f"{module.source.name} declares "
                + ("no detector" if not known else f"{len(known)} detectors and no default"),
                detail=f"ask for one: {module.source.name}:{known[0]}" if known else "",
                notes=(f"it declares {', '.join(known)}",) if known else (),
            )
        )
    if name not in known:
        raise DiagnosticError(
            names.UNKNOWN_DETECTOR.at(
                span,
                f'{module.source.name} declares no detector "{name}"',
                detail=suggest(name, known) or f"it declares {', '.join(known) or 'none'}",
            )
        )
    return name
