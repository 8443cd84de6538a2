"""Pascal VOC's average precision, by the rules of its development kit: IoU 0.5, difficult objects set aside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.preprocess import Detections

# Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.
LEAST_IOU = 0.5


@dataclass(frozen=True)
class VocFigures:
    """AP of one class: `area` under the curve, the rule from 2010 on, and at 11 `points` of recall, the rule of 2007.

    nan where the data has no object of the class that is not difficult.
    """

    area: float
    points: float


def voc_figures(dataset: Dataset, found: Mapping[int, Detections]) -> tuple[VocFigures, ...]:
    """The figures of each class, of boxes found, by image number.

    The readers make boxes whose last pixel ends where its edge is, so that areas here are those of the development kit,
    which adds 1 to the differences of inclusive corners.
    """
    return tuple(_figures(*_ranked(dataset, found, label)) for label in range(len(dataset.classes)))


def voc_mean(values: list[float]) -> float:
    """The mean over the classes that have a figure."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ranked(dataset: Dataset, found: Mapping[int, Detections], label: int) -> tuple[np.ndarray, int]:
    """Of the boxes of a class, by falling score, which hit an object (those on difficult objects left out); and how
    many objects there are to hit."""
    scores, hits, counted = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image in dataset.images:
        rows = image.labels == label
        difficult = image.ignored[rows]
        counted += int((~difficult).sum())
        detections = found.get(image.number)
        if detections is None or not (chosen := detections.classes == label).any():
            continue
        order = np.argsort(-detections.scores[chosen], kind="stable")
        boxes = detections.boxes[chosen][order].astype(np.float64)
        hit, counts = _hits(boxes, image.boxes[rows], difficult)
        scores.append(detections.scores[chosen][order][counts])
        hits.append(hit[counts])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.concatenate(hits)[order], counted


def _hits(boxes: np.ndarray, objects: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each box, the best first, hits an object, and whether it counts at all.

    A box stands for the object it overlaps most, even where another box has already found that one: then it is wrong.
    """
    hit, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    if not len(objects):
        return hit, counts
    overlaps = box_ious(boxes, objects)
    taken = np.zeros(len(objects), bool)
    for row, best in enumerate(overlaps.argmax(1)):
        if overlaps[row, best] < LEAST_IOU:
            continue
        if difficult[best]:
            counts[row] = False
        elif not taken[best]:
            hit[row] = taken[best] = True
    return hit, counts


def box_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (A, B) of boxes (A, 4) with boxes (B, 4), as x1, y1, x2, y2; 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _figures(hits: np.ndarray, counted: int) -> VocFigures:
    if not counted:
        return VocFigures(math.nan, math.nan)
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((envelope * hits).sum() / counted)
    # Recall right / counted >= point / 10, in whole numbers, since 0.3 and 3 * 0.1 differ.
    points = [envelope[reached[0]] for p in range(11) if len(reached := np.flatnonzero(right * 10 >= p * counted))]
    return VocFigures(area, float(sum(points) / 11))
