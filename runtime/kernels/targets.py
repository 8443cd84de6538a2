"""What each anchor is to predict."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Entries of the overlap matrix that are held at once: 16 MiB a temporary, whatever the number of objects.
_OVERLAPS = 1 << 22


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of (..., M, 4) and (..., K, 4) boxes x1, y1, x2, y2: (..., M, K)."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    other_area = (others[..., 2] - others[..., 0]) * (others[..., 3] - others[..., 1])
    boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    width = torch.minimum(boxes[..., 2], others[..., 2]) - torch.maximum(boxes[..., 0], others[..., 0])
    height = torch.minimum(boxes[..., 3], others[..., 3]) - torch.maximum(boxes[..., 1], others[..., 1])
    shared = width.clamp(min=0) * height.clamp(min=0)
    union = area[..., :, None] + other_area[..., None, :] - shared
    return shared / union.clamp(min=1e-6)


@torch.no_grad()
def assign_max_iou(
    anchors: Tensor,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    *,
    positive: float,
    negative: float,
    minimum: float,
    low_quality: bool,
    classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives each anchor the object it overlaps most. Ren et al., Faster R-CNN, 2015, section 3.1.2.

    An anchor (of `anchors` (K, 4)) whose best overlap (intersection over union) is at least `positive` takes that
    object; one whose best overlap is below `negative` is background; the others are ignored. With `low_quality`, each
    object whose best overlap with any anchor is at least `minimum` also takes all anchors that reach it; of several
    such objects the last has the anchor. An object that overlaps no anchor takes none.

    `truth_boxes` is (N, G, 4) and `truth_labels` (N, G), with -1 in absent rows; G may be 0. Returns labels (N, K)
    int64 (the class, `classes` for background, -1 for ignored), boxes (N, K, 4) of the objects taken (where there is
    none, the anchor's own), and the scalar sum over the images of their positive anchors, each counted as at least
    one.
    """
    if truth_boxes.shape[1] == 0:
        truth_boxes = functional.pad(truth_boxes, (0, 0, 0, 1))
        truth_labels = functional.pad(truth_labels, (0, 1), value=-1)
    truth_boxes = truth_boxes.to(anchors.dtype)
    present = (truth_labels >= 0)[:, :, None]
    step = max(1, _OVERLAPS // truth_labels.numel())
    parts = [anchors[start : start + step] for start in range(0, anchors.shape[0], step)]

    def measure(part: Tensor) -> Tensor:
        """(N, G, part) overlaps, below zero for absent objects."""
        return torch.where(present, overlaps(truth_boxes, part), -1.0)

    best, taken, reached = [], [], []
    for part in parts:
        iou = measure(part)
        iou_best, iou_taken = iou.max(dim=1)
        best.append(iou_best)
        taken.append(iou_taken)
        reached.append(iou.amax(dim=2))
    overlap, object_of = torch.cat(best, dim=1), torch.cat(taken, dim=1)
    matched = overlap >= positive
    if low_quality:
        limit = torch.stack(reached).amax(dim=0)[:, :, None]
        eligible = (limit >= minimum) & (limit > 0)
        number = torch.arange(truth_labels.shape[1], device=anchors.device)[:, None]
        # Overlaps are measured again rather than kept: with 2000 objects they would not fit.
        claims = [torch.where(eligible & (measure(part) == limit), number, -1).amax(dim=1) for part in parts]
        claimed = torch.cat(claims, dim=1)
        object_of = torch.where(claimed >= 0, claimed, object_of)
        matched = matched | (claimed >= 0)
    labels = torch.where(overlap < negative, classes, -1)
    labels = torch.where(matched, truth_labels.gather(1, object_of), labels)
    boxes = truth_boxes.gather(1, object_of[:, :, None].expand(-1, -1, 4))
    boxes = torch.where(matched[:, :, None], boxes, anchors)
    return labels, boxes, matched.sum(dim=1).clamp(min=1).sum().to(anchors.dtype)
