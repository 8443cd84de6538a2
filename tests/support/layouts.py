"""What holds of the layout of every text."""

from __future__ import annotations

import re
from dataclasses import fields

from detc.dsl import tree as t
from detc.dsl.format import format_source
from detc.dsl.parser import parse
from detc.dsl.source import Source


def formatted(text: str) -> str:
    return format_source(Source("test.det", text))


def meaning(node: object) -> object:
    """A tree as plain values, without places and documentation."""
    if isinstance(node, t.File):
        default = node.default.name if node.default else None
        return [meaning(node.imports), meaning(node.declarations), default]
    if isinstance(node, t.Tree):
        without = {"start", "end", "name_start", "source", "doc"}
        return [type(node).__name__, *(meaning(getattr(node, f.name)) for f in fields(node) if f.name not in without)]
    if isinstance(node, list | tuple):
        return [meaning(item) for item in node]
    return node


def parsed(text: str) -> t.File:
    return parse(Source("test.det", text))


def comments(text: str) -> list[str]:
    return [text[start:end].rstrip() for start, end in parsed(text).comments]


def holds(text: str) -> str:
    """What must hold of every text that parses; gives its layout."""
    result = formatted(text)
    assert meaning(parsed(result)) == meaning(parsed(text))
    assert comments(result) == comments(text)
    assert formatted(result) == result
    assert not re.search(r"[ \t\r]$", result, re.MULTILINE)
    assert "\n\n\n" not in result
    assert not result.startswith("\n") and (not result or re.search(r"[^\n]\n\Z", result))
    return result
