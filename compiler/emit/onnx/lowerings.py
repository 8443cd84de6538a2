"""How each op is written in ONNX: op -> function of the builder and the node, giving the names of the results."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from detc.compiler.emit.onnx.model import Builder
from detc.compiler.emit.static import NEARLY, anchors, number, numbers, pair, unsupported
from detc.compiler.graph import Node, Value
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


def _shape(b: Builder, node: Node) -> tuple[int, ...]:
    return node.type.at(b.static.batch, b.static.height, b.static.width)


def _elementwise(op: str, onnx_op: str) -> None:
    LOWERINGS[op] = lambda b, node: str(b.apply(onnx_op, *_inputs(b, node)))


for _op, _onnx_op in (
    ("relu", "Relu"),
    ("sigmoid", "Sigmoid"),
    ("softmax", "Softmax"),
    ("detach", "Identity"),
    ("add", "Add"),
    ("mul", "Mul"),
    ("global_avg_pool", "GlobalAveragePool"),
    ("global_max_pool", "GlobalMaxPool"),
):
    _elementwise(_op, _onnx_op)


@lowering("Conv2d")
def _conv(b: Builder, node: Node) -> str:
    a = node.attrs
    assert not a.get("standardize"), "weights are standardised before they are emitted"
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


@lowering("ConvTranspose2d")
def _conv_transpose(b: Builder, node: Node) -> str:
    a = node.attrs
    weights = [b.weight(node, name) for name in ("weight", "bias") if name in node.weights]
    kernel, stride, padding = (pair(a[name]) for name in ("kernel", "stride", "padding"))
    inputs = (*_inputs(b, node), *weights)
    return str(b.apply("ConvTranspose", *inputs, kernel_shape=kernel, strides=stride, pads=padding * 2))


@lowering("Linear")
def _linear(b: Builder, node: Node) -> str:
    (x,) = _inputs(b, node)
    if len(b.shape(node.operands[0])) == 2:
        weights = [b.weight(node, name) for name in ("weight", "bias") if name in node.weights]
        return str(b.apply("Gemm", x, *weights, transB=1))
    product = str(b.apply("MatMul", x, b.apply("Transpose", b.weight(node, "weight"), perm=[1, 0])))
    return str(b.apply("Add", product, b.weight(node, "bias"))) if "bias" in node.weights else product


@lowering("GroupNorm")
def _group_norm(b: Builder, node: Node) -> str:
    """Instances are normalised with the channels of a group as one: there is no operator for groups before opset 18."""
    (x,) = _inputs(b, node)
    n, channels, height, width = b.shape(node.operands[0])
    groups = node.attrs["groups"]
    assert isinstance(groups, int)
    grouped = b.apply("Reshape", x, b.integers(n, groups, channels // groups * height * width))
    neutral = (b.constant(np.ones(groups)), b.constant(np.zeros(groups)))
    normal = b.apply("InstanceNormalization", grouped, *neutral, epsilon=number(node.attrs["eps"]))
    weight, bias = (b.apply("Unsqueeze", b.weight(node, name), b.integers(1, 2)) for name in ("weight", "bias"))
    return str(
        b.apply("Add", b.apply("Mul", b.apply("Reshape", normal, b.integers(n, channels, height, width)), weight), bias)
    )


@lowering("BatchNorm2d")
def _batch_norm(b: Builder, node: Node) -> str:
    weights = [b.weight(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
    return str(b.apply("BatchNormalization", *_inputs(b, node), *weights, epsilon=number(node.attrs["eps"])))


@lowering("scale")
def _scale(b: Builder, node: Node) -> str:
    return str(b.apply("Mul", *_inputs(b, node), b.constant(number(node.attrs["factor"]))))


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
    source, result = b.shape(node.operands[0])[2:], _shape(b, node)[2:]
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


@lowering("constant")
def _constant(b: Builder, node: Node) -> str:
    return b.weight(node, "value")


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
    return str(b.apply("Reshape", last, b.integers(*_shape(b, node))))


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
    count = _shape(b, node)[1]
    best = b.apply("ReduceMax", x, axes=[2], keepdims=0)
    _, row = b.apply("TopK", best, b.integers(min(count, candidates)), outputs=2, axis=1)
    flat = b.apply("Reshape", _rows(b, x, row), b.integers(n, -1))
    scores, position = b.apply("TopK", flat, b.integers(count), outputs=2, axis=1)
    if node.attrs.get("logits"):
        scores = b.apply("Sigmoid", scores)
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
    corners = str(b.apply("Concat", b.apply("Sub", centre, extent), b.apply("Add", centre, extent), axis=-1))
    if not node.attrs["clip"]:
        return corners
    edge = b.constant([b.static.width, b.static.height] * 2)
    return str(b.apply("Max", b.apply("Min", corners, edge), b.constant(0.0)))


@lowering("nms")
def _nms(b: Builder, node: Node) -> tuple[str, ...]:
    """`NonMaxSuppression` class by class, with the scores spread over the classes.

    Boxes are not moved apart by class, as is often done: far from the origin, single precision would move the overlaps.
    """
    boxes, scores, classes = _inputs(b, node)
    n, count = b.shape(node.operands[1])
    keep = node.attrs["keep"]
    assert isinstance(keep, int)
    labels = _labels(b, node.operands[2])
    if labels is not None:
        every = b.integers(*sorted(labels))
    else:
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
    kept_boxes = b.apply(
        "Where", b.apply("Unsqueeze", present, b.integers(2)), _rows(b, boxes, position), b.constant(0.0)
    )
    if keep > count:
        missing = keep - count
        kept_boxes = b.apply("Pad", kept_boxes, b.integers(0, 0, 0, 0, missing, 0), b.constant(0.0))
        top = b.apply("Pad", top, b.integers(0, 0, 0, missing), b.constant(0.0))
        kept_classes = b.apply("Pad", kept_classes, b.integers(0, 0, 0, missing), b.constant(-1, np.int64))
    return kept_boxes, top, kept_classes


def _labels(b: Builder, value: Value) -> set[int] | None:
    """The classes that a value can hold, where the graph says."""
    if value.node not in b.static.graph:
        return None
    node = b.static.graph[value.node]
    if node.op == "fill":
        label = node.attrs["value"]
        assert isinstance(label, int)
        return {label}
    if node.op == "constant":
        return {int(label) for label in np.unique(b.weights[node.weights["value"]])}
    if node.op == "select_top" and value.output == 2:
        return set(range(b.shape(node.operands[0])[2]))
    if node.op == "concat":
        parts = [_labels(b, operand) for operand in node.operands]
        return None if None in parts else set().union(*(part for part in parts if part is not None))
    return None


# ---- regions ---------------------------------------------------------------------------------------------------------


@lowering("fill")
def _fill(b: Builder, node: Node) -> str:
    dtype = np.int64 if node.type.dtype == "int64" else np.float32
    return b.constant(np.full(_shape(b, node), node.attrs["value"]), dtype)


@lowering("drop_small")
def _drop_small(b: Builder, node: Node) -> str:
    boxes, scores = _inputs(b, node)
    low, high = b.apply("Split", boxes, b.integers(2, 2), outputs=2, axis=-1)
    beyond = b.apply("Greater", b.apply("Sub", high, low), b.constant(number(node.attrs["minimum"])))
    both = b.apply("ReduceMin", b.apply("Cast", beyond, to=TensorProto.INT32), axes=[-1], keepdims=0)
    return str(b.apply("Where", b.apply("Cast", both, to=TensorProto.BOOL), scores, b.constant(0.0)))


@lowering("drop_absent")
def _drop_absent(b: Builder, node: Node) -> str:
    x, scores = _inputs(b, node)
    present = b.apply("Greater", scores, b.constant(0.0))
    beyond = range(2, len(b.shape(node.operands[0])))
    if beyond:
        present = b.apply("Unsqueeze", present, b.integers(*beyond))
    return str(b.apply("Where", present, x, b.constant(0.0)))


@lowering("assign_levels")
def _assign_levels(b: Builder, node: Node) -> str:
    """How many levels' sizes the region reaches: without a logarithm, which is not exact at powers of two."""
    (boxes,) = _inputs(b, node)
    count = node.attrs["count"]
    assert isinstance(count, int)
    if count == 1:
        return b.constant(np.zeros(_shape(b, node)), np.int64)
    low, high = b.apply("Split", boxes, b.integers(2, 2), outputs=2, axis=-1)
    area = b.apply("ReduceProd", b.apply("Sub", high, low), axes=[-1])
    relative = b.apply("Div", b.apply("Sqrt", area), b.constant(number(node.attrs["finest"])))
    sizes = b.constant([2.0**level for level in range(1, count)])
    reached = b.apply("GreaterOrEqual", b.apply("Add", relative, b.constant(NEARLY)), sizes)
    return str(b.apply("ReduceSum", b.apply("Cast", reached, to=TensorProto.INT64), b.integers(2), keepdims=0))


