"""Anchors, and boxes relative to them. Boxes are x1, y1, x2, y2 in pixels of the network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_grid(
    like: Tensor, *, scales: Sequence[float], ratios: Sequence[float], base: float | None, offset: float, step: float
) -> Tensor:
    """The anchors of a feature `like` (N, C, H, W): (H * W * A, 4) boxes, rows in the order y, x, anchor.

    A cell has one anchor for each ratio and, within it, each scale: of height base * scale * sqrt(ratio) and width
    base * scale / sqrt(ratio), centred at offset * base from the cell's corner. Cells are `step` pixels apart, which is
    also the base where that is None.
    Ren et al., Faster R-CNN, 2015, section 3.1.1; the conventions are those of RetinaNet's published weights.
    """
    base = step if base is None else base
    # Single precision throughout, an operation at a time: where several anchors overlap an object equally, which of
    # them is the best, and so a positive, is decided by the last bit.
    root = torch.tensor(ratios, dtype=torch.float32, device=like.device).sqrt()
    scale = torch.tensor(scales, dtype=torch.float32, device=like.device)
    half_height = 0.5 * (base * root[:, None] * scale).flatten()
    half_width = 0.5 * (base * (1 / root)[:, None] * scale).flatten()
    centre = offset * base
    cell = torch.stack((centre - half_width, centre - half_height, centre + half_width, centre + half_height), dim=-1)
    x = torch.arange(like.shape[-1], dtype=torch.float32, device=like.device) * step
    y = torch.arange(like.shape[-2], dtype=torch.float32, device=like.device) * step
    y, x = torch.meshgrid(y, x, indexing="ij")
    shift = torch.stack((x, y, x, y), dim=-1)
    return (shift[:, :, None] + cell).reshape(-1, 4)


# Sides of a box count as at least this many pixels where they are divided by.
_TINY = 1e-6


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) boxes -> (..., 2) centres and (..., 2) sizes, x before y."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low


def encode_delta(anchors: Tensor, boxes: Tensor, *, means: Sequence[float], stds: Sequence[float]) -> Tensor:
    """How far `boxes` (N, K, 4) are from `anchors` (K, 4) or (N, K, 4), as the (N, K, 4) that a head regresses.

    Centres as a fraction of the anchor's size, sizes as the logarithm of their ratio; less `means`, over `stds`.
    Girshick et al., R-CNN, 2014, appendix C.
    """
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre, size = _centre_and_size(boxes)
    # Rows that stand for nothing have boxes without an area; what is never used must not become NaN either.
    anchor_size, size = anchor_size.clamp(min=_TINY), size.clamp(min=_TINY)
    delta = torch.cat(((centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)), dim=-1)
    return (delta - delta.new_tensor(means)) / delta.new_tensor(stds)


def decode_delta(
    anchors: Tensor,
    deltas: Tensor,
    image: Tensor,
    *,
    means: Sequence[float],
    stds: Sequence[float],
    clip_ratio: float,
    clip: bool,
) -> Tensor:
    """The inverse of `encode_delta`: boxes (N, k, 4) from anchors and deltas (N, k, 4), with `clip` clipped to `image`
    (N, 3, H, W).

    A box's size changes by at most a factor of 1 / `clip_ratio` either way, which keeps early training finite.
    """
    # In half precision a box's corner would be off by up to a pixel in 2000.
    deltas = deltas.float()
    deltas = deltas * deltas.new_tensor(stds) + deltas.new_tensor(means)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    limit = abs(math.log(clip_ratio))
    centre = anchor_centre + anchor_size * deltas[..., :2]
    half = 0.5 * (anchor_size * deltas[..., 2:].clamp(-limit, limit).exp())
    if not clip:
        return torch.cat((centre - half, centre + half), dim=-1)
    height, width = image.shape[-2:]
    x1, y1 = (centre - half).unbind(-1)
    x2, y2 = (centre + half).unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1)
