"""Inputs of train modules, random images and objects, and the sum of what they return."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from detc.compiler.memory import TRUTH


def training_inputs(
    module: torch.fx.GraphModule, height: int, width: int, batch: int, classes: int, objects: int = TRUTH
) -> list[Tensor]:
    """What a train module takes, in its order: `objects` in every image, masks and proposals where it takes them."""
    size = torch.tensor([width, height])
    corners = torch.rand(batch, objects, 2) * 0.6 * size
    sides = (0.05 + 0.3 * torch.rand(batch, objects, 2)) * size
    boxes = torch.cat((corners, corners + sides), dim=2)
    low, high = boxes[..., :2].floor().long(), boxes[..., 2:].ceil().long()
    areas = (high - low).prod(2).flatten()
    starts = (areas.cumsum(0) - areas).reshape(batch, objects, 1)
    given = {
        "image": torch.randn(batch, 3, height, width),
        "truth_boxes": boxes,
        "truth_labels": torch.randint(0, classes, (batch, objects)),
        "truth_masks": torch.ones(int(areas.sum()), dtype=torch.uint8),
        "truth_windows": torch.cat((starts, low, high - low), dim=2),
        "proposals": torch.cat((boxes, boxes + 3), dim=1),
        "proposal_scores": torch.ones(batch, 2 * objects),
    }
    return [given[str(node.target)] for node in module.graph.nodes if node.op == "placeholder"]


def total_loss(losses: Mapping[str, Tensor | tuple[Tensor, ...]]) -> Tensor:
    """The sum of all that a train module returns."""
    return torch.stack([loss for v in losses.values() for loss in (v if isinstance(v, tuple) else (v,))]).sum()
