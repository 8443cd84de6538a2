"""CUDA kernels run on this processor: what they compute, without a GPU."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detc.compiler.emit.tvm.own import CudaKernel, joined

_MACHINE = Path(__file__).with_name("cuda_on_host.h")
_C_TYPES = {"handle": "void*", "int32": "int", "float32": "float"}
_TYPES: dict[str, Any] = {"handle": ctypes.c_void_p, "int32": ctypes.c_int, "float32": ctypes.c_float}
_ANY = "struct Any { void* at; template <class T> operator T*() const { return (T*)at; } };\n"


class HostKernels:
    """Kernels compiled by g++. Threads of a block take turns; what would be undefined on a GPU raises."""

    def __init__(self, kernels: Iterable[CudaKernel], folder: Path) -> None:
        self._kernels = {kernel.name: kernel for kernel in kernels}
        source = folder / "kernels.cpp"
        text = joined(self._kernels.values(), f'#include "{_MACHINE}"\n')
        if str(_MACHINE) not in text:
            text = f'#include "{_MACHINE}"\n{text}'
        source.write_text("\n".join([text, _ANY, *map(_entry, self._kernels.values())]))
        options = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wno-return-local-addr"]
        subprocess.run(["g++", *options, "-o", "kernels.so", source.name], cwd=folder, check=True)
        self._library = ctypes.CDLL(str(folder / "kernels.so"))
        self._library.know_array.argtypes = [ctypes.c_void_p, ctypes.c_longlong]

    def launch(self, name: str, *arguments: Any, blocks: int, threads: int, shared: int = 0) -> None:
        """Runs a kernel: arrays for its pointers (None is a null pointer, a c_void_p one whose end is not known), and
        numbers."""
        function = self._library[f"run_{name}"]
        function.restype = ctypes.c_char_p
        given = []
        self._library.forget_arrays()
        for kind, argument in zip(self._kernels[name].arguments, arguments, strict=True):
            if isinstance(argument, ctypes.c_void_p):
                self._library.know_array(argument, 1 << 40)
                given.append(argument)
            elif kind == "handle" and argument is not None:
                assert argument.flags.c_contiguous
                self._library.know_array(argument.ctypes.data, argument.nbytes)
                given.append(_TYPES[kind](argument.ctypes.data))
            else:
                given.append(_TYPES[kind](argument))
        wrong = function(blocks, threads, shared, *given)
        assert wrong is None, wrong.decode()


def _entry(kernel: CudaKernel) -> str:
    """A function that ctypes can call, which launches a kernel."""
    kinds = list(enumerate(kernel.arguments))
    parameters = "".join(f", {_C_TYPES[kind]} a{number}" for number, kind in kinds)
    handed = ", ".join(f"Any{{a{number}}}" if kind == "handle" else f"a{number}" for number, kind in kinds)
    return (
        f'extern "C" const char* run_{kernel.name}(int blocks, int threads, int shared{parameters}) {{\n'
        f"  return host::launch(blocks, threads, shared, [=] {{ {kernel.name}({handed}); }});\n}}"
    )


def aligned(shape: tuple[int, ...], dtype: Any, fill: float = 0) -> np.ndarray:
    """An array that begins at a multiple of 64 bytes, as arrays on a GPU do."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + size].view(dtype).reshape(shape)
    array[...] = fill
    return array
