"""Elaboration: a detector of a spec becomes a graph.

Components are applied in place, loops run, and each application of a primitive adds one node. The language's meaning
is in layers: frames, parameters, overrides, evaluate (expressions), statements, primitives, and here components and
whole detectors; what is settled at the end is in settle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from detc.compiler import dims, settle
from detc.compiler.frames import Frame
from detc.compiler.graph import Call, Graph, Value, Values
from detc.compiler.modules import Module
from detc.compiler.overrides import configured
from detc.compiler.pieces import Piece, given
from detc.compiler.primitives import MAXIMUM_NODES, Primitives
from detc.compiler.scope import (
    POISON,
    Bound,
    Bundle,
    Closure,
    DetectorValue,
    Function,
    Poisoned,
    Tensor,
    describe,
    identity,
    leaves,
)
from detc.compiler.statements import GOES_ON, TRUTH, Application, outputs
from detc.compiler.types import TensorType
from detc.compiler.values import Record
from detc.compiler.verify import verify
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label
from detc.dsl.source import Span

# Images that had to be padded to more than this are no images that anybody has.
MAXIMUM_DIVISOR = 4096
MAXIMUM_CLASSES = 100_000

# What a model may take, by the name of its input: the image, normalised, and proposals that were made beforehand.
INPUTS = {
    "image": TensorType((dims.N, 3, dims.H, dims.W), stride=Fraction(1)),
    "proposals": TensorType((dims.N, dims.P, 4)),
    "proposal_scores": TensorType((dims.N, dims.P)),
}


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
        return Elaborator(module).run(name)
    finally:
        sys.setrecursionlimit(limit)


class Elaborator(Primitives):
    # ---- a whole detector -------------------------------------------------------------------------------------------

    def run(self, name: str) -> Elaborated:
        declared = {d.name: d for d in self.module.detectors}
        value = self.detector(declared[name], self.module)
        data = self._record(value, "data")
        classes = self._classes(value, data)
        if classes is not None:
            self.ambient["classes"] = len(classes)
        graph, warnings = self._compiled(configured(value), name, declared[name].span)
        return Elaborated(
            name,
            graph if graph.name == name else graph.replaced(name=name),
            classes or (),
            data,
            self._record(value, "schedule"),
            self._pretrained(value),
            self._reported(value),
            value,
            warnings,
        )

    def _compiled(self, model: Closure, name: str, span: Span) -> tuple[Graph, tuple[Diagnostic, ...]]:
        """The graph of a model applied to an image, and the warnings about it."""
        key = identity(model), self.ambient.get("classes")
        if key not in self.module.graphs:
            try:
                graph = self._applied_to_image(model, name, span)
                made: Any = graph, (*self.diagnostics, *settle.unused(graph)), model
            except DiagnosticError as error:
                made = None, tuple(error.diagnostics), model
            # The model keeps alive what the key names by its id.
            self.module.graphs[key] = made
        graph, diagnostics, _ = self.module.graphs[key]
        if graph is None:
            raise DiagnosticError(diagnostics)
        return graph, diagnostics

    def _applied_to_image(self, model: Closure, name: str, span: Span) -> Graph:
        inputs = self._inputs(model)
        result: Any = POISON
        try:
            result = self.apply(Frame(self.module), replace(model, inputs=inputs), "", span)
        except DiagnosticError as error:
            self.report(error, None)
        except Poisoned:
            pass
        if any(d.severity == "error" for d in self.diagnostics):
            raise DiagnosticError(self.diagnostics)
        return verify(self._graph(name, result))

    def _inputs(self, model: Closure) -> dict[str, Bound]:
        """The graph's inputs, for those of a model. The first is the image, whatever it is called."""
        assert isinstance(model.declaration, t.Component)
        others = " and ".join(name for name in INPUTS if name != "image")
        inputs = {}
        for index, parameter in enumerate(model.declaration.inputs):
            name = "image" if index == 0 else parameter.name
            place = Span(model.module.source, parameter.start, parameter.end)
            if name not in INPUTS or (index and name == "image"):
                raise DiagnosticError(
                    names.UNKNOWN_NAME.at(
                        place,
                        f'nothing is fed to the input "{parameter.name}" of a model',
                        detail=f"beside the image, a model's inputs are {others}",
                    )
                )
            inputs[parameter.name] = Bound(Tensor(Value(name), INPUTS[name], place, parameter.name), place)
        return inputs

    def _classes(self, value: DetectorValue, data: Record | None) -> tuple[str, ...] | None:
        if "classes" in value.fields:
            found, span = value.fields["classes"].value, value.fields["classes"].span
        elif data is not None and "classes" in data.fields:
            found, span = data.fields["classes"], value.fields["data"].span
        else:
            return None
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MAXIMUM_CLASSES:
            # The names are those of the annotations, which are not read while compiling.
            return tuple(f"class {number}" for number in range(1, found + 1))
        if isinstance(found, tuple) and found and all(isinstance(c, str) for c in found):
            duplicates = {c for c in found if found.count(c) > 1}
            if duplicates:
                raise DiagnosticError(
                    names.REPEATED_ARGUMENT.at(span, f"classes named twice: {', '.join(sorted(duplicates))}")
                )
            return found
        raise DiagnosticError(types.TYPE_MISMATCH.at(span, "classes is a list of names, at least one, or their number"))

    def _pretrained(self, value: DetectorValue) -> str | None:
        bound = value.fields.get("pretrained")
        if bound is None or bound.value is None or isinstance(bound.value, str):
            return None if bound is None else bound.value
        raise DiagnosticError(
            types.TYPE_MISMATCH.at(bound.span, f"pretrained is a string, and this is {describe(bound.value)}")
        )

    def _reported(self, value: DetectorValue) -> Mapping[str, Any]:
        if "reported" not in value.fields:
            return {}
        bound = value.fields["reported"]
        if not isinstance(bound.value, Bundle):
            raise DiagnosticError(types.TYPE_MISMATCH.at(bound.span, "what was reported is written reported { ... }"))
        return {k: self.plain(v, bound.span) for k, v in bound.value.entries.items()}

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
        forward = outputs(result)
        if forward:
            views["forward"] = forward
        if self.made.losses:
            views["train"] = {
                loss: parts[()].value if () in parts else tuple(parts[i].value for i in sorted(parts))
                for loss, parts in self.made.losses.items()
            }
        if self.made.predictions:
            views["predict"] = self.made.predictions
        truth = {f"truth_{k}": kind for k, kind in TRUTH.items()}
        used = {v.node for n in self.made.nodes.values() for v in n.operands}
        always = {"image", "truth_boxes", "truth_labels"} if "train" in views else {"image"}
        inputs = {k: kind for k, kind in {**INPUTS, **truth}.items() if k in used | always}
        settle.freeze(self.made.frozen, self.made.nodes, self.made.weights)
        settle.tie(self.made.ties, self.made.weights)
        settle.initialise(self.made.init_rules, self.made.nodes, self.made.weights)
        made = self.made
        return Graph(name, inputs, made.nodes, made.weights, views, tuple(made.calls), self._size_divisor())

    def _size_divisor(self) -> int:
        """What images are padded to multiples of: all sums fit, and something is left of every feature."""
        sizes = {
            size
            for node in self.made.nodes.values()
            for kind in node.types
            if kind.is_feature
            for size in kind.shape[2:]
        }
        divisor = self.made.divisor
        while any(dims.evaluate(size, 1, divisor, divisor) < 1 for size in sizes):
            if divisor > MAXIMUM_DIVISOR:
                [node, *_] = self.made.nodes.values()
                raise DiagnosticError(
                    types.SIZE_MISMATCH.at(
                        node.origins[-1], f"images of {divisor} pixels still leave nothing of some features"
                    )
                )
            divisor *= 2
        return divisor

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
        if isinstance(closure, Function) and label is None:
            return self.compute(frame, stage, closure, [value], {})
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
            return self.node(frame, closure, label, span)
        outer = frame.call if isinstance(frame.call, Application) else None
        path = outer.join(label or "") if outer is not None else label or ""
        application = Application(path, closure.name, span, outer, 0 if outer is None else outer.depth + 1)
        if outer is None:
            return self._expanded(closure, application, bool(label))
        return self._piece(closure, application, bool(label))

    def _piece(self, closure: Closure, application: Application, labelled: bool) -> Any:
        """Apply a component inside another: what doing so added before is added again, if nothing that has a part in it
        differs."""
        tensors: dict[Value, Tensor] = {}
        fed = tuple((name, given(bound.value, tensors)) for name, bound in closure.inputs.items())
        # Without a label, names depend on what else is in the same scope.
        place = None if labelled else application.path
        key = identity(closure), fed, place, application.depth, self._depth, self.view, self.ambient.get("classes")
        uses = tuple(span for _, span in application.spans())
        inputs = tuple(tensors.values())
        around = self.made
        known = self.module.pieces.get(key)
        if known is not None:
            piece = known.at(application.path, uses, inputs)
            if piece.fits(around, MAXIMUM_NODES):
                around.add(piece.made)
                self.steps += piece.steps
                return piece.result
        made = self.made = around.piece()
        steps = self.steps
        try:
            result = self._expanded(closure, application, labelled)
            if known is None and not self.diagnostics:
                new = Piece.of(closure, application.path, uses, inputs, result, self.steps - steps, made, around)
                if new is not None:
                    self.module.pieces[key] = new
        finally:
            # What was made before a failure remains, for what comes after it.
            self.made = around
            around.add(made)
        return result

    def _expanded(self, closure: Closure, application: Application, labelled: bool) -> Any:
        """Run the body of a component."""
        declaration, path, span = closure.declaration, application.path, application.span
        assert isinstance(declaration, t.Component)
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
        if result is GOES_ON:
            if declaration.results:
                raise DiagnosticError(types.NO_RESULT.at(declaration.span, f"{closure.name} ends without return"))
            result = None
        elif declaration.results:
            try:
                self.check(
                    result, declaration.results[0].type, closure.module, span, declaration.results[0], closure.name
                )
            except DiagnosticError as error:
                raise DiagnosticError(
                    replace(d, kind=types.NO_RESULT, labels=(Label(declaration.span, ""), *d.labels))
                    for d in error.diagnostics
                ) from None
        if labelled:
            values = tuple(leaves(result))
            self.made.calls.append(Call(path, closure.name, declaration.kind, values, span, declaration.doc))
        return result
