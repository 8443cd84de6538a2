"""Regions: cutting them out of features, and the bookkeeping around them.

Regions are boxes (N, R, 4), x1, y1, x2, y2 in pixels, with scores (N, R) that are 0 where there is no region. What is
computed of each region has N * R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Pixels that are looked up at once, over all cells of a group of regions: 48 MiB of places and weights.
_LOOKUPS = 1 << 22
# embedding_bag's number for its mode "sum".
_SUM = 0


def fill(x: Tensor, *, value: int, dtype: str) -> Tensor:
    """`value` for each row of x (N, K, ...): (N, K)."""
    return torch.full(x.shape[:2], value, dtype=getattr(torch, dtype), device=x.device)


def drop_small(boxes: Tensor, scores: Tensor, *, minimum: float) -> Tensor:
    """`scores` (N, K), 0 where the box (N, K, 4) is not wider and higher than `minimum` pixels."""
    large = (boxes[..., 2] - boxes[..., 0] > minimum) & (boxes[..., 3] - boxes[..., 1] > minimum)
    return torch.where(large, scores, 0.0)


def drop_absent(x: Tensor, scores: Tensor) -> Tensor:
    """x (N, R, ...), 0 in rows whose score (N, R) is not above 0."""
    present = (scores > 0).reshape(*scores.shape, *(1 for _ in x.shape[2:]))
    return torch.where(present, x, 0.0)


def assign_levels(boxes: Tensor, *, count: int, finest: float) -> Tensor:
    """The level, from 0 to `count` - 1, that each of `boxes` (N, R, 4) is cut out of: (N, R) int64.

    floor(log2(size / finest)), where size is the root of the area in pixels. Lin et al., Feature Pyramid Networks,
    2017, equation 1.
    """
    size = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0).sqrt()
    # A box of exactly a level's size belongs to it, whatever its last bit; one without an area to the finest.
    return torch.log2(size / finest + 1e-6).nan_to_num(0).floor().clamp(0, count - 1).to(torch.int64)


def flatten(x: Tensor) -> Tensor:
    """(K, C, H, W) -> (K, C * H * W)."""
    return x.flatten(1)


def per_image(x: Tensor, like: Tensor) -> Tensor:
    """(N * R, ...) -> (N, R, ...), for the regions `like` (N, R, 4)."""
    return x.reshape(like.shape[0], like.shape[1], *x.shape[1:])


def fields(x: Tensor, *, start: int, stop: int) -> Tensor:
    """Entries `start` up to `stop` of the last axis."""
    return x[..., start:stop]


def take_class(x: Tensor, classes: Tensor, *, fields: int) -> Tensor:
    """Of x (N, K, C * fields), the fields of each row's class (`classes` (N, K)): (N, K, fields).

    A class that is none of the C gives those of the first.
    """
    of_class = x.unflatten(2, (-1, fields))
    known = torch.where((classes >= 0) & (classes < of_class.shape[2]), classes, 0)
    return of_class.gather(2, known[:, :, None, None].expand(-1, -1, 1, fields)).squeeze(2)


def take_channel(x: Tensor, classes: Tensor) -> Tensor:
    """Of x (N * K, C, H, W), the channel of each row's class (`classes` (N, K)): (N, K, H, W).

    A class that is none of the C gives the first channel.
    """
    known = torch.where((classes >= 0) & (classes < x.shape[1]), classes, 0).flatten()
    return x[torch.arange(x.shape[0], device=x.device), known].reshape(*classes.shape, *x.shape[2:])


# ---- RoIAlign --------------------------------------------------------------------------------------------------------


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    level: Tensor,
    *,
    size: int,
    samples: int,
    strides: Sequence[float],
) -> Tensor:
    """Each region as (C, size, size), out of one of `features` (N, C, H, W), whose cells are `strides` pixels apart.

    A region (of `boxes` (N, R, 4)) is cut out of the feature that `level` (N, R) says, and divided into size * size
    cells. A cell is the mean of `samples` points each way, or, where that is 0, of as many as it has pixels, rounded
    up. A point is interpolated bilinearly between the centres of the feature's cells; beyond the outermost centres by
    less than a cell it has their value, further out it is 0. Returns (N * R, C, size, size). Gradients flow to the
    features alone. Sums are in float32, and the result has the features' type. He et al., Mask R-CNN, 2017, section 3,
    in the convention that does not shift by half a pixel.
    """
    scales = [float(stride) for stride in strides]
    full = [feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature for feature in features]
    result: Tensor = torch.ops.detc.roi_align(full, boxes, level, size, samples, scales)
    return result.to(features[0].dtype)


# The operators of torch that do this loop as long as the data says: registered as operators of our own, they are one
# node for torch.compile and torch.export. (torch.library.custom_op would import torch._dynamo, a second, on first use.)
torch.library.define(
    "detc::roi_align",
    "(Tensor[] features, Tensor boxes, Tensor level, int size, int samples, float[] strides) -> Tensor",
)
torch.library.define(
    "detc::roi_align_backward",
    "(Tensor gradient, Tensor boxes, Tensor level, int[] heights, int[] widths, int size, int samples, "
    "float[] strides) -> Tensor[]",
)


@torch.library.impl("detc::roi_align", "CompositeExplicitAutograd")
def _roi_align(
    features: list[Tensor], boxes: Tensor, level: Tensor, size: int, samples: int, strides: list[float]
) -> Tensor:
    channels = features[0].shape[1]
    # One table of pixels for all levels, so that each cell is a weighted sum of some of its rows.
    table = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    cells = table.new_zeros(boxes.shape[0] * boxes.shape[1], size * size, channels)
    sizes = [tuple(feature.shape[2:]) for feature in features]
    for regions, places, weights in _lookups(boxes, level, sizes, size, samples, strides):
        summed = functional.embedding_bag(places, table, per_sample_weights=weights.to(table.dtype), mode="sum")
        cells[regions] = summed.reshape(len(regions), size * size, channels)
    return cells.transpose(1, 2).reshape(-1, channels, size, size).contiguous()


@torch.library.register_fake("detc::roi_align")
def _(features, boxes, level, size, samples, strides):  # type: ignore[no-untyped-def]
    return features[0].new_empty(boxes.shape[0] * boxes.shape[1], features[0].shape[1], size, size)


@torch.library.impl("detc::roi_align_backward", "CompositeExplicitAutograd")
def _roi_align_backward(
    gradient: Tensor,
    boxes: Tensor,
    level: Tensor,
    heights: list[int],
    widths: list[int],
    size: int,
    samples: int,
    strides: list[float],
) -> list[Tensor]:
    batch, channels = boxes.shape[0], gradient.shape[1]
    sizes = list(zip(heights, widths, strict=True))
    rows = batch * sum(height * width for height, width in sizes)
    total = gradient.new_zeros(rows, channels)
    cells = gradient.flatten(2).transpose(1, 2)
    for regions, places, weights in _lookups(boxes, level, sizes, size, samples, strides):
        bags, lookups = places.shape
        total += torch.ops.aten._embedding_bag_dense_backward(
            cells[regions].reshape(-1, channels),
            places.flatten(),
            torch.arange(bags, device=places.device).repeat_interleave(lookups),
            torch.full((bags,), lookups, device=places.device),
            places.new_empty(0),
            rows,
            False,
            _SUM,
            weights.to(gradient.dtype).flatten(),
        )
    parts = total.split([batch * height * width for height, width in sizes])
    return [
        part.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()
        for part, (height, width) in zip(parts, sizes, strict=True)
    ]


@torch.library.register_fake("detc::roi_align_backward")
def _(gradient, boxes, level, heights, widths, size, samples, strides):  # type: ignore[no-untyped-def]
    return [gradient.new_empty(boxes.shape[0], gradient.shape[1], h, w) for h, w in zip(heights, widths, strict=True)]


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    features, boxes, level, *ctx.settings = inputs
    ctx.save_for_backward(boxes, level)
    ctx.heights = [feature.shape[2] for feature in features]
    ctx.widths = [feature.shape[3] for feature in features]


def _to_features(ctx, gradient):  # type: ignore[no-untyped-def]
    boxes, level = ctx.saved_tensors
    gradients = torch.ops.detc.roi_align_backward(gradient, boxes, level, ctx.heights, ctx.widths, *ctx.settings)
    return gradients, None, None, None, None, None


torch.library.register_autograd("detc::roi_align", _to_features, setup_context=_remember)


def _lookups(
    boxes: Tensor,
    level: Tensor,
    sizes: Sequence[tuple[int, ...]],
    size: int,
    samples: int,
    strides: Sequence[float],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Groups of regions with, for each of their cells, rows of the table of pixels and their weights.

    The table has level after level, image after image, row after row. Yields the regions' numbers (r,), places
    (r * size * size, L) int64 and weights of that shape.
    """
    batch, count = boxes.shape[:2]
    device = boxes.device
    heights = torch.tensor([s[0] for s in sizes], device=device)
    widths = torch.tensor([s[1] for s in sizes], device=device)
    starts = torch.tensor([0, *(batch * s[0] * s[1] for s in sizes)], device=device).cumsum(0)
    of_level = level.flatten()
    image = torch.arange(batch, device=device).repeat_interleave(count)
    height, width = heights[of_level], widths[of_level]
    first = starts[of_level] + image * height * width
    scaled = boxes.reshape(-1, 4).float() / torch.tensor(strides, device=device)[of_level][:, None]
    low, extent = scaled[:, :2] - 0.5, scaled[:, 2:] - scaled[:, :2]
    points = torch.full_like(extent, samples) if samples else (extent / size).ceil()
    points = points.clamp(min=0)
    # Regions whose cells have alike many points go together, so that little is looked up in vain.
    most = points.amax(dim=1).nan_to_num(0, posinf=0).to(torch.int64)
    for points_most in most.unique().tolist():
        if points_most == 0:
            continue
        group = torch.nonzero(most == points_most).flatten()
        per_region = (size * (points_most + 2)) ** 2
        for regions in group.split(max(1, _LOOKUPS // per_region)):
            y, y_weights = _axis(low[regions, 1], extent[regions, 1], points[regions, 1], height[regions], size)
            x, x_weights = _axis(low[regions, 0], extent[regions, 0], points[regions, 0], width[regions], size)
            # (r, row of cells, column of cells, pixel's row, pixel's column)
            rows = first[regions][:, None, None] + y * width[regions][:, None, None]
            places = rows[:, :, None, :, None] + x[:, None, :, None, :]
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
            yield regions, places.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _axis(low: Tensor, extent: Tensor, points: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the pixels that each of `size` cells is made of, and their weights: both (r, size, K).

    `low` and `extent` (r,) are the regions' in pixels of their feature, which has `length` of them; `points` (r,) is
    how many points a cell has.
    """
    number = torch.arange(int(points.max()), device=low.device)
    cell = torch.arange(size, device=low.device)
    step = extent / size / points.clamp(min=1)
    place = low[:, None, None] + cell[:, None] * (extent / size)[:, None, None] + (number + 0.5) * step[:, None, None]
    last = (length - 1)[:, None, None]
    counts = (number < points[:, None, None]) & (place >= -1) & (place <= length[:, None, None])
    # (Boxes of NaN have no points that count, and must not give places outside the feature.)
    place = torch.where(counts, place, 0.0)
    place = torch.minimum(place.clamp(min=0), last.to(place.dtype))
    before = place.floor().to(torch.int64)
    after = torch.minimum(before + 1, last)
    share = place - before
    weight = torch.where(counts, 1 / points.clamp(min=1)[:, None, None], 0.0)
    base = torch.where(counts, before, last).amin(dim=2, keepdim=True)
    span = int(torch.where(counts, after - base, 0).max()) + 1
    weights = place.new_zeros(*place.shape[:2], span)
    weights.scatter_add_(2, torch.where(counts, before - base, 0), weight * (1 - share))
    weights.scatter_add_(2, torch.where(counts, after - base, 0), weight * share)
    pixels = torch.minimum(base + torch.arange(span, device=low.device), last)
    return pixels, weights
