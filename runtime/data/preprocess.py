"""From images to the batch an engine takes, and from its boxes back to the images. The one place that does either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from detc.compiler.emit.letterbox import Letterbox
from detc.runtime.data.affine import Affine
from detc.runtime.data.layers import Layer
from detc.runtime.data.masks import RunLengths, paste_masks
from detc.runtime.data.samples import Sample, clip_boxes
from detc.runtime.data.transforms import Normalize, Resize, scale_inside


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, by falling score.

    `boxes` (K, 4) float32 are x1, y1, x2, y2 in pixels of the image as it was given, within it; `scores` (K,) float32;
    `classes` (K,) int64, all 0 from a detector that tells none apart. `masks` are the objects' pixels, of a detector
    that finds those: run lengths over the image, which `detc.runtime.data.masks.bitmap` makes pixels of.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: tuple[RunLengths, ...] | None = None

    def above(self, score: float) -> Self:
        """Those with at least this score."""
        kept = self.scores >= score
        masks = self.masks and tuple(mask for mask, stays in zip(self.masks, kept, strict=True) if stays)
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], classes=self.classes[kept], masks=masks)


@dataclass(frozen=True)
class Placement:
    """Where an image went: its own width and height, those it was scaled to in the top left of the batch, and whether
    it is mirrored there, left to right."""

    original: tuple[int, int]
    scaled: tuple[int, int]
    mirrored: bool = False

    @property
    def layer(self) -> Layer:
        """The original image, as it lies in the batch."""
        across, down = self.scaled[0] / self.original[0], self.scaled[1] / self.original[1]
        place = Affine((-across, down), (float(self.scaled[0]), 0.0)) if self.mirrored else Affine((across, down))
        return Layer.whole(self.original).moved(place, (0, 0, *self.scaled))

    @property
    def unscaled(self) -> Placement:
        """That of the same image where boxes are in its own pixels already."""
        return Placement(self.original, self.original)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (K, 4) in pixels of the batch, as pixels of the original image, cut at its border."""
        factors = np.asarray([self.original[0] / self.scaled[0], self.original[1] / self.scaled[1]] * 2, np.float32)
        placed = boxes.astype(np.float32) * factors
        if self.mirrored:
            placed[:, [2, 0]] = np.float32(self.original[0]) - placed[:, [0, 2]]
        return clip_boxes(placed, *self.original)


@dataclass(frozen=True)
class Preprocess:
    """Scaling, normalising and padding, as a spec's data says; with `mirrored`, mirrored too, left to right.

    Batches are padded to a multiple of `multiple` pixels, or, for an engine of fixed size, to `fixed` (width, height),
    into which images are fitted keeping their ratio.
    """

    resize: Resize
    normalize: Normalize
    multiple: int
    fixed: tuple[int, int] | None = None
    mirrored: bool = False

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Placement]]:
        """The batch (N, 3, H, W) float32 of images (h, w, 3) uint8 in blue, green, red, and where each went."""
        rng = np.random.default_rng(0)  # Resize draws nothing
        nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        scaled = [self._resize()(Sample(image, *nothing), rng).image for image in images]
        placements = [
            Placement((image.shape[1], image.shape[0]), (small.shape[1], small.shape[0]), self.mirrored)
            for image, small in zip(images, scaled, strict=True)
        ]
        if self.mirrored:
            scaled = [small[:, ::-1] for small in scaled]
        least = self.fixed or (1, 1)
        return pad_batch(scaled, self.normalize, 1 if self.fixed else self.multiple, least), placements

    @classmethod
    def fitting(cls, letterbox: Letterbox, height: int, width: int) -> Self:
        """What exported detectors do of themselves with pixels: for comparing them with others."""
        normalize = Normalize(letterbox.mean, letterbox.std, letterbox.order)
        return cls(Resize((width, height)), normalize, 1, fixed=(width, height))

    def _resize(self) -> Resize | _FitInside:
        return _FitInside(self.fixed) if self.fixed else self.resize

    @staticmethod
    def detections(outputs: dict[str, np.ndarray], placements: Sequence[Placement]) -> list[Detections]:
        """What an engine returned for a batch, per image.

        That is "boxes" (N, K, 4) and "scores" (N, K), of detectors that tell classes apart "classes" (N, K), and of
        those that find masks "masks" (N, K, h, w), the probability of the object in h x w cells of its box.
        """
        found = []
        classes = outputs.get("classes")
        for row, placement in enumerate(placements):
            present = outputs["scores"][row] > 0
            if classes is not None:
                present &= classes[row] >= 0
            boxes = placement.back(outputs["boxes"][row][present])
            labels = np.zeros(len(boxes), np.int64) if classes is None else classes[row][present]
            masks = None
            if "masks" in outputs:
                cells = outputs["masks"][row][present]
                cells = cells[..., ::-1] if placement.mirrored else cells
                masks = tuple(paste_masks(cells, boxes, placement.original))
            found.append(Detections(boxes, outputs["scores"][row][present], labels, masks))
        return found


@dataclass(frozen=True)
class _FitInside:
    """Scales to the largest size within (width, height)."""

    size: tuple[int, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return scale_inside(sample, self.size)


def pad_batch(
    images: Sequence[np.ndarray], normalize: Normalize, multiple: int, least: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """Images (h, w, 3) uint8 as one (N, 3, H, W) float32 batch: each normalised, zeros to its right and below.

    H and W are those of `padded_size`.
    """
    width, height = padded_size(images, multiple, least)
    batch = np.zeros((len(images), 3, height, width), np.float32)
    for image, into in zip(images, batch, strict=True):
        normalize(image, into)
    return batch


def padded_size(images: Sequence[np.ndarray], multiple: int, least: tuple[int, int]) -> tuple[int, int]:
    """The width and height of a batch: multiples of `multiple`, at least those of every image and of `least`."""
    height = max(least[1], *(image.shape[0] for image in images))
    width = max(least[0], *(image.shape[1] for image in images))
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple
