"""Text to syntax tree."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import Any

from detc.dsl import tree as t
from detc.dsl.catalogue import syntax
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.dsl.source import Source, Span
from detc.dsl.tokens import RESERVED

# Deeper nesting than any readable spec has. It keeps every later walk of the tree far from Python's recursion limit.
MAXIMUM_DEPTH = 150
# How many syntax errors of one file are reported.
MAXIMUM_ERRORS = 20

_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_ITEM_START = re.compile(
    r"^(?:import|let|record|block|backbone|neck|head|cell|model|op|detector|default)(?=\s+[A-Za-z_])", re.MULTILINE
)


def parse(source: Source) -> t.File:
    """The tree of a file.

    Raises:
        DiagnosticError: with every syntax error found; after one, parsing goes on at the next declaration.
    """
    _check_brackets(source)
    text, errors = source.text, []
    file: t.File | None = None
    while file is None:
        try:
            file = _parse(source, text)
        except _Failure as failure:
            errors.append(failure.diagnostic)
            following = _ITEM_START.search(source.text, failure.offset + 1)
            if following is None or len(errors) == MAXIMUM_ERRORS:
                break
            # Blank what came before, so that offsets stay true.
            text = " " * following.start() + source.text[following.start() :]
    if errors or file is None:
        raise DiagnosticError(errors)
    for declaration in file.declarations:
        _check_depth(source, declaration)
    return file


def recover(source: Source) -> tuple[t.File, list[Diagnostic]]:
    """The tree of what can be parsed, and the syntax errors: for an editor, where a text is broken as often as not.

    A declaration with an error is missing from the tree, and all others are in it.
    """
    try:
        return parse(source), []
    except DiagnosticError as error:
        errors = error.diagnostics
    file = t.File(source, [], [], None, _first_doc(source), [])
    if any(error.kind is syntax.NESTED_TOO_DEEPLY for error in errors):
        return file, errors
    starts = [match.start() for match in _ITEM_START.finditer(source.text)]
    begin = 0
    for _ in range(2 * MAXIMUM_ERRORS):
        failure = _extend(file, begin, len(source.text))
        if failure is None:
            break
        # Of a text that ends too early the culprit is the bracket that was left open.
        place = min(failure.offset, failure.diagnostic.labels[0].span.start)
        broken = bisect_right(starts, place) - 1
        following = starts[broken + 1 : broken + 2]
        # A word at the beginning of a line may become a declaration's: what stands before it can be whole.
        whole = place > begin and source.text[place - 1] == "\n" and _extend(file, begin, place) is None
        if not whole and broken >= 0 and starts[broken] > begin and _extend(file, begin, starts[broken]) is not None:
            # The error showed only where the next declaration begins: the one before it is broken.
            if broken >= 1 and starts[broken - 1] > begin:
                _extend(file, begin, starts[broken - 1])
            following = [starts[broken]]
        if not following:
            break
        begin = following[0]
    return file, errors


def _extend(file: t.File, start: int, end: int) -> _Failure | None:
    """Add what stands between two offsets to a file's tree, or say why it cannot be parsed."""
    # Blanks before it, so that offsets stay true.
    try:
        part = _parse(file.source, " " * start + file.source.text[start:end])
        for declaration in part.declarations:
            _check_depth(file.source, declaration)
    except _Failure as failure:
        return failure
    except DiagnosticError as error:
        return _Failure(error.diagnostics[0], start)
    file.imports += part.imports
    file.declarations += part.declarations
    file.default = part.default or file.default
    return None


class _Failure(Exception):
    def __init__(self, diagnostic: Diagnostic, offset: int) -> None:
        self.diagnostic = diagnostic
        self.offset = offset


def lark_of(**options: Any) -> Any:
    """Lark's parser of the language, with further options of its own."""
    from lark import Lark

    text = files("detc.dsl").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="contextual", propagate_positions=True, **options)


@cache
def _lark() -> Any:
    return lark_of(start=["start", "expr"], maybe_placeholders=True)


