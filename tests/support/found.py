"""Annotated images and boxes found in them, in a line each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detc.runtime.data.dataset import AnnotatedImage
from detc.runtime.data.preprocess import Detections

Box = list[float]


def annotated(number: int, objects: list[tuple[int, Box]], ignored: tuple[int, ...] = ()) -> AnnotatedImage:
    """An image of 500 by 500 pixels with objects as (class, box); those at the places `ignored` are set aside."""
    boxes = np.asarray([box for _, box in objects], np.float64).reshape(-1, 4)
    labels = np.asarray([label for label, _ in objects], np.int64)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    marks = np.isin(np.arange(len(objects)), ignored)
    return AnnotatedImage(number, Path(f"{number}.jpg"), (500, 500), boxes, labels, areas, marks)


def detected(*boxes: tuple[int, float, Box]) -> Detections:
    """Boxes as (class, score, box)."""
    return Detections(
        np.asarray([box for _, _, box in boxes], np.float32).reshape(-1, 4),
        np.asarray([score for _, score, _ in boxes], np.float32),
        np.asarray([label for label, _, _ in boxes], np.int64),
    )
