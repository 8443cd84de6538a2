"""Annotated images laid on one another, and what is seen there of their objects.

Masks go through a detector's data as they were annotated, polygons as polygons and run lengths as run lengths. A sample
keeps, of each image that it is made of, the map from there to here and what of it is in sight; an object's mask says on
which of these layers it lies and what was put over it. It becomes pixels once, at the size that the detector sees and
in a window around the object. So a polygon loses nothing to a change of size or a turn, an object that crops have lost
is never drawn, and an image of two thousand objects costs their own areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detc.runtime.data.affine import Affine
from detc.runtime.data.masks import Mask, MaskWindow, Size, draw_mask

# Left, top, right and lower end of a part of an image, in pixels.
Region = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """An annotated image in another, to which `place` takes its pixels.

    Of it, what lies in `frame` is in sight: a convex polygon (P, 2) float64 in pixels of the other; nothing, if P is 0.
    """

    place: Affine
    frame: np.ndarray

    @classmethod
    def whole(cls, size: Size) -> Layer:
        """An image of `size` (width, height), as it is."""
        width, height = size
        return cls(Affine(), np.asarray([[0, 0], [width, 0], [width, height], [0, height]], np.float64))

    def moved(self, place: Affine, region: Region) -> Layer:
        """This layer after its image went where `place` says, of which `region` is in sight."""
        return Layer(self.place.then(place), _cut(place.points(self.frame), region))


@dataclass(frozen=True, slots=True)
class PlacedMask:
    """The mask of an object on one of a sample's layers, without what masks that were put over it cover."""

    mask: Mask
    layer: int = 0
    hidden_by: tuple[PlacedMask, ...] = ()

    def higher(self, layers: int) -> PlacedMask:
        """This mask where its sample's layers come after so many others."""
        if not layers:
            return self
        hidden_by = tuple(mask.higher(layers) for mask in self.hidden_by)
        return PlacedMask(self.mask, self.layer + layers, hidden_by)

    def under(self, covers: Sequence[PlacedMask]) -> PlacedMask:
        """This mask with others put over it."""
        return replace(self, hidden_by=(*self.hidden_by, *covers))


def draw_masks(masks: Sequence[PlacedMask], layers: Sequence[Layer], size: Size) -> tuple[MaskWindow, ...]:
    """The pixels that are seen of each mask, in an image of `size` (width, height) that is made of `layers`."""
    drawn: dict[int, MaskWindow] = {}

    def draw(placed: PlacedMask) -> MaskWindow:
        if id(placed) not in drawn:
            layer = layers[placed.layer]
            window = draw_mask(placed.mask, layer.place, size)
            _hide_outside(window, layer.frame)
            for cover in placed.hidden_by:
                hide(window, draw(cover))
            drawn[id(placed)] = window
        return drawn[id(placed)]

    return tuple(draw(placed) for placed in masks)


def hide(window: MaskWindow, cover: MaskWindow) -> None:
    """Takes out of a mask's pixels those that another covers."""
    left, top = max(window.x, cover.x), max(window.y, cover.y)
    right = min(window.x + window.pixels.shape[1], cover.x + cover.pixels.shape[1])
    bottom = min(window.y + window.pixels.shape[0], cover.y + cover.pixels.shape[0])
    if left < right and top < bottom:
        over = cover.pixels[top - cover.y : bottom - cover.y, left - cover.x : right - cover.x]
        window.pixels[top - window.y : bottom - window.y, left - window.x : right - window.x][over > 0] = 0


def _hide_outside(window: MaskWindow, frame: np.ndarray) -> None:
    """Takes out of a mask's pixels those whose centre is not in a convex polygon (P, 2)."""
    if len(frame) < 3:
        window.pixels[...] = 0
        return
    height, width = window.pixels.shape
    x, y = np.arange(window.x, window.x + width) + 0.5, np.arange(window.y, window.y + height) + 0.5
    turn = _turn(frame)
    for (ax, ay), (bx, by) in zip(frame, np.roll(frame, -1, 0), strict=True):
        # Linear in x and y: what holds of the window's four corners holds within.
        across, down = turn * (bx - ax) * (y - ay), turn * (by - ay) * (x - ax)
        if across.min() < down.max():
            window.pixels[across[:, None] < down[None, :]] = 0


def _turn(polygon: np.ndarray) -> float:
    """1 where the corners of a polygon (P, 2) go round as the axes turn, x to y, and -1 the other way."""
    x, y = polygon.T
    return float(np.sign(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def _cut(polygon: np.ndarray, region: Region) -> np.ndarray:
    """What a region leaves of a convex polygon (P, 2): one side of the region after the other cuts it.

    Sutherland and Hodgman, Communications of the ACM, 1974.
    """
    for axis, sign, limit in ((0, 1, region[0]), (1, 1, region[1]), (0, -1, region[2]), (1, -1, region[3])):
        if not len(polygon):
            break
        depth = sign * (polygon[:, axis] - limit)
        if (depth >= 0).all():
            continue
        corners = []
        for here, there, a, b in zip(polygon, np.roll(polygon, -1, 0), depth, np.roll(depth, -1), strict=True):
            if a >= 0:
                corners.append(here)
            if (a < 0) != (b < 0):
                corners.append(here + (there - here) * (a / (a - b)))
        polygon = np.asarray(corners, np.float64).reshape(-1, 2)
    return polygon
