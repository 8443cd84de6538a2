"""How each op is written in ONNX: op -> function of the builder and the node, giving the names of the results."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from detc.compiler.emit.onnx.model import Builder
from detc.compiler.emit.static import anchors, number, numbers, pair, unsupported
from detc.compiler.graph import Node
from detc.dsl.diagnostics import DiagnosticError

Lowering = Callable[[Builder, Node], str | tuple[str, ...]]

LOWERINGS: dict[str, Lowering] = {}


def lowering(op: str) -> Callable[[Lowering], Lowering]:
    """Declares the decorated function as the lowering of `op`."""

    def declare(function: Lowering) -> Lowering:
        LOWERINGS[op] = function
        return function

    return declare


def _inputs(b: Builder, node: Node) -> list[str]:
    return [b.name_of(value) for value in node.operands]


def _elementwise(op: str, onnx_op: str) -> None:
    LOWERINGS[op] = lambda b, node: str(b.apply(onnx_op, *_inputs(b, node)))


for _op, _onnx_op in (
    ("relu", "Relu"),
    ("sigmoid", "Sigmoid"),
    ("add", "Add"),
    ("mul", "Mul"),
    ("global_avg_pool", "GlobalAveragePool"),
    ("global_max_pool", "GlobalMaxPool"),
):
    _elementwise(_op, _onnx_op)


@lowering("Conv2d")
def _conv(b: Builder, node: Node) -> str:
    a = node.attrs
    names = ["weight", "bias"] if "bias" in node.weights else ["weight"]
    return str(
        b.apply(
            "Conv",
            *_inputs(b, node),
            *(b.weight(node, name) for name in names),
            kernel_shape=pair(a["kernel"]),
            strides=pair(a["stride"]),
            pads=pair(a["padding"]) * 2,
            dilations=pair(a["dilation"]),
            group=a["groups"],
        )
    )


@lowering("BatchNorm2d")
def _batch_norm(b: Builder, node: Node) -> str:
    weights = [b.weight(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
    return str(b.apply("BatchNormalization", *_inputs(b, node), *weights, epsilon=number(node.attrs["eps"])))


@lowering("max_pool")
def _max_pool(b: Builder, node: Node) -> str:
    a = node.attrs
    return str(
        b.apply(
            "MaxPool",
            *_inputs(b, node),
            kernel_shape=pair(a["kernel"]),
            strides=pair(a["stride"]),
            pads=pair(a["padding"]) * 2,
        )
    )


@lowering("resize")
@lowering("upsample")
def _resize(b: Builder, node: Node) -> str:
    """Nearest: cell i of n takes from cell floor(i * size / n).

    `Resize` divides by a scale in floating point; with a whole scale that is exact. With any other, a gather of the
    rows and columns worked out here is.
    """
    if node.attrs["mode"] != "nearest":
        raise DiagnosticError(unsupported(node, "onnx", f"{node.op} has no mode {node.attrs['mode']}"))
    x = b.name_of(node.operands[0])
    source, result = b.shape(node.operands[0])[2:], node.type.at(b.static.batch, b.static.height, b.static.width)[2:]
    if source == result:
        return str(b.apply("Identity", x))
    if all(r % s == 0 for s, r in zip(source, result, strict=True)):
        scales = b.constant([1.0, 1.0, *(r / s for s, r in zip(source, result, strict=True))])
        return str(
            b.apply(
                "Resize",
                x,
                "",
                scales,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )
    for axis, (size, count) in enumerate(zip(source, result, strict=True), start=2):
        if size != count:
            x = b.apply("Gather", x, b.constant(np.arange(count) * size // count, np.int64), axis=axis)
    return x


@lowering("crop")
def _crop(b: Builder, node: Node) -> str:
    height, width = b.shape(node.operands[1])[2:]
    return str(
        b.apply("Slice", b.name_of(node.operands[0]), b.integers(0, 0), b.integers(height, width), b.integers(2, 3))
    )


@lowering("anchor_grid")
def _anchor_grid(b: Builder, node: Node) -> str:
    return b.constant(anchors(node.attrs, *b.shape(node.operands[0])[2:]))


@lowering("per_anchor")
def _per_anchor(b: Builder, node: Node) -> str:
    last = b.apply("Transpose", *_inputs(b, node), perm=[0, 2, 3, 1])
    shape = node.type.at(b.static.batch, b.static.height, b.static.width)
    return str(b.apply("Reshape", last, b.integers(*shape)))


@lowering("concat")
def _concat(b: Builder, node: Node) -> str:
    return str(b.apply("Concat", *_inputs(b, node), axis=node.attrs["axis"]))


@lowering("split")
def _split(b: Builder, node: Node) -> str:
    x, *like = node.operands
    index = node.attrs["index"]
    assert isinstance(index, int)
    rows = [b.shape(value)[-2] for value in like]
    start = sum(rows[:index])
    return str(b.apply("Slice", b.name_of(x), b.integers(start), b.integers(start + rows[index]), b.integers(1)))


@lowering("select_top")
def _select_top(b: Builder, node: Node) -> tuple[str, ...]:
    """The best rows by their best class first: those among the best have theirs among the best, which leaves less to
    sort."""
    (x,) = _inputs(b, node)
    n, candidates, classes = b.shape(node.operands[0])
    count = node.type.at(b.static.batch, b.static.height, b.static.width)[1]
    best = b.apply("ReduceMax", x, axes=[2], keepdims=0)
    _, row = b.apply("TopK", best, b.integers(min(count, candidates)), outputs=2, axis=1)
    flat = b.apply("Reshape", _rows(b, x, row), b.integers(n, -1))
    scores, position = b.apply("TopK", flat, b.integers(count), outputs=2, axis=1)
    above = b.apply("Greater", scores, b.constant(number(node.attrs["threshold"])))
    kept = b.apply("Where", above, scores, b.constant(0.0))
    per_row = b.constant(classes, np.int64)
    index = b.apply("GatherElements", row, b.apply("Div", position, per_row), axis=1)
    return kept, index, b.apply("Mod", position, per_row)


@lowering("gather_rows")
def _gather_rows(b: Builder, node: Node) -> str:
    x, index = _inputs(b, node)
    if len(b.shape(node.operands[0])) == 2:
        return str(b.apply("Gather", x, index, axis=0))
    return _rows(b, x, index)


def _rows(b: Builder, x: str, index: str) -> str:
    """Rows `index` (N, k) of x (N, K, D)."""
    return str(b.apply("GatherND", x, b.apply("Unsqueeze", index, b.integers(2)), batch_dims=1))


@lowering("decode_delta")
def _decode_delta(b: Builder, node: Node) -> str:
    """R-CNN's box coding undone: the centre moves by anchor sizes, the size is multiplied by an exponential."""
    boxes, deltas = (b.name_of(value) for value in node.operands[:2])
    means, stds = numbers(node.attrs["means"]), numbers(node.attrs["stds"])
    if means != (0.0,) * 4 or stds != (1.0,) * 4:
        deltas = b.apply("Add", b.apply("Mul", deltas, b.constant(stds)), b.constant(means))
    halves = b.integers(2, 2)
    shift, growth = b.apply("Split", deltas, halves, outputs=2, axis=-1)
    low, high = b.apply("Split", boxes, halves, outputs=2, axis=-1)
    size = b.apply("Sub", high, low)
    half = b.constant(0.5)
    centre = b.apply("Add", b.apply("Mul", b.apply("Add", low, high), half), b.apply("Mul", size, shift))
    limit = abs(math.log(number(node.attrs["clip_ratio"])))
    growth = b.apply("Clip", growth, b.constant(-limit), b.constant(limit))
    extent = b.apply("Mul", b.apply("Mul", size, b.apply("Exp", growth)), half)
    corners = b.apply("Concat", b.apply("Sub", centre, extent), b.apply("Add", centre, extent), axis=-1)
    edge = b.constant([b.static.width, b.static.height] * 2)
    return str(b.apply("Max", b.apply("Min", corners, edge), b.constant(0.0)))


