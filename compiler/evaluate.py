"""Evaluation: expressions and statements of the language, and the application of components.

One `Evaluator` serves one detector. It walks the tree, and each application of a primitive asks its `Builder` for a node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from detc.compiler import dims
from detc.compiler.dims import Dim
from detc.compiler.modules import Module
from detc.compiler.scope import (
    POISON,
    Bound,
    Bundle,
    Closure,
    DetectorValue,
    Function,
    Levels,
    Poison,
    Poisoned,
    Pyramid,
    Tensor,
    describe,
    levels_text,
)
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Kind, Label, suggest
from detc.dsl.source import Span

# Bounds that no detector comes near; they make sure that compiling ends.
MAXIMUM_STEPS = 3_000_000
MAXIMUM_CALL_DEPTH = 48
MAXIMUM_RANGE = 100_000
MAXIMUM_NUMBER = 2**53

_NO_ARGUMENTS: Mapping[str, Bound] = {}

COMPONENT_KINDS = {"block", "backbone", "neck", "head", "cell", "model", "op"}


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


class Evaluator:
    """Static evaluation. Subclassed by the elaborator, which knows what applying a component means."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.steps = 0
        self.ambient: dict[str, Any] = {}
        self.diagnostics: list[Diagnostic] = []
        # Static `let` values, each worked out once.
        self._lets: dict[int, Any] = {}
        self._depth = 0
        # By declaration and arguments (kept alive here, so that their ids stay theirs): the values of all parameters.
        self._parameters: dict[tuple[int, int], tuple[Closure, dict[str, Any]]] = {}
        # Parameters whose literal default has been found to be of their type.
        self._checked: set[t.Parameter] = set()

    # ---- names ------------------------------------------------------------------------------------------------------

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
            return Closure(declaration, module, _NO_ARGUMENTS)
        if isinstance(declaration, t.Let):
            if declaration.parameters is not None:
                return self._let_function(declaration, module)
            key = id(declaration)
            if key not in self._lets:
                with self.deeper(use, declaration.name):
                    self._lets[key] = self.evaluate(Frame(module), declaration.value)
            return self._lets[key]
        assert isinstance(declaration, t.Detector)
        with self.deeper(use, declaration.name):
            return self.detector(declaration, module)

    def _let_function(self, declaration: t.Let, module: Module) -> Function:
        parameters = declaration.parameters or []

        def call(positional: list[Any], named: dict[str, Any], span: Span) -> Any:
            frame = Frame(module)
            given = self._match(declaration.name, parameters, positional, named, span)
            for parameter in parameters:
                if parameter.name in given:
                    given[parameter.name] = self.check(
                        given[parameter.name], parameter.type, module, span, parameter, declaration.name
                    )
            with self.deeper(span, declaration.name):
                self._fill_parameters(frame, parameters, given, declaration.name, span)
                return self.evaluate(frame, declaration.value)

        return Function(declaration.name, call)

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

    # ---- detectors --------------------------------------------------------------------------------------------------

    RESERVED = ("data", "schedule", "classes", "pretrained", "reported")

    def detector(self, declaration: t.Detector, module: Module) -> DetectorValue:
        """The detector's model and fields, its overrides applied."""
        frame = Frame(module)
        if declaration.base is not None:
            base = self.evaluate(frame, declaration.base)
            if not isinstance(base, DetectorValue):
                raise self.mismatch(frame, declaration.base, base, "a detector")
            return DetectorValue(declaration, base.model, base.fields)
        assert declaration.model is not None
        model = self.evaluate(frame, declaration.model)
        if not (isinstance(model, Closure) and getattr(model.declaration, "kind", "") == "model"):
            raise self.mismatch(frame, declaration.model, model, "a model such as SingleStage")
        return self._override(frame, DetectorValue(declaration, model, {}), declaration.fields)

    def _override(self, frame: Frame, base: Any, fields: list[t.Field]) -> Any:
        for field in fields:
            value = self.evaluate(frame, field.value)
            span = Span(frame.module.source, field.start, field.value.end)
            base = self._set(frame, base, field.path, Bound(value, span), field, list(field.path))
        return base

    def _set(self, frame: Frame, base: Any, path: list[str], bound: Bound, field: t.Field, whole: list[str]) -> Any:
        name, rest = path[0], path[1:]
        if isinstance(base, DetectorValue):
            known = [p.name for p in base.model.declaration.parameters] + list(self.RESERVED)
            self._known(frame, name, known, field, whole, base.declaration.name)
            old = base.fields.get(name)
            new = self._inner(frame, base, old, name, rest, bound, field, whole)
            if name not in self.RESERVED:
                new = self.check_parameter(base.model, name, new)
            return DetectorValue(base.declaration, base.model, {**base.fields, name: new})
        if isinstance(base, Closure):
            self._known(frame, name, [p.name for p in base.declaration.parameters], field, whole, base.name)
            old = base.arguments.get(name)
            new = self.check_parameter(base, name, self._inner(frame, base, old, name, rest, bound, field, whole))
            return Closure(base.declaration, base.module, {**base.arguments, name: new}, base.inputs)
        raise self.error(
            names.UNKNOWN_OVERRIDE,
            frame,
            field,
            f'"{".".join(whole)}" cannot be set',
            detail=f'"{".".join(whole[: len(whole) - len(path)])}" is {describe(base)}, which has no parameters',
        )

    def _inner(
        self,
        frame: Frame,
        base: Any,
        old: Bound | None,
        name: str,
        rest: list[str],
        bound: Bound,
        field: t.Field,
        whole: list[str],
    ) -> Bound:
        if not rest:
            return Bound(bound.value, bound.span, old)
        if old is None and isinstance(base, DetectorValue):
            raise self.error(
                names.UNKNOWN_OVERRIDE,
                frame,
                field,
                f'"{".".join(whole)}" cannot be set: the detector has no {name}',
                detail=f"set {name} itself first",
            )
        inner = old.value if old is not None else self.parameter(base, name, frame.span(field))
        return Bound(self._set(frame, inner, rest, bound, field, whole), bound.span, old)

    def _known(
        self, frame: Frame, name: str, known: list[str], field: t.Field, whole: list[str], owner: str
    ) -> None:
        if name not in known:
            raise self.error(
                names.UNKNOWN_OVERRIDE,
                frame,
                field,
                f'"{".".join(whole)}" does not exist: {owner} has no "{name}"',
                detail=suggest(name, known) or f"it has {', '.join(known) or 'nothing to set'}",
            )

    # ---- parameters -------------------------------------------------------------------------------------------------

    def parameter(self, closure: Closure, name: str, span: Span) -> Any:
        """The value of a parameter of a closure, its default where none was given."""
        if name in closure.arguments:
            return closure.arguments[name].value
        return self.parameters(closure, span)[name]

    def parameters(self, closure: Closure, span: Span) -> dict[str, Any]:
        """All parameters' values."""
        # A closure that is applied again and again (a normalisation, say) shares its arguments.
        key = (id(closure.declaration), id(closure.arguments))
        if key in self._parameters:
            return self._parameters[key][1]
        frame = Frame(closure.module)
        given = {k: b.value for k, b in closure.arguments.items()}
        with self.deeper(span, closure.name):
            self._fill_parameters(frame, closure.declaration.parameters, given, closure.name, span)
        self._parameters[key] = (closure, frame.variables)
        return frame.variables

    def _fill_parameters(
        self, frame: Frame, parameters: list[t.Parameter], given: dict[str, Any], owner: str, span: Span
    ) -> None:
        """Defaults may use any other parameter that comes with a value: padding = dilation * (kernel - 1) // 2."""
        frame.variables.update(given)
        waiting = [p for p in parameters if p.name not in given]
        missing = [p.name for p in waiting if p.default is None]
        if missing:
            raise DiagnosticError(
                names.MISSING_ARGUMENT.at(
                    span,
                    f"{owner} needs {', '.join(missing)}",
                    detail=f"give it: {owner}({', '.join(f'{m} = ...' for m in missing)})",
                )
            )
        while waiting:
            names_waiting = {q.name for q in waiting}
            ready = [p for p in waiting if not (_mentions(p.default) & names_waiting)]
            if not ready:
                raise DiagnosticError(
                    types.EXPANDS_WITHOUT_END.at(
                        Span(frame.module.source, waiting[0].start, waiting[0].end),
                        f"the defaults of {', '.join(p.name for p in waiting)} depend on each other",
                    )
                )
            for parameter in ready:
                frame.variables[parameter.name] = self._default(frame, parameter, owner)
            waiting = [p for p in waiting if p.name not in frame.variables]

    def _default(self, frame: Frame, parameter: t.Parameter, owner: str) -> Any:
        default = parameter.default
        assert default is not None
        if isinstance(default, t.Literal) and parameter in self._checked:
            return default.value
        value = self.evaluate(frame, default)
        self._checked.add(parameter)
        return self.check(value, parameter.type, frame.module, frame.span(parameter), parameter, owner)

    def _match(
        self, owner: str, parameters: list[t.Parameter], positional: list[Any], named: dict[str, Any], span: Span
    ) -> dict[str, Any]:
        known = [p.name for p in parameters]
        if len(positional) > len(known):
            raise DiagnosticError(
                names.REPEATED_ARGUMENT.at(
                    span, f"{owner} takes {len(known)} arguments and is given {len(positional)}"
                )
            )
        given = dict(zip(known, positional, strict=False))
        for name, value in named.items():
            if name not in known:
                raise DiagnosticError(
                    names.UNKNOWN_PARAMETER.at(
                        span, f'{owner} has no parameter "{name}"', detail=suggest(name, known) or _has(known)
                    )
                )
            if name in given:
                raise DiagnosticError(names.REPEATED_ARGUMENT.at(span, f'"{name}" of {owner} is given twice'))
            given[name] = value
        return given

    def check_parameter(self, owner: Closure, name: str, bound: Bound) -> Bound:
        """What the parameter called `name` becomes when set to `bound`."""
        parameter = next(p for p in owner.declaration.parameters if p.name == name)
        value = self.check(bound.value, parameter.type, owner.module, bound.span, parameter, owner.name)
        return Bound(value, bound.span, bound.replaced)

    def check(
        self, value: Any, kind: t.Type, module: Module, span: Span, parameter: t.Parameter | None, owner: str
    ) -> Any:
        """The value, as one of the declared type: where that is a list, levels and pyramids become one.

        Raises:
            DiagnosticError: where it is not of that type.
        """
        if value is None and (kind.optional or (parameter is not None and _is_none(parameter.default))):
            return None
        if kind.many:
            if isinstance(value, Pyramid):
                value = tuple(value.entries.values())
            elif isinstance(value, Levels):
                value = value.items
            good = isinstance(value, tuple) and all(self.fits(i, kind, module) for i in value)
        else:
            good = self.fits(value, kind, module)
        if good:
            return value
        named = parameter is not None and parameter.name
        what = f'"{parameter.name}" of {owner}' if parameter is not None and named else f"what {owner} returns"
        expected = f"a list of {kind.name}" if kind.many else _article(kind.name)
        labels: tuple[Label, ...] = ()
        if parameter is not None and named:
            place = Span(module.source, parameter.start, parameter.end)
            labels = (Label(place, "declared here"),) if place != span else ()
        raise DiagnosticError(
            types.TYPE_MISMATCH.at(span, f"{what} is {expected}, and this is {describe(value)}", labels=labels)
        )

    def fits(self, value: Any, kind: t.Type, module: Module) -> bool:
        match kind.name:
            case "any":
                return True
            case "int":
                return isinstance(value, int | Dim) and not isinstance(value, bool)
            case "float":
                return isinstance(value, int | float | Fraction) and not isinstance(value, bool)
            case "bool":
                return isinstance(value, bool)
            case "string":
                return isinstance(value, str)
            case "levels":
                return isinstance(value, Levels)
            case "feature":
                return isinstance(value, Tensor) and value.type.is_feature
            case "tensor":
                return isinstance(value, Tensor)
            case "pyramid":
                return isinstance(value, Pyramid)
            case "bundle" | "truth":
                return isinstance(value, Bundle)
            case "function":
                return isinstance(value, Function | Closure)
            case "component" | "block":
                return isinstance(value, Closure) and isinstance(value.declaration, t.Component)
            case "record":
                return isinstance(value, Closure) and isinstance(value.declaration, t.RecordOf)
            case name if name in COMPONENT_KINDS:
                return isinstance(value, Closure) and getattr(value.declaration, "kind", None) == name
            case name:
                found = module.names.get(name)
                if found is None or not isinstance(found[0], t.RecordOf):
                    known = [*TYPE_NAMES, *(n for n, (d, _) in module.names.items() if isinstance(d, t.RecordOf))]
                    raise DiagnosticError(
                        names.UNKNOWN_NAME.at(
                            Span(module.source, kind.start, kind.end),
                            f'there is no type "{name}"',
                            detail=suggest(name, known),
                        )
                    )
                return isinstance(value, Closure) and value.declaration is found[0]

    # ---- expressions ------------------------------------------------------------------------------------------------

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
        raise self.error(
            names.UNKNOWN_FIELD,
            frame,
            node,
            f'{describe(base)} has no "{node.name}"',
            detail=suggest(node.name, known) or _has(known),
        )

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
        known = parameters + derived
        raise self.error(
            names.UNKNOWN_FIELD,
            frame,
            node,
            f'{base.name} has no "{node.name}"',
            detail=suggest(node.name, known) or _has(known),
        )

    def record_values(self, base: Closure, span: Span) -> dict[str, Any]:
        """The parameters of a record and what it derives from them."""
        assert isinstance(base.declaration, t.RecordOf)
        inner = Frame(base.module)
        inner.variables.update(self.parameters(base, span))
        for statement in base.declaration.body:
            inner.variables[statement.targets[0].name] = self.evaluate(inner, statement.value)
        return inner.variables

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
                raise self.error(
                    types.BAD_OPERAND, frame, node, f"index {index} is outside a list of {len(items)}"
                )
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
                return left in (right.items if isinstance(right, Levels) else tuple(_entries(right)))
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
        if _is_number(left) and _is_number(right):
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
        if isinstance(result, complex) or result != result or abs(result) > MAXIMUM_NUMBER:
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
                types.NOT_STATIC, frame, node, "a condition must be known while compiling, and this is a value of the graph"
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
                        f"this function takes {len(node.parameters)} values and is given {len(positional) + len(named)}",
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
        return self._override(frame, base, node.fields)

    def _call(self, frame: Frame, node: t.Call) -> Any:
        function = self.evaluate(frame, node.function)
        return self.call(frame, node, function)

    def call(self, frame: Frame, node: t.Call, function: Any) -> Any:
        """Call a function, or configure a component or record."""
        span = frame.span(node)
        if isinstance(function, Function):
            positional, named = self._arguments(frame, node)
            try:
                return function.call(positional, named, span)
            except _BadArgument as error:
                raise self.error(types.BAD_OPERAND, frame, node, f"{function.name}: {error}") from None
        if isinstance(function, Closure):
            return self.configure(frame, node, function)
        raise self.mismatch(frame, node.function, function, "a component or a function")

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

    def configure(self, frame: Frame, node: t.Call, closure: Closure) -> Closure:
        """The closure with the call's arguments: values of the graph go to inputs, all else to parameters."""
        declaration = closure.declaration
        parameters = {p.name: p for p in declaration.parameters}
        inputs = {p.name: p for p in declaration.inputs} if isinstance(declaration, t.Component) else {}
        given: Mapping[str, Bound] = closure.arguments
        fed = dict(closure.inputs)
        fresh: set[str] = set()
        free_parameters = [n for n in parameters if n not in given]
        free_inputs = [n for n in inputs if n not in fed]
        for argument in node.arguments:
            value = self.evaluate(frame, argument.value)
            place = frame.span(argument)
            graphical = _is_graphical(value)
            name = argument.name
            if name is None:
                queue = free_inputs if graphical and inputs else free_parameters
                if not queue:
                    what = "inputs" if graphical and inputs else "parameters"
                    owner = inputs if graphical and inputs else parameters
                    raise self.error(
                        names.REPEATED_ARGUMENT,
                        frame,
                        argument,
                        f"{closure.name} has no more {what}",
                        detail=f"its {what} are {', '.join(owner) or 'none'}",
                    )
                name = queue.pop(0)
            if name in fresh:
                raise self.error(names.REPEATED_ARGUMENT, frame, argument, f'"{name}" of {closure.name} is given twice')
            fresh.add(name)
            if name in inputs:
                value = self.check(value, inputs[name].type, closure.module, place, inputs[name], closure.name)
                fed[name] = Bound(value, place)
                if name in free_inputs:
                    free_inputs.remove(name)
            elif name in parameters:
                if graphical:
                    raise self.error(
                        types.NOT_STATIC,
                        frame,
                        argument,
                        f'"{name}" of {closure.name} must be known while compiling, and this is {describe(value)}',
                    )
                kind = parameters[name].type
                value = self.check(value, kind, closure.module, place, parameters[name], closure.name)
                given = {**given, name: Bound(value, place, given.get(name))}
                if name in free_parameters:
                    free_parameters.remove(name)
            else:
                known = [*parameters, *inputs]
                raise self.error(
                    names.UNKNOWN_PARAMETER,
                    frame,
                    argument,
                    f'{closure.name} has no parameter "{name}"',
                    detail=suggest(name, known) or _has(known),
                    labels=(Label(declaration.span, "declared here"),),
                )
        return Closure(declaration, closure.module, given, fed)

    def _labelled(self, frame: Frame, node: t.Labelled) -> Any:
        raise self.error(types.MISPLACED, frame, node, "a label stands before a component that is applied to something")

    def _pipe(self, frame: Frame, node: t.Pipe) -> Any:
        raise self.error(types.MISPLACED, frame, node, "a pipeline stands only in the body of a component")

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def error(self, kind: Kind, frame: Frame, node: t.Tree, summary: str, **more: Any) -> DiagnosticError:
        return DiagnosticError(kind.at(frame.span(node), summary, **more))

    def mismatch(self, frame: Frame, node: t.Tree, value: Any, expected: str) -> DiagnosticError:
        return self.error(types.TYPE_MISMATCH, frame, node, f"expected {expected}, and this is {describe(value)}")


