"""RetinaNet's targets and losses as one would write them by hand in eager PyTorch. Lin et al., ICCV 2017.

An anchor is positive at IoU 0.5 or more, negative below 0.4; each object also takes the anchors that overlap it most.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32, 64, 128)


class RetinaNetLoss(nn.Module):
    def __init__(self, model: nn.Module, classes: int = 80) -> None:
        super().__init__()
        self.model = model
        self.classes = classes
        self.anchors: dict[tuple[int, int], Tensor] = {}

    def grid(self, height: int, width: int) -> Tensor:
        """The anchors (K, 4) of an image, kept for the next of its size."""
        if (height, width) not in self.anchors:
            levels = []
            for stride in STRIDES:
                rows, columns = -(-height // stride), -(-width // stride)
                ratios = torch.tensor([0.5, 1.0, 2.0]).sqrt()
                scales = 4 * stride * 2 ** (torch.arange(3) / 3)
                half_w = (scales[None] / ratios[:, None] / 2).flatten()
                half_h = (scales[None] * ratios[:, None] / 2).flatten()
                base = torch.stack((-half_w, -half_h, half_w, half_h), 1)
                y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
                shift = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4)
                levels.append((shift + base).reshape(-1, 4))
            self.anchors[height, width] = torch.cat(levels)
        return self.anchors[height, width]

    @torch.no_grad()
    def assign(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each anchor, `classes` for background and -1 for ignored, and its object's box."""
        low = torch.maximum(anchors[:, None, :2], boxes[None, :, :2])
        high = torch.minimum(anchors[:, None, 2:], boxes[None, :, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        area = (anchors[:, 2:] - anchors[:, :2]).prod(-1)
        truth_area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        iou = shared / (area[:, None] + truth_area[None] - shared)
        best, index = iou.max(1)
        assigned = torch.full_like(index, self.classes)
        assigned[best >= 0.4] = -1
        assigned[best >= 0.5] = labels[index[best >= 0.5]]
        for number in range(len(boxes)):
            own = iou[:, number] == iou[:, number].max()
            assigned[own], index[own] = labels[number], number
        return assigned, boxes[index]

    def forward(self, image: Tensor, truth_boxes: Tensor, truth_labels: Tensor) -> Tensor:
        batch = len(image)
        scores, deltas = self.model(image)
        logits = torch.cat([s.permute(0, 2, 3, 1).reshape(batch, -1, self.classes) for s in scores], 1)
        offsets = torch.cat([d.permute(0, 2, 3, 1).reshape(batch, -1, 4) for d in deltas], 1)
        anchors = self.grid(*image.shape[-2:])
        found = [self.assign(anchors, boxes, labels) for boxes, labels in zip(truth_boxes, truth_labels, strict=True)]
        labels, boxes = (torch.stack(part) for part in zip(*found, strict=True))
        positive = (labels >= 0) & (labels < self.classes)
        counted = labels >= 0
        count = positive.sum().clamp(min=1)
        chosen, target = logits[counted], functional.one_hot(labels[counted], self.classes + 1)[:, :-1].float()
        p = chosen.sigmoid()
        weight = (0.25 * target + 0.75 * (1 - target)) * (p * (1 - target) + (1 - p) * target).pow(2)
        classification = (functional.binary_cross_entropy_with_logits(chosen, target, reduction="none") * weight).sum()
        own, wanted = anchors.expand(batch, -1, -1)[positive], boxes[positive]
        size, wanted_size = own[:, 2:] - own[:, :2], wanted[:, 2:] - wanted[:, :2]
        shift = (wanted[:, :2] + wanted[:, 2:] - own[:, :2] - own[:, 2:]) / 2 / size
        encoded = torch.cat((shift, (wanted_size / size).log()), 1)
        return (classification + (offsets[positive] - encoded).abs().sum()) / count
