"""Kernels of our own in CUDA, which the build adds to the library under their names.

Nothing here imports TVM before a call is written: `detc tune` compiles these kernels on machines without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).parent / "kernels_cuda"


@dataclass(frozen=True)
class CudaKernel:
    """A `__global__` function: its name, the source that defines it, and the types of its arguments.

    `headers` are the files of kernels_cuda/ that the source needs, in their order. A `dynamic` kernel is told at its
    launch how much shared memory it has.
    `axes` names what its launch has beside blocks and threads along x, such as blockIdx.y.
    """

    name: str
    source: str
    arguments: tuple[str, ...]
    headers: tuple[str, ...] = ()
    dynamic: bool = False
    axes: tuple[str, ...] = ()

    def launch(self, *arguments: Any, blocks: int, threads: int, shared: int = 0, more: tuple[int, ...] = ()) -> Any:
        """The call, in a PrimFunc: buffers are handed over as pointers, numbers as what the kernel takes.

        `shared` is the bytes of shared memory that a dynamic kernel gets; `more` are the extents of its `axes`.
        """
        from tvm import tirx

        def given(argument: Any, kind: str) -> Any:
            if kind == "handle":
                return argument.data
            return tirx.const(argument, kind) if isinstance(argument, int | float) else argument.astype(kind)

        values = (given(argument, kind) for argument, kind in zip(arguments, self.arguments, strict=True))
        sizes = (blocks, threads, *more, *((shared,) if self.dynamic else ()))
        return tirx.call_packed(self.name, *values, *(tirx.const(size, "int32") for size in sizes))

    @property
    def launch_tags(self) -> list[str]:
        """What the numbers after a call's arguments are, in TVM's words."""
        return ["blockIdx.x", "threadIdx.x", *self.axes, *(["tirx.use_dyn_shared_memory"] if self.dynamic else [])]


def header(name: str) -> str:
    """A file of kernels_cuda/."""
    return (_SOURCES / name).read_text("utf-8")


def joined(kernels: Iterable[CudaKernel], machine: str | None = None) -> str:
    """One source of several kernels, with each header once.

    `machine` stands in for the header warp.cuh: tests have one that runs kernels without a GPU.
    """
    kernels = list(kernels)
    headers = dict.fromkeys(name for kernel in kernels for name in kernel.headers)
    texts = (machine if machine is not None and name == "warp.cuh" else header(name) for name in headers)
    return "\n".join([*texts, *(kernel.source for kernel in kernels)])
