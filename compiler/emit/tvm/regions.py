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

# A block takes one row of cells of one region, a thread every so many channels of it. `levels` has the height and width
# of each level's feature and the pixels between its cells.
_CUDA_SOURCE = r"""
struct Axis { int before, after; float share; bool counts; };

static __device__ Axis detc_between(float place, int length) {
  Axis axis = {0, 0, 0.0f, place >= -1.0f && place <= (float)length};
  if (axis.counts) {
    place = fminf(fmaxf(place, 0.0f), (float)(length - 1));
    axis.before = (int)floorf(place);
    axis.after = min(axis.before + 1, length - 1);
    axis.share = place - floorf(place);
  }
  return axis;
}

static __device__ int detc_points(float side, int samples) {
  if (samples > 0) return samples;
  return side > 0.0f && side < 1048576.0f ? (int)ceilf(side) : 0;
}

extern "C" __global__ void detc_cut_out(const float* f0, const float* f1, const float* f2, const float* f3,
                                        const float* f4, const float* f5, const float* f6, const float* f7,
                                        const float* levels, const float* boxes, const long long* level, float* cells,
                                        int regions, int channels, int size, int samples) {
  const float* features[8] = {f0, f1, f2, f3, f4, f5, f6, f7};
  const int region = blockIdx.x / size, y = blockIdx.x % size, which = (int)level[region];
  const int height = (int)levels[which * 3], width = (int)levels[which * 3 + 1];
  const float stride = levels[which * 3 + 2];
  const float* feature = features[which] + (long long)(region / regions) * height * width * channels;
  const float* box = boxes + region * 4LL;
  const float left = box[0] / stride - 0.5f, top = box[1] / stride - 0.5f;
  const float wide = (box[2] / stride - box[0] / stride) / size, high = (box[3] / stride - box[1] / stride) / size;
  const int columns = detc_points(wide, samples), rows = detc_points(high, samples);
  const float share = 1.0f / fmaxf((float)rows, 1.0f) / fmaxf((float)columns, 1.0f);
  for (int x = 0; x < size; ++x) {
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      float total = 0.0f;
      for (int i = 0; i < rows; ++i) {
        const Axis v = detc_between(top + y * high + (i + 0.5f) * (high / rows), height);
        if (!v.counts) continue;
        const float* above = feature + (long long)v.before * width * channels + c;
        const float* below = feature + (long long)v.after * width * channels + c;
        for (int j = 0; j < columns; ++j) {
          const Axis u = detc_between(left + x * wide + (j + 0.5f) * (wide / columns), width);
          if (!u.counts) continue;
          const int a = u.before * channels, b = u.after * channels;
          total += (1.0f - v.share) * ((1.0f - u.share) * above[a] + u.share * above[b]) +
                   v.share * ((1.0f - u.share) * below[a] + u.share * below[b]);
        }
      }
      cells[((long long)blockIdx.x * size + x) * channels + c] = total * share;
    }
  }
}
"""
CUDA = CudaKernel("detc_cut_out", _CUDA_SOURCE, ("handle",) * (MOST_LEVELS + 4) + ("int32",) * 4)


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
    """The launch of the kernel above; `levels` (L, 3) as there."""
    n, count, _ = (int(d) for d in boxes.shape)
    channels = int(features[0].shape[3])
    threads = min(256, -(-channels // 32) * 32)

    def launch(ins: Any, outs: Any) -> Any:
        *feature, table, box, of_level = ins
        feature += feature[:1] * (MOST_LEVELS - len(feature))
        numbers = (count, channels, size, samples)
        return CUDA.launch(*feature, table, box, of_level, *outs, *numbers, blocks=n * count * size, threads=threads)

    shape = (n * count, size, size, channels)
    return te.extern([shape], [*features, levels, boxes, level], launch, dtype=["float32"], name="cut_out")
