"""Masks of objects: read from annotations, moved with their image, pasted from what a detector says of them.

Between the two, `detc.runtime.data.layers` says where they are. A polygon is drawn from its moved corners; a bitmap
takes the nearest pixel, as published training does.

Pixel (i, j) covers x from j to j + 1 and y from i to i + 1. Run lengths count down the columns, from the left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from detc.runtime.data.affine import Affine

# COCO's run lengths: {"size": [height, width], "counts": compressed, bytes}.
RunLengths = dict[str, Any]
Size = tuple[int, int]

# A run length in a compressed string takes so many characters of five bits at most.
_LONGEST = 7
_THRESHOLD = 0.5

# What is wrong with a mask that is not there.
NO_MASK = "without a mask"


class MaskProblem(Exception):
    """Why an annotated mask is none, in words for a count of such objects."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """A mask as the union of polygons, each (P, 2) float64 of x, y in pixels."""

    parts: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A mask as COCO's compressed run lengths over an image of `size` (width, height)."""

    size: Size
    counts: bytes


Mask = Polygons | Bitmap


@dataclass(frozen=True)
class MaskWindow:
    """A mask's pixels (h, w) uint8, 0 or 1, whose left upper one is pixel (x, y) of its image; all others are 0."""

    x: int
    y: int
    pixels: np.ndarray


def read_mask(segmentation: Any, size: Size) -> Mask:
    """The mask that COCO's `segmentation` of an object in an image of `size` (width, height) describes.

    It is a list of polygons, each a flat list of coordinates, or run lengths: {"size": [height, width], "counts": a
    list or a compressed string}. Polygons with fewer than three points cover nothing and are left out beside others.

    Raises:
        MaskProblem: where it is neither, is damaged, or covers nothing.
    """
    if isinstance(segmentation, list):
        return _polygons(segmentation, size)
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    raise MaskProblem(NO_MASK if segmentation is None else "with a mask that is neither polygons nor run lengths")


def _polygons(parts: list[Any], size: Size) -> Polygons:
    if not parts:
        raise MaskProblem(NO_MASK)
    read = []
    for part in parts:
        if not isinstance(part, list) or not all(isinstance(v, int | float) for v in part):
            raise MaskProblem("with a polygon that is no list of numbers")
        if len(part) % 2:
            raise MaskProblem("with a polygon of an odd number of coordinates")
        points = _points(part)
        if not np.isfinite(points).all():
            raise MaskProblem("with a polygon of which a coordinate is not a finite number")
        if len(points) >= 3:
            read.append(points)
    if not read:
        raise MaskProblem("with polygons of fewer than three points")
    every = np.concatenate(read)
    if (every < np.negative(size)).any() or (every > np.multiply(size, 2)).any():
        raise MaskProblem("with a polygon far outside the image")
    beside = (every.max(0) <= 0).any() or (every.min(0) >= size).any()
    if beside or not any(_area(points) for points in read):
        raise MaskProblem("with a mask that covers nothing")
    return Polygons(tuple(read))


