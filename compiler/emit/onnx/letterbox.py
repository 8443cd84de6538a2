"""Pixels of any size into a detector's image, and its boxes back (`emit.letterbox`), in standard operators.

Of the pixels' height and width nothing depends but what is read of them: every tensor made of them has the size of the
detector's image, and the padding is made zero at the end. Integers stay below 2^31, since some engines have no others,
for images of less than 2^30 / max(H, W) pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from detc.compiler.emit.letterbox import ONE, Letterbox

if TYPE_CHECKING:
    from detc.compiler.emit.onnx.model import Builder


@dataclass(frozen=True)
class Fit:
    """Tensors that say how images are scaled, (N, 1) int64 each: heights and widths as given, and scaled."""

    given: tuple[str, str]
    fitted: tuple[str, str]


def fit(b: Builder, sizes: str, height: int, width: int) -> Fit:
    """How images whose heights and widths are `sizes` (N, 2) are scaled into height x width."""
    # No size is below one: nothing may be divided by zero.
    least = b.apply("Max", sizes, b.integers(1))
    rows, columns = (b.apply("Gather", least, b.integers(axis), axis=1) for axis in (0, 1))
    high, wide, one = (b.integers(side) for side in (height, width, 1))

    def rounded(side: str, by: str, over: str) -> str:
        twice = b.apply("Mul", b.apply("Mul", side, by), b.integers(2))
        return str(b.apply("Max", one, b.apply("Div", b.apply("Add", twice, over), b.apply("Add", over, over))))

    by_width = b.apply("LessOrEqual", b.apply("Mul", wide, rows), b.apply("Mul", high, columns))
    fitted = (
        b.apply("Where", by_width, rounded(rows, wide, columns), high),
        b.apply("Where", by_width, wide, rounded(columns, high, rows)),
    )
    return Fit((rows, columns), fitted)


def image(b: Builder, pixels: str, how: Fit, letterbox: Letterbox, shape: tuple[int, int, int, int]) -> str:
    """The image of `shape` (N, 3, H, W) float32, normalised, that pixels (N, h, w, 3) uint8 become."""
    n, _, height, width = shape
    above, below, down = _neighbours(b, how.given[0], how.fitted[0], height)
    left, right, across = _neighbours(b, how.given[1], how.fitted[1], width)
    lines = b.apply("Concat", above, below, axis=1)
    # Images have neighbours of their own: they are read one by one.
    found = []
    for index in range(n):
        place = b.integers(index)
        read = b.apply("Gather", b.apply("Gather", pixels, place, axis=0), _row(b, lines, place), axis=1)
        found.append([b.apply("Gather", read, _row(b, columns, place), axis=2) for columns in (left, right)])
    before, after = (_joined(b, sides, (n, 2 * height, width * 3)) for sides in zip(*found, strict=True))
    share = _repeated(b, across, (n, 1, width * 3))
    mixed = b.apply("Add", b.apply("Mul", before, _rest(b, share)), b.apply("Mul", after, share))
    mixed = b.apply("Div", mixed, b.constant(16, np.int32))
    upper, lower = b.apply("Split", mixed, b.integers(height, height), outputs=2, axis=1)
    share = b.apply("Reshape", down, b.integers(n, height, 1))
    upper, lower = (
        b.apply("Div", b.apply("Mul", line, counts), b.constant(65536, np.int32))
        for line, counts in ((upper, _rest(b, share)), (lower, share))
    )
    total = b.apply("Add", b.apply("Add", upper, lower), b.constant(2, np.int32))
    value = b.apply("Cast", b.apply("Div", total, b.constant(4, np.int32)), to=TensorProto.FLOAT)
    means, scales = (np.tile(values[list(letterbox.channels)], width) for values in (letterbox.means, letterbox.scales))
    # What is multiplied with 1 keeps every bit.
    inside = _repeated(b, _within(b, how.fitted[1], width), (n, 1, width * 3))
    value = b.apply("Mul", b.apply("Sub", value, b.constant(means)), b.apply("Mul", inside, b.constant(scales)))
    inside = b.apply("Reshape", _within(b, how.fitted[0], height), b.integers(n, height, 1))
    value = b.apply("Reshape", b.apply("Mul", value, inside), b.integers(n, height, width, 3))
    planes = b.apply("Transpose", value, perm=[0, 3, 1, 2])
    return str(b.apply("Gather", planes, b.integers(*letterbox.channels), axis=1))


def back(b: Builder, boxes: str, how: Fit) -> str:
    """Boxes (N, K, 4) in the detector's image as pixels of the images given, cut at their borders."""

    def sides(pair: Sequence[str]) -> str:
        return str(b.apply("Cast", b.apply("Concat", *pair[::-1], *pair[::-1], axis=1), to=TensorProto.DOUBLE))

    factor = b.apply("Cast", b.apply("Div", sides(how.given), sides(how.fitted)), to=TensorProto.FLOAT)
    most = b.apply("Unsqueeze", b.apply("Cast", sides(how.given), to=TensorProto.FLOAT), b.integers(1))
    placed = b.apply("Mul", boxes, b.apply("Unsqueeze", factor, b.integers(1)))
    return str(b.apply("Max", b.apply("Min", placed, most), b.constant(0.0)))


