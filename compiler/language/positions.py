"""Offsets into a text, and the lines and characters that editors count."""

from __future__ import annotations

import re
from bisect import bisect_right

_LINE_END = re.compile(r"\r\n|\n|\r")


class Positions:
    """The lines of a text; `encoding` is what a character is counted in: utf-8, utf-16 or utf-32 code units."""

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self.text = text
        self.encoding = encoding
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
        self._plain = text.isascii() or encoding == "utf-32"

    def position(self, offset: int) -> tuple[int, int]:
        """Line and character, both from 0, of an offset; one outside the text is that of its nearest end."""
        offset = min(max(offset, 0), len(self.text))
        line = bisect_right(self._starts, offset) - 1
        start = self._starts[line]
        return line, offset - start if self._plain else sum(map(self._units, self.text[start:offset]))

    def offset(self, line: int, character: int) -> int:
        """The offset of a line and character. A character beyond its line is the line's end, as the protocol says."""
        if line < 0:
            return 0
        if line >= len(self._starts):
            return len(self.text)
        start = self._starts[line]
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)
        content = self.text[start:end].rstrip("\r\n")
        if self._plain:
            return start + min(max(character, 0), len(content))
        units = 0
        for index, letter in enumerate(content):
            if units >= character:
                return start + index
            units += self._units(letter)
        return start + len(content)

    def _units(self, letter: str) -> int:
        code = ord(letter)
        if self.encoding == "utf-16":
            return 2 if code > 0xFFFF else 1
        return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
