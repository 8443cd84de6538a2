"""Which classes are taken for which."""

from __future__ import annotations

import numpy as np

from detc.runtime.evaluation.matches import Matches


def confusion(matches: Matches, score: float) -> np.ndarray:
    """The confusion matrix (C + 1, C + 1) of boxes with at least a score, at IoU 0.5.

    Entry [i, j] counts the objects of class i that were said to be of class j; the last column those not found, the
    last row the boxes where nothing is. So a row's sum is the objects of its class, a column's the boxes of its class
    that count, and the diagonal what AP50 counts as right. Every other box, the best first, takes the object of another
    class that it overlaps most among those that no box has found.
    """
    classes = len(matches.classes)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    believed = (matches.scores >= score) & ~matches.aside
    free_boxes = believed & (matches.objects < 0)
    free_objects = matches.finder_scores() < score
    right = matches.labels[believed & ~free_boxes]
    np.add.at(matrix, (right, right), 1)
    boxes, objects = matches.other_pairs.T
    for pair in np.lexsort((-matches.pair_ious, -matches.scores[boxes])):
        box, thing = boxes[pair], objects[pair]
        if free_boxes[box] and free_objects[thing]:
            free_boxes[box] = free_objects[thing] = False
            matrix[matches.object_labels[thing], matches.labels[box]] += 1
    np.add.at(matrix[:, classes], matches.object_labels[free_objects], 1)
    np.add.at(matrix[classes], matches.labels[free_boxes], 1)
    return matrix
