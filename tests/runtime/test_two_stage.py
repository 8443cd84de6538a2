"""Two-stage detectors as a whole, small: what training does with odd truth, and what is wrong in a spec."""

from __future__ import annotations

import pytest
import torch

import detc
from detc.dsl.diagnostics import DiagnosticError

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RPNHead, Proposals from "lib/proposals.det"
import RegionHead, CascadeRegionHead, RegionBoxes, RegionMasks, Stage from "lib/regions.det"
import TwoStage from "lib/models.det"

detector mask : TwoStage {
    classes  = ["cat", "dog", "cow"]
    backbone = ResNet(18, channels = 8, frozen_stages = -1)
    neck     = FPN(16)
    rpn      = RPNHead(16)
    head     = RegionHead(box = RegionBoxes(features = 16), mask = RegionMasks(convs = 1, channels = 8))
    proposals = Proposals(before = 60, keep = 40)
    training_proposals = Proposals(before = 80, keep = 60)
}

detector cascade = mask with {
    head = CascadeRegionHead(
        box = RegionBoxes(features = 16, agnostic = true),
        mask = RegionMasks(convs = 1, channels = 8),
    )
}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("spec") / "small.det"
    file.write_text(SPEC)
    return file


def truth(objects: int, side: int = 96):
    """`objects` squares with full masks, as the loader packs them."""
    torch.manual_seed(1)
    corner = torch.randint(0, side - 40, (1, max(1, objects), 2)).float()
    boxes = torch.cat((corner, corner + torch.randint(24, 40, corner.shape)), dim=-1)
    labels = torch.randint(0, 3, boxes.shape[:2])
    windows, offset = [], 0
    for x1, y1, x2, y2 in boxes[0].long().tolist():
        windows.append([offset, x1, y1, x2 - x1, y2 - y1])
        offset += (x2 - x1) * (y2 - y1)
    if objects == 0:
        boxes, labels, windows, offset = boxes * 0, labels * 0 - 1, [[0] * 5], 0
    return {
        "image": torch.randn(1, 3, side, side),
        "truth_boxes": boxes,
        "truth_labels": labels,
        "truth_masks": torch.ones(offset, dtype=torch.uint8),
        "truth_windows": torch.tensor([windows]),
    }


def trained(module, **inputs):
    losses = module(**inputs)
    total = torch.stack([v for loss in losses.values() for v in (loss if isinstance(loss, tuple) else (loss,))]).sum()
    total.backward()
    return losses


@pytest.mark.parametrize("name", ["mask", "cascade"])
def test_an_image_without_objects_trains_scores_and_nothing_else(path, name):
    torch.manual_seed(0)
    module = detc.load(path, name).module("train").train()
    losses = trained(module, **truth(0))
    for loss, value in losses.items():
        total = float(sum(value) if isinstance(value, tuple) else value)
        assert (total > 0) == loss.endswith("cls"), loss
    gradients = {key: p.grad for key, p in module.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    for key, gradient in gradients.items():
        if "mask_head" in key or "fc_reg" in key or "rpn_reg" in key:
            assert gradient.abs().sum() == 0, key
        if key.endswith(("fc_cls.weight", "rpn_cls.weight")):
            assert gradient.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["mask", "cascade"])
def test_objects_train_everything(path, name):
    torch.manual_seed(0)
    detector = detc.load(path, name)
    module = detector.module("train").train()
    losses = trained(module, **truth(5))
    assert all(float(sum(v) if isinstance(v, tuple) else v) > 0 for v in losses.values())
    still = [k for k, p in module.named_parameters() if p.requires_grad and p.grad.abs().sum() == 0]
    assert not [key for key in still if "bias" not in key]
    assert not detector.warnings


def test_no_more_regions_are_trained_on_than_the_head_samples(path):
    seen = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            seen[node.name] = result
            return result

    module = detc.load(path, "mask").module("train").train()
    given = truth(2000)
    Watch(module).run(*(given[n.name] for n in module.graph.nodes if n.op == "placeholder"))
    index, positives = next(v for k, v in seen.items() if k == "roi_head_sample_rows")
    assert index.shape[1] <= 512 and positives.shape == (1, 128)
    assert seen["roi_head_mask_head_conv_logits"].shape[0] == positives.shape[1]


def test_masks_are_predicted_for_the_detections_alone(path):
    torch.manual_seed(0)
    module = detc.load(path, "mask").module("predict").eval()
    with torch.inference_mode():
        found = module(torch.randn(2, 3, 64, 96))
    assert found["masks"].shape == (2, 100, 28, 28) and found["boxes"].shape == (2, 100, 4)
    assert (found["masks"] >= 0).all() and (found["masks"] <= 1).all()
    assert ((found["scores"] == 0) == (found["classes"] == -1)).all()


def test_proposals_take_no_gradient_from_what_is_made_of_them(path):
    """The boxes of a region come from the proposal network, which only its own losses train."""
    torch.manual_seed(0)
    module = detc.load(path, "mask").module("train").train()
    losses = module(**truth(5))
    (losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]).backward()
    parameters = dict(module.named_parameters())
    assert parameters["rpn_head.rpn_reg.weight"].grad is None
    assert parameters["neck.fpn_convs.0.conv.weight"].grad.abs().sum() > 0


BAD = [
    ("neck = FPN(16, levels = 3..6)", "missing-level", "there is no level 2"),
    ("head = CascadeRegionHead(box = RegionBoxes())", "requirement-failed", "RegionBoxes(agnostic = true)"),
    ("head = CascadeRegionHead(stages = [])", "requirement-failed", "at least one stage"),
    ("head = CascadeRegionHead(stages = [Stage(0.5, 1.0, [0.1, 0.2])])", "requirement-failed", "four numbers"),
    ("head = CascadeRegionHead(stages = [Stage(0.5, 1.0)])", "missing-argument", "Stage needs stds"),
    ("neck = none", "label-conflict", "rpn_head.rpn_conv"),
    ("head.sampling.share = 1.5", "requirement-failed", "a share of it"),
]


@pytest.mark.parametrize(("field", "slug", "text"), BAD)
def test_what_does_not_fit_is_told_once(path, field, slug, text):
    wrong = path.with_name("wrong.det")
    wrong.write_text(SPEC + f"detector wrong = mask with {{ {field} }}\n")
    with pytest.raises(DiagnosticError) as raised:
        detc.load(wrong, "wrong")
    kinds = {diagnostic.kind.slug for diagnostic in raised.value.diagnostics}
    assert kinds == {slug}
    assert text in str(raised.value)
    shown = [label.span.source.name for label in raised.value.diagnostics[0].labels]
    assert shown[-1].endswith("wrong.det"), "the user's own line is among those shown"
