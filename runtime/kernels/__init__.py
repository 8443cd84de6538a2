"""The arithmetic of every primitive, by the name of its op.

An op without weights is a function `kernel(*inputs, **attributes)`: inputs in port order, a port that takes several
as one list. An op with weights is called as `kernel(weights, **attributes)`, where `weights` maps the op's own names
to shapes, and gives a `torch.nn.Module` with parameters and buffers of those names, which is then called with the
inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from detc.runtime.kernels.anchors import anchor_grid, decode_delta, encode_delta
from detc.runtime.kernels.feature import (
    BatchNorm2d,
    Conv2d,
    concat,
    crop,
    global_avg_pool,
    global_max_pool,
    max_pool,
    per_anchor,
    resize,
    split,
    upsample,
)
from detc.runtime.kernels.losses import focal_loss, l1_loss, smooth_l1_loss
from detc.runtime.kernels.select import gather_rows, nms, select_top
from detc.runtime.kernels.targets import assign_max_iou

_OWN = (
    Conv2d,
    BatchNorm2d,
    max_pool,
    global_avg_pool,
    global_max_pool,
    resize,
    upsample,
    crop,
    concat,
    split,
    per_anchor,
    anchor_grid,
    encode_delta,
    decode_delta,
    assign_max_iou,
    focal_loss,
    l1_loss,
    smooth_l1_loss,
    select_top,
    gather_rows,
    nms,
)
for _kernel in _OWN:
    # Emitted code names kernels by their module and name: this one is shorter, and stays when a kernel moves file.
    _kernel.__module__ = __name__

KERNELS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    **{kernel.__name__: kernel for kernel in _OWN},
}