@lowering("roi_align")
def _roi_align(b: Builder, node: Node) -> str:
    """The regions of each level out of its feature, then put back into their order.

    (All regions out of every level, as boxes without size where they belong to another, would have shapes known
    beforehand, and takes a fifth to a half longer.)
    """
    *features, boxes, level = _inputs(b, node)
    n, count, _ = b.shape(node.operands[-2])
    size = node.attrs["size"]
    rows = b.apply("Reshape", boxes, b.integers(n * count, 4))
    of_level = b.apply("Reshape", level, b.integers(n * count))
    image = b.constant(np.arange(n).repeat(count), np.int64)
    parts, places = [], []
    for which, (feature, stride) in enumerate(zip(features, numbers(node.attrs["strides"]), strict=True)):
        here = b.apply("Equal", of_level, b.constant(which, np.int64))
        place = b.apply("Squeeze", b.apply("NonZero", here), b.integers(0))
        cells = b.apply(
            "RoiAlign",
            feature,
            b.apply("Gather", rows, place),
            b.apply("Gather", image, place),
            coordinate_transformation_mode="half_pixel",
            mode="avg",
            output_height=size,
            output_width=size,
            sampling_ratio=node.attrs["samples"],
            spatial_scale=1 / stride,
        )
        parts.append(cells)
        places.append(place)
    order = b.apply("Concat", *places, axis=0)
    _, back = b.apply("TopK", order, b.integers(n * count), outputs=2, largest=0)
    return str(b.apply("Gather", b.apply("Concat", *parts, axis=0), back))


