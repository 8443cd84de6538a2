"""Features: convolution, normalisation, pooling, changes of size, joining and splitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

Shapes = Mapping[str, tuple[int, ...]]


def Conv2d(
    weights: Shapes,
    *,
    channels: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    groups: int,
    bias: bool,
    standardize: bool,
) -> nn.Conv2d:
    """2-D convolution of an (N, C, H, W) feature, with `standardize` by standardised weights.

    The module is torch's own, so that tools which look for `torch.nn.Conv2d` (quantisation, fusion, profilers) find it.
    Its tensors are on the meta device: whoever builds a detector sets them once, with the values of the spec.
    """
    inputs = weights["weight"][1] * groups
    module = StandardizedConv2d if standardize else nn.Conv2d
    return module(inputs, channels, kernel, stride, padding, dilation, groups, bias, device="meta")


class StandardizedConv2d(nn.Conv2d):
    """Convolution by weights that are brought to mean 0 and deviation 1 for each output channel.

    Qiao et al., Weight Standardization, 2019, equation 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        return self._conv_forward(x, standardized(self.weight), self.bias)


def standardized(weight: Tensor) -> Tensor:
    """A convolution's weight (channels, inputs, height, width), less its mean and over its deviation, by channel."""
    # One operation after the other over each channel's row: in deep networks the last bit is seen.
    rows = weight.flatten(1)
    mean = rows.mean(dim=1)[:, None, None, None]
    deviation = rows.std(dim=1)[:, None, None, None]
    return (weight - mean) / (deviation + 1e-5)


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that always uses its running statistics and never updates them."""

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever `mode` is: the batches of a detector are too small for statistics."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        # torch.fx traces into modules that are not torch's own, and torch's forward branches on its input.
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def BatchNorm2d(weights: Shapes, *, eps: float, momentum: float, fixed: bool, trainable: bool) -> nn.BatchNorm2d:
    """Batch normalisation (Ioffe and Szegedy, 2015) of an (N, C, H, W) feature, a channel at a time.

    `fixed` keeps the running statistics in training too. `trainable` false keeps scale and shift as they are.
    Tensors are on the meta device, as those of `Conv2d`.
    """
    norm = (FixedBatchNorm2d if fixed else nn.BatchNorm2d)(weights["weight"][0], eps, momentum, device="meta")
    norm.requires_grad_(trainable)
    return norm.train()


def GroupNorm(weights: Shapes, *, groups: int, eps: float) -> nn.GroupNorm:
    """Normalisation over groups of channels of each image (Wu and He, 2018) of an (N, C, H, W) feature."""
    return nn.GroupNorm(groups, weights["weight"][0], eps, device="meta")


def ConvTranspose2d(
    weights: Shapes, *, channels: int, kernel: int, stride: int, padding: int, bias: bool
) -> nn.ConvTranspose2d:
    """Transposed 2-D convolution of an (N, C, H, W) feature."""
    return nn.ConvTranspose2d(weights["weight"][0], channels, kernel, stride, padding, bias=bias, device="meta")


def Linear(weights: Shapes, *, features: int, bias: bool) -> nn.Linear:
    """A fully connected layer: (..., D) -> (..., features)."""
    return nn.Linear(weights["weight"][1], features, bias, device="meta")


def softmax(x: Tensor) -> Tensor:
    """exp(x) over its sum along the last axis; at least in single precision."""
    return x.float().softmax(dim=-1)


def scale(x: Tensor, *, factor: float) -> Tensor:
    """x times `factor`."""
    return x * factor


def detach(x: Tensor) -> Tensor:
    """x, through which no gradient flows back."""
    return x.detach()


def max_pool(x: Tensor, *, kernel: int, stride: int, padding: int) -> Tensor:
    """The largest value of each window of an (N, C, H, W) feature; windows that would need more rows are left out."""
    return functional.max_pool2d(x, kernel, stride, padding)


def global_avg_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1): the mean of each channel."""
    return functional.adaptive_avg_pool2d(x, 1)


def global_max_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1): the largest value of each channel."""
    return functional.adaptive_max_pool2d(x, 1)


def resize(x: Tensor, like: Tensor, *, mode: str) -> Tensor:
    """The (N, C, H, W) feature x at the height and width of `like`.

    `nearest` takes cell floor(i * in / out); `bilinear` treats cells as areas (corners are not aligned).
    """
    return functional.interpolate(x, size=like.shape[-2:], mode=mode)


def upsample(x: Tensor, *, scale: int, mode: str) -> Tensor:
    """The (N, C, H, W) feature x, `scale` times as high and wide; modes as those of `resize`."""
    return functional.interpolate(x, size=(x.shape[-2] * scale, x.shape[-1] * scale), mode=mode)


def crop(x: Tensor, like: Tensor) -> Tensor:
    """The top left of the (N, C, H, W) feature x, at the height and width of `like`."""
    return x[..., : like.shape[-2], : like.shape[-1]]


class Constant(nn.Module):
    """What a pass has computed beforehand."""

    value: Tensor

    def __init__(self, weights: Shapes, *, dtype: str) -> None:
        super().__init__()
        self.register_buffer("value", torch.empty(weights["value"], dtype=getattr(torch, dtype), device="meta"))

    def forward(self) -> Tensor:
        """The constant."""
        return self.value


def concat(xs: Sequence[Tensor], *, axis: int) -> Tensor:
    """The tensors joined along `axis`, in the order given."""
    return torch.cat(list(xs), dim=axis)


def per_anchor(x: Tensor, *, fields: int) -> Tensor:
    """(N, A * fields, H, W) -> (N, H * W * A, fields): a head's output, a row for each anchor of `anchor_grid`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, fields)


def split(x: Tensor, like: Sequence[Tensor], *, index: int) -> Tensor:
    """The part of x that belongs to the index-th of `like`: the inverse of `concat` along the rows.

    x is (N, K, ...); each of `like` has its rows along its second last axis, and the rows of all of them make up K.
    """
    start = sum(one.shape[-2] for one in like[:index])
    return x[:, start : start + like[index].shape[-2]]
