"""Where the pixels of an image go: maps that scale, mirror, turn, shear and shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[float, float]


@dataclass(frozen=True)
class Affine:
    """Takes (x, y) to (scale[0] * x + shear[0] * y + shift[0], shear[1] * x + scale[1] * y + shift[1]), in pixels.

    A negative scale mirrors; a shear of 0 keeps the axes.
    """

    scale: Pair = (1.0, 1.0)
    shift: Pair = (0.0, 0.0)
    shear: Pair = (0.0, 0.0)

    def then(self, other: Affine) -> Affine:
        """This map followed by another."""
        (a, d), (b, c), (x, y) = self.scale, self.shear, self.shift
        (p, s), (q, r) = other.scale, other.shear
        return Affine(
            (p * a + q * c, r * b + s * d),
            (p * x + q * y + other.shift[0], r * x + s * y + other.shift[1]),
            (p * b + q * d, r * a + s * c),
        )

    def inverse(self) -> Affine:
        """The map back. It must not flatten the image."""
        (a, d), (b, c), (x, y) = self.scale, self.shear, self.shift
        determinant = a * d - b * c
        back = Affine((d / determinant, a / determinant), (0.0, 0.0), (-b / determinant, -c / determinant))
        return Affine((1.0, 1.0), (-x, -y)).then(back)

    def matrix(self) -> np.ndarray:
        """The map as (2, 3) float64, which takes (x, y, 1) to its place."""
        (a, d), (b, c), (x, y) = self.scale, self.shear, self.shift
        return np.asarray([[a, b, x], [c, d, y]])

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), moved."""
        kind = points.dtype
        moved: np.ndarray = points * np.asarray(self.scale, kind) + np.asarray(self.shift, kind)
        if any(self.shear):
            moved += points[..., ::-1] * np.asarray(self.shear, kind)
        return moved

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """The boxes (G, 4) of x1, y1, x2, y2 around the moved corners of these."""
        corners = self.points(boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]])
        return np.concatenate([corners.min(1), corners.max(1)], 1)

    def sources(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The column and row (h, w) int64 of the pixel that goes to the centre of each pixel (x (w,), y (h,))."""
        back = self.inverse()
        across, down = x[None, :] + 0.5, y[:, None] + 0.5
        columns = back.scale[0] * across + (back.shear[0] * down + back.shift[0])
        rows = back.shear[1] * across + (back.scale[1] * down + back.shift[1])
        return np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
