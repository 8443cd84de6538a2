"""The canonical layout of specs. docs/language.md says its rules; `detc.dsl.document` picks among layouts by width.

The layout depends on the tokens of a text and on four things that people choose: empty lines between statements, a
line's end behind the `{` of a block, a comma behind the last of several items, and where comments stand. Tokens and
comments keep their order, and only commas before a closing bracket come or go: so the meaning is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from detc.dsl.comments import Comments, attach
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.document import (
    Align,
    Document,
    Fill,
    Group,
    IfBroken,
    Indent,
    Line,
    Mark,
    Own,
    Trailing,
    flat_width,
    render,
)
from detc.dsl.parser import lark_of, parse, too_deep
from detc.dsl.source import Source, Span

WIDTH = 120

# Between statements on one line.
_BETWEEN = "  "
# Operators that associate with each other.
_ASSOCIATIVE = ({"+", "-"}, {"*", "/", "//", "%"}, {"&"}, {"or"}, {"and"})
# Items that are single words: lists of these alone are filled.
_WORDS = ("number", "string", "template", "true", "false", "none", "name")


def format_source(source: Source) -> str:
    """The text of a spec in the canonical layout. Its lines end with a line feed.

    Raises:
        DiagnosticError: with every syntax error, as `parse` finds them.
    """
    spans = parse(source).comments
    tree = _lark().parse(source.text)
    comments = attach(source.text, tree.scan_values(_is_token), spans)
    try:
        content = _Layout(comments).file(tree)
    except RecursionError:
        raise DiagnosticError(too_deep(Span(source, 0, 1))) from None
    return render(content[1:], WIDTH) if content else ""


@cache
def _lark() -> Any:
    """The parser of `detc.dsl.parser`, with every token in its trees."""
    return lark_of(maybe_placeholders=False, keep_all_tokens=True)


def _is_token(node: Any) -> bool:
    return isinstance(node, str)


def _is(node: Any, *rules: str) -> bool:
    """Whether a node of the tree is of one of these rules."""
    return not _is_token(node) and node.data in rules


def _start(node: Any) -> int:
    """Where the first token of a node starts."""
    return int(node.start_pos if _is_token(node) else node.meta.start_pos)


def _end(node: Any) -> int:
    """Where the last token of a node ends."""
    return int(node.end_pos if _is_token(node) else node.meta.end_pos)


def _is_word(item: Any) -> bool:
    return _is(item, *_WORDS) or (_is(item, "sign") and _is(item.children[1], "number"))


def _behind(remarks: list[str]) -> list[Document]:
    """What stands behind a token: a comment on its line, then others on their own."""
    return [Trailing(text) if number == 0 else Own(text) for number, text in enumerate(remarks)]


def _longest(head: int, widths: list[int | None], tail: int, broken: set[int]) -> int:
    """The longest of the lines on which lists of these widths stand between head and tail, some of them broken."""
    lines = [head]
    for number, width in enumerate(widths):
        if number in broken:
            lines[-1] += 1
            lines.append(1)
        else:
            lines[-1] += width or 0
    lines[-1] += tail
    return max(lines)


class _Layout:
    """The document of each rule of the grammar: `_name` takes the children of the rule `name`."""

    def __init__(self, comments: Comments) -> None:
        self.comments = comments

    def file(self, tree: Any) -> list[Document]:
        """The document of a whole file; it begins with a line's end unless it is empty."""
        return self._lines(tree.children, None)

    def build(self, node: Any) -> Document:
        if not isinstance(node, str):
            method = getattr(self, f"_{node.data}", self._words)
            return method(node.children)
        start, end = _start(node), _end(node)
        above = [Own(comment.text) for comment in self.comments.take_above(start)]
        return [*above, str(node), *_behind(self.comments.take_behind(end))]

    # ---- sequences --------------------------------------------------------------------------------------------------

    def _joined(self, nodes: Iterable[Any], between: str) -> list[Document]:
        content: list[Document] = []
        for node in nodes:
            content += [between, self.build(node)] if content else [self.build(node)]
        return content

    def _words(self, c: list[Any]) -> Document:
        return self._joined(c, " ")

    def _tight(self, c: list[Any]) -> Document:
        return self._joined(c, "")

    _dotted = _target = _attribute = _index = _sign = _type_one = _type_many = _tight

    def _listed(self, c: list[Any]) -> Document:
        """Items and commas, as many on a line as fit."""
        content: list[Document] = []
        for place in range(0, len(c), 2):
            content += [Line(), self._joined(c[place : place + 2], "")]
        return Indent(Fill(content[1:]))

    def _equation(self, key: Document, c: list[Any]) -> Document:
        """`key = value`, where `c` is the sign and the value."""
        return [key, " ", self._words(c)]

    def _aligned(self, key: Document, c: list[Any], table: bool = False) -> Document:
        """`key = value`, its sign aligned with those around."""
        return [key, Mark(table), self._equation("", c)]

    # ---- declarations -----------------------------------------------------------------------------------------------

    def _import(self, c: list[Any]) -> Document:
        return [self.build(c[0]), " ", self._listed(c[1:-2]), " ", self._words(c[-2:])]

    def _let(self, c: list[Any]) -> Document:
        if _is(c[2], "parameters"):
            return [self._words(c[:2]), self.build(c[2]), " ", self._words(c[3:])]
        return self._equation(self._words(c[:2]), c[2:])

    def _component(self, c: list[Any]) -> Document:
        """`kind name(parameters)(inputs) -> result { ... }`: where that is too long, lists are broken."""
        *_, body = c
        count = 2 if _is(c[3], "parameters") else 1
        head, lists = self._words(c[:2]), [self._bracket(part.children) for part in c[2 : 2 + count]]
        result = c[2 + count : -1]
        tail: Document = [" ", self._words(result)] if result else ""
        widths = [flat_width(part) for part in lists]
        forced = {place for place, width in enumerate(widths) if width is None}
        # The last list with several items first, else one with a single item.
        items = [(len(part.children) - 1) // 2 for part in c[2 : 2 + count]]
        order = sorted((p for p in range(count) if items[p]), key=lambda place: (items[place] > 1, place), reverse=True)
        choices = [forced, *(forced | {place} for place in order), forced | set(order)]
        # Results that have no room even on the last line are broken by themselves.
        width = flat_width(tail)
        fits = width is not None and len(")") + width + len(" {") <= WIDTH
        ends = flat_width(head) or 0, (width or 0) + len(" {") if fits else len(" -> (")
        broken = next((b for b in choices if _longest(ends[0], widths, ends[1], b) <= WIDTH), choices[-1])
        shown = [Group(part.content, part.broken or place in broken) for place, part in enumerate(lists)]
        return [head, *shown, tail, " ", self.build(body)]

    _op = _component

    def _record(self, c: list[Any]) -> Document:
        head = [self._words(c[:2]), self.build(c[2])]
        return [*head, " ", self.build(c[3])] if len(c) > 3 else head

    def _parameter(self, c: list[Any]) -> Document:
        return [self._tight(c[:2]), " ", self._words(c[2:])]

    # ---- statements -------------------------------------------------------------------------------------------------

    def _lines(self, items: list[Any], end: int | None) -> list[Document]:
        """Statements, and the comments above them and above the token at `end`, each after a line's end."""
        content: list[Document] = []
        figures: list[Document] = []

        def begin(spaced: bool) -> Line:
            return Line(_BETWEEN, spaced) if content else Line()

        for item in items:
            above = self.comments.take_above(_start(item))
            spaced = _start(item) in self.comments.spaced
            # What was reported as numbers fills lines.
            figure = _is(item, "reported") and _is(item.children[-1], "number", "sign")
            if figure and figures and not above and not spaced:
                figures += [Line(_BETWEEN), self._words(item.children)]
                continue
            for comment in above:
                content += [begin(comment.spaced), Own(comment.text)]
            figures = [self._words(item.children)] if figure else []
            content += [begin(spaced), Fill(figures) if figure else self.build(item)]
        for comment in self.comments.take_above(end):
            content += [begin(comment.spaced), Own(comment.text)]
        return content

    def _block(self, c: list[Any]) -> tuple[list[Document], bool]:
        """The parts of `{ ... }`, for the group around it, and whether a line must end behind the `{`."""
        opening, *items, closing = c
        must_break = _end(opening) in self.comments.last_on_line
        first = self.build(opening)
        lines = self._lines(items, _start(closing))
        if not lines:
            return [first, self.build(closing)], False
        return [first, Indent(lines), Line(), self.build(closing)], must_break

    def _body(self, c: list[Any]) -> Document:
        return Group(*self._block(c))

    _op_body = _record_body = _fields = _body

    def _reported_field(self, c: list[Any]) -> Document:
        return [self.build(c[0]), " ", Group(*self._block(c[1:]))]

    def _assign(self, c: list[Any]) -> Document:
        targets = c[:-2]
        key = [self.build(targets[0])]
        for place in range(1, len(targets), 2):
            key += [self.build(targets[place]), " ", self.build(targets[place + 1])]
        return self._aligned(key, c[-2:], table=True)

    def _field(self, c: list[Any]) -> Document:
        return self._aligned(self.build(c[0]), c[1:])

    def _property(self, c: list[Any]) -> Document:
        return self._aligned(self._tight(c[:3]), c[3:], table=True)

    def _derived(self, c: list[Any]) -> Document:
        return self._equation(self._words(c[:2]), c[2:])

    def _loss(self, c: list[Any]) -> Document:
        return self._equation([self.build(c[0]), " ", self._tight(c[1:-2])], c[-2:])

    def _weight(self, c: list[Any]) -> Document:
        return self._equation([self.build(c[0]), " ", self._tight(c[1:3]), " ", self._words(c[3:-2])], c[-2:])

    def _if(self, c: list[Any]) -> Document:
        """All blocks of a chain on one line, or none."""
        parts: list[Document] = []
        broken = False
        while True:
            remarked = _end(c[2]) in self.comments.behind
            block, must_break = self._block(c[2].children)
            broken = broken or must_break
            parts += [self._words(c[:2]), " ", block]
            if len(c) == 3:
                return Group(parts, broken)
            remarked = remarked or _start(c[3]) in self.comments.above
            parts += [Line() if remarked else " ", self.build(c[3]), " "]
            if not _is(c[4], "if", "op_if"):
                block, must_break = self._block(c[4].children)
                return Group([*parts, block], broken or must_break)
            c = c[4].children

    _op_if = _if

    def _train(self, c: list[Any]) -> Document:
        return [self._tight(c[:4]), " ", self.build(c[4])]

    def _require(self, c: list[Any]) -> Document:
        return Group([self.build(c[0]), " ", self._tight(c[1:3]), Indent([Line(), self.build(c[3])])])

    _align = _require

    def _freeze(self, c: list[Any]) -> Document:
        return [self.build(c[0]), " ", self._listed(c[1:])]

    def _init(self, c: list[Any]) -> Document:
        return [self.build(c[0]), " ", self._tight(c[1:3]), " ", self.build(c[3])]

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _labelled(self, c: list[Any]) -> Document:
        return [self._tight(c[:2]), " ", self.build(c[2])]

    _level_entry = _labelled

    def _named(self, c: list[Any]) -> Document:
        return self._aligned(self.build(c[0]), c[1:])

    def _pipe(self, c: list[Any]) -> Document:
        """A value and its stages; where they do not fit, each stage has a line, below the first."""
        stages: list[Document] = []
        while True:
            value, *stage = c
            stages = [self._words(stage), Line(), *stages]
            if not _is(value, "pipe"):
                break
            c = value.children
        if len(stages) == 2:
            return [self.build(value), " ", stages[0]]
        return Group([self.build(value), " ", Align(stages[:-1])])

    def _binary(self, c: list[Any]) -> Document:
        """Operands that associate with each other; where they do not fit, each has a line."""
        level = next((level for level in _ASSOCIATIVE if c[1] in level), {str(c[1])})
        if c[1] == ".." and _is(c[0], "number") and _is(c[2], "number"):
            return self._tight(c)
        more: list[Document] = []
        while True:
            first, *operand = c
            more = [Line(), self._words(operand), *more]
            if not (_is(first, "binary", "binary_or", "binary_and") and first.children[1] in level):
                return Group([self.build(first), Indent(more)])
            c = first.children

    _binary_or = _binary_and = _contained = _binary

    def _conditional(self, c: list[Any]) -> Document:
        """The branches of a chain; where they do not fit, each has a line."""
        first, more = self._words(c[:4]), []
        while _is(c[5], "conditional"):
            inner = c[5].children
            more += [Line(), self.build(c[4]), " ", self._words(inner[:4])]
            c = inner
        return Group([first, Indent([*more, Line(), self._words(c[4:])])])

    def _call(self, c: list[Any]) -> Document:
        return [self.build(c[0]), self._bracket(c[1:])]

    def _paren(self, c: list[Any]) -> Document:
        return self._bracket(c, plain=True)

    def _list(self, c: list[Any]) -> Document:
        return self._bracket(c)

    _parameters = _braces = _list

    def _comprehension(self, c: list[Any]) -> Document:
        clauses: list[Document] = [self.build(c[1]), Line(), self._words(c[2:6])]
        if len(c) > 7:
            clauses += [Line(), self._words(c[6:8])]
        return Group([self.build(c[0]), Indent([Line(""), *clauses]), Line(""), self.build(c[-1])])

    def _bracket(self, c: list[Any], plain: bool = False) -> Group:
        """Items in brackets: on the line, else all on the next, else one on each line with a comma behind the last.

        One item of `plain` parentheses takes no comma: they only group.
        """
        opening, *inside, closing = c
        items, commas = inside[::2], inside[1::2]
        last_comma = commas.pop() if items and len(commas) == len(items) else None
        filled = len(items) > 1 and all(_is_word(item) for item in items)
        takes_comma = not filled and not (len(items) == 1 and plain)
        content: list[Document] = []
        for number, item in enumerate(items):
            content += [Line()] if number else []
            above = [part for comment in self.comments.take_above(_start(item)) for part in (Own(comment.text), Line())]
            if number < len(commas):
                content.append([*above, self._joined([item, commas[number]], "")])
                continue
            remarks = self.comments.take_behind(_end(item))
            if last_comma is not None:
                remarks += self.comments.take_behind(_end(last_comma))
            content.append([*above, self.build(item), IfBroken("," if takes_comma else ""), *_behind(remarks)])
        must_break = last_comma is not None and takes_comma
        last: list[Document] = []
        for comment in self.comments.take_above(_start(closing)):
            last += [Line(), Own(comment.text)]
        shown = Fill(content) if filled else Group(content, must_break)
        within = Indent([Line(""), shown, *last] if items else last)
        return Group([self.build(opening), within, Line(""), self.build(closing)], must_break)
