"""Data sets, and what a detector found in them, as COCO's JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.masks import RunLengths, no_pixel, run_lengths
from detc.runtime.data.preprocess import Detections


def coco_truth(dataset: Dataset, encode: Callable[[RunLengths], Any]) -> dict[str, Any]:
    """The data set in COCO's form, masks as what `encode` makes of run lengths.

    An object without a usable mask has an empty one. Difficult objects of VOC appear as crowds: what lies in them does
    not count.
    """
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for row, (box, label, area, ignored) in enumerate(
            zip(image.boxes, image.labels, image.areas, image.ignored, strict=True)
        ):
            item = {
                "id": len(annotations) + 1,
                "image_id": image.number,
                "category_id": dataset.category_ids[int(label)],
                "bbox": _xywh(box),
                "area": float(area),
                "iscrowd": int(ignored),
            }
            if image.masks is not None:
                mask = image.masks[row]
                item["segmentation"] = encode(run_lengths(mask, image.size) if mask else no_pixel(image.size))
            annotations.append(item)
    return {
        "info": {},
        "images": [
            {"id": image.number, "file_name": image.path.name, "width": image.size[0], "height": image.size[1]}
            for image in dataset.images
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
        ],
        "annotations": annotations,
    }


def coco_results(
    dataset: Dataset, found: Mapping[int, Detections], encode: Callable[[RunLengths], Any] = lambda runs: runs
) -> list[dict[str, Any]]:
    """What was found, by image number, in COCO's results form: image_id, category_id, bbox as x, y, w, h, score.

    Masks are the segmentation, as what `encode` makes of run lengths.
    """
    results = []
    for number, detections in found.items():
        rows = zip(detections.boxes, detections.scores, detections.classes, strict=True)
        for row, (box, score, label) in enumerate(rows):
            result = {
                "image_id": number,
                "category_id": dataset.category_ids[int(label)],
                "bbox": _xywh(box),
                "score": round(float(score), 6),
            }
            if detections.masks is not None:
                result["segmentation"] = encode(detections.masks[row])
            results.append(result)
    return results


def _xywh(box: Sequence[float] | np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
