"""`detc lsp` as an editor has it: a client over standard input and output."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import pytest_lsp
from lsprotocol import types as lsp
from pytest_lsp import ClientServerConfig, LanguageClient

ROOT = Path(__file__).parents[1]

BLOCKS = """\
## Two convolutions.
block Twice(
    channels: int,
    ## Side of both kernels, in cells.
    kernel: int = 3,
)(x: feature) -> feature {
    y = x |> first: Conv2d(channels, kernel, stride = 2)
    return y |> second: Conv2d(channels, kernel)
}
"""
MINE = """\
# 🦊🦊 a comment, so that code units differ
import Twice from "blocks.det"

model Only(body: block)(image: feature) -> feature {
    return image |> body: body
}

detector small : Only {
    body = Twice(16)
}

detector large = small with { body.channels = 64 }
"""


class Client(LanguageClient):
    """Keeps what was last published of each file, with its version."""

    def __init__(self) -> None:
        super().__init__()
        self.published: dict[str, tuple[int | None, list[lsp.Diagnostic]]] = {}
        self.served: Any = None

        @self.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def _(params: lsp.PublishDiagnosticsParams) -> None:
            self.published[params.uri] = (params.version, list(params.diagnostics))


class Editor:
    """A client that keeps texts as an editor does."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.texts: dict[str, str] = {}
        self.versions: dict[str, int] = {}

    def uri(self, name: str) -> str:
        return (self.folder / name).as_uri()

    def document(self, name: str) -> lsp.TextDocumentIdentifier:
        return lsp.TextDocumentIdentifier(self.uri(name))

    async def open(self, name: str, text: str | None = None) -> list[lsp.Diagnostic]:
        """Open a file; what the server says of it."""
        self.texts[name] = (self.folder / name).read_bytes().decode() if text is None else text
        self.versions[name] = 1
        item = lsp.TextDocumentItem(self.uri(name), "det", 1, self.texts[name])
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))
        return await self.diagnostics(name)

    async def replace(self, name: str, old: str, new: str, nth: int = 0) -> list[lsp.Diagnostic]:
        """Replace one occurrence of a text by another, as an incremental change."""
        start = self.offset(name, old, nth)
        area = lsp.Range(self.position(name, start), self.position(name, start + len(old)))
        self.texts[name] = self.texts[name][:start] + new + self.texts[name][start + len(old) :]
        self.versions[name] += 1
        self.client.text_document_did_change(
            lsp.DidChangeTextDocumentParams(
                lsp.VersionedTextDocumentIdentifier(version=self.versions[name], uri=self.uri(name)),
                [lsp.TextDocumentContentChangePartial(area, new)],
            )
        )
        return await self.diagnostics(name)

    async def diagnostics(self, name: str) -> list[lsp.Diagnostic]:
        """What is published of the latest version of a file, once its check is done."""
        for _ in range(400):
            await asyncio.sleep(0.05)
            if self.client.published.get(self.uri(name), (0, []))[0] == self.versions[name]:
                before = self.client.published[self.uri(name)]
                await asyncio.sleep(0.15)
                if self.client.published[self.uri(name)] is before:
                    return before[1]
        raise AssertionError(f"nothing was published of {name}")

    def offset(self, name: str, needle: str, nth: int = 0) -> int:
        start = -1
        for _ in range(nth + 1):
            start = self.texts[name].index(needle, start + 1)
        return start

    def position(self, name: str, offset: int) -> lsp.Position:
        """UTF-16 code units, counted in another way than the server does."""
        before = self.texts[name][:offset]
        line = before.count("\n")
        return lsp.Position(line, len(before.rpartition("\n")[2].encode("utf-16-le")) // 2)

    def at(self, name: str, needle: str, nth: int = 0, inside: int = 1) -> dict[str, Any]:
        """Where a text stands, `inside` characters into it."""
        return {
            "text_document": self.document(name),
            "position": self.position(name, self.offset(name, needle, nth) + inside),
        }

    def text(self, name: str, area: lsp.Range) -> str:
        """The text of a range."""
        lines = self.texts[name].split("\n")
        start, end = area.start, area.end
        if start.line != end.line:
            return "\n".join(lines[start.line : end.line + 1])
        units = lines[start.line].encode("utf-16-le")
        return units[2 * start.character : 2 * end.character].decode("utf-16-le")

    def applied(self, name: str, edits: list[lsp.TextEdit]) -> str:
        """The text of a file after edits."""
        lines = self.texts[name].splitlines(keepends=True)

        def offset(place: lsp.Position) -> int:
            units = "".join(lines[place.line : place.line + 1]).encode("utf-16-le")[: 2 * place.character]
            return len("".join(lines[: place.line])) + len(units.decode("utf-16-le"))

        text = self.texts[name]
        for edit in sorted(edits, key=lambda e: offset(e.range.start), reverse=True):
            text = text[: offset(edit.range.start)] + edit.new_text + text[offset(edit.range.end) :]
        return text

    async def hover(self, name: str, needle: str, nth: int = 0, inside: int = 1) -> str:
        found = await self.client.text_document_hover_async(lsp.HoverParams(**self.at(name, needle, nth, inside)))
        return "" if found is None else found.contents.value  # type: ignore[union-attr]

    async def complete(self, name: str, needle: str, nth: int = 0) -> dict[str, lsp.CompletionItem]:
        """What is offered right behind a text."""
        where = self.at(name, needle, nth, inside=len(needle))
        found = await self.client.text_document_completion_async(lsp.CompletionParams(**where))
        return {item.label: item for item in found.items}  # type: ignore[union-attr]


# One server serves all tests: each adds a folder to the workspace, and takes it away again.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_lsp.fixture(
    scope="module",
    config=ClientServerConfig(
        client_factory=Client,
        server_command=[sys.executable, "-m", "detc", "lsp"],
        server_env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    ),
)
async def client(lsp_client: Client) -> AsyncIterator[None]:
    capabilities = pytest_lsp.client_capabilities("visual-studio-code")
    found = await lsp_client.initialize_session(lsp.InitializeParams(capabilities))
    lsp_client.served = found.capabilities
    yield
    await lsp_client.shutdown_session()


