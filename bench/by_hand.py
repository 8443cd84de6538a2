"""RetinaNet R-50 FPN as one would write it by hand: the yardstick for modules that detc makes.

Same keys and arithmetic as `retinanet_r50_fpn_1x` of specs/retinanet.det; Lin et al., ICCV 2017.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        if stride != 1 or inputs != 4 * inner:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            inner = 64 * 2**stage
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(inputs, inner, 2 if stage and not block else 1))
                inputs = 4 * inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        found = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            found.append(x)
        return found[1:]


class ConvModule(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(inputs, 256, 1) for inputs in (512, 1024, 2048))
        self.fpn_convs = nn.ModuleList(
            [*(ConvModule(256, 256, 3) for _ in range(3)), ConvModule(2048, 256, 3, 2), ConvModule(256, 256, 3, 2)]
        )

    def forward(self, c: list[Tensor]) -> list[Tensor]:
        merged = [conv(x) for conv, x in zip(self.lateral_convs, c, strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + functional.interpolate(merged[i + 1], size=merged[i].shape[-2:])
        p = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=False)]
        p.append(self.fpn_convs[3](c[-1]))
        p.append(self.fpn_convs[4](p[-1]))
        return p


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(ConvModule(256, 256, 3) for _ in range(4))
        self.reg_convs = nn.ModuleList(ConvModule(256, 256, 3) for _ in range(4))
        self.retina_cls = nn.Conv2d(256, 9 * classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(256, 9 * 4, 3, padding=1)

    def forward(self, p: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, deltas = [], []
        for level in p:
            x = y = level
            for conv in self.cls_convs:
                x = functional.relu(conv(x))
            for conv in self.reg_convs:
                y = functional.relu(conv(y))
            scores.append(self.retina_cls(x))
            deltas.append(self.retina_reg(y))
        return scores, deltas


class RetinaNet(nn.Module):
    """Scores and deltas of five levels, from normalised images (N, 3, H, W)."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = ResNet50()
        self.neck = FPN()
        self.bbox_head = Head(classes)

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.bbox_head(self.neck(self.backbone(image)))
