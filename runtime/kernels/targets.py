"""What anchors and regions are to predict, and which of them are trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from detc.runtime.kernels.joint import joint_count

# Entries of the overlap matrix that are held at once: 16 MiB a temporary, whatever the number of objects.
_OVERLAPS = 1 << 22


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of (..., M, 4) and (..., K, 4) boxes x1, y1, x2, y2: (..., M, K)."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    other_area = (others[..., 2] - others[..., 0]) * (others[..., 3] - others[..., 1])
    boxes, others = boxes[..., :, None, :], others[..., None, :, :]
    width = torch.minimum(boxes[..., 2], others[..., 2]) - torch.maximum(boxes[..., 0], others[..., 0])
    height = torch.minimum(boxes[..., 3], others[..., 3]) - torch.maximum(boxes[..., 1], others[..., 1])
    shared = width.clamp(min=0) * height.clamp(min=0)
    union = area[..., :, None] + other_area[..., None, :] - shared
    return shared / union.clamp(min=1e-6)


@torch.no_grad()
def assign_max_iou(
    anchors: Tensor,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    *,
    positive: float,
    negative: float,
    minimum: float,
    low_quality: bool,
    classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives each anchor the object it overlaps most. Ren et al., Faster R-CNN, 2015, section 3.1.2.

    An anchor (of `anchors` (K, 4)) whose best overlap (intersection over union) is at least `positive` takes that
    object; one whose best overlap is below `negative` is background; the others are ignored. With `low_quality`, each
    object whose best overlap with any anchor is at least `minimum` also takes all anchors that reach it; of several
    such objects the last has the anchor. An object that overlaps no anchor takes none.

    `truth_boxes` is (N, G, 4) and `truth_labels` (N, G), with -1 in absent rows; G may be 0. Returns labels (N, K)
    int64 (the class, `classes` for background, -1 for ignored), boxes (N, K, 4) of the objects taken (where there is
    none, the anchor's own), and the scalar sum over the images of their positive anchors, each counted as at least
    one, as a `joint_count`.
    """
    labels, objects = assign_regions(
        anchors,
        anchors.new_ones(anchors.shape[0]),
        truth_boxes,
        truth_labels,
        positive=positive,
        negative=negative,
        minimum=minimum,
        low_quality=low_quality,
        classes=classes,
    )
    matched = objects >= 0
    boxes = torch.where(matched[:, :, None], take_rows(truth_boxes.to(anchors.dtype), objects, absent=0), anchors)
    return labels, boxes, joint_count(matched.sum(dim=1).clamp(min=1).sum())


