"""The Language Server Protocol, spoken by pygls over standard input and output. What is answered is found out by
`detc.compiler.language`, and `answers` has the messages; here are positions, and when a file is checked."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sys
import time
from pathlib import Path
from typing import Any

from lsprotocol import types as lsp
from pygls import uris
from pygls.lsp.server import LanguageServer

import detc
from detc.cli.answers import HANDLERS
from detc.compiler.language.check import check
from detc.compiler.language.positions import Positions
from detc.compiler.language.project import Project
from detc.compiler.language.session import Session
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label

# In seconds: how long the server waits for the next keystroke before it checks, and after how long it shows what it has
# found when a check takes longer.
PAUSE = 0.01
SHOW_AFTER = 0.06
# How long the server works without looking whether the editor has sent something.
SLICE = 0.01
# How long nothing is to be done before memory is tidied up, which takes as long as a check.
IDLE = 0.5

_log = logging.getLogger(__name__)


def serve(roots: tuple[Path, ...] = (), log: Path | None = None) -> None:
    """Serve an editor until it says that it is done."""
    logging.basicConfig(filename=log, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # Walks of a tree recurse with the spec, whose depth the parser bounds.
    sys.setrecursionlimit(40_000)
    # Elaboration makes many objects and few cycles: looking for them in the middle of a check would double its time.
    # That is done between checks, and otherwise only where very much has come together.
    gc.set_threshold(1_000_000, 20, 50)
    gc.freeze()
    Server(roots).start_io()


class Server(LanguageServer):
    """One editor's server. What it knows is in `session`, and what it last found wrong in `found`, by file."""

    def __init__(self, roots: tuple[Path, ...] = ()) -> None:
        super().__init__("detc", f"v{detc.__version__}")
        self.session = Session(Project(roots=tuple(root.resolve() for root in roots)))
        self.found: dict[Path, list[Diagnostic]] = {}
        # The names that the editor has for its files: links are followed here.
        self.names: dict[Path, str] = {}
        self.check_task: asyncio.Task[None] | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._positions: dict[Path, Positions] = {}
        for method, (handler, options) in HANDLERS.items():
            self.feature(method, options)(functools.partial(handler, self))

    @property
    def project(self) -> Project:
        return self.session.project

    # ---- places -----------------------------------------------------------------------------------------------------

    def path(self, uri: str) -> Path:
        """The file of a URI; of a text that has not been saved, one that does not exist in the workspace."""
        name = uris.to_fs_path(uri)
        if name is not None and uri.startswith("file:"):
            return Path(name).resolve()
        folder = self.project.folders[0] if self.project.folders else Path.cwd()
        return (folder / f"{uri.rpartition('/')[2].rpartition(':')[2] or 'untitled'}.det").resolve()

    def uri(self, path: Path) -> str:
        return self.names.get(path) or uris.from_fs_path(str(path)) or path.as_uri()

    def positions(self, path: Path, text: str | None = None) -> Positions:
        """The lines of a file as it is now."""
        text = self.project.text(path) if text is None else text
        known = self._positions.get(path)
        if known is None or known.text != text:
            encoding = self.workspace.position_encoding or lsp.PositionEncodingKind.Utf16
            known = self._positions[path] = Positions(text, str(getattr(encoding, "value", encoding)))
        return known

    def offset(self, path: Path, position: lsp.Position) -> int:
        return self.positions(path).offset(position.line, position.character)

    def range(self, path: Path, start: int, end: int, text: str | None = None) -> lsp.Range:
        positions = self.positions(path, text)
        return lsp.Range(lsp.Position(*positions.position(start)), lsp.Position(*positions.position(end)))

    def location(self, path: Path, start: int, end: int) -> lsp.Location:
        return lsp.Location(self.uri(path), self.range(path, start, end))

    def at(self, params: Any) -> tuple[Path, int]:
        """The file and the offset that a request is about."""
        path = self.path(params.text_document.uri)
        return path, self.offset(path, params.position)

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def check_soon(self, path: Path | None, near: int = 0) -> None:
        """Check a file and the open files that import it, or all open files, instead of what is being checked."""
        if self.check_task is not None:
            self.check_task.cancel()
        if self._tidying is not None:
            self._tidying.cancel()
        self.check_task = asyncio.get_running_loop().create_task(self._check(path, near))

    async def _check(self, path: Path | None, near: int) -> None:
        try:
            await asyncio.sleep(PAUSE)
            await self._check_file(path, near)
            for other in self.project.opened:
                if other != path and (path is None or path in self._imports(other)):
                    await self._check_file(other, 0)
            self._tidying = asyncio.get_running_loop().call_later(IDLE, gc.collect)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("a check failed")

    async def _check_file(self, path: Path | None, near: int) -> None:
        if path is None or path not in self.project.opened:
            return
        began = looked = time.monotonic()
        shown = False
        for step in check(self.project, path, near):
            self.found[path] = step.diagnostics
            if step.done or (not shown and time.monotonic() - began > SHOW_AFTER):
                shown = True
                self.publish()
            if time.monotonic() - looked > SLICE:
                # What the editor has sent meanwhile may be the next keystroke, which ends this check.
                await asyncio.sleep(0.001)
                looked = time.monotonic()

    def _imports(self, path: Path) -> set[Path]:
        try:
            return self.project.imports(path)
        except DiagnosticError:
            return set()

    def publish(self) -> None:
        """Show each open file what was found in it, by its own check or by those of others."""
        for path in self.project.opened:
            own = self.found.get(path, [])
            others = [d for p, found in self.found.items() if p != path for d in found if self.culprit(d) == path]
            shown = {(d.kind.code, d.summary) for d in own}
            found = [*own, *(d for d in others if (d.kind.code, d.summary) not in shown)]
            document = self.workspace.text_documents.get(self.uri(path))
            self.text_document_publish_diagnostics(
                lsp.PublishDiagnosticsParams(
                    self.uri(path),
                    [self.diagnostic(path, d) for d in found],
                    document.version if document is not None else None,
                )
            )

    def diagnostic(self, path: Path, diagnostic: Diagnostic) -> lsp.Diagnostic:
        """A diagnostic as the editor shows it in a file: at the first of its places that is there."""
        here = next((label for label in diagnostic.labels if self.source_path(label) == path), None)
        where = self.range(path, here.span.start, here.span.end) if here is not None else self.range(path, 0, 0)
        lines = [diagnostic.summary]
        if here is not None and here.text:
            lines.append(here.text)
        lines += [diagnostic.detail] if diagnostic.detail else []
        related = []
        for label in diagnostic.labels:
            if label is not here:
                place = self.source_path(label)
                if place is not None:
                    area = self.range(place, label.span.start, label.span.end, label.span.source.text)
                    message = label.text or diagnostic.summary
                    related.append(lsp.DiagnosticRelatedInformation(lsp.Location(self.uri(place), area), message))
        severity = lsp.DiagnosticSeverity.Error if diagnostic.severity == "error" else lsp.DiagnosticSeverity.Warning
        unused = diagnostic.kind.slug.startswith("unused")
        return lsp.Diagnostic(
            where,
            "\n".join([*lines, *diagnostic.notes]),
            severity,
            diagnostic.kind.code,
            source="detc",
            tags=[lsp.DiagnosticTag.Unnecessary] if unused else None,
            related_information=related or None,
        )

    def culprit(self, diagnostic: Diagnostic) -> Path | None:
        """The file that has to be mended."""
        return self.source_path(diagnostic.labels[0]) if diagnostic.labels else None

    def source_path(self, label: Label) -> Path | None:
        """The file that a label is in."""
        name = label.span.source.name
        return Path(name).resolve() if name and not name.startswith("<") else None
