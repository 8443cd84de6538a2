"""Documents that know several layouts of themselves, and the printer that picks one: Wadler, "A prettier printer".

The printer goes through a document once. What a `Group` holds stands on one line where that fits, else each `Line`
directly in it ends a line. Only then are columns aligned over neighbouring lines, as gofmt does, so that where lines
end never depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice, zip_longest

INDENT = 4
# The most blanks that are put before a mark to align it with those of the lines around.
FARTHEST = 8
# A table has at least so many lines, and at most so many blanks are put before a mark.
TABLE_LINES = 3
TABLE_FARTHEST = 3
# Blanks between a line and the comment behind it.
BEFORE_COMMENT = 4


@dataclass(frozen=True, slots=True)
class Line:
    """A line's end in a group that is broken, else `flat`. After the end comes an empty line where `blank`."""

    flat: str = " "
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Indent:
    """Lines that begin inside are indented further."""

    content: Document


@dataclass(frozen=True, slots=True)
class Align:
    """Lines that begin inside are indented to the column at which this begins."""

    content: Document


@dataclass(frozen=True, slots=True)
class Group:
    """On one line where it fits and is not `broken` anyway."""

    content: Document
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Fill:
    """Items and the `Line`s between them in turn: as many items on each line as fit."""

    content: list[Document]
    # The first of them that is not printed yet.
    start: int = 0


@dataclass(frozen=True, slots=True)
class IfBroken:
    """Text that is there only where the group around it is broken."""

    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What follows is aligned with the marks of the lines above and below, where the group around is broken.

    The marks of a table are all aligned, or none is.
    """

    table: bool = False


@dataclass(frozen=True, slots=True)
class Trailing:
    """A comment at the end of the line; what follows stands on the next one. It takes no room."""

    text: str


@dataclass(frozen=True, slots=True)
class Own:
    """A comment on a line of its own."""

    text: str


Document = str | list["Document"] | Line | Indent | Align | Group | Fill | IfBroken | Mark | Trailing | Own


def flat_width(content: Document) -> int | None:
    """The width of a document on one line; None where it cannot be on one."""
    width, within = 0, [content]
    while within:
        item = within.pop()
        if isinstance(item, str | Line):
            width += len(item if isinstance(item, str) else item.flat)
        elif isinstance(item, list):
            within += item
        elif isinstance(item, Own | Trailing) or (isinstance(item, Group) and item.broken):
            return None
        elif isinstance(item, Fill):
            within += item.content
        elif isinstance(item, Group | Indent | Align):
            within.append(item.content)
    return width


def render(content: Document, width: int) -> str:
    """The text of a document, in lines of at most `width` characters as far as its groups allow, without comments."""
    printer = _Printer(width)
    printer.print(content)
    rows = printer.rows
    _align_marks(rows, width)
    _align_comments(rows, width)
    return "".join(f"{row.text}\n" for row in rows)


@dataclass(slots=True)
class _Row:
    """A line as it is being printed."""

    indent: int
    text: str = ""
    # The column of its mark, and the mark.
    mark: tuple[int, Mark] | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class _Frame:
    """A document to print and how."""

    content: Document
    indent: int
    # The row to a column of which lines are indented.
    aligned_to: _Row | None
    broken: bool


@dataclass(slots=True)
class _Printer:
    width: int
    rows: list[_Row] = field(default_factory=lambda: [_Row(0)])
    # Indentation of the line that the next text must begin, since a comment ends this one.
    waiting: int | None = None
    stack: list[_Frame] = field(default_factory=list)

    def print(self, content: Document) -> None:
        self.stack.append(_Frame(content, 0, None, True))
        while self.stack:
            frame = self.stack.pop()
            item = frame.content
            if isinstance(item, str):
                self._write(item)
            elif isinstance(item, list):
                self.stack += [_Frame(i, frame.indent, frame.aligned_to, frame.broken) for i in reversed(item)]
            elif isinstance(item, Line):
                if frame.broken:
                    self._end_line(frame.indent, frame.aligned_to, item.blank)
                else:
                    self._write(item.flat)
            elif isinstance(item, Group):
                broken = frame.broken and (item.broken or not self._fits(item.content))
                self.stack.append(_Frame(item.content, frame.indent, frame.aligned_to, broken))
            elif isinstance(item, Indent):
                self.stack.append(_Frame(item.content, frame.indent + INDENT, frame.aligned_to, frame.broken))
            elif isinstance(item, Align):
                self.stack.append(_Frame(item.content, self._column, self.rows[-1], frame.broken))
            elif isinstance(item, Fill):
                self._fill(item, frame)
            elif isinstance(item, IfBroken):
                if frame.broken:
                    self._write(item.text)
            elif isinstance(item, Mark):
                if frame.broken and self.rows[-1].mark is None and self.waiting is None:
                    self.rows[-1].mark = (self._column, item)
            elif isinstance(item, Trailing):
                self.rows[-1].comment = item.text
                self.waiting = frame.indent + INDENT
            else:
                self._own(item, frame)

    @property
    def _column(self) -> int:
        """Where the next text begins."""
        if self.waiting is not None:
            return self.waiting
        return len(self.rows[-1].text) or self.rows[-1].indent

    def _end_line(self, indent: int, aligned_to: _Row | None = None, blank: bool = False) -> None:
        row = self.rows[-1]
        row.text = row.text.rstrip()
        if row.mark is not None and row.mark[0] >= len(row.text):
            # A comment separates what follows.
            row.mark = None
        if aligned_to is not None:
            # It stays where it is.
            aligned_to.mark = None
        if blank:
            self.rows.append(_Row(0))
        self.rows.append(_Row(indent))
        self.waiting = None

    def _write(self, text: str) -> None:
        if not text or (text.isspace() and (self.waiting is not None or not self.rows[-1].text)):
            return
        if self.waiting is not None:
            self._end_line(self.waiting)
        row = self.rows[-1]
        row.text = row.text + text if row.text else " " * row.indent + text

    def _own(self, comment: Own, frame: _Frame) -> None:
        if self.waiting is not None:
            self._end_line(self.waiting)
        elif self.rows[-1].text:
            self._end_line(frame.indent + INDENT)
        row = self.rows[-1]
        row.text = " " * row.indent + comment.text
        self.waiting = row.indent

    def _fill(self, fill: Fill, frame: _Frame) -> None:
        """Print one item, or a line's end and an item, and leave the others for later."""
        content, start = fill.content, fill.start
        item = content[start]
        end = start + (2 if isinstance(item, Line) else 1)
        if end < len(content):
            self.stack.append(_Frame(Fill(content, end), frame.indent, frame.aligned_to, frame.broken))
        broken = frame.broken
        if isinstance(item, Line):
            fits = self.waiting is None and self._fits([item.flat, content[start + 1]])
            broken = broken and not fits
        for part in reversed(content[start:end]):
            self.stack.append(_Frame(part, frame.indent, frame.aligned_to, broken))

    def _fits(self, content: Document) -> bool:
        """Whether a document, and what follows it up to the next possible end of a line, fit on this line."""
        room = self.width - self._column
        commented = False
        within: list[Iterator[Document]] = [iter([content])]
        while within:
            item = next(within[-1], None)
            if item is None:
                within.pop()
            elif isinstance(item, str | Line):
                text = item if isinstance(item, str) else item.flat
                room -= len(text)
                if room < 0 or (commented and text and not text.isspace()):
                    return False
            elif isinstance(item, list):
                within.append(iter(item))
            elif isinstance(item, Fill):
                within.append(islice(item.content, item.start, None))
            elif isinstance(item, Group | Indent | Align):
                if isinstance(item, Group) and item.broken:
                    return False
                within.append(iter([item.content]))
            elif isinstance(item, Trailing):
                commented = True
            elif isinstance(item, Own):
                return False
        return commented or self._rest_fits(room)

    def _rest_fits(self, room: int) -> bool:
        """Whether what is still to be printed fits into `room` up to its first possible end of a line."""
        for frame in reversed(self.stack):
            within: list[Iterator[Document]] = [iter([frame.content])]
            while within:
                item = next(within[-1], None)
                if item is None:
                    within.pop()
                elif isinstance(item, str):
                    room -= len(item)
                    if room < 0:
                        return False
                elif isinstance(item, list):
                    within.append(iter(item))
                elif isinstance(item, Fill):
                    within.append(islice(item.content, item.start, None))
                elif isinstance(item, Group | Indent | Align):
                    within.append(iter([item.content]))
                elif isinstance(item, Line | Trailing | Own):
                    return True
                elif isinstance(item, IfBroken) and frame.broken:
                    room -= len(item.text)
        return True


