"""Where expressions are evaluated, and the bounds within which they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detc.compiler.modules import Module
from detc.compiler.scope import Bound, describe
from detc.dsl import tree as t
from detc.dsl.catalogue import types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Kind
from detc.dsl.source import Span

# Bounds that no detector comes near; they make sure that compiling ends.
MAXIMUM_STEPS = 3_000_000
MAXIMUM_CALL_DEPTH = 48
MAXIMUM_RANGE = 100_000
MAXIMUM_NUMBER = 2**53

NO_ARGUMENTS: Mapping[str, Bound] = {}


class Frame:
    """Where a statement runs: its variables, the module whose names it sees, and the component it belongs to."""

    __slots__ = ("call", "module", "parent", "variables")

    def __init__(self, module: Module, call: Any = None, parent: Frame | None = None) -> None:
        self.module = module
        self.call = call
        self.parent = parent
        self.variables: dict[str, Any] = {}

    def child(self) -> Frame:
        """A frame for statements in a view block or the body of a function: it sees this one's variables."""
        return Frame(self.module, self.call, self)

    def span(self, node: t.Tree) -> Span:
        return Span(self.module.source, node.start, node.end)


class Context:
    """What evaluation keeps in mind. The classes built on it add parameters, overrides, expressions, statements and,
    last, the graph: each in a file of its own."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.steps = 0
        # What is known without being declared: the number of classes.
        self.ambient: dict[str, Any] = {}
        self.diagnostics: list[Diagnostic] = []
        self._depth = 0

    def evaluate(self, frame: Frame, node: t.Expr) -> Any:
        """The value of an expression."""
        raise NotImplementedError

    def declared(self, declaration: t.Declaration, module: Module, use: Span) -> Any:
        """What a declared name stands for."""
        raise NotImplementedError

    @contextmanager
    def deeper(self, span: Span, name: str) -> Iterator[None]:
        """One level of calls deeper; refuses what would not end."""
        if self._depth >= MAXIMUM_CALL_DEPTH:
            raise DiagnosticError(
                types.EXPANDS_WITHOUT_END.at(
                    span,
                    f"{name} expands without end",
                    label=f"{MAXIMUM_CALL_DEPTH} calls deep here",
                    detail="a component cannot contain itself",
                )
            )
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def error(self, kind: Kind, frame: Frame, node: t.Tree, summary: str, **more: Any) -> DiagnosticError:
        return DiagnosticError(kind.at(frame.span(node), summary, **more))

    def mismatch(self, frame: Frame, node: t.Tree, value: Any, expected: str) -> DiagnosticError:
        return self.error(types.TYPE_MISMATCH, frame, node, f"expected {expected}, and this is {describe(value)}")
