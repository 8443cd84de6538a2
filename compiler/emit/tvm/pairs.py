"""Convolutions of bfloat16 for processors with AVX512-BF16, whose instruction adds the products of pairs to float32.

A strip of neighbouring pixels by a block of output channels is summed in registers, over two input channels at a time.
The last strip of a row is moved back into it: it computes some pixels again rather than some that are not there.
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

# The instruction set, as LLVM names it; what its vectors hold.
FEATURE = "avx512bf16"
LANES = 16

# TVM rewrites values of type bfloat16 before LLVM sees them, so that what takes them is called by a name of our own.
_INSTRUCTION = """
define <16 x float> @detc_add_pairs(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %result = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %result
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
"""

# Of a task: pixels at least; and tasks, where there are so many.
_PIXELS, _TASKS = 192, 8


@dataclass(frozen=True)
class Strips:
    """Rows of `width` results, `count` of them, each in `across` strips of `columns`, `together` strips to a task."""

    count: int
    width: int
    columns: int
    across: int
    together: int

    @classmethod
    def of(cls, rows: int, width: int, columns: int, blocks: int) -> Strips:
        """For results in `blocks` blocks of output channels, of which at most `columns` pixels fit the registers."""
        across = -(-width // columns)
        columns = min(width, -(-width // across))
        strips = rows * across
        together = max(1, min(-(-_PIXELS // columns), strips * blocks // _TASKS))
        return cls(rows, width, columns, across, together)


def pack(weight: te.Tensor, channels: int) -> te.Tensor:
    """Weights (O, I, KH, KW), the upper halves of the bits, as (O / channels, KH, KW, I / 2, channels * 2): those of a
    pair side by side, zeros where the output channels end."""
    out, inputs, height, width = (int(d) for d in weight.shape)
    shape = (-(-out // channels), height, width, inputs // 2, channels * 2)
    zero = tirx.const(0, "uint16")

    def cell(block: Any, r: Any, s: Any, pair: Any, place: Any) -> Any:
        o = block * channels + place // 2
        return tirx.if_then_else(o < out, weight[o, pair * 2 + place % 2, r, s], zero)

    return te.compute(shape, cell, name="pack_pairs")


def conv(
    x: te.Tensor,
    packed: te.Tensor,
    others: Sequence[te.Tensor],
    finish: Finish,
    shape: tuple[int, int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    strips: Strips,
    dtype: str,
) -> te.Tensor:
    """The convolution of x (N, H, W, I), padded already, with packed weights: of this shape, (N, OH, OW, O).

    `finish` is applied to each value, given `others`, before it is stored as `dtype`.
    """
    blocks, kh, kw, pairs, doubled = (int(d) for d in packed.shape)
    channels = doubled // 2
    vectors, columns = channels // LANES, strips.columns
    chunks = -(-strips.count * strips.across // strips.together)
    cells = list(product(range(vectors), range(columns)))

    def loops(ins: Any, outs: Any) -> Any:
        with IRBuilder() as ib:
            pixels, weights = ins[:2]
            rest = [T.buffer_proxy(buffer) for buffer in ins[2:]]
            (results,) = (T.buffer_proxy(buffer) for buffer in outs)
            with (
                T.attr(tirx.const(0, "int32"), "pragma_import_llvm", _INSTRUCTION),
                T.parallel(0, chunks * blocks) as task,
                T.serial(0, strips.together) as number,
            ):
                block = task % blocks
                strip = T.min(task // blocks * strips.together + number, strips.count * strips.across - 1)
                row, across = strip // strips.across, strip % strips.across
                image, y = row // shape[1], row % shape[1]
                v = T.min(across * columns, strips.width - columns)
                sums = T.alloc_buffer((columns, channels), "float32", scope="local")
                total = T.buffer_proxy(sums)
                for vector, column in cells:
                    with T.vectorized(0, LANES) as lane:
                        total[column, vector * LANES + lane] = T.float32(0)
                with T.serial(0, kh) as r, T.serial(0, kw) as s, T.serial(0, pairs) as pair:
                    for vector, column in cells:
                        place = (image, y * stride[0] + r * dilation[0], (v + column) * stride[1] + s * dilation[1])
                        two = tirx.BufferLoad(pixels, [*place, tirx.Ramp(pair * 2, 1, 2)])
                        spread = tirx.Broadcast(tirx.reinterpret("int32", two), LANES)
                        start = tirx.Ramp(vector * LANES * 2, 1, LANES * 2)
                        weight = tirx.reinterpret("int32x16", tirx.BufferLoad(weights, [block, r, s, pair, start]))
                        index = [column, tirx.Ramp(vector * LANES, 1, LANES)]
                        before = tirx.BufferLoad(sums, index)
                        after = tirx.call_pure_extern("float32x16", "detc_add_pairs", before, spread, weight)
                        T.buffer_store(sums, after, index)
                for vector, column in cells:
                    at, first = (image, y, v + column), block * channels + vector * LANES

                    def sum_of(lane: Any, column: int = column, vector: int = vector) -> Any:
                        return total[column, vector * LANES + lane]

                    store(results, at, first, LANES, sum_of, finish, rest)
            return ib.get()

    return te.extern([shape], [x, packed, *others], loops, dtype=[dtype], name="pairs")
