"""Where a value of a detector comes from: which line set it, and what it replaced."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from detc.compiler.evaluate import Evaluator
from detc.compiler.modules import Module
from detc.compiler.scope import Bound, Bundle, Closure, DetectorValue, Levels, Pyramid, describe, levels_text
from detc.dsl import tree as t
from detc.dsl.catalogue import names
from detc.dsl.diagnostics import DiagnosticError, suggest
from detc.dsl.source import Span


@dataclass(frozen=True)
class Origin:
    """One setting of a value. `how` is "set", "default" or "derived"."""

    value: str
    how: str
    span: Span


def explain(module: Module, detector: str, path: str) -> list[Origin]:
    """Who set the value at a path such as `head.anchors.octaves`: the one in force first, then what it replaced.

    Raises:
        DiagnosticError: where the path does not exist.
    """
    declaration = {d.name: d for d in module.detectors}[detector]
    evaluator = Evaluator(module)
    # Values that depend on the number of classes can be explained without elaborating the detector.
    evaluator.ambient["classes"] = 0
    owner: Any = evaluator.detector(declaration, module)
    steps = path.split(".")
    origins: list[Origin] = []
    for index, name in enumerate(steps):
        origins = _origins(evaluator, owner, name, ".".join(steps[: index + 1]), declaration.span)
        if index + 1 < len(steps):
            owner = _value(evaluator, owner, name, declaration.span)
    return origins


def _origins(evaluator: Evaluator, owner: Any, name: str, path: str, span: Span) -> list[Origin]:
    if isinstance(owner, DetectorValue):
        if name in owner.fields:
            return _chain(owner.fields[name])
        if name in [p.name for p in owner.model.declaration.parameters]:
            return _origins(evaluator, owner.model, name, path, span)
        known = sorted({*owner.fields, *(p.name for p in owner.model.declaration.parameters)})
    elif isinstance(owner, Closure):
        parameters = {p.name: p for p in owner.declaration.parameters}
        if name in owner.arguments:
            chain = _chain(owner.arguments[name])
            default = parameters[name].default
            if default is not None:
                chain.append(_default(owner, parameters[name]))
            return chain
        if name in parameters:
            value = evaluator.parameter(owner, name, span)
            return [Origin(shown(value), "default", _default(owner, parameters[name]).span)]
        if isinstance(owner.declaration, t.RecordOf):
            for statement in owner.declaration.body:
                if statement.targets[0].name == name:
                    value = evaluator.record_values(owner, span)[name]
                    place = Span(owner.module.source, statement.start, statement.end)
                    return [Origin(shown(value), "derived", place)]
        known = list(parameters)
    elif isinstance(owner, Bundle):
        if name in owner.entries:
            return [Origin(shown(owner.entries[name]), "set", span)]
        known = list(owner.entries)
    else:
        known = []
    raise DiagnosticError(
        names.UNKNOWN_FIELD.at(
            None,
            f'there is no "{path}": {describe(owner)} has no "{name}"',
            detail=suggest(name, known) or (f"it has {', '.join(known)}" if known else ""),
        )
    )


def _value(evaluator: Evaluator, owner: Any, name: str, span: Span) -> Any:
    if isinstance(owner, DetectorValue):
        if name in owner.fields:
            return owner.fields[name].value
        owner = owner.model
    if isinstance(owner, Bundle):
        return owner.entries[name]
    if name in [p.name for p in owner.declaration.parameters]:
        return evaluator.parameter(owner, name, span)
    return evaluator.record_values(owner, span)[name]


def _chain(bound: Bound | None) -> list[Origin]:
    chain = []
    while bound is not None:
        chain.append(Origin(shown(bound.value), "set", bound.span))
        bound = bound.replaced
    return chain


def _default(owner: Closure, parameter: t.Parameter) -> Origin:
    assert parameter.default is not None
    source = owner.module.source
    text = Span(source, parameter.default.start, parameter.default.end).text
    return Origin(text, "default", Span(source, parameter.start, parameter.default.end))


def shown(value: Any) -> str:
    """A static value as the language writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case Fraction():
            return str(float(value))
        case Levels():
            return levels_text(value.items)
        case tuple():
            return f"[{', '.join(shown(v) for v in value)}]"
        case Pyramid():
            return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.entries.items()) + "}"
        case Bundle():
            return "{" + ", ".join(f"{k} = {shown(v)}" for k, v in value.entries.items()) + "}"
        case Closure():
            inside = ", ".join(f"{k} = {shown(b.value)}" for k, b in value.arguments.items())
            return f"{value.name}({inside})"
        case DetectorValue():
            return value.declaration.name
    return str(value)
