"""RoIAlign, for both targets.

Inputs: features (N, H, W, C), one a level; boxes (N, R, 4); the level of each (N, R) int64. Output: (N * R, size, size,
C). A cell is the mean of points, of which there are as many as the box has pixels: how many is known when it runs.
Since a point's weights are those of its row times those of its column, so are a cell's: they are added up along each
axis first, which leaves every pixel to be read once a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.tvm.module import real
from detc.compiler.emit.tvm.own import CudaKernel

# Levels that the CUDA kernel takes.
MOST_LEVELS = 8

# What features may be stored as, in names and in the kernel's source.
_TYPES = {"float32": ("f32", "float"), "float16": ("f16", "Half"), "bfloat16": ("bf16", "Bfloat")}


def _kernel(short: str, number: str) -> CudaKernel:
    pointers = ", ".join(f"const {number}* f{level}" for level in range(MOST_LEVELS))
    others = f"const float* levels, const float* boxes, const long long* level, {number}* cells"
    features = ", ".join(f"f{level}" for level in range(MOST_LEVELS))
    source = (
        f'extern "C" __global__ void detc_cut_out_{short}(\n'
        f"    {pointers},\n    {others}, int regions, int channels, int size, int samples) {{\n"
        f"  const {number}* const features[{MOST_LEVELS}] = {{{features}}};\n"
        "  cut_out(features, levels, boxes, level, cells, regions, channels, size, samples);\n}\n"
    )
    arguments = ("handle",) * (MOST_LEVELS + 4) + ("int32",) * 4
    return CudaKernel(f"detc_cut_out_{short}", source, arguments, ("warp.cuh", "regions.cuh"))


# How features are stored -> the kernel that reads them and stores cells alike.
CUDA = {dtype: _kernel(*names) for dtype, names in _TYPES.items()}


def on_cpu(
    features: Sequence[te.Tensor],
    boxes: te.Tensor,
    level: te.Tensor,
    size: int,
    samples: int,
    strides: Sequence[float],
    lanes: int,
) -> te.Tensor:
    """The regions in parallel; of each cell as many channels at a time as registers hold."""
    n, count, _ = (int(d) for d in boxes.shape)
    sizes = [(int(f.shape[1]), int(f.shape[2])) for f in features]
    channels = int(features[0].shape[3])
    longest = max(max(pair) for pair in sizes) + 1
    width = gcd(channels, lanes)
    vectors = next(v for v in (4, 3, 2, 1) if channels % (width * v) == 0)
    together = width * vectors

    def loops(ins: Any, outs: Any) -> Any:
        with IRBuilder() as ib:
            *feature, box, of_level = (T.buffer_proxy(buffer) for buffer in ins)
            (cells,) = (T.buffer_proxy(buffer) for buffer in outs)

            def local(shape: tuple[int, ...], dtype: str) -> Any:
                return T.buffer_proxy(T.alloc_buffer(shape, dtype, scope="local"))

            with T.parallel(0, n * count) as region:
                # Of each axis (x, y) and cell: the first pixel, how many there are, and their weights.
                first, span = (local((2, size), "int32") for _ in range(2))
                weights = local((2, size, longest), "float32")
                total = local((together,), "float32")
                image, row = region // count, region % count
                for which, (height, length) in enumerate(sizes):
                    with T.If(of_level[image, row] == T.int64(which)), T.Then():
                        for axis, extent in ((0, length), (1, height)):
                            low, high = (box[image, row, axis + end] / T.float32(strides[which]) for end in (0, 2))
                            _weigh(low, high, extent, size, samples, first, span, weights, axis)
                        with T.serial(0, size) as y, T.serial(0, size) as x, T.serial(0, channels // together) as part:
                            for vector in range(vectors):
                                with T.vectorized(0, width) as lane:
                                    total[vector * width + lane] = T.float32(0)
                            with T.serial(0, span[1, y]) as v, T.serial(0, span[0, x]) as u:
                                weight = weights[1, y, v] * weights[0, x, u]
                                for vector in range(vectors):
                                    with T.vectorized(0, width) as lane:
                                        place = vector * width + lane
                                        where = (image, first[1, y] + v, first[0, x] + u, part * together + place)
                                        total[place] = total[place] + weight * real(feature[which], *where)
                            for vector in range(vectors):
                                with T.vectorized(0, width) as lane:
                                    place = vector * width + lane
                                    cells[region, y, x, part * together + place] = total[place]
            return ib.get()

    shape = (n * count, size, size, channels)
    return te.extern([shape], [*features, boxes, level], loops, dtype=["float32"], name="cut_out")


def _weigh(
    low: Any, high: Any, length: int, size: int, samples: int, first: Any, span: Any, weights: Any, axis: int
) -> None:
    """Fills the tables of one axis, along which a feature has `length` pixels and the box goes from `low` to `high`."""
    zero, last = T.float32(0), T.float32(length - 1)
    numbers = T.alloc_buffer((4,), "float32", scope="local")
    points_ = T.alloc_buffer((1,), "int32", scope="local")
    number, points = T.buffer_proxy(numbers), T.buffer_proxy(points_)
    number[0] = low - T.float32(0.5)
    number[1] = (high - low) / T.float32(size)
    if samples:
        points[0] = T.int32(samples)
    else:
        # (A box of NaN, or one too large to be any, has no points.)
        inside = tirx.all(number[1] > zero, number[1] < T.float32(1 << 20))
        points[0] = T.if_then_else(inside, T.Cast("int32", T.ceil(number[1])), T.int32(0))
    step = number[1] / T.Cast("float32", points[0])
    share = T.float32(1) / T.Cast("float32", points[0])

    def place(cell: Any, point: Any) -> Any:
        start = number[0] + T.Cast("float32", cell) * number[1]
        return start + (T.Cast("float32", point) + T.float32(0.5)) * step

    def within(place: Any) -> Any:
        return T.max(T.min(place, last), zero)

    with T.serial(0, size) as cell:
        span[axis, cell] = T.int32(0)
        with T.If(points[0] > 0), T.Then():
            ends = [within(place(cell, point)) for point in (T.int32(0), points[0] - 1)]
            first[axis, cell] = T.Cast("int32", T.floor(T.min(*ends)))
            span[axis, cell] = T.min(T.Cast("int32", T.floor(T.max(*ends))) + 2, T.int32(length)) - first[axis, cell]
            with T.serial(0, span[axis, cell]) as pixel:
                weights[axis, cell, pixel] = zero
            with T.serial(0, points[0]) as point:
                number[2] = place(cell, point)
                with T.If(tirx.all(number[2] >= T.float32(-1), number[2] <= T.float32(length))), T.Then():
                    number[3] = within(number[2])
                    before = T.Cast("int32", T.floor(number[3]))
                    after = T.min(before + 1, T.int32(length - 1))
                    rest = number[3] - T.floor(number[3])
                    for pixel, part in ((before, T.float32(1) - rest), (after, rest)):
                        slot = pixel - first[axis, cell]
                        weights[axis, cell, slot] = weights[axis, cell, slot] + share * part


def on_cuda(
    features: Sequence[te.Tensor], levels: te.Tensor, boxes: te.Tensor, level: te.Tensor, size: int, samples: int
) -> te.Tensor:
    """The launch of the kernel of the features' precision, in which cells are; `levels` (L, 3) as there."""
    n, count, _ = (int(d) for d in boxes.shape)
    channels = int(features[0].shape[3])
    threads = min(256, -(-channels // 32) * 32)

    def launch(ins: Any, outs: Any) -> Any:
        *feature, table, box, of_level = ins
        feature += feature[:1] * (MOST_LEVELS - len(feature))
        numbers = (count, channels, size, samples)
        kernel = CUDA[str(features[0].dtype)]
        return kernel.launch(*feature, table, box, of_level, *outs, *numbers, blocks=n * count * size, threads=threads)

    shape = (n * count, size, size, channels)
    return te.extern([shape], [*features, levels, boxes, level], launch, dtype=[str(features[0].dtype)], name="cut_out")
