"""All that a report of an evaluation says, worked out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.preprocess import Detections
from detc.runtime.evaluation.confusion import confusion
from detc.runtime.evaluation.curves import NO_WORKING, RECALLS, Working, best_working, precision_at_recalls, working_at
from detc.runtime.evaluation.errors import KINDS, Errors, errors
from detc.runtime.evaluation.matches import SIZES, Matches, match


@dataclass(frozen=True)
class ClassAnalysis:
    """One class: its objects to find, AP50 (nan without any), the best F1 and where it is, precision and recall there,
    the errors of each of KINDS, and the precision (101,) at recalls 0, 0.01, ..., 1; nan without objects."""

    name: str
    objects: int
    boxes: int
    ap50: float
    best: Working
    errors: dict[str, int]
    precision: np.ndarray


@dataclass(frozen=True)
class SizeAnalysis:
    """Objects of one size, of every class: how many, AP50, and the share found by boxes of at least the score."""

    name: str
    objects: int
    ap50: float
    recall: float


@dataclass(frozen=True)
class Analysis:
    """What is behind an AP50, of boxes, or with `masks` of masks.

    Boxes from `score` on are those believed in `at_score`, the confusion matrix (C + 1, C + 1) and the recall of sizes;
    `chosen` says that it is where F1 of all classes is best, and nobody gave it.
    """

    classes: tuple[ClassAnalysis, ...]
    sizes: tuple[SizeAnalysis, ...]
    errors: Errors
    score: float
    chosen: bool
    at_score: Working
    matrix: np.ndarray
    masks: bool = False

    @property
    def prefix(self) -> str:
        """What the names of its files and metrics begin with."""
        return "mask_" if self.masks else ""

    def as_json(self) -> dict[str, Any]:
        """All of it, nan as null."""
        return {
            "of": "masks" if self.masks else "boxes",
            "iou": 0.5,
            "score": plain(self.score),
            "score_is_where_f1_is_best": self.chosen,
            "at_score": _plain_working(self.at_score),
            "AP50": plain(self.errors.ap50),
            "errors": {
                name: {"count": int(count), "AP50_gained": plain(self.errors.gains[name])}
                for name, count in zip(KINDS, self.errors.counts.sum(0), strict=True)
            },
            "every_wrong_box_left_out": {"AP50_gained": plain(self.errors.wrong)},
            "every_object_not_found_left_out": {"AP50_gained": plain(self.errors.unfound)},
            "sizes": [{name: plain(value) for name, value in asdict(size).items()} for size in self.sizes],
            "recalls": [round(float(recall), 2) for recall in RECALLS],
            "classes": [
                {
                    "name": c.name,
                    "objects": c.objects,
                    "boxes": c.boxes,
                    "AP50": plain(c.ap50),
                    "best_F1": _plain_working(c.best),
                    "errors": c.errors,
                    "precision": [plain(value) for value in c.precision.tolist()],
                }
                for c in self.classes
            ],
            "confusion": {
                "rows": "what it is, the last one background",
                "columns": "what it is said to be, the last one background",
                "counts": self.matrix.tolist(),
            },
        }


def plain(value: Any) -> Any:
    """A value as JSON has it: floats rounded, nan as null."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, 5)


def _plain_working(working: Working) -> dict[str, float | None]:
    return {name: plain(value) for name, value in asdict(working).items()}


def analyse(
    dataset: Dataset, found: Mapping[int, Detections], score: float | None = None, masks: bool = False
) -> Analysis:
    """Analyses the boxes, or the masks, of a detector that tells classes apart, by image number.

    Without a score, boxes are believed from where F1 of all classes together is best.
    """
    matches = match(dataset, found, "segm" if masks else "bbox")
    wrong, counts = errors(matches), matches.object_counts()
    counted, hits = ~matches.aside, matches.objects >= 0
    objects = int(counts.sum())
    if score is None:
        best = best_working(matches.scores[counted], hits[counted], objects)
        believed = 0.5 if math.isnan(best.score) else best.score
    else:
        believed = score
    at_score = working_at(believed, matches.scores[counted], hits[counted], objects)
    classes = tuple(_class(matches, label, int(counts[label]), wrong) for label in range(len(dataset.classes)))
    matrix = confusion(matches, believed)
    return Analysis(classes, _sizes(matches, believed), wrong, believed, score is None, at_score, matrix, masks)


def _class(matches: Matches, label: int, count: int, wrong: Errors) -> ClassAnalysis:
    chosen = (matches.labels == label) & ~matches.aside
    scores, hits = matches.scores[chosen], matches.objects[chosen] >= 0
    precision = precision_at_recalls(scores, hits, count) if count else np.full(len(RECALLS), np.nan)
    best = best_working(scores, hits, count) if count else NO_WORKING
    kinds = dict(zip(KINDS, wrong.counts[label].tolist(), strict=True))
    return ClassAnalysis(matches.classes[label], count, len(scores), float(precision.mean()), best, kinds, precision)


def _sizes(matches: Matches, score: float) -> tuple[SizeAnalysis, ...]:
    sizes, believed = matches.sizes(), matches.finder_scores() >= score
    rows = []
    for place, name in enumerate(SIZES):
        chosen = sizes == place
        precision = matches.precision[:, place + 1]
        known = precision[precision > -1]
        ap50 = float(known.mean()) if known.size else math.nan
        recall = float(believed[chosen].mean()) if chosen.any() else math.nan
        rows.append(SizeAnalysis(name, int(chosen.sum()), ap50, recall))
    return tuple(rows)
