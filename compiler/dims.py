"""Dimensions of tensors: whole numbers, or expressions over the batch and the image's size.

Spatial sizes are chains of convolutions, poolings and resizings of the image's height H or width W. A chain of
convolutions and poolings is always floor((H + a) / s), which is kept as that one form, so that most equal sizes are
equal objects. What remains (a size scaled up again, a product of height and width) is compared by value, at every
remainder that the image's size can leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd, lcm
from typing import Literal

Operator = Literal["var", "+", "*", "//", "min", "at most"]


@dataclass(frozen=True, slots=True)
class Dim:
    """An expression; build it with the functions below, which simplify."""

    operator: Operator
    operands: tuple[Dim | int | str, ...]

    def __str__(self) -> str:
        return _text(self)


Size = Dim | int

N = Dim("var", ("N",))
H = Dim("var", ("H",))
W = Dim("var", ("W",))
# Of the truth given for training, the number of objects; and the bytes of their masks.
G = Dim("var", ("G",))
M = Dim("var", ("M",))
# The number of proposals, where those are an input.
P = Dim("var", ("P",))
_VARIABLES = "NHWGPM"


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


def at_most(a: Size) -> Size:
    """A size that is known only when the graph runs, and at most `a`."""
    return Dim("at most", (a,))


def evaluate(dim: Size, n: int, h: int, w: int, g: int = 0, p: int = 1000, m: int = 0) -> int:
    """The value for a batch of n images of h x w pixels, with at most g objects, whose masks have m bytes, and p given
    proposals an image. Of a size that is not known before the graph runs, the greatest."""
    return dim if isinstance(dim, int) else _function(dim)(n, h, w, g, p, m)


@cache
def equal(a: Size, b: Size, divisor: int = 1) -> bool:
    """Whether a and b are equal for all images whose height and width are multiples of `divisor`.

    A size is linear on every residue class of its period, the least common multiple of what it divides by, so that two
    images of each class decide. Sizes whose period is beyond any detector's count as different.
    """
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    form, other = _floor_form(a), _floor_form(b)
    if form is not None and other is not None and form[0] == other[0] and form[2] == other[2]:
        # With g the common divisor, x = g k and s = g t, floor((x + a) / s) is floor((k + floor(a / g)) / t).
        common = gcd(divisor, form[2])
        return form[1] // common == other[1] // common
    period = _period(a, b)
    if period > _MAXIMUM_PERIOD:
        return False
    sweep = [divisor * k for k in range(1, 2 * (period // gcd(period, divisor)) + 1)]
    # Where a size is the smaller of two, one side decides for small images and the other for large ones.
    large = divisor * 4 * _MAXIMUM_PERIOD
    probes: list[tuple[int, ...]] = [(1, x, y, 1) for x in sweep for y in (divisor, large)]
    probes += [(1, y, x, 1) for x in sweep for y in (divisor, large)]
    probes += [(n, large, large + divisor, g, p, 7 * p) for n, p in ((1, 5), (2, 1), (5, 3)) for g in (0, 1, 3)]
    return all(evaluate(a, *probe) == evaluate(b, *probe) for probe in probes)


_MAXIMUM_PERIOD = 2**14


def _floor_form(size: Size) -> tuple[Dim, int, int] | None:
    """(x, a, s) where the size is floor((x + a) / s) of a variable x; None where it is not of that form."""
    added, divisor = 0, 1
    if isinstance(size, Dim) and size.operator == "//":
        inner, by = size.operands
        assert isinstance(by, int) and not isinstance(inner, str)
        size, divisor = inner, by
    if isinstance(size, Dim) and size.operator == "+" and len(size.operands) == 2:
        inner, constant = size.operands
        if isinstance(constant, int) and not isinstance(inner, str):
            size, added = inner, constant
    if isinstance(size, Dim) and size.operator == "var":
        return size, added, divisor
    return None


def _period(*sizes: Size) -> int:
    """What a variable may be moved by so that all divisions leave the same remainders."""
    return lcm(*(d for size in sizes for d in _divisors(size)))


def _divisors(size: Size | str) -> set[int]:
    """Products of what is divided by on the way to each variable."""
    if not isinstance(size, Dim):
        return {1}
    found: set[int] = set().union(*(_divisors(o) for o in size.operands))
    if size.operator == "//":
        return {d * int(str(size.operands[1])) for d in found}
    return found


def divisor_for(a: Size, b: Size) -> int | None:
    """The least divisor of the image's height and width that makes a and b equal; None if none does."""
    period = _period(a, b)
    if period > _MAXIMUM_PERIOD:
        return None
    return next((d for d in range(1, period + 1) if period % d == 0 and equal(a, b, d)), None)


@cache
def _function(dim: Dim) -> Callable[..., int]:
    """The expression as a function of the variables' values."""
    operands = dim.operands
    if dim.operator == "var":
        index = _VARIABLES.index(str(operands[0]))
        return lambda *values: values[index]
    parts = [(lambda *_, v=o: v) if isinstance(o, int) else _function(o) for o in operands]
    if dim.operator == "+":
        return lambda *v: sum(p(*v) for p in parts)
    if dim.operator == "at most":
        return parts[0]
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
        case "at most":
            return f"at_most({operands[0]})"
        case "//":
            inner, divisor = operands
            if isinstance(inner, Dim) and inner.operator == "+" and inner.operands[1:] == (int(str(divisor)) - 1,):
                return f"ceil({inner.operands[0]}/{divisor})"
            return f"floor({inner}/{divisor})"
