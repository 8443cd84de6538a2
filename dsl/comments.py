"""Where the comments and empty lines of a text stand among its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on a line of its own, and whether a line above it is empty."""

    text: str
    spaced: bool


@dataclass(slots=True)
class Comments:
    """The comments of a text, each taken out once, and what else its white space says."""

    # Those on lines of their own, by the start of the token after them; None is the text's end.
    above: dict[int | None, list[Comment]] = field(default_factory=dict)
    # Those behind a token, by its end. Only the first is on the token's line, others are on lines of their own.
    behind: dict[int, list[str]] = field(default_factory=dict)
    # Starts of the tokens after an empty line.
    spaced: set[int] = field(default_factory=set)
    # Ends of the tokens that are the last of their lines.
    last_on_line: set[int] = field(default_factory=set)

    def take_above(self, start: int | None) -> list[Comment]:
        return self.above.pop(start, [])

    def take_behind(self, end: int) -> list[str]:
        return self.behind.pop(end, [])


def attach(text: str, tokens: Iterable[Any], comments: list[tuple[int, int]]) -> Comments:
    """The comments at these places (start, end) of a text, among its tokens, which know their start_pos and end_pos.

    A comma stands where its item ends: comments between the two go behind it.
    """
    found = Comments()
    waiting: list[Comment] = []
    end = 0
    token_end: int | None = None
    for start, following, token in sorted(
        [*((t.start_pos, t.end_pos, str(t)) for t in tokens), *((*c, "") for c in comments)]
    ):
        lines = text.count("\n", end, start)
        if lines:
            found.last_on_line.add(end)
        if not token:
            comment = text[start:following].rstrip()
            if lines or token_end is None:
                waiting.append(Comment(comment, lines > 1))
            else:
                found.behind.setdefault(token_end, []).append(comment)
        else:
            if lines > 1:
                found.spaced.add(start)
            if token == "," and token_end is not None:
                found.behind[following] = [*found.take_behind(token_end), *(comment.text for comment in waiting)]
            elif waiting:
                found.above[start] = waiting
            waiting = []
            token_end = following
        end = following
    found.above[None] = waiting
    return found
