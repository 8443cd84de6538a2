"""Kernels of our own in CUDA, which the build adds to the library under their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx


@dataclass(frozen=True)
class CudaKernel:
    """A `__global__` function: its name, the source that defines it, and the types of its arguments."""

    name: str
    source: str
    arguments: tuple[str, ...]

    def launch(self, *arguments: Any, blocks: int, threads: int) -> Any:
        """The call, in a PrimFunc: buffers are handed over as pointers, numbers as what the kernel takes."""
        given = [
            argument.data if kind == "handle" else tirx.const(argument, kind)
            for argument, kind in zip(arguments, self.arguments, strict=True)
        ]
        return tirx.call_packed(self.name, *given, tirx.const(blocks, "int32"), tirx.const(threads, "int32"))
