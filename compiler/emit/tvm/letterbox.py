"""Pixels of any size into the image that a detector takes, for both targets, and its boxes back (`emit.letterbox`).

Inputs: pixels (N, h, w, 3) uint8 and sizes (N, 2) int64, of which h and w are known when it runs. Output: the image
(N, 3, H, W) float32. A size that is none, or is larger than the pixels, is taken for the nearest that is one: the
kernels read within the pixels whatever the sizes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.letterbox import ONE, Letterbox
from detc.compiler.emit.tvm.own import CudaKernel

if TYPE_CHECKING:
    from detc.compiler.emit.tvm.module import Builder

# Threads of a block of the CUDA kernel, each of which makes one pixel.
CUDA_THREADS = 256

_CUDA_SOURCE = r"""
struct Between { long long before, after; int share; };

static __device__ Between detc_neighbours(long long x, long long source, long long target) {
  const long long place = (2 * x + 1) * source - target, whole = 2 * target;
  const long long floor = place >= 0 ? place / whole : -1;
  const float at = (float)__dadd_rn((double)floor, __ddiv_rn((double)(place - floor * whole), (double)whole));
  Between found = {max(floor, 0LL), min(floor + 1, source - 1), __float2int_rn(2048.0f * (at - (float)floor))};
  return found;
}

extern "C" __global__ void detc_letterbox(const unsigned char* pixels, const long long* sizes, float* image, int rows,
                                          int columns, int height, int width, float mean0, float mean1, float mean2,
                                          float scale0, float scale1, float scale2, int flipped) {
  const long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x, plane = (long long)height * width;
  const long long x = at % width, y = at / width % height, n = blockIdx.y;
  if (at >= plane) return;
  const long long h = min(max(sizes[2 * n], 1LL), (long long)rows);
  const long long w = min(max(sizes[2 * n + 1], 1LL), (long long)columns);
  const bool wide = width * h <= height * w;
  const long long high = wide ? max(1LL, (2 * h * width + w) / (2 * w)) : height;
  const long long across = wide ? width : max(1LL, (2 * w * height + h) / (2 * h));
  float* out = image + 3 * n * plane + at;
  if (x >= across || y >= high) {
    for (int c = 0; c < 3; ++c) out[c * plane] = 0.0f;
    return;
  }
  const Between u = detc_neighbours(x, w, across), v = detc_neighbours(y, h, high);
  const unsigned char* above = pixels + (n * rows + v.before) * columns * 3;
  const unsigned char* below = pixels + (n * rows + v.after) * columns * 3;
  const float means[3] = {mean0, mean1, mean2}, scales[3] = {scale0, scale1, scale2};
  for (int c = 0; c < 3; ++c) {
    const int source = flipped ? 2 - c : c;
    const int upper = above[3 * u.before + source] * (2048 - u.share) + above[3 * u.after + source] * u.share;
    const int lower = below[3 * u.before + source] * (2048 - u.share) + below[3 * u.after + source] * u.share;
    const int mixed = (2048 - v.share) * (upper >> 4) / 65536 + v.share * (lower >> 4) / 65536;
    out[c * plane] = ((float)((mixed + 2) >> 2) - means[c]) * scales[c];
  }
}
"""
CUDA = CudaKernel(
    "detc_letterbox",
    _CUDA_SOURCE,
    ("handle",) * 3 + ("int32",) * 4 + ("float32",) * 6 + ("int32",),
    axes=("blockIdx.y",),
)


def on_cpu(pixels: te.Tensor, sizes: te.Tensor, height: int, width: int, *settings: Any) -> te.Tensor:
    """The rows in parallel, after the columns' neighbours of each image. `settings` are the fields of a `Letterbox`."""
    n = int(sizes.shape[0])
    letterbox = Letterbox(*settings)

    def loops(ins: Any, outs: Any) -> Any:
        # A builder takes one statement: a loop of one turn holds both.
        with IRBuilder() as ib:
            with T.serial(0, 1):
                pixel, size = (T.buffer_proxy(buffer) for buffer in ins)
                (image,) = (T.buffer_proxy(buffer) for buffer in outs)
                _, rows, columns, _ = ins[0].shape
                given, fitted = (_table((n, 2), "int64") for _ in range(2))
                before, after, share = (_table((n, width), "int32") for _ in range(3))
                with T.parallel(0, n) as i:
                    for axis, extent in enumerate((rows, columns)):
                        most = T.Cast("int64", extent)
                        given[i, axis] = T.max(T.min(size[i, axis], most), T.int64(1))
                    for axis, side in enumerate(_fitted(given[i, 0], given[i, 1], height, width)):
                        fitted[i, axis] = side
                    with T.serial(0, width) as x:
                        _neighbours(T.Cast("int64", x), given[i, 1], fitted[i, 1], (before, after, share), (i, x))
                with T.parallel(0, n * height) as row:
                    i, y = row // height, row % height
                    lines = [_table((1,), "int32", "local") for _ in range(3)]
                    mixed = [_table((3 * width,), "int32", "local") for _ in range(2)]
                    inside = T.if_then_else(T.Cast("int64", y) < fitted[i, 0], T.Cast("int32", fitted[i, 1]), 0)
                    with T.If(inside > 0), T.Then():
                        _neighbours(T.Cast("int64", y), given[i, 0], fitted[i, 0], lines, (0,))
                        with T.serial(0, inside) as x:
                            left, right, across = before[i, x], after[i, x], share[i, x]
                            for line, into in zip(lines, mixed, strict=False):
                                for c, source in enumerate(letterbox.channels):
                                    one, other = (
                                        T.Cast("int32", pixel[i, line[0], column, source]) for column in (left, right)
                                    )
                                    into[c * width + x] = one * (ONE - across) + other * across >> 4
                    above, below = mixed
                    down = lines[2][0]
                    for c in range(3):
                        with T.serial(0, inside) as x:
                            upper, lower = (ONE - down) * above[c * width + x], down * below[c * width + x]
                            value = T.Cast("float32", (upper >> 16) + (lower >> 16) + 2 >> 2)
                            image[i, c, y, x] = (value - T.float32(letterbox.means[c])) * T.float32(letterbox.scales[c])
                        with T.serial(0, width - inside) as x:
                            image[i, c, y, inside + x] = T.float32(0)
            return ib.get()

    return te.extern([(n, 3, height, width)], [pixels, sizes], loops, dtype=["float32"], name="letterbox")


