"""Regions: RoIAlign, samples, mask targets and losses, against slow and obvious references."""

from __future__ import annotations

import math

import pytest
import torch

from detc.runtime.kernels import KERNELS


def bilinear(feature, y, x):
    """The value at a point of (C, H, W), 0 beyond the border by more than a pixel."""
    _, height, width = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(feature.shape[0], dtype=feature.dtype)
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    above = feature[:, y0, x0] * (1 - (x - x0)) + feature[:, y0, x1] * (x - x0)
    below = feature[:, y1, x0] * (1 - (x - x0)) + feature[:, y1, x1] * (x - x0)
    return above * (1 - (y - y0)) + below * (y - y0)


def slow_roi_align(feature, box, stride, size, samples):
    """One region of (C, H, W), point by point."""
    x1, y1, x2, y2 = (v / stride - 0.5 for v in box)
    height, width = y2 - y1, x2 - x1
    down = samples or math.ceil(height / size)
    across = samples or math.ceil(width / size)
    result = torch.zeros(feature.shape[0], size, size, dtype=feature.dtype)
    for i in range(size):
        for j in range(size):
            for a in range(down):
                for b in range(across):
                    y = y1 + (i + (a + 0.5) / down) * height / size
                    x = x1 + (j + (b + 0.5) / across) * width / size
                    result[:, i, j] += bilinear(feature, y, x) / max(1, down * across)
    return result


BOXES = [
    [3.0, 5.0, 30.0, 41.0],
    [-6.0, -9.0, 20.0, 11.0],
    [50.0, 40.0, 75.0, 66.0],
    [0.0, 0.0, 64.0, 48.0],
    [10.0, 10.0, 10.0, 20.0],
    [30.0, 30.0, 20.0, 10.0],
    [7.3, 8.1, 8.4, 9.9],
]


