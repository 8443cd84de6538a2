"""Transforms that make an image of several. Each has the name and the fields of its record in `specs/lib/data.det`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from detc.dsl.catalogue.data import MASKS_MISSING
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.affine import Affine
from detc.runtime.data.layers import draw_masks, hide
from detc.runtime.data.masks import MaskWindow
from detc.runtime.data.records import require
from detc.runtime.data.samples import Another, Sample
from detc.runtime.data.transforms import (
    LEAST_FACTOR,
    Colour,
    cut_out,
    filled,
    framed,
    mirrored,
    require_colour,
    require_probability,
    require_range,
    require_size,
    scale_inside,
    scale_to,
)

GREY = (114.0, 114.0, 114.0)
BLACK = (0.0, 0.0, 0.0)
# How often MixUp draws an image until one shows an object.
_DRAWS = 15


@dataclass(frozen=True)
class Mosaic:
    size: tuple[int, int] = (640, 640)
    center: tuple[float, float] = (0.5, 1.5)
    value: Colour = GREY
    probability: float = 1.0

    def __post_init__(self) -> None:
        require_size(self.size, "size")
        require(max(self.size) <= 8192, "size", "must have sides of at most 8192 pixels: the mosaic is twice as large")
        require_range(self.center, "center", 0, 2)
        require_colour(self.value, "value")
        require_probability(self.probability, "probability")

    def __call__(self, sample: Sample, rng: np.random.Generator, another: Another) -> Sample:
        if rng.random() >= self.probability:
            return sample
        width, height = 2 * self.size[0], 2 * self.size[1]
        x, y = (int(rng.uniform(*self.center) * side) for side in self.size)
        image = filled((width, height), self.value)
        mosaic = None
        for part, (is_right, is_lower) in enumerate(((False, False), (True, False), (False, True), (True, True))):
            tile = scale_inside(another() if part else sample, self.size)
            left, top = x if is_right else x - tile.size[0], y if is_lower else y - tile.size[1]
            x1, y1, x2, y2 = region = (
                max(left, 0),
                max(top, 0),
                min(left + tile.size[0], width),
                min(top + tile.size[1], height),
            )
            image[y1:y2, x1:x2] = tile.image[y1 - top : y2 - top, x1 - left : x2 - left]
            placed = tile.moved(image, Affine(shift=(float(left), float(top))), least=1.0, region=region)
            mosaic = placed if mosaic is None else mosaic.joined(image, placed)
        assert mosaic is not None
        return mosaic


@dataclass(frozen=True)
class MixUp:
    size: tuple[int, int] = (640, 640)
    ratio: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    value: Colour = GREY
    probability: float = 1.0

    def __post_init__(self) -> None:
        require_size(self.size, "size")
        require_range(self.ratio, "ratio", LEAST_FACTOR, 10)
        require_probability(self.flip, "flip")
        require_colour(self.value, "value")
        require_probability(self.probability, "probability")

    def __call__(self, sample: Sample, rng: np.random.Generator, another: Another) -> Sample:
        if rng.random() >= self.probability:
            return sample
        for _ in range(_DRAWS):
            other = another()
            if len(other.boxes):
                break
        else:
            return sample
        other = framed(scale_inside(other, self.size), self.size, 0, 0, self.value)
        factor = rng.uniform(*self.ratio)
        width, height = (max(1, int(side * factor)) for side in self.size)
        other = scale_to(other, (width, height), keep_ratio=False)
        if rng.random() < self.flip:
            other = mirrored(other, "horizontal")
        larger = max(width, sample.size[0]), max(height, sample.size[1])
        if larger != (width, height):
            other = framed(other, larger, 0, 0, BLACK)
        left, top = (int(rng.integers(side - least + 1)) for side, least in zip(larger, sample.size, strict=True))
        other = cut_out(other, left, top, *sample.size)
        return sample.joined(cv2.addWeighted(sample.image, 0.5, other.image, 0.5, 0), other)


@dataclass(frozen=True)
class CopyPaste:
    most: int = 100
    visible: int = 300
    shift: float = 10.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(1 <= self.most <= 10_000, "most", "must be from 1 to 10000 objects")
        require(0 <= self.visible <= 10_000_000, "visible", "must be from 0 to 10000000 pixels")
        require(0 <= self.shift <= 16384, "shift", "must be from 0 to 16384 pixels")
        require_probability(self.probability, "probability")

    def __call__(self, sample: Sample, rng: np.random.Generator, another: Another) -> Sample:
        """Raises DiagnosticError masks-missing where the samples have none."""
        if rng.random() >= self.probability:
            return sample
        width, height = sample.size
        other = another()
        other = cut_out(other, 0, 0, min(width, other.size[0]), min(height, other.size[1]))
        chosen = rng.choice(len(other.boxes), int(rng.integers(min(self.most, len(other.boxes)) + 1)), replace=False)
        other = other.kept(np.sort(chosen))
        if sample.masks is None or other.masks is None:
            raise DiagnosticError(MASKS_MISSING.at(None, "CopyPaste needs the objects by their masks"))
        windows = draw_masks(other.masks, other.layers, other.size)
        seen = np.asarray([window.pixels.any() for window in windows], bool)
        other, windows = other.kept(seen), tuple(window for window in windows if window.pixels.any())
        image = sample.image.copy()
        for window in windows:
            rows, columns = _place(window)
            np.copyto(image[rows, columns], other.image[rows, columns], where=window.pixels[..., None] > 0)
        return self._under(sample, windows, other).joined(image, other)

    def _under(self, sample: Sample, windows: tuple[MaskWindow, ...], other: Sample) -> Sample:
        """The sample's objects under those pasted over them, whose pixels are `windows`."""
        assert sample.masks is not None and other.masks is not None
        covers = tuple(mask.higher(len(sample.layers)) for mask in other.masks)
        boxes, masks, alive = sample.boxes.copy(), list(sample.masks), np.ones(len(sample.boxes), bool)
        for number, window in enumerate(draw_masks(sample.masks, sample.layers, sample.size)):
            before = int(window.pixels.sum())
            for cover in windows:
                hide(window, cover)
            left = int(window.pixels.sum())
            if left == before:
                continue
            masks[number] = masks[number].under(covers)
            if left:
                boxes[number] = _bounds(window)
            stays = np.abs(boxes[number] - sample.boxes[number]).max() <= self.shift or left > self.visible
            alive[number] = left > 0 and stays
        return replace(sample, boxes=boxes, masks=tuple(masks)).kept(alive)


def _place(window: MaskWindow) -> tuple[slice, slice]:
    """The rows and columns of an image that a mask's window covers."""
    height, width = window.pixels.shape
    return slice(window.y, window.y + height), slice(window.x, window.x + width)


def _bounds(window: MaskWindow) -> tuple[float, float, float, float]:
    """The box around a mask's pixels."""
    columns, rows = np.flatnonzero(window.pixels.any(0)), np.flatnonzero(window.pixels.any(1))
    return window.x + columns[0], window.y + rows[0], window.x + columns[-1] + 1, window.y + rows[-1] + 1
