"""RetinaNet R-50 FPG as one would write it by hand: the yardstick for what modules that detc makes keep in training.

Same keys and arithmetic as `retinanet_r50_fpg_crop640_50e` of specs/fpg.det; Chen et al., 2020. The head's ReLUs work
in place. Those before the grid's convolutions cannot: others take their operands too.
"""

from __future__ import annotations

from typing import Self

from by_hand import ResNet50
from torch import Tensor, nn
from torch.nn import functional

LEVELS = range(3, 8)


class ActConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(functional.relu(x)))


class Upsampled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ActConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2))


class Node(nn.Module):
    def __init__(self, channels: int, level: int) -> None:
        super().__init__()
        self.across_lateral = ActConvNorm(channels, channels, 1)
        self.same_up = ActConvNorm(channels, channels, 3, 2) if level > LEVELS[0] else None
        self.across_down = Upsampled(channels) if level < LEVELS[-1] else None
        self.across_skip = ActConvNorm(channels, channels, 1)

    def forward(
        self, level: int, before: dict[int, Tensor], now: dict[int, Tensor], start: dict[int, Tensor]
    ) -> Tensor:
        y = self.across_lateral(before[level])
        if self.same_up is not None:
            y = self.same_up(now[level - 1]) + y
        if self.across_down is not None:
            y = y + self.across_down(before[level + 1])
        return y + self.across_skip(start[level])


class Output(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv_out = nn.Module()
        self.conv_out.conv = nn.Conv2d(inputs, inputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv_out.conv(functional.relu(x))
        return result


class FPG(nn.Module):
    def __init__(self, channels: int = 256, pathways: int = 9) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(inputs, channels, 1) for inputs in (512, 1024, 2048))
        self.extra_downsamples = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(2))
        self.fpn_transitions = nn.ModuleList(
            nn.ModuleDict({str(level - 3): Node(channels, level) for level in LEVELS if i >= 7 - level})
            for i in range(pathways)
        )
        self.output_transition = nn.ModuleList(Output(channels) for _ in LEVELS)

    def forward(self, c: list[Tensor]) -> list[Tensor]:
        p = {level: conv(x) for level, conv, x in zip(LEVELS, self.lateral_convs, c, strict=False)}
        for level, conv in zip((6, 7), self.extra_downsamples, strict=True):
            p[level] = conv(p[level - 1])
        start = dict(p)
        for pathway in self.fpn_transitions:
            before = dict(p)
            for index, node in pathway.items():
                p[int(index) + 3] = node(int(index) + 3, before, p, start)
        return [convolve(p[level]) for level, convolve in zip(LEVELS, self.output_transition, strict=True)]


class ConvNormAct(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def towers() -> nn.ModuleList:
    """Convolutions that all levels share, with norms of each level's own."""
    shared = [nn.Conv2d(256, 256, 3, 1, 1, bias=False) for _ in range(4)]
    return nn.ModuleList(nn.ModuleList(map(ConvNormAct, shared)) for _ in LEVELS)


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = towers(), towers()
        self.retina_cls = nn.Conv2d(256, 9 * classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(256, 9 * 4, 3, padding=1)

    def forward(self, p: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = [], []
        for level, cls_convs, reg_convs in zip(p, self.cls_convs, self.reg_convs, strict=True):
            x = y = level
            for conv in cls_convs:
                x = conv(x)
            for conv in reg_convs:
                y = conv(y)
            scores.append(self.retina_cls(x))
            deltas.append(self.retina_reg(y))
        return scores, deltas


class RetinaNetFPG(nn.Module):
    """Scores and deltas of five levels, from normalised images (N, 3, H, W). The stem and one stage are frozen."""

    def __init__(self, channels: int = 256, classes: int = 80) -> None:
        super().__init__()
        self.backbone = ResNet50()
        self.neck = FPG(channels)
        self.bbox_head = Head(classes)
        for part in self.frozen():
            part.requires_grad_(False)

    def frozen(self) -> tuple[nn.Module, ...]:
        return self.backbone.conv1, self.backbone.bn1, self.backbone.layer1

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen():
            part.eval()
        return self

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.bbox_head(self.neck(self.backbone(image)))
