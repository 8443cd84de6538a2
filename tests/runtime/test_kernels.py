"""Features and losses: numbers worked by hand, and what torch itself computes another way."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from detc.compiler.modules import Loader, specs_folder
from detc.runtime.kernels import KERNELS

BATCH_NORM = {"weight": (2,), "bias": (2,), "running_mean": (2,), "running_var": (2,), "num_batches_tracked": ()}


def batch_norm(**attributes):
    options = {"eps": 1e-12, "momentum": 0.1, "fixed": False, "trainable": True} | attributes
    norm = KERNELS["BatchNorm2d"](BATCH_NORM, **options).to_empty(device="cpu")
    norm.reset_parameters()
    return norm


def test_every_op_has_a_kernel_and_a_line_in_the_architecture():
    library = Loader().load(specs_folder() / "lib" / "ops.det")
    ops = {d.name for d in library.file.declarations if getattr(d, "kind", "") == "op"}
    assert len(ops) > 50
    assert ops <= set(KERNELS)
    document = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert {op for op in ops if f"`{op}`" not in document} == set()


def test_conv2d_has_the_declared_tensors_and_is_torchs_own():
    attributes = {
        "channels": 6,
        "kernel": 3,
        "stride": 2,
        "padding": 1,
        "dilation": 1,
        "groups": 2,
        "standardize": False,
    }
    conv = KERNELS["Conv2d"]({"weight": (6, 2, 3, 3)}, bias=False, **attributes)
    assert type(conv) is torch.nn.Conv2d
    assert {k: tuple(v.shape) for k, v in conv.state_dict().items()} == {"weight": (6, 2, 3, 3)}
    conv = conv.to_empty(device="cpu")
    torch.nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 4, 5, 5))
    assert out.shape == (1, 6, 3, 3)
    assert out[0, 0].tolist() == [[8, 12, 8], [12, 18, 12], [8, 12, 8]]


def test_fixed_batch_norm_neither_uses_nor_updates_the_statistics_of_a_batch():
    norm = copy.deepcopy(batch_norm(fixed=True)).train()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    x = torch.tensor([5.0, 9.0]).reshape(1, 2, 1, 1)
    assert norm(x).flatten().tolist() == pytest.approx([2.0, 4.0])
    assert norm.running_mean.tolist() == [1.0, 1.0] and norm.num_batches_tracked == 0
    assert norm.weight.requires_grad


def test_batch_norm_that_is_not_trainable_still_follows_the_batch():
    norm = batch_norm(trainable=False).train()
    assert not norm.weight.requires_grad and not norm.bias.requires_grad
    norm(torch.full((2, 2, 1, 2), 10.0))
    assert norm.running_mean.tolist() == [1.0, 1.0]


def test_max_pool_floors_and_pads():
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert KERNELS["max_pool"](x, kernel=2, stride=2, padding=0)[0, 0].tolist() == [[6, 8], [16, 18]]
    assert KERNELS["max_pool"](-x - 1, kernel=3, stride=2, padding=1).shape == (1, 1, 3, 3)
    assert KERNELS["max_pool"](-x - 1, kernel=3, stride=2, padding=1)[0, 0, 0, 0] == -1, "padding never wins"


def test_global_pools():
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])[None, None]
    assert KERNELS["global_avg_pool"](x).tolist() == [[[[3.0]]]]
    assert KERNELS["global_max_pool"](x).tolist() == [[[[6.0]]]]


def test_nearest_resize_takes_cell_floor_of_i_in_over_out():
    x = torch.arange(5.0).reshape(1, 1, 1, 5)
    out = KERNELS["resize"](x, torch.zeros(1, 9, 1, 8), mode="nearest")
    assert out.flatten().tolist() == [i * 5 // 8 for i in range(8)]
    assert out.shape == (1, 1, 1, 8)


def test_bilinear_resize_does_not_align_corners():
    out = KERNELS["resize"](torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2), torch.zeros(1, 1, 1, 4), mode="bilinear")
    assert out.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_upsample_crop_and_broadcast():
    x = torch.tensor([[1.0, 2.0]])[None, None]
    up = KERNELS["upsample"](x, scale=2, mode="nearest")
    assert up[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert KERNELS["crop"](up, torch.zeros(1, 7, 1, 3))[0, 0].tolist() == [[1, 1, 2]]
    assert KERNELS["mul"](up, torch.full((1, 1, 1, 1), 3.0)).sum() == 36


def test_split_undoes_concat_for_grids_and_for_scores():
    levels = [torch.rand(2, rows, 3) for rows in (5, 1, 4)]
    grids = [torch.rand(rows, 4) for rows in (5, 1, 4)]
    joined = KERNELS["concat"](levels, axis=1)
    for index, level in enumerate(levels):
        assert torch.equal(KERNELS["split"](joined, levels, index=index), level)
        assert torch.equal(KERNELS["split"](joined[..., 0], grids, index=index), level[..., 0])


def test_per_anchor_rows_are_y_x_anchor():
    n, anchors, fields, height, width = 2, 3, 4, 2, 5
    x = torch.rand(n, anchors * fields, height, width)
    rows = KERNELS["per_anchor"](x, fields=fields)
    assert rows.shape == (n, height * width * anchors, fields)
    row = (1 * width + 3) * anchors + 2
    assert torch.equal(rows[1, row], x[1, 2 * fields : 3 * fields, 1, 3])


def test_focal_loss_by_the_papers_equation():
    torch.manual_seed(0)
    logits = (torch.randn(2, 6, 3) * 4).requires_grad_()
    labels = torch.tensor([[0, 3, 2, -1, 3, 1], [3, -1, 1, 1, 0, 2]])
    loss = KERNELS["focal_loss"](logits, labels, torch.tensor(4.0), gamma=2.0, alpha=0.25, weight=0.5)
    expected = 0.0
    for row, label in zip(logits.detach().double().reshape(-1, 3), labels.flatten().tolist(), strict=True):
        for k, x in enumerate(row):
            p = torch.sigmoid(x)
            if label == k:
                expected += -0.25 * (1 - p) ** 2 * torch.log(p)
            elif label >= 0:
                expected += -0.75 * p**2 * torch.log1p(-p)
    assert loss.item() == pytest.approx(0.5 * float(expected) / 4, rel=1e-5)
    loss.backward()
    assert (logits.grad[0, 3] == 0).all() and (logits.grad[1, 1] == 0).all(), "ignored rows take no gradient"


def test_focal_loss_stays_finite_at_extreme_half_precision_logits():
    logits = torch.tensor([[[200.0, -200.0]]], dtype=torch.float16, requires_grad=True)
    loss = KERNELS["focal_loss"](logits, torch.tensor([[1]]), torch.tensor(1.0), gamma=2.0, alpha=0.25, weight=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.75 * 200 + 0.25 * 200)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_box_losses_count_matched_rows_only():
    prediction = torch.tensor([[[1.0, 0, 0, 0], [0, 9, 9, 9], [0.05, 0, 0, 0], [7, 7, 7, 7]]])
    labels = torch.tensor([[0, 2, 1, -1]])
    target = torch.zeros(1, 4, 4)
    target[0, 1] = float("nan")
    shared = {"classes": 2, "weight": 3.0}
    normalizer = torch.tensor(2.0)
    l1 = KERNELS["l1_loss"](prediction, target, labels, normalizer, **shared)
    assert l1.item() == pytest.approx(3 * 1.05 / 2)
    smooth = KERNELS["smooth_l1_loss"](prediction, target, labels, normalizer, beta=0.1, **shared)
    assert smooth.item() == pytest.approx(3 * ((1 - 0.05) + 0.5 * 0.05**2 / 0.1) / 2)


def test_a_batch_without_objects_has_zero_box_loss_and_finite_gradients():
    prediction = torch.randn(1, 5, 4, requires_grad=True)
    labels = torch.full((1, 5), 3)
    loss = KERNELS["l1_loss"](prediction, torch.zeros(1, 5, 4), labels, torch.tensor(1.0), classes=3, weight=1.0)
    loss.backward()
    assert loss == 0 and (prediction.grad == 0).all()


def test_relu_is_torchs():
    x = torch.randn(7)
    assert torch.equal(KERNELS["relu"](x), functional.relu(x))