def _parse(source: Source, text: str) -> t.File:
    from lark.exceptions import UnexpectedInput

    try:
        parsed = _lark().parse(text, start="start")
    except UnexpectedInput as error:
        raise _failure(source, error) from None
    builder = _Builder(source)
    try:
        items = builder.items(parsed)
    except RecursionError:
        place = builder.latest
        raise _Failure(too_deep(Span(source, place, place + 1)), len(text)) from None
    declarations = [i for i in items if isinstance(i, t.Declaration)]
    for declaration in declarations:
        declaration.source = source
        declaration.doc = _doc(source, declaration.start)
    defaults = [i for i in items if isinstance(i, t.Default)]
    return t.File(
        source,
        [i for i in items if isinstance(i, t.Import)],
        declarations,
        defaults[-1] if defaults else None,
        _first_doc(source),
        [m.span() for m in COMMENT_OR_STRING.finditer(source.text) if m.group().startswith("#")],
    )


COMMENT_OR_STRING = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|`[^`\n]*`')


def _first_doc(source: Source) -> str:
    lines = []
    for line in source.text.lstrip().splitlines():
        if not line.startswith("##"):
            break
        lines.append(line[2:].removeprefix(" "))
    return "\n".join(lines)


def _doc(source: Source, start: int) -> str:
    """The `##` lines right above the place `start`."""
    number = source.position(start)[0] - 1
    lines: list[str] = []
    while number >= 1 and (line := source.line(number).strip()).startswith("##"):
        lines.insert(0, line[2:].removeprefix(" "))
        number -= 1
    return "\n".join(lines)


# ---- errors ---------------------------------------------------------------------------------------------------------

_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "TEMPLATE": "a label template",
    "KIND": "a declaration",
    "RBRACE": '"}"',
    "LBRACE": '"{"',
    "RPAR": '")"',
    "LPAR": '"("',
    "RSQB": '"]"',
    "LSQB": '"["',
    "COMMA": '","',
    "COLON": '":"',
    "EQUAL": '"="',
    "DOT": '"."',
}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# What, when it is allowed next, is the likeliest thing missing.
_TELLING = ("EQUAL", "COLON", "COMMA", "RPAR", "RSQB", "RBRACE", "LBRACE", "LPAR", "NAME", "STRING", "KIND")


def _failure(source: Source, error: Any) -> _Failure:
    from lark.exceptions import UnexpectedCharacters

    offset = error.pos_in_stream
    if isinstance(error, UnexpectedCharacters):
        character = source.text[offset]
        if character == '"':
            diagnostic = syntax.UNTERMINATED_STRING.at(
                Span(source, offset, offset + 1),
                "this string does not end on its line",
                detail='close it with " before the line ends; write \\" for a quotation mark inside',
            )
            return _Failure(diagnostic, offset)
        shown = character if character.isprintable() else f"U+{ord(character):04X}"
        return _Failure(
            syntax.SYNTAX_ERROR.at(
                Span(source, offset, offset + 1),
                f'the character "{shown}" cannot stand here',
                detail=_expected(error.allowed or ()),
            ),
            offset,
        )
    token = error.token
    if token.type == "$END":
        return _Failure(_unterminated(source), len(source.text))
    span = Span(source, token.start_pos, token.end_pos)
    detail = _expected(error.expected)
    if token in RESERVED and "NAME" in error.expected:
        detail = f'"{token}" is reserved and can name nothing; {detail}'
    return _Failure(syntax.SYNTAX_ERROR.at(span, f'"{token}" cannot stand here', detail=detail), token.start_pos)


def _expected(names: Any) -> str:
    words = [_WORDS[n] for n in _TELLING if n in names]
    if not words:
        return ""
    return f"expected {', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else f"expected {words[0]}"


def _brackets(source: Source) -> Iterator[tuple[str, int]]:
    """Brackets outside comments and strings."""
    for match in _BRACKET.finditer(source.text):
        if match.group() in "()[]{}":
            yield match.group(), match.start()


_BRACKET = re.compile(COMMENT_OR_STRING.pattern + r"|[()\[\]{}]")