@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_is_the_mean_of_interpolated_points(samples):
    torch.manual_seed(0)
    features = [torch.randn(2, 3, 48 // s, 64 // s, dtype=torch.float64) for s in (4, 8)]
    boxes = torch.tensor([BOXES, BOXES[::-1]])
    level = torch.tensor([[0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1]])
    found = KERNELS["roi_align"](features, boxes, level, size=3, samples=samples, strides=(4, 8))
    assert found.shape == (14, 3, 3, 3)
    for n in range(2):
        for r, box in enumerate(boxes[n].tolist()):
            which = int(level[n, r])
            expected = slow_roi_align(features[which][n], box, (4, 8)[which], 3, samples)
            torch.testing.assert_close(found[n * 7 + r], expected, rtol=1e-5, atol=1e-6)


def test_roi_align_has_the_gradient_of_its_sum():
    torch.manual_seed(0)
    features = [torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    boxes, level = torch.tensor([BOXES[:4]]) / 2, torch.tensor([[0, 1, 1, 0]])

    def align(*given):
        return KERNELS["roi_align"](given, boxes, level, size=2, samples=0, strides=(4, 4))

    assert torch.autograd.gradcheck(align, features, eps=1e-5, atol=1e-6)


def test_roi_align_of_no_regions_and_of_nonsense():
    feature = torch.randn(1, 2, 6, 8)
    options = {"size": 2, "samples": 0, "strides": (4,)}
    assert KERNELS["roi_align"]([feature], torch.zeros(1, 0, 4), torch.zeros(1, 0).long(), **options).shape == (
        0,
        2,
        2,
        2,
    )
    nonsense = torch.tensor([[[math.nan] * 4, [0.0, 0.0, math.inf, 4.0]]])
    level = KERNELS["assign_levels"](nonsense, count=1, finest=56.0)
    assert level.tolist() == [[0, 0]]
    assert KERNELS["roi_align"]([feature], nonsense, level, **options)[0].abs().sum() == 0


def test_roi_align_is_one_node_for_export_and_compile():
    class Cut(torch.nn.Module):
        def forward(self, feature, boxes):
            level = KERNELS["assign_levels"](boxes, count=1, finest=56.0)
            return KERNELS["roi_align"]([feature], boxes, level, size=2, samples=0, strides=(4,))

    inputs = torch.randn(1, 2, 6, 8), torch.tensor([BOXES[:3]])
    program = torch.export.export(Cut(), inputs)
    assert any("detc.roi_align" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*inputs), Cut()(*inputs))


def test_regions_go_to_the_level_of_their_size():
    def square(side):
        return [0.0, 0.0, side, side]

    boxes = torch.tensor([[square(s) for s in (10, 111, 112, 223, 224, 447, 448, 5000)]])
    assert KERNELS["assign_levels"](boxes, count=4, finest=56.0).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]


def test_what_is_absent_has_no_score():
    boxes = torch.tensor([[[0.0, 0.0, 5.0, 5.0], [3.0, 3.0, 3.0, 9.0], [4.0, 4.0, 2.0, 2.0]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert KERNELS["drop_small"](boxes, scores, minimum=0.0).tolist() == [[pytest.approx(0.9), 0, 0]]
    assert KERNELS["drop_small"](boxes, scores, minimum=5.0).tolist() == [[0, 0, 0]]
    dropped = KERNELS["drop_absent"](torch.ones(1, 3, 2), torch.tensor([[0.5, 0.0, 0.1]]))
    assert dropped.tolist() == [[[1, 1], [0, 0], [1, 1]]]


def test_fields_of_a_class():
    x = torch.arange(24.0).reshape(1, 3, 8)
    classes = torch.tensor([[1, 0, 2]])
    assert KERNELS["take_class"](x, classes, fields=4).tolist() == [[[4, 5, 6, 7], [8, 9, 10, 11], [16, 17, 18, 19]]]
    maps = torch.arange(6.0).reshape(3, 2, 1, 1)
    assert KERNELS["take_channel"](maps, torch.tensor([[1, -1, 0]])).flatten().tolist() == [1, 2, 4]


# ---- targets ---------------------------------------------------------------------------------------------------------

ASSIGN = {"positive": 0.5, "negative": 0.3, "minimum": 0.1, "low_quality": False, "classes": 3}


def test_regions_take_the_object_they_overlap_and_absent_ones_none():
    truth = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[2, 1, -1]])
    boxes = torch.tensor(
        [[[0.0, 0.0, 10.0, 8.0], [20.0, 20.0, 30.0, 24.0], [50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 10.0]]]
    )
    scores = torch.tensor([[0.9, 0.9, 0.9, 0.0]])
    found, objects = KERNELS["assign_regions"](boxes, scores, truth, labels, **ASSIGN)
    assert found.tolist() == [[2, -1, 3, -1]]
    assert objects.tolist() == [[0, -1, -1, -1]]
    found, objects = KERNELS["assign_regions"](boxes, scores, truth, labels, **ASSIGN | {"low_quality": True})
    assert found.tolist() == [[2, 1, 3, -1]] and objects.tolist() == [[0, 1, -1, -1]]


def test_regions_without_objects_are_background():
    boxes, scores = torch.rand(2, 5, 4), torch.ones(2, 5)
    found, objects = KERNELS["assign_regions"](boxes, scores, torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), **ASSIGN)
    assert (found == 3).all() and (objects == -1).all()


def test_anchors_beyond_the_border_take_no_part():
    anchors = torch.tensor([[0.0, 0.0, 9.0, 9.0], [-1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 20.0, 10.0], [0.0, 0.0, 19.9, 9.9]])
    image = torch.zeros(1, 3, 10, 20)
    assert KERNELS["inside"](anchors, image, border=0.0).tolist() == [1, 0, 0, 1]
    assert KERNELS["inside"](anchors, image, border=1.5).tolist() == [1, 1, 1, 1]
    assert KERNELS["inside"](anchors, image, border=None).tolist() == [1, 1, 1, 1]


def test_samples_are_as_many_as_allowed_and_positives_first():
    torch.manual_seed(0)
    labels = torch.tensor([[0] * 10 + [3] * 90, [3] * 60 + [-1] * 40])
    index, positives = KERNELS["sample_rows"](labels, classes=3, count=16, positive=0.25)
    assert index.shape == (2, 16) and positives.shape == (2, 4)
    assert (labels[0][index[0, :4]] == 0).all() and (labels[0][index[0, 4:]] == 3).all()
    assert (labels[1][index[1]] == 3).all() and (positives[1] == -1).all()
    assert all(len(set(row.tolist())) == 16 for row in index)
    again, _ = KERNELS["sample_rows"](labels, classes=3, count=16, positive=0.25)
    assert again.tolist() != index.tolist(), "the draw is random"


def test_fewer_candidates_leave_rows_absent():
    labels = torch.tensor([[0, 3, -1, -1], [-1, -1, -1, -1]])
    index, positives = KERNELS["sample_rows"](labels, classes=3, count=8, positive=0.5)
    assert index.tolist() == [[0, 1], [-1, -1]] and positives.tolist() == [[0], [-1]]
    taken = KERNELS["take_rows"](torch.tensor([[5, 6, 7, 8], [9, 9, 9, 9]]), index, absent=-1)
    assert taken.tolist() == [[5, 6], [-1, -1]]
    kept, samples = KERNELS["keep_rows"](labels, index, classes=3)
    assert kept.tolist() == labels.tolist()
    assert samples == 4, "each image counts at least one of either"


def windowed(masks, windows):
    """Bitmaps (G, H, W) packed as the loader does."""
    flat, rows, offset = [], [], 0
    for mask, (x, y, w, h) in zip(masks, windows, strict=True):
        flat.append(mask[y : y + h, x : x + w].flatten())
        rows.append([offset, x, y, w, h])
        offset += w * h
    return torch.cat(flat), torch.tensor([rows])


def test_mask_targets_are_roi_align_of_the_whole_mask():
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    masks = torch.stack(
        [((x - 20) / 15) ** 2 + ((y - 22) / 18) ** 2 <= 1, ((x - 50) / 13) ** 2 + ((y - 10) / 9) ** 2 <= 1]
    ).to(torch.uint8)
    packed, windows = windowed(masks, [(5, 4, 31, 37), (37, 1, 27, 19)])
    boxes = torch.tensor(
        [[[4.0, 3.0, 37.0, 42.0], [40.0, -3.0, 70.0, 20.0], [0.0, 0.0, 1.0, 1.0], [30.0, 1.0, 60.0, 44.0]]]
    )
    objects = torch.tensor([[0, 1, -1, 0]])
    image = torch.zeros(1, 3, 48, 64)
    found = KERNELS["mask_targets"](boxes, objects, packed, windows, image, size=14)
    for row, number in enumerate(objects[0].tolist()):
        if number < 0:
            assert found[0, row].sum() == 0
            continue
        whole = slow_roi_align(masks[number][None].double(), boxes[0, row].tolist(), 1, 14, 0)[0]
        decided = (whole - 0.5).abs() > 1e-6
        assert ((whole >= 0.5) == found[0, row].bool())[decided].all()


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_cross_entropies_by_hand():
    logits = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [9.0, 9.0, 9.0]]])
    labels = torch.tensor([[0, 2, -1]])
    normalizer = torch.tensor(2.0)
    by_hand = -(logits[0, 0].log_softmax(0)[0] + logits[0, 1].log_softmax(0)[2]) / 2
    found = KERNELS["cross_entropy"](logits, labels, normalizer, weight=3.0)
    assert float(found) == pytest.approx(3 * float(by_hand))
    # Two classes under a sigmoid: label 2 is the background.
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    p = logits[0, :2, :2].sigmoid()
    by_hand = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum() / 2
    found = KERNELS["binary_cross_entropy"](logits[..., :2], labels, normalizer, weight=1.0)
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)


