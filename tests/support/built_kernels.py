"""TVM kernels built and run on this processor."""

from collections.abc import Callable

import numpy as np
import tvm
from small_graphs import Small
from tvm import relax, te

from detc.compiler.emit.tvm import build
from detc.compiler.emit.tvm.build import Kernels, build_llvm
from detc.compiler.emit.tvm.cpu import Registers
from detc.compiler.graph import Graph
from detc.runtime.artifact import TvmEngine


def engine(kernels: Kernels) -> TvmEngine:
    given = (kernels.parameters, kernels.functions, kernels.prepared, kernels.outputs)
    return TvmEngine(kernels.library, *given, kernels.target)


def run(kernels: Kernels, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(kernels.outputs, engine(kernels).call("main", *inputs), strict=True))


def compiled(small: Small, graph: Graph, **options: str | None) -> dict[str, np.ndarray]:
    """The outputs of a graph, built with these options of `build_llvm`, for the image that it was made with."""
    n, _, height, width = small.image.shape
    kernels = build_llvm(graph, small.arrays, batch=n, height=height, width=width, **options)
    return run(kernels, small.image.numpy())


def this_processor() -> tvm.target.Target:
    """This machine, as a target."""
    return tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})


def computed(function: Callable[..., te.Tensor], *arrays: np.ndarray) -> np.ndarray:
    """A tensor expression of arrays, on this processor."""
    target = this_processor()
    block = relax.BlockBuilder()
    given = [relax.Var(f"x{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(arrays)]
    with block.function("main", given):
        block.emit_func_output(block.emit_te(function, *given))
    lowered = build.lowered(block.finalize(), target, Registers.of(target))
    machine = relax.VirtualMachine(tvm.compile(lowered, target=target), tvm.cpu())
    return machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays)).numpy()