@torch.no_grad()
def assign_regions(
    boxes: Tensor,
    scores: Tensor,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    *,
    positive: float,
    negative: float,
    minimum: float,
    low_quality: bool,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """As `assign_max_iou`, for `boxes` (K, 4), or (N, K, 4) that differ from image to image.

    Those whose score (`scores` (K,) or (N, K)) is not above 0 take no part. Returns labels (N, K) int64: the class,
    `classes` for background, -1 for ignored and absent; and objects (N, K) int64: the row of the truth, -1 for none.
    """
    images, count = len(truth_labels), boxes.shape[-2]
    if count == 0:
        nothing = torch.full((images, 0), -1, dtype=torch.int64, device=boxes.device)
        return nothing, nothing
    if truth_boxes.shape[1] == 0:
        truth_boxes = functional.pad(truth_boxes, (0, 0, 0, 1))
        truth_labels = functional.pad(truth_labels, (0, 1), value=-1)
    truth_boxes = truth_boxes.to(boxes.dtype)
    there = (truth_labels >= 0)[:, :, None]
    step = max(1, _OVERLAPS // truth_labels.numel())
    parts = [slice(start, start + step) for start in range(0, count, step)]

    def measure(part: slice) -> Tensor:
        """(N, G, part) overlaps, below zero for absent objects and regions."""
        present = there & (scores[..., part] > 0)[..., None, :]
        return torch.where(present, overlaps(truth_boxes, boxes[..., part, :]), -1.0)

    best, taken, reached = [], [], []
    for part in parts:
        iou = measure(part)
        iou_best, iou_taken = iou.max(dim=1)
        best.append(iou_best)
        taken.append(iou_taken)
        reached.append(iou.amax(dim=2))
    overlap, object_of = torch.cat(best, dim=1), torch.cat(taken, dim=1)
    matched = overlap >= positive
    if low_quality:
        limit = torch.stack(reached).amax(dim=0)[:, :, None]
        eligible = (limit >= minimum) & (limit > 0)
        number = torch.arange(truth_labels.shape[1], device=boxes.device)[:, None]
        # Overlaps are measured again rather than kept: with 2000 objects they would not fit.
        claims = [torch.where(eligible & (measure(part) == limit), number, -1).amax(dim=1) for part in parts]
        claimed = torch.cat(claims, dim=1)
        object_of = torch.where(claimed >= 0, claimed, object_of)
        matched = matched | (claimed >= 0)
    labels = torch.where(overlap < negative, classes, -1)
    labels = torch.where(matched, truth_labels.gather(1, object_of), labels)
    return torch.where(scores > 0, labels, -1), torch.where(matched, object_of, -1)


def inside(anchors: Tensor, image: Tensor, *, border: float | None) -> Tensor:
    """1 where an anchor (K, 4) stays less than `border` pixels beyond `image` (N, 3, H, W), else 0: (K,)."""
    if border is None:
        return anchors.new_ones(anchors.shape[0])
    height, width = image.shape[-2:]
    x1, y1, x2, y2 = anchors.unbind(-1)
    within = (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)
    return within.to(anchors.dtype)


def any_object(labels: Tensor) -> Tensor:
    """Labels with 0 for every class, and -1 as before."""
    return labels.clamp(max=0)


def object_numbers(labels: Tensor) -> Tensor:
    """The number of each object (`labels` (N, G)), from 0; -1 where there is none: (N, G) int64."""
    number = torch.arange(labels.shape[1], device=labels.device)
    return torch.where(labels >= 0, number, -1)


# ---- samples ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample_rows(labels: Tensor, *, classes: int, count: int, positive: float) -> tuple[Tensor, Tensor]:
    """Rows drawn at random from each image, by their labels (N, K). Ren et al., Faster R-CNN, 2015, section 3.1.3.

    At most `count` of an image, of which at most floor(count * positive) have a class and the others are background
    (label `classes`). Returns index (N, S) int64, those with a class first, and (N, T) of these alone. S and T are the
    most that any image has, at least 1; what is missing in the others is -1.
    """
    drawn, with_class = [], []
    for of_image in labels:
        chosen = _draw((of_image >= 0) & (of_image < classes), int(count * positive))
        others = _draw(of_image == classes, count - len(chosen))
        with_class.append(chosen)
        drawn.append(torch.cat((chosen, others)))
    return _joined(drawn), _joined(with_class)


def _draw(candidates: Tensor, count: int) -> Tensor:
    """The numbers of at most `count` of the candidates (K,) bool, at random."""
    found = torch.nonzero(candidates).flatten()
    if len(found) <= count:
        return found
    return found[torch.randperm(len(found), device=found.device)[:count]]


def _joined(rows: list[Tensor]) -> Tensor:
    joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return joined if joined.shape[1] else functional.pad(joined, (0, 1), value=-1)


@torch.no_grad()
def keep_rows(labels: Tensor, index: Tensor, *, classes: int) -> tuple[Tensor, Tensor]:
    """`labels` (N, K) with -1 for all rows but those in `index` (N, S), where -1 is none.

    The second result is the scalar number of rows kept in the batch: those with a class and those of the background
    (label `classes`) each counted as at least one an image. It is a `joint_count`.
    """
    rows = labels.shape[1]
    kept = torch.full((len(labels), rows + 1), -1, dtype=labels.dtype, device=labels.device)
    kept.scatter_(1, torch.where(index >= 0, index, rows), take_rows(labels, index, absent=-1))
    kept = kept[:, :rows]
    objects = ((kept >= 0) & (kept < classes)).sum(dim=1).clamp(min=1)
    background = (kept == classes).sum(dim=1).clamp(min=1)
    return kept, joint_count((objects + background).sum())


def take_rows(x: Tensor, index: Tensor, *, absent: int) -> Tensor:
    """The rows `index` (N, S) of x, which is (N, K) or (N, K, D); `absent` where the index is -1."""
    if x.shape[1] == 0:
        return x.new_full((*index.shape, *x.shape[2:]), absent)
    at = index.clamp(min=0)
    if x.dim() == 2:
        return torch.where(index >= 0, x.gather(1, at), absent)
    return torch.where((index >= 0)[:, :, None], x.gather(1, at[:, :, None].expand(-1, -1, x.shape[2])), absent)


def count_rows(labels: Tensor) -> Tensor:
    """How many labels are not -1, at least 1: a scalar, as a `joint_count`."""
    return joint_count((labels >= 0).sum())


# ---- masks -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def mask_targets(boxes: Tensor, objects: Tensor, masks: Tensor, windows: Tensor, image: Tensor, *, size: int) -> Tensor:
    """What a mask head is to predict: (N, T, size, size), 1 where the object covers half of a cell of the region.

    `boxes` (N, T, 4) are the regions and `objects` (N, T) the rows of the truth they stand for, -1 for none, which
    gives zeros. `masks` (M,) uint8 holds the objects' pixels, `windows` (N, G, 5) where each object's are: offset, x,
    y, width, height. `image` (N, 3, H, W) bounds them. Cells are those of RoIAlign with as many points as pixels. He et
    al., Mask R-CNN, 2017, section 3.
    """
    height, width = image.shape[-2:]
    targets = boxes.new_zeros(*objects.shape, size, size)
    window_of = take_rows(windows, objects, absent=0).tolist()
    for n, row in torch.nonzero(objects >= 0).tolist():
        offset, left, top, columns, rows = window_of[n][row]
        if columns == 0 or rows == 0:
            continue
        bitmap = masks[offset : offset + rows * columns].reshape(rows, columns).to(targets.dtype)
        x1, y1, x2, y2 = boxes[n, row].tolist()
        down = _cover(y1, y2, size, height, top, rows, targets)
        across = _cover(x1, x2, size, width, left, columns, targets)
        with torch.autocast(targets.device.type, enabled=False):
            targets[n, row] = (down @ bitmap @ across.T) >= 0.5
    return targets


def _cover(low: float, high: float, size: int, length: int, first: int, count: int, like: Tensor) -> Tensor:
    """How much each of `count` pixels from `first` on counts in each of `size` cells from `low` to `high`: (size,
    count). RoIAlign is separable: its mean over points is the product of one such matrix a side."""
    points = math.ceil((high - low) / size) if high > low else 0
    cover = like.new_zeros(size, count + 1)
    if points == 0:
        return cover[:, :count]
    step = (high - low) / (size * points)
    place = low - 0.5 + (torch.arange(size * points, device=like.device) + 0.5) * step
    weight = ((place >= -1) & (place <= length)).to(like.dtype) / points
    place = place.clamp(0, length - 1)
    before = place.floor().to(torch.int64)
    share = place - before
    for pixel, part in ((before, 1 - share), (before + 1, share)):
        at = torch.where((pixel >= first) & (pixel < first + count), pixel - first, count)
        cover.scatter_add_(1, at.reshape(size, points), (weight * part).to(like.dtype).reshape(size, points))
    return cover[:, :count]
