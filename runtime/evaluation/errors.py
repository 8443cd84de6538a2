"""What is wrong with the boxes, and what each kind of error costs, in the manner of TIDE.

Bolya, Foley, Hays, Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detc.runtime.evaluation.curves import precision_at_recalls
from detc.runtime.evaluation.matches import LEAST_IOU, Matches

# Below this IoU a box is on no object at all.
BACKGROUND_IOU = 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
MEANINGS = {
    "classification": "on an object, of another class",
    "localisation": "of the right class, on an object with IoU 0.1 to 0.5",
    "both": "of another class, on an object with IoU 0.1 to 0.5",
    "duplicate": "on an object that a better box has found",
    "background": "on no object: IoU below 0.1 with all",
    "missed": "objects without a box, not even one of the first two kinds",
}
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)


@dataclass(frozen=True)
class Errors:
    """`counts` (C, 6) of each class and of KINDS; classes are those of the boxes, of missed objects their own.

    `gains` are the AP50 that mending one kind alone would add; `wrong` and `unfound` the same of leaving out every
    wrong box, and of no longer counting any object that was not found. `ap50` is what there is to add to. All from
    0 to 1, nan without any object.
    """

    ap50: float
    counts: np.ndarray
    gains: dict[str, float]
    wrong: float
    unfound: float


def error_kinds(matches: Matches) -> np.ndarray:
    """The place in KINDS of what is wrong with each box (D,), -1 where it is right or does not count.

    Where more than one applies it is the first, in the order of TIDE's authors: localisation, classification,
    duplicate, background, both.
    """
    wrong = (matches.objects < 0) & ~matches.aside
    same, other = matches.same_iou, matches.other_iou
    conditions = {
        LOCALISATION: (same >= BACKGROUND_IOU) & (same < LEAST_IOU),
        CLASSIFICATION: other >= LEAST_IOU,
        DUPLICATE: same >= LEAST_IOU,
        BACKGROUND: np.maximum(same, other) < BACKGROUND_IOU,
    }
    kinds = np.select(list(conditions.values()), list(conditions), BOTH)
    return np.where(wrong, kinds, -1)


def errors(matches: Matches) -> Errors:
    """What is wrong, by class, and what mending each kind would give.

    A box of the wrong class gets its object's, and one beside its object is put on it, unless the object is found; of
    several such boxes for one object the best stays, and the others go. The other kinds of boxes go; missed objects are
    no longer counted. Then AP50 is worked out again, with scores as they were.

    The figures are those of the authors' tidecv but for one thing: each of the first two kinds is mended alone, as the
    paper says, while tidecv chooses the best box for an object among both kinds together, and so gains a little less.
    """
    kinds = error_kinds(matches)
    classes = len(matches.classes)
    targets = np.where(kinds == CLASSIFICATION, matches.other_object, matches.same_object)
    near = targets[(kinds == CLASSIFICATION) | (kinds == LOCALISATION)]
    unfound = matches.finders < 0
    missed = unfound & ~np.isin(np.arange(len(unfound)), near)
    counts = np.zeros((classes, len(KINDS)), np.int64)
    np.add.at(counts, (matches.labels[kinds >= 0], kinds[kinds >= 0]), 1)
    np.add.at(counts, (matches.object_labels[missed], len(KINDS) - 1), 1)

    counted, right, labels = ~matches.aside, matches.objects >= 0, matches.labels
    base = _mean_ap(matches, labels, right, counted, matches.object_counts())

    def gain(
        hits: np.ndarray = right,
        kept: np.ndarray = counted,
        relabelled: np.ndarray = labels,
        left: np.ndarray | None = None,
    ) -> float:
        objects = matches.object_counts() if left is None else matches.object_counts() - left
        # Fewer objects put the recalls at which AP reads elsewhere, which may seem to cost a little.
        return base if math.isnan(base) else max(_mean_ap(matches, relabelled, hits, kept, objects) - base, 0.0)

    gains = {}
    for number, name in enumerate(KINDS[:-1]):
        wrong = kinds == number
        mended = _mended(matches, np.flatnonzero(wrong), targets) if number in (CLASSIFICATION, LOCALISATION) else []
        hits, kept, relabelled = right.copy(), counted & ~wrong, labels.copy()
        hits[mended] = kept[mended] = True
        relabelled[mended] = matches.object_labels[targets[mended]]
        gains[name] = gain(hits, kept, relabelled)
    gains[KINDS[-1]] = gain(left=counts[:, -1])
    never = np.bincount(matches.object_labels[unfound], minlength=classes)
    return Errors(base, counts, gains, gain(kept=counted & right), gain(left=never))


def _mended(matches: Matches, boxes: np.ndarray, targets: np.ndarray) -> list[int]:
    """Of some wrong boxes the best for each object that no box has found."""
    best: dict[int, int] = {}
    for box in boxes[np.argsort(-matches.scores[boxes], kind="mergesort")].tolist():
        if matches.finders[targets[box]] < 0:
            best.setdefault(int(targets[box]), box)
    return list(best.values())


def _mean_ap(matches: Matches, labels: np.ndarray, hits: np.ndarray, kept: np.ndarray, objects: np.ndarray) -> float:
    """AP50 over the classes that have objects, `objects` (C,) being left to find.

    Of a class that has none left everything was found, so that only wrong boxes are left to be wrong about.
    """
    values = []
    for label in np.flatnonzero(matches.object_counts()):
        chosen = kept & (labels == label)
        if objects[label]:
            values.append(precision_at_recalls(matches.scores[chosen], hits[chosen], objects[label]).mean())
        else:
            values.append(float(not chosen.any()))
    return float(np.mean(values)) if values else np.nan