def _unterminated(source: Source) -> Diagnostic:
    """The file ended too early: what was left open?"""
    stack: list[tuple[str, int]] = []
    for bracket, offset in _brackets(source):
        if bracket in _CLOSING:
            stack.append((bracket, offset))
        elif stack:
            stack.pop()
    if not stack:
        end = len(source.text.rstrip())
        return syntax.SYNTAX_ERROR.at(Span(source, max(end - 1, 0), end), "the file ends in the middle of a statement")
    bracket, offset = stack[-1]
    return syntax.UNTERMINATED.at(
        Span(source, offset, offset + 1),
        f'"{bracket}" is never closed',
        label=f'a "{_CLOSING[bracket]}" is missing for this',
        detail=f'add the "{_CLOSING[bracket]}" that ends it',
    )


def _check_brackets(source: Source) -> None:
    """Refuse absurd nesting before the parser sees it."""
    depth = 0
    for bracket, offset in _brackets(source):
        depth += 1 if bracket in _CLOSING else -1
        if depth > MAXIMUM_DEPTH:
            raise DiagnosticError(too_deep(Span(source, offset, offset + 1)))


def too_deep(span: Span) -> Diagnostic:
    """The diagnostic of a text whose nesting is refused at this place."""
    return syntax.NESTED_TOO_DEEPLY.at(
        span, f"nested more than {MAXIMUM_DEPTH} deep", detail="name the inner parts and use the names"
    )


def _check_depth(source: Source, root: t.Declaration) -> None:
    """Chains of operators make deep trees without brackets."""
    stack: list[tuple[object, int]] = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, t.Tree):
            if depth > MAXIMUM_DEPTH * 2:
                raise DiagnosticError(too_deep(Span(source, node.start, node.start + 1)))
            stack.extend((getattr(node, f.name), depth + 1) for f in fields(node) if f.name not in _LEAVES)
        elif isinstance(node, list | tuple):
            stack.extend((item, depth) for item in node)


_LEAVES = {"start", "end", "name", "name_start", "source", "doc", "kind"}


# ---- building the tree ----------------------------------------------------------------------------------------------


