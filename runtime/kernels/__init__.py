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

from detc.runtime.kernels import anchors, feature, losses, regions, select, targets

_OWN = (
    feature.Conv2d,
    feature.BatchNorm2d,
    feature.GroupNorm,
    feature.ConvTranspose2d,
    feature.Linear,
    feature.max_pool,
    feature.global_avg_pool,
    feature.global_max_pool,
    feature.resize,
    feature.upsample,
    feature.crop,
    feature.softmax,
    feature.scale,
    feature.detach,
    feature.concat,
    feature.split,
    feature.per_anchor,
    anchors.anchor_grid,
    anchors.encode_delta,
    anchors.decode_delta,
    regions.fill,
    regions.drop_small,
    regions.drop_absent,
    regions.assign_levels,
    regions.roi_align,
    regions.flatten,
    regions.per_image,
    regions.fields,
    regions.take_class,
    regions.take_channel,
    targets.assign_max_iou,
    targets.assign_regions,
    targets.inside,
    targets.any_object,
    targets.object_numbers,
    targets.sample_rows,
    targets.keep_rows,
    targets.take_rows,
    targets.count_rows,
    targets.mask_targets,
    losses.focal_loss,
    losses.binary_cross_entropy,
    losses.cross_entropy,
    losses.l1_loss,
    losses.smooth_l1_loss,
    losses.iou_loss,
    losses.giou_loss,
    losses.bounded_iou_loss,
    losses.mask_loss,
    select.select_top,
    select.gather_rows,
    select.nms,
)
for _kernel in _OWN:
    # Emitted code names kernels by their module and name: this one is shorter, and stays when a kernel moves file.
    _kernel.__module__ = __name__
    globals()[_kernel.__name__] = _kernel

KERNELS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "constant": feature.Constant,
    **{kernel.__name__: kernel for kernel in _OWN},
}
