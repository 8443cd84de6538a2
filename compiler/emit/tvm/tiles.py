"""Convolutions of bfloat16 for processors with AMX, whose instruction multiplies tiles of 16 x 32 by 32 x 16 values.

Four tiles of sums, of two tiles of pixels by two of output channels, stay in the processor's tile registers over the
whole reduction. A tile of pixels is up to 16 neighbours in a row of results, the last one of a row moved back into it;
where kernel and stride are 1 all pixels of a batch are one row.

Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from detc.compiler.emit.tvm.finish import Finish, store

# The instruction set, as LLVM names it.
FEATURE = "amx-bf16"
# Rows of a tile, values of a row, and output channels of the two tiles of weights that are used together.
ROWS, DEPTH, CHANNELS = 16, 32, 32

# A process asks Linux once for leave to use the registers (arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)).
INSTRUCTIONS = """
declare i64 @syscall(i64, ...)
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)
define i32 @detc_tiles_allow() alwaysinline nounwind {
  %done = call i64 (i64, ...) @syscall(i64 158, i64 4131, i64 18)
  ret i32 0
}
define i32 @detc_tiles_begin(ptr %shapes) alwaysinline nounwind {
  call void @llvm.x86.ldtilecfg(ptr %shapes)
  ret i32 0
}
define i32 @detc_tiles_end() alwaysinline nounwind {
  call void @llvm.x86.tilerelease()
  ret i32 0
}
define i32 @detc_tiles_clear() alwaysinline nounwind {
  call void @llvm.x86.tilezero(i8 0)
  call void @llvm.x86.tilezero(i8 1)
  call void @llvm.x86.tilezero(i8 2)
  call void @llvm.x86.tilezero(i8 3)
  ret i32 0
}
define i32 @detc_tiles_add(ptr %a, ptr %b, i64 %apart, ptr %weights) alwaysinline nounwind {
  %second = getelementptr i8, ptr %weights, i64 1024
  call void @llvm.x86.tileloadd64(i8 4, ptr %a, i64 %apart)
  call void @llvm.x86.tileloadd64(i8 6, ptr %weights, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 6)
  call void @llvm.x86.tileloadd64(i8 7, ptr %second, i64 64)
  call void @llvm.x86.tdpbf16ps(i8 1, i8 4, i8 7)
  call void @llvm.x86.tileloadd64(i8 5, ptr %b, i64 %apart)
  call void @llvm.x86.tdpbf16ps(i8 2, i8 5, i8 6)
  call void @llvm.x86.tdpbf16ps(i8 3, i8 5, i8 7)
  ret i32 0
}
define i32 @detc_tiles_store(ptr %sums, i64 %apart) alwaysinline nounwind {
  %second = getelementptr i8, ptr %sums, i64 %apart
  %third = getelementptr i8, ptr %second, i64 %apart
  %fourth = getelementptr i8, ptr %third, i64 %apart
  call void @llvm.x86.tilestored64(i8 0, ptr %sums, i64 64)
  call void @llvm.x86.tilestored64(i8 1, ptr %second, i64 64)
  call void @llvm.x86.tilestored64(i8 2, ptr %third, i64 64)
  call void @llvm.x86.tilestored64(i8 3, ptr %fourth, i64 64)
  ret i32 0
}
"""

# Of a task: pairs of tiles at least; and tasks, where there are so many.
_PAIRS, _TASKS = 6, 8


@dataclass(frozen=True)
class Geometry:
    """How a convolution reads: `shape` is that of its results, (N, OH, OW, O)."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def flat(self) -> bool:
        """Whether all pixels of a batch may be taken for one row."""
        return self.kernel == (1, 1) and self.stride == (1, 1)

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of results, and the results of each."""
        n, height, width, _ = self.shape
        return (1, n * height * width) if self.flat else (n * height, width)

    def place(self, row: Any, column: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of a result."""
        _, height, width, _ = self.shape
        if self.flat:
            return column // (height * width), column // width % height, column % width
        return row // height, row % height, column


