"""What expressions evaluate to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detc.compiler.graph import Value
from detc.compiler.types import TensorType
from detc.dsl import tree as t
from detc.dsl.source import Span

if TYPE_CHECKING:
    from detc.compiler.modules import Module


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph, its type, and where it was made."""

    value: Value
    type: TensorType
    span: Span | None = None
    # Which component made it, for diagnostics ("neck.fpn_convs.0").
    label: str = ""


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels, or any ascending whole numbers that a loop runs over."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Level -> value, ascending."""

    entries: Mapping[int, Any]
    span: Span | None = None

    @property
    def levels(self) -> Levels:
        return Levels(tuple(self.entries))


@dataclass(frozen=True, slots=True)
class Bundle:
    """Values with names."""

    entries: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A value that a parameter was given, where, and what it replaced."""

    value: Any
    span: Span
    replaced: Bound | None = None


@dataclass(frozen=True, slots=True)
class Closure:
    """A component or record with some of its parameters (and inputs) given. Defaults are worked out on use, so that
    one that depends on another parameter follows an override of it."""

    declaration: t.Component | t.RecordOf
    module: Module
    arguments: Mapping[str, Bound]
    inputs: Mapping[str, Bound] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.declaration.name


@dataclass(frozen=True, slots=True)
class DetectorValue:
    """A detector before it is elaborated: its model and its fields."""

    declaration: t.Detector
    model: Closure
    fields: Mapping[str, Bound]


@dataclass(frozen=True, slots=True)
class Function:
    """A static function: a lambda, a `let` with parameters, or one that is built in."""

    name: str
    call: Callable[[list[Any], dict[str, Any], Span], Any]


class Poisoned(Exception):
    """An expression depends on one that failed and was reported: nothing more is to be said."""


class Poison:
    """The value of what failed."""

    def __repr__(self) -> str:
        return "poison"


POISON = Poison()


def identity(value: Any) -> Hashable:
    """What makes two static values mean the same, wherever each was written."""
    match value:
        case Closure():
            arguments = sorted((name, identity(bound.value)) for name, bound in value.arguments.items())
            return id(value.declaration), tuple(arguments)
        case Pyramid() | Bundle():
            return type(value).__name__, tuple((key, identity(item)) for key, item in value.entries.items())
        case tuple():
            return tuple(identity(item) for item in value)
        case Function() | Tensor() | DetectorValue():
            return id(value)
    return type(value).__name__, value


def describe(value: Any) -> str:
    """A value as a diagnostic names it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f'the string "{value[:40]}"'
        case Tensor():
            return ("a feature" if value.type.is_feature else "a tensor") + f" ({value.type})"
        case Levels():
            return f"levels {levels_text(value.items)}"
        case Pyramid():
            return f"a pyramid with levels {levels_text(tuple(value.entries))}"
        case Bundle():
            return f"a bundle of {', '.join(value.entries)}"
        case Closure():
            kind = value.declaration.kind if isinstance(value.declaration, t.Component) else "record"
            return f"the {kind} {value.name}"
        case DetectorValue():
            return f"the detector {value.declaration.name}"
        case Function():
            return f"the function {value.name}"
        case tuple():
            return f"a list of {len(value)}"
    return f"the number {value}"


def levels_text(items: tuple[int, ...]) -> str:
    """3..7, or 3, 5."""
    if not items:
        return "(none)"
    if len(items) > 1 and items[-1] - items[0] + 1 == len(items):
        return f"{items[0]}..{items[-1]}"
    return ", ".join(str(i) for i in items)


def tensors(value: Any) -> tuple[Tensor, ...]:
    """One tensor, or those of a list or pyramid, in order."""
    if isinstance(value, Tensor):
        return (value,)
    items = value.entries.values() if isinstance(value, Pyramid) else value
    return tuple(x for item in items for x in tensors(item))


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Value]]:
    """All tensors of a value with the way to each."""
    match value:
        case Tensor():
            yield path, value.value
        case Pyramid() | Bundle():
            for key, item in value.entries.items():
                yield from leaves(item, (*path, key))
        case tuple():
            for index, item in enumerate(value):
                yield from leaves(item, (*path, index))
