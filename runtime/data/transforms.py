"""Resizing, cropping, mirroring and padding, and what pixels become.

Each class has the name and the fields of its record in `specs/lib/data.det`, here and in the other files of transforms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detc.compiler.emit.letterbox import Letterbox
from detc.runtime.data.affine import Affine
from detc.runtime.data.images import MOST_PIXELS
from detc.runtime.data.records import require
from detc.runtime.data.samples import Sample

DIRECTIONS = ("horizontal", "vertical")
# The least factor of a random change of size: below it, little is left of an image.
LEAST_FACTOR = 0.01

Colour = tuple[float, float, float]


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
    return sample.moved(image, Affine((new[0] / width, new[1] / height)))


def fit_inside(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """The largest width and height within `size` (width, height) of the same ratio, rounded half up.

    In whole numbers, since exported detectors do it too, some in engines without double precision.
    """
    if size[0] * height <= size[1] * width:
        return size[0], max(1, (2 * height * size[0] + width) // (2 * width))
    return max(1, (2 * width * size[1] + height) // (2 * height)), size[1]


def scale_inside(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample scaled to the largest size within `size` (width, height) that keeps its ratio."""
    return scale_to(sample, fit_inside(*sample.size, size), keep_ratio=False)


def cut_out(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
    """A window of a sample. Objects of which less than a pixel is left in it are gone."""
    window = sample.image[top : top + height, left : left + width]
    return sample.moved(window, Affine(shift=(-float(left), -float(top))), least=1.0)


def filled(size: tuple[int, int], value: Colour) -> np.ndarray:
    """An image of `size` (width, height) of one colour, given as red, green, blue."""
    row = np.full((size[0], 3), np.round(value[::-1]), np.uint8)
    return np.repeat(row[None], size[1], axis=0)  # a row at a time, not a pixel


def framed(sample: Sample, size: tuple[int, int], left: int, top: int, value: Colour) -> Sample:
    """The sample in a larger image of one colour, `left` and `top` pixels from its border."""
    width, height = sample.size
    image = filled(size, value)
    image[top : top + height, left : left + width] = sample.image
    region = (left, top, left + width, top + height)
    return sample.moved(image, Affine(shift=(float(left), float(top))), region=region)


def mirrored(sample: Sample, direction: str) -> Sample:
    """The sample mirrored, "horizontal" (left to right) or "vertical"."""
    width, height = sample.size
    if direction == "horizontal":
        return sample.moved(cv2.flip(sample.image, 1), Affine((-1.0, 1.0), (float(width), 0.0)))
    return sample.moved(cv2.flip(sample.image, 0), Affine((1.0, -1.0), (0.0, float(height))))


def require_size(size: tuple[int, ...], field: str) -> None:
    """Raises SettingError unless a field is the width and height of an image."""
    fine = len(size) == 2 and all(isinstance(side, int) and 1 <= side <= 16384 for side in size)
    require(fine, field, "must be [width, height] with sides from 1 to 16384 pixels")


def require_range(ends: tuple[float, ...], field: str, least: float, greatest: float) -> None:
    """Raises SettingError unless a field is the ends of a range within others."""
    fine = len(ends) == 2 and least <= ends[0] <= ends[1] <= greatest
    require(fine, field, f"must be [least, greatest], from {least:g} to {greatest:g}")


def require_probability(value: float, field: str) -> None:
    """Raises SettingError unless a field is a probability."""
    require(0 <= value <= 1, field, "must be from 0 to 1")


def require_colour(value: tuple[float, ...], field: str) -> None:
    """Raises SettingError unless a field is the red, green and blue of a pixel."""
    fine = len(value) == 3 and all(0 <= part <= 255 for part in value)
    require(fine, field, "must be [red, green, blue], each from 0 to 255")


@dataclass(frozen=True)
class Resize:
    size: tuple[int, int]
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        require_size(self.size, "size")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return scale_to(sample, self.size, self.keep_ratio)


@dataclass(frozen=True)
class RandomResize:
    size: tuple[int, int]
    ratio: tuple[float, float] = (0.8, 1.2)
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        require_size(self.size, "size")
        require_range(self.ratio, "ratio", LEAST_FACTOR, 10)

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
            require_size(tuple(size), "sizes")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = self.sizes[int(rng.integers(len(self.sizes)))]
        return scale_to(sample, (width, height), self.keep_ratio)


@dataclass(frozen=True)
class RangeResize:
    smallest: tuple[int, int]
    largest: tuple[int, int]
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        require_size(self.smallest, "smallest")
        require_size(self.largest, "largest")
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
        require_size(self.size, "size")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = min(self.size[0], sample.size[0]), min(self.size[1], sample.size[1])
        room = (sample.size[0] - width, sample.size[1] - height)
        cropped = cut_out(sample, int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)), width, height)
        if len(sample.boxes) and not len(cropped.boxes):
            x1, y1, x2, y2 = sample.boxes[int(rng.integers(len(sample.boxes)))]
            left = math.floor(rng.uniform(x1, x2) - width / 2)
            top = math.floor(rng.uniform(y1, y2) - height / 2)
            cropped = cut_out(sample, min(max(left, 0), room[0]), min(max(top, 0), room[1]), width, height)
        return cropped