class _Builder:
    """Lark's tree into ours, one method a rule. Methods get (start, end, children)."""

    def __init__(self, source: Source, shift: int = 0) -> None:
        self.source = source
        # Where the text that was parsed stands in the source: label templates hold expressions.
        self.shift = shift
        # Where the node being built starts.
        self.latest = 0

    def items(self, parsed: Any) -> list[Any]:
        return [self.build(item) for item in parsed.children]

    def build(self, node: Any) -> Any:
        if node is None:
            return None
        method = getattr(self, f"_{node.data}")
        meta = node.meta
        if meta.empty:
            return method(self.shift, self.shift, node.children)
        self.latest = meta.start_pos + self.shift
        return method(self.latest, meta.end_pos + self.shift, node.children)

    def all(self, nodes: Any) -> list[Any]:
        return [self.build(n) for n in nodes if n is not None]

    # declarations

    def _import(self, start: int, end: int, c: list[Any]) -> t.Import:
        return t.Import(start, end, [self._name(*_at(n), [n]) for n in c[:-1]], self._string(*_at(c[-1]), [c[-1]]))

    def _default(self, start: int, end: int, c: list[Any]) -> t.Default:
        return t.Default(*_at(c[0]), str(c[0]))

    def _let(self, start: int, end: int, c: list[Any]) -> t.Let:
        parameters = None if c[1] is None else self.build(c[1])
        return t.Let(start, end, str(c[0]), c[0].start_pos, parameters, self.build(c[2]))

    def _record(self, start: int, end: int, c: list[Any]) -> t.RecordOf:
        body = [] if c[2] is None else self.all(c[2].children)
        return t.RecordOf(start, end, str(c[0]), c[0].start_pos, self.build(c[1]), body)

    def _component(self, start: int, end: int, c: list[Any]) -> t.Component:
        kind, name, parameters, inputs, result, body = c
        first, second = _parameter_lists(self.build(parameters), None if inputs is None else self.build(inputs))
        results = [] if result is None else [t.Parameter(*_at(name), "", self.build(result), None)]
        return t.Component(start, end, str(name), name.start_pos, str(kind), first, second, results, self.build(body))

    def _op(self, start: int, end: int, c: list[Any]) -> t.Component:
        name, parameters, inputs, results, body = c
        first, second = _parameter_lists(self.build(parameters), None if inputs is None else self.build(inputs))
        results, body = self.build(results), self.build(body)
        return t.Component(start, end, str(name), name.start_pos, "op", first, second, results, body)

    def _detector_of(self, start: int, end: int, c: list[Any]) -> t.Detector:
        return t.Detector(start, end, str(c[0]), c[0].start_pos, self.build(c[1]), None, self.build(c[2]))

    def _detector_from(self, start: int, end: int, c: list[Any]) -> t.Detector:
        return t.Detector(start, end, str(c[0]), c[0].start_pos, None, self.build(c[1]), [])

    def _fields(self, start: int, end: int, c: list[Any]) -> list[t.Field]:
        return self.all(c)

    def _field(self, start: int, end: int, c: list[Any]) -> t.Field:
        path = [str(n) for n in c[0].children]
        return t.Field(_at(c[0].children[0])[0], _at(c[0].children[-1])[1], path, self.build(c[1]))

    def _reported_field(self, start: int, end: int, c: list[Any]) -> t.Field:
        return t.Field(start, end, ["reported"], t.Bundle(start, end, self.all(c)))

    def _reported(self, start: int, end: int, c: list[Any]) -> t.Argument:
        return t.Argument(start, end, str(c[0]), self.build(c[1]))

    def _parameters(self, start: int, end: int, c: list[Any]) -> list[t.Parameter]:
        return self.all(c)

    def _parameter(self, start: int, end: int, c: list[Any]) -> t.Parameter:
        return t.Parameter(
            start, start + len(c[0]), str(c[0]), self.build(c[1]), self.build(c[2]), _doc(self.source, start)
        )

    def _type_one(self, start: int, end: int, c: list[Any]) -> t.Type:
        return t.Type(start, end, str(c[0]), False, c[1] is not None)

    def _type_many(self, start: int, end: int, c: list[Any]) -> t.Type:
        return t.Type(start, end, str(c[0]), True, c[1] is not None)

    # statements

    def _body(self, start: int, end: int, c: list[Any]) -> list[t.Statement]:
        return self.all(c)

    _op_body = _body

    def _assign(self, start: int, end: int, c: list[Any]) -> t.Assign:
        return t.Assign(start, end, self.all(c[:-1]), self.build(c[-1]))

    def _target(self, start: int, end: int, c: list[Any]) -> t.Target:
        return t.Target(start, end, str(c[0]), self.all(c[1:]))

    def _for(self, start: int, end: int, c: list[Any]) -> t.For:
        return t.For(start, end, str(c[0]), self.build(c[1]), self.build(c[2]))

    def _if(self, start: int, end: int, c: list[Any]) -> t.If:
        otherwise = self.build(c[2])
        if isinstance(otherwise, t.If):
            otherwise = [otherwise]
        return t.If(start, end, self.build(c[0]), self.build(c[1]), otherwise or [])

    _op_if = _if

    def _apply(self, start: int, end: int, c: list[Any]) -> t.Apply:
        return t.Apply(start, end, self.build(c[0]))

    def _return(self, start: int, end: int, c: list[Any]) -> t.Return:
        return t.Return(start, end, self.build(c[0]))

    def _train(self, start: int, end: int, c: list[Any]) -> t.ViewBlock:
        return t.ViewBlock(start, end, "train", str(c[0]), self.build(c[1]))

    def _predict(self, start: int, end: int, c: list[Any]) -> t.ViewBlock:
        return t.ViewBlock(start, end, "predict", None, self.build(c[0]))

    def _loss(self, start: int, end: int, c: list[Any]) -> t.Loss:
        return t.Loss(start, end, self.build(c[0]), self.all(c[1:-1]), self.build(c[-1]))

    def _require(self, start: int, end: int, c: list[Any]) -> t.Require:
        return t.Require(start, end, self.build(c[0]), _unescape(c[1]))

    def _freeze(self, start: int, end: int, c: list[Any]) -> t.Freeze:
        return t.Freeze(start, end, self.all(c))

    def _init(self, start: int, end: int, c: list[Any]) -> t.Init:
        return t.Init(start, end, self.build(c[0]), self.build(c[1]))

    def _tie(self, start: int, end: int, c: list[Any]) -> t.Tie:
        return t.Tie(start, end, self.build(c[0]), self.build(c[1]))

    def _property(self, start: int, end: int, c: list[Any]) -> t.Property:
        return t.Property(start, end, str(c[0]), str(c[1]), self.build(c[2]))

    def _weight(self, start: int, end: int, c: list[Any]) -> t.WeightOf:
        dtype = "float32" if c[3] is None else str(c[3])
        return t.WeightOf(start, end, str(c[1]), c[0] == "buffer", self.build(c[2]), dtype, self.build(c[4]))

    def _derived(self, start: int, end: int, c: list[Any]) -> t.Derived:
        return t.Derived(start, end, str(c[0]), self.build(c[1]))

    def _label(self, start: int, end: int, c: list[Any]) -> t.DefaultLabel:
        return t.DefaultLabel(start, end, _unescape(c[0]))

    def _align(self, start: int, end: int, c: list[Any]) -> t.Align:
        return t.Align(start, end, self.build(c[0]), self.build(c[1]))

    # expressions

    def _with(self, start: int, end: int, c: list[Any]) -> t.With:
        return t.With(start, end, self.build(c[0]), self.build(c[1]))

    def _pipe(self, start: int, end: int, c: list[Any]) -> t.Pipe:
        return t.Pipe(start, end, self.build(c[0]), self.build(c[1]))

    def _conditional(self, start: int, end: int, c: list[Any]) -> t.Conditional:
        return t.Conditional(start, end, *self.all(c))

    def _lambda(self, start: int, end: int, c: list[Any]) -> t.Lambda:
        parameters = self.all(c[0].children)
        for parameter in parameters:
            if not isinstance(parameter, t.Name):
                raise _Failure(
                    syntax.SYNTAX_ERROR.at(
                        Span(self.source, parameter.start, parameter.end), "a function's parameter is a plain name"
                    ),
                    parameter.start,
                )
        return t.Lambda(start, end, [p.name for p in parameters], self.build(c[1]))

    def _labelled(self, start: int, end: int, c: list[Any]) -> t.Labelled:
        return t.Labelled(start, end, self.build(c[0]), self.build(c[1]))

    def _binary(self, start: int, end: int, c: list[Any]) -> t.Binary:
        # Left-associative chains are as deep as they are long: unrolled, so that a long one cannot exhaust the stack.
        chain = []
        node = None
        while True:
            chain.append((str(c[1]), c[2], end))
            node = c[0]
            if node.data != "binary":
                break
            end = node.meta.end_pos + self.shift
            c = node.children
        result = self.build(node)
        for operator, right, stop in reversed(chain):
            result = t.Binary(start, stop, operator, result, self.build(right))
        binary: t.Binary = result
        return binary

    def _binary_or(self, start: int, end: int, c: list[Any]) -> t.Binary:
        return t.Binary(start, end, "or", self.build(c[0]), self.build(c[1]))

    def _binary_and(self, start: int, end: int, c: list[Any]) -> t.Binary:
        return t.Binary(start, end, "and", self.build(c[0]), self.build(c[1]))

    def _contained(self, start: int, end: int, c: list[Any]) -> t.Binary:
        return t.Binary(start, end, "in", self.build(c[0]), self.build(c[1]))

    def _not(self, start: int, end: int, c: list[Any]) -> t.Unary:
        return t.Unary(start, end, "not", self.build(c[0]))

    def _sign(self, start: int, end: int, c: list[Any]) -> t.Unary:
        return t.Unary(start, end, str(c[0]), self.build(c[1]))

    def _attribute(self, start: int, end: int, c: list[Any]) -> t.Attribute:
        return t.Attribute(start, end, self.build(c[0]), str(c[1]))

    def _index(self, start: int, end: int, c: list[Any]) -> t.Index:
        return t.Index(start, end, self.build(c[0]), self.build(c[1]))

    def _call(self, start: int, end: int, c: list[Any]) -> t.Call:
        return t.Call(start, end, self.build(c[0]), self.all(c[1:]))

    def _named(self, start: int, end: int, c: list[Any]) -> t.Argument:
        return t.Argument(start, end, str(c[0]), self.build(c[1]))

    def _positional(self, start: int, end: int, c: list[Any]) -> t.Argument:
        return t.Argument(start, end, None, self.build(c[0]))

    def _name(self, start: int, end: int, c: list[Any]) -> t.Name:
        return t.Name(start, end, str(c[0]))

    def _number(self, start: int, end: int, c: list[Any]) -> t.Literal:
        text = str(c[0])
        if text.isdigit():
            if len(text) > 18:
                raise _Failure(
                    syntax.SYNTAX_ERROR.at(Span(self.source, start, end), "this number has more than 18 digits"), start
                )
            return t.Literal(start, end, int(text))
        if math.isinf(value := float(text)):
            raise _Failure(
                syntax.SYNTAX_ERROR.at(Span(self.source, start, end), "this number is too large to be one"), start
            )
        return t.Literal(start, end, value)

    def _string(self, start: int, end: int, c: list[Any]) -> t.Literal:
        return t.Literal(start, end, _unescape(c[0]))

    def _template(self, start: int, end: int, c: list[Any]) -> t.Template:
        from lark.exceptions import UnexpectedInput

        text = str(c[0])[1:-1]
        parts: list[Any] = []
        position = 0
        for match in re.finditer(r"\{([^{}]*)\}", text):
            if match.start() > position:
                parts.append(text[position : match.start()])
            shift = start + 1 + match.start(1)
            try:
                parsed = _lark().parse(match.group(1), start="expr")
            except UnexpectedInput:
                raise _Failure(
                    syntax.SYNTAX_ERROR.at(
                        Span(self.source, shift, start + 1 + match.end(1)),
                        "this is not an expression",
                        detail="inside a label template, {...} holds an expression such as {i + 1}",
                    ),
                    start,
                ) from None
            parts.append(_Builder(self.source, shift).build(parsed))
            position = match.end()
        if position < len(text):
            parts.append(text[position:])
        return t.Template(start, end, parts)

    def _true(self, start: int, end: int, c: list[Any]) -> t.Literal:
        return t.Literal(start, end, True)

    def _false(self, start: int, end: int, c: list[Any]) -> t.Literal:
        return t.Literal(start, end, False)

    def _none(self, start: int, end: int, c: list[Any]) -> t.Literal:
        return t.Literal(start, end, None)

    def _paren(self, start: int, end: int, c: list[Any]) -> t.Expr:
        items = self.all(c)
        return items[0] if len(items) == 1 else t.Tuple(start, end, items)

    def _list(self, start: int, end: int, c: list[Any]) -> t.ListOf:
        return t.ListOf(start, end, self.all(c))

    def _comprehension(self, start: int, end: int, c: list[Any]) -> t.Comprehension:
        return t.Comprehension(start, end, self.build(c[0]), str(c[1]), self.build(c[2]), self.build(c[3]))

    def _braces(self, start: int, end: int, c: list[Any]) -> t.Pyramid | t.Bundle:
        entries = self.all(c)
        named = [e for e in entries if isinstance(e, t.Argument)]
        if len(named) == len(entries) and entries:
            return t.Bundle(start, end, named)
        if named:
            raise _Failure(
                syntax.SYNTAX_ERROR.at(
                    Span(self.source, named[0].start, named[0].end),
                    "levels and names are mixed in one pair of braces",
                    detail="{3: p3, 4: p4} is a pyramid, {scores = s, deltas = d} is a bundle of values",
                ),
                named[0].start,
            )
        return t.Pyramid(start, end, entries)

    def _level_entry(self, start: int, end: int, c: list[Any]) -> tuple[t.Expr, t.Expr]:
        return self.build(c[0]), self.build(c[1])


def _parameter_lists(
    first: list[t.Parameter], second: list[t.Parameter] | None
) -> tuple[list[t.Parameter], list[t.Parameter]]:
    """Parameters and inputs. One list alone is the inputs: a component without parameters need not say ()."""
    return ([], first) if second is None else (first, second)


def _at(token: Any) -> tuple[int, int]:
    return token.start_pos, token.end_pos


def _unescape(token: Any) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m.group(1), m.group(1)), str(token)[1:-1])