def _points(coordinates: list[int | float]) -> np.ndarray:
    try:
        return np.asarray(coordinates, np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number beyond floating point
        return np.full((1, 2), np.inf)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _run_lengths(segmentation: dict[str, Any], size: Size) -> Bitmap:
    width, height = size
    if segmentation.get("size") != [height, width]:
        raise MaskProblem("with run lengths for an image of another size")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        encoded = counts.encode()
        runs = _decompressed(encoded)
    elif isinstance(counts, list) and all(isinstance(v, int) for v in counts):
        runs = np.asarray(counts or [0], dtype=object)
        encoded = b""
    else:
        raise MaskProblem("with run lengths that are neither a list of whole numbers nor a string")
    if (runs < 0).any() or runs.sum() != width * height:
        raise MaskProblem("with run lengths that do not add up to the image")
    if not runs[1::2].sum():
        raise MaskProblem("with a mask that covers nothing")
    if not encoded:
        encoded = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return Bitmap(size, encoded)


def _decompressed(text: bytes) -> np.ndarray:
    """The run lengths of COCO's compressed form.

    Five bits a character, from the lowest, bit 32 saying that another follows and the last giving the sign; from the
    fourth number on, differences to the last but one.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    damaged = not len(last) or last[-1] != len(codes) - 1 or (codes < 0).any() or (codes > 63).any()
    if damaged or (last - first).max() >= _LONGEST:
        raise MaskProblem("with damaged run lengths")
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def draw_mask(mask: Mask, place: Affine, size: Size) -> MaskWindow:
    """A mask's pixels in an image of `size` (width, height) to which `place` takes the image as annotated.

    The window is what the mask and the image share, but never empty: where they share nothing, it is one pixel, 0.
    """
    if isinstance(mask, Polygons):
        parts = [place.points(part) for part in mask.parts]
        every = np.concatenate(parts)
        left, top, right, bottom = _window(every.min(0), every.max(0), size)
        flat = [(part - (left, top)).ravel().tolist() for part in parts]
        pixels = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(flat, bottom - top, right - left)))
        return MaskWindow(left, top, pixels)
    runs = {"size": [mask.size[1], mask.size[0]], "counts": mask.counts}
    x, y, width, height = coco_masks.toBbox(runs)
    (box,) = place.boxes(np.asarray([[x, y, x + width, y + height]]))
    left, top, right, bottom = _window(box[:2], box[2:], size)
    columns, rows = place.sources(np.arange(left, right), np.arange(top, bottom))
    inside = (columns >= 0) & (columns < mask.size[0]) & (rows >= 0) & (rows < mask.size[1])
    pixels = coco_masks.decode(runs)[rows * inside, columns * inside] * inside
    return MaskWindow(left, top, pixels)


def _window(least: np.ndarray, most: np.ndarray, size: Size) -> tuple[int, int, int, int]:
    """The left, upper, right and lower end of the pixels between two points, within an image: at least one pixel."""
    left, top = np.clip(np.floor(least), 0, np.subtract(size, 1)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(most), (left + 1, top + 1), size).astype(int).tolist()
    return left, top, right, bottom


def pack_masks(images: Sequence[Sequence[MaskWindow]], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The masks of a batch's objects as a graph takes them, for batches of at most `most` objects an image.

    Returns `truth_masks` uint8 (M,), the pixels of one window after the other, row by row, and `truth_windows` int64
    (N, most, 5): where each begins there, and its x, y, width and height in pixels of the batch. Rows without an object
    are 0.
    """
    windows = np.zeros((len(images), most, 5), np.int64)
    pixels = [np.zeros(0, np.uint8)]
    offset = 0
    for row, masks in enumerate(images):
        for column, mask in enumerate(masks):
            height, width = mask.pixels.shape
            windows[row, column] = offset, mask.x, mask.y, width, height
            pixels.append(mask.pixels.ravel())
            offset += width * height
    return np.concatenate(pixels), windows


def run_lengths(mask: Mask, size: Size) -> RunLengths:
    """A mask as compressed run lengths over the image of `size` (width, height) that it was annotated in."""
    width, height = size
    if isinstance(mask, Bitmap):
        return {"size": [height, width], "counts": mask.counts}
    flat = [part.ravel().tolist() for part in mask.parts]
    merged: RunLengths = coco_masks.merge(coco_masks.frPyObjects(flat, height, width))
    return merged


def whole_image(size: Size) -> RunLengths:
    """Run lengths that cover an image of `size` (width, height)."""
    return _encoded(np.ones((size[1], size[0]), np.uint8, order="F"))


def no_pixel(size: Size) -> RunLengths:
    """Run lengths that cover nothing of an image of `size` (width, height)."""
    return _encoded(np.zeros((size[1], size[0]), np.uint8, order="F"))


def _encoded(pixels: np.ndarray) -> RunLengths:
    encoded: RunLengths = coco_masks.encode(pixels)
    return encoded


def mask_areas(masks: Sequence[RunLengths]) -> list[int]:
    """How many pixels each of these masks covers."""
    return [int(coco_masks.area(runs)) for runs in masks]  # pycocotools 2.0.11 fails on lists of more than 255


def paste_masks(probabilities: np.ndarray, boxes: np.ndarray, size: Size) -> Iterator[RunLengths]:
    """What a detector says of the pixels in its boxes, as masks of the image: where it says at least 0.5.

    `probabilities` (K, h, w) are cells that divide each of `boxes` (K, 4), in pixels of the image of `size` (width,
    height), evenly. A pixel's value is that at its centre, bilinear between the centres of cells, with cells of 0
    around them. He et al., ICCV 2017, section 3.1.

    One mask is made at a time, within its box: the memory is that of one image.
    """
    width, height = size
    canvas = np.zeros((height, width), np.uint8, order="F")
    for cells, box in zip(probabilities, boxes.astype(np.float64), strict=True):
        left, top, right, bottom = _window(box[:2], box[2:], size)
        across = _weights(left, right, box[0], box[2], cells.shape[1])
        down = _weights(top, bottom, box[1], box[3], cells.shape[0])
        window = canvas[top:bottom, left:right]
        window[...] = down @ cells @ across.T >= _THRESHOLD
        yield _encoded(canvas)
        window[...] = 0


def _weights(start: int, stop: int, low: float, high: float, cells: int) -> np.ndarray:
    """How much each pixel from `start` to `stop` (rows) takes of each cell between `low` and `high` (columns)."""
    if high <= low:
        return np.zeros((stop - start, cells), np.float32)
    place = (np.arange(start, stop) + 0.5 - low) / (high - low) * cells - 0.5
    near = 1 - np.abs(place[:, None] - np.arange(cells))
    weights: np.ndarray = np.maximum(near, 0).astype(np.float32)
    return weights


def bitmap(runs: RunLengths) -> np.ndarray:
    """The pixels (height, width) of run lengths, as booleans."""
    decoded: np.ndarray = coco_masks.decode(runs)
    return decoded.astype(bool)


def as_json(runs: RunLengths) -> dict[str, Any]:
    """Run lengths as COCO's JSON has them: the counts as a string."""
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}
