"""What can be written at a place. A text that is being typed rarely parses: the place is told from tokens alone, and
what is known of names and values from what does parse and from the versions before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detc.compiler.builtins import BUILTINS
from detc.compiler.evaluate import TENSOR_FIELDS
from detc.compiler.language.edits import Edit, import_edit
from detc.compiler.language.hover import describe_values, signature
from detc.compiler.language.names import kind_of, members
from detc.compiler.language.places import Known, Owner, setting
from detc.compiler.language.session import Session
from detc.compiler.modules import Module
from detc.compiler.overrides import RESERVED as FIELDS
from detc.compiler.parameters import TYPE_NAMES
from detc.compiler.scope import Bundle, Closure, DetectorValue, Levels, Pyramid, Tensor
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.tokens import DECLARATIONS, OP_STATEMENTS, RESERVED, STATEMENTS, Token, scan

# How many names that would need an import are offered.
MAXIMUM_IMPORTS = 200


@dataclass(frozen=True)
class Completion:
    """`insert` in place of the characters `start` to `end`; `edits` elsewhere come with it.

    `kind` is a symbol's, or "keyword", "type", "level" or "path". `rank` orders: the smallest first.
    """

    label: str
    insert: str
    start: int
    end: int
    kind: str
    detail: str = ""
    doc: str = ""
    rank: int = 5
    edits: tuple[Edit, ...] = ()


def complete(session: Session, path: Path, offset: int) -> list[Completion]:
    """What can be written at an offset.

    Raises:
        DiagnosticError: where the file cannot be read.
    """
    module = session.project.module(path)
    text = session.project.text(path)
    tokens = scan(text)
    inside = next((token for token in tokens if token.start < offset <= token.end), None)
    if inside is not None and (inside.kind == "comment" or (inside.kind == "string" and _closed(inside, offset))):
        return []
    code = [token for token in tokens if token.kind != "comment"]
    completer = _Completer(session, module, path, text, code, offset)
    return list({(item.label, item.kind): item for item in reversed(list(completer.items()))}.values())[::-1]


def _closed(string: Token, offset: int) -> bool:
    return offset == string.end and len(string.text) > 1 and string.text.endswith('"')


class _Completer:
    def __init__(
        self, session: Session, module: Module, path: Path, text: str, tokens: list[Token], offset: int
    ) -> None:
        self.session = session
        self.module = module
        self.path = path
        self.text = text
        self.tokens = tokens
        self.offset = offset
        self.word = next((k for k in tokens if k.start <= offset <= k.end and k.kind in ("name", "string")), None)
        if self.word is not None and self.word.kind == "string" and not self.word.start < offset:
            self.word = None
        # The tokens before the word that is being written.
        edge = self.word.start if self.word is not None else offset
        self.before = [token for token in tokens if token.end <= edge and token is not self.word]
        self.known = Known(session, module, path, text, self.before, offset)

    def item(self, label: str, kind: str, insert: str | None = None, **more: Any) -> Completion:
        start, end = (self.word.start, self.word.end) if self.word is not None else (self.offset, self.offset)
        return Completion(label, label if insert is None else insert, start, end, kind, **more)

    def items(self) -> Iterator[Completion]:
        before = self.before
        last = before[-1].text if before else ""
        if self.word is not None and self.word.kind == "string":
            if last == "from":
                yield from self.paths()
            return
        if self.importing():
            yield from self.imported()
        elif last == "from":
            yield from self.paths(quoted=True)
        elif last == "default":
            yield from self.declared(("detector",))
        elif last == "." and len(before) > 1:
            yield from self.members()
        elif last == "[" and len(before) > 1 and before[-2].kind == "name" and before[-2].text not in RESERVED:
            yield from self.levels(before[-2].text)
            yield from self.expressions()
        elif last in ("freeze", "tie", "to", "init"):
            yield from self.labels()
            if last == "init":
                yield from self.declared(("op",), rank=6)
        elif self.typed():
            yield from self.types()
        else:
            yield from self.elsewhere(last)

    def elsewhere(self, last: str) -> Iterator[Completion]:
        """In the body of something, or outside all."""
        known = self.known
        if not known.chunk or (last == "}" and known.depth == 0):
            yield from (self.item(word, "keyword", rank=1) for word in DECLARATIONS)
            return
        head = known.chunk[0].text
        if head == "detector" and last == ":" and known.depth == 0:
            yield from self.declared(("model",))
            yield from self.unimported(("model",))
            return
        if head == "detector" and last == "=" and known.depth == 0:
            yield from self.declared(("detector",))
            yield from self.unimported(("detector",))
            return
        owner = setting(known)
        if owner is not None:
            yield from self.fields(owner, FIELDS)
            return
        call = known.call()
        if call is not None and last in ("(", ","):
            yield from self.arguments(*call)
        if known.starts_statement(last):
            words = OP_STATEMENTS if head == "op" else STATEMENTS
            yield from (self.item(word, "keyword", rank=4) for word in (*words, "for", "if", "return"))
        yield from self.expressions()

    # ---- imports ----------------------------------------------------------------------------------------------------

    def importing(self) -> bool:
        """Whether the names of an import are being written."""
        for token in reversed(self.before):
            if token.text == "import":
                return True
            if token.text != "," and (token.kind != "name" or token.text in ("from", *DECLARATIONS)):
                return False
            if token.kind == "name" and self.before[-1] is token:
                return False
        return False

    def imported(self) -> Iterator[Completion]:
        """What the file of this import declares, or all that any file does."""
        after = [token for token in self.tokens if token.start >= self.offset and token is not self.word]
        string = None
        for token in after:
            if token.kind == "string":
                string = token.text.strip('"')
            if token.text not in (",", "from") and token.kind != "name":
                break
        for text, file in self.session.project.importable_from(self.path):
            if string in (None, text) and file != self.path.resolve():
                for declaration in self.declarations(file):
                    insert = declaration.name if string else f'{declaration.name} from "{text}"'
                    yield self.of(declaration, insert=insert, detail=text)

    def declarations(self, file: Path) -> list[t.Declaration]:
        try:
            return self.session.project.parsed(file).file.declarations
        except DiagnosticError:
            return []

    def paths(self, quoted: bool = False) -> Iterator[Completion]:
        for text, file in self.session.project.importable_from(self.path):
            if file != self.path.resolve():
                yield self.item(text, "path", f'"{text}"' if quoted or self.word is not None else text)

    def unimported(self, kinds: tuple[str, ...]) -> Iterator[Completion]:
        """Names of files that are not imported yet; the import comes with them."""
        file = self.module.file
        count = 0
        for text, other in self.session.project.importable_from(self.path):
            if other == self.path.resolve():
                continue
            for declaration in self.declarations(other):
                if kind_of(declaration) in kinds and declaration.name not in self.module.names:
                    count += 1
                    if count > MAXIMUM_IMPORTS:
                        return
                    edit = import_edit(file, declaration.name, text)
                    yield self.of(declaration, detail=f'import from "{text}"', rank=8, edits=(edit,))

    # ---- names ------------------------------------------------------------------------------------------------------

    def of(self, declaration: t.Declaration, **more: Any) -> Completion:
        doc = f"```det\n{signature(declaration)}\n```\n{declaration.doc}"
        return self.item(declaration.name, kind_of(declaration), doc=doc, **more)

    def declared(self, kinds: tuple[str, ...], rank: int = 3) -> Iterator[Completion]:
        for declaration, _ in self.module.names.values():
            if kind_of(declaration) in kinds:
                yield self.of(declaration, rank=rank)

    def expressions(self) -> Iterator[Completion]:
        for name, value in self.known.locals().items():
            yield self.item(
                name, "variable", rank=2, doc="\n".join(describe_values([value])) if value is not None else ""
            )
        for declaration, _ in self.module.names.values():
            if not isinstance(declaration, t.Detector):
                yield self.of(declaration, rank=5 if kind_of(declaration) == "op" else 4)
        for name in BUILTINS:
            yield self.item(name, "function", rank=6)
        yield self.item("classes", "variable", detail="the number of classes", rank=6)
        for word in ("if", "then", "else", "for", "in", "with", "and", "or", "not", "true", "false", "none"):
            yield self.item(word, "keyword", rank=7)
        yield from self.unimported(("block", "cell", "backbone", "neck", "head", "record", "let"))

    def typed(self) -> bool:
        """Whether the type of a parameter is being written."""
        known = self.known
        return (
            known.in_header
            and bool(self.before)
            and (
                self.before[-1].text == "->"
                or (self.before[-1].text == ":" and known.depth == 1)
                or (self.before[-1].text == "[" and len(self.before) > 1 and self.before[-2].text == ":")
            )
        )

    def types(self) -> Iterator[Completion]:
        yield from (self.item(name, "type", rank=3) for name in TYPE_NAMES)
        yield from self.declared(("record",), rank=4)

    def labels(self) -> Iterator[Completion]:
        for name in self.known.labels():
            yield self.item(name, "label", rank=2)

    # ---- what something has -----------------------------------------------------------------------------------------

    def arguments(self, declaration: t.Declaration, module: Module, given: set[str]) -> Iterator[Completion]:
        """The parameters and inputs that a call does not give yet."""
        if not isinstance(declaration, t.Component | t.RecordOf | t.Let):
            return
        inputs = declaration.inputs if isinstance(declaration, t.Component) else []
        for parameter in [*(declaration.parameters or []), *inputs]:
            if parameter.name not in given:
                yield self.parameter(parameter, declaration)

    def parameter(self, parameter: t.Parameter, declaration: t.Declaration) -> Completion:
        text = declaration.source.text
        end = parameter.default.end if parameter.default is not None else parameter.type.end
        detail = " ".join(text[parameter.start : end].split())
        insert = parameter.name if self.follows_equals() else f"{parameter.name} = "
        doc = parameter.doc if parameter.doc != declaration.doc else ""
        return self.item(parameter.name, "parameter", insert, detail=detail, doc=doc, rank=1)

    def follows_equals(self) -> bool:
        after = next((k for k in self.tokens if k.start >= self.offset and k is not self.word), None)
        return after is not None and after.text == "="

    def fields(self, owner: Owner, reserved: tuple[str, ...]) -> Iterator[Completion]:
        """What `with { ... }` or a detector's braces can set."""
        value, given = owner
        closure = value.model if isinstance(value, DetectorValue) else value
        if isinstance(closure, Closure):
            for parameter in closure.declaration.parameters:
                if parameter.name not in given:
                    yield self.parameter(parameter, closure.declaration)
        if isinstance(value, DetectorValue):
            for name in reserved:
                if name not in given:
                    insert = "reported { }" if name == "reported" else name if self.follows_equals() else f"{name} = "
                    yield self.item(name, "field", insert, rank=2)

    def members(self) -> Iterator[Completion]:
        """What stands after a dot."""
        known = self.known
        owner = setting(known, dotted=True)
        if owner is not None:
            yield from self.fields(owner, ())
            return
        value = known.value_before_dot()
        match value:
            case Tensor():
                names: Any = TENSOR_FIELDS
            case Pyramid() | Levels():
                names = ("levels", "first", "last", "count")
            case Bundle():
                names = tuple(value.entries)
            case Closure():
                names = tuple(members(value.declaration, value.module))
            case _:
                # Nothing is known of it: what anything may have.
                names = (*TENSOR_FIELDS, "levels", "first", "last", "count") if value is None else ()
        for name in names:
            yield self.item(name, "field", rank=2)

    def levels(self, name: str) -> Iterator[Completion]:
        """The levels that a pyramid is known to have."""
        value = self.known.value(name)
        if isinstance(value, Pyramid):
            for level, entry in value.entries.items():
                lines = list(describe_values([entry]))
                yield self.item(str(level), "level", detail=lines[0].removeprefix("- ") if lines else "", rank=1)