TYPE_NAMES = (
    "int float bool string levels feature tensor pyramid bundle truth function component block op cell backbone neck head "
    "model record any"
).split()
TENSOR_FIELDS = ("channels", "height", "width", "stride", "shape", "dtype", "batch", "rows", "fields")

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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Fraction) and not isinstance(value, bool)


def _is_none(node: t.Expr | None) -> bool:
    return isinstance(node, t.Literal) and node.value is None


def _is_graphical(value: Any) -> bool:
    """Whether this is a value of the graph, or made of such."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Pyramid):
        return any(_is_graphical(v) for v in value.entries.values())
    if isinstance(value, Bundle):
        return any(_is_graphical(v) for v in value.entries.values())
    return isinstance(value, tuple) and bool(value) and _is_graphical(value[0])


def _entries(value: Any) -> Any:
    return value.entries if isinstance(value, Pyramid) else value


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Closure) and isinstance(right, Closure):
        return left.declaration is right.declaration and {k: b.value for k, b in left.arguments.items()} == {
            k: b.value for k, b in right.arguments.items()
        }
    if isinstance(left, int | Dim) and isinstance(right, int | Dim):
        return dims.equal(left, right)
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


@lru_cache(maxsize=None)
def _mentions(node: t.Expr | None) -> frozenset[str]:
    """All names in an expression."""
    found = set()
    stack: list[Any] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, t.Name):
            found.add(item.name)
        elif isinstance(item, t.Tree):
            stack.extend(getattr(item, name) for name in item.__slots__ if name not in ("start", "end"))
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return frozenset(found)


def _has(known: list[str]) -> str:
    return f"it has {', '.join(known)}" if known else ""


def _article(word: str) -> str:
    word = {"int": "whole number", "float": "number", "bool": "true or false"}.get(word, word)
    if word == "true or false" or word == "levels":
        return word
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# ---- built-in functions -----------------------------------------------------------------------------------------------


class _BadArgument(Exception):
    pass


def _numbers(values: list[Any], count: int | None = None) -> list[Any]:
    if count is not None and len(values) != count:
        raise _BadArgument(f"takes {count} values and is given {len(values)}")
    for value in values:
        if not _is_number(value):
            raise _BadArgument(f"takes numbers, and {describe(value)} is not one")
    return values


def _minimum(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    flat = list(values[0]) if len(values) == 1 and isinstance(values[0], tuple) else values
    if not flat:
        raise _BadArgument("takes at least one value")
    if any(isinstance(v, Dim) for v in flat):
        result = flat[0]
        for value in flat[1:]:
            if not isinstance(value, int | Dim):
                raise _BadArgument("takes whole numbers beside sizes")
            result = dims.minimum(result, value)
        return result
    return min(_numbers(flat))


def _maximum(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    flat = list(values[0]) if len(values) == 1 and isinstance(values[0], tuple) else values
    if not flat:
        raise _BadArgument("takes at least one value")
    return max(_numbers(flat))


def _length(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    if len(values) == 1 and isinstance(values[0], tuple | Levels | Pyramid | str):
        value = values[0]
        return len(value.items if isinstance(value, Levels) else _entries(value))
    raise _BadArgument("takes a list, levels or a pyramid")


def _reversed(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    if len(values) == 1 and isinstance(values[0], Levels | tuple):
        return Levels(values[0].items[::-1]) if isinstance(values[0], Levels) else values[0][::-1]
    raise _BadArgument("takes levels or a list")


def _total(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    if len(values) == 1 and isinstance(values[0], tuple):
        return sum(_numbers(list(values[0])))
    raise _BadArgument("takes a list of numbers")


def _joined(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    """The shape of tensors joined along an axis."""
    tensors = list(_entries(values[0]).values()) if isinstance(values[0], Pyramid) else list(values[0])
    axis = values[1]
    if not tensors:
        raise _BadArgument("there is nothing to join")
    shapes = [tensor.type.shape for tensor in tensors]
    if not 0 <= axis < len(shapes[0]):
        raise _BadArgument(f"there is no axis {axis} in {tensors[0].type}")
    for shape in shapes[1:]:
        if len(shape) != len(shapes[0]) or any(
            not dims.equal(a, b) for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
        ):
            raise _BadArgument(f"the shapes differ beside axis {axis}: {', '.join(str(x.type) for x in tensors)}")
    length: Any = 0
    for shape in shapes:
        length = dims.add(length, shape[axis])
    return tuple(length if i == axis else d for i, d in enumerate(shapes[0]))


def _rounding(function: Any) -> Any:
    return lambda values, named, span: int(function(_numbers(values, 1)[0]))


def _sqrt(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    number = _numbers(values, 1)[0]
    if number < 0:
        raise _BadArgument("the number is negative")
    return math.sqrt(number)


def _log2(values: list[Any], named: dict[str, Any], span: Span) -> Any:
    number = _numbers(values, 1)[0]
    if number <= 0:
        raise _BadArgument("the number is not positive")
    return math.log2(number)


BUILTINS: Mapping[str, Function] = {
    name: Function(name, call)
    for name, call in {
        "min": _minimum,
        "max": _maximum,
        "len": _length,
        "reversed": _reversed,
        "sum": _total,
        "joined": _joined,
        "floor": _rounding(math.floor),
        "ceil": _rounding(math.ceil),
        "round": _rounding(round),
        "sqrt": _sqrt,
        "log2": _log2,
    }.items()
}


