"""How long `detc lsp` takes to answer: python bench/language_server.py [--write]

A client over standard input and output opens each spec, types into it one character at a time, and asks what an editor
asks. Times are from sending to the answer, in milliseconds, as an editor would have them: of a keystroke, to the first
diagnostics of the new version, and to the last. Beside them is the processor time of the whole check without a server,
which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

from detc.compiler.language.check import check
from detc.compiler.language.project import Project

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench/results/language_server.md"
# What is typed, where: a number in a variant's figures, which changes no graph; a parameter of one detector; and one of
# the detector that all others are variants of.
CASES = (
    ("cascade_rcnn.det", "a figure of one row", "box_ap = 4", "0"),
    ("cascade_rcnn.det", "a parameter of one row", "groups = 3", "2"),
    ("cascade_rcnn.det", "a parameter of the base", "ResNet(50", ", levels = 2..5"),
    ("cascade_rcnn.det", "a mistake in every head", "CascadeRegionHead(", "stages = 3"),
    ("cascade_rcnn.det", "a bracket left open", "ResNet(50", "("),
    ("faster_rcnn.det", "a figure of one row", "box_ap = 3", "0"),
    ("faster_rcnn.det", "a parameter of the base", "ResNet(50", ", levels = 2..5"),
    ("fpg.det", "a figure of one row", "box_ap = 4", "0"),
    ("fpg.det", "a parameter of the base", "ResNet(50", ", levels = 2..5"),
    ("lib/necks.det", "a parameter of a neck", "channels: int = 256", "0"),
)
REPEATS = 1


class Editor:
    """A client, and when each version's diagnostics came."""

    def __init__(self) -> None:
        self.client = LanguageClient("bench", "1")
        self.came: dict[tuple[str, int], list[float]] = {}

        @self.client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def _(params: lsp.PublishDiagnosticsParams) -> None:
            self.came.setdefault((params.uri, params.version or 0), []).append(time.perf_counter())

    async def start(self) -> float:
        began = time.perf_counter()
        await self.client.start_io(sys.executable, "-m", "detc", "lsp")
        root = (ROOT / "specs").as_uri()
        await self.client.initialize_async(lsp.InitializeParams(lsp.ClientCapabilities(), root_uri=root))
        self.client.initialized(lsp.InitializedParams())
        return 1000 * (time.perf_counter() - began)

    async def settled(self, uri: str, version: int) -> list[float]:
        """When diagnostics of a version were shown: until none has come for half a second."""
        while True:
            known = len(self.came.get((uri, version), []))
            await asyncio.sleep(0.6)
            if known and known == len(self.came[uri, version]):
                return self.came[uri, version]


async def measure() -> tuple[list[list[str]], list[list[str]]]:
    editor = Editor()
    rows, questions = [], [["start and initialize", f"{await editor.start():.0f}"]]
    for number, (name, what, needle, typed) in enumerate(CASES):
        text = (ROOT / "specs" / name).read_text()
        # Each case has a buffer of its own, beside the file, so that what it imports is found.
        uri = (ROOT / "specs" / Path(name).parent / f"bench_{number}.det").as_uri()
        editor.client.text_document_did_open(lsp.DidOpenTextDocumentParams(lsp.TextDocumentItem(uri, "det", 1, text)))
        # The first check elaborates all detectors, with pauses between what it shows.
        await asyncio.sleep(4)
        await editor.settled(uri, 1)
        first, last = [], []
        version = 1
        offset = text.index(needle) + len(needle)
        for _ in range(REPEATS):
            for index, letter in enumerate(typed):
                version += 1
                start = position(text, offset + index)
                first_at, last_at = await changed(editor, uri, version, lsp.Range(start, start), letter)
                first.append(first_at)
                last.append(last_at)
            version += 1
            area = lsp.Range(position(text, offset), position(text, offset + len(typed)))
            await changed(editor, uri, version, area, "")
        figures = [f(x) for x in (first, last) for f in (statistics.median, max)]
        figures += processor_time(name, needle, typed)
        rows.append([f"specs/{name}", what, *(f"{figure:.0f}" for figure in figures)])
        document = lsp.TextDocumentIdentifier(uri)
        if number == 0:
            questions += await asked(editor, document, text)
        editor.client.text_document_did_close(lsp.DidCloseTextDocumentParams(document))
    await editor.client.shutdown_async(None)
    editor.client.exit(None)
    return rows, questions


def processor_time(name: str, needle: str, typed: str) -> tuple[float, float]:
    """Milliseconds of processor time for each keystroke's whole check: the median and the most."""
    # As the server: memory is tidied up between keystrokes.
    gc.disable()
    project = Project(folders=(ROOT / "specs",))
    path = ROOT / "specs" / name
    text = path.read_text()
    offset = text.index(needle) + len(needle)
    times = []
    for length in range(len(typed) + 1):
        began = time.process_time()
        project.open(path, text[:offset] + typed[:length] + text[offset:])
        list(check(project, path, offset + length))
        times.append(1000 * (time.process_time() - began))
        gc.collect()
    gc.enable()
    # The first is the opening.
    return statistics.median(times[1:]), max(times[1:])


async def changed(editor: Editor, uri: str, version: int, area: lsp.Range, text: str) -> tuple[float, float]:
    """Milliseconds to the first and to the last diagnostics after an edit."""
    began = time.perf_counter()
    editor.client.text_document_did_change(
        lsp.DidChangeTextDocumentParams(
            lsp.VersionedTextDocumentIdentifier(version=version, uri=uri),
            [lsp.TextDocumentContentChangePartial(area, text)],
        )
    )
    times = await editor.settled(uri, version)
    return 1000 * (times[0] - began), 1000 * (times[-1] - began)


async def asked(editor: Editor, document: lsp.TextDocumentIdentifier, text: str) -> list[list[str]]:
    """Milliseconds for what an editor asks of a file, the first time and again."""
    where: dict[str, Any] = {"text_document": document, "position": position(text, text.index("ResNet(50") + 2)}
    context = lsp.ReferenceContext(include_declaration=True)
    client = editor.client
    questions = {
        "hover": lambda: client.text_document_hover_async(lsp.HoverParams(**where)),
        "definition": lambda: client.text_document_definition_async(lsp.DefinitionParams(**where)),
        "references": lambda: client.text_document_references_async(lsp.ReferenceParams(**where, context=context)),
        "completion": lambda: client.text_document_completion_async(lsp.CompletionParams(**where)),
        "semantic tokens": lambda: client.text_document_semantic_tokens_full_async(lsp.SemanticTokensParams(document)),
        "document symbols": lambda: client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document)),
    }
    found = []
    for name, ask in questions.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            await ask()
            times.append(1000 * (time.perf_counter() - began))
        found.append([name, f"{times[0]:.0f}, again {statistics.median(times[1:]):.0f}"])
    return found


def position(text: str, offset: int) -> lsp.Position:
    before = text[:offset]
    return lsp.Position(before.count("\n"), len(before.rpartition("\n")[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    rows, questions = asyncio.run(measure())
    lines = [
        "# The language server's answers",
        "",
        f"`python bench/language_server.py --write`, on {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end. Milliseconds, of one keystroke each; "
        "the server waits 10 of them for the next one. Waiting times grow with the load; processor times hardly do.",
        "",
        "| file | typed into | first diagnostics, median | most | last, median | most | processor, median | most |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "| question, of specs/cascade_rcnn.det | milliseconds |",
        "|---|---|",
        *(f"| {' | '.join(row)} |" for row in questions),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