@lowering("flatten")
@lowering("per_image")
def _reshape(b: Builder, node: Node) -> str:
    return str(b.apply("Reshape", b.name_of(node.operands[0]), b.integers(*_shape(b, node))))


@lowering("fields")
def _fields(b: Builder, node: Node) -> str:
    start, stop = node.attrs["start"], node.attrs["stop"]
    assert isinstance(start, int)
    assert isinstance(stop, int)
    return str(b.apply("Slice", *_inputs(b, node), b.integers(start), b.integers(stop), b.integers(-1)))


@lowering("take_class")
def _take_class(b: Builder, node: Node) -> str:
    x, classes = _inputs(b, node)
    *rows, width = b.shape(node.operands[0])
    fields = node.attrs["fields"]
    assert isinstance(fields, int)
    count = width // fields
    of_class = b.apply("Reshape", x, b.integers(*rows, count, fields))
    index = b.apply("Unsqueeze", _known(b, classes, count), b.integers(2))
    return str(b.apply("GatherND", of_class, index, batch_dims=2))


@lowering("take_channel")
def _take_channel(b: Builder, node: Node) -> str:
    x, classes = _inputs(b, node)
    rows, channels, _, _ = b.shape(node.operands[0])
    index = b.apply("Reshape", _known(b, classes, channels), b.integers(rows, 1))
    return str(b.apply("Reshape", b.apply("GatherND", x, index, batch_dims=1), b.integers(*_shape(b, node))))


def _known(b: Builder, classes: str, count: int) -> str:
    """Classes, 0 in place of those that are none of the `count`."""
    zero = b.constant(0, np.int64)
    known = b.apply(
        "And", b.apply("GreaterOrEqual", classes, zero), b.apply("Less", classes, b.constant(count, np.int64))
    )
    return str(b.apply("Where", known, classes, zero))
