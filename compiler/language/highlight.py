"""What each word of a text is, for colours: by the tokens, and by what names refer to where the text parses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detc.compiler.builtins import BUILTINS
from detc.compiler.language.names import Symbol, kind_of
from detc.compiler.language.session import Session
from detc.compiler.modules import Module
from detc.compiler.parameters import TYPE_NAMES
from detc.dsl.tokens import DECLARATIONS, OP_STATEMENTS, RESERVED, STATEMENTS, Token, scan

# The protocol's names of what is coloured alike.
KINDS = (
    "keyword",
    "comment",
    "string",
    "number",
    "operator",
    "type",
    "class",
    "function",
    "variable",
    "parameter",
    "property",
)
MODIFIERS = ("declaration", "defaultLibrary", "documentation")


@dataclass(frozen=True, slots=True)
class Coloured:
    """Characters `start` to `end`, of one of `KINDS`, with some of `MODIFIERS`."""

    start: int
    end: int
    kind: str
    modifiers: tuple[str, ...] = ()


def highlight(session: Session, path: Path) -> list[Coloured]:
    """The words of a file, in order; none reaches over a line end.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    module = session.project.module(path)
    bound = {o.start: (o.symbol, o.role) for o in session.bindings(path).occurrences}
    tokens = scan(module.source.text)
    words = _keywords(tokens, set(bound))
    found = []
    for index, token in enumerate(tokens):
        match token.kind:
            case "comment":
                marks = ("documentation",) if token.text.startswith("##") else ()
                end = token.start + len(token.text.rstrip("\r"))
                found.append(Coloured(token.start, end, "comment", marks))
            case "string" | "template":
                found.append(Coloured(token.start, token.end, "string"))
            case "number":
                found.append(Coloured(token.start, token.end, "number"))
            case "operator" if token.text in _OPERATORS:
                found.append(Coloured(token.start, token.end, "operator"))
            case "name":
                if token.start in words:
                    found.append(Coloured(token.start, token.end, "keyword"))
                elif token.start in bound:
                    symbol, role = bound[token.start]
                    marks = ("declaration",) if role == "definition" else ()
                    found.append(
                        Coloured(
                            token.start, token.end, _SYMBOLS.get(symbol.kind, "class"), marks + _library(symbol, module)
                        )
                    )
                else:
                    kind = _unbound(tokens, index)
                    if kind:
                        found.append(Coloured(token.start, token.end, kind))
    return found


_OPERATORS = {"|>", "->", "..", "..<", "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", ">", "<=", ">=", "&", "="}


_SYMBOLS = {
    "parameter": "parameter",
    "input": "parameter",
    "variable": "variable",
    "field": "property",
    "label": "property",
    "op": "function",
    "let": "variable",
    "record": "type",
}


def _library(symbol: Symbol, module: Module) -> tuple[str, ...]:
    """Primitives are there without an import."""
    known = module.names.get(symbol.name)
    prelude = known is not None and kind_of(known[0]) == "op" and symbol.kind == "op" and symbol.path != module.path
    return ("defaultLibrary",) if prelude else ()


def _keywords(tokens: list[Token], bound: set[int]) -> set[int]:
    """Where words are keywords: the reserved ones always, others where a statement or declaration starts with them."""
    found = set()
    words = set(DECLARATIONS) | set(STATEMENTS) | set(OP_STATEMENTS) | {"reported"}
    code = [token for token in tokens if token.kind != "comment"]
    for index, token in enumerate(code):
        if token.kind != "name" or token.start in bound:
            continue
        following = code[index + 1] if index + 1 < len(code) else None
        if (
            token.text in RESERVED
            or (token.text == "from" and following is not None and following.kind == "string")
            or (token.text in words and following is not None and _starts(token.text, following))
            or (token.text == "to" and index and following is not None and following.kind in ("name", "template"))
        ):
            found.add(token.start)
    return found


def _starts(word: str, following: Token) -> bool:
    if word in ("predict", "reported"):
        return following.text == "{"
    if word == "train":
        return following.text == "("
    return following.kind in ("name", "template", "string") or (word in STATEMENTS and following.text in ("(", "["))


def _unbound(tokens: list[Token], index: int) -> str:
    """What a name that refers to nothing declared looks like."""
    token = tokens[index]
    before = tokens[index - 1].text if index else ""
    after = tokens[index + 1].text if index + 1 < len(tokens) else ""
    if before == ".":
        return "property"
    if token.text in BUILTINS and after == "(":
        return "function"
    if token.text in TYPE_NAMES and before in (":", "->", "["):
        return "type"
    if after == ":" or before in ("weight", "buffer", "loss", "attr"):
        return "property"
    return "variable"