def _neighbours(b: Builder, source: str, target: str, length: int) -> tuple[str, str, str]:
    """Of each pixel of an axis the pixels of `source` that it lies between, (N, length) int64, and how much the latter
    counts, int32. Beyond `target`, where nothing is shown, pixels that are there."""
    whole = b.apply("Add", target, target)
    # Never below -whole: as if moved up by one.
    moved = b.apply("Add", b.apply("Mul", b.constant(2 * np.arange(length) + 1, np.int64), source), target)
    after = b.apply("Div", moved, whole)
    rest = b.apply("Sub", moved, b.apply("Mul", after, whole))
    floor = b.apply("Sub", after, b.integers(1))
    part = b.apply("Div", *(b.apply("Cast", each, to=TensorProto.DOUBLE) for each in (rest, whole)))
    at = b.apply("Add", b.apply("Cast", floor, to=TensorProto.DOUBLE), part)
    part = b.apply("Sub", *(b.apply("Cast", each, to=TensorProto.FLOAT) for each in (at, floor)))
    share = b.apply("Cast", b.apply("Round", b.apply("Mul", part, b.constant(float(ONE)))), to=TensorProto.INT32)
    last = b.apply("Sub", source, b.integers(1))
    before = b.apply("Min", b.apply("Max", floor, b.integers(0)), last)
    return before, b.apply("Min", after, last), share


def _row(b: Builder, table: str, place: str) -> str:
    """One row of a table (N, L), as (L,)."""
    return str(b.apply("Squeeze", b.apply("Gather", table, place, axis=0), b.integers(0)))


def _joined(b: Builder, images: Sequence[str], shape: tuple[int, ...]) -> str:
    """The pixels of all images as int32, of this shape."""
    whole = b.apply("Concat", *images, axis=0)
    return str(b.apply("Cast", b.apply("Reshape", whole, b.integers(*shape)), to=TensorProto.INT32))


def _repeated(b: Builder, table: str, shape: tuple[int, int, int]) -> str:
    """A table (N, W) with each value three times in a row, as `shape` (N, 1, 3 W)."""
    n, _, length = shape
    each = b.apply("Reshape", table, b.integers(n, length // 3, 1))
    return str(b.apply("Reshape", b.apply("Concat", each, each, each, axis=2), b.integers(*shape)))


def _rest(b: Builder, share: str) -> str:
    return str(b.apply("Sub", b.constant(ONE, np.int32), share))


def _within(b: Builder, target: str, length: int) -> str:
    """Which pixels of an axis are not padding, (N, length) float32."""
    inside = b.apply("Less", b.constant(np.arange(length), np.int64), target)
    return str(b.apply("Cast", inside, to=TensorProto.FLOAT))
