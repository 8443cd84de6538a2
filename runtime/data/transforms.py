"""What happens to an image and its objects before a detector sees them.

Each class has the name and the fields of its record in `specs/lib/data.det`. Images are (height, width, 3) uint8 arrays
in OpenCV's channel order (blue, green, red); boxes are (G, 4) float32 arrays of x1, y1, x2, y2 in pixels, where a box
over the whole of an image is 0, 0, width, height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np

from detc.runtime.data.affine import Affine, Pair
from detc.runtime.data.masks import Mask
from detc.runtime.data.records import require

DIRECTIONS = ("horizontal", "vertical")


@dataclass(frozen=True)
class Sample:
    """An image with its boxes (G, 4) and their class numbers (G,) int64.

    `masks` are those of the boxes' objects, in pixels of the image as annotated, or None where none are wanted; `place`
    is the map from there to this image.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: tuple[Mask, ...] | None = None
    place: Affine = field(default_factory=Affine)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image."""
        return self.image.shape[1], self.image.shape[0]

    def moved(self, image: np.ndarray, scale: Pair, shift: Pair, least: float = 0.0) -> Sample:
        """This sample with another image, to which its pixels went as `Affine(scale, shift)` says.

        Boxes are cut at the image's border, and their objects are gone if a side is below `least` pixels.
        """
        height, width = image.shape[:2]
        boxes = clip_boxes(Affine(scale, shift).boxes(self.boxes), width, height)
        alive = (boxes[:, 2] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 1] >= least)
        masks = self.masks and tuple(mask for mask, stays in zip(self.masks, alive, strict=True) if stays)
        return Sample(image, boxes[alive], self.labels[alive], masks, self.place.then(scale, shift))


class Transform(Protocol):
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (G, 4) cut at an image's border."""
    clipped: np.ndarray = np.clip(boxes, 0, np.asarray([width, height, width, height], boxes.dtype))
    return clipped


def fit(width: int, height: int, size: tuple[int, int], keep_ratio: bool) -> tuple[int, int]:
    """The width and height to which `Resize(size, keep_ratio)` scales an image of the given width and height."""
    if not keep_ratio:
        return size
    scale = min(max(size) / max(width, height), min(size) / min(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def scale_to(sample: Sample, size: tuple[int, int], keep_ratio: bool) -> Sample:
    """The sample scaled, bilinearly, as `Resize` says."""
    width, height = sample.size
    new = fit(width, height, size, keep_ratio)
    image = sample.image if new == (width, height) else cv2.resize(sample.image, new, interpolation=cv2.INTER_LINEAR)
    return sample.moved(image, (new[0] / width, new[1] / height), (0.0, 0.0))


def _require_size(size: tuple[int, ...], field: str) -> None:
    fine = len(size) == 2 and all(isinstance(side, int) and 1 <= side <= 16384 for side in size)
    require(fine, field, "must be [width, height] with sides from 1 to 16384 pixels")


@dataclass(frozen=True)
class Resize:
    size: tuple[int, int]
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        _require_size(self.size, "size")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return scale_to(sample, self.size, self.keep_ratio)


@dataclass(frozen=True)
class RandomResize:
    size: tuple[int, int]
    ratio: tuple[float, float] = (0.8, 1.2)
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        _require_size(self.size, "size")
        fine = len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1] <= 10
        require(fine, "ratio", "must be [least, greatest], above 0 and at most 10")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = rng.uniform(*self.ratio)
        size = (max(1, int(self.size[0] * factor)), max(1, int(self.size[1] * factor)))
        return scale_to(sample, size, self.keep_ratio)


@dataclass(frozen=True)
class ChoiceResize:
    sizes: tuple[tuple[int, int], ...]
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        require(len(self.sizes) > 0, "sizes", "must have at least one [width, height]")
        for size in self.sizes:
            require(isinstance(size, tuple | list), "sizes", "must be a list of [width, height]")
            _require_size(tuple(size), "sizes")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = self.sizes[int(rng.integers(len(self.sizes)))]
        return scale_to(sample, (width, height), self.keep_ratio)


@dataclass(frozen=True)
class RangeResize:
    smallest: tuple[int, int]
    largest: tuple[int, int]
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        _require_size(self.smallest, "smallest")
        _require_size(self.largest, "largest")
        fine = max(self.smallest) <= max(self.largest) and min(self.smallest) <= min(self.largest)
        require(fine, "largest", "must not be below `smallest`")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        longer = int(rng.integers(max(self.smallest), max(self.largest) + 1))
        shorter = int(rng.integers(min(self.smallest), min(self.largest) + 1))
        return scale_to(sample, (longer, shorter), self.keep_ratio)


@dataclass(frozen=True)
class RandomCrop:
    size: tuple[int, int]

    def __post_init__(self) -> None:
        _require_size(self.size, "size")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = min(self.size[0], sample.size[0]), min(self.size[1], sample.size[1])
        room = (sample.size[0] - width, sample.size[1] - height)
        cropped = self._cut(sample, int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)), width, height)
        if len(sample.boxes) and not len(cropped.boxes):
            x1, y1, x2, y2 = sample.boxes[int(rng.integers(len(sample.boxes)))]
            left = math.floor(rng.uniform(x1, x2) - width / 2)
            top = math.floor(rng.uniform(y1, y2) - height / 2)
            cropped = self._cut(sample, min(max(left, 0), room[0]), min(max(top, 0), room[1]), width, height)
        return cropped

    @staticmethod
    def _cut(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
        window = sample.image[top : top + height, left : left + width]
        return sample.moved(window, (1.0, 1.0), (-float(left), -float(top)), least=1.0)


@dataclass(frozen=True)
class RandomFlip:
    probability: float = 0.5
    direction: str = "horizontal"

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "probability", "must be from 0 to 1")
        require(self.direction in DIRECTIONS, "direction", 'must be "horizontal" or "vertical"')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        width, height = sample.size
        if self.direction == "horizontal":
            return sample.moved(cv2.flip(sample.image, 1), (-1.0, 1.0), (float(width), 0.0))
        return sample.moved(cv2.flip(sample.image, 0), (1.0, -1.0), (0.0, float(height)))


TRANSFORMS = (Resize, RandomResize, ChoiceResize, RangeResize, RandomCrop, RandomFlip)


@dataclass(frozen=True)
class Normalize:
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"

    def __post_init__(self) -> None:
        require(len(self.mean) == 3, "mean", "must have three numbers, one a channel")
        require(len(self.std) == 3 and min(self.std) > 0, "std", "must have three numbers above 0, one a channel")
        require(self.order in ("rgb", "bgr"), "order", 'must be "rgb" or "bgr"')

    def __call__(self, image: np.ndarray, into: np.ndarray) -> None:
        """Writes the image's normalised pixels into the top left of `into`, a (3, H, W) float32 array."""
        height, width = image.shape[:2]
        for channel in range(3):
            target = into[channel, :height, :width]
            target[...] = image[..., 2 - channel if self.order == "rgb" else channel]
            target -= np.float32(self.mean[channel])
            target *= np.float32(1 / self.std[channel])