def on_cuda(pixels: te.Tensor, sizes: te.Tensor, height: int, width: int, *settings: Any) -> te.Tensor:
    """The launch of the kernel above. `settings` are the fields of a `Letterbox`."""
    n = int(sizes.shape[0])
    letterbox = Letterbox(*settings)

    def launch(ins: Any, outs: Any) -> Any:
        _, rows, columns, _ = ins[0].shape
        return CUDA.launch(
            *(*ins, *outs, rows, columns, height, width),
            *(float(value) for value in (*letterbox.means, *letterbox.scales)),
            int(letterbox.order == "rgb"),
            blocks=-(-height * width // CUDA_THREADS),
            threads=CUDA_THREADS,
            more=(n,),
        )

    return te.extern([(n, 3, height, width)], [pixels, sizes], launch, dtype=["float32"], name="letterbox")


def back(boxes: te.Tensor, sizes: te.Tensor, height: int, width: int) -> te.Tensor:
    """Boxes (N, K, 4) in the detector's image as pixels of the images given, cut at their borders."""

    def compute(i: Any, k: Any, side: Any) -> Any:
        rows, columns = (te.max(sizes[i, axis], tirx.const(1, "int64")) for axis in (0, 1))
        high, wide = _fitted(rows, columns, height, width)
        across = tirx.Mod(side, tirx.const(2, side.ty.dtype)) == 0
        given, inside = te.if_then_else(across, columns, rows), te.if_then_else(across, wide, high)
        factor = (given.astype("float64") / inside.astype("float64")).astype("float32")
        return te.max(te.min(boxes[i, k, side] * factor, given.astype("float32")), tirx.const(0.0, "float32"))

    return te.compute(boxes.shape, compute, name="back")


def _table(shape: tuple[int, ...], dtype: str, scope: str = "global") -> Any:
    return T.buffer_proxy(T.alloc_buffer(shape, dtype, scope=scope))


def _fitted(rows: Any, columns: Any, height: int, width: int) -> tuple[Any, Any]:
    """The height and width that an image of `rows` x `columns` pixels, int64, is scaled to."""
    high, wide = (tirx.const(side, "int64") for side in (height, width))
    two, one = tirx.const(2, "int64"), tirx.const(1, "int64")

    def rounded(side: Any, by: Any, over: Any) -> Any:
        return te.max(one, tirx.truncdiv(two * side * by + over, two * over))

    by_width = wide * rows <= high * columns
    return (
        tirx.Select(by_width, rounded(rows, wide, columns), high),
        tirx.Select(by_width, wide, rounded(columns, high, rows)),
    )


def _neighbours(x: Any, source: Any, target: Any, tables: Sequence[Any], place: tuple[Any, ...]) -> None:
    """Writes to `place` of three tables which pixels x of `target` lies between, and how much the latter counts."""
    before, after, share = tables
    whole = T.int64(2) * target
    # Never below -whole: as if moved up by one.
    moved = (T.int64(2) * x + T.int64(1)) * source + target
    floor = tirx.truncdiv(moved, whole) - T.int64(1)
    part = T.Cast("float64", tirx.truncmod(moved, whole)) / T.Cast("float64", whole)
    at = T.Cast("float32", T.Cast("float64", floor) + part) - T.Cast("float32", floor)
    before[place] = T.Cast("int32", T.max(floor, T.int64(0)))
    after[place] = T.Cast("int32", T.min(floor + T.int64(1), source - T.int64(1)))
    share[place] = T.Cast("int32", T.nearbyint(at * T.float32(ONE)))


def add(b: Builder, main: relax.GlobalVar, letterbox: Letterbox, parameters: list[relax.Var]) -> None:
    """Adds the function `detect`: pixels and sizes, and the parameters of `main`, to what `main` gives, with boxes in
    pixels of the images given."""
    rows, columns = tirx.Var("rows", "int64"), tirx.Var("columns", "int64")
    static = b.static
    pixels = relax.Var("pixels", relax.TensorType((static.batch, rows, columns, 3), "uint8"))
    sizes = relax.Var("sizes", relax.TensorType((static.batch, 2), "int64"))
    with b.block.function("detect", [pixels, sizes, *parameters]):
        image = b.backend.fit(b, pixels, sizes, letterbox)
        found = b.emit(relax.Call(main, [image, *parameters]))
        results = [b.emit(relax.TupleGetItem(found, index)) for index in range(len(static.outputs))]
        for index, name in enumerate(static.outputs):
            if name == "boxes":
                results[index] = b.compute(back, results[index], sizes, static.height, static.width)
        b.block.emit_func_output(b.emit(relax.Tuple(results)))
