"""From a graph to a shared library of machine code."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax, tirx

from detc.compiler.emit.precision import Precision
from detc.compiler.emit.tvm import cuda, tuning
from detc.compiler.emit.tvm.cpu import Cpu, Registers, schedule
from detc.compiler.emit.tvm.gpu import Gpu
from detc.compiler.emit.tvm.module import Program, program
from detc.dsl.catalogue.export import CUDA_BUILD_FAILED, NO_LINKER, UNKNOWN_ARCH
from detc.dsl.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from detc.compiler.emit.letterbox import Letterbox
    from detc.compiler.graph import Graph
    from detc.compiler.passes import Weights


@dataclass(frozen=True)
class Kernels:
    """A compiled detector.

    `library` is a shared library with a TVM virtual machine's executable. Its functions are those of `module.Program`,
    which says what `functions`, `parameters`, `prepared` and `outputs` are. `precision` is that of stored values,
    `arch` the processor; `features` are the instruction sets that it must have.
    """

    library: bytes
    parameters: Mapping[str, np.ndarray]
    functions: Mapping[str, tuple[str, ...]]
    prepared: tuple[str, ...]
    outputs: tuple[str, ...]
    target: str
    precision: Precision
    arch: str
    features: tuple[str, ...] = ()


def build_llvm(
    graph: Graph,
    weights: Weights,
    *,
    batch: int,
    height: int,
    width: int,
    arch: str | None = None,
    precision: Precision = "float32",
    letterbox: Letterbox | None = None,
) -> Kernels:
    """Machine code for a processor that LLVM knows by the name `arch`; without one, for that of this machine.

    Raises DiagnosticError where an op has no lowering, the processor is unknown, or there is no linker.
    """
    codegen = tvm.target.codegen
    arch = arch or codegen.llvm_get_system_cpu()
    triple = codegen.llvm_get_system_triple()
    if not codegen.llvm_is_valid_cpu(arch, triple):
        raise DiagnosticError(UNKNOWN_ARCH.at(None, f"LLVM knows no {triple.split('-')[0]} processor {arch}"))
    target = tvm.target.Target({"kind": "llvm", "mcpu": arch})
    registers = Registers.of(target)
    size = {"batch": batch, "height": height, "width": width}
    supported = frozenset(map(str, codegen.llvm_get_cpu_features(target)))
    backend = Cpu(registers, supported)
    emitted = program(graph, weights, backend, **size, precision=precision, letterbox=letterbox)
    executable = tvm.compile(lowered(emitted.module, target, registers), target=target)
    # Tiles are for bfloat16 alone; and some virtual machines have the processor without them.
    needed = ("avx", "amx") if precision == "bfloat16" else ("avx",)
    features = tuple(sorted(f for f in supported if f.startswith(needed) or f == "fma"))
    return _kernels(emitted, _linked(executable), "llvm", precision, arch, features)


def build_cuda(
    graph: Graph,
    weights: Weights,
    *,
    batch: int,
    height: int,
    width: int,
    arch: str = "sm_90",
    precision: Precision = "float32",
    letterbox: Letterbox | None = None,
    graphs: bool = True,
) -> Kernels:
    """Machine code for an NVIDIA GPU of compute capability `arch`. Needs nvcc; needs no GPU and no driver.

    With `graphs`, launches are recorded as CUDA graphs at the first call. Less than float32 is for sm_80 and later.

    Raises DiagnosticError where an op has no lowering, nvcc is missing, or it fails.
    """
    if precision != "float32" and tuning.capability(arch) < tuning.LEAST:
        summary = f"{precision} is computed by tensor cores of sm_{tuning.LEAST} and later, which {arch} lacks"
        raise DiagnosticError(CUDA_BUILD_FAILED.at(None, summary, detail="export in float32, or for another --arch"))
    size = {"batch": batch, "height": height, "width": width}
    emitted = program(graph, weights, Gpu(arch), **size, precision=precision, letterbox=letterbox)
    return _kernels(emitted, cuda.compile_program(emitted, arch, graphs=graphs), "cuda", precision, arch, ())


def _kernels(
    emitted: Program, library: bytes, target: str, precision: Precision, arch: str, features: tuple[str, ...]
) -> Kernels:
    given = (emitted.parameters, emitted.functions, emitted.prepared, emitted.outputs)
    return Kernels(library, *given, target, precision, arch, features)


def lowered(module: tvm.IRModule, target: tvm.target.Target, registers: Registers) -> tvm.IRModule:
    """A Relax module with every operator as a loop nest, fused and scheduled for a processor."""
    transform = relax.transform
    with target:
        module = tvm.transform.Sequential(
            [
                relax.backend.DispatchSortScan(),
                transform.LegalizeOps(),
                transform.AnnotateTIROpPattern(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(),
            ]
        )(module)
        return _scheduled(module, registers)


def _scheduled(module: tvm.IRModule, registers: Registers) -> tvm.IRModule:
    """The module with every function scheduled that is not marked as being so."""
    functions = {}
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc) and "tirx.is_scheduled" not in function.attrs:
            functions[name] = schedule(function, registers).with_attrs(dict(function.attrs.items()))
        else:
            functions[name] = function
    return tvm.IRModule(functions, attrs=module.attrs)


def _linked(executable: relax.VMExecutable) -> bytes:
    with tempfile.TemporaryDirectory(prefix="detc-") as folder:
        path = Path(folder) / "model.so"
        try:
            executable.export_library(str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise DiagnosticError(NO_LINKER.at(None, f"linking the kernels failed: {error}")) from None
        return path.read_bytes()
