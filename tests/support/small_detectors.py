"""Detectors of every kind, so small that a training step takes a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import torch

import detc
from detc.runtime.detector import Detector

SPEC = """
import ResNet from "lib/backbones.det"
import FPN, NASFPN, FPG from "lib/necks.det"
import RetinaHead, RetinaSepBNHead, Anchors from "lib/heads.det"
import SingleStage, TwoStage from "lib/models.det"
import RPNHead, AnchorSampling from "lib/proposals.det"
import RegionHead, RegionBoxes, RegionMasks, RegionSampling, CascadeRegionHead from "lib/regions.det"

detector retinanet : SingleStage {
    classes  = ["a", "b", "c"]
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..6, extra = "output")
    head     = RetinaHead(stacked = 2, channels = 16, anchors = Anchors(octaves = 1))
}
detector scratch = retinanet with { backbone = ResNet(18, channels = 8, norm = BatchNorm2d(), frozen_stages = -1) }
detector frozen = retinanet with { backbone = ResNet(18, channels = 8, norm = BatchNorm2d(), frozen_stages = 4) }
detector nas_fpn = scratch with {
    neck = NASFPN(16, stack = 2, norm = BatchNorm2d())
    head = RetinaSepBNHead(stacked = 1, channels = 16, anchors = Anchors(octaves = 1))
}
detector fpg = nas_fpn with { neck = FPG(16, pathways = 4) }
detector group_norm = scratch with {
    backbone = ResNet(18, channels = 8, norm = GroupNorm(8), conv = Conv2d(standardize = true))
    neck.norm = GroupNorm(8)
}
detector faster_rcnn : TwoStage {
    classes  = ["a", "b", "c"]
    backbone = ResNet(18, channels = 8)
    neck     = FPG(16, pathways = 4, levels = 2..6, extra_convs = false)
    rpn      = RPNHead(16, sampling = AnchorSampling(count = 16))
    head     = RegionHead(RegionBoxes(features = 32), sampling = RegionSampling(count = 16))
}
detector mask_rcnn = faster_rcnn with {
    head.mask = RegionMasks(convs = 2, channels = 16, norm = BatchNorm2d())
}
detector giou = faster_rcnn with { head.regression = giou_loss  head.decoded = true }
detector cascade = faster_rcnn with {
    head = CascadeRegionHead(
        box = RegionBoxes(agnostic = true, features = 32),
        mask = RegionMasks(convs = 1, channels = 16),
        sampling = RegionSampling(count = 16),
    )
}
"""
NAMES = (
    "retinanet",
    "scratch",
    "frozen",
    "nas_fpn",
    "fpg",
    "group_norm",
    "faster_rcnn",
    "mask_rcnn",
    "giou",
    "cascade",
)


def small_detector(folder: Path, name: str) -> Detector:
    """One of `NAMES`, out of a spec that is written to `folder`."""
    path = folder / "small.det"
    if not path.exists():
        path.write_text(SPEC)
    return detc.load(path, name)


def find_many(module: torch.nn.Module, factor: float = 60.0) -> None:
    """Scales the last layer of RetinaNet with random weights so that it finds many objects in any image; with a small
    factor, none that it is all but sure of: the order of such is a matter of rounding."""
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.endswith("retina_cls.weight"):
                value.mul_(factor)
            if key.endswith("retina_cls.bias"):
                value.fill_(-2.0)
