"""What the language server does about each message of the protocol."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException

from detc.compiler.language import completion, edits, highlight, hover, navigation
from detc.dsl.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from detc.cli.server import Server

_log = logging.getLogger(__name__)

Handler = Callable[["Server", Any], Any]
# By message: what handles it, and what the editor is told of that.
HANDLERS: dict[str, tuple[Handler, Any]] = {}


def _on(method: str, options: Any = None) -> Callable[[Handler], Handler]:
    """Declare what handles a message. What cannot be read has no answer; what fails is logged, and all goes on."""

    def register(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def guarded(server: Server, params: Any = None) -> Any:
            try:
                return handler(server, params)
            except DiagnosticError:
                return None
            except edits.Refused as refused:
                raise _Failed(str(refused)) from None
            except Exception:
                _log.exception("%s failed", method)
                return None

        HANDLERS[method] = guarded, options
        return guarded

    return register


class _Failed(JsonRpcException):
    """A request that is refused, with a message for the user."""

    CODE = lsp.LSPErrorCodes.RequestFailed.value
    MESSAGE = "refused"

    def __init__(self, message: str) -> None:
        super().__init__(message, self.CODE)


@_on(lsp.INITIALIZE)
def _initialize(server: Server, params: lsp.InitializeParams) -> None:
    folders = [folder.uri for folder in params.workspace_folders or []] or [params.root_uri or ""]
    server.project.folders = tuple(server.path(uri) for uri in folders if uri.startswith("file:"))
    options = params.initialization_options
    more = options.get("importRoots", []) if isinstance(options, dict) else []
    found = tuple(Path(root).resolve() for root in more if isinstance(root, str))
    server.project.roots += found


@_on(lsp.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
def _folders(server: Server, params: lsp.DidChangeWorkspaceFoldersParams) -> None:
    gone = {server.path(folder.uri) for folder in params.event.removed}
    new = [server.path(folder.uri) for folder in params.event.added]
    server.project.rooted(tuple(dict.fromkeys([*(f for f in server.project.folders if f not in gone), *new])))
    server.check_soon(None)


@_on(lsp.TEXT_DOCUMENT_DID_OPEN)
def _opened(server: Server, params: lsp.DidOpenTextDocumentParams) -> None:
    path = server.path(params.text_document.uri)
    server.names[path] = params.text_document.uri
    server.project.open(path, params.text_document.text)
    server.check_soon(path)


@_on(lsp.TEXT_DOCUMENT_DID_CHANGE)
def _changed(server: Server, params: lsp.DidChangeTextDocumentParams) -> None:
    path = server.path(params.text_document.uri)
    document = server.workspace.get_text_document(params.text_document.uri)
    server.project.open(path, document.source)
    last = params.content_changes[-1] if params.content_changes else None
    place = getattr(last, "range", None)
    server.check_soon(path, server.offset(path, place.start) if place is not None else 0)


@_on(lsp.TEXT_DOCUMENT_DID_SAVE)
def _saved(server: Server, params: lsp.DidSaveTextDocumentParams) -> None:
    server.check_soon(server.path(params.text_document.uri))


@_on(lsp.TEXT_DOCUMENT_DID_CLOSE)
def _closed(server: Server, params: lsp.DidCloseTextDocumentParams) -> None:
    path = server.path(params.text_document.uri)
    server.project.close(path)
    server.found.pop(path, None)
    server.names.pop(path, None)
    server.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(params.text_document.uri, []))
    server.check_soon(None)


@_on(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
def _watched(server: Server, params: lsp.DidChangeWatchedFilesParams) -> None:
    server.project.relist()
    for change in params.changes:
        server.project.changed_on_disk(server.path(change.uri))
    server.check_soon(None)


@_on(lsp.TEXT_DOCUMENT_HOVER)
def _hover(server: Server, params: lsp.HoverParams) -> lsp.Hover | None:
    path, offset = server.at(params)
    found = hover.hover(server.session, path, offset)
    if found is None:
        return None
    client = server.client_capabilities.text_document
    formats = client.hover.content_format if client is not None and client.hover is not None else None
    return lsp.Hover(_markup(found.text, formats), server.range(path, found.start, found.end))


def _markup(text: str, formats: Sequence[lsp.MarkupKind] | None) -> lsp.MarkupContent:
    """Markdown where the editor shows it; as plain text it can be read too."""
    known = lsp.MarkupKind.Markdown in (formats or ())
    return lsp.MarkupContent(lsp.MarkupKind.Markdown if known else lsp.MarkupKind.PlainText, text)


@_on(lsp.TEXT_DOCUMENT_DEFINITION)
def _definition(server: Server, params: lsp.DefinitionParams) -> lsp.Location | None:
    place = navigation.definition(server.session, *server.at(params))
    return server.location(place.path, place.start, place.end) if place is not None else None


@_on(lsp.TEXT_DOCUMENT_REFERENCES)
def _references(server: Server, params: lsp.ReferenceParams) -> list[lsp.Location]:
    found = navigation.references(server.session, *server.at(params), params.context.include_declaration)
    return [server.location(place.path, place.start, place.end) for place in found]


@_on(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
def _highlights(server: Server, params: lsp.DocumentHighlightParams) -> list[lsp.DocumentHighlight]:
    path, offset = server.at(params)
    bindings = server.session.bindings(path)
    here = bindings.at(offset)
    same = [o for o in bindings.occurrences if here is not None and o.symbol == here.symbol]
    write, read = lsp.DocumentHighlightKind.Write, lsp.DocumentHighlightKind.Read
    return [
        lsp.DocumentHighlight(server.range(path, o.start, o.end), write if o.role in ("definition", "write") else read)
        for o in same
    ]


_SYMBOL_KINDS = {
    "detector": lsp.SymbolKind.Object,
    "record": lsp.SymbolKind.Struct,
    "let": lsp.SymbolKind.Constant,
    "op": lsp.SymbolKind.Function,
    "parameter": lsp.SymbolKind.Property,
    "input": lsp.SymbolKind.Variable,
    "field": lsp.SymbolKind.Field,
}


@_on(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
def _symbols(server: Server, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
    path = server.path(params.text_document.uri)

    def shown(entry: navigation.Entry) -> lsp.DocumentSymbol:
        return lsp.DocumentSymbol(
            entry.name,
            _SYMBOL_KINDS.get(entry.kind, lsp.SymbolKind.Class),
            server.range(path, entry.start, entry.end),
            server.range(path, entry.name_start, entry.name_start + len(entry.name)),
            entry.detail or entry.kind,
            children=[shown(part) for part in entry.parts],
        )

    return [shown(entry) for entry in navigation.outline(server.session, path)]


@_on(lsp.WORKSPACE_SYMBOL)
def _workspace_symbols(server: Server, params: lsp.WorkspaceSymbolParams) -> list[lsp.WorkspaceSymbol]:
    return [
        lsp.WorkspaceSymbol(
            server.location(s.path, s.start, s.start + len(s.name)),
            s.name,
            _SYMBOL_KINDS.get(s.kind, lsp.SymbolKind.Class),
            container_name=s.path.name,
        )
        for s in navigation.workspace_symbols(server.session, params.query)
    ]


_ITEM_KINDS = {
    "keyword": lsp.CompletionItemKind.Keyword,
    "type": lsp.CompletionItemKind.TypeParameter,
    "path": lsp.CompletionItemKind.File,
    "parameter": lsp.CompletionItemKind.Property,
    "field": lsp.CompletionItemKind.Field,
    "variable": lsp.CompletionItemKind.Variable,
    "function": lsp.CompletionItemKind.Function,
    "op": lsp.CompletionItemKind.Function,
    "label": lsp.CompletionItemKind.Reference,
    "level": lsp.CompletionItemKind.Value,
    "let": lsp.CompletionItemKind.Constant,
    "record": lsp.CompletionItemKind.Struct,
    "detector": lsp.CompletionItemKind.Constant,
}


@_on(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=[".", "(", "[", '"', "/", "{"]))
def _completion(server: Server, params: lsp.CompletionParams) -> lsp.CompletionList:
    path, offset = server.at(params)
    found = completion.complete(server.session, path, offset)
    client = server.client_capabilities.text_document
    supported = client.completion.completion_item if client is not None and client.completion is not None else None
    formats = supported.documentation_format if supported is not None else None
    items = [
        lsp.CompletionItem(
            item.label,
            kind=_ITEM_KINDS.get(item.kind, lsp.CompletionItemKind.Class),
            detail=item.detail or None,
            documentation=_markup(item.doc, formats) if item.doc else None,
            sort_text=f"{item.rank}{item.label}",
            filter_text=item.insert if item.kind == "path" else None,
            text_edit=lsp.TextEdit(server.range(path, item.start, item.end), item.insert),
            additional_text_edits=_text_edits(server, path, item.edits) or None,
        )
        for item in found
    ]
    return lsp.CompletionList(is_incomplete=False, items=items)


def _text_edits(server: Server, path: Path, changes: Iterable[edits.Edit]) -> list[lsp.TextEdit]:
    return [lsp.TextEdit(server.range(path, edit.start, edit.end), edit.text) for edit in changes]


@_on(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
def _prepare_rename(server: Server, params: lsp.PrepareRenameParams) -> lsp.Range:
    path, offset = server.at(params)
    return server.range(path, *edits.renameable(server.session, path, offset))


@_on(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
def _rename(server: Server, params: lsp.RenameParams) -> lsp.WorkspaceEdit:
    changes = edits.rename(server.session, *server.at(params), params.new_name)
    return lsp.WorkspaceEdit({server.uri(path): _text_edits(server, path, found) for path, found in changes.items()})


@_on(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix]))
def _code_actions(server: Server, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
    path = server.path(params.text_document.uri)
    start, end = server.offset(path, params.range.start), server.offset(path, params.range.end)
    actions = []
    for diagnostic in server.found.get(path, []):
        place = diagnostic.labels[0] if diagnostic.labels else None
        # What was found in an earlier version of the text stands elsewhere now.
        current = place is not None and place.span.source.text == server.project.text(path)
        if place is None or not current or place.span.start > end or place.span.end < start:
            continue
        for fix in edits.fixes(server.session, path, diagnostic):
            actions.append(
                lsp.CodeAction(
                    fix.title,
                    lsp.CodeActionKind.QuickFix,
                    [server.diagnostic(path, diagnostic)],
                    fix.sure,
                    edit=lsp.WorkspaceEdit({server.uri(path): _text_edits(server, path, fix.edits)}),
                )
            )
    return actions


@_on(lsp.TEXT_DOCUMENT_FORMATTING)
def _formatting(server: Server, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
    path = server.path(params.text_document.uri)
    return _text_edits(server, path, edits.formatted(server.project, path))


_LEGEND = lsp.SemanticTokensLegend(list(highlight.KINDS), list(highlight.MODIFIERS))


@_on(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, _LEGEND)
def _tokens(server: Server, params: lsp.SemanticTokensParams) -> lsp.SemanticTokens:
    path = server.path(params.text_document.uri)
    return lsp.SemanticTokens(_encoded(server, path, highlight.highlight(server.session, path)))


@_on(lsp.TEXT_DOCUMENT_SEMANTIC_TOKENS_RANGE, _LEGEND)
def _range_tokens(server: Server, params: lsp.SemanticTokensRangeParams) -> lsp.SemanticTokens:
    path = server.path(params.text_document.uri)
    start, end = server.offset(path, params.range.start), server.offset(path, params.range.end)
    found = highlight.highlight(server.session, path)
    return lsp.SemanticTokens(_encoded(server, path, [k for k in found if k.end > start and k.start < end]))


def _encoded(server: Server, path: Path, tokens: Sequence[highlight.Coloured]) -> list[int]:
    """Five numbers a token: lines and characters from the one before, length, kind and modifiers."""
    positions = server.positions(path)
    data: list[int] = []
    line = character = 0
    for token in tokens:
        start_line, start = positions.position(token.start)
        length = positions.position(token.end)[1] - start
        marks = sum(1 << highlight.MODIFIERS.index(mark) for mark in token.modifiers)
        data += [start_line - line, start - character if start_line == line else start, length]
        data += [highlight.KINDS.index(token.kind), marks]
        line, character = start_line, start
    return data
