"""Losses. Each is a scalar: a sum over rows, over `normalizer`, times `weight`; at least in single precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