@pytest_asyncio.fixture(loop_scope="module")
async def editor(client: Client, tmp_path: Path) -> AsyncIterator[Editor]:
    (tmp_path / "blocks.det").write_text(BLOCKS)
    (tmp_path / "mine.det").write_text(MINE)
    here, none = [lsp.WorkspaceFolder(tmp_path.as_uri(), "work")], []
    client.workspace_did_change_workspace_folders(
        lsp.DidChangeWorkspaceFoldersParams(lsp.WorkspaceFoldersChangeEvent(added=here, removed=none))
    )
    editor = Editor(client, tmp_path)
    yield editor
    for name in editor.texts:
        client.text_document_did_close(lsp.DidCloseTextDocumentParams(editor.document(name)))
    client.workspace_did_change_workspace_folders(
        lsp.DidChangeWorkspaceFoldersParams(lsp.WorkspaceFoldersChangeEvent(added=none, removed=here))
    )


async def test_diagnostics_follow_edits_in_the_middle_of_a_line(editor: Editor) -> None:
    assert await editor.open("mine.det") == []
    [found] = await editor.replace("mine.det", "Twice(16)", "Twice(16, kernl = 5)")
    assert found.code == "E0207"
    assert editor.text("mine.det", found.range) == "kernl = 5"
    assert 'did you mean "kernel"?' in found.message
    [other] = found.related_information or []
    assert other.location.uri == editor.uri("blocks.det")
    [found] = await editor.replace("mine.det", "kernl = 5)", "kernel = 5")
    assert found.code.startswith("E01")  # type: ignore[union-attr]
    assert await editor.replace("mine.det", "kernel = 5", "kernel = 5)") == []


async def test_an_error_in_an_imported_buffer_shows_where_it_is_and_where_it_is_imported(editor: Editor) -> None:
    await editor.open("mine.det")
    await editor.open("blocks.det")
    [found] = await editor.replace("blocks.det", "channels, kernel)", "channels, kernel")
    assert found.range.start.line == 8
    [found] = await editor.diagnostics("mine.det")
    assert editor.text("mine.det", found.range) == '"blocks.det"'
    assert "blocks.det" in found.message
    # Once it parses, the detectors of the other file tell what is wrong with the block: channels that do not meet.
    found = await editor.replace("blocks.det", "return y |> second: Conv2d(channels, kernel", "return x + y")
    assert [(d.code, editor.text("blocks.det", d.range)) for d in found] == [("E0302", "x + y")] * 2
    assert await editor.replace("blocks.det", "return x + y", "return y") == []
    assert await editor.diagnostics("mine.det") == []


