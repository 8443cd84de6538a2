"""Detectors as values, and overrides: `base with { path = value }`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detc.compiler.frames import Frame
from detc.compiler.modules import Module
from detc.compiler.parameters import Parameters
from detc.compiler.scope import Bound, Closure, DetectorValue, describe
from detc.dsl import tree as t
from detc.dsl.catalogue import names
from detc.dsl.diagnostics import Label, suggest
from detc.dsl.source import Span

# What a detector has beside the parameters of its model.
RESERVED = ("data", "schedule", "classes", "pretrained", "reported")


def configured(detector: DetectorValue) -> Closure:
    """A detector's model with the parameters that the detector gives it."""
    given = {name: bound for name, bound in detector.fields.items() if name not in RESERVED}
    return replace(detector.model, arguments={**detector.model.arguments, **given})


class Overrides(Parameters):
    """Setting a value at a path makes a new detector, component or record; nothing is merged."""

    def detector(self, declaration: t.Detector, module: Module) -> DetectorValue:
        """The detector's model and fields, its overrides applied."""
        known: dict[t.Detector, DetectorValue] = self.module.values
        if declaration not in known:
            known[declaration] = self._detector(declaration, module)
        return known[declaration]

    def _detector(self, declaration: t.Detector, module: Module) -> DetectorValue:
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
        value = self.override(frame, DetectorValue(declaration, model, {}), declaration.fields)
        assert isinstance(value, DetectorValue)
        return value

    def override(self, frame: Frame, base: Any, fields: list[t.Field]) -> Any:
        """`base` with each field set, in order."""
        self._check_fields(frame, fields)
        for field in fields:
            value = self.evaluate(frame, field.value)
            span = Span(frame.module.source, field.start, field.value.end)
            base = self._set(frame, base, field.path, Bound(value, span), field, list(field.path))
        return base

    def _check_fields(self, frame: Frame, fields: list[t.Field]) -> None:
        """Each path is set once, and nothing is set inside what is replaced after it."""
        earlier: list[t.Field] = []
        for field in fields:
            for other in earlier:
                if other.path[: len(field.path)] == field.path:
                    raise self.error(
                        names.REPEATED_ARGUMENT,
                        frame,
                        field,
                        f'"{".".join(field.path)}" undoes what was set before it',
                        label="set here as a whole",
                        labels=(Label(frame.span(other), "set before"),),
                        detail="drop one of them, or put the whole first",
                    )
            earlier.append(field)

    def _set(self, frame: Frame, base: Any, path: list[str], bound: Bound, field: t.Field, whole: list[str]) -> Any:
        name, rest = path[0], path[1:]
        if isinstance(base, DetectorValue):
            known = [p.name for p in base.model.declaration.parameters] + list(RESERVED)
            self._known(frame, name, known, field, whole, base.declaration.name)
            old = base.fields.get(name)
            new = self._inner(frame, base, old, name, rest, bound, field, whole)
            if name not in RESERVED:
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
        if old is None and isinstance(base, DetectorValue) and name not in RESERVED:
            # A part that the model gives itself.
            base = configured(base)
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

    def _known(self, frame: Frame, name: str, known: list[str], field: t.Field, whole: list[str], owner: str) -> None:
        if name not in known:
            raise self.error(
                names.UNKNOWN_OVERRIDE,
                frame,
                field,
                f'"{".".join(whole)}" does not exist: {owner} has no "{name}"',
                detail=suggest(name, known) or f"it has {', '.join(known) or 'nothing to set'}",
            )
