"""Expressions of the language, evaluated."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from detc.compiler import dims
from detc.compiler.builtins import BUILTINS, BadArgument, entries, is_number
from detc.compiler.dims import Dim
from detc.compiler.frames import MAXIMUM_NUMBER, MAXIMUM_RANGE, MAXIMUM_STEPS, NO_ARGUMENTS, Frame
from detc.compiler.modules import Module
from detc.compiler.overrides import Overrides
from detc.compiler.parameters import has
from detc.compiler.scope import (
    POISON,
    Bundle,
    Closure,
    DetectorValue,
    Function,
    Levels,
    Poisoned,
    Pyramid,
    Tensor,
    describe,
    identity,
    levels_text,
)
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import DiagnosticError, Label, suggest
from detc.dsl.source import Span

TENSOR_FIELDS = ("channels", "height", "width", "stride", "shape", "dtype", "batch", "rows", "fields")


class Evaluator(Overrides):
    """Static evaluation. What applying a component means is the elaborator's business, which is built on this."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        # Static `let` values, each worked out once.
        self._lets: dict[t.Let, Any] = {}

    def lookup(self, frame: Frame, name: str, node: t.Tree) -> Any:
        scope: Frame | None = frame
        while scope is not None:
            if name in scope.variables:
                value = scope.variables[name]
                if value is POISON:
                    raise Poisoned
                return value
            scope = scope.parent
        found = frame.module.names.get(name)
        if found is not None:
            return self.declared(*found, frame.span(node))
        if name in BUILTINS:
            return BUILTINS[name]
        if name in self.ambient:
            return self.ambient[name]
        known: set[str] = set(frame.module.names) | set(BUILTINS) | set(self.ambient)
        scope = frame
        while scope is not None:
            known |= set(scope.variables)
            scope = scope.parent
        hint = suggest(name, known)
        if name == "classes":
            hint = "the number of classes comes from the detector's data: give it `data = ...`, or `classes = [...]`"
        raise self.error(names.UNKNOWN_NAME, frame, node, f'nothing is called "{name}"', detail=hint)

    def declared(self, declaration: t.Declaration, module: Module, use: Span) -> Any:
        if isinstance(declaration, t.Component | t.RecordOf):
            return Closure(declaration, module, NO_ARGUMENTS)
        if isinstance(declaration, t.Let):
            if declaration.parameters is not None:
                return self._let_function(declaration, module)
            if declaration not in self._lets:
                with self.deeper(use, declaration.name):
                    self._lets[declaration] = self.evaluate(Frame(module), declaration.value)
            return self._lets[declaration]
        assert isinstance(declaration, t.Detector)
        with self.deeper(use, declaration.name):
            return self.detector(declaration, module)

    def _let_function(self, declaration: t.Let, module: Module) -> Function:
        parameters = declaration.parameters or []

        def call(positional: list[Any], named: dict[str, Any], span: Span) -> Any:
            frame = Frame(module)
            given = self.match(declaration.name, parameters, positional, named, span)
            for parameter in parameters:
                if parameter.name in given:
                    given[parameter.name] = self.check(
                        given[parameter.name], parameter.type, module, span, parameter, declaration.name
                    )
            with self.deeper(span, declaration.name):
                self.fill_parameters(frame, parameters, given, declaration.name, span)
                return self.evaluate(frame, declaration.value)

        return Function(declaration.name, call)

    def evaluate(self, frame: Frame, node: t.Expr) -> Any:
        self.steps += 1
        if self.steps > MAXIMUM_STEPS:
            raise self.error(types.TOO_LARGE, frame, node, f"more than {MAXIMUM_STEPS:,} steps of evaluation")
        return _EXPRESSIONS[type(node)](self, frame, node)

    def _literal(self, frame: Frame, node: t.Literal) -> Any:
        return node.value

    def _name(self, frame: Frame, node: t.Name) -> Any:
        return self.lookup(frame, node.name, node)

    def _template(self, frame: Frame, node: t.Template) -> Any:
        return "".join(p if isinstance(p, str) else self._part(frame, p) for p in node.parts)

    def _part(self, frame: Frame, part: t.Expr) -> str:
        value = self.evaluate(frame, part)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.mismatch(frame, part, value, "a whole number or a string")
        return str(value)

    def _attribute(self, frame: Frame, node: t.Attribute) -> Any:
        base = self.evaluate(frame, node.base)
        known: list[str]
        match base:
            case Tensor():
                if node.name in TENSOR_FIELDS:
                    return self._tensor_field(frame, node, base)
                known = list(TENSOR_FIELDS)
            case Levels() | Pyramid():
                items = base.items if isinstance(base, Levels) else tuple(base.entries)
                if node.name == "levels":
                    return Levels(items)
                if node.name == "count":
                    return len(items)
                if node.name in ("first", "last"):
                    if not items:
                        raise self.error(types.BAD_OPERAND, frame, node, "there are no levels here")
                    return items[0 if node.name == "first" else -1]
                known = ["levels", "first", "last", "count"]
            case Bundle():
                if node.name in base.entries:
                    if base.entries[node.name] is POISON:
                        raise Poisoned
                    return base.entries[node.name]
                known = list(base.entries)
            case Closure():
                return self.field(frame, node, base)
            case _:
                known = []
        raise self._no_field(frame, node, describe(base), known)

    def _no_field(self, frame: Frame, node: t.Attribute, owner: str, known: list[str]) -> DiagnosticError:
        detail = suggest(node.name, known) or has(known)
        return self.error(names.UNKNOWN_FIELD, frame, node, f'{owner} has no "{node.name}"', detail=detail)

    def field(self, frame: Frame, node: t.Attribute, base: Closure) -> Any:
        """A parameter, or a value derived from them."""
        declaration = base.declaration
        parameters = [p.name for p in declaration.parameters]
        if node.name in parameters:
            return self.parameter(base, node.name, frame.span(node))
        if isinstance(declaration, t.Component):
            for statement in declaration.body:
                if isinstance(statement, t.DefaultLabel) and node.name == "label":
                    return statement.name
            derived: list[str] = []
        else:
            derived = [a.targets[0].name for a in declaration.body]
            if node.name in derived:
                return self.record_values(base, frame.span(node))[node.name]
        raise self._no_field(frame, node, base.name, parameters + derived)

    def _tensor_field(self, frame: Frame, node: t.Attribute, base: Tensor) -> Any:
        kind = base.type
        match node.name:
            case "shape":
                return kind.shape
            case "dtype":
                return kind.dtype
            case "batch":
                return kind.shape[0]
            case "rows" if len(kind.shape) >= 2:
                return kind.shape[0] if len(kind.shape) == 2 else kind.shape[1]
            case "fields":
                return kind.shape[-1]
            case "stride":
                return kind.stride
        if not kind.is_feature:
            raise self.mismatch(frame, node.base, base, "a feature")
        return {"channels": kind.shape[1], "height": kind.shape[2], "width": kind.shape[3]}[node.name]

    def _index(self, frame: Frame, node: t.Index) -> Any:
        base = self.evaluate(frame, node.base)
        index = self.evaluate(frame, node.index)
        if not isinstance(index, int) or isinstance(index, bool):
            raise self.mismatch(frame, node.index, index, "a whole number")
        match base:
            case Pyramid():
                if index in base.entries:
                    value = base.entries[index]
                    if value is POISON:
                        raise Poisoned
                    return value
                labels = (Label(base.span, "the pyramid is made here"),) if base.span is not None else ()
                raise self.error(
                    types.MISSING_LEVEL,
                    frame,
                    node,
                    f"there is no level {index}",
                    label=f"this pyramid has levels {levels_text(tuple(base.entries))}",
                    labels=labels,
                )
            case tuple() | Levels():
                items = base.items if isinstance(base, Levels) else base
                if -len(items) <= index < len(items):
                    return items[index]
                raise self.error(types.BAD_OPERAND, frame, node, f"index {index} is outside a list of {len(items)}")
        raise self.mismatch(frame, node.base, base, "a pyramid or a list")

    def _unary(self, frame: Frame, node: t.Unary) -> Any:
        value = self.evaluate(frame, node.operand)
        if node.operator == "not":
            return not self.truth(frame, node.operand, value)
        if isinstance(value, int | float | Fraction) and not isinstance(value, bool):
            return -value if node.operator == "-" else value
        if isinstance(value, Dim):
            return dims.mul(value, -1) if node.operator == "-" else value
        raise self.mismatch(frame, node.operand, value, "a number")

    def _binary(self, frame: Frame, node: t.Binary) -> Any:
        operator = node.operator
        if operator in ("and", "or"):
            left = self.truth(frame, node.left, self.evaluate(frame, node.left))
            if left == (operator == "or"):
                return left
            return self.truth(frame, node.right, self.evaluate(frame, node.right))
        left = self.evaluate(frame, node.left)
        right = self.evaluate(frame, node.right)
        return self.operate(frame, node, left, right)

    def operate(self, frame: Frame, node: t.Binary, left: Any, right: Any) -> Any:
        operator = node.operator
        if operator in ("==", "!="):
            if isinstance(left, Tensor) or isinstance(right, Tensor):
                raise self.error(
                    types.NOT_STATIC, frame, node, "values of the graph cannot be compared while compiling"
                )
            return _equal(left, right) == (operator == "==")
        if operator == "in":
            if isinstance(right, Levels | tuple | Pyramid):
                return left in (right.items if isinstance(right, Levels) else tuple(entries(right)))
            raise self.mismatch(frame, node.right, right, "levels or a list")
        if operator in ("..", "..<"):
            for side, value in ((node.left, left), (node.right, right)):
                if not isinstance(value, int) or isinstance(value, bool):
                    raise self.mismatch(frame, side, value, "a whole number")
            stop = right + (operator == "..")
            if stop - left > MAXIMUM_RANGE:
                raise self.error(types.TOO_LARGE, frame, node, f"a range of {stop - left:,}")
            return Levels(tuple(range(left, stop)))
        if operator == "&":
            if isinstance(left, Levels) and isinstance(right, Levels):
                common = set(right.items)
                return Levels(tuple(i for i in left.items if i in common))
            raise self.mismatch(frame, node, left if not isinstance(left, Levels) else right, "levels")
        if is_number(left) and is_number(right):
            return self._arithmetic(frame, node, left, right)
        if isinstance(left, Dim) or isinstance(right, Dim):
            return self._dimensions(frame, node, left, right)
        if operator == "+" and isinstance(left, tuple) and isinstance(right, tuple):
            if len(left) + len(right) > MAXIMUM_RANGE:
                raise self.error(types.TOO_LARGE, frame, node, f"a list of {len(left) + len(right):,}")
            return left + right
        return self.operate_on_graph(frame, node, left, right)

    def operate_on_graph(self, frame: Frame, node: t.Binary, left: Any, right: Any) -> Any:
        raise self.error(
            types.BAD_OPERAND, frame, node, f'"{node.operator}" cannot take {describe(left)} and {describe(right)}'
        )

    def _arithmetic(self, frame: Frame, node: t.Binary, left: Any, right: Any) -> Any:
        operator = node.operator
        if operator in _COMPARISONS:
            return _COMPARISONS[operator](left, right)
        if operator in ("/", "//", "%") and right == 0:
            raise self.error(types.BAD_OPERAND, frame, node, "division by zero")
        try:
            match operator:
                case "+":
                    result = left + right
                case "-":
                    result = left - right
                case "*":
                    result = left * right
                case "/":
                    result = left / right
                case "//":
                    result = left // right
                case "%":
                    result = left % right
                case _:
                    if abs(right) > 64 or abs(left) > 2**32:
                        raise OverflowError
                    result = left**right
        except (OverflowError, ZeroDivisionError):
            raise self.error(types.TOO_LARGE, frame, node, "the number is too large") from None
        if isinstance(result, complex) or math.isnan(result) or abs(result) > MAXIMUM_NUMBER:
            raise self.error(types.TOO_LARGE, frame, node, "the result is not a number of any use")
        if isinstance(result, Fraction) and operator in ("//", "%") and result.denominator == 1:
            return int(result)
        return result

    def _dimensions(self, frame: Frame, node: t.Binary, left: Any, right: Any) -> Any:
        if isinstance(left, int | Dim) and isinstance(right, int | Dim):
            match node.operator:
                case "+":
                    return dims.add(left, right)
                case "-" if isinstance(right, int):
                    return dims.add(left, -right)
                case "*":
                    return dims.mul(left, right)
                case "//" if isinstance(right, int) and right > 0:
                    return dims.floordiv(left, right)
        raise self.error(
            types.NOT_STATIC,
            frame,
            node,
            f'"{node.operator}" cannot take sizes that depend on the image ({left} and {right})',
        )

    def truth(self, frame: Frame, node: t.Tree, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, Tensor):
            raise self.error(
                types.NOT_STATIC,
                frame,
                node,
                "a condition must be known while compiling, and this is a value of the graph",
            )
        raise self.mismatch(frame, node, value, "true or false")

    def _conditional(self, frame: Frame, node: t.Conditional) -> Any:
        condition = self.truth(frame, node.condition, self.evaluate(frame, node.condition))
        return self.evaluate(frame, node.then if condition else node.otherwise)

    def _lambda(self, frame: Frame, node: t.Lambda) -> Any:
        def call(positional: list[Any], named: dict[str, Any], span: Span) -> Any:
            if named or len(positional) != len(node.parameters):
                raise DiagnosticError(
                    names.MISSING_ARGUMENT.at(
                        span,
                        f"this function takes {len(node.parameters)} values, not {len(positional) + len(named)}",
                        labels=(Label(frame.span(node), "the function"),),
                    )
                )
            inner = frame.child()
            inner.variables.update(zip(node.parameters, positional, strict=True))
            with self.deeper(span, "a function"):
                return self.evaluate(inner, node.body)

        return Function("(" + ", ".join(node.parameters) + ") -> ...", call)

    def _list(self, frame: Frame, node: t.ListOf | t.Tuple) -> Any:
        return tuple(self.evaluate(frame, item) for item in node.items)

    def _comprehension(self, frame: Frame, node: t.Comprehension) -> Any:
        inner = frame.child()
        result = []
        for item in self.iterate(frame, node.iterable):
            inner.variables[node.variable] = item
            if node.condition is None or self.truth(inner, node.condition, self.evaluate(inner, node.condition)):
                result.append(self.evaluate(inner, node.item))
        return tuple(result)

    def iterate(self, frame: Frame, node: t.Expr) -> tuple[Any, ...]:
        value = self.evaluate(frame, node)
        match value:
            case Levels():
                return value.items
            case tuple():
                return value
            case Pyramid():
                return tuple(value.entries.values())
        raise self.mismatch(frame, node, value, "levels, a list or a pyramid")

    def _pyramid(self, frame: Frame, node: t.Pyramid) -> Any:
        entries: dict[int, Any] = {}
        for key, value in node.entries:
            level = self.evaluate(frame, key)
            if not isinstance(level, int) or isinstance(level, bool):
                raise self.mismatch(frame, key, level, "a level")
            if level in entries:
                raise self.error(names.REPEATED_ARGUMENT, frame, key, f"level {level} is given twice")
            entries[level] = self.evaluate(frame, value)
        return Pyramid(dict(sorted(entries.items())), frame.span(node))

    def _bundle(self, frame: Frame, node: t.Bundle) -> Any:
        return Bundle({str(e.name): self.evaluate(frame, e.value) for e in node.entries})

    def _with(self, frame: Frame, node: t.With) -> Any:
        base = self.evaluate(frame, node.base)
        if isinstance(base, DetectorValue):
            # What was published of the base was not published of the variant.
            fields = {k: b for k, b in base.fields.items() if k != "reported"}
            base = DetectorValue(base.declaration, base.model, fields)
        elif not isinstance(base, Closure):
            raise self.mismatch(frame, node.base, base, "a detector, a component or a record")
        return self.override(frame, base, node.fields)

    def _call(self, frame: Frame, node: t.Call) -> Any:
        function = self.evaluate(frame, node.function)
        return self.call(frame, node, function)

    def call(self, frame: Frame, node: t.Call, function: Any) -> Any:
        """Call a function, or configure a component or record."""
        if isinstance(function, Function):
            return self.compute(frame, node, function, *self._arguments(frame, node))
        if isinstance(function, Closure):
            return self.configure(frame, node, function)
        raise self.mismatch(frame, node.function, function, "a component or a function")

    def compute(
        self, frame: Frame, node: t.Expr, function: Function, positional: list[Any], named: dict[str, Any]
    ) -> Any:
        """What a function gives for values."""
        try:
            return function.call(positional, named, frame.span(node))
        except BadArgument as error:
            raise self.error(types.BAD_OPERAND, frame, node, f"{function.name}: {error}") from None

    def _arguments(self, frame: Frame, node: t.Call) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for argument in node.arguments:
            value = self.evaluate(frame, argument.value)
            if argument.name is None:
                positional.append(value)
            elif argument.name in named:
                raise self.error(names.REPEATED_ARGUMENT, frame, argument, f'"{argument.name}" is given twice')
            else:
                named[argument.name] = value
        return positional, named

    def _labelled(self, frame: Frame, node: t.Labelled) -> Any:
        raise self.error(types.MISPLACED, frame, node, "a label stands before a component that is applied to something")

    def _pipe(self, frame: Frame, node: t.Pipe) -> Any:
        raise self.error(types.MISPLACED, frame, node, "a pipeline stands only in the body of a component")


_COMPARISONS: dict[str, Any] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}

_EXPRESSIONS: dict[type, Any] = {
    t.Literal: Evaluator._literal,
    t.Name: Evaluator._name,
    t.Template: Evaluator._template,
    t.Attribute: Evaluator._attribute,
    t.Index: Evaluator._index,
    t.Call: lambda self, frame, node: self._call(frame, node),
    t.Labelled: lambda self, frame, node: self._labelled(frame, node),
    t.Pipe: lambda self, frame, node: self._pipe(frame, node),
    t.Unary: Evaluator._unary,
    t.Binary: Evaluator._binary,
    t.Conditional: Evaluator._conditional,
    t.Lambda: Evaluator._lambda,
    t.ListOf: Evaluator._list,
    t.Tuple: Evaluator._list,
    t.Comprehension: Evaluator._comprehension,
    t.Pyramid: Evaluator._pyramid,
    t.Bundle: Evaluator._bundle,
    t.With: Evaluator._with,
}


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Closure) and isinstance(right, Closure):
        return identity(left) == identity(right)
    if isinstance(left, int | Dim) and isinstance(right, int | Dim):
        return dims.equal(left, right)
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)