@lowering("nms")
def _nms(b: Builder, node: Node) -> tuple[str, ...]:
    """`NonMaxSuppression` class by class, with the scores spread over the classes that occur.

    Boxes are not moved apart by class, as is often done: far from the origin, single precision would move the overlaps.
    """
    boxes, scores, classes = _inputs(b, node)
    n, count = b.shape(node.operands[1])
    keep = node.attrs["keep"]
    assert isinstance(keep, int)
    zero, one = b.constant(0, np.int64), b.constant(1, np.int64)
    highest = b.apply("Max", b.apply("ReduceMax", classes, keepdims=0), zero)
    every = b.apply("Range", zero, b.apply("Add", highest, one), one)
    spread = b.apply(
        "Where",
        b.apply("Equal", b.apply("Unsqueeze", classes, b.integers(1)), b.apply("Unsqueeze", every, b.integers(0, 2))),
        b.apply("Unsqueeze", scores, b.integers(1)),
        b.constant(0.0),
    )
    # Rows of (image, class, box). A score must be above the threshold, so 0 never is.
    chosen = b.apply(
        "NonMaxSuppression",
        boxes,
        spread,
        b.constant(min(keep, count), np.int64),
        b.constant(number(node.attrs["iou"])),
        b.constant(0.0),
    )
    image_and_box = b.apply("Gather", chosen, b.integers(0, 2), axis=1)
    survivors = b.apply(
        "ScatterND", b.constant(np.zeros((n, count))), image_and_box, b.apply("GatherND", scores, image_and_box)
    )
    top, position = b.apply("TopK", survivors, b.integers(min(keep, count)), outputs=2, axis=1)
    present = b.apply("Greater", top, b.constant(0.0))
    kept_classes = b.apply(
        "Where", present, b.apply("GatherElements", classes, position, axis=1), b.constant(-1, np.int64)
    )
    as_factor = b.apply("Cast", b.apply("Unsqueeze", present, b.integers(2)), to=TensorProto.FLOAT)
    kept_boxes = b.apply("Mul", _rows(b, boxes, position), as_factor)
    if keep > count:
        missing = keep - count
        kept_boxes = b.apply("Pad", kept_boxes, b.integers(0, 0, 0, 0, missing, 0), b.constant(0.0))
        top = b.apply("Pad", top, b.integers(0, 0, 0, missing), b.constant(0.0))
        kept_classes = b.apply("Pad", kept_classes, b.integers(0, 0, 0, missing), b.constant(-1, np.int64))
    return kept_boxes, top, kept_classes
