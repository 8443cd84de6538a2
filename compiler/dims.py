"""Dimensions of tensors: whole numbers, or expressions over the batch and the image's size.

Spatial sizes are chains of convolutions, poolings and resizings of the image's height H or width W. A chain of
convolutions and poolings is always floor((H + a) / s), which is kept as that one form, so that most equal sizes are
equal objects. What remains (a size scaled up again, a product of height and width) is compared by value at many
image sizes: these functions are piecewise linear or products of such, so agreement at all of them is agreement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import lcm
from typing import Literal

Operator = Literal["var", "+", "*", "//", "min"]


@dataclass(frozen=True, slots=True)
class Dim:
    """An expression; build it with the functions below, which simplify."""

    operator: Operator
    operands: tuple[Dim | int | str, ...]

    def __str__(self) -> str:
        return _text(self)

    def __add__(self, other: Dim | int) -> Dim | int:
        return add(self, other)

    __radd__ = __add__

    def __mul__(self, other: Dim | int) -> Dim | int:
        return mul(self, other)

    __rmul__ = __mul__

    def __sub__(self, other: int) -> Dim | int:
        return add(self, -other)

    def __floordiv__(self, other: int) -> Dim | int:
        return floordiv(self, other)


Size = Dim | int

N = Dim("var", ("N",))
H = Dim("var", ("H",))
W = Dim("var", ("W",))
# The number of objects, of the truth given for training.
G = Dim("var", ("G",))


def add(a: Size, b: Size) -> Size:
    """a + b."""
    if isinstance(a, int):
        a, b = b, a
    if isinstance(a, int):
        assert isinstance(b, int)
        return a + b
    if isinstance(b, int):
        if b == 0:
            return a
        if a.operator == "+" and isinstance(a.operands[-1], int):
            rest = Dim("+", a.operands[:-1]) if len(a.operands) > 2 else a.operands[0]
            assert not isinstance(rest, str)
            return add(rest, a.operands[-1] + b)
        if a.operator == "//":
            inner, divisor = a.operands
            assert not isinstance(inner, str) and isinstance(divisor, int)
            return floordiv(add(inner, b * divisor), divisor)
        return Dim("+", (a, b))
    terms = _operands("+", a) + _operands("+", b)
    constant = sum(t for t in terms if isinstance(t, int))
    symbolic = tuple(t for t in terms if not isinstance(t, int))
    return Dim("+", (*symbolic, constant) if constant else symbolic)


def mul(a: Size, b: Size) -> Size:
    """a * b."""
    if isinstance(b, int):
        a, b = b, a
    if isinstance(a, int):
        if isinstance(b, int):
            return a * b
        if a in (0, 1):
            return b if a else 0
        if b.operator == "*" and isinstance(b.operands[0], int):
            scaled = a * b.operands[0]
            return Dim("*", (scaled, *b.operands[1:]))
        if b.operator == "*":
            return Dim("*", (a, *b.operands))
        return Dim("*", (a, b))
    factors = _operands("*", a) + _operands("*", b)
    constant = 1
    for factor in factors:
        if isinstance(factor, int):
            constant *= factor
    return mul(constant, Dim("*", tuple(f for f in factors if not isinstance(f, int))))


def _operands(operator: Operator, dim: Dim | int) -> tuple[Dim | int | str, ...]:
    """What `operator` joins in `dim`: its operands, or `dim` alone."""
    return dim.operands if isinstance(dim, Dim) and dim.operator == operator else (dim,)


def floordiv(a: Size, b: int) -> Size:
    """floor(a / b), with b > 0."""
    if b == 1:
        return a
    if isinstance(a, int):
        return a // b
    if a.operator == "//":
        inner, divisor = a.operands
        assert not isinstance(inner, str) and isinstance(divisor, int)
        return floordiv(inner, divisor * b)
    if a.operator == "*" and isinstance(a.operands[0], int) and a.operands[0] % b == 0:
        return mul(a.operands[0] // b, a.operands[1] if len(a.operands) == 2 else Dim("*", a.operands[1:]))  # type: ignore[arg-type]
    return Dim("//", (a, b))


def minimum(a: Size, b: Size) -> Size:
    """The smaller of the two."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a == b else Dim("min", (a, b))


def evaluate(dim: Size, n: int, h: int, w: int, g: int = 0) -> int:
    """The value for a batch of n images of h x w pixels (with g objects at most, for training)."""
    return dim if isinstance(dim, int) else _function(dim)(n, h, w, g)


def equal(a: Size, b: Size, divisor: int = 1) -> bool:
    """Whether a and b are equal for all images whose height and width are multiples of `divisor`."""
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    return all(
        evaluate(a, n, divisor * h, divisor * w, g) == evaluate(b, n, divisor * h, divisor * w, g)
        for n, h, w, g in _PROBES
    )


def divisor_for(a: Size, b: Size, limit: int = 4096) -> int | None:
    """The least divisor of the image's size, a power of two times at most 3, that makes a and b equal; None if none
    does."""
    divisor = 1
    while divisor <= limit:
        if equal(a, b, divisor):
            return divisor
        divisor *= 2
    return 3 if equal(a, b, 3) else None


def join_divisors(a: int, b: int) -> int:
    """The divisor that serves both."""
    return lcm(a, b)


# Sizes at which symbolic dimensions are compared: odd, even and prime, with height and width independent.
_PROBES = [(1, 1, 2, 3), (2, 3, 5, 1), (3, 7, 4, 2), (1, 12, 9, 5), (2, 31, 17, 7), (5, 64, 37, 1), (1, 113, 96, 4)]


@cache
def _function(dim: Dim) -> Callable[[int, int, int, int], int]:
    """The expression as a function of (n, h, w, g)."""
    operands = dim.operands
    if dim.operator == "var":
        index = "NHWG".index(str(operands[0]))
        return lambda *values: values[index]
    parts = [(lambda *_, v=o: v) if isinstance(o, int) else _function(o) for o in operands]
    if dim.operator == "+":
        return lambda *v: sum(p(*v) for p in parts)
    if dim.operator == "//":
        return lambda *v: parts[0](*v) // parts[1](*v)
    if dim.operator == "min":
        return lambda *v: min(p(*v) for p in parts)

    def product(*values: int) -> int:
        result = 1
        for part in parts:
            result *= part(*values)
        return result

    return product


@cache
def _text(dim: Dim) -> str:
    operands = dim.operands
    match dim.operator:
        case "var":
            return str(operands[0])
        case "+":
            text = " + ".join(str(o) for o in operands)
            return f"({text})".replace("+ -", "- ")
        case "*":
            return "*".join(str(o) for o in operands)
        case "min":
            return f"min({operands[0]}, {operands[1]})"
        case "//":
            inner, divisor = operands
            if isinstance(inner, Dim) and inner.operator == "+" and inner.operands[1:] == (int(str(divisor)) - 1,):
                return f"ceil({inner.operands[0]}/{divisor})"
            return f"floor({inner}/{divisor})"
