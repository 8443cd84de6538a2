"""The functions that are built into the language, and what numbers they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from detc.compiler import dims
from detc.compiler.dims import Dim
from detc.compiler.scope import Function, Levels, Pyramid, Tensor, describe
from detc.dsl.source import Span


class BadArgument(Exception):
    """A built-in function cannot take what it is given; the message says why."""


def is_number(value: Any) -> bool:
    """Whether a value is a number (truth values are not)."""
    return isinstance(value, int | float | Fraction) and not isinstance(value, bool)


def entries(value: Any) -> Any:
    """What is counted of a list, or of a pyramid."""
    return value.entries if isinstance(value, Pyramid) else value


def _numbers(values: list[Any], count: int | None = None) -> list[Any]:
    if count is not None and len(values) != count:
        raise BadArgument(f"takes {count} values and is given {len(values)}")
    for value in values:
        if not is_number(value):
            raise BadArgument(f"takes numbers, and {describe(value)} is not one")
    return values


def _minimum(values: list[Any]) -> Any:
    flat = list(values[0]) if len(values) == 1 and isinstance(values[0], tuple) else values
    if not flat:
        raise BadArgument("takes at least one value")
    if any(isinstance(v, Dim) for v in flat):
        result = flat[0]
        for value in flat[1:]:
            if not isinstance(value, int | Dim):
                raise BadArgument("takes whole numbers beside sizes")
            result = dims.minimum(result, value)
        return result
    return min(_numbers(flat))


def _maximum(values: list[Any]) -> Any:
    flat = list(values[0]) if len(values) == 1 and isinstance(values[0], tuple) else values
    if not flat:
        raise BadArgument("takes at least one value")
    return max(_numbers(flat))


def _at_most(values: list[Any]) -> Any:
    if len(values) != 1 or not isinstance(values[0], int | Dim) or isinstance(values[0], bool):
        raise BadArgument("takes one size")
    return dims.at_most(values[0])


def _length(values: list[Any]) -> Any:
    if len(values) == 1 and isinstance(values[0], tuple | Levels | Pyramid | str):
        value = values[0]
        return len(value.items if isinstance(value, Levels) else entries(value))
    raise BadArgument("takes a list, levels or a pyramid")


def _reversed(values: list[Any]) -> Any:
    if len(values) == 1 and isinstance(values[0], Levels | tuple):
        return Levels(values[0].items[::-1]) if isinstance(values[0], Levels) else values[0][::-1]
    raise BadArgument("takes levels or a list")


def _total(values: list[Any]) -> Any:
    if len(values) == 1 and isinstance(values[0], tuple):
        return sum(_numbers(list(values[0])))
    raise BadArgument("takes a list of numbers")


def _joined(values: list[Any]) -> Any:
    """The shape of tensors joined along an axis."""
    if len(values) != 2 or not isinstance(values[0], tuple) or not isinstance(values[1], int):
        raise BadArgument("takes a list of tensors and an axis")
    tensors, axis = values
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise BadArgument("takes a list of tensors and an axis")
    if not tensors:
        raise BadArgument("there is nothing to join")
    shapes = [tensor.type.shape for tensor in tensors]
    if not 0 <= axis < len(shapes[0]):
        raise BadArgument(f"there is no axis {axis} in {tensors[0].type}")
    for shape in shapes[1:]:
        if len(shape) != len(shapes[0]) or any(
            not dims.equal(a, b) for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
        ):
            raise BadArgument(f"the shapes differ beside axis {axis}: {', '.join(str(x.type) for x in tensors)}")
    length: Any = 0
    for shape in shapes:
        length = dims.add(length, shape[axis])
    return tuple(length if i == axis else d for i, d in enumerate(shapes[0]))


def _rounding(function: Any) -> Any:
    return lambda values: int(function(_numbers(values, 1)[0]))


def _sqrt(values: list[Any]) -> Any:
    number = _numbers(values, 1)[0]
    if number < 0:
        raise BadArgument("the number is negative")
    return math.sqrt(number)


def _log2(values: list[Any]) -> Any:
    number = _numbers(values, 1)[0]
    if number <= 0:
        raise BadArgument("the number is not positive")
    return math.log2(number)


def _built_in(name: str, compute: Callable[[list[Any]], Any]) -> Function:
    def call(values: list[Any], named: dict[str, Any], span: Span) -> Any:
        if named:
            raise BadArgument(f"takes no argument by name, such as {next(iter(named))}")
        return compute(values)

    return Function(name, call)


BUILTINS: Mapping[str, Function] = {
    name: _built_in(name, compute)
    for name, compute in {
        "min": _minimum,
        "max": _maximum,
        "at_most": _at_most,
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
