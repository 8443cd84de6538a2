"""Precision, recall and F1 over the score from which boxes are believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# COCO reads precision off at recalls 0, 0.01, ..., 1.
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Working:
    """What believing boxes from a score on gives; nan where there is nothing to find, or no box."""

    score: float
    precision: float
    recall: float
    f1: float


NO_WORKING = Working(math.nan, math.nan, math.nan, math.nan)


def precision_at_recalls(scores: np.ndarray, hits: np.ndarray, count: int) -> np.ndarray:
    """The best precision (101,) at each of RECALLS or higher ones, 0 where that much is never found, as COCO has it.

    `scores` and `hits` (D,) are boxes and whether each finds an object, `count` the objects to find, of which there
    must be one.
    """
    order = np.argsort(-scores, kind="mergesort")
    right = np.cumsum(hits[order])
    precision = right / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / count, RECALLS, side="left")
    return np.append(envelope, 0.0)[places]


def workings(scores: np.ndarray, hits: np.ndarray, count: int) -> list[Working]:
    """Precision, recall and F1 from each score on that some box has, the highest first."""
    order = np.argsort(-scores, kind="mergesort")
    right, ranked = np.cumsum(hits[order]), scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else []
    return [_working(float(ranked[i]), int(right[i]), int(i) + 1, count) for i in last]


def best_working(scores: np.ndarray, hits: np.ndarray, count: int) -> Working:
    """The score from which boxes are best believed: where F1 is highest, and of several such the highest score."""
    found = workings(scores, hits, count) if count else []
    return max(found, key=lambda w: w.f1) if found else NO_WORKING


def working_at(score: float, scores: np.ndarray, hits: np.ndarray, count: int) -> Working:
    """Precision, recall and F1 from a score on."""
    believed = scores >= score
    return _working(score, int(hits[believed].sum()), int(believed.sum()), count)


def _working(score: float, right: int, boxes: int, count: int) -> Working:
    precision = right / boxes if boxes else math.nan
    recall = right / count if count else math.nan
    f1 = 2 * right / (boxes + count) if boxes + count else math.nan
    return Working(score, precision, recall, f1)
