"""What transforms take and give: an image with its objects.

Images are (height, width, 3) uint8 arrays in OpenCV's channel order (blue, green, red); boxes are (G, 4) float32 arrays
of x1, y1, x2, y2 in pixels, where a box over the whole of an image is 0, 0, width, height.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from detc.runtime.data.affine import Affine
from detc.runtime.data.layers import Layer, PlacedMask, Region
from detc.runtime.data.masks import Mask


@dataclass(frozen=True)
class Sample:
    """An image with its boxes (G, 4) and their class numbers (G,) int64.

    `masks` are those of the boxes' objects, or None where none are wanted. `layers` are the annotated images that it is
    made of, several where images were joined; the masks refer to them.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: tuple[PlacedMask, ...] | None = None
    layers: tuple[Layer, ...] = ()

    @classmethod
    def annotated(
        cls, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, masks: tuple[Mask, ...] | None = None
    ) -> Sample:
        """An image as its annotation has it."""
        placed = None if masks is None else tuple(PlacedMask(mask) for mask in masks)
        return cls(image, boxes, labels, placed, (Layer.whole((image.shape[1], image.shape[0])),))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image."""
        return self.image.shape[1], self.image.shape[0]

    def kept(self, rows: np.ndarray) -> Sample:
        """This sample with some of its objects: those of these row numbers, or where this (G,) is true."""
        numbers = np.arange(len(self.boxes))[rows]
        masks = None if self.masks is None else tuple(self.masks[number] for number in numbers)
        return replace(self, boxes=self.boxes[rows], labels=self.labels[rows], masks=masks)

    def moved(self, image: np.ndarray, place: Affine, least: float = 0.0, region: Region | None = None) -> Sample:
        """This sample with another image, to which its pixels went as `place` says.

        Boxes are cut at the border of the image, or of the `region` where the pixels are, and objects are gone if a
        side of theirs is below `least` pixels.
        """
        height, width = image.shape[:2]
        left, top, right, bottom = region = region or (0, 0, width, height)
        moved = place.boxes(self.boxes)
        boxes = np.clip(moved, np.asarray((left, top) * 2, moved.dtype), np.asarray((right, bottom) * 2, moved.dtype))
        alive = (boxes[:, 2] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 1] >= least)
        layers = tuple(layer.moved(place, region) for layer in self.layers)
        return Sample(image, boxes, self.labels, self.masks, layers).kept(alive)

    def joined(self, image: np.ndarray, other: Sample) -> Sample:
        """An image that shows the objects of this sample and of another, both in its pixels."""
        masks = None
        if self.masks is not None and other.masks is not None:
            masks = (*self.masks, *(mask.higher(len(self.layers)) for mask in other.masks))
        return Sample(
            image,
            np.concatenate([self.boxes, other.boxes]),
            np.concatenate([self.labels, other.labels]),
            masks,
            (*self.layers, *other.layers),
        )


class Transform(Protocol):
    """Makes a sample of a sample; everything random comes from the generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


# Draws another training image, through the transforms that come before the first that joins images.
Another = Callable[[], Sample]


class Joining(Protocol):
    """A transform that makes a sample of several."""

    def __call__(self, sample: Sample, rng: np.random.Generator, another: Another) -> Sample: ...


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (G, 4) cut at an image's border."""
    clipped: np.ndarray = np.clip(boxes, 0, np.asarray([width, height, width, height], boxes.dtype))
    return clipped
