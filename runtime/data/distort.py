"""Distorting an image: its colours, windows that heed its objects, and affine maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from detc.runtime.data.affine import Affine
from detc.runtime.data.records import require
from detc.runtime.data.samples import Sample
from detc.runtime.data.transforms import (
    LEAST_FACTOR,
    Colour,
    cut_out,
    require_colour,
    require_range,
)

# Rows whose colours are changed at a time: the whole of an image in single precision would be fresh memory, which costs
# more than the arithmetic.
_ROWS = 32
# How often MinIoURandomCrop draws a window before it draws another overlap.
_WINDOWS = 50


@dataclass(frozen=True)
class PhotometricDistortion:
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0

    def __post_init__(self) -> None:
        require(0 <= self.brightness <= 255, "brightness", "must be from 0 to 255")
        require_range(self.contrast, "contrast", 0, 10)
        require_range(self.saturation, "saturation", 0, 10)
        require(0 <= self.hue <= 180, "hue", "must be from 0 to 180 degrees")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        contrast_first, brighten, contrast, saturate, turn, swap = rng.integers(2, size=6).astype(bool).tolist()
        delta = rng.uniform(-self.brightness, self.brightness)
        factor = rng.uniform(*self.contrast)
        saturation, hue = rng.uniform(*self.saturation), rng.uniform(-self.hue, self.hue)
        order = rng.permutation(3).tolist()

        def changed(part: np.ndarray) -> np.ndarray:
            image = part.astype(np.float32)
            if brighten:
                image += np.float32(delta)
            if contrast and contrast_first:
                image *= np.float32(factor)
            if saturate or turn:
                colours = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
                if saturate:
                    colours[..., 1] *= np.float32(saturation)
                if turn:
                    angles = colours[..., 0]
                    angles += np.float32(hue)
                    angles[angles >= 360] -= 360
                    angles[angles < 0] += 360
                image = cv2.cvtColor(colours, cv2.COLOR_HSV2BGR)
            if contrast and not contrast_first:
                image *= np.float32(factor)
            pixels = cv2.add(image, 0, dtype=cv2.CV_8U)  # rounds, and cuts to 0 to 255
            return cv2.merge([cv2.extractChannel(pixels, channel) for channel in order]) if swap else pixels

        pixels = np.empty_like(sample.image)
        for top in range(0, len(pixels), _ROWS):
            pixels[top : top + _ROWS] = changed(sample.image[top : top + _ROWS])
        return replace(sample, image=pixels)


@dataclass(frozen=True)
class MinIoURandomCrop:
    ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    smallest: float = 0.3

    def __post_init__(self) -> None:
        fine = 1 <= len(self.ious) <= 20 and all(0 <= iou <= 1 for iou in self.ious)
        require(fine, "ious", "must be one to twenty numbers from 0 to 1")
        require(0.01 <= self.smallest <= 1, "smallest", "must be from 0.01 to 1")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = sample.size
        modes = (None, *self.ious, 0.0)
        while (least := modes[int(rng.integers(len(modes)))]) is not None:
            for _ in range(_WINDOWS):
                across, down = (rng.uniform(self.smallest * side, side) for side in (width, height))
                if not 0.5 <= down / across <= 2:
                    continue
                x, y = rng.uniform(0, width - across), rng.uniform(0, height - down)
                left, top, right, bottom = window = int(x), int(y), int(x + across), int(y + down)
                if left == right or top == bottom:
                    continue
                if not len(sample.boxes):
                    return cut_out(sample, left, top, right - left, bottom - top)
                if _overlaps(sample.boxes, window).min() < least:
                    continue
                centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
                inside = ((centres > (left, top)) & (centres < (right, bottom))).all(1)
                if inside.any():
                    return cut_out(sample.kept(inside), left, top, right - left, bottom - top)
        return sample


def _overlaps(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The IoU of boxes (G, 4) with a window, (G,)."""
    sides = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    common = sides.clip(0).prod(1)
    area = (window[2] - window[0]) * (window[3] - window[1])
    overlaps: np.ndarray = common / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + area - common)
    return overlaps


@dataclass(frozen=True)
class RandomAffine:
    rotation: float = 10.0
    translation: float = 0.1
    scaling: tuple[float, float] = (0.5, 1.5)
    shear: float = 2.0
    border: tuple[int, int] = (0, 0)
    value: Colour = (114.0, 114.0, 114.0)

    def __post_init__(self) -> None:
        require(0 <= self.rotation <= 180, "rotation", "must be from 0 to 180 degrees")
        require(0 <= self.translation <= 1, "translation", "must be from 0 to 1, a share of the image")
        require_range(self.scaling, "scaling", LEAST_FACTOR, 10)
        require(0 <= self.shear <= 40, "shear", "must be from 0 to 40 degrees")
        fine = len(self.border) == 2 and all(-16384 <= side <= 4096 for side in self.border)
        require(fine, "border", "must be [right and left, above and below], from -16384 to 4096 pixels")
        require_colour(self.value, "value")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = (max(1, side + 2 * more) for side, more in zip(sample.size, self.border, strict=True))
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        factor = rng.uniform(*self.scaling)
        across, down = (math.tan(math.radians(rng.uniform(-self.shear, self.shear))) for _ in range(2))
        shift = (
            rng.uniform(-self.translation, self.translation) * width,
            rng.uniform(-self.translation, self.translation) * height,
        )
        turn = Affine((math.cos(angle), math.cos(angle)), (0.0, 0.0), (-math.sin(angle), math.sin(angle)))
        place = Affine((factor, factor)).then(turn).then(Affine(shear=(across, down))).then(Affine(shift=shift))
        # OpenCV counts from the centre of the first pixel.
        between_centres = Affine(shift=(0.5, 0.5)).then(place).then(Affine(shift=(-0.5, -0.5)))
        image = cv2.warpAffine(
            sample.image,
            between_centres.matrix(),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=tuple(round(part) for part in self.value[::-1]),
        )
        return sample.moved(image, place, least=1.0)
