"""Anchors, box coding and assignment, against numbers worked by hand and a search of all pairs."""

import math

import pytest
import torch

from detc.runtime.kernels import KERNELS, targets

CODING = {"means": (0.0, 0.0, 0.0, 0.0), "stds": (0.1, 0.1, 0.2, 0.2)}


def test_anchor_sizes_are_ratio_major_and_ratio_is_height_over_width():
    grid = KERNELS["anchor_grid"](
        torch.zeros(1, 1, 1, 1), scales=(4.0, 8.0), ratios=(0.25, 1.0, 4.0), base=10, offset=0.0, step=10
    )
    sizes = (grid[:, 2:] - grid[:, :2]).tolist()
    assert sizes == [[80, 20], [160, 40], [40, 40], [80, 80], [20, 80], [40, 160]]
    assert torch.equal(grid[:, :2], -grid[:, 2:]), "offset 0 centres on the cell's corner"


def test_anchor_rows_are_y_x_anchor_and_cells_are_a_step_apart():
    grid = KERNELS["anchor_grid"](
        torch.zeros(2, 7, 2, 3), scales=(1.0, 2.0), ratios=(1.0,), base=4, offset=0.5, step=16
    ).reshape(2, 3, 2, 4)
    assert grid[0, 0].tolist() == [[0, 0, 4, 4], [-2, -2, 6, 6]]
    assert grid[1, 2].tolist() == [[32, 16, 36, 20], [30, 14, 38, 22]]


def test_encode_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    boxes = torch.tensor([[[5.0, 0.0, 25.0, 10.0]]])
    expected = [1.0 / 0.1, -0.25 / 0.1, math.log(2) / 0.2, math.log(0.5) / 0.2]
    assert KERNELS["encode_delta"](anchors, boxes, **CODING)[0, 0].tolist() == pytest.approx(expected)


def test_decode_undoes_encode_and_clips_to_the_image():
    torch.manual_seed(0)
    low = torch.rand(2, 50, 2) * 60
    anchors = torch.cat((low, low + 5 + torch.rand(2, 50, 2) * 30), dim=-1)
    low = torch.rand(2, 50, 2) * 60
    boxes = torch.cat((low, low + 5 + torch.rand(2, 50, 2) * 30), dim=-1)
    deltas = torch.stack(
        [KERNELS["encode_delta"](a, b[None], **CODING)[0] for a, b in zip(anchors, boxes, strict=True)]
    )
    decoded = KERNELS["decode_delta"](
        anchors, deltas, torch.zeros(2, 3, 200, 200), clip_ratio=0.016, clip=True, **CODING
    )
    assert torch.allclose(decoded, boxes, atol=1e-4)
    clipped = KERNELS["decode_delta"](anchors, deltas, torch.zeros(2, 3, 40, 50), clip_ratio=0.016, clip=True, **CODING)
    assert torch.allclose(clipped[..., 0::2], boxes[..., 0::2].clamp(0, 50), atol=1e-4)
    assert torch.allclose(clipped[..., 1::2], boxes[..., 1::2].clamp(0, 40), atol=1e-4)


def test_decoded_sizes_change_by_at_most_the_clip_ratio():
    anchors = torch.tensor([[[100.0, 100.0, 110.0, 110.0]]])
    deltas = torch.tensor([[[0.0, 0.0, 99.0, -99.0]]])
    box = KERNELS["decode_delta"](anchors, deltas, torch.zeros(1, 3, 999, 999), clip_ratio=0.1, clip=True, **CODING)[
        0, 0
    ]
    assert (box[2] - box[0]).item() == pytest.approx(100, abs=1e-3)
    assert (box[3] - box[1]).item() == pytest.approx(1, abs=1e-3)


