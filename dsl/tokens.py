"""The tokens of a text that need not parse, for editors.

Words that are keywords only where what follows makes them so are names here: the parser knows better, where it can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TokenKind = Literal["comment", "string", "template", "number", "name", "operator"]

# Those that may name nothing.
RESERVED = frozenset(["if", "then", "else", "for", "in", "return", "with", "and", "or", "not", "true", "false", "none"])
DECLARATIONS = (
    "import",
    "let",
    "record",
    "block",
    "backbone",
    "neck",
    "head",
    "cell",
    "model",
    "op",
    "detector",
    "default",
)
STATEMENTS = ("apply", "train", "predict", "loss", "require", "freeze", "init", "tie")
OP_STATEMENTS = ("weight", "buffer", "attr", "label", "align")

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"?)
      | (?P<template>`[^`\n]*`?)
      | (?P<number>\d+\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<operator>\|>|->|\.\.<|\.\.|\*\*|//|[=!<>]=|[^\s\w])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text from offset `start` to `end`."""

    kind: TokenKind
    text: str
    start: int
    end: int


def scan(text: str) -> list[Token]:
    """All tokens, comments included. A string or template that is not closed ends with its line."""
    return [Token(m.lastgroup, m.group(), m.start(), m.end()) for m in _TOKEN.finditer(text)]  # type: ignore[arg-type]