def pack(weight: te.Tensor) -> te.Tensor:
    """Weights (O, I, KH, KW), the upper halves of the bits, as (O / 32, KH, KW, I / 32, 2, 16, 32): tiles whose rows
    have 16 output channels' pairs of input channels, zeros where the output channels end."""
    out, inputs, height, width = (int(d) for d in weight.shape)
    shape = (-(-out // CHANNELS), height, width, inputs // DEPTH, 2, ROWS, 32)
    zero = tirx.const(0, "uint16")

    def cell(block: Any, r: Any, s: Any, part: Any, tile: Any, pair: Any, place: Any) -> Any:
        o = block * CHANNELS + tile * 16 + place // 2
        return tirx.if_then_else(o < out, weight[o, part * DEPTH + pair * 2 + place % 2, r, s], zero)

    return te.compute(shape, cell, name="pack_tiles")


def conv(
    x: te.Tensor,
    packed: te.Tensor,
    others: Sequence[te.Tensor],
    finish: Finish,
    geometry: Geometry,
    dtype: str,
    instructions: str = INSTRUCTIONS,
) -> te.Tensor:
    """The convolution of x (N, H, W, I), padded already, with packed weights.

    `finish` is applied to each value, given `others`, before it is stored as `dtype`. Functions that are called and
    that `instructions`, text for LLVM, does not define are found when the library is loaded.
    """
    blocks, kh, kw, parts = (int(d) for d in packed.shape[:4])
    inputs = parts * DEPTH
    count, width = geometry.rows
    rows = min(ROWS, width)
    across = -(-width // rows)
    pairs = -(-count * across // 2)
    together = max(1, min(_PAIRS, pairs * blocks // _TASKS))
    (down, right), (apart_y, apart_x) = geometry.stride, geometry.dilation

    def call(name: str, *arguments: Any) -> None:
        T.evaluate(tirx.call_extern("int32", f"detc_tiles_{name}", *arguments))

    def loops(ins: Any, outs: Any) -> Any:
        with IRBuilder() as ib:
            pixels, weights = ins[:2]
            rest = [T.buffer_proxy(buffer) for buffer in ins[2:]]
            (results,) = (T.buffer_proxy(buffer) for buffer in outs)

            def tile(number: Any) -> tuple[Any, Any]:
                """Row and first column of a tile of pixels. Beyond the last, that one again."""
                number = T.min(number, count * across - 1)
                return number // across, T.min(number % across * rows, width - rows)

            def address(buffer: Any, *index: Any) -> Any:
                return tirx.address_of(tirx.BufferLoad(buffer, [*index]))

            with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", instructions):
                call("allow")
                with T.parallel(0, -(-pairs // together) * blocks) as task:
                    block = task % blocks
                    shapes = T.alloc_buffer((64,), "uint8", scope="local")
                    # (As large as it is read: TVM makes arrays smaller that are read in part.)
                    sums = T.alloc_buffer((2, 2, rows, 16), "float32", scope="local")
                    total = T.buffer_proxy(sums)
                    for byte, value in enumerate(_shapes(rows)):
                        T.buffer_store(shapes, tirx.const(value, "uint8"), [byte])
                    call("begin", address(shapes, 0))
                    with T.serial(0, together) as number:
                        first = (task // blocks * together + number) * 2
                        tiles = [tile(first), tile(first + 1)]
                        call("clear")
                        with T.serial(0, kh) as r, T.serial(0, kw) as s, T.serial(0, parts) as part:
                            read = []
                            for row, column in tiles:
                                image, y, v = geometry.place(row, column)
                                top, left = y * down + r * apart_y, v * right + s * apart_x
                                read.append(address(pixels, image, top, left, part * DEPTH))
                            apart = tirx.const(right * inputs * 2, "int64")
                            call("add", *read, apart, address(weights, block, r, s, part, 0, 0, 0))
                        call("store", address(sums, 0, 0, 0, 0), tirx.const(rows * 64, "int64"))
                        for (which, (row, column)), half in product(enumerate(tiles), range(2)):
                            o = block * CHANNELS + half * 16
                            with T.serial(0, rows) as pixel:
                                at = geometry.place(row, column + pixel)

                                def sum_of(lane: Any, cell: tuple[Any, ...] = (which, half, pixel)) -> Any:
                                    return total[(*cell, lane)]

                                store(results, at, o, 16, sum_of, finish, rest)
                    call("end")
            return ib.get()

    return te.extern([geometry.shape], [x, packed, *others], loops, dtype=[dtype], name="tiles")


def _shapes(rows: int) -> list[int]:
    """The 64 bytes that say how large each tile is: sums and pixels have so many rows, weights 16, of 64 bytes each."""
    lengths = [64 if tile < 8 else 0 for tile in range(16)]
    heights = [ROWS if tile in (6, 7) else rows for tile in range(8)] + [0] * 8
    return [1, 0, *[0] * 14, *(byte for length in lengths for byte in (length, 0)), *heights]
