"""Whole detectors as `--target cuda` computes them in float16 and bfloat16, on this processor.

TVM's own loops are compiled for it; where they would launch kernels of ours, they call these as g++ compiled them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from host_kernels import HostKernels
from small_graphs import Small, mask_rcnn, retinanet
from tvm import relax
from tvm.relax.backend.cuda import pipeline

from detc.compiler.emit.precision import Precision
from detc.compiler.emit.static import Static, parts
from detc.compiler.emit.tvm import build, cuda
from detc.compiler.emit.tvm.build import Kernels
from detc.compiler.emit.tvm.cpu import Registers
from detc.compiler.emit.tvm.gpu import Gpu
from detc.compiler.emit.tvm.module import Builder, Epilogue, program
from detc.compiler.graph import Graph
from detc.compiler.passes import apply
from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
from detc.compiler.passes.fold_standardization import FoldStandardization
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.judge import TvmCandidate, engine

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


# Of a rounded number, as a share of it.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def candidate(graph: Graph, weights: dict[str, np.ndarray], small: Small, precision: Precision, folder: Path):
    """The detector's parts, with kernels of ours registered under the names that TVM calls."""
    n, _, height, width = small.image.shape
    size = {"batch": n, "height": height, "width": width}
    emitted = program(graph, weights, Gpu("sm_90"), **size, precision=precision)
    kernels = cuda.own_kernels(emitted.module)
    host = HostKernels(kernels, folder)
    for kernel in kernels:
        tvm_ffi.register_global_func(kernel.name, launcher(host, kernel.name, kernel.dynamic), override=True)
    target = tvm.target.Target("llvm")
    # Nothing is as wide as these registers: TVM cannot store vectors of bfloat16 on a processor.
    executable = tvm.compile(build.lowered(emitted.module, target, Registers(1 << 20, 16)), target=target)
    kernels = build._kernels(emitted, build._linked(executable), "llvm", precision, "", ())
    return TvmCandidate(engine(kernels), kernels.parameters, graph, whole, precision)


def whole(graph: Graph) -> Kernels:
    raise AssertionError("parts are asked for, and nothing inside them")


def launcher(host: HostKernels, name: str, dynamic: bool) -> Callable[..., None]:
    """What TVM calls in the place of a launch: pointers and numbers, and at the end the launch's sizes."""

    def launch(*arguments: Any) -> None:
        *given, blocks, threads, shared = arguments if dynamic else (*arguments, 0)
        # Fewer threads than a GPU's blocks have where a kernel takes any number: they are made one by one here.
        threads = threads if "conv" in name else min(threads, 64)
        host.launch(name, *given, blocks=blocks, threads=threads, shared=shared)

    return launch


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("detector", [retinanet, mask_rcnn])
def test_every_part_of_a_detector_agrees_with_torch(
    detector: Callable[..., tuple[Small, Graph]], precision: Precision, tmp_path: Path
) -> None:
    """Networks within a few roundings of each value, choices exactly; each is given what torch's earlier parts gave."""
    small, graph = detector(batch=2)
    folded, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    found = candidate(folded, weights, small, precision, tmp_path)
    for index, part in enumerate(parts(folded)):
        given = [small.values[value].numpy() for value in part.given]
        for value, actual in zip(part.results, found.part(index, given), strict=True):
            expected = small.values[value].numpy()
            if part.chooses:
                np.testing.assert_allclose(actual, expected, atol=1e-3, err_msg=str(value))
            else:
                error = np.abs(actual - expected).max() / np.abs(expected).max()
                assert 0 < error < 12 * ROUNDING[precision], value


def test_a_layer_that_kernels_cannot_count_is_refused() -> None:
    """Places in an input are 32-bit numbers."""
    rows = relax.Var("rows", relax.TensorType((1 << 20, 1 << 11), "float16"))
    builder = Builder(relax.BlockBuilder(), Static(Small().graph(), 1, 8, 8), {}, Gpu("sm_90"), "float16")
    with pytest.raises(DiagnosticError, match=r"cuda-build-failed.*fc\.weight"):
        builder.backend.dense(builder, rows, "fc.weight", np.zeros((8, 1 << 11), np.float32), Epilogue())


@pytest.mark.parametrize(("detector", "graphs"), [(retinanet, 1), (mask_rcnn, 3)])
def test_launches_are_recorded_in_few_graphs(detector: Callable[..., tuple[Small, Graph]], graphs: int) -> None:
    """All of a detector but what reads its input or makes its results; one of two stages is cut where proposals are."""
    small, graph = detector()
    folded, weights = apply([FoldStandardization(), FoldBatchNorm()], graph, small.arrays)
    emitted = program(folded, weights, Gpu("sm_90"), batch=1, height=64, width=96, precision="float16")
    module = cuda.recordable(emitted)
    with cuda.target("sm_90") as target, tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
        for passes in (pipeline.legalize_passes, pipeline.dataflow_lower_passes, pipeline.finalize_passes):
            module = tvm.transform.Sequential(passes(target))(module)
    main = module["main"].script()
    assert main.count("run_or_capture") == graphs
    # Of the image as it is given, of the results in the order of the graph, and of the last choice.
    assert len(re.findall(r"^ +cls\.\w+\(", main, re.MULTILINE)) <= 6