def _align_marks(rows: list[_Row], width: int) -> None:
    """Put the marks of neighbouring rows into one column."""
    run: list[_Row] = []
    for row, following in zip_longest(rows, rows[1:]):
        goes_on = following is not None and following.indent > row.indent
        if row.mark is None or (row.mark[1].table and goes_on):
            _align(run, width)
            run = []
            continue
        if run and not _together(run, row):
            _align(run, width)
            run = []
        run.append(row)
        if goes_on:
            _align(run, width)
            run = []
    _align(run, width)


def _together(run: list[_Row], row: _Row) -> bool:
    """Whether a row is of the same table, or may be aligned with a run of rows."""
    first = run[0]
    assert first.mark is not None and row.mark is not None
    if row.indent != first.indent or row.mark[1] != first.mark[1]:
        return False
    return row.mark[1].table or _spread([*run, row]) <= FARTHEST


def _spread(run: list[_Row]) -> int:
    columns = [row.mark[0] for row in run if row.mark is not None]
    return max(columns) - min(columns)


def _align(run: list[_Row], width: int) -> None:
    marks = [row.mark for row in run if row.mark is not None]
    if not marks or (marks[0][1].table and (len(run) < TABLE_LINES or _spread(run) > TABLE_FARTHEST)):
        return
    most = max(column for column, _ in marks)
    for row, (column, _) in zip(run, marks, strict=True):
        aligned = row.text[:column] + " " * (most - column) + row.text[column:]
        # A line without room for the blanks stays as it is; one that is too long anyway may become longer.
        if len(aligned) <= width or len(row.text) > width:
            row.text = aligned


def _align_comments(rows: list[_Row], width: int) -> None:
    """Put the comments behind neighbouring rows into one column, where they have room there."""
    for commented, group in groupby(rows, key=lambda row: row.comment is not None):
        if not commented:
            continue
        behind = list(group)
        column = max(len(row.text) for row in behind)
        aligned = all(column + BEFORE_COMMENT + len(row.comment or "") <= width for row in behind)
        for row in behind:
            row.text = row.text.ljust(column if aligned else 0) + " " * BEFORE_COMMENT + (row.comment or "")
