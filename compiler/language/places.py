"""Where in a text that may not parse something is being written, told from its tokens."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from detc.compiler.evaluate import Evaluator
from detc.compiler.frames import Frame
from detc.compiler.language.session import Session
from detc.compiler.modules import Module
from detc.compiler.overrides import RESERVED as FIELDS
from detc.compiler.overrides import configured
from detc.compiler.scope import Bundle, Closure, DetectorValue, Levels, Poisoned, Pyramid
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.tokens import DECLARATIONS, RESERVED, Token, scan

_OPENING = {")": "(", "]": "[", "}": "{"}

# What has fields to set, and those that are set before this place.
Owner = tuple[Any, set[str]]


class Known:
    """What is known of a place: the declaration that it is in, the brackets around it, and values of names."""

    def __init__(
        self, session: Session, module: Module, path: Path, text: str, before: list[Token], offset: int
    ) -> None:
        self.session = session
        self.module = module
        self.path = path
        self.offset = offset
        start = max((k.start for k in before if _begins(text, k)), default=None)
        # The tokens of the declaration up to the place.
        self.chunk = [k for k in before if start is not None and k.start >= start]
        following = [m.start() for m in _NEXT.finditer(text, offset)]
        self.rest = scan(text[offset : following[0] if following else len(text)])
        # The open brackets, as indices into the chunk.
        self.open: list[int] = []
        for index, token in enumerate(self.chunk):
            if token.text in ("(", "[", "{"):
                self.open.append(index)
            elif token.text in _OPENING and self.open:
                self.open.pop()
        self.depth = len(self.open)
        self.name = self.chunk[1].text if len(self.chunk) > 1 else ""
        self.in_header = (
            bool(self.chunk)
            and self.chunk[0].text not in ("detector", "import", "default")
            and not any(token.text == "{" for token in self.chunk)
        )
        self.evaluator = Evaluator(module)
        self.evaluator.ambient["classes"] = 1

    def starts_statement(self, last: str) -> bool:
        """Whether a statement may begin here: in braces, and not in the middle of an expression."""
        if not self.open or self.chunk[self.open[-1]].text != "{":
            return False
        return last in ("{", "}") or self.chunk[-1].kind in ("name", "number", "string") or last in (")", "]")

    # ---- calls ------------------------------------------------------------------------------------------------------

    def call(self) -> tuple[t.Declaration, Module, set[str]] | None:
        """What is being called at the place, and the arguments that it is given by name."""
        if not self.open or self.chunk[self.open[-1]].text != "(":
            return None
        begin = self.open[-1]
        index = begin - 1
        while index >= 0 and self.chunk[index].text == ")":
            index = self._matching(index) - 1
        if index < 0 or self.chunk[index].text not in self.module.names:
            return None
        given = {
            token.text
            for token, after in pairwise(self.chunk[begin + 1 :])
            if token.kind == "name" and after.text == "="
        }
        for token, after in pairwise(self.rest):
            if token.text in (")", "{", "}"):
                break
            if after.text == "=":
                given.add(token.text)
        return *self.module.names[self.chunk[index].text], given

    def _matching(self, index: int) -> int:
        """The bracket that opens what the one at an index closes."""
        depth = 0
        for place in range(index, -1, -1):
            depth += (self.chunk[place].text in _OPENING) - (self.chunk[place].text in "([{")
            if depth == 0:
                return place
        return 0

    # ---- names and values -------------------------------------------------------------------------------------------

    def locals(self) -> dict[str, Any]:
        """The names of the declaration around the place, with their values where a detector has been seen."""
        found: dict[str, Any] = {}
        depth = 0
        braces = False
        tokens = [*self.chunk, *self.rest]
        for index, token in enumerate(tokens):
            depth += (token.text in "([{") - (token.text in ")]}")
            braces = braces or token.text == "{"
            if token.kind != "name" or token.text in RESERVED or index < 2:
                continue
            before, after = tokens[index - 1].text, tokens[index + 1].text if index + 1 < len(tokens) else ""
            header = not braces and depth == 1 and after == ":"
            assigned = (
                braces and before not in (".", "(", ",", "loss") and (after == "=" or self._indexed(tokens, index))
            )
            if header or assigned or before == "for" or (before == "(" and tokens[index - 2].text == "train"):
                found.setdefault(token.text, self.value(token.text))
        return found

    @staticmethod
    def _indexed(tokens: list[Token], index: int) -> bool:
        """Whether `name[...] =` stands at an index."""
        if index + 1 >= len(tokens) or tokens[index + 1].text != "[":
            return False
        depth = 0
        for place in range(index + 1, min(index + 40, len(tokens))):
            depth += (tokens[place].text == "[") - (tokens[place].text == "]")
            if depth == 0:
                return place + 1 < len(tokens) and tokens[place + 1].text == "="
        return False

    def labels(self) -> list[str]:
        """The labels of the declaration around the place: names before a colon that are no parameters."""
        tokens = [*self.chunk, *self.rest]
        braces = next((i for i, k in enumerate(tokens) if k.text == "{"), len(tokens))
        found = []
        for index in range(braces + 1, len(tokens) - 1):
            token, before = tokens[index], tokens[index - 1].text
            labelled = tokens[index + 1].text == ":" or (tokens[index + 1].text == "[" and self._labels(tokens, index))
            if (
                token.kind == "name"
                and token.text not in RESERVED
                and labelled
                and before in ("|>", "=", "(", ",", "}")
            ):
                found.append(token.text)
        return list(dict.fromkeys(found))

    @staticmethod
    def _labels(tokens: list[Token], index: int) -> bool:
        depth = 0
        for place in range(index + 1, min(index + 40, len(tokens))):
            depth += (tokens[place].text == "[") - (tokens[place].text == "]")
            if depth == 0:
                return place + 1 < len(tokens) and tokens[place + 1].text == ":"
        return False

    def value(self, name: str) -> Any:
        """The value of a local name as a detector last had it, in this version or one before, or a global's."""
        for seen in self.session.latest(self.module.path):
            if (self.name, name) in seen.variables:
                return seen.variables[self.name, name]
        if not any(token.text == name for token in self.chunk[2:-1]):
            return self.static(name)
        return self._declared(name)

    def _declared(self, name: str) -> Any:
        """Something of the type that the header declares a name to be of."""
        for index, token in enumerate(self.chunk[:-2]):
            if token.text == name and self.chunk[index + 1].text == ":":
                kind = self.chunk[index + 2].text
                found = self.module.names.get(kind)
                if kind == "pyramid":
                    return Pyramid({})
                if kind == "levels":
                    return Levels(())
                if found is not None and isinstance(found[0], t.RecordOf):
                    return Closure(found[0], found[1], {})
        return None

    def static(self, name: str) -> Any:
        """The value of a name of the file, which needs no detector."""
        if name not in self.module.names:
            return None
        try:
            return self.evaluator.lookup(Frame(self.module), name, t.Name(0, 0, name))
        except (DiagnosticError, Poisoned, RecursionError):
            return None

    def value_before_dot(self) -> Any:
        """The value of the dotted names before the place."""
        path: list[str] = []
        index = len(self.chunk) - 1
        while index >= 1 and self.chunk[index].text == ".":
            index -= 1
            if self.chunk[index].text == "]":
                # A level of a pyramid is like any other.
                index = self._matching(index)
                path.append("[]")
                index -= 1
            if self.chunk[index].kind != "name":
                return None
            path.append(self.chunk[index].text)
            index -= 1
        if not path:
            return None
        value = self.value(path.pop())
        while path and value is not None:
            value = self.member(value, path.pop())
        return value

    def member(self, value: Any, name: str) -> Any:
        """What a value has under a name."""
        match value:
            case Pyramid() if name == "[]":
                return next(iter(value.entries.values()), None)
            case Pyramid() if name == "levels":
                return value.levels
            case Bundle():
                return value.entries.get(name)
            case Closure() | DetectorValue():
                return self.inner(value, name)
        return None

    def inner(self, owner: Any, name: str) -> Any:
        """The value of a parameter or field."""
        if isinstance(owner, DetectorValue) and name in FIELDS:
            return owner.fields[name].value if name in owner.fields else None
        closure = configured(owner) if isinstance(owner, DetectorValue) else owner
        if not isinstance(closure, Closure):
            return None
        try:
            return self.evaluator.parameter(closure, name, closure.declaration.span)
        except (DiagnosticError, Poisoned, RecursionError, KeyError):
            return None


