"""How each op is written in Relax: op -> function of the builder and the node, giving the variables of the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from detc.compiler.emit.static import NEARLY, anchors, number, numbers, pair, unsupported
from detc.compiler.emit.tvm.module import Builder, Epilogue, Kernel, as_stored, nearest, real, rows
from detc.compiler.emit.tvm.regions import MOST_LEVELS
from detc.compiler.graph import Node, Value, flatten
from detc.compiler.passes.fold_batch_norm import affine
from detc.dsl.diagnostics import DiagnosticError

Lowering = Callable[[Builder, Node], relax.Var | tuple[relax.Var, ...]]

LOWERINGS: dict[str, Lowering] = {}

# Where an axis of (N, C, H, W) lies in memory.
_AXIS_IN_MEMORY = {0: 0, 1: 3, 2: 1, 3: 2}


def lowering(op: str) -> Callable[[Lowering], Lowering]:
    """Declares the decorated function as the lowering of `op`."""

    def declare(function: Lowering) -> Lowering:
        LOWERINGS[op] = function
        return function

    return declare


def _inputs(b: Builder, node: Node) -> list[relax.Var]:
    return [b.read(value) for value in node.operands]


def _moved(b: Builder, node: Node, index: int = 0) -> relax.Var:
    """An input of an op that only moves values, as its result is stored."""
    return b.read(node.operands[index], b.stored(Value(node.name)))


def _shape(b: Builder, node: Node, output: int = 0) -> tuple[int, ...]:
    return node.types[output].at(b.static.batch, b.static.height, b.static.width)


def _refuse_features(b: Builder, node: Node) -> None:
    """For ops of the last axis, which is not a feature's last in memory."""
    if len(b.shape(node.operands[0])) == 4:
        raise DiagnosticError(unsupported(node, b.backend.name, f"{node.op} of a feature"))


@lowering("relu")
def _relu(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.nn.relu(*_inputs(b, node)))


@lowering("sigmoid")
def _sigmoid(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.sigmoid(*_inputs(b, node)))


@lowering("add")
def _add(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.add(*_inputs(b, node)))


@lowering("mul")
def _mul(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.multiply(*_inputs(b, node)))


@lowering("softmax")
def _softmax(b: Builder, node: Node) -> relax.Var:
    _refuse_features(b, node)
    return b.emit(relax.op.nn.softmax(*_inputs(b, node), axis=-1))


@lowering("scale")
def _scale(b: Builder, node: Node) -> relax.Var:
    factor = relax.const(number(node.attrs["factor"]), "float32")
    return b.emit(relax.op.multiply(*_inputs(b, node), factor))


@lowering("detach")
def _detach(b: Builder, node: Node) -> relax.Var:
    return _moved(b, node)


@lowering("Conv2d")
def _conv(b: Builder, node: Node) -> relax.Var:
    """With what it takes with it."""
    a, chain = node.attrs, b.chains[node.name]
    assert not a.get("standardize"), "weights are standardised before they are emitted"
    groups = a["groups"]
    assert isinstance(groups, int)
    stride, padding, dilation = (pair(a[name]) for name in ("stride", "padding", "dilation"))
    kernel = Kernel(node.weights["weight"], b.weight(node, "weight"), stride, padding, dilation, groups)
    residual = b.variables[chain.residual] if chain.residual is not None else None
    epilogue = Epilogue(_bias(b, node), residual, chain.relu, b.stored(Value(chain.last.name)))
    return b.backend.conv(b, b.variables[node.operands[0]], kernel, _shape(b, node), epilogue)


def _bias(b: Builder, node: Node) -> relax.Var | None:
    return b.parameter(node.weights["bias"], b.weight(node, "bias")) if "bias" in node.weights else None


