"""Elaboration: a detector of a spec becomes a graph.

Components are applied in place, loops run, and each application of a primitive adds one node, whose types the primitive's
declaration gives at once. A statement that fails is reported and its results are marked, so that one run reports every
independent mistake.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from detc.compiler import dims
from detc.compiler.dims import Dim
from detc.compiler.evaluate import Evaluator, Frame
from detc.compiler.graph import Attribute, Call, Graph, Node, Value, Values, Weight
from detc.compiler.modules import Module
from detc.compiler.scope import (
    POISON,
    Bound,
    Bundle,
    Closure,
    DetectorValue,
    Function,
    Poisoned,
    Pyramid,
    Tensor,
    describe,
)
from detc.compiler.types import TensorType
from detc.compiler.values import Record
from detc.compiler.verify import verify
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label
from detc.dsl.source import Span

MAXIMUM_NODES = 50_000

IMAGE = TensorType((dims.N, 3, dims.H, dims.W), stride=Fraction(1))
TRUTH = {"boxes": TensorType((dims.N, dims.G, 4)), "labels": TensorType((dims.N, dims.G), "int64")}


@dataclass(frozen=True)
class Elaborated:
    """A detector, elaborated: its graph, and the rest of what its spec says."""

    name: str
    graph: Graph
    classes: tuple[str, ...]
    data: Record | None
    schedule: Record | None
    # The weights that training starts from, as the spec names them.
    pretrained: str | None
    reported: Mapping[str, Any]
    value: DetectorValue
    warnings: tuple[Diagnostic, ...]


def elaborate(module: Module, name: str) -> Elaborated:
    """The detector called `name` of a module.

    Raises:
        DiagnosticError: with every mistake found.
    """
    limit = sys.getrecursionlimit()
    # The evaluator recurses with the spec; its own bounds (call depth, nesting) keep it far below this.
    sys.setrecursionlimit(max(limit, 40_000))
    try:
        return _Elaborator(module).run(name)
    finally:
        sys.setrecursionlimit(limit)


@dataclass(eq=False)
class _Application:
    """One component being applied: its place among labels and calls."""

    path: str
    name: str
    span: Span
    parent: _Application | None
    depth: int

    def join(self, label: str) -> str:
        return f"{self.path}.{label}" if self.path and label else self.path or label

    def spans(self) -> Iterator[tuple[str, Span]]:
        """This use and those around it, innermost first."""
        current: _Application | None = self
        while current is not None:
            yield current.name, current.span
            current = current.parent


@dataclass(frozen=True)
class _WeightRule:
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: bool
    init: tuple[Attribute, ...]


@dataclass(frozen=True)
class _Inferred:
    """What an op's declaration says for given attributes and input types."""

    types: tuple[TensorType, ...]
    weights: tuple[_WeightRule, ...]
    derived: Mapping[str, Attribute]
    fixed: frozenset[str]
    divisor: int


@dataclass(frozen=True)
class _InitRule:
    path: str
    depth: int
    # An op's name, or a label relative to `path`.
    target: str
    by_op: bool
    weight: str
    rule: tuple[Attribute, ...]


@dataclass
class _OpFrame:
    """What the statements of an op's body have said so far."""

    results: dict[str, dict[str, Any]]
    weights: list[_WeightRule] = field(default_factory=list)
    derived: dict[str, Attribute] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    divisor: int = 1


