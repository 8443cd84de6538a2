"""How each op is written in Relax: op -> function of the builder and the node, giving the variables of the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from detc.compiler.emit.static import anchors, number, numbers, pair, unsupported
from detc.compiler.emit.tvm.module import Builder, rows
from detc.compiler.graph import Node
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
    return [b.variables[value] for value in node.operands]


def _shape(b: Builder, node: Node, output: int = 0) -> tuple[int, ...]:
    return node.types[output].at(b.static.batch, b.static.height, b.static.width)


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


@lowering("Conv2d")
def _conv(b: Builder, node: Node) -> relax.Var:
    result = b.backend.conv(b, node, *_inputs(b, node))
    if "bias" in node.weights:
        result = b.emit(relax.op.add(result, b.parameter(node.weights["bias"], b.weight(node, "bias"))))
    return result


@lowering("BatchNorm2d")
def _batch_norm(b: Builder, node: Node) -> relax.Var:
    """What could not be folded: a scale and a shift of each channel."""
    scale, shift = (array.astype(np.float32) for array in affine(node, b.weights))
    prefix = node.weights["weight"].removesuffix("weight")
    scaled = b.emit(relax.op.multiply(*_inputs(b, node), b.parameter(f"{prefix}scale", scale)))
    return b.emit(relax.op.add(scaled, b.parameter(f"{prefix}shift", shift)))


@lowering("max_pool")
def _max_pool(b: Builder, node: Node) -> relax.Var:
    a = node.attrs
    return b.emit(
        relax.op.nn.max_pool2d(
            *_inputs(b, node),
            pool_size=pair(a["kernel"]),
            strides=pair(a["stride"]),
            padding=pair(a["padding"]) * 2,
            layout="NHWC",
        )
    )


@lowering("global_avg_pool")
def _global_avg_pool(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.mean(*_inputs(b, node), axis=[1, 2], keepdims=True))


@lowering("global_max_pool")
def _global_max_pool(b: Builder, node: Node) -> relax.Var:
    return b.emit(relax.op.max(*_inputs(b, node), axis=[1, 2], keepdims=True))


@lowering("resize")
@lowering("upsample")
def _resize(b: Builder, node: Node) -> relax.Var:
    """Nearest, by whole-number division, which is exact at any ratio (as TVM's own resize is not)."""
    if node.attrs["mode"] != "nearest":
        raise DiagnosticError(unsupported(node, b.backend.name, f"{node.op} has no mode {node.attrs['mode']}"))
    height, width = b.shape(node.operands[0])[2:]
    n, channels, out_height, out_width = _shape(b, node)

    def nearest(x: te.Tensor) -> te.Tensor:
        return te.compute(
            (n, out_height, out_width, channels),
            lambda i, y, v, c: x[i, y * height // out_height, v * width // out_width, c],
            name="nearest",
        )

    return b.compute(nearest, b.variables[node.operands[0]])


@lowering("crop")
def _crop(b: Builder, node: Node) -> relax.Var:
    n, channels, height, width = _shape(b, node)

    def cut(x: te.Tensor) -> te.Tensor:
        return te.compute((n, height, width, channels), lambda *index: x[index], name="crop")

    return b.compute(cut, b.variables[node.operands[0]])


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
    return b.emit(relax.op.concat(_inputs(b, node), _AXIS_IN_MEMORY[axis] if rank == 4 else axis))


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
    _, row = _top(b, best, min(count, candidates))
    scores = b.compute(rows, x, row)
    scores, position = _top(b, b.emit(relax.op.reshape(scores, (n, min(count, candidates) * classes))), count)
    threshold = number(node.attrs["threshold"])

    def above(scores: te.Tensor) -> te.Tensor:
        low, zero = tirx.const(threshold, "float32"), tirx.const(0.0, "float32")
        return te.compute(scores.shape, lambda i, j: tirx.Select(scores[i, j] > low, scores[i, j], zero), name="above")

    def row_of(position: te.Tensor, row: te.Tensor) -> te.Tensor:
        return te.compute((n, count), lambda i, j: row[i, position[i, j] // classes], name="row_of")

    def class_of(position: te.Tensor) -> te.Tensor:
        return te.compute((n, count), lambda i, j: position[i, j] % classes, name="class_of")

    return b.compute(above, scores), b.compute(row_of, position, row), b.compute(class_of, position)


def _top(b: Builder, x: relax.Var, count: int) -> tuple[relax.Var, relax.Var]:
    """The `count` highest of x (N, K), best first, and where they are, int64."""
    top = b.emit(relax.op.topk(x, k=count, axis=-1, ret_type="both", largest=True, dtype="int64"))
    return b.emit(relax.TupleGetItem(top, 0)), b.emit(relax.TupleGetItem(top, 1))


@lowering("gather_rows")
def _gather_rows(b: Builder, node: Node) -> relax.Var:
    return b.compute(rows, *_inputs(b, node))


@lowering("decode_delta")
def _decode_delta(b: Builder, node: Node) -> relax.Var:
    """R-CNN's box coding undone: the centre moves by anchor sizes, the size is multiplied by an exponential."""
    boxes, deltas = (b.variables[value] for value in node.operands[:2])
    means, stds = numbers(node.attrs["means"]), numbers(node.attrs["stds"])
    limit = abs(math.log(number(node.attrs["clip_ratio"])))
    edges = (b.static.width, b.static.height)

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
    sorted_scores, order = _top(b, scores, b.shape(node.operands[1])[1])

    def reorder(classes: te.Tensor, order: te.Tensor) -> te.Tensor:
        return te.compute(order.shape, lambda i, j: classes[i, order[i, j]], name="reorder")

    sorted_boxes, sorted_classes = b.compute(rows, boxes, order), b.compute(reorder, classes, order)
    iou = number(node.attrs["iou"])
    return tuple(b.backend.suppress(b, sorted_boxes, sorted_scores, sorted_classes, iou, keep))