async def test_hover_says_types_documentation_and_parameters(editor: Editor) -> None:
    await editor.open("mine.det")
    await editor.open("blocks.det")
    told = await editor.hover("blocks.det", "second")
    assert "16 channels, stride 2, `float32[N, 16, ceil(H/2), ceil(W/2)] /2`" in told
    assert "2,320 parameters" in told
    assert "`body.second`" in told
    assert "2-D convolution" in await editor.hover("blocks.det", "Conv2d")
    told = await editor.hover("blocks.det", "kernel: int")
    assert "kernel: int = 3" in told
    assert "Side of both kernels, in cells." in told
    assert "value `3`" in told
    told = await editor.hover("mine.det", "Twice(16)")
    assert "Two convolutions." in told
    assert "2,768 parameters" in told
    told = await editor.hover("mine.det", "body.channels", inside=6)
    assert "parameter of block Twice" in told
    assert "value `64`" in told
    assert await editor.hover("mine.det", "a comment") == ""


async def test_hover_shows_the_levels_of_a_pyramid_of_the_library(editor: Editor) -> None:
    shutil.copytree(ROOT / "specs", editor.folder / "specs")
    await editor.open("specs/lib/necks.det")
    told = await editor.hover("specs/lib/necks.det", "c.levels & levels", inside=0)
    assert "level 5: 2048 channels, stride 32" in told
    assert "level 2: 256 channels, stride 4" in told


async def test_definition_across_imports(editor: Editor) -> None:
    await editor.open("mine.det")

    async def target(needle: str, inside: int = 1) -> tuple[str, lsp.Range]:
        where = lsp.DefinitionParams(**editor.at("mine.det", needle, inside=inside))
        found: Any = await editor.client.text_document_definition_async(where)
        return found.uri, found.range

    place = lsp.Range(lsp.Position(1, 6), lsp.Position(1, 11))
    assert await target("Twice(16)") == (editor.uri("blocks.det"), place)
    assert await target("Twice from") == (editor.uri("blocks.det"), place)
    assert await target("body.channels", 6) == (
        editor.uri("blocks.det"),
        lsp.Range(lsp.Position(2, 4), lsp.Position(2, 12)),
    )
    assert (await target('"blocks.det"'))[0] == editor.uri("blocks.det")
    uri, area = await target("small with")
    assert (uri, editor.text("mine.det", area)) == (editor.uri("mine.det"), "small")
    # An open buffer counts, not what is on disk.
    editor.texts["blocks.det"] = "# one line more\n" + BLOCKS
    await editor.open("blocks.det", editor.texts["blocks.det"])
    assert (await target("Twice(16)"))[1].start.line == 2


async def test_references_in_files_that_are_not_open(editor: Editor) -> None:
    await editor.open("blocks.det")
    where = editor.at("blocks.det", "channels: int")
    found: Any = await editor.client.text_document_references_async(
        lsp.ReferenceParams(**where, context=lsp.ReferenceContext(include_declaration=False))
    )
    lines = {(Path(place.uri).name, place.range.start.line) for place in found}
    assert lines == {("blocks.det", 6), ("blocks.det", 7), ("mine.det", 11)}