def setting(known: Known, dotted: bool = False) -> Owner | None:
    """What has the field that is being named at the place, in a detector's braces or those of `with`."""
    chunk = known.chunk
    if not known.open or chunk[known.open[-1]].text != "{":
        return None
    begin = known.open[-1]
    base = _base(known, begin)
    if base is None:
        return None
    inside = chunk[begin + 1 :]
    path: list[str] = []
    while dotted and len(inside) > 1 and inside[-1].text == "." and inside[-2].kind == "name":
        path.insert(0, inside[-2].text)
        inside = inside[:-2]
    if dotted and not path:
        return None
    # A field's value goes on after an operator, a word such as `with`, or an open bracket.
    if inside and (inside[-1].text in _GOES_ON or inside[-1].text in RESERVED - {"true", "false", "none"}):
        return None
    given = {k.text for k, after in pairwise(inside) if k.kind == "name" and after.text == "="}
    for name in path:
        base = known.inner(base, name)
    return base, set() if path else given


_GOES_ON = {
    "=",
    ".",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "|>",
    "..",
    "..<",
    "==",
    "!=",
    "<",
    ">",
    "<=",
    ">=",
    "&",
    ":",
    ",",
}


def _base(known: Known, begin: int) -> Any:
    """What stands before the braces of fields that open at an index of the chunk."""
    chunk = known.chunk
    if chunk[0].text == "detector" and begin == 4 and chunk[2].text == ":":
        model = known.static(chunk[3].text)
        declaration = t.Detector(0, 0, known.name, 0, None, None, [])
        return DetectorValue(declaration, model, {}) if isinstance(model, Closure) else None
    if begin < 2 or chunk[begin - 1].text != "with":
        return None
    index = begin - 2
    while index >= 0 and chunk[index].text == ")":
        index = known._matching(index) - 1
    return known.static(chunk[index].text) if index >= 0 and chunk[index].kind == "name" else None


_NEXT = re.compile(rf"^(?:{'|'.join(DECLARATIONS)})\s+[A-Za-z_]", re.MULTILINE)


def _begins(text: str, token: Token) -> bool:
    """Whether a declaration begins with a token: with one of the words, where a line starts."""
    first = token.start == 0 or text[token.start - 1] in "\r\n"
    return first and token.kind == "name" and token.text in DECLARATIONS
