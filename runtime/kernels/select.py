"""Choosing among candidates. Shapes are static: what is absent has score 0."""

from __future__ import annotations

import torch
from torch import Tensor

from detc.runtime.kernels.targets import overlaps

# Candidates that are compared with each other at once.
_BLOCK = 512


def select_top(scores: Tensor, *, count: int, threshold: float, logits: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` highest of scores (N, K, C), best first: scores, rows (into K), classes.

    Each is (N, min(count, K * C)). Entries not above `threshold` have score 0. With `logits`, `scores` are what the
    scores are sigmoids of, and the best are chosen among them.
    """
    rows, classes = scores.shape[1:]
    # A row among the best has its best class among the best: looking at rows first leaves little to sort.
    _, row = scores.amax(dim=2).topk(min(count, rows), dim=1)
    candidates = gather_rows(scores, row)
    value, position = candidates.flatten(1).topk(min(count, rows * classes), dim=1)
    index = row.gather(1, position // classes)
    if logits:
        value = value.sigmoid()
    return torch.where(value > threshold, value, 0.0), index, position % classes


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (N, k) of x, which is (N, K, D), or (K, D) for the same rows in every image: (N, k, D)."""
    if x.dim() == 2:
        return x[index]
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def nms(boxes: Tensor, scores: Tensor, classes: Tensor, *, iou: float, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy non-maximum suppression within each class: boxes (N, keep, 4), scores and classes (N, keep), best first.

    Takes the best of `boxes` (N, M, 4), `scores` and `classes` (N, M), drops those of its class that overlap it
    (intersection over union) by more than `iou`, and so on; of equal scores the first is the better. What has score 0
    is never kept; absent results have box and score 0, class -1. Gradients flow through what is kept.
    """
    return kept_rows(nms_rows(boxes, scores, classes, iou=iou, keep=keep), boxes, scores, classes)


def nms_rows(boxes: Tensor, scores: Tensor, classes: Tensor, *, iou: float, keep: int) -> Tensor:
    """The rows of the candidates that `nms` keeps, best first, then -1: (N, keep) int64."""
    return torch.ops.detc.nms(boxes, scores, classes, iou, keep)


def kept_rows(index: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows `index` (N, keep) of candidates: box and score 0, class -1 where the index is -1."""
    absent, index = index < 0, index.clamp(min=0)
    return (
        gather_rows(boxes, index).masked_fill(absent[:, :, None], 0.0),
        scores.gather(1, index).masked_fill(absent, 0.0),
        classes.gather(1, index).masked_fill(absent, -1),
    )


# One node for torch.compile and torch.export, which could not follow its loops.
torch.library.define("detc::nms", "(Tensor boxes, Tensor scores, Tensor classes, float iou, int keep) -> Tensor")


@torch.library.impl("detc::nms", "CompositeExplicitAutograd")
def _kept(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float, keep: int) -> Tensor:
    """The numbers of what is kept, best first, then -1: (N, keep) int64.

    Candidates are looked at in blocks, best first, and only until enough are kept. In a block a candidate is kept if
    no better one that is kept suppresses it: solved by repeating until nothing changes, since after k rounds the first
    k are decided.
    """
    kept = torch.full((len(boxes), keep), -1, dtype=torch.int64, device=boxes.device)
    for image in range(len(boxes)):
        order = scores[image].argsort(descending=True, stable=True)
        order = order[: int((scores[image] > 0).sum())]
        chosen = order[:0]
        for candidates in order.split(_BLOCK):
            gone = _suppressed_by(chosen, candidates, boxes[image], classes[image], iou).any(dim=1)
            block = candidates[~gone]
            better = _suppressed_by(block, block, boxes[image], classes[image], iou).tril(-1)
            stays = torch.ones(len(block), dtype=torch.bool, device=boxes.device)
            while True:
                then = ~(better & stays).any(dim=1)
                if torch.equal(then, stays):
                    break
                stays = then
            chosen = torch.cat((chosen, block[stays]))[:keep]
            if len(chosen) == keep:
                break
        kept[image, : len(chosen)] = chosen
    return kept


def _suppressed_by(better: Tensor, candidates: Tensor, boxes: Tensor, classes: Tensor, iou: float) -> Tensor:
    """Whether each of `candidates` would go for each of `better`: (candidates, better)."""
    same = classes[candidates][:, None] == classes[better]
    return same & (overlaps(boxes[candidates], boxes[better]) > iou)


@torch.library.register_fake("detc::nms")
def _(boxes, scores, classes, iou, keep):  # type: ignore[no-untyped-def]
    # (A length would be made a constant.)
    return boxes.new_empty(boxes.shape[0], keep, dtype=torch.int64)
