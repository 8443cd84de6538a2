"""Cityscapes' average precision of instances, by the rules of its evaluation script: masks, and what is not judged.

Cordts et al., "The Cityscapes Dataset", CVPR 2016, section 4.2, and cityscapesScripts 2.3.0,
evalInstanceLevelSemanticLabeling. It is written again here since that script stops at what NumPy 2 gives it, reads and
writes files in places of its own, and ends the process where it finds a fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_masks

from detc.runtime.data.dataset import AnnotatedImage, Dataset
from detc.runtime.data.masks import RunLengths, mask_areas, run_lengths
from detc.runtime.data.preprocess import Detections

# Computed as the script does, since an IoU of exactly 0.6 is not above its 0.6000000000000001.
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
LEAST_PIXELS = 100


@dataclass(frozen=True)
class CityscapesFigures:
    """AP of one class, as the mean over IoU 0.50 to 0.95, and at 0.50; nan where no object of the class counts."""

    ap: float
    ap50: float


@dataclass(frozen=True)
class _Compared:
    """The found (P) and annotated (G) masks of one class in one image.

    `ious` (P, G); `counts` (G,) marks instances that are to be found, which groups and those of fewer than 100 pixels
    are not; `unjudged` (P,) is the share of a found mask on those, and on pixels that nobody labelled.
    """

    scores: np.ndarray
    ious: np.ndarray
    counts: np.ndarray
    unjudged: np.ndarray


def cityscapes_figures(dataset: Dataset, found: Mapping[int, Detections]) -> tuple[CityscapesFigures, ...]:
    """The figures of each class, of masks found, by image number. The dataset is one read with masks."""
    figures = []
    for label in range(len(dataset.classes)):
        compared = [_compare(image, found.get(image.number), label) for image in dataset.images]
        precisions = [_average_precision(compared, threshold) for threshold in THRESHOLDS]
        figures.append(CityscapesFigures(float(np.mean(precisions)), precisions[0]))
    return tuple(figures)


def cityscapes_mean(values: Sequence[float]) -> float:
    """The mean over the classes that have a figure."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _compare(image: AnnotatedImage, detections: Detections | None, label: int) -> _Compared:
    rows = [int(row) for row in np.flatnonzero(image.labels == label)]
    masks = image.masks or ()
    truth = [run_lengths(mask, image.size) for row in rows if (mask := masks[row]) is not None]
    groups = np.asarray([image.ignored[row] for row in rows if masks[row] is not None], bool)
    small = np.asarray(mask_areas(truth), np.int64) < LEAST_PIXELS
    made, scores = _found(detections, label)
    areas = np.asarray(mask_areas(made), np.float64)
    shared = np.rint(_overlaps(made, truth, shares=True) * areas[:, None])
    unjudged = (shared * (groups.astype(int) + small)).sum(1)  # as officially, a small group counts twice
    if image.unlabelled is not None:
        nobody = [run_lengths(image.unlabelled, image.size)]
        unjudged += np.rint(_overlaps(made, nobody, shares=True)[:, 0] * areas)
    return _Compared(scores, _overlaps(made, truth), ~groups & ~small, unjudged / areas)


def _found(detections: Detections | None, label: int) -> tuple[list[RunLengths], np.ndarray]:
    """The masks of a class that are not empty, with their scores."""
    if detections is None or detections.masks is None:
        return [], np.zeros(0)
    rows = [int(row) for row in np.flatnonzero(detections.classes == label)]
    areas = mask_areas([detections.masks[row] for row in rows])
    kept = [row for row, area in zip(rows, areas, strict=True) if area]
    return [detections.masks[row] for row in kept], detections.scores[kept].astype(np.float64)


def _overlaps(made: Sequence[RunLengths], truth: Sequence[RunLengths], shares: bool = False) -> np.ndarray:
    """IoU (P, G) of masks, or the shares of the first that lie in the second."""
    if not made or not truth:
        return np.zeros((len(made), len(truth)))
    overlaps: np.ndarray = coco_masks.iou(list(made), list(truth), [int(shares)] * len(truth))
    return overlaps


def _average_precision(images: Sequence[_Compared], threshold: float) -> float:
    """The area under the curve of precision over recall, at one IoU.

    Of the masks above it on one object the best is right and the others are wrong. A mask on nothing is wrong unless a
    larger share of it than the threshold is not judged.
    """
    right, wrong, counted = [np.zeros(0)], [np.zeros(0)], 0
    for image in images:
        counted += int(image.counts.sum())
        over = image.ious > threshold
        for column in np.flatnonzero(image.counts):
            scores = np.sort(image.scores[over[:, column]])
            right.append(scores[-1:])
            wrong.append(scores[:-1])
        wrong.append(image.scores[~over.any(1) & (image.unjudged <= threshold)])
    if not counted:
        return math.nan
    hits, misses = np.sort(np.concatenate(right)), np.sort(np.concatenate(wrong))
    scores = np.unique(np.concatenate([hits, misses]))
    found = len(hits) - np.searchsorted(hits, scores)
    alarms = len(misses) - np.searchsorted(misses, scores)
    # The curve ends at a point that nothing gave: recall 0, precision 1.
    precision = np.append(found / (found + alarms), 1.0)
    recall = np.append(found / counted, 0.0)
    return float(((recall[:-1] - recall[1:]) * (precision[:-1] + precision[1:]) / 2).sum())
