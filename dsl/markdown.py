"""Specs in Markdown: the fenced blocks of a page whose language is det."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.dsl.format import format_source
from detc.dsl.source import Source

# CommonMark 0.31, section 4.5. Fences inside lists are indented further.
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*)")


@dataclass(frozen=True)
class Block:
    """What stands between two fences: its offsets in the page, how far they are indented, and what is said behind
    the first one."""

    start: int
    end: int
    indent: str
    info: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page whose language is det. One that is never closed is none, and neither is one that another
    block shows."""
    opened: tuple[re.Match[str], int] | None = None
    offset = 0
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        found = _FENCE.fullmatch(line.rstrip("\r\n"))
        if opened is None:
            opened = (found, offset + len(line)) if found is not None else None
        elif found is not None and not found[3] and found[2].startswith(opened[0][2]):
            first, start = opened
            if first[3].split()[:1] == ["det"]:
                yield Block(start, offset, first[1], first[3])
            opened = None
        offset += len(line)


def format_blocks(source: Source) -> tuple[str, list[Diagnostic]]:
    """A page with its blocks of det in the canonical layout, and all else as it is.

    A block with a syntax error is left, and so told, unless it says itself that it shows what is wrong: by a comment
    `# error: [slug]`, or the word `example` behind `det`.
    """
    text, diagnostics = source.text, []
    parts, done = [], 0
    for block in blocks(text):
        body = text[block.start : block.end]
        try:
            # Blanks before it, so that places stay true.
            before = re.sub(r"[^\n]", " ", text[: block.start])
            formatted = format_source(Source(source.name, before + body))
        except DiagnosticError as error:
            if "# error: [" not in body and "example" not in block.info.split():
                diagnostics += error.diagnostics
            continue
        formatted = re.sub(r"^(?=.)", block.indent, formatted, flags=re.MULTILINE)
        if "\r\n" in body:
            formatted = formatted.replace("\n", "\r\n")
        parts += [text[done : block.start], formatted]
        done = block.end
    return "".join([*parts, text[done:]]), diagnostics