@lowering("ConvTranspose2d")
def _conv_transpose(b: Builder, node: Node) -> relax.Var:
    """Where windows do not overlap, each cell's results side by side as channels, which are then put in their places.
    Else a convolution of x with zeros between its cells."""
    x = b.variables[node.operands[0]]
    weight, key = b.weight(node, "weight"), node.weights["weight"]
    (kernel, _), (stride, _), (padding, _) = (pair(node.attrs[name]) for name in ("kernel", "stride", "padding"))
    n, inputs, height, width = b.shape(node.operands[0])
    shape = _shape(b, node)
    if kernel == stride and padding == 0:
        side_by_side = Kernel(f"{key}.side_by_side", weight.transpose(2, 3, 1, 0).reshape(-1, inputs, 1, 1))
        bias = None
        if "bias" in node.weights:
            repeated = np.tile(b.weight(node, "bias"), kernel * kernel)
            bias = b.parameter(f"{node.weights['bias']}.side_by_side", repeated)
        epilogue = Epilogue(bias, dtype=b.stored(Value(node.name)))
        cells = b.backend.conv(b, x, side_by_side, (n, kernel * kernel * shape[1], height, width), epilogue)
        return b.compute(_spread, cells, kernel)
    if padding > kernel - 1:
        why = f"{node.op} with a padding of {padding} and a kernel of {kernel}"
        raise DiagnosticError(unsupported(node, b.backend.name, why))

    def apart(x: te.Tensor) -> te.Tensor:
        def cell(i: Any, y: Any, v: Any, c: Any) -> Any:
            present = tirx.all(y % stride == 0, v % stride == 0)
            return tirx.if_then_else(present, x[i, y // stride, v // stride, c], tirx.const(0.0, x.dtype))

        return te.compute((n, (height - 1) * stride + 1, (width - 1) * stride + 1, inputs), cell, name="apart")

    turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    opposite = Kernel(f"{key}.turned", turned, padding=(kernel - 1 - padding,) * 2)
    epilogue = Epilogue(_bias(b, node), dtype=b.stored(Value(node.name)))
    return b.backend.conv(b, b.compute(apart, x), opposite, shape, epilogue)


def _spread(x: te.Tensor, factor: int) -> te.Tensor:
    """(N, H, W, factor * factor * C) as (N, H * factor, W * factor, C)."""
    n, height, width, channels = (int(d) for d in x.shape)
    channels //= factor * factor
    return te.compute(
        (n, height * factor, width * factor, channels),
        lambda i, y, v, c: x[i, y // factor, v // factor, (y % factor * factor + v % factor) * channels + c],
        name="spread",
    )


@lowering("Linear")
def _linear(b: Builder, node: Node) -> relax.Var:
    _refuse_features(b, node)
    x = b.variables[node.operands[0]]
    weight, name = b.weight(node, "weight"), node.weights["weight"]
    if node.operands[0] in b.by_pixel:
        weight = weight.reshape(len(weight), *b.by_pixel[node.operands[0]]).transpose(0, 2, 3, 1).reshape(weight.shape)
        name += ".by_pixel"
    *rows, inputs = b.shape(node.operands[0])
    if len(rows) != 1:
        x = b.emit(relax.op.reshape(x, (math.prod(rows), inputs)))
    result = b.backend.dense(b, x, name, weight, Epilogue(_bias(b, node), dtype=b.stored(Value(node.name))))
    return result if len(rows) == 1 else b.emit(relax.op.reshape(result, _shape(b, node)))


@lowering("GroupNorm")
def _group_norm(b: Builder, node: Node) -> relax.Var:
    """Mean, then deviation from it (one pass for both would lose digits), each summed row by row first."""
    (x,) = _inputs(b, node)
    n, channels, height, width = b.shape(node.operands[0])
    groups = node.attrs["groups"]
    assert isinstance(groups, int)
    each = channels // groups
    share = tirx.const(1 / (each * height * width), "float32")
    eps = tirx.const(number(node.attrs["eps"]), "float32")

    def along_rows(x: te.Tensor, mean: te.Tensor | None = None) -> te.Tensor:
        v = te.reduce_axis((0, width), "v")

        def cell(i: Any, y: Any, c: Any) -> Any:
            if mean is None:
                return te.sum(x[i, y, v, c], axis=v)
            off = x[i, y, v, c] - mean[i, c // each]
            return te.sum(off * off, axis=v)

        return te.compute((n, height, channels), cell, name="along_rows")

    def of_groups(rows: te.Tensor) -> te.Tensor:
        y, c = te.reduce_axis((0, height), "y"), te.reduce_axis((0, each), "c")
        total = te.compute((n, groups), lambda i, g: te.sum(rows[i, y, g * each + c], axis=[y, c]), name="of_groups")
        return te.compute((n, groups), lambda i, g: total[i, g] * share, name="mean")

    def normal(x: te.Tensor, mean: te.Tensor, variance: te.Tensor, weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
        def cell(i: Any, y: Any, v: Any, c: Any) -> Any:
            g = c // each
            return (x[i, y, v, c] - mean[i, g]) / tirx.sqrt(variance[i, g] + eps) * weight[c] + bias[c]

        return te.compute(x.shape, cell, name="normal")

    mean = b.compute(of_groups, b.compute(along_rows, x))
    variance = b.compute(of_groups, b.compute(along_rows, x, mean))
    weights = (b.parameter(node.weights[name], b.weight(node, name)) for name in ("weight", "bias"))
    return b.compute(normal, x, mean, variance, *weights)


@lowering("BatchNorm2d")
def _batch_norm(b: Builder, node: Node) -> relax.Var:
    """What could not be folded: a scale and a shift of each channel."""
    scale, shift = (array.astype(np.float32) for array in affine(node, b.weights))
    prefix = node.weights["weight"].removesuffix("weight")
    scaled = b.emit(relax.op.multiply(*_inputs(b, node), b.parameter(f"{prefix}scale", scale)))
    return b.emit(relax.op.add(scaled, b.parameter(f"{prefix}shift", shift)))


@lowering("max_pool")
def _max_pool(b: Builder, node: Node) -> relax.Var:
    """The greatest of a window that is moved back to the feature where it reaches beyond: what it sees twice changes
    nothing."""
    (kernel, _), (stride, _), (padding, _) = (pair(node.attrs[name]) for name in ("kernel", "stride", "padding"))
    n, channels, height, width = _shape(b, node)
    rows, columns = b.shape(node.operands[0])[2:]
    dtype = b.stored(Value(node.name))

    def pool(x: te.Tensor) -> te.Tensor:
        def cell(i: Any, y: Any, v: Any, c: Any) -> Any:
            greatest = None
            for down, across in product(range(kernel), repeat=2):
                row, column = y * stride + down - padding, v * stride + across - padding
                row, column = te.max(te.min(row, rows - 1), 0), te.max(te.min(column, columns - 1), 0)
                value = real(x, i, row, column, c)
                greatest = value if greatest is None else te.max(greatest, value)
            return as_stored(greatest, dtype)

        return te.compute((n, height, width, channels), cell, name="max_pool")

    return b.compute(pool, b.variables[node.operands[0]])


@lowering("global_avg_pool")
def _global_avg_pool(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.mean(*_inputs(b, node), axis=[1, 2], keepdims=True))


@lowering("global_max_pool")
def _global_max_pool(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.max(*_inputs(b, node), axis=[1, 2], keepdims=True))


@lowering("resize")
@lowering("upsample")
def _resize(b: Builder, node: Node) -> relax.Var:
    if node.attrs["mode"] != "nearest":
        raise DiagnosticError(unsupported(node, b.backend.name, f"{node.op} has no mode {node.attrs['mode']}"))
    height, width = _shape(b, node)[2:]
    return b.compute(nearest, _moved(b, node), height, width)


@lowering("constant")
def _constant(b: Builder, node: Node) -> relax.Var:
    return b.parameter(node.weights["value"], b.weight(node, "value"))


@lowering("crop")
def _crop(b: Builder, node: Node) -> relax.Var:
    n, channels, height, width = _shape(b, node)

    def cut(x: te.Tensor) -> te.Tensor:
        return te.compute((n, height, width, channels), lambda *index: x[index], name="crop")

    return b.compute(cut, _moved(b, node))


@lowering("anchor_grid")
def _anchor_grid(b: Builder, node: Node) -> relax.Var:
    return b.parameter(f"{node.name}.anchors", anchors(node.attrs, *b.shape(node.operands[0])[2:]))


@lowering("per_anchor")
def _per_anchor(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.reshape(*_inputs(b, node), _shape(b, node)))


@lowering("concat")
def _concat(b: Builder, node: Node) -> relax.Var:
    axis, rank = node.attrs["axis"], len(_shape(b, node))
    assert isinstance(axis, int)
    axis %= rank
    given = [_moved(b, node, index) for index in range(len(node.operands))]
    return b.emit(relax.op.concat(given, _AXIS_IN_MEMORY[axis] if rank == 4 else axis))


@lowering("split")
def _split(b: Builder, node: Node) -> relax.Var:
    index = node.attrs["index"]
    assert isinstance(index, int)
    x, *like = node.operands
    start = sum(b.shape(value)[-2] for value in like[:index])

    def part(x: te.Tensor) -> te.Tensor:
        return te.compute(_shape(b, node), lambda i, row, *rest: x[(i, row + start, *rest)], name="split")

    return b.compute(part, b.variables[x])


@lowering("select_top")
def _select_top(b: Builder, node: Node) -> tuple[relax.Var, ...]:
    """The best rows by their best class first: those among the best have theirs among the best, which leaves less to
    sort."""
    (x,) = _inputs(b, node)
    n, candidates, classes = b.shape(node.operands[0])
    count = _shape(b, node)[1]
    best = b.emit(relax.op.max(x, axis=[2]))
    _, row = b.backend.top(b, best, min(count, candidates))
    scores = b.compute(rows, x, row)
    scores, position = b.backend.top(b, b.emit(relax.op.reshape(scores, (n, min(count, candidates) * classes))), count)
    if node.attrs.get("logits"):
        scores = b.emit(relax.op.sigmoid(scores))
    threshold = number(node.attrs["threshold"])

    def above(scores: te.Tensor) -> te.Tensor:
        low, zero = tirx.const(threshold, "float32"), tirx.const(0.0, "float32")
        return te.compute(scores.shape, lambda i, j: tirx.Select(scores[i, j] > low, scores[i, j], zero), name="above")

    def row_of(position: te.Tensor, row: te.Tensor) -> te.Tensor:
        return te.compute((n, count), lambda i, j: row[i, position[i, j] // classes], name="row_of")

    def class_of(position: te.Tensor) -> te.Tensor:
        return te.compute((n, count), lambda i, j: position[i, j] % classes, name="class_of")

    return b.compute(above, scores), b.compute(row_of, position, row), b.compute(class_of, position)


@lowering("gather_rows")
def _gather_rows(b: Builder, node: Node) -> relax.Var:
    return b.compute(rows, *_inputs(b, node))


@lowering("decode_delta")
def _decode_delta(b: Builder, node: Node) -> relax.Var:
    """R-CNN's box coding undone: the centre moves by anchor sizes, the size is multiplied by an exponential."""
    boxes, deltas = (b.variables[value] for value in node.operands[:2])
    means, stds = numbers(node.attrs["means"]), numbers(node.attrs["stds"])
    limit = abs(math.log(number(node.attrs["clip_ratio"])))
    edges, clip = (b.static.width, b.static.height), node.attrs["clip"]

    def real(value: float) -> Any:
        return tirx.const(value, "float32")

    def decode(boxes: te.Tensor, deltas: te.Tensor) -> te.Tensor:
        def corner(i: Any, j: Any, k: int) -> Any:
            axis = k % 2
            low, high = boxes[i, j, axis], boxes[i, j, axis + 2]
            shift, growth = (deltas[i, j, field] * real(stds[field]) + real(means[field]) for field in (axis, axis + 2))
            size = high - low
            centre = (low + high) * real(0.5) + size * shift
            growth = te.max(te.min(growth, real(limit)), real(-limit))
            half = size * te.exp(growth) * real(0.5)
            place = centre - half if k < 2 else centre + half
            if not clip:
                return place
            return te.max(te.min(place, real(edges[axis])), real(0.0))

        def cell(i: Any, j: Any, k: Any) -> Any:
            corners = [corner(i, j, field) for field in range(4)]
            result = corners[3]
            for field in (2, 1, 0):
                result = tirx.if_then_else(k == field, corners[field], result)
            return result

        return te.compute(deltas.shape, cell, name="decode")

    return b.compute(decode, boxes, deltas)


@lowering("nms")
def _nms(b: Builder, node: Node) -> tuple[relax.Var, ...]:
    """Candidates sorted by score, then one pass over them by the target's own kernel."""
    boxes, scores, classes = _inputs(b, node)
    keep = node.attrs["keep"]
    assert isinstance(keep, int)
    sorted_scores, order = b.backend.top(b, scores, b.shape(node.operands[1])[1])

    def reorder(classes: te.Tensor, order: te.Tensor) -> te.Tensor:
        return te.compute(order.shape, lambda i, j: classes[i, order[i, j]], name="reorder")

    sorted_boxes, sorted_classes = b.compute(rows, boxes, order), b.compute(reorder, classes, order)
    iou = number(node.attrs["iou"])
    return tuple(b.backend.suppress(b, sorted_boxes, sorted_scores, sorted_classes, iou, keep))


# ---- regions ---------------------------------------------------------------------------------------------------------


@lowering("fill")
def _fill(b: Builder, node: Node) -> relax.Var:
    dtype = node.type.dtype
    return b.emit(relax.op.full(_shape(b, node), relax.const(node.attrs["value"], dtype), dtype))


@lowering("drop_small")
def _drop_small(b: Builder, node: Node) -> relax.Var:
    minimum = tirx.const(number(node.attrs["minimum"]), "float32")

    def drop(boxes: te.Tensor, scores: te.Tensor) -> te.Tensor:
        def cell(i: Any, j: Any) -> Any:
            large = (boxes[i, j, axis + 2] - boxes[i, j, axis] > minimum for axis in (0, 1))
            return tirx.Select(tirx.all(*large), scores[i, j], tirx.const(0.0, "float32"))

        return te.compute(scores.shape, cell, name="drop_small")

    return b.compute(drop, *_inputs(b, node))


@lowering("drop_absent")
def _drop_absent(b: Builder, node: Node) -> relax.Var:
    zero = tirx.const(0.0, "float32")

    def drop(x: te.Tensor, scores: te.Tensor) -> te.Tensor:
        def cell(i: Any, j: Any, *rest: Any) -> Any:
            return tirx.Select(scores[i, j] > zero, x[(i, j, *rest)], zero)

        return te.compute(x.shape, cell, name="drop_absent")

    return b.compute(drop, *_inputs(b, node))


@lowering("assign_levels")
def _assign_levels(b: Builder, node: Node) -> relax.Var:
    """How many levels' sizes the region reaches: without a logarithm, which is not exact at powers of two."""
    count, finest = node.attrs["count"], tirx.const(number(node.attrs["finest"]), "float32")
    assert isinstance(count, int)

    def assign(boxes: te.Tensor) -> te.Tensor:
        def cell(i: Any, j: Any) -> Any:
            width, height = (boxes[i, j, axis + 2] - boxes[i, j, axis] for axis in (0, 1))
            relative = tirx.sqrt(width * height) / finest + tirx.const(NEARLY, "float32")
            level = tirx.const(0, "int64")
            for reached in range(1, count):
                size = tirx.const(2.0**reached, "float32")
                level = tirx.Select(relative >= size, tirx.const(reached, "int64"), level)
            return level

        return te.compute(boxes.shape[:2], cell, name="assign_levels")

    return b.compute(assign, *_inputs(b, node))


@lowering("roi_align")
def _roi_align(b: Builder, node: Node) -> relax.Var:
    *features, boxes, level = (b.variables[value] for value in node.operands)
    size, samples = node.attrs["size"], node.attrs["samples"]
    assert isinstance(size, int)
    assert isinstance(samples, int)
    if len(features) > MOST_LEVELS:
        why = f"{node.op} takes {len(features)} features, and at most {MOST_LEVELS} are possible"
        raise DiagnosticError(unsupported(node, b.backend.name, why))
    return b.backend.cut(b, features, boxes, level, size, samples, numbers(node.attrs["strides"]))


@lowering("flatten")
def _flatten(b: Builder, node: Node) -> relax.Var:
    """Rows stay as they lie in memory where only layers read them, whose weights can be turned instead."""
    x = _moved(b, node)
    _, channels, height, width = b.shape(node.operands[0])
    value = Value(node.name)
    shown = (v for values in b.static.graph.views["predict"].values() for v in flatten(values))
    if value not in shown and all(user.op == "Linear" for user in b.static.graph.users(node.name)):
        b.by_pixel[value] = (channels, height, width)
    else:
        x = b.emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
    return b.emit(relax.op.reshape(x, _shape(b, node)))


@lowering("per_image")
def _per_image(b: Builder, node: Node) -> relax.Var:
    _refuse_features(b, node)
    return b.emit(relax.op.reshape(b.variables[node.operands[0]], _shape(b, node)))


@lowering("fields")
def _fields(b: Builder, node: Node) -> relax.Var:
    start = node.attrs["start"]
    _refuse_features(b, node)

    def part(x: te.Tensor) -> te.Tensor:
        return te.compute(_shape(b, node), lambda *index: x[(*index[:-1], index[-1] + start)], name="fields")

    return b.compute(part, *_inputs(b, node))


@lowering("take_class")
def _take_class(b: Builder, node: Node) -> relax.Var:
    fields = node.attrs["fields"]
    assert isinstance(fields, int)
    count = b.shape(node.operands[0])[2] // fields

    def take(x: te.Tensor, classes: te.Tensor) -> te.Tensor:
        return te.compute(
            _shape(b, node), lambda i, j, f: x[i, j, _known(classes[i, j], count) * fields + f], name="take_class"
        )

    return b.compute(take, *_inputs(b, node))


@lowering("take_channel")
def _take_channel(b: Builder, node: Node) -> relax.Var:
    n, rows, height, width = _shape(b, node)
    count = b.shape(node.operands[0])[1]

    def take(x: te.Tensor, classes: te.Tensor) -> te.Tensor:
        return te.compute(
            (n, height, width, rows),
            lambda i, y, v, j: x[i * rows + j, y, v, _known(classes[i, j], count)],
            name="take_channel",
        )

    return b.compute(take, *_inputs(b, node))


def _known(label: Any, count: int) -> Any:
    """A class, 0 in place of one that is none of the `count`."""
    known = tirx.all(label >= tirx.const(0, "int64"), label < tirx.const(count, "int64"))
    return tirx.Select(known, label, tirx.const(0, "int64"))