def brute_force(anchors, boxes, labels, positive, negative, minimum, low_quality, classes):
    """One image, in Python: (labels, objects) with object None where there is none."""

    def iou(a, b):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return width * height / (areas - width * height)

    objects = [(i, b) for i, (b, label) in enumerate(zip(boxes, labels, strict=True)) if label >= 0]
    table = {(i, k): iou(b, a) for i, b in objects for k, a in enumerate(anchors)}
    result = []
    for k in range(len(anchors)):
        best = max((table[i, k] for i, _ in objects), default=0.0)
        taken = next((i for i, _ in objects if table[i, k] == best), None)
        label = classes if best < negative else -1
        chosen = taken if best >= positive else None
        if low_quality:
            for i, _ in objects:
                most = max(table[i, j] for j in range(len(anchors)))
                if most >= minimum and most > 0 and table[i, k] == most:
                    chosen = i
        result.append((label if chosen is None else labels[chosen], chosen))
    return result


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("entries", [1 << 22, 50])
def test_assignment_agrees_with_a_search_of_all_pairs(monkeypatch, low_quality, entries):
    # Whole coordinates on a coarse grid, so that ties and exact thresholds occur.
    monkeypatch.setattr(targets, "_OVERLAPS", entries)
    torch.manual_seed(1)
    options = {"positive": 0.5, "negative": 0.4, "minimum": 0.1, "low_quality": low_quality, "classes": 5}
    seen = set()
    for _ in range(20):
        low = torch.randint(0, 12, (60, 2)) * 4.0
        anchors = torch.cat((low, low + torch.randint(1, 4, (60, 2)) * 8.0), dim=1)
        low = torch.randint(0, 12, (3, 7, 2)) * 4.0
        boxes = torch.cat((low, low + torch.randint(1, 4, (3, 7, 2)) * 8.0), dim=2)
        labels = torch.randint(0, 5, (3, 7))
        labels[0, 4:], labels[1, 2], labels[2, :] = -1, -1, -1
        got, got_boxes, positives = KERNELS["assign_max_iou"](anchors, boxes, labels, **options)
        count = 0
        for n in range(3):
            expected = brute_force(anchors.double().tolist(), boxes[n].double().tolist(), labels[n].tolist(), **options)
            assert got[n].tolist() == [label for label, _ in expected]
            for k, (_, chosen) in enumerate(expected):
                assert torch.equal(got_boxes[n, k], anchors[k] if chosen is None else boxes[n, chosen])
            count += max(1, sum(chosen is not None for _, chosen in expected))
            seen |= {label for label, _ in expected}
        assert positives.item() == count and positives.shape == ()
    assert seen == {-1, 0, 1, 2, 3, 4, 5}


def assign(anchors, boxes, labels):
    options = {"positive": 0.5, "negative": 0.4, "minimum": 0.0, "low_quality": True, "classes": 80}
    return KERNELS["assign_max_iou"](anchors, boxes, labels, **options)


def test_images_without_objects_are_background():
    anchors = torch.tensor([[0.0, 0, 8, 8], [4.0, 4, 12, 12]])
    labels, boxes, positives = assign(anchors, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert labels.tolist() == [[80, 80], [80, 80]]
    assert torch.equal(boxes, anchors.expand(2, -1, -1))
    assert positives == 2, "each image counts as at least one"


def test_an_object_that_overlaps_no_anchor_takes_none():
    anchors = torch.tensor([[0.0, 0, 8, 8], [4.0, 4, 12, 12]])
    boxes = torch.tensor([[[100.0, 100, 110, 110], [5.0, 5, 5, 9]]])
    labels, _, _ = assign(anchors, boxes, torch.tensor([[3, 4]]))
    assert labels.tolist() == [[80, 80]]


def test_two_thousand_objects_are_assigned_in_parts(monkeypatch):
    grid = KERNELS["anchor_grid"](torch.zeros(1, 1, 40, 40), scales=(4.0,), ratios=(1.0,), base=8, offset=0, step=8)
    torch.manual_seed(0)
    low = torch.rand(1, 2000, 2) * 280
    boxes = torch.cat((low, low + 8 + torch.rand(1, 2000, 2) * 30), dim=2)
    classes = torch.randint(0, 80, (1, 2000))
    largest = 0

    def watched(a, b, measure=targets.overlaps):
        nonlocal largest
        result = measure(a, b)
        largest = max(largest, result.numel())
        return result

    whole = assign(grid, boxes, classes)
    monkeypatch.setattr(targets, "overlaps", watched)
    monkeypatch.setattr(targets, "_OVERLAPS", 1 << 18)
    parts = assign(grid, boxes, classes)
    assert largest <= 1 << 18
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
