"""Convolutions of 3 x 3 with stride 1 for `--target llvm`, by Winograd's minimal filtering: F(m x m, 3 x 3).

A tile of m x m results is found from (m + 2) x (m + 2) pixels with that many products a pair of channels, where the sum
itself takes 9 m x m: 2.25 times fewer for m = 2, 4 times for m = 4 (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016). The transforms follow from the points at which polynomials are evaluated (Toom and Cook); those
of m = 4 are chosen for their rounding, which is a third of that of the points of the paper.

A task takes some tiles: their pixels are transformed into a workspace that stays in the cache; then, for a few output
channels at a time, one matrix product for each of the (m + 2) x (m + 2) places, and back to pixels, with what follows
the convolution applied before they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.tvm.finish import Finish, store
from detc.compiler.emit.tvm.module import real

Matrix = tuple[tuple[Fraction, ...], ...]

_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, Fraction(1, 2), -2)}


@dataclass(frozen=True)
class Scheme:
    """F(m x m, 3 x 3)."""

    m: int

    @property
    def side(self) -> int:
        """Pixels along a tile that is read."""
        return self.m + 2

    @cached_property
    def _points(self) -> tuple[Fraction, ...]:
        return tuple(Fraction(point) for point in _POINTS[self.m])

    @cached_property
    def of_pixels(self) -> Matrix:
        """(m + 2, m + 2): what pixels are multiplied by from the left and, transposed, from the right."""
        rows = [_polynomial([p for p in self._points if p != point]) for point in self._points]
        return tuple(tuple(row + [Fraction(0)] * (self.side - len(row))) for row in [*rows, _polynomial(self._points)])

    @cached_property
    def of_weights(self) -> Matrix:
        """(m + 2, 3), likewise of weights."""
        rows = []
        for point in self._points:
            scale = Fraction(1)
            for other in self._points:
                if other != point:
                    scale *= point - other
            rows.append(tuple(point**power / scale for power in range(3)))
        return (*rows, (Fraction(0), Fraction(0), Fraction(1)))

    @cached_property
    def of_products(self) -> Matrix:
        """(m, m + 2), likewise of products."""
        last = self.m - 1
        return tuple((*(p**power for p in self._points), Fraction(int(power == last))) for power in range(self.m))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, of the lowest power first, of the polynomial with these roots and 1 before its highest power."""
    found = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *found], [*(root * c for c in found), Fraction(0)]
        found = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return found


@dataclass(frozen=True)
class Plan:
    """How a convolution is divided: `tiles` of m x m pixels a task, of which `rows` at a time are summed in registers;
    `parts` of the output channels, each a task of its own; `channels` of them at a time."""

    scheme: Scheme
    tiles: int
    rows: int
    parts: int
    channels: int


# Costs in multiply-adds at full speed, as measured on processors with 512-bit vectors: a pixel or a product
# transformed, by m; a weight read, however few tiles it serves, and of that what the tiles do not hide.
_TRANSFORMED = {2: 12, 4: 40}
_WEIGHT_READ, _WEIGHT_SHARED = 8, 1
# Sums in flight that hide what each waits for the one before; reads in the time of a multiply-add, at most.
_IN_FLIGHT, _READS = 10, 0.65
# Tiles of a task whose pixels stay in the cache, and their bytes.
_MOST_TILES, _MOST_BYTES = 64, 768 << 10
# Tasks that are worth transforming the same pixels again for.
_TASKS = 4


