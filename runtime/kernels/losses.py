"""Losses. Each is a scalar: a sum over rows, over `normalizer`, times `weight`; at least in single precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detc.runtime.kernels.joint import joint_count


def focal_loss(
    logits: Tensor, labels: Tensor, normalizer: Tensor, *, gamma: float, alpha: float, weight: float
) -> Tensor:
    """Sigmoid focal loss. Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5.

    `logits` is (N, K, C) and `labels` (N, K) int64: a class below C, C for background, -1 for rows that do not count.
    """
    logits = logits.float()
    classes = torch.arange(logits.shape[-1], device=logits.device)
    is_class = labels[..., None] == classes
    # Against the target a logit counts by how far it errs: then 1 - p_t is its sigmoid and -log p_t its softplus.
    error = torch.where(is_class, -logits, logits)
    balance = torch.where(is_class, alpha, 1 - alpha)
    loss = balance * error.sigmoid().pow(gamma) * functional.softplus(error)
    return weight * torch.where(labels[..., None] >= 0, loss, 0.0).sum() / normalizer


def _matched_sum(loss: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The sum of loss (N, K, 4) over rows whose label (N, K) is a class."""
    matched = (labels >= 0) & (labels < classes)
    return torch.where(matched[..., None], loss, 0.0).sum()


def l1_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, normalizer: Tensor, *, classes: int, weight: float
) -> Tensor:
    """The sum of absolute differences of `prediction` and `target` (N, K, 4).

    Over rows whose label (`labels` (N, K)) is one of the `classes`: background and ignored rows have no box.
    """
    return weight * _matched_sum((prediction.float() - target).abs(), labels, classes) / normalizer


def smooth_l1_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, normalizer: Tensor, *, beta: float, classes: int, weight: float
) -> Tensor:
    """As `l1_loss`, but quadratic below `beta`, where its slope meets one. Girshick, Fast R-CNN, 2015, equation 3."""
    loss = functional.smooth_l1_loss(prediction.float(), target, reduction="none", beta=beta)
    return weight * _matched_sum(loss, labels, classes) / normalizer


def binary_cross_entropy(logits: Tensor, labels: Tensor, normalizer: Tensor, *, weight: float) -> Tensor:
    """Cross-entropy under a sigmoid for each class: `logits` (N, K, C), `labels` (N, K) as those of `focal_loss`."""
    logits = logits.float()
    is_class = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    loss = functional.binary_cross_entropy_with_logits(logits, is_class.to(logits.dtype), reduction="none")
    return weight * torch.where(labels[..., None] >= 0, loss, 0.0).sum() / normalizer


def cross_entropy(logits: Tensor, labels: Tensor, normalizer: Tensor, *, weight: float) -> Tensor:
    """Cross-entropy under a softmax: `logits` (N, K, C + 1), `labels` (N, K) int64, C for background, -1 for rows that
    do not count."""
    loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
    return weight * loss / normalizer


def _paired(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union, in square pixels, of (..., 4) boxes and as many others: (...) each."""
    sides = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    other_area = (others[..., 2:] - others[..., :2]).prod(-1)
    return shared, (area + other_area - shared).clamp(min=1e-6)


def iou_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, normalizer: Tensor, *, classes: int, weight: float
) -> Tensor:
    """-log IoU of boxes (N, K, 4) in pixels, over rows labelled with a class. Yu et al., UnitBox, 2016, equation 4."""
    shared, union = _paired(prediction.float(), target)
    loss = -(shared / union).clamp(min=1e-6).log()
    return weight * _matched_sum(loss[..., None], labels, classes) / normalizer


def giou_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, normalizer: Tensor, *, classes: int, weight: float
) -> Tensor:
    """1 - GIoU of boxes (N, K, 4) in pixels, over rows labelled with a class. Rezatofighi et al., 2019, algorithm 1."""
    prediction = prediction.float()
    shared, union = _paired(prediction, target)
    low = torch.minimum(prediction[..., :2], target[..., :2])
    high = torch.maximum(prediction[..., 2:], target[..., 2:])
    hull = (high - low).clamp(0).prod(-1).clamp(min=1e-6)
    loss = 1 - (shared / union - (hull - union) / hull)
    return weight * _matched_sum(loss[..., None], labels, classes) / normalizer


def bounded_iou_loss(
    prediction: Tensor, target: Tensor, labels: Tensor, normalizer: Tensor, *, beta: float, classes: int, weight: float
) -> Tensor:
    """Smooth L1 of 1 - b for x, y, width and height of boxes (N, K, 4), over rows labelled with a class.

    b is the best IoU that a box with the predicted value could have. Tychsen-Smith and Petersson, 2018, section 3.
    """
    prediction = prediction.float()
    size, true_size = prediction[..., 2:] - prediction[..., :2], target[..., 2:] - target[..., :2]
    off = (target[..., :2] + target[..., 2:] - prediction[..., :2] - prediction[..., 2:]).abs() / 2
    of_centre = ((true_size - 2 * off) / (true_size + 2 * off + 1e-3)).clamp(min=0)
    of_size = torch.minimum(true_size / (size + 1e-3), size / (true_size + 1e-3))
    error = 1 - torch.cat((of_centre, of_size), dim=-1)
    loss = torch.where(error < beta, 0.5 * error * error / beta, error - 0.5 * beta)
    return weight * _matched_sum(loss, labels, classes) / normalizer


def mask_loss(logits: Tensor, targets: Tensor, labels: Tensor, *, classes: int, weight: float) -> Tensor:
    """The mean cross-entropy of the cells of `logits` (N, T, H, W) with `targets`, over rows labelled with a class.

    `labels` is (N, T). 0 where no row has a class. Rows are a `joint_count`. He et al., Mask R-CNN, 2017, section 3.
    """
    matched = ((labels >= 0) & (labels < classes))[:, :, None, None]
    loss = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    cells = joint_count(matched.sum()) * (targets.shape[-2] * targets.shape[-1])
    return weight * torch.where(matched, loss, 0.0).sum() / cells
