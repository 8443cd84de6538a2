"""Names in components that no detector uses yet: each must mean something, and arguments must exist.

Elaboration finds the same mistakes in what it runs; this finds them in what it does not, such as a library file by
itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detc.compiler.builtins import BUILTINS
from detc.compiler.modules import Module
from detc.compiler.parameters import TYPE_NAMES
from detc.dsl import tree as t
from detc.dsl.catalogue import names
from detc.dsl.diagnostics import Diagnostic, Label, suggest
from detc.dsl.source import Span

_AMBIENT = {"classes"}


def resolve(module: Module) -> list[Diagnostic]:
    """Every unknown name, type and argument in a file's declarations."""
    found: list[Diagnostic] = []
    for declaration in module.file.declarations:
        found += _Resolver(module).declaration(declaration)
    return found


class _Resolver:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.found: list[Diagnostic] = []

    def declaration(self, declaration: t.Declaration) -> list[Diagnostic]:
        match declaration:
            case t.Component():
                local = {p.name for p in declaration.parameters + declaration.inputs}
                for parameter in declaration.parameters + declaration.inputs + declaration.results:
                    self.type(parameter.type)
                    self.walk(parameter.default, local)
                if declaration.kind == "op":
                    local |= {r.name for r in declaration.results}
                self.walk(declaration.body, local | set(_assigned(declaration.body)))
            case t.RecordOf():
                local = {p.name for p in declaration.parameters} | {a.targets[0].name for a in declaration.body}
                for parameter in declaration.parameters:
                    self.type(parameter.type)
                    self.walk(parameter.default, local)
                self.walk(declaration.body, local)
            case t.Let():
                local = {p.name for p in declaration.parameters or []}
                for parameter in declaration.parameters or []:
                    self.type(parameter.type)
                    self.walk(parameter.default, local)
                self.walk(declaration.value, local)
            case t.Detector():
                self.walk([declaration.model, declaration.base], set())
                self.walk(declaration.fields, set())
        return self.found

    def type(self, kind: t.Type) -> None:
        declared = self.module.names.get(kind.name)
        if kind.name in TYPE_NAMES or (declared is not None and isinstance(declared[0], t.RecordOf)):
            return
        records = [n for n, (d, _) in self.module.names.items() if isinstance(d, t.RecordOf)]
        self.found.append(
            names.UNKNOWN_NAME.at(
                self.span(kind), f'there is no type "{kind.name}"', detail=suggest(kind.name, [*TYPE_NAMES, *records])
            )
        )

    def walk(self, node: Any, local: set[str]) -> None:
        match node:
            case None | str() | int() | float():
                return
            case list() | tuple():
                for item in node:
                    self.walk(item, local)
            case t.Name():
                known = local | set(self.module.names) | set(BUILTINS) | _AMBIENT
                if node.name not in known:
                    self.found.append(
                        names.UNKNOWN_NAME.at(
                            self.span(node), f'nothing is called "{node.name}"', detail=suggest(node.name, known)
                        )
                    )
            case t.Labelled():
                self.label(node.label, local)
                self.walk(node.body, local)
            case t.Freeze():
                for label in node.labels:
                    self.label(label, local)
            case t.Tie():
                self.label(node.label, local)
                self.label(node.to, local)
            case t.Init():
                self.label(node.target, local)
                self.walk(node.rule, local)
            case t.Lambda():
                self.walk(node.body, local | set(node.parameters))
            case t.Comprehension():
                self.walk(node.iterable, local)
                self.walk([node.item, node.condition], local | {node.variable})
            case t.ViewBlock():
                inner = local | set(_assigned(node.body)) | ({node.parameter} if node.parameter else set())
                self.walk(node.body, inner)
            case t.Call():
                self.walk(node.function, local)
                self.arguments(node, local)
                self.walk(node.arguments, local)
            case t.Tree():
                for slot in node.__slots__:
                    if slot not in ("start", "end", "name"):
                        self.walk(getattr(node, slot), local)

    def label(self, node: t.Expr, local: set[str]) -> None:
        """In a label only the indices and the holes of templates are expressions."""
        match node:
            case t.Template():
                self.walk([p for p in node.parts if not isinstance(p, str)], local)
            case t.Index():
                self.label(node.base, local)
                self.walk(node.index, local)
            case t.Attribute():
                self.label(node.base, local)
            case t.ListOf():
                self.walk(node.items, local)

    def arguments(self, node: t.Call, local: set[str]) -> None:
        """Arguments by name of something declared."""
        function = node.function
        if not isinstance(function, t.Name) or function.name in local or function.name not in self.module.names:
            return
        declaration, _ = self.module.names[function.name]
        if not isinstance(declaration, t.Component | t.RecordOf | t.Let) or declaration.parameters is None:
            return
        inputs = declaration.inputs if isinstance(declaration, t.Component) else []
        known = [p.name for p in declaration.parameters + inputs]
        for argument in node.arguments:
            if argument.name is not None and argument.name not in known:
                self.found.append(
                    names.UNKNOWN_PARAMETER.at(
                        self.span(argument),
                        f'{declaration.name} has no parameter "{argument.name}"',
                        detail=suggest(argument.name, known) or f"it has {', '.join(known) or 'none'}",
                        labels=(Label(declaration.span, "declared here"),),
                    )
                )

    def span(self, node: t.Tree) -> Span:
        return Span(self.module.source, node.start, node.end)


def _assigned(body: list[Any]) -> Iterator[str]:
    """Names that statements give a value to, wherever in the body."""
    for statement in body:
        match statement:
            case t.Assign():
                yield from (target.name for target in statement.targets)
            case t.For():
                yield statement.variable
                yield from _assigned(statement.body)
            case t.If():
                yield from _assigned(statement.then)
                yield from _assigned(statement.otherwise)