def plan(
    n: int, height: int, width: int, inputs: int, out: int, padding: tuple[int, int], lanes: int, registers: int
) -> Plan | None:
    """How to divide a convolution of n images of height x width pixels, or None where the plain sum is quicker."""
    if inputs % lanes:
        return None
    height, width = height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    plain = 9.0 * n * height * width * inputs * (-(-out // lanes) * lanes)
    best, cost = None, plain
    for m in _POINTS:
        scheme = Scheme(m)
        count = n * -(-height // m) * -(-width // m)
        for vectors in range(1, 5):
            channels = vectors * lanes
            blocks = -(-out // channels)
            for rows in range(4, min((registers - vectors - 1) // vectors, 14) + 1):
                for groups in range(1, 5):
                    tiles = rows * groups
                    held = 4 * scheme.side**2 * tiles * (inputs + channels)
                    if groups > 1 and (tiles > _MOST_TILES or held > _MOST_BYTES):
                        continue
                    tasks = -(-count // tiles)
                    parts = min(-(-_TASKS // tasks), blocks)
                    waits = max(1.0, _IN_FLIGHT / (rows * vectors), (rows + vectors) / (rows * vectors) / _READS)
                    products = tasks * scheme.side**2 * inputs * -(-blocks // parts) * parts * channels
                    found = products * (max(tiles * waits, _WEIGHT_READ) + _WEIGHT_SHARED)
                    transformed = inputs * parts + blocks * channels
                    found += tasks * tiles * scheme.side**2 * transformed * _TRANSFORMED[m]
                    if found < cost:
                        best, cost = Plan(scheme, tiles, rows, parts, channels), found
    return best


def pack(weight: te.Tensor, plan: Plan) -> te.Tensor:
    """Weights (O, I, 3, 3), transformed, as (O / channels, (m + 2)^2, I, channels): in the order in which they are
    read, zeros where the channels end."""
    out, inputs = (int(d) for d in weight.shape[:2])
    matrix, side = plan.scheme.of_weights, plan.scheme.side
    shape = (-(-out // plan.channels), side * side, inputs, plan.channels)

    def loops(ins: Any, outs: Any) -> Any:
        with IRBuilder() as ib:
            (given,) = (T.buffer_proxy(buffer) for buffer in ins)
            (packed,) = (T.buffer_proxy(buffer) for buffer in outs)
            with T.parallel(0, shape[0]) as block, T.serial(0, inputs) as c, T.serial(0, plan.channels) as channel:
                o = block * plan.channels + channel
                half = T.buffer_proxy(T.alloc_buffer((side, 3), "float64", scope="local"))
                with T.If(o < out):
                    with T.Then():
                        for i in range(side):
                            for s in range(3):
                                column = [T.Cast("float64", real(given, o, c, r, s)) for r in range(3)]
                                half[i, s] = _combined(matrix[i], column, "float64")
                        for i in range(side):
                            for j in range(side):
                                value = _combined(matrix[j], [half[i, s] for s in range(3)], "float64")
                                packed[block, i * side + j, c, channel] = T.Cast("float32", value)
                    with T.Else():
                        for place in range(side * side):
                            packed[block, place, c, channel] = T.float32(0)
            return ib.get()

    return te.extern([shape], [weight], loops, dtype=["float32"], name="winograd_weights")


def conv(
    x: te.Tensor,
    packed: te.Tensor,
    others: Sequence[te.Tensor],
    finish: Finish,
    padding: tuple[int, int],
    out: int,
    plan: Plan,
    lanes: int,
    dtype: str,
) -> te.Tensor:
    """The convolution of x (N, H, W, I) with packed weights, as (N, H', W', out), with stride 1.

    `finish` is applied to each value, given `others`, before it is stored as `dtype`.
    """
    return _Conv(x, packed, padding, out, plan, lanes, finish, dtype).emitted([x, packed, *others])


class _Conv:
    """The sizes that the loops below share, and what they read."""

    def __init__(
        self,
        x: te.Tensor,
        packed: te.Tensor,
        padding: tuple[int, int],
        out: int,
        plan: Plan,
        lanes: int,
        finish: Finish,
        dtype: str,
    ) -> None:
        n, self.height, self.width, self.inputs = (int(d) for d in x.shape)
        self.padding, self.plan, self.lanes = padding, plan, lanes
        self.finish, self.dtype = finish, dtype
        self.shape = (n, self.height + 2 * padding[0] - 2, self.width + 2 * padding[1] - 2, out)
        self.m, self.side = plan.scheme.m, plan.scheme.side
        self.down, self.across = (-(-extent // self.m) for extent in self.shape[1:3])
        self.count = n * self.down * self.across
        self.blocks = int(packed.shape[0])
        self.vectors = plan.channels // lanes
        # From one place to the next, a vector more than is used: a power of two apart they would share few lines of
        # the cache.
        self.of_pixels = plan.tiles * self.inputs + lanes
        self.of_products = plan.tiles * plan.channels + lanes

    def emitted(self, given: Sequence[te.Tensor]) -> te.Tensor:
        groups, parts = -(-self.count // self.plan.tiles), self.plan.parts
        each = -(-self.blocks // parts)

        def loops(ins: Any, outs: Any) -> Any:
            with IRBuilder() as ib:
                pixels, weights, *others = (T.buffer_proxy(buffer) for buffer in ins)
                (results,) = (T.buffer_proxy(buffer) for buffer in outs)
                with T.parallel(0, groups * parts) as task:
                    group, part = task // parts, task % parts
                    places, tiles = self.side * self.side, self.plan.tiles
                    seen = _array((places * self.of_pixels,), "global")
                    products = _array((places * self.of_products,), "global")
                    with T.serial(0, tiles) as tile, T.serial(0, self.inputs // self.lanes) as vector:
                        self._transform_pixels(pixels, seen, self._place(group, tile), tile, vector)
                    with T.serial(0, each) as index:
                        block = part * each + index
                        with T.If(block < self.blocks), T.Then():
                            with T.serial(0, places) as place, T.serial(0, tiles // self.plan.rows) as few:
                                self._multiply(seen, weights, products, block, place, few)
                            with T.serial(0, tiles) as tile, T.serial(0, self.vectors) as vector:
                                at = self._place(group, tile)
                                self._transform_products(products, results, others, at, tile, block, vector)
                return ib.get()

        return te.extern([self.shape], list(given), loops, dtype=[self.dtype], name="winograd")

    def _place(self, group: Any, tile: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of a tile's first result. Tasks beyond the last tile do that one again."""
        number = T.min(group * self.plan.tiles + tile, self.count - 1)
        row, column = number // self.across % self.down, number % self.across
        return number // (self.down * self.across), row * self.m, column * self.m

    def _transform_pixels(self, pixels: Any, seen: Any, at: tuple[Any, Any, Any], tile: Any, vector: Any) -> None:
        """A vector of channels of a tile's pixels, zeros outside the image."""
        image, y, v = at
        top, left = y - self.padding[0], v - self.padding[1]
        side, lanes, matrix = self.side, self.lanes, self.plan.scheme.of_pixels
        pixel, half = (_array((side, side, lanes), "local") for _ in range(2))

        def load(i: int, j: int) -> None:
            with T.vectorized(0, lanes) as lane:
                pixel[i, j, lane] = real(pixels, image, top + i, left + j, vector * lanes + lane)

        whole = tirx.all(top >= 0, left >= 0, top + side <= self.height, left + side <= self.width)
        with T.If(whole):
            with T.Then():
                for i, j in product(range(side), repeat=2):
                    load(i, j)
            with T.Else():
                for i, j in product(range(side), repeat=2):
                    row, column = top + i, left + j
                    with T.If(tirx.all(row >= 0, row < self.height, column >= 0, column < self.width)):
                        with T.Then():
                            load(i, j)
                        with T.Else(), T.vectorized(0, lanes) as lane:
                            pixel[i, j, lane] = T.float32(0)
        for i, j in product(range(side), repeat=2):
            with T.vectorized(0, lanes) as lane:
                half[i, j, lane] = _combined(matrix[i], [pixel[k, j, lane] for k in range(side)])
        for i, j in product(range(side), repeat=2):
            with T.vectorized(0, lanes) as lane:
                value = _combined(matrix[j], [half[i, k, lane] for k in range(side)])
                seen[(i * side + j) * self.of_pixels + tile * self.inputs + vector * lanes + lane] = value

    def _multiply(self, seen: Any, weights: Any, products: Any, block: Any, place: Any, few: Any) -> None:
        """A few tiles by a block of output channels, at one place, in registers."""
        rows, lanes = self.plan.rows, self.lanes
        total = _array((rows, self.plan.channels), "local")
        cells = list(product(range(rows), range(self.vectors)))
        for row, vector in cells:
            with T.vectorized(0, lanes) as lane:
                total[row, vector * lanes + lane] = T.float32(0)
        with T.serial(0, self.inputs) as k:
            for row, vector in cells:
                with T.vectorized(0, lanes) as lane:
                    o = vector * lanes + lane
                    term = (
                        seen[place * self.of_pixels + (few * rows + row) * self.inputs + k]
                        * weights[block, place, k, o]
                    )
                    total[row, o] = total[row, o] + term
        for row, vector in cells:
            with T.vectorized(0, lanes) as lane:
                o = vector * lanes + lane
                products[place * self.of_products + (few * rows + row) * self.plan.channels + o] = total[row, o]

    def _transform_products(
        self,
        products: Any,
        results: Any,
        others: Sequence[Any],
        at: tuple[Any, Any, Any],
        tile: Any,
        block: Any,
        vector: Any,
    ) -> None:
        """A vector of output channels of a tile's results, finished and stored: those that are in the feature."""
        image, y, v = at
        m, side, lanes, matrix = self.m, self.side, self.lanes, self.plan.scheme.of_products
        _, oh, ow, _ = self.shape
        half, found = _array((m, side, lanes), "local"), _array((m, m, lanes), "local")
        first = block * self.plan.channels + vector * lanes
        for i, j in product(range(m), range(side)):
            with T.vectorized(0, lanes) as lane:
                o = tile * self.plan.channels + vector * lanes + lane
                column = [products[(k * side + j) * self.of_products + o] for k in range(side)]
                half[i, j, lane] = _combined(matrix[i], column)
        for i, j in product(range(m), repeat=2):
            with T.vectorized(0, lanes) as lane:
                found[i, j, lane] = _combined(matrix[j], [half[i, k, lane] for k in range(side)])

        def put(i: int, j: int) -> None:
            at = (image, y + i, v + j)
            store(results, at, first, lanes, lambda lane: found[i, j, lane], self.finish, others)

        with T.If(tirx.all(y + m <= oh, v + m <= ow)):
            with T.Then():
                for i, j in product(range(m), repeat=2):
                    put(i, j)
            with T.Else():
                for i, j in product(range(m), repeat=2):
                    with T.If(tirx.all(y + i < oh, v + j < ow)), T.Then():
                        put(i, j)


def _array(shape: tuple[int, ...], scope: str) -> Any:
    return T.buffer_proxy(T.alloc_buffer(shape, "float32", scope=scope))


def _combined(factors: Sequence[Fraction], terms: Sequence[Any], dtype: str = "float32") -> Any:
    """The sum of terms with these factors."""
    total = tirx.const(0.0, dtype)
    for factor, term in zip(factors, terms, strict=True):
        if factor:
            size = abs(factor)
            value = term if size == 1 else term * tirx.const(float(size), dtype)
            total = total + value if factor > 0 else total - value
    return total