async def test_completion(editor: Editor) -> None:
    await editor.open("mine.det")
    await editor.open("blocks.det")
    await editor.hover("blocks.det", "second")
    await editor.replace("mine.det", "Twice(16)", "Twice(16, )")
    offered = await editor.complete("mine.det", "Twice(16, ")
    assert offered["kernel"].text_edit.new_text == "kernel = "  # type: ignore[union-attr]
    assert "Side of both kernels" in offered["kernel"].documentation.value  # type: ignore[union-attr]
    await editor.replace("mine.det", "body.channels = 64", "body.")
    assert set(await editor.complete("mine.det", "with { body.")) == {"channels", "kernel"}
    await editor.replace("mine.det", 'Twice from "blocks.det"', 'Twice from ""')
    paths = await editor.complete("mine.det", 'from "')
    assert {"blocks.det", "lib/necks.det"} <= set(paths)
    assert "mine.det" not in paths
    await editor.replace("mine.det", 'import Twice from ""', 'import T from "blocks.det"')
    assert set(await editor.complete("mine.det", "import T")) == {"Twice"}
    # What is known of values holds while the text is broken.
    await editor.replace("blocks.det", "return y", "return y.")
    assert {"channels", "stride", "height"} <= set(await editor.complete("blocks.det", "return y."))
    await editor.replace("blocks.det", "return y.", "freeze \n    return y")
    assert {"first", "second"} == set(await editor.complete("blocks.det", "freeze "))


async def test_completion_of_levels_while_the_text_is_broken(editor: Editor) -> None:
    shutil.copytree(ROOT / "specs", editor.folder / "specs")
    await editor.open("specs/lib/necks.det")
    await editor.hover("specs/lib/necks.det", "c.levels & levels", inside=0)
    await editor.replace("specs/lib/necks.det", "inputs = c.levels & levels", "inputs = c[")
    offered = await editor.complete("specs/lib/necks.det", "inputs = c[")
    assert {"2", "3", "4", "5"} <= set(offered)
    assert "stride 32" in (offered["5"].detail or "")


async def test_completion_brings_the_import_along(editor: Editor) -> None:
    await editor.open("mine.det")
    await editor.replace("mine.det", "Twice(16)", "Conv")
    offered = await editor.complete("mine.det", "body = Conv")
    edits = offered["ConvModule"].additional_text_edits or []
    assert 'import ConvModule from "lib/blocks.det"\n' in editor.applied("mine.det", edits)


async def test_rename_across_files(editor: Editor) -> None:
    await editor.open("mine.det")
    await editor.open("blocks.det")
    where = editor.at("blocks.det", "channels: int")
    area: Any = await editor.client.text_document_prepare_rename_async(lsp.PrepareRenameParams(**where))
    assert editor.text("blocks.det", area) == "channels"
    edit = await editor.client.text_document_rename_async(lsp.RenameParams(**where, new_name="width"))
    assert edit is not None and edit.changes is not None
    texts = {Path(uri).name: editor.applied(Path(uri).name, edits) for uri, edits in edit.changes.items()}
    assert texts["blocks.det"].count("width") == 3
    assert "{ body.width = 64 }" in texts["mine.det"]
    # Conv2d's parameter of the same name is another.
    where = editor.at("mine.det", "Twice(16)")
    edit = await editor.client.text_document_rename_async(lsp.RenameParams(**where, new_name="Pair"))
    assert edit is not None and edit.changes is not None
    texts = {Path(uri).name: editor.applied(Path(uri).name, edits) for uri, edits in edit.changes.items()}
    assert 'import Pair from "blocks.det"' in texts["mine.det"]
    assert "block Pair(" in texts["blocks.det"]


@pytest.mark.parametrize(
    ("file", "needle", "new", "said"),
    [
        ("blocks.det", "channels: int", "kernel", "kernel"),
        ("blocks.det", "channels: int", "with", "not a name"),
        ("blocks.det", "y = x", "x", "means something else"),
        ("blocks.det", "Twice(", "Conv2d", "means something else"),
        ("blocks.det", "first", "other", "checkpoints"),
        ("blocks.det", "Conv2d", "Conv", "not in the workspace"),
        ("mine.det", "Twice(16)", "Only", "declared twice"),
    ],
)
async def test_renames_that_would_clash_are_refused(
    editor: Editor, file: str, needle: str, new: str, said: str
) -> None:
    await editor.open("mine.det")
    await editor.open("blocks.det")
    where = lsp.RenameParams(**editor.at(file, needle), new_name=new)
    with pytest.raises(Exception, match=said):
        await editor.client.text_document_rename_async(where)


