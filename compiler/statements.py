"""Statements of components, executed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from detc.compiler import dims
from detc.compiler.dims import Dim
from detc.compiler.evaluate import Evaluator
from detc.compiler.frames import Frame
from detc.compiler.graph import Attribute, Value, Values
from detc.compiler.modules import Module
from detc.compiler.pieces import InitRule, Made
from detc.compiler.scope import POISON, Bundle, Closure, Poisoned, Pyramid, Tensor, describe, leaves
from detc.compiler.types import TensorType
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import DiagnosticError, Label
from detc.dsl.source import Span

# What `train(truth)` gives, by field; docs/architecture.md says what is in each.
TRUTH = {
    "boxes": TensorType((dims.N, dims.G, 4)),
    "labels": TensorType((dims.N, dims.G), "int64"),
    "masks": TensorType((dims.M,), "uint8"),
    "windows": TensorType((dims.N, dims.G, 5), "int64"),
}


@dataclass(eq=False)
class Application:
    """One component being applied: its place among labels and calls."""

    path: str
    name: str
    span: Span
    parent: Application | None
    depth: int

    def join(self, label: str) -> str:
        return f"{self.path}.{label}" if self.path and label else self.path or label

    def spans(self) -> Iterator[tuple[str, Span]]:
        """This use and those around it, innermost first."""
        current: Application | None = self
        while current is not None:
            yield current.name, current.span
            current = current.parent


class GoesOn:
    """No `return` was met."""


GOES_ON = GoesOn()


class Statements(Evaluator):
    """A statement that fails is reported and what it would have set is marked, so that one run reports every
    independent mistake."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.made = Made()
        # The view whose block is being executed.
        self.view: str | None = None
        self._seen: set[tuple[str, Any]] = set()

    def report(self, error: DiagnosticError, application: Application | None) -> None:
        """Keep the diagnostics of a failed statement, each once, with the uses that led there."""
        uses = () if application is None else tuple(application.spans())
        for diagnostic in error.diagnostics:
            first = diagnostic.labels[0].span if diagnostic.labels else None
            key = (diagnostic.kind.code, (first.source.name, first.start) if first else diagnostic.summary)
            if key in self._seen:
                continue
            self._seen.add(key)
            shown = {(label.span.source, label.span.start) for label in diagnostic.labels}
            extra = [
                Label(span, f"in this use of {name}")
                for name, span in uses
                if (span.source, span.start) not in shown and name
            ]
            self.diagnostics.append(replace(diagnostic, labels=diagnostic.labels + tuple(extra[:4])))

    def execute(self, frame: Frame, statements: list[Any]) -> Any:
        """Run statements; the value returned, or GOES_ON."""
        for statement in statements:
            self.steps += 1
            try:
                result = _STATEMENTS[type(statement)](self, frame, statement)
                if result is not GOES_ON:
                    return result
                continue
            except DiagnosticError as error:
                self.report(error, frame.call)
                if len(self.diagnostics) >= 50 or any(d.kind is types.TOO_LARGE for d in error.diagnostics):
                    raise
                self._poison(frame, statement)
            except Poisoned:
                self._poison(frame, statement)
            if isinstance(statement, t.Return | t.Require):
                # What follows stands on what is required.
                return POISON
        return GOES_ON

    def _poison(self, frame: Frame, statement: Any) -> None:
        if isinstance(statement, t.Assign):
            for target in statement.targets:
                frame.variables[target.name] = POISON
        elif isinstance(statement, t.For):
            for inner in statement.body:
                self._poison(frame, inner)
        elif isinstance(statement, t.If):
            for inner in statement.then + statement.otherwise:
                self._poison(frame, inner)

    def _assign(self, frame: Frame, statement: t.Assign) -> Any:
        value = self.evaluate(frame, statement.value)
        targets = statement.targets
        if len(targets) == 1:
            self._store(frame, targets[0], value)
            return GOES_ON
        if not isinstance(value, tuple) or len(value) != len(targets):
            raise self.mismatch(frame, statement.value, value, f"{len(targets)} values")
        for target, item in zip(targets, value, strict=True):
            self._store(frame, target, item)
        return GOES_ON

    def _store(self, frame: Frame, target: t.Target, value: Any) -> None:
        if not target.indices:
            frame.variables[target.name] = value
            return
        current: Any = None
        scope: Frame | None = frame
        while scope is not None and current is None:
            current = scope.variables.get(target.name)
            scope = scope.parent
        if current is POISON:
            raise Poisoned
        frame.variables[target.name] = self._stored(frame, target, target.indices, current, value)

    def _stored(self, frame: Frame, target: t.Target, indices: list[t.Expr], current: Any, value: Any) -> Any:
        if not indices:
            return value
        if current is not None and not isinstance(current, Pyramid):
            raise self.mismatch(frame, target, current, "a pyramid to set a level of")
        level = self.evaluate(frame, indices[0])
        if not isinstance(level, int) or isinstance(level, bool):
            raise self.mismatch(frame, indices[0], level, "a level")
        entries = dict(current.entries) if current is not None else {}
        entries[level] = self._stored(frame, target, indices[1:], entries.get(level), value)
        return Pyramid(dict(sorted(entries.items())), frame.span(target))

    def _apply(self, frame: Frame, statement: t.Apply) -> Any:
        self.evaluate(frame, statement.value)
        return GOES_ON

    def _for(self, frame: Frame, statement: t.For) -> Any:
        for item in self.iterate(frame, statement.iterable):
            frame.variables[statement.variable] = item
            result = self.execute(frame, statement.body)
            if result is not GOES_ON:
                return result
        return GOES_ON

    def _if(self, frame: Frame, statement: t.If) -> Any:
        condition = self.truth(frame, statement.condition, self.evaluate(frame, statement.condition))
        return self.execute(frame, statement.then if condition else statement.otherwise)

    def _return(self, frame: Frame, statement: t.Return) -> Any:
        return self.evaluate(frame, statement.value)

    def _view(self, frame: Frame, statement: t.ViewBlock) -> Any:
        if self.view is not None and self.view != statement.view:
            # A component used only while training makes no predictions, and the other way round.
            return GOES_ON
        inner = frame.child()
        if statement.parameter is not None:
            place = frame.span(statement)
            inner.variables[statement.parameter] = Bundle(
                {k: Tensor(Value(f"truth_{k}"), kind, place, "truth") for k, kind in TRUTH.items()}
            )
        outer, self.view = self.view, statement.view
        try:
            result = self.execute(inner, statement.body)
        finally:
            self.view = outer
        if statement.view == "predict" and result is not POISON:
            if not isinstance(result, Bundle):
                what = "ends without return" if result is GOES_ON else f"returns {describe(result)}"
                raise self.error(
                    types.NO_RESULT,
                    frame,
                    statement,
                    f"predict {what}",
                    detail="return {boxes = ..., scores = ..., classes = ...}",
                )
            self.made.predictions.update(outputs(result))
        return GOES_ON

    def _loss(self, frame: Frame, statement: t.Loss) -> Any:
        if self.view != "train":
            raise self.error(types.MISPLACED, frame, statement, "a loss stands inside train(truth) { ... }")
        value = self.evaluate(frame, statement.value)
        if not isinstance(value, Tensor) or value.type.shape != ():
            raise self.mismatch(frame, statement.value, value, "a loss, which is one number")
        index = tuple(self.level(frame, i) for i in statement.indices)
        name = self.label(frame, statement.name)
        parts = self.made.losses.setdefault(name, {})
        if index in parts or ((() in parts) != (index == ()) and parts):
            raise self.error(names.DUPLICATE_NAME, frame, statement, f'the loss "{name}" is declared twice')
        parts[index] = value
        return GOES_ON

    def level(self, frame: Frame, node: t.Expr) -> int:
        value = self.evaluate(frame, node)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.mismatch(frame, node, value, "a level")
        return value

    def _require(self, frame: Frame, statement: t.Require) -> Any:
        if not self.truth(frame, statement.condition, self.evaluate(frame, statement.condition)):
            raise self.error(types.REQUIREMENT, frame, statement, statement.message)
        return GOES_ON

    def _freeze_statement(self, frame: Frame, statement: t.Freeze) -> Any:
        for label in statement.labels:
            path = frame.call.join(self.label(frame, label))
            self.made.frozen.append((path, frame.span(label)))
        return GOES_ON

    def _init(self, frame: Frame, statement: t.Init) -> Any:
        target = statement.target
        if not isinstance(target, t.Attribute):
            raise self.error(
                types.MISPLACED,
                frame,
                target,
                "which weight? write LABEL.weight or OP.weight",
                detail="for example  init Conv2d.weight: normal(0.01)  or  init retina_cls.bias: prior(0.01)",
            )
        base = target.base
        found = frame.module.names.get(base.name) if isinstance(base, t.Name) else None
        by_op = found is not None and isinstance(found[0], t.Component) and found[0].kind == "op"
        name = base.name if by_op and isinstance(base, t.Name) else self.label(frame, base)
        rule = self.initialiser(frame, statement.rule)
        key = InitRule(frame.call.path, frame.call.depth, name, by_op, target.name, rule)
        self.made.init_rules[key] = None
        return GOES_ON

    def initialiser(self, frame: Frame, node: t.Expr) -> tuple[Attribute, ...]:
        value = self.evaluate(frame, node)
        if not (isinstance(value, Closure) and isinstance(value.declaration, t.RecordOf)):
            raise self.mismatch(frame, node, value, "an initialiser such as normal(0.01)")
        return (value.name, *(attribute(v) for v in self.parameters(value, frame.span(node)).values()))

    def _tie_statement(self, frame: Frame, statement: t.Tie) -> Any:
        one, other = (frame.call.join(self.label(frame, x)) for x in (statement.label, statement.to))
        self.made.ties.append((one, other, frame.span(statement)))
        return GOES_ON

    def label(self, frame: Frame, node: t.Expr) -> str:
        """The text of a label: conv, cls_convs[i], `layer{i}`[j], [i]."""
        match node:
            case t.Name():
                return node.name
            case t.Template():
                return str(self.evaluate(frame, node))
            case t.Attribute():
                return f"{self.label(frame, node.base)}.{node.name}"
            case t.Index():
                return f"{self.label(frame, node.base)}.{self.level(frame, node.index)}"
            case t.ListOf(items=[item]):
                return str(self.level(frame, item))
        raise self.error(
            types.MISPLACED,
            frame,
            node,
            "this is not a label",
            detail="labels look like conv, convs[i], `layer{i}` or [i]",
        )


def attribute(value: Any) -> Attribute:
    """A static value as an attribute of a node."""
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    if isinstance(value, tuple):
        return tuple(attribute(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "items") and isinstance(value.items, tuple):
        return tuple(value.items)
    if isinstance(value, Dim):
        return str(value)
    raise TypeError(f"{describe(value)} cannot be an attribute")


def outputs(value: Any) -> dict[str, Values]:
    """A component's result as the outputs of a view."""
    if isinstance(value, Bundle):
        return {name: _values(item) for name, item in value.entries.items()}
    if value is None or value is POISON:
        return {}
    return {"features": _values(value)}


def _values(value: Any) -> Values:
    found = tuple(v for _, v in leaves(value))
    return found[0] if isinstance(value, Tensor) else found


_STATEMENTS: dict[type, Any] = {
    t.Assign: Statements._assign,
    t.Apply: Statements._apply,
    t.For: Statements._for,
    t.If: Statements._if,
    t.Return: Statements._return,
    t.ViewBlock: Statements._view,
    t.Loss: Statements._loss,
    t.Require: Statements._require,
    t.Freeze: Statements._freeze_statement,
    t.Init: Statements._init,
    t.Tie: Statements._tie_statement,
}
