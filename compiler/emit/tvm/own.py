"""Kernels of our own in CUDA, which the build adds to the library under their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx


@dataclass(frozen=True)
class CudaKernel:
    """A `__global__` function: its name, the source that defines it, and the types of its arguments.

    `axes` names what its launch has beside blocks and threads along x, such as blockIdx.y.
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    axes: tuple[str, ...] = ()

    def launch(self, *arguments: Any, blocks: int, threads: int, more: tuple[int, ...] = ()) -> Any:
        """The call, in a PrimFunc: buffers are handed over as pointers, numbers as what the kernel takes; `more` are
        the extents of its `axes`."""

        def given(argument: Any, kind: str) -> Any:
            if kind == "handle":
                return argument.data
            return tirx.const(argument, kind) if isinstance(argument, int | float) else argument.astype(kind)

        values = (given(argument, kind) for argument, kind in zip(arguments, self.arguments, strict=True))
        return tirx.call_packed(self.name, *values, *(tirx.const(count, "int32") for count in (blocks, threads, *more)))