async def test_symbols(editor: Editor) -> None:
    await editor.open("mine.det")
    document = editor.document("mine.det")
    found: Any = await editor.client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document))
    assert [(s.name, [c.name for c in s.children]) for s in found] == [
        ("Only", ["body", "image"]),
        ("small", ["body"]),
        ("large", ["body.channels"]),
    ]
    assert editor.text("mine.det", found[2].selection_range) == "large"
    everywhere: Any = await editor.client.workspace_symbol_async(lsp.WorkspaceSymbolParams("twc"))
    assert [(s.name, s.container_name) for s in everywhere] == [("Twice", "blocks.det")]


async def test_quick_fixes(editor: Editor) -> None:
    await editor.open("mine.det")

    async def fixed(title: str) -> str:
        [found] = await editor.diagnostics("mine.det")
        context = lsp.CodeActionContext([found])
        params = lsp.CodeActionParams(editor.document("mine.det"), found.range, context)
        actions: Any = await editor.client.text_document_code_action_async(params)
        action = next(a for a in actions if a.title == title)
        return editor.applied("mine.det", action.edit.changes[editor.uri("mine.det")])

    await editor.replace("mine.det", "body.channels", "body.chanels")
    assert await fixed('write "channels"') == MINE
    await editor.replace("mine.det", "body.chanels = 64", "body = ConvModule(8)")
    assert 'import Twice from "blocks.det"\nimport ConvModule from "lib/blocks.det"\n' in await fixed(
        'import ConvModule from "lib/blocks.det"'
    )


async def test_formatting_changes_the_lines_that_differ(editor: Editor) -> None:
    await editor.open("mine.det")
    params = lsp.DocumentFormattingParams(editor.document("mine.det"), lsp.FormattingOptions(4, True))
    assert not await editor.client.text_document_formatting_async(params)
    await editor.replace("mine.det", "body = Twice(16)", "body=Twice( 16 )")
    [edit] = await editor.client.text_document_formatting_async(params) or []
    assert edit.range.start.line == 8
    assert editor.applied("mine.det", [edit]) == MINE
    await editor.replace("mine.det", "Twice( 16 )", "Twice( 16 ")
    assert await editor.client.text_document_formatting_async(params) is None


async def test_semantic_tokens(editor: Editor) -> None:
    await editor.open("mine.det")
    found: Any = await editor.client.text_document_semantic_tokens_full_async(
        lsp.SemanticTokensParams(editor.document("mine.det"))
    )
    kinds = editor.client.served.semantic_tokens_provider.legend.token_types
    line = start = 0
    words = {}
    for index in range(0, len(found.data), 5):
        down, right, length, kind, _ = found.data[index : index + 5]
        line, start = line + down, right if down else start + right
        area = lsp.Range(lsp.Position(line, start), lsp.Position(line, start + length))
        words.setdefault(editor.text("mine.det", area), kinds[kind])
    assert words["# 🦊🦊 a comment, so that code units differ"] == "comment"
    told = {word: words[word] for word in ("import", "Twice", '"blocks.det"', "body", "detector", "16", "|>")}
    assert told == {
        "import": "keyword",
        "Twice": "class",
        '"blocks.det"': "string",
        "body": "parameter",
        "detector": "keyword",
        "16": "number",
        "|>": "operator",
    }


async def test_line_ends_of_windows_and_wide_characters(editor: Editor) -> None:
    text = MINE.replace("\n", "\r\n").replace("detector small", "# é🦊 detector\r\ndetector small")
    text = text.replace("Only {\r\n", 'Only { # 🦊\r\n   pretrained = "🦊é"   ')
    assert await editor.open("crlf.det", text) == []
    [found] = await editor.replace("crlf.det", "Twice(16)", "Twise(16)")
    assert editor.text("crlf.det", found.range) == "Twise"
    assert found.range.start.character == len('   pretrained = "🦊é"       body = ') + 1
    assert await editor.replace("crlf.det", "Twise", "Twice") == []
    assert "Two convolutions" in await editor.hover("crlf.det", "Twice(16)")


