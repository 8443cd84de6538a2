"""What each name of a file refers to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detc.compiler.evaluate import Evaluator
from detc.compiler.frames import Frame
from detc.compiler.modules import Module
from detc.compiler.overrides import RESERVED, configured
from detc.compiler.scope import Closure, DetectorValue, Poisoned
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.tokens import RESERVED as WORDS
from detc.dsl.tokens import Token, scan

Role = Literal["definition", "write", "read", "import"]


@dataclass(frozen=True, slots=True)
class Symbol:
    """Something with a name. `kind` is a declaration's ("neck", "op", "record", "let", "detector", ...), "parameter",
    "input", "variable", "field" (derived, of a record), "label", or "file". `start` is where its name stands."""

    path: Path
    start: int
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A place, from offset `start` to `end`, where a symbol is named."""

    start: int
    end: int
    symbol: Symbol
    role: Role


@dataclass(frozen=True)
class Bindings:
    """All occurrences in a file, in order, and names in it whose owner is known only once a detector is elaborated."""

    occurrences: tuple[Occurrence, ...]
    open_names: tuple[tuple[int, str], ...]

    def at(self, offset: int) -> Occurrence | None:
        """The occurrence at an offset; right behind a name counts as at it."""
        touching = [o for o in self.occurrences if o.start <= offset <= o.end]
        return min(touching, key=lambda o: (o.end == offset, o.end - o.start)) if touching else None


def bind(module: Module) -> Bindings:
    """What the names of a file refer to."""
    binder = _Binder(module)
    binder.file()
    found = sorted(set(binder.found), key=lambda o: (o.start, o.end))
    return Bindings(tuple(found), tuple(sorted(set(binder.open))))


def declared(declaration: t.Declaration, module: Module) -> Symbol:
    """The symbol of a declaration."""
    return Symbol(module.path, declaration.name_start, declaration.name, kind_of(declaration))


def kind_of(declaration: t.Declaration) -> str:
    """What a declaration declares: the word that it begins with."""
    match declaration:
        case t.Component():
            return declaration.kind
        case t.RecordOf():
            return "record"
        case t.Let():
            return "let"
    return "detector"


def members(declaration: t.Declaration, module: Module) -> dict[str, Symbol]:
    """What can be set or read of a declared thing by name: parameters, inputs, and values that a record derives."""
    found: dict[str, Symbol] = {}
    if isinstance(declaration, t.Component | t.RecordOf | t.Let):
        for parameter in declaration.parameters or []:
            found[parameter.name] = Symbol(module.path, parameter.start, parameter.name, "parameter")
    if isinstance(declaration, t.Component):
        for parameter in declaration.inputs:
            found[parameter.name] = Symbol(module.path, parameter.start, parameter.name, "input")
    if isinstance(declaration, t.RecordOf):
        for statement in declaration.body:
            target = statement.targets[0]
            found.setdefault(target.name, Symbol(module.path, target.start, target.name, "field"))
    return found


def enclosing(module: Module, offset: int) -> t.Declaration | None:
    """The declaration around an offset."""
    return next((d for d in module.file.declarations if d.start <= offset <= d.end), None)


Scope = Mapping[str, Symbol]