@dataclass(frozen=True)
class RangeCrop:
    smallest: tuple[int, int]
    largest: tuple[int, int]

    def __post_init__(self) -> None:
        require_size(self.smallest, "smallest")
        require_size(self.largest, "largest")
        fine = all(least <= most for least, most in zip(self.smallest, self.largest, strict=True))
        require(fine, "largest", "must not be below `smallest`")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        ends = zip(sample.size, self.smallest, self.largest, strict=True)
        width, height = (int(rng.integers(min(side, least), min(side, most) + 1)) for side, least, most in ends)
        return RandomCrop((width, height))(sample, rng)


@dataclass(frozen=True)
class RandomFlip:
    probability: float = 0.5
    direction: str = "horizontal"

    def __post_init__(self) -> None:
        require_probability(self.probability, "probability")
        require(self.direction in DIRECTIONS, "direction", 'must be "horizontal" or "vertical"')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        return mirrored(sample, self.direction)


@dataclass(frozen=True)
class Pad:
    size: tuple[int, int] | None = None
    multiple: int = 1
    value: Colour = (114.0, 114.0, 114.0)

    def __post_init__(self) -> None:
        if self.size is not None:
            require_size(self.size, "size")
        require(1 <= self.multiple <= 4096, "multiple", "must be from 1 to 4096 pixels")
        require_colour(self.value, "value")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sides = zip(sample.size, self.size or (1, 1), strict=True)
        width, height = (-(-max(side, least) // self.multiple) * self.multiple for side, least in sides)
        return sample if (width, height) == sample.size else framed(sample, (width, height), 0, 0, self.value)


@dataclass(frozen=True)
class Expand:
    ratio: tuple[float, float] = (1.0, 4.0)
    value: Colour = (123.675, 116.28, 103.53)
    probability: float = 0.5

    def __post_init__(self) -> None:
        require_range(self.ratio, "ratio", 1, 10)
        require_colour(self.value, "value")
        require_probability(self.probability, "probability")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        width, height = sample.size
        ratio = min(rng.uniform(*self.ratio), max(1.0, math.sqrt(MOST_PIXELS / (width * height))))
        left = int(rng.uniform(0, width * ratio - width))
        top = int(rng.uniform(0, height * ratio - height))
        return framed(sample, (int(width * ratio), int(height * ratio)), left, top, self.value)


@dataclass(frozen=True)
class Normalize(Letterbox):
    def __post_init__(self) -> None:
        require(len(self.mean) == 3, "mean", "must have three numbers, one a channel")
        require(len(self.std) == 3 and min(self.std) > 0, "std", "must have three numbers above 0, one a channel")
        require(self.order in ("rgb", "bgr"), "order", 'must be "rgb" or "bgr"')

    def __call__(self, image: np.ndarray, into: np.ndarray) -> None:
        """Writes the image's normalised pixels into the top left of `into`, a (3, H, W) float32 array."""
        height, width = image.shape[:2]
        for plane, target, mean, scale in zip(self.planes(image), into, self.means, self.scales, strict=True):
            pixels = target[:height, :width]
            np.subtract(plane, mean, out=pixels, dtype=np.float32)
            pixels *= scale

    def planes(self, image: np.ndarray) -> Sequence[np.ndarray]:
        """The planes (h, w) of an image (h, w, 3) in blue, green, red, in this one's order."""
        planes = cv2.split(image)
        return [planes[channel] for channel in self.channels]
