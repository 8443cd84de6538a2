"""Parameters: what a component, record or function is given, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from detc.compiler.dims import Dim
from detc.compiler.frames import Context, Frame
from detc.compiler.modules import Module
from detc.compiler.scope import Bound, Bundle, Closure, Function, Levels, Pyramid, Tensor, describe
from detc.dsl import tree as t
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import DiagnosticError, Label, suggest
from detc.dsl.source import Span

COMPONENT_KINDS = {"block", "backbone", "neck", "head", "cell", "model", "op"}
TYPE_NAMES = [
    "int",
    "float",
    "bool",
    "string",
    "levels",
    "feature",
    "tensor",
    "pyramid",
    "bundle",
    "truth",
    "function",
    "component",
    "block",
    "op",
    "cell",
    "backbone",
    "neck",
    "head",
    "model",
    "record",
    "any",
]


class Parameters(Context):
    """Matching arguments with parameters, defaults, and types."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        # By declaration and arguments (kept alive here, so that their ids stay theirs): the values of all parameters.
        self._parameters: dict[tuple[int, int], tuple[Closure, dict[str, Any]]] = {}
        # Parameters whose literal default has been found to be of their type.
        self._checked: set[t.Parameter] = set()

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
            self.fill_parameters(frame, closure.declaration.parameters, given, closure.name, span)
        self._parameters[key] = (closure, frame.variables)
        return frame.variables

    def fill_parameters(
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

    def match(
        self, owner: str, parameters: list[t.Parameter], positional: list[Any], named: dict[str, Any], span: Span
    ) -> dict[str, Any]:
        known = [p.name for p in parameters]
        if len(positional) > len(known):
            raise DiagnosticError(
                names.REPEATED_ARGUMENT.at(span, f"{owner} takes {len(known)} arguments and is given {len(positional)}")
            )
        given = dict(zip(known, positional, strict=False))
        for name, value in named.items():
            if name not in known:
                raise DiagnosticError(
                    names.UNKNOWN_PARAMETER.at(
                        span, f'{owner} has no parameter "{name}"', detail=suggest(name, known) or has(known)
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

    def record_values(self, base: Closure, span: Span) -> dict[str, Any]:
        """The parameters of a record and what it derives from them."""
        assert isinstance(base.declaration, t.RecordOf)
        inner = Frame(base.module)
        inner.variables.update(self.parameters(base, span))
        for statement in base.declaration.body:
            inner.variables[statement.targets[0].name] = self.evaluate(inner, statement.value)
        return inner.variables

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
                    detail=suggest(name, known) or has(known),
                    labels=(Label(declaration.span, "declared here"),),
                )
        return Closure(declaration, closure.module, given, fed)


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


# Bounded, since a language server sees a new tree with every keystroke.
@lru_cache(maxsize=10_000)
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


def has(known: list[str]) -> str:
    """What there is instead, for a diagnostic."""
    return f"it has {', '.join(known)}" if known else ""


def _article(word: str) -> str:
    word = {"int": "whole number", "float": "number", "bool": "true or false"}.get(word, word)
    if word in ("true or false", "levels"):
        return word
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
