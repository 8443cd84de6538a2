"""Choosing among candidates. Shapes are static: what is absent has score 0."""

from __future__ import annotations

import torch
from torch import Tensor


def select_top(scores: Tensor, *, count: int, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` highest of scores (N, K, C), best first: scores, rows (into K), classes.

    Each is (N, min(count, K * C)). Entries not above `threshold` have score 0.
    """
    rows, classes = scores.shape[1:]
    # A row among the best has its best class among the best: looking at rows first leaves little to sort.
    _, row = scores.amax(dim=2).topk(min(count, rows), dim=1)
    candidates = gather_rows(scores, row)
    value, position = candidates.flatten(1).topk(min(count, rows * classes), dim=1)
    index = row.gather(1, position // classes)
    return torch.where(value > threshold, value, 0.0), index, position % classes


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (N, k) of x, which is (N, K, D), or (K, D) for the same rows in every image: (N, k, D)."""
    if x.dim() == 2:
        return x[index]
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def nms(boxes: Tensor, scores: Tensor, classes: Tensor, *, iou: float, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy non-maximum suppression within each class: boxes (N, keep, 4), scores and classes (N, keep), best first.

    Takes the best of `boxes` (N, M, 4), `scores` and `classes` (N, M), drops those of its class that overlap it
    (intersection over union) by more than `iou`, and so on. What has score 0 is never kept; absent results have box
    and score 0, class -1.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    position = torch.arange(scores.shape[1], device=scores.device)
    left = scores
    kept, kept_scores = [], []
    for _ in range(keep):
        score, best = left.max(dim=1, keepdim=True)
        kept.append(best)
        kept_scores.append(score)
        width = torch.minimum(x2, x2.gather(1, best)) - torch.maximum(x1, x1.gather(1, best))
        height = torch.minimum(y2, y2.gather(1, best)) - torch.maximum(y1, y1.gather(1, best))
        shared = width.clamp(min=0) * height.clamp(min=0)
        union = area + area.gather(1, best) - shared
        drop = (shared / union > iou) & (classes == classes.gather(1, best)) | (position == best)
        left = left.masked_fill(drop, 0.0)
    index, score = torch.cat(kept, dim=1), torch.cat(kept_scores, dim=1)
    present = score > 0
    return (
        gather_rows(boxes, index).masked_fill(~present[:, :, None], 0.0),
        score,
        classes.gather(1, index).masked_fill(~present, -1),
    )