class _Binder:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.found: list[Occurrence] = []
        self.open: list[tuple[int, str]] = []
        self.tokens: list[Token] = [token for token in scan(module.source.text) if token.kind == "name"]
        self.starts = [token.start for token in self.tokens]
        # Records that parameters in scope are of.
        self.records: dict[Symbol, tuple[t.Declaration, Module]] = {}
        self.labels: dict[str, Symbol] = {}
        self.evaluator = Evaluator(module)
        # As far as values are asked for here, any number of classes will do.
        self.evaluator.ambient["classes"] = 1

    def add(self, start: int, symbol: Symbol, role: Role) -> None:
        self.found.append(Occurrence(start, start + len(symbol.name), symbol, role))

    def word(self, name: str, start: int) -> int:
        """Where a name next stands from an offset on: the tree does not know of every name where it is."""
        for index in range(bisect_left(self.starts, start), len(self.tokens)):
            if self.tokens[index].text == name:
                return self.tokens[index].start
        return start

    # ---- declarations -----------------------------------------------------------------------------------------------

    def file(self) -> None:
        file, names = self.module.file, self.module.names
        for statement in file.imports:
            origin = None
            for name in statement.names:
                if name.name in names and names[name.name][1] is not self.module:
                    declaration, origin = names[name.name]
                    self.add(name.start, declared(declaration, origin), "import")
            if origin is not None:
                target = Symbol(origin.path, 0, str(statement.path.value), "file")
                self.found.append(Occurrence(statement.path.start, statement.path.end, target, "import"))
        if file.default is not None and file.default.name in names:
            self.add(file.default.start, declared(*names[file.default.name]), "read")
        for declaration in file.declarations:
            self.declaration(declaration)

    def declaration(self, declaration: t.Declaration) -> None:
        self.add(declaration.name_start, declared(declaration, self.module), "definition")
        self.labels = {}
        scope: dict[str, Symbol] = members(declaration, self.module)
        for symbol in scope.values():
            self.add(symbol.start, symbol, "definition")
        parameters: list[t.Parameter] = []
        if isinstance(declaration, t.Component | t.RecordOf | t.Let):
            parameters += declaration.parameters or []
        if isinstance(declaration, t.Component):
            parameters += declaration.inputs
            for result in declaration.results:
                if result.name:
                    scope[result.name] = Symbol(self.module.path, result.start, result.name, "variable")
                    self.add(result.start, scope[result.name], "definition")
                self.type(result.type)
        for parameter in parameters:
            record = self.type(parameter.type)
            if record is not None and not parameter.type.many:
                self.records[scope[parameter.name]] = record
        for parameter in parameters:
            self.walk(parameter.default, scope)
        match declaration:
            case t.Component():
                for name, start in self.assigned(declaration.body):
                    scope.setdefault(name, Symbol(self.module.path, start, name, "variable"))
                self.label_definitions(declaration.body)
                self.walk(declaration.body, scope)
            case t.RecordOf():
                self.walk(declaration.body, scope)
            case t.Let():
                self.walk(declaration.value, scope)
            case t.Detector():
                self.walk([declaration.model, declaration.base], {})
                self.fields(declaration.fields, self.detector(declaration), {})

    def assigned(self, body: list[Any]) -> Iterator[tuple[str, int]]:
        """The variables of a component and where each is first set. One of a view's block counts as the component's:
        that it is another after the block matters to nobody who renames both."""
        for statement in body:
            match statement:
                case t.Assign():
                    yield from ((target.name, target.start) for target in statement.targets)
                case t.For():
                    yield statement.variable, self.word(statement.variable, statement.start + len("for"))
                    yield from self.assigned(statement.body)
                case t.If():
                    yield from self.assigned(statement.then)
                    yield from self.assigned(statement.otherwise)
                case t.ViewBlock():
                    if statement.parameter is not None:
                        yield statement.parameter, self.word(statement.parameter, statement.start + len(statement.view))
                    yield from self.assigned(statement.body)

    def label_definitions(self, node: Any) -> None:
        """The labels of a component: each is defined where it first stands."""
        for labelled in walked(node):
            root = _root(labelled.label) if isinstance(labelled, t.Labelled) else None
            if root is not None:
                self.labels.setdefault(root.name, Symbol(self.module.path, root.start, root.name, "label"))

    def type(self, kind: t.Type) -> tuple[t.Declaration, Module] | None:
        found = self.module.names.get(kind.name)
        if found is None or not isinstance(found[0], t.RecordOf):
            return None
        self.add(self.word(kind.name, kind.start), declared(*found), "read")
        return found

    # ---- statements and expressions ---------------------------------------------------------------------------------

    def walk(self, node: Any, scope: Scope) -> None:
        match node:
            case list() | tuple():
                for item in node:
                    self.walk(item, scope)
            case t.Name():
                self.name(node, scope)
            case t.Target():
                if node.name in scope:
                    self.variable(node.start, scope[node.name], "write")
                self.walk(node.indices, scope)
            case t.For():
                self.variable(self.word(node.variable, node.start + len("for")), scope[node.variable], "write")
                self.walk([node.iterable, node.body], scope)
            case t.ViewBlock():
                if node.parameter is not None:
                    start = self.word(node.parameter, node.start + len(node.view))
                    self.variable(start, scope[node.parameter], "write")
                self.walk(node.body, scope)
            case t.Lambda():
                inner = dict(scope)
                place = node.start
                for name in node.parameters:
                    place = self.word(name, place)
                    inner[name] = Symbol(self.module.path, place, name, "variable")
                    self.add(place, inner[name], "definition")
                    place += len(name)
                self.walk(node.body, inner)
            case t.Comprehension():
                self.walk(node.iterable, scope)
                start = self.word(node.variable, self.word("for", node.item.end))
                symbol = Symbol(self.module.path, start, node.variable, "variable")
                self.add(start, symbol, "definition")
                self.walk([node.item, node.condition], {**scope, node.variable: symbol})
            case t.Labelled():
                self.label(node.label, scope)
                self.walk(node.body, scope)
            case t.Freeze():
                for label in node.labels:
                    self.label(label, scope)
            case t.Tie():
                self.label(node.label, scope)
                self.label(node.to, scope)
            case t.Init():
                self.init_target(node.target, scope)
                self.walk(node.rule, scope)
            case t.Loss():
                self.walk([node.indices, node.value], scope)
                if isinstance(node.name, t.Template):
                    self.walk(node.name, scope)
            case t.Property():
                if node.result in scope:
                    self.add(node.start, scope[node.result], "read")
                self.walk(node.value, scope)
            case t.Call():
                self.walk(node.function, scope)
                self.arguments(node, scope)
            case t.Attribute():
                self.walk(node.base, scope)
                self.attribute(node, scope)
            case t.With():
                self.walk(node.base, scope)
                self.fields(node.fields, self.value(node.base), scope)
            case t.Tree():
                for slot in node.__slots__:
                    self.walk(getattr(node, slot), scope)

    def variable(self, start: int, symbol: Symbol, role: Role) -> None:
        self.add(start, symbol, "definition" if start == symbol.start else role)

    def name(self, node: t.Name, scope: Scope) -> None:
        if node.name in scope:
            self.add(node.start, scope[node.name], "read")
        elif node.name in self.module.names:
            self.add(node.start, declared(*self.module.names[node.name]), "read")

    def label(self, node: t.Expr, scope: Scope) -> None:
        root = _root(node)
        if root is not None and root.name in self.labels:
            self.variable(root.start, self.labels[root.name], "read")
        for part in walked(node):
            match part:
                case t.Index():
                    self.walk(part.index, scope)
                case t.Template():
                    self.walk([p for p in part.parts if not isinstance(p, str)], scope)
                case t.ListOf():
                    self.walk(part.items, scope)

    def init_target(self, node: t.Expr, scope: Scope) -> None:
        base = node.base if isinstance(node, t.Attribute) else node
        found = self.module.names.get(base.name) if isinstance(base, t.Name) else None
        if found is not None and kind_of(found[0]) == "op":
            self.add(base.start, declared(*found), "read")
        else:
            self.label(base, scope)

    def arguments(self, node: t.Call, scope: Scope) -> None:
        owner = self.callee(node.function, scope)
        known = members(*owner) if owner is not None else {}
        for argument in node.arguments:
            if argument.name is not None and argument.name in known:
                self.add(argument.start, known[argument.name], "write")
            elif argument.name is not None and owner is None:
                self.open.append((argument.start, argument.name))
            self.walk(argument.value, scope)

    def callee(self, node: t.Expr, scope: Scope) -> tuple[t.Declaration, Module] | None:
        """What is declared under the name that is called."""
        while isinstance(node, t.Call | t.With):
            node = node.function if isinstance(node, t.Call) else node.base
        if isinstance(node, t.Name) and node.name not in scope:
            return self.module.names.get(node.name)
        return None

    def attribute(self, node: t.Attribute, scope: Scope) -> None:
        owner = None
        if isinstance(node.base, t.Name) and node.base.name in scope:
            owner = self.records.get(scope[node.base.name])
        elif isinstance(value := self.value(node.base), Closure):
            owner = value.declaration, value.module
        start = node.end - len(node.name)
        if owner is None:
            self.open.append((start, node.name))
        elif (symbol := members(*owner).get(node.name)) is not None:
            self.add(start, symbol, "read")

    def fields(self, fields: list[t.Field], base: Any, scope: Scope) -> None:
        """`path = value`: each part of the path is a parameter of what the part before it is."""
        for field in fields:
            owner, place = base, field.start
            for name in field.path:
                place = self.word(name, place)
                closure = owner.model if isinstance(owner, DetectorValue) else owner
                if isinstance(owner, DetectorValue) and name in RESERVED:
                    owner = owner.fields[name].value if name in owner.fields else None
                elif isinstance(closure, Closure):
                    symbol = members(closure.declaration, closure.module).get(name)
                    if symbol is not None:
                        self.add(place, symbol, "write")
                    owner = self.inner(owner, name) if symbol is not None and symbol.kind == "parameter" else None
                else:
                    self.open.append((place, name))
                    owner = None
                place += len(name)
            self.walk(field.value, scope)

    # ---- values that are known without elaborating ------------------------------------------------------------------

    def value(self, node: t.Expr) -> Any:
        """The value of an expression that needs nothing but the file's names, or none."""
        if not isinstance(node, t.Name | t.Call | t.With | t.Attribute):
            return None
        try:
            return self.evaluator.evaluate(Frame(self.module), node)
        except (DiagnosticError, Poisoned, RecursionError):
            return None

    def detector(self, declaration: t.Detector) -> Any:
        """What a detector's fields are set of."""
        if declaration.model is None:
            return None
        model = self.value(declaration.model)
        return DetectorValue(declaration, model, {}) if isinstance(model, Closure) else None

    def inner(self, owner: Any, name: str) -> Any:
        """The value of a parameter."""
        closure = configured(owner) if isinstance(owner, DetectorValue) else owner
        try:
            return self.evaluator.parameter(closure, name, closure.declaration.span)
        except (DiagnosticError, Poisoned, RecursionError):
            parameter = next((p for p in closure.declaration.parameters if p.name == name), None)
            found = closure.module.names.get(parameter.type.name) if parameter is not None else None
            return Closure(found[0], found[1], {}) if found and isinstance(found[0], t.RecordOf) else None


def walked(node: Any) -> Iterator[t.Tree]:
    """A tree and all that is in it, outside in."""
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, t.Tree):
            yield item
            # The slots of bases count too: a declaration's are spread over its classes.
            slots = [slot for kind in type(item).__mro__ for slot in getattr(kind, "__slots__", ())]
            stack.extend(getattr(item, slot) for slot in reversed(slots) if slot not in ("start", "end", "source"))
        elif isinstance(item, list | tuple):
            stack.extend(reversed(item))


def _root(node: t.Expr) -> t.Name | None:
    """The name that a label begins with."""
    while isinstance(node, t.Index | t.Attribute):
        node = node.base
    return node if isinstance(node, t.Name) else None


def is_name(text: str) -> bool:
    """Whether a text can name something."""
    return text.isascii() and text.isidentifier() and text not in WORDS