class _Elaborator(Evaluator):
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.nodes: dict[str, Node] = {}
        self.weights: dict[str, Weight] = {}
        # label path -> (op, attributes, span): what stands under each label.
        self.labelled: dict[str, tuple[str, Any, Span]] = {}
        self.names: dict[str, int] = {}
        self.losses: dict[str, dict[tuple[int, ...], Tensor]] = {}
        self.predictions: dict[str, Values] = {}
        self.calls: list[Call] = []
        self.divisor = 1
        self.view: str | None = None
        self.frozen: list[tuple[str, Span]] = []
        self.ties: list[tuple[str, str, Span]] = []
        self.init_rules: dict[_InitRule, None] = {}
        self.attributes: dict[int, tuple[dict[str, Attribute], tuple[Any, ...]]] = {}
        self.default_labels: dict[int, str | None] = {}
        self.seen: set[tuple[str, Any]] = set()

    # ---- a whole detector -------------------------------------------------------------------------------------------

    def run(self, name: str) -> Elaborated:
        declared = {d.name: d for d in self.module.detectors}
        value = self.detector(declared[name], self.module)
        fields = value.fields
        data = self._record(value, "data")
        classes = self._classes(value, data)
        if classes is not None:
            self.ambient["classes"] = len(classes)
        span = declared[name].span
        arguments = {k: b for k, b in fields.items() if k not in self.RESERVED}
        model = replace(value.model, arguments={**value.model.arguments, **arguments})
        inputs = {model.declaration.inputs[0].name: Bound(Tensor(Value("image"), IMAGE, span, "image"), span)}  # type: ignore[union-attr]
        result: Any = POISON
        try:
            result = self.apply(Frame(self.module), replace(model, inputs=inputs), "", span)
        except DiagnosticError as error:
            self.report(error, None)
        except Poisoned:
            pass
        schedule = self._record(value, "schedule")
        if any(d.severity == "error" for d in self.diagnostics):
            raise DiagnosticError(self.diagnostics)
        graph = verify(self._graph(name, result))
        self._warn_unused(graph)
        pretrained = self._pretrained(value)
        reported = fields["reported"].value.entries if "reported" in fields else {}
        return Elaborated(
            name, graph, classes or (), data, schedule, pretrained, dict(reported), value, tuple(self.diagnostics)
        )

    def _classes(self, value: DetectorValue, data: Record | None) -> tuple[str, ...] | None:
        if "classes" in value.fields:
            found, span = value.fields["classes"].value, value.fields["classes"].span
        elif data is not None and "classes" in data.fields:
            found, span = data.fields["classes"], value.fields["data"].span
        else:
            return None
        if isinstance(found, tuple) and found and all(isinstance(c, str) for c in found):
            duplicates = {c for c in found if found.count(c) > 1}
            if duplicates:
                raise DiagnosticError(
                    names.REPEATED_ARGUMENT.at(span, f"classes named twice: {', '.join(sorted(duplicates))}")
                )
            return found
        raise DiagnosticError(types.TYPE_MISMATCH.at(span, "classes is a list of names, at least one"))

    def _pretrained(self, value: DetectorValue) -> str | None:
        bound = value.fields.get("pretrained")
        if bound is None or bound.value is None or isinstance(bound.value, str):
            return None if bound is None else bound.value
        raise DiagnosticError(
            types.TYPE_MISMATCH.at(bound.span, f"pretrained is a string, and this is {describe(bound.value)}")
        )

    def _record(self, value: DetectorValue, name: str) -> Record | None:
        if name not in value.fields:
            return None
        bound = value.fields[name]
        if not (isinstance(bound.value, Closure) and isinstance(bound.value.declaration, t.RecordOf)):
            raise DiagnosticError(
                types.TYPE_MISMATCH.at(bound.span, f"{name} is a record, and this is {describe(bound.value)}")
            )
        record = self.plain(bound.value, bound.span)
        assert isinstance(record, Record)
        return record

    def plain(self, value: Any, span: Span) -> Any:
        """Static values as they leave the language: records evaluated, lists as tuples."""
        if isinstance(value, Closure) and isinstance(value.declaration, t.RecordOf):
            fields = {k: self.plain(v, span) for k, v in self.record_values(value, span).items()}
            spans = {k: b.span for k, b in value.arguments.items()}
            return Record(value.name, fields, span, spans)
        if isinstance(value, tuple):
            return tuple(self.plain(v, span) for v in value)
        if isinstance(value, Fraction):
            return int(value) if value.denominator == 1 else float(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise DiagnosticError(types.TYPE_MISMATCH.at(span, f"{describe(value)} cannot be part of a record"))

    def _graph(self, name: str, result: Any) -> Graph:
        views: dict[str, dict[str, Values]] = {}
        forward = _outputs(result)
        if forward:
            views["forward"] = forward
        if self.losses:
            views["train"] = {
                loss: parts[()].value if () in parts else tuple(parts[i].value for i in sorted(parts))
                for loss, parts in self.losses.items()
            }
        if self.predictions:
            views["predict"] = self.predictions
        inputs = {"image": IMAGE}
        if "train" in views:
            inputs.update({f"truth_{k}": kind for k, kind in TRUTH.items()})
        self._freeze()
        self._tie()
        self._initialise()
        return Graph(name, inputs, self.nodes, self.weights, views, tuple(self.calls), self.divisor)

    def _freeze(self) -> None:
        """Frozen weights take no gradient, and frozen normalisations keep their statistics."""
        for prefix, span in self.frozen:
            keys = [k for k in self.weights if k == prefix or k.startswith(prefix + ".")]
            if not keys:
                raise DiagnosticError(names.UNKNOWN_NAME.at(span, f'no weights stand under the label "{prefix}"'))
            for key in keys:
                self.weights[key] = replace(self.weights[key], trainable=False)
            for node in list(self.nodes.values()):
                if any(k in keys for k in node.weights.values()) and "fixed" in node.attrs:
                    self.nodes[node.name] = replace(node, attrs={**node.attrs, "fixed": True, "trainable": False})

    def _tie(self) -> None:
        for prefix, to, span in self.ties:
            keys = [k for k in self.weights if k.startswith(prefix + ".")]
            if not keys:
                raise DiagnosticError(names.UNKNOWN_NAME.at(span, f'no weights stand under the label "{prefix}"'))
            for key in keys:
                other = self.weights.get(to + key.removeprefix(prefix))
                if other is None or other.shape != self.weights[key].shape:
                    what = "does not exist" if other is None else f"has shape {list(other.shape)}"
                    raise DiagnosticError(
                        types.LABEL_CONFLICT.at(
                            span,
                            f"{key} {list(self.weights[key].shape)} cannot be {to}{key.removeprefix(prefix)}, which {what}",
                        )
                    )
                if key != other.key:
                    self.weights[key] = replace(self.weights[key], tied=other.tied or other.key)

    def _initialise(self) -> None:
        """The nearest rule decides: of the innermost component that has one, and there a label's before an op's."""
        ordered = sorted(self.init_rules, key=lambda r: (r.depth, len(r.path), not r.by_op))
        if not ordered:
            return
        owner = {key: node for node in self.nodes.values() for key in node.weights.values()}
        for key, weight in self.weights.items():
            label, _, leaf = key.rpartition(".")
            for rule in reversed(ordered):
                if rule.weight != leaf or not (label == rule.path or label.startswith(rule.path + ".") or not rule.path):
                    continue
                if rule.by_op:
                    matches = owner[key].op == rule.target
                else:
                    target = f"{rule.path}.{rule.target}" if rule.path else rule.target
                    matches = label == target or label.startswith(target + ".")
                if matches:
                    self.weights[key] = replace(weight, init=rule.rule)
                    break

    def _warn_unused(self, graph: Graph) -> None:
        used = graph.reached(*graph.views)
        dead = [n for n in graph.nodes if n.name not in used]
        names_of_dead = {n.name for n in dead}
        for node in dead:
            users = {u.name for u in graph.users(node.name)}
            if not users:
                keys = sorted({k for k in node.weights.values()})
                self.diagnostics.append(
                    types.UNUSED_OUTPUT.at(
                        node.origins[0],
                        f"nothing uses {node.name}" + (f", whose weights ({', '.join(keys)}) would never train" if keys else ""),
                        label=f"this {node.op} is made for nothing",
                        labels=tuple(Label(s, "in this use") for s in node.origins[1:3]),
                    )
                )
        if "train" in graph.views:
            trained = {k for n in graph.reached("train") if n in graph for k in graph[n].weights.values()}
            for node in graph.nodes:
                lost = [
                    k
                    for k in node.weights.values()
                    if k not in trained and graph.weights[k].trainable and not graph.weights[k].buffer
                ]
                if lost and node.name not in names_of_dead:
                    self.diagnostics.append(
                        types.UNTRAINED.at(
                            node.origins[0],
                            f"no loss depends on {', '.join(lost)}",
                            detail="add a loss, or freeze the label",
                        )
                    )

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def report(self, error: DiagnosticError, application: _Application | None) -> None:
        """Keep the diagnostics of a failed statement, each once, with the uses that led there."""
        uses = () if application is None else tuple(application.spans())
        for diagnostic in error.diagnostics:
            first = diagnostic.labels[0].span if diagnostic.labels else None
            key = (diagnostic.kind.code, (first.source.name, first.start) if first else diagnostic.summary)
            if key in self.seen:
                continue
            self.seen.add(key)
            shown = {(label.span.source, label.span.start) for label in diagnostic.labels}
            extra = [
                Label(span, f"in this use of {name}")
                for name, span in uses
                if (span.source, span.start) not in shown and name
            ]
            self.diagnostics.append(replace(diagnostic, labels=diagnostic.labels + tuple(extra[:4])))

    # ---- statements -------------------------------------------------------------------------------------------------

    def execute(self, frame: Frame, statements: list[Any]) -> Any:
        """Run statements; the value returned, or _GOES_ON."""
        for statement in statements:
            self.steps += 1
            try:
                result = _STATEMENTS[type(statement)](self, frame, statement)
                if result is not _GOES_ON:
                    return result
            except DiagnosticError as error:
                self.report(error, frame.call)
                if len(self.diagnostics) >= 50 or any(d.kind is types.TOO_LARGE for d in error.diagnostics):
                    raise
                self._poison(frame, statement)
            except Poisoned:
                self._poison(frame, statement)
            if isinstance(statement, t.Return):
                return POISON
        return _GOES_ON

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
            return _GOES_ON
        if not isinstance(value, tuple) or len(value) != len(targets):
            raise self.mismatch(frame, statement.value, value, f"{len(targets)} values")
        for target, item in zip(targets, value, strict=True):
            self._store(frame, target, item)
        return _GOES_ON

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

    def _for(self, frame: Frame, statement: t.For) -> Any:
        for item in self.iterate(frame, statement.iterable):
            frame.variables[statement.variable] = item
            result = self.execute(frame, statement.body)
            if result is not _GOES_ON:
                return result
        return _GOES_ON

    def _if(self, frame: Frame, statement: t.If) -> Any:
        condition = self.truth(frame, statement.condition, self.evaluate(frame, statement.condition))
        return self.execute(frame, statement.then if condition else statement.otherwise)

    def _return(self, frame: Frame, statement: t.Return) -> Any:
        return self.evaluate(frame, statement.value)

    def _view(self, frame: Frame, statement: t.ViewBlock) -> Any:
        if self.view is not None and self.view != statement.view:
            # A component used only while training makes no predictions, and the other way round.
            return _GOES_ON
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
                what = "ends without return" if result is _GOES_ON else f"returns {describe(result)}"
                raise self.error(
                    types.NO_RESULT,
                    frame,
                    statement,
                    f"predict {what}",
                    detail="return {boxes = ..., scores = ..., classes = ...}",
                )
            self.predictions.update(_outputs(result))
        return _GOES_ON

    def _loss(self, frame: Frame, statement: t.Loss) -> Any:
        if self.view != "train":
            raise self.error(types.MISPLACED, frame, statement, "a loss stands inside train(truth) { ... }")
        value = self.evaluate(frame, statement.value)
        if not isinstance(value, Tensor) or value.type.shape != ():
            raise self.mismatch(frame, statement.value, value, "a loss, which is one number")
        index = tuple(self._level(frame, i) for i in statement.indices)
        parts = self.losses.setdefault(statement.name, {})
        if index in parts or (() in parts) != (index == ()) and parts:
            raise self.error(
                names.DUPLICATE_NAME, frame, statement, f'the loss "{statement.name}" is declared twice'
            )
        parts[index] = value
        return _GOES_ON

    def _level(self, frame: Frame, node: t.Expr) -> int:
        value = self.evaluate(frame, node)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.mismatch(frame, node, value, "a level")
        return value

    def _require(self, frame: Frame, statement: t.Require) -> Any:
        if not self.truth(frame, statement.condition, self.evaluate(frame, statement.condition)):
            raise self.error(types.REQUIREMENT, frame, statement, statement.message)
        return _GOES_ON

    def _freeze_statement(self, frame: Frame, statement: t.Freeze) -> Any:
        for label in statement.labels:
            path = frame.call.join(self.label(frame, label))
            self.frozen.append((path, frame.span(label)))
        return _GOES_ON

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
        rule = self._initialiser(frame, statement.rule)
        key = _InitRule(frame.call.path, frame.call.depth, name, by_op, target.name, rule)
        self.init_rules[key] = None
        return _GOES_ON

    def _initialiser(self, frame: Frame, node: t.Expr) -> tuple[Attribute, ...]:
        value = self.evaluate(frame, node)
        if not (isinstance(value, Closure) and isinstance(value.declaration, t.RecordOf)):
            raise self.mismatch(frame, node, value, "an initialiser such as normal(0.01)")
        return (value.name, *(_attribute(v) for v in self.parameters(value, frame.span(node)).values()))

    def _tie_statement(self, frame: Frame, statement: t.Tie) -> Any:
        one, other = (frame.call.join(self.label(frame, x)) for x in (statement.label, statement.to))
        self.ties.append((one, other, frame.span(statement)))
        return _GOES_ON

    # Statements of primitives. Their frame's call is an _OpFrame.

    def _align(self, frame: Frame, statement: t.Align) -> Any:
        left, right = self.evaluate(frame, statement.left), self.evaluate(frame, statement.right)
        frame.call.divisor = dims.join_divisors(frame.call.divisor, _align(left, right))
        return _GOES_ON

    def _property(self, frame: Frame, statement: t.Property) -> Any:
        properties = frame.call.results.get(statement.result)
        if properties is None:
            raise self.error(names.UNKNOWN_NAME, frame, statement, f'the op has no result "{statement.result}"')
        properties[statement.name] = self.evaluate(frame, statement.value)
        return _GOES_ON

    def _weight(self, frame: Frame, statement: t.WeightOf) -> Any:
        shape = self.evaluate(frame, statement.shape)
        if not isinstance(shape, tuple) or not all(isinstance(d, int) and d >= 0 for d in shape):
            raise self.mismatch(frame, statement.shape, shape, "a list of whole numbers")
        init = self._initialiser(frame, statement.init)
        frame.call.weights.append(_WeightRule(statement.name, shape, statement.dtype, statement.buffer, init))
        return _GOES_ON

    def _derived(self, frame: Frame, statement: t.Derived) -> Any:
        frame.call.derived[statement.name] = _attribute(self.evaluate(frame, statement.value))
        return _GOES_ON

    def _op_freeze(self, frame: Frame, statement: t.Freeze) -> Any:
        frame.call.fixed.update(label.name for label in statement.labels if isinstance(label, t.Name))
        return _GOES_ON

    # ---- application ------------------------------------------------------------------------------------------------

    def call(self, frame: Frame, node: t.Call, function: Any) -> Any:
        result = super().call(frame, node, function)
        if isinstance(function, Closure) and isinstance(result, Closure) and result.inputs:
            return self.apply(frame, result, None, frame.span(node))
        if result is POISON:
            raise Poisoned
        return result

    def operate_on_graph(self, frame: Frame, node: t.Binary, left: Any, right: Any) -> Any:
        """x + y and x * y are the primitives add and mul."""
        op = {"+": "add", "*": "mul"}.get(node.operator)
        if op is None or not (isinstance(left, Tensor) and isinstance(right, Tensor)):
            return super().operate_on_graph(frame, node, left, right)
        declaration, module = self.module.names[op]
        assert isinstance(declaration, t.Component)
        sides = zip(declaration.inputs, (left, right), (node.left, node.right), strict=True)
        inputs = {parameter.name: Bound(value, frame.span(side)) for parameter, value, side in sides}
        return self.apply(frame, Closure(declaration, module, {}, inputs), None, frame.span(node))

    def component(self, frame: Frame, node: t.Expr) -> Any:
        """What stands after a label or |>: a component with some of its inputs, not yet applied."""
        if isinstance(node, t.Call):
            function = self.evaluate(frame, node.function)
            if isinstance(function, Closure):
                return self.configure(frame, node, function)
            return super().call(frame, node, function)
        return self.evaluate(frame, node)

    def _labelled(self, frame: Frame, node: t.Labelled) -> Any:
        closure = self.component(frame, node.body)
        return self._applied(frame, node, closure, self.label(frame, node.label))

    def _pipe(self, frame: Frame, node: t.Pipe) -> Any:
        value = self.evaluate(frame, node.value)
        stage = node.stage
        label = None
        if isinstance(stage, t.Labelled):
            label = self.label(frame, stage.label)
            stage = stage.body
        closure = self.component(frame, stage)
        if isinstance(closure, Function):
            return closure.call([value], {}, frame.span(stage))
        if isinstance(closure, Closure) and isinstance(closure.declaration, t.Component):
            free = [p for p in closure.declaration.inputs if p.name not in closure.inputs]
            if not free:
                raise self.error(names.REPEATED_ARGUMENT, frame, stage, f"{closure.name} has all its inputs already")
            place = frame.span(node.value)
            value = self.check(value, free[0].type, closure.module, place, free[0], closure.name)
            closure = replace(closure, inputs={**closure.inputs, free[0].name: Bound(value, place)})
        return self._applied(frame, stage, closure, label)

    def _applied(self, frame: Frame, node: t.Expr, closure: Any, label: str | None) -> Any:
        if not (isinstance(closure, Closure) and isinstance(closure.declaration, t.Component)):
            raise self.mismatch(frame, node, closure, "a component")
        return self.apply(frame, closure, label, frame.span(node))

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
                return f"{self.label(frame, node.base)}.{self._level(frame, node.index)}"
            case t.ListOf(items=[item]):
                return str(self._level(frame, item))
        raise self.error(
            types.MISPLACED, frame, node, "this is not a label", detail="labels look like conv, convs[i], `layer{i}` or [i]"
        )

    def apply(self, frame: Frame, closure: Closure, label: str | None, span: Span) -> Any:
        """Apply a component to its inputs. Without a label, its own labels stand in the scope around it."""
        declaration = closure.declaration
        assert isinstance(declaration, t.Component)
        missing = [p.name for p in declaration.inputs if p.name not in closure.inputs and p.default is None]
        if missing:
            raise DiagnosticError(
                names.MISSING_ARGUMENT.at(
                    span,
                    f"{closure.name} is not given its input {', '.join(missing)}",
                    labels=(Label(declaration.span, "declared here"),),
                )
            )
        if declaration.kind == "op":
            return self._node(frame, closure, label, span)
        outer = frame.call if isinstance(frame.call, _Application) else None
        path = outer.join(label or "") if outer is not None else label or ""
        application = _Application(path, closure.name, span, outer, 0 if outer is None else outer.depth + 1)
        inner = Frame(closure.module, application)
        with self.deeper(span, closure.name):
            inner.variables.update(self.parameters(closure, span))
            for parameter in declaration.inputs:
                bound = closure.inputs.get(parameter.name)
                inner.variables[parameter.name] = (
                    bound.value if bound is not None else self.evaluate(inner, parameter.default)  # type: ignore[arg-type]
                )
            result = self.execute(inner, declaration.body)
        if result is POISON:
            raise Poisoned
        if result is _GOES_ON:
            if declaration.results:
                raise DiagnosticError(
                    types.NO_RESULT.at(declaration.span, f"{closure.name} ends without return")
                )
            result = None
        elif declaration.results:
            try:
                self.check(result, declaration.results[0].type, closure.module, span, declaration.results[0], closure.name)
            except DiagnosticError as error:
                raise DiagnosticError(
                    replace(d, kind=types.NO_RESULT, labels=(Label(declaration.span, ""), *d.labels))
                    for d in error.diagnostics
                ) from None
        if label:
            self.calls.append(
                Call(path, closure.name, declaration.kind, tuple(_leaves(result)), span, declaration.doc)
            )
        return result

    def _node(self, frame: Frame, closure: Closure, label: str | None, span: Span) -> Any:
        """Add the node of a primitive."""
        declaration = closure.declaration
        assert isinstance(declaration, t.Component)
        application = frame.call
        if not isinstance(application, _Application):
            raise DiagnosticError(types.MISPLACED.at(span, f"{closure.name} is applied outside a component"))
        attrs, attrs_key = self._attributes(closure, span)
        inputs: list[tuple[str, Values]] = []
        operands: list[tuple[Tensor, ...]] = []
        for parameter in declaration.inputs:
            value = closure.inputs[parameter.name].value
            tensors = _tensors(value)
            operands.append(tensors)
            inputs.append((parameter.name, tensors[0].value if isinstance(value, Tensor) else tuple(x.value for x in tensors)))
        key = (id(declaration), attrs_key, tuple(tuple(x.type for x in group) for group in operands))
        inferred = closure.module.inferred.get(key)
        if inferred is None:
            inferred = closure.module.inferred[key] = self._infer(closure, attrs, span)
        self.divisor = dims.join_divisors(self.divisor, inferred.divisor)
        if inferred.weights and label is None:
            label = self._default_label(declaration)
            if label is None:
                raise DiagnosticError(
                    types.UNLABELLED_WEIGHTS.at(
                        span,
                        f"{closure.name} has weights and no label",
                        detail=f"write  label: {closure.name}(...)  where label is the weights' key in the checkpoint",
                    )
                )
        path = application.join(label or "")
        weights: dict[str, str] = {}
        if inferred.weights:
            weights = self._declare_weights(path, closure.name, attrs_key, inferred, span)
        name = self._unique(path if label else application.join(closure.name))
        origins = (span, *(s for _, s in application.spans()))
        self.nodes[name] = Node(
            name, closure.name, tuple(inputs), {**attrs, **inferred.derived}, weights, inferred.types, application.path, origins
        )
        if len(self.nodes) > MAXIMUM_NODES:
            raise DiagnosticError(types.TOO_LARGE.at(span, f"the graph has more than {MAXIMUM_NODES:,} nodes"))
        results = tuple(Tensor(Value(name, i), kind, span, name) for i, kind in enumerate(inferred.types))
        return results[0] if len(results) == 1 else results

    def _attributes(self, closure: Closure, span: Span) -> tuple[dict[str, Attribute], tuple[Any, ...]]:
        """A primitive's parameters as attributes, and the same as a key."""
        values = self.parameters(closure, span)
        if id(values) not in self.attributes:
            attrs = {k: _attribute(v) for k, v in values.items()}
            self.attributes[id(values)] = (attrs, tuple(attrs.items()))
        return self.attributes[id(values)]

    def _default_label(self, declaration: t.Component) -> str | None:
        key = id(declaration)
        if key not in self.default_labels:
            found = [s.name for s in declaration.body if isinstance(s, t.DefaultLabel)]
            self.default_labels[key] = found[0] if found else None
        return self.default_labels[key]

    def _unique(self, name: str) -> str:
        count = self.names.get(name, 0)
        self.names[name] = count + 1
        return f"{name}_{count}" if count else name

    def _declare_weights(
        self, path: str, op: str, attrs: tuple[Any, ...], inferred: _Inferred, span: Span
    ) -> dict[str, str]:
        keys = {w.name: f"{path}.{w.name}" for w in inferred.weights}
        shapes = tuple((w.name, w.shape) for w in inferred.weights)
        identity = (op, attrs, shapes)
        if path in self.labelled:
            _, previous, place = self.labelled[path]
            if previous != identity:
                raise DiagnosticError(
                    types.LABEL_CONFLICT.at(
                        span,
                        f'the label "{path}" stands for two different modules',
                        label=_module_text(identity),
                        detail="give one of them another label",
                        labels=(Label(place, _module_text(previous)),),
                    )
                )
            return keys
        self.labelled[path] = (op, identity, span)
        for rule in inferred.weights:
            trainable = not rule.buffer and rule.name not in inferred.fixed
            key = keys[rule.name]
            self.weights[key] = Weight(key, rule.shape, rule.dtype, rule.init, trainable, rule.buffer)
        return keys

    def _infer(self, closure: Closure, attrs: Mapping[str, Attribute], span: Span) -> _Inferred:
        """Run the typing rule of an op's declaration. What fails is reported at the place of use."""
        declaration = closure.declaration
        assert isinstance(declaration, t.Component)
        op = _OpFrame({r.name: {} for r in declaration.results})
        inner = Frame(closure.module, op)
        inner.variables.update(attrs)
        inner.variables.update({k: b.value for k, b in closure.inputs.items()})
        inner.variables.update({k: Bundle(v) for k, v in op.results.items()})
        try:
            self._rules(inner, declaration.body)
            first = next((x for b in closure.inputs.values() for x in _tensors(b.value)), None)
            results = tuple(self._result(r, op.results[r.name], first, inner) for r in declaration.results)
        except DiagnosticError as error:
            raise DiagnosticError(_from_use(d, closure, span, self.module) for d in error.diagnostics) from None
        return _Inferred(results, tuple(op.weights), dict(op.derived), frozenset(op.fixed), op.divisor)

    def _rules(self, frame: Frame, body: list[Any]) -> None:
        for statement in body:
            match statement:
                case t.If():
                    condition = self.truth(frame, statement.condition, self.evaluate(frame, statement.condition))
                    self._rules(frame, statement.then if condition else statement.otherwise)
                case t.DefaultLabel():
                    pass
                case t.Freeze():
                    self._op_freeze(frame, statement)
                case _:
                    _OP_STATEMENTS[type(statement)](self, frame, statement)

    def _result(self, result: t.Parameter, said: dict[str, Any], first: Tensor | None, frame: Frame) -> TensorType:
        base = first.type if first is not None else None
        known = {"channels", "height", "width", "stride"} if result.type.name == "feature" else {"shape", "dtype"}
        for name in said:
            if name not in known:
                raise self.error(names.UNKNOWN_FIELD, frame, result, f'a {result.type.name} has no "{name}" to set')
        if result.type.name == "feature":
            assert base is not None
            batch, channels, height, width = base.shape
            shape = (batch, said.get("channels", channels), said.get("height", height), said.get("width", width))
            for size in shape[2:]:
                if isinstance(size, int) and size < 1:
                    raise self.error(types.SIZE_MISMATCH, frame, result, "nothing is left of the feature")
            return TensorType(shape, said.get("dtype", base.dtype), said.get("stride", base.stride))
        if "shape" in said:
            return TensorType(tuple(said["shape"]), said.get("dtype", "float32"))
        assert base is not None
        return base


def _from_use(diagnostic: Diagnostic, closure: Closure, span: Span, module: Module) -> Diagnostic:
    """A failure of an op's rule, told from where the op is used. What `align` found is already about the user's values."""
    inputs = [x for b in closure.inputs.values() for x in _tensors(b.value)]
    given = ", ".join(f"{n}: {describe(b.value)}" for n, b in closure.inputs.items())
    if diagnostic.kind in (types.CHANNELS_MISMATCH, types.STRIDE_MISMATCH, types.SIZE_MISMATCH) and diagnostic.labels:
        return replace(diagnostic, labels=(Label(span, f"{closure.name} takes both here"), *diagnostic.labels))
    del inputs, module
    notes = (f"inputs are {given}",) if given else ()
    return replace(
        diagnostic,
        summary=f"{closure.name}: {diagnostic.summary}",
        labels=(Label(span, ""), *(Label(x.span, "the rule") for x in diagnostic.labels[:1])),
        notes=(*diagnostic.notes, *notes),
    )


def _align(left: Any, right: Any) -> int:
    """The divisor of image sizes for which both tensors lie on one grid.

    Raises:
        DiagnosticError: where none does, citing where each comes from.
    """
    assert isinstance(left, Tensor) and isinstance(right, Tensor)
    a, b = left.type, right.type
    if not (a.is_feature and b.is_feature):
        if len(a.shape) == len(b.shape) and all(dims.equal(x, y) for x, y in zip(a.shape, b.shape, strict=True)):
            return 1
        raise DiagnosticError(_unaligned(types.SIZE_MISMATCH, "the shapes differ", left, right, str(a), str(b), ""))
    if a.shape[1] != b.shape[1]:
        raise DiagnosticError(
            _unaligned(
                types.CHANNELS_MISMATCH,
                f"{a.shape[1]} channels meet {b.shape[1]}",
                left,
                right,
                f"{a.shape[1]} channels",
                f"{b.shape[1]} channels",
                "bring one to the other's channels with a 1x1 Conv2d",
            )
        )
    if b.shape[2:] == (1, 1):
        return 1
    if a.stride != b.stride:
        finer, coarser = (a, b) if (a.stride or 0) < (b.stride or 0) else (b, a)
        raise DiagnosticError(
            _unaligned(
                types.STRIDE_MISMATCH,
                f"stride {a.stride} meets stride {b.stride}",
                left,
                right,
                f"stride {a.stride}",
                f"stride {b.stride}",
                f"resize the one of stride {coarser.stride}: resize(x, like = the one of stride {finer.stride})",
            )
        )
    divisor = 1
    for x, y in ((a.height, b.height), (a.width, b.width)):
        found = dims.divisor_for(x, y)
        if found is None:
            raise DiagnosticError(
                _unaligned(
                    types.SIZE_MISMATCH,
                    f"sizes differ: {x} and {y}",
                    left,
                    right,
                    f"{a.height} x {a.width}",
                    f"{b.height} x {b.width}",
                    "crop or resize one like the other",
                )
            )
        divisor = dims.join_divisors(divisor, found)
    return divisor


def _unaligned(kind: Any, summary: str, left: Tensor, right: Tensor, one: str, other: str, detail: str) -> Diagnostic:
    labels = tuple(
        Label(x.span, f"{text}, from {x.label}") for x, text in ((left, one), (right, other)) if x.span is not None
    )
    return Diagnostic(kind, summary, detail, labels)


def _module_text(identity: Any) -> str:
    op, attrs, _ = identity
    return f"{op}({', '.join(f'{k} = {v}' for k, v in attrs)})"


def _attribute(value: Any) -> Attribute:
    """A static value as an attribute of a node."""
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    if isinstance(value, tuple):
        return tuple(_attribute(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "items") and isinstance(value.items, tuple):
        return tuple(value.items)
    if isinstance(value, Dim):
        return str(value)
    raise TypeError(f"{describe(value)} cannot be an attribute")


def _tensors(value: Any) -> tuple[Tensor, ...]:
    """One tensor, or those of a list or pyramid, in order."""
    if isinstance(value, Tensor):
        return (value,)
    items = value.entries.values() if isinstance(value, Pyramid) else value
    return tuple(x for item in items for x in _tensors(item))


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Value]]:
    """All tensors of a value with the way to each."""
    match value:
        case Tensor():
            yield path, value.value
        case Pyramid() | Bundle():
            for key, item in value.entries.items():
                yield from _leaves(item, (*path, key))
        case tuple():
            for index, item in enumerate(value):
                yield from _leaves(item, (*path, index))