def test_losses_of_boxes_by_hand():
    prediction = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 1.0, 1.0]]])
    target = torch.tensor([[[5.0, 0.0, 15.0, 10.0], [8.0, 0.0, 12.0, 4.0], [0.0, 0.0, 9.0, 9.0]]])
    labels = torch.tensor([[0, 1, 2]])
    options = {"classes": 2, "weight": 1.0}
    one = torch.tensor(1.0)
    # IoU 1/3 and 0; hulls 150 and 48.
    found = KERNELS["giou_loss"](prediction, target, labels, one, **options)
    assert float(found) == pytest.approx((1 - 1 / 3) + (1 + 16 / 48))
    found = KERNELS["iou_loss"](prediction, target, labels, one, **options)
    assert float(found) == pytest.approx(math.log(3) - math.log(1e-6), rel=1e-5)
    same = KERNELS["bounded_iou_loss"](target, target, labels, one, beta=0.2, **options)
    assert float(same) == pytest.approx(0, abs=1e-4)
    # x is off by half the width: (10 - 10) / (10 + 10) = 0; the rest is right.
    found = KERNELS["bounded_iou_loss"](prediction[:, :1], target[:, :1], labels[:, :1], one, beta=0.2, **options)
    assert float(found) == pytest.approx(1 - 0.1, rel=1e-3)


def test_the_mask_loss_is_a_mean_over_rows_with_a_class():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    targets = torch.ones(1, 3, 2, 2)
    found = KERNELS["mask_loss"](logits, targets, torch.tensor([[0, 1, -1]]), classes=2, weight=2.0)
    assert float(found.detach()) == pytest.approx(2 * math.log(2))
    nothing = KERNELS["mask_loss"](logits, targets, torch.tensor([[-1, -1, -1]]), classes=2, weight=1.0)
    nothing.backward()
    assert float(nothing.detach()) == 0 and logits.grad.abs().sum() == 0


# ---- normalisation ---------------------------------------------------------------------------------------------------


def test_standardised_weights_have_mean_0_and_deviation_1():
    attributes = {"channels": 4, "kernel": 3, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    conv = KERNELS["Conv2d"]({"weight": (4, 2, 3, 3)}, bias=False, standardize=True, **attributes).to_empty(
        device="cpu"
    )
    torch.nn.init.uniform_(conv.weight, 3, 5)
    x = torch.randn(1, 2, 3, 3)
    rows = conv.weight.detach().flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    torch.testing.assert_close(conv(x).flatten().detach(), rows @ x.flatten(), rtol=1e-3, atol=1e-3)
