"""Greedy non-maximum suppression of sorted candidates, for both targets.

Inputs: boxes (N, M, 4), scores (N, M) and classes (N, M) int64, sorted by score; a score of 0 is an absent candidate.
Outputs: the `keep` best that remain, in the same order: boxes (N, keep, 4), scores and classes (N, keep). Where there
are fewer, box and score are 0 and the class is -1. Because candidates come best first, a candidate has only to be
compared with those kept before it, and the pass ends when `keep` are kept.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.tvm.own import CudaKernel, header

# The threads of one block of the CUDA kernel, which takes one image.
CUDA_THREADS = 256

CUDA = CudaKernel("detc_suppress", header("suppress.cuh"), ("handle",) * 6 + ("int32", "int32", "float32"))


def on_cpu(boxes: te.Tensor, scores: te.Tensor, classes: te.Tensor, iou: float, keep: int) -> list[te.Tensor]:
    """The pass as loops, images in parallel."""
    n, candidates = (int(d) for d in scores.shape)

    def loops(ins: Any, outs: Any) -> Any:
        with IRBuilder() as ib:
            box, score, label = (T.buffer_proxy(buffer) for buffer in ins)
            kept_box, kept_score, kept_label = (T.buffer_proxy(buffer) for buffer in outs)
            with T.parallel(0, n) as i:
                kept, alive = (
                    T.buffer_proxy(T.alloc_buffer((1,), dtype, scope="local")) for dtype in ("int32", "int32")
                )
                kept[0] = T.int32(0)
                with T.serial(0, keep) as k:
                    kept_score[i, k] = T.float32(0)
                    kept_label[i, k] = T.int64(-1)
                    with T.serial(0, 4) as field:
                        kept_box[i, k, field] = T.float32(0)
                with (
                    T.serial(0, candidates) as j,
                    T.If(tirx.all(kept[0] < keep, score[i, j] > T.float32(0))),
                    T.Then(),
                ):
                    alive[0] = T.int32(1)
                    with (
                        T.serial(0, kept[0]) as k,
                        T.If(tirx.all(alive[0] == 1, kept_label[i, k] == label[i, j])),
                        T.Then(),
                        T.If(_iou(kept_box, box, i, k, j) > T.float32(iou)),
                        T.Then(),
                    ):
                        alive[0] = T.int32(0)
                    with T.If(alive[0] == 1), T.Then():
                        with T.serial(0, 4) as field:
                            kept_box[i, kept[0], field] = box[i, j, field]
                        kept_score[i, kept[0]] = score[i, j]
                        kept_label[i, kept[0]] = label[i, j]
                        kept[0] = kept[0] + 1
            return ib.get()

    return list(_extern(boxes, scores, classes, keep, loops))


def on_cuda(boxes: te.Tensor, scores: te.Tensor, classes: te.Tensor, iou: float, keep: int) -> list[te.Tensor]:
    """The launch of kernels_cuda/suppress.cuh."""
    n, candidates = (int(d) for d in scores.shape)

    def launch(ins: Any, outs: Any) -> Any:
        return CUDA.launch(*ins, *outs, candidates, keep, iou, blocks=n, threads=CUDA_THREADS)

    return list(_extern(boxes, scores, classes, keep, launch))


def _extern(boxes: te.Tensor, scores: te.Tensor, classes: te.Tensor, keep: int, body: Any) -> Any:
    n = scores.shape[0]
    return te.extern(
        [(n, keep, 4), (n, keep), (n, keep)],
        [boxes, scores, classes],
        body,
        dtype=["float32", "float32", "int64"],
        name="suppress",
    )


def _iou(kept: Any, box: Any, i: Any, k: Any, j: Any) -> Any:
    def sides(a: Any, row: Any) -> tuple[Any, Any]:
        return a[i, row, 2] - a[i, row, 0], a[i, row, 3] - a[i, row, 1]

    zero = tirx.const(0.0, "float32")
    width, height = (
        te.max(te.min(kept[i, k, axis + 2], box[i, j, axis + 2]) - te.max(kept[i, k, axis], box[i, j, axis]), zero)
        for axis in (0, 1)
    )
    (a, b), (c, d) = sides(kept, k), sides(box, j)
    return width * height / (a * b + c * d - width * height)