def _outputs(value: Any) -> dict[str, Values]:
    """A component's result as the outputs of a view."""
    if isinstance(value, Bundle):
        return {name: _values(item) for name, item in value.entries.items()}
    if value is None or value is POISON:
        return {}
    return {"features": _values(value)}


def _values(value: Any) -> Values:
    leaves = tuple(v for _, v in _leaves(value))
    return leaves[0] if isinstance(value, Tensor) else leaves


class _GoesOn:
    """No `return` was met."""


_GOES_ON = _GoesOn()

_STATEMENTS: dict[type, Any] = {
    t.Assign: _Elaborator._assign,
    t.For: _Elaborator._for,
    t.If: _Elaborator._if,
    t.Return: _Elaborator._return,
    t.ViewBlock: _Elaborator._view,
    t.Loss: _Elaborator._loss,
    t.Require: _Elaborator._require,
    t.Freeze: _Elaborator._freeze_statement,
    t.Init: _Elaborator._init,
    t.Tie: _Elaborator._tie_statement,
}
_OP_STATEMENTS: dict[type, Any] = {
    t.Assign: _Elaborator._assign,
    t.Require: _Elaborator._require,
    t.Align: _Elaborator._align,
    t.Property: _Elaborator._property,
    t.WeightOf: _Elaborator._weight,
    t.Derived: _Elaborator._derived,
}