async def every_answer(editor: Editor, name: str, needle: str) -> list[Any]:
    """What the server says to each question at a place; it must say something, if only that it knows nothing."""
    client, document, where = editor.client, editor.document(name), editor.at(name, needle)
    area = lsp.Range(where["position"], where["position"])
    return [
        await client.text_document_hover_async(lsp.HoverParams(**where)),
        await client.text_document_definition_async(lsp.DefinitionParams(**where)),
        await client.text_document_references_async(
            lsp.ReferenceParams(**where, context=lsp.ReferenceContext(include_declaration=True))
        ),
        await client.text_document_document_highlight_async(lsp.DocumentHighlightParams(**where)),
        await client.text_document_completion_async(lsp.CompletionParams(**where)),
        await client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document)),
        await client.text_document_semantic_tokens_full_async(lsp.SemanticTokensParams(document)),
        await client.text_document_semantic_tokens_range_async(lsp.SemanticTokensRangeParams(document, area)),
        await client.text_document_code_action_async(
            lsp.CodeActionParams(document, area, lsp.CodeActionContext(diagnostics=[]))
        ),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("detector d : {{{ (\n" + MINE, "E0101"),
        ("block B(x: feature) -> feature { return x", "E0102"),
        ("(" * 10_000, "E0104"),
        ("\x00\x01\u2028 🦊", "E0101"),
        ("let a = 1\n" * 200_000, "E0108"),
        ("block B(x: feature) -> feature { return b: B(x) }\nmodel M(b: block)(i: feature) -> feature "
         "{ return i |> b: b }\ndetector d : M { b = B }\n", "E0310"),
        ("import A from \"self.det\"\nlet A = 1\n", "E0205"),
        ("", "E0107"),
    ],
    ids=["broken", "open", "deep", "binary", "huge", "endless", "circle", "empty"],
)  # fmt: skip
async def test_every_question_has_an_answer_in_any_text(editor: Editor, text: str, code: str) -> None:
    found = await editor.open("self.det", text)
    assert code in {d.code for d in found}
    await every_answer(editor, "self.det", "")
    # The server is as well as before.
    assert await editor.open("mine.det") == []
    assert "Two convolutions" in await editor.hover("mine.det", "Twice(16)")


async def test_files_that_cannot_be_read(editor: Editor) -> None:
    (editor.folder / "blocks.det").write_bytes(b"\x89PNG\xff\xfe\x00")
    [found] = await editor.open("mine.det")
    assert (found.code, editor.text("mine.det", found.range)) == ("E0106", '"blocks.det"')
    (editor.folder / "blocks.det").unlink()
    editor.client.workspace_did_change_watched_files(
        lsp.DidChangeWatchedFilesParams([lsp.FileEvent(editor.uri("blocks.det"), lsp.FileChangeType.Deleted)])
    )
    [found] = await editor.replace("mine.det", "Twice(16)", "Twice(17)")
    assert found.code == "E0203"
    # A text that is nowhere on disk, and a question about a file that is not open and not there.
    assert await editor.open("unsaved.det", BLOCKS) == []
    where = lsp.HoverParams(lsp.TextDocumentIdentifier(editor.uri("gone.det")), lsp.Position(3, 3))
    assert await editor.client.text_document_hover_async(where) is None
    # A buffer stands in for a file that was deleted.
    await editor.open("blocks.det", BLOCKS)
    (editor.folder / "blocks.det").write_text(BLOCKS)
    assert await editor.replace("mine.det", "Twice(17)", "Twice(18)") == []


async def test_positions_in_the_units_that_the_editor_asks_for() -> None:
    client = Client()
    await client.start_io(sys.executable, "-m", "detc", "lsp")
    capabilities = lsp.ClientCapabilities(
        general=lsp.GeneralClientCapabilities(position_encodings=[lsp.PositionEncodingKind.Utf8])
    )
    found = await client.initialize_session(lsp.InitializeParams(capabilities))
    assert found.capabilities.position_encoding == "utf-8"
    item = lsp.TextDocumentItem("untitled:one", "det", 1, 'let a = ["🦊é", b]\n')
    client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))
    while "untitled:one" not in client.published:
        await asyncio.sleep(0.05)
    [diagnostic] = client.published["untitled:one"][1]
    assert diagnostic.range == lsp.Range(lsp.Position(0, 19), lsp.Position(0, 20))
    await client.shutdown_session()
    await client.stop()


async def test_the_server_loads_no_framework_and_ends_with_its_editor() -> None:
    code = "import detc.cli.server, sys; print([m for m in ('torch', 'numpy', 'onnx', 'tvm') if m in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].strip() == b"[]"
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "detc", "lsp", stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 20) == 0
