"""Primitives: applying one adds a node to the graph, whose types its declaration's rule gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

from detc.compiler import dims
from detc.compiler.frames import Frame
from detc.compiler.graph import Attribute, Node, Value, Values, Weight
from detc.compiler.modules import Module
from detc.compiler.scope import Bundle, Closure, Tensor, describe, tensors
from detc.compiler.statements import Application, Statements, attribute
from detc.compiler.types import TensorType
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label
from detc.dsl.source import Span

MAXIMUM_NODES = 50_000


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


@dataclass
class _OpFrame:
    """What the statements of an op's body have said so far."""

    results: dict[str, dict[str, Any]]
    weights: list[_WeightRule] = field(default_factory=list)
    derived: dict[str, Attribute] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    divisor: int = 1


class Primitives(Statements):
    """Nodes and weights."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self._attributes: dict[int, tuple[dict[str, Attribute], tuple[Any, ...]]] = {}
        self._labels: dict[int, str | None] = {}

    def node(self, frame: Frame, closure: Closure, label: str | None, span: Span) -> Any:
        """Add the node of a primitive."""
        declaration = closure.declaration
        assert isinstance(declaration, t.Component)
        application = frame.call
        if not isinstance(application, Application):
            raise DiagnosticError(types.MISPLACED.at(span, f"{closure.name} is applied outside a component"))
        attrs, attrs_key = self._plain(closure, span)
        inputs: list[tuple[str, Values]] = []
        operands: list[tuple[Tensor, ...]] = []
        for parameter in declaration.inputs:
            value = closure.inputs[parameter.name].value
            given = tensors(value)
            operands.append(given)
            inputs.append(
                (parameter.name, given[0].value if isinstance(value, Tensor) else tuple(x.value for x in given))
            )
        key = (id(declaration), attrs_key, tuple(tuple(x.type for x in group) for group in operands))
        inferred = closure.module.inferred.get(key)
        if inferred is None:
            inferred = closure.module.inferred[key] = self._infer(closure, attrs, span)
        self.made.divisor = lcm(self.made.divisor, inferred.divisor)
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
        self.made.nodes[name] = Node(
            name,
            closure.name,
            tuple(inputs),
            {**attrs, **inferred.derived},
            weights,
            inferred.types,
            application.path,
            origins,
        )
        if self.made.around + len(self.made.nodes) > MAXIMUM_NODES:
            raise DiagnosticError(types.TOO_LARGE.at(span, f"the graph has more than {MAXIMUM_NODES:,} nodes"))
        results = tuple(Tensor(Value(name, i), kind, span, name) for i, kind in enumerate(inferred.types))
        return results[0] if len(results) == 1 else results

    def _plain(self, closure: Closure, span: Span) -> tuple[dict[str, Attribute], tuple[Any, ...]]:
        """A primitive's parameters as attributes, and the same as a key."""
        values = self.parameters(closure, span)
        if id(values) not in self._attributes:
            attrs = {k: attribute(v) for k, v in values.items()}
            self._attributes[id(values)] = (attrs, tuple(attrs.items()))
        return self._attributes[id(values)]

    def _default_label(self, declaration: t.Component) -> str | None:
        key = id(declaration)
        if key not in self._labels:
            found = [s.name for s in declaration.body if isinstance(s, t.DefaultLabel)]
            self._labels[key] = found[0] if found else None
        return self._labels[key]

    def _unique(self, name: str) -> str:
        count = self.made.names.get(name, 0)
        self.made.names[name] = count + 1
        return f"{name}_{count}" if count else name

    def _declare_weights(
        self, path: str, op: str, attrs: tuple[Any, ...], inferred: _Inferred, span: Span
    ) -> dict[str, str]:
        keys = {w.name: f"{path}.{w.name}" for w in inferred.weights}
        shapes = tuple((w.name, w.shape) for w in inferred.weights)
        identity = (op, attrs, shapes)
        if path in self.made.labelled:
            previous, place = self.made.labelled[path]
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
        self.made.labelled[path] = (identity, span)
        for rule in inferred.weights:
            trainable = not rule.buffer and rule.name not in inferred.fixed
            key = keys[rule.name]
            self.made.weights[key] = Weight(key, rule.shape, rule.dtype, rule.init, trainable, rule.buffer)
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
            first = next((x for b in closure.inputs.values() for x in tensors(b.value)), None)
            results = tuple(self._result(r, op.results[r.name], first, inner) for r in declaration.results)
        except DiagnosticError as error:
            raise DiagnosticError(_from_use(d, closure, span) for d in error.diagnostics) from None
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
                    _RULES[type(statement)](self, frame, statement)

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

    # Statements of primitives. Their frame's call is an _OpFrame.

    def _align(self, frame: Frame, statement: t.Align) -> None:
        left, right = self.evaluate(frame, statement.left), self.evaluate(frame, statement.right)
        frame.call.divisor = lcm(frame.call.divisor, _align(left, right))

    def _property(self, frame: Frame, statement: t.Property) -> None:
        properties = frame.call.results.get(statement.result)
        if properties is None:
            raise self.error(names.UNKNOWN_NAME, frame, statement, f'the op has no result "{statement.result}"')
        properties[statement.name] = self.evaluate(frame, statement.value)

    def _weight(self, frame: Frame, statement: t.WeightOf) -> None:
        shape = self.evaluate(frame, statement.shape)
        if not isinstance(shape, tuple) or not all(isinstance(d, int) and d >= 0 for d in shape):
            raise self.mismatch(frame, statement.shape, shape, "a list of whole numbers")
        init = self.initialiser(frame, statement.init)
        frame.call.weights.append(_WeightRule(statement.name, shape, statement.dtype, statement.buffer, init))

    def _derived(self, frame: Frame, statement: t.Derived) -> None:
        frame.call.derived[statement.name] = attribute(self.evaluate(frame, statement.value))

    def _op_freeze(self, frame: Frame, statement: t.Freeze) -> None:
        frame.call.fixed.update(label.name for label in statement.labels if isinstance(label, t.Name))


def _from_use(diagnostic: Diagnostic, closure: Closure, span: Span) -> Diagnostic:
    """A failure of an op's rule, told from where the op is used. What `align` found is already about the user's
    values."""
    given = ", ".join(f"{n}: {describe(b.value)}" for n, b in closure.inputs.items())
    if diagnostic.kind in (types.CHANNELS_MISMATCH, types.STRIDE_MISMATCH, types.SIZE_MISMATCH) and diagnostic.labels:
        return replace(diagnostic, labels=(Label(span, f"{closure.name} takes both here"), *diagnostic.labels))
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
        divisor = lcm(divisor, found)
    return divisor


def _unaligned(kind: Any, summary: str, left: Tensor, right: Tensor, one: str, other: str, detail: str) -> Diagnostic:
    labels = tuple(
        Label(x.span, f"{text}, from {x.label}") for x, text in ((left, one), (right, other)) if x.span is not None
    )
    return Diagnostic(kind, summary, detail, labels)


def _module_text(identity: Any) -> str:
    op, attrs, _ = identity
    return f"{op}({', '.join(f'{k} = {v}' for k, v in attrs)})"


_RULES: dict[type, Any] = {
    t.Assign: Primitives._assign,
    t.Require: Primitives._require,
    t.Align: Primitives._align,
    t.Property: Primitives._property,
    t.WeightOf: Primitives._weight,
    t.Derived: Primitives._derived,
}
