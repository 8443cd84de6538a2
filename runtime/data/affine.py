"""Where the pixels of an image go: maps that scale, mirror and shift each axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[float, float]


@dataclass(frozen=True)
class Affine:
    """Takes (x, y) to (scale[0] * x + shift[0], scale[1] * y + shift[1]), in pixels; a negative scale mirrors."""

    scale: Pair = (1.0, 1.0)
    shift: Pair = (0.0, 0.0)

    def then(self, scale: Pair, shift: Pair) -> Affine:
        """This map followed by another."""
        (a, b), (x, y) = self.scale, self.shift
        return Affine((a * scale[0], b * scale[1]), (x * scale[0] + shift[0], y * scale[1] + shift[1]))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2), moved."""
        moved: np.ndarray = points * np.asarray(self.scale, points.dtype) + np.asarray(self.shift, points.dtype)
        return moved

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (G, 4) of x1, y1, x2, y2, moved, their corners in order again where an axis is mirrored."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        return np.concatenate([corners.min(1), corners.max(1)], 1)

    def sources(self, start: int, stop: int, axis: int, size: int) -> np.ndarray:
        """The pixels of an axis with `size` pixels that lie at the centres of the pixels from `start` to `stop`."""
        centres = (np.arange(start, stop) + 0.5 - self.shift[axis]) / self.scale[axis]
        return np.clip(np.floor(centres).astype(np.int64), 0, size - 1)
