"""The highest of each row, for `--target cuda`: a selection by digits (kernels_cuda/top.cuh).

TVM sorts whole rows, of a hundred thousand scores where a thousand are wanted.
"""

from __future__ import annotations

from typing import Any

from tvm import te

from detc.compiler.emit.tvm.own import CudaKernel, header

CUDA = CudaKernel("detc_top", header("top.cuh"), ("handle",) * 3 + ("int32",) * 3, ("warp.cuh",), dynamic=True)

# The threads of a block, which takes one row.
THREADS = 1024
# Of what is chosen: bytes of each, and of what the kernel has in shared memory beside it.
_ENTRY, _BESIDE = 8, 17 << 10


def capacity(count: int) -> int:
    """Entries that are sorted for `count` that are chosen: a power of two."""
    return max(2, 1 << (count - 1).bit_length())


def fits(count: int, shared: int) -> bool:
    """Whether so many can be sorted in `shared` bytes of shared memory."""
    return capacity(count) * _ENTRY + _BESIDE <= shared


def on_cuda(numbers: te.Tensor, count: int) -> list[te.Tensor]:
    """The `count` highest of each row of numbers (N, K) float32, best first, and where they are, int64: both
    (N, count). Of equal ones the first come first."""
    rows, length = (int(d) for d in numbers.shape)
    size = capacity(count)

    def launch(ins: Any, outs: Any) -> Any:
        return CUDA.launch(*ins, *outs, length, count, size, blocks=rows, threads=THREADS, shared=size * _ENTRY)

    shape = (rows, count)
    found: list[te.Tensor] = te.extern([shape, shape], [numbers], launch, dtype=["float32", "int64"], name="top")
    return found
