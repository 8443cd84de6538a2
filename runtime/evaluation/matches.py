"""Which box found which object at IoU 0.5, as COCO's AP50 decides it, and what lies near the boxes that found none.

Where a detector finds masks, the same is worked out of them: what is said of boxes here then holds of masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.preprocess import Detections
from detc.runtime.evaluate import coco_run, counted_results

LEAST_IOU = 0.5
SIZES = ("small", "medium", "large")
# What is compared: boxes, or masks, as pycocotools calls them.
Compared = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Matches:
    """Every box that counts and every object.

    Of D boxes, in pycocotools' order within a class: `scores` and `labels` (D,), and `objects` (D,), the row of the
    object that the box found, or -1. `aside` (D,) marks boxes on crowds and difficult objects, which are neither right
    nor wrong. `same_iou`, `same_object`, `other_iou`, `other_object` (D,) are the object of the box's class that it
    overlaps most, and that of another class; IoU 0 and -1 where there is none.

    Of G objects that are to be found: `object_labels`, `object_areas` (G,), and `finders` (G,), the row of the box that
    found each, or -1.

    `other_pairs` (P, 2) are rows of boxes and of objects of another class with IoU at least 0.5, and `pair_ious` (P,).
    `precision` (C, 4, 101) is pycocotools' at IoU 0.5, by class, all objects and each of SIZES, and recall; -1 where
    there is no such object.
    """

    classes: tuple[str, ...]
    scores: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    aside: np.ndarray
    same_iou: np.ndarray
    same_object: np.ndarray
    other_iou: np.ndarray
    other_object: np.ndarray
    object_labels: np.ndarray
    object_areas: np.ndarray
    finders: np.ndarray
    other_pairs: np.ndarray
    pair_ious: np.ndarray
    precision: np.ndarray

    def object_counts(self) -> np.ndarray:
        """How many objects of each class (C,) are to be found."""
        return np.bincount(self.object_labels, minlength=len(self.classes))

    def sizes(self) -> np.ndarray:
        """The place of each object (G,) in SIZES."""
        return np.digitize(self.object_areas, [32**2, 96**2])

    def finder_scores(self) -> np.ndarray:
        """The score of the box that found each object (G,), -1 where none did."""
        return np.where(self.finders >= 0, np.append(self.scores, -1.0)[self.finders], -1.0)


def match(dataset: Dataset, found: Mapping[int, Detections], compared: Compared = "bbox") -> Matches:
    """Matches what a detector that tells classes apart found, by image number, with the objects, by boxes or masks.

    By masks, objects without a usable one are set aside.
    """
    results, counts = counted_results(dataset, found)
    run = coco_run(dataset, results, compared, counts, thresholds=[LEAST_IOU])
    truth, label_of = run.cocoGt.anns, {number: label for label, number in enumerate(dataset.category_ids)}
    to_find = [number for number, item in truth.items() if not item["iscrowd"]]
    row_of = {number: row for row, number in enumerate(to_find)}
    ids: list[int] = []
    objects: list[int] = []
    aside: list[bool] = []
    for cell in _cells(run):
        ids += cell["dtIds"]
        objects += [row_of.get(int(number), -1) for number in cell["dtMatches"][0]]
        aside += cell["dtIgnore"][0].astype(bool).tolist()
    boxes = [results[number - 1] for number in ids]
    taken = np.asarray(objects, np.int64)
    finders = np.full(len(to_find), -1, np.int64)
    finders[taken[taken >= 0]] = np.flatnonzero(taken >= 0)
    labels = np.asarray([label_of[box["category_id"]] for box in boxes], np.int64)
    object_labels = np.asarray([label_of[truth[number]["category_id"]] for number in to_find], np.int64)
    near = _Near(labels, object_labels, compared)
    near.look(boxes, [truth[number] for number in to_find])
    columns = [run.params.catIds.index(number) for number in dataset.category_ids]
    return Matches(
        dataset.classes,
        np.asarray([box["score"] for box in boxes], np.float64),
        labels,
        taken,
        np.asarray(aside, bool),
        near.same_iou,
        near.same_object,
        near.other_iou,
        near.other_object,
        object_labels,
        np.asarray([truth[number]["area"] for number in to_find], np.float64),
        finders,
        np.asarray(near.pairs, np.int64).reshape(-1, 2),
        np.asarray(near.pair_ious, np.float64),
        run.eval["precision"][0, :, :, :, -1].transpose(1, 2, 0)[columns],
    )


def _cells(run: Any) -> list[dict[str, Any]]:
    """What pycocotools keeps of each class and image, for objects of every size."""
    images, areas = len(run.params.imgIds), len(run.params.areaRng)
    cells = run.evalImgs
    return [
        cell
        for start in range(0, len(cells), areas * images)
        for cell in cells[start : start + images]
        if cell is not None
    ]


class _Near:
    """The objects near each box."""

    def __init__(self, labels: np.ndarray, object_labels: np.ndarray, compared: Compared) -> None:
        self.labels, self.object_labels = labels, object_labels
        self.key = "bbox" if compared == "bbox" else "segmentation"
        self.same_iou, self.other_iou = np.zeros(len(labels)), np.zeros(len(labels))
        self.same_object = np.full(len(labels), -1, np.int64)
        self.other_object = self.same_object.copy()
        self.pairs: list[np.ndarray] = []
        self.pair_ious: list[float] = []

    def look(self, boxes: list[dict[str, Any]], objects: list[dict[str, Any]]) -> None:
        """Compares the boxes with the objects of their image."""
        from pycocotools import mask

        box_rows, object_rows = _by_image(boxes), _by_image(objects)
        for image, there in object_rows.items():
            rows = box_rows.get(image)
            if rows is None:
                continue
            places: list[Any] = [
                [items[row][self.key] for row in chosen] for items, chosen in ((boxes, rows), (objects, there))
            ]
            if self.key == "bbox":
                places = [np.asarray(corners, np.float64) for corners in places]
            ious = np.asarray(mask.iou(*places, np.zeros(len(there), np.uint8)))
            alike = self.labels[rows][:, None] == self.object_labels[there][None]
            for chosen, iou, place in (
                (alike, self.same_iou, self.same_object),
                (~alike, self.other_iou, self.other_object),
            ):
                masked = np.where(chosen, ious, 0)
                best = masked.argmax(1)
                iou[rows] = masked.max(1)
                place[rows] = np.where(iou[rows] > 0, there[best], -1)
            first, second = np.nonzero(~alike & (ious >= LEAST_IOU))
            self.pairs += list(np.stack([rows[first], there[second]], 1))
            self.pair_ious += ious[first, second].tolist()


def _by_image(items: list[dict[str, Any]]) -> dict[int, np.ndarray]:
    rows: dict[int, list[int]] = {}
    for row, item in enumerate(items):
        rows.setdefault(item["image_id"], []).append(row)
    return {image: np.asarray(places, np.int64) for image, places in rows.items()}
