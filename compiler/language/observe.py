"""What the expressions of a file come to when a detector is elaborated: the types that an editor shows."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from detc.compiler.elaborate import Elaborator
from detc.compiler.frames import Frame
from detc.compiler.modules import Module
from detc.compiler.scope import POISON, Closure, Pyramid
from detc.compiler.statements import Application
from detc.dsl import tree as t
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.source import Span

# How many values of one expression are kept: a loop over levels has five.
MAXIMUM_VALUES = 16


@dataclass(frozen=True)
class Use:
    """One application of a component: its label path, what it gave, and the weights of what it contains, by key."""

    path: str
    component: Closure
    result: Any
    weights: frozenset[str]


@dataclass
class Observation:
    """What was seen of one file while a detector was elaborated.

    `values` has those of expressions and of targets, by node, `variables` those of a component's names, by declaration
    and name, as they last were. `uses` has applications by where they stand, and `applied` those of each component by
    its arguments, wherever they stand.
    """

    detector: str
    values: dict[t.Tree, list[Any]] = field(default_factory=dict)
    variables: dict[tuple[str, str], Any] = field(default_factory=dict)
    uses: dict[tuple[int, int], list[Use]] = field(default_factory=dict)
    applied: dict[tuple[int, int], list[Use]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, bool]] = field(default_factory=dict)
    # Keeps alive what `applied` names by its id.
    kept: list[Any] = field(default_factory=list)

    def parameters(self, uses: Iterable[Use]) -> tuple[int, int]:
        """How many parameters these applications have between them, and how many of those are trained."""
        keys = set().union(*(use.weights for use in uses))
        sizes = [self.sizes[key] for key in keys]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)

    def of(self, closure: Closure) -> list[Use]:
        """The applications of a configured component."""
        return self.applied.get((id(closure.declaration), id(closure.arguments)), [])


def observe(module: Module, detector: str, path: Path) -> Observation:
    """Elaborate a detector of a module and note what is seen of the file at `path`, as far as it goes: a detector with
    mistakes is seen up to them."""
    # What is known already would not be worked out again.
    observer = _Observer(replace(module, values={}, graphs={}, pieces={}), path)
    observer.seen.detector = detector
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 40_000))
    weights = observer.made.weights
    try:
        weights = observer.run(detector).graph.weights
    except DiagnosticError:
        pass
    finally:
        sys.setrecursionlimit(limit)
    observer.seen.sizes = {
        key: (prod(weight.shape), weight.trainable)
        for key, weight in weights.items()
        if not weight.buffer and weight.tied is None
    }
    for key in observer.made.weights:
        observer.seen.sizes.setdefault(key, (0, False))
    return observer.seen


class _Observer(Elaborator):
    def __init__(self, module: Module, path: Path) -> None:
        super().__init__(module)
        self.path = path
        self.seen = Observation("")
        # The frame in which a target was last set.
        self._latest: dict[t.Tree, Any] = {}
        # The keys of each node's weights, in order.
        self._made: list[tuple[str, ...]] = []

    def evaluate(self, frame: Frame, node: t.Expr) -> Any:
        value = super().evaluate(frame, node)
        if frame.module.path == self.path:
            self._note(node, value)
        return value

    def component(self, frame: Frame, node: t.Expr) -> Any:
        value = super().component(frame, node)
        if frame.module.path == self.path and isinstance(node, t.Call):
            self._note(node, value)
        return value

    def _note(self, node: t.Tree, value: Any) -> None:
        values = self.seen.values.setdefault(node, [])
        if len(values) < MAXIMUM_VALUES and value is not POISON:
            values.append(value)

    def _store(self, frame: Frame, target: t.Target, value: Any) -> None:
        super()._store(frame, target, value)
        if frame.module.path == self.path:
            whole = frame.variables[target.name]
            # A pyramid that a loop sets level by level is seen when it is complete.
            if isinstance(whole, Pyramid) and self._latest.get(target) is frame:
                self.seen.values[target].pop()
            self._note(target, whole)
            self._latest[target] = frame

    def execute(self, frame: Frame, statements: list[Any]) -> Any:
        try:
            return super().execute(frame, statements)
        finally:
            if frame.module.path == self.path and isinstance(frame.call, Application):
                for name, value in frame.variables.items():
                    if value is not POISON:
                        self.seen.variables[frame.call.name, name] = value

    def node(self, frame: Frame, closure: Closure, label: str | None, span: Span) -> Any:
        result = super().node(frame, closure, label, span)
        self._made.append(tuple(next(reversed(self.made.nodes.values())).weights.values()))
        return result

    def apply(self, frame: Frame, closure: Closure, label: str | None, span: Span) -> Any:
        first = len(self._made)
        result = super().apply(frame, closure, label, span)
        outer = frame.call if isinstance(frame.call, Application) else None
        path = outer.join(label or "") if outer is not None else label or ""
        weights = frozenset(key for keys in self._made[first:] for key in keys)
        use = Use(path, closure, result, weights)
        if frame.module.path == self.path:
            self.seen.uses.setdefault((span.start, span.end), []).append(use)
        self.seen.applied.setdefault((id(closure.declaration), id(closure.arguments)), []).append(use)
        self.seen.kept.append(closure)
        return result
