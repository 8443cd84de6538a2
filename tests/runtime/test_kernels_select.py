"""Selection and suppression, against slow and obvious references."""

import pytest
import torch

from detc.runtime.kernels import KERNELS


def test_select_top_agrees_with_sorting_everything():
    torch.manual_seed(0)
    scores = torch.rand(3, 40, 7)
    value, index, label = KERNELS["select_top"](scores, count=25, threshold=0.9)
    for n in range(3):
        order = sorted(((s, k, c) for k, row in enumerate(scores[n].tolist()) for c, s in enumerate(row)), reverse=True)
        for (s, k, c), v, i, j in zip(order, value[n].tolist(), index[n].tolist(), label[n].tolist(), strict=False):
            assert (v, i, j) == (s if s > 0.9 else 0.0, k, c)
    assert index.dtype == label.dtype == torch.int64
    assert (value == 0).any() and (value > 0.9).any()


def test_select_top_takes_all_of_fewer_and_the_threshold_is_not_included():
    scores = torch.tensor([[[0.5, 0.25], [0.75, 0.05]]])
    value, index, label = KERNELS["select_top"](scores, count=10, threshold=0.25)
    assert value.tolist() == [[0.75, 0.5, 0.0, 0.0]]
    assert index[0, :2].tolist() == [1, 0] and label[0, :2].tolist() == [0, 0]


def test_gather_rows_of_shared_and_of_batched_rows():
    rows = torch.arange(12.0).reshape(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert KERNELS["gather_rows"](rows, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert KERNELS["gather_rows"](rows[0], index).tolist() == [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]


def slow_nms(boxes, scores, classes, iou, keep):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if scores[i] == 0:
            continue
        a = boxes[i]
        for j in kept:
            b = boxes[j]
            shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            if classes[i] == classes[j] and shared > iou * union:
                break
        else:
            kept.append(i)
    return kept[:keep]


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("keep", [10, 400])
def test_nms_agrees_with_the_obvious_loop(iou, keep):
    torch.manual_seed(2)
    low = torch.rand(2, 300, 2) * 60
    boxes = torch.cat((low, low + 5 + torch.rand(2, 300, 2) * 30), dim=2)
    scores = torch.rand(2, 300)
    scores[:, ::5] = 0
    classes = torch.randint(0, 3, (2, 300))
    got_boxes, got_scores, got_classes = KERNELS["nms"](boxes, scores, classes, iou=iou, keep=keep)
    assert got_boxes.shape == (2, keep, 4) and got_scores.shape == got_classes.shape == (2, keep)
    for n in range(2):
        kept = slow_nms(boxes[n].tolist(), scores[n].tolist(), classes[n].tolist(), iou, keep)
        assert 5 < len(kept) < 240
        assert torch.equal(got_boxes[n, : len(kept)], boxes[n, kept])
        assert torch.equal(got_scores[n, : len(kept)], scores[n, kept])
        assert torch.equal(got_classes[n, : len(kept)], classes[n, kept])
        assert (got_scores[n, len(kept) :] == 0).all() and (got_classes[n, len(kept) :] == -1).all()
        assert (got_boxes[n, len(kept) :] == 0).all()


def nms(boxes, scores, classes, iou=0.5):
    return KERNELS["nms"](
        torch.tensor([boxes], dtype=torch.float32), torch.tensor([scores]), torch.tensor([classes]), iou=iou, keep=3
    )


def test_an_overlap_of_exactly_the_limit_is_kept():
    _, scores, _ = nms([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], [1, 1])
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, 0])
    _, scores, _ = nms([[0, 0, 10, 10], [0, 0, 10, 6]], [0.9, 0.8], [1, 1])
    assert scores[0].tolist() == pytest.approx([0.9, 0, 0])


def test_a_suppressed_box_suppresses_nothing():
    boxes = [[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]]
    _, scores, _ = nms(boxes, [0.9, 0.8, 0.7], [0, 0, 0], iou=0.4)
    assert scores[0].tolist() == pytest.approx([0.9, 0.7, 0])


def test_boxes_without_area_are_kept_once():
    _, scores, _ = nms([[5, 5, 5, 5], [5, 5, 5, 5]], [0.9, 0.8], [0, 0])
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, 0])


class Postprocess(torch.nn.Module):
    """A predict view in small: every kernel of it in one module."""

    def forward(self, image, logits, deltas):
        grid = KERNELS["anchor_grid"](logits, scales=(1.0, 2.0), ratios=(1.0,), base=8, offset=0.5, step=8)
        scores = torch.sigmoid(KERNELS["per_anchor"](logits, fields=3))
        score, row, label = KERNELS["select_top"](scores, count=20, threshold=0.3)
        boxes = KERNELS["decode_delta"](
            KERNELS["gather_rows"](grid, row),
            KERNELS["gather_rows"](KERNELS["per_anchor"](deltas, fields=4), row),
            image,
            means=(0.0,) * 4,
            stds=(1.0,) * 4,
            clip_ratio=0.016,
            clip=True,
        )
        return KERNELS["nms"](boxes, score, label, iou=0.5, keep=5)


def postprocess_inputs(batch, height, width):
    return (
        torch.rand(batch, 3, 8 * height, 8 * width),
        torch.randn(batch, 6, height, width),
        torch.randn(batch, 8, height, width),
    )


def test_predict_kernels_export_with_any_batch_and_size():
    torch.manual_seed(0)
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    sizes = {0: batch, 2: height, 3: width}
    program = torch.export.export(
        Postprocess(),
        postprocess_inputs(2, 4, 5),
        dynamic_shapes=({0: batch, 2: 8 * height, 3: 8 * width}, sizes, sizes),
    )
    inputs = postprocess_inputs(3, 6, 7)
    for got, expected in zip(program.module()(*inputs), Postprocess()(*inputs), strict=True):
        assert torch.equal(got, expected)
