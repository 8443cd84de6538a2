"""Whether the tools that detc drives do their work here: `python -m detc.runtime.selftest NAME`.

Each test is a process of its own (see detc.runtime.doctor), since a broken library may end the process that loads it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from detc.runtime.detector import Detector

SPEC = """
block Tiny(x: feature) -> feature { return relu(x |> conv: Conv2d(4, 3, stride = 2)) }
model Only(body: block)(image: feature) -> bundle {
    y = image |> body: body
    predict { return {y = y} }
    return {y = y}
}
detector tiny : Only { body = Tiny }
"""
SIDE = 16


def compiles() -> str:
    """A spec becomes a graph."""
    return f"{len(list(_tiny().graph.nodes))} nodes"


def runs_in_torch() -> str:
    """The graph becomes a module, whose values those of the other targets are compared with."""
    _, _, expected = _reference()
    return f"a convolution gives {list(expected.shape)}"


def runs_in_onnxruntime() -> str:
    """The same values from ONNX Runtime."""
    import onnxruntime

    from detc.compiler.emit.onnx import emit

    detector, weights, expected = _reference()
    model = emit(detector.graph.view("predict"), weights, batch=1, height=SIDE, width=SIDE)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: _image()})
    return _difference(found, expected)


def runs_in_tvm() -> str:
    """The same values from kernels that TVM compiles for this processor."""
    from detc.compiler.emit.tvm.build import build_llvm
    from detc.runtime.artifact import TvmEngine

    detector, weights, expected = _reference()
    kernels = build_llvm(detector.graph.view("predict"), weights, batch=1, height=SIDE, width=SIDE)
    given = (kernels.parameters, kernels.functions, kernels.prepared, kernels.outputs)
    engine = TvmEngine(kernels.library, *given, "llvm")
    return f"{kernels.arch}: {_difference(engine(image=_image())['y'], expected)}"


def compiles_for_cuda() -> str:
    """Kernels for an NVIDIA GPU, which need not be here."""
    from detc.compiler.emit.tvm.build import build_cuda

    detector, weights, _ = _reference()
    kernels = build_cuda(detector.graph.view("predict"), weights, batch=1, height=SIDE, width=SIDE)
    return f"{len(kernels.library)} bytes for {kernels.arch}"


TESTS: Mapping[str, Callable[[], str]] = {
    "compile": compiles,
    "torch": runs_in_torch,
    "onnxruntime": runs_in_onnxruntime,
    "llvm": runs_in_tvm,
    "cuda": compiles_for_cuda,
}


def _tiny() -> Detector:
    import detc

    with tempfile.TemporaryDirectory(prefix="detc-") as folder:
        path = Path(folder) / "tiny.det"
        path.write_text(SPEC, "utf-8")
        return detc.load(path)


def _image() -> np.ndarray:
    import numpy as np

    return np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)


def _reference() -> tuple[Detector, dict[str, np.ndarray], np.ndarray]:
    """The detector, its weights, and what torch makes of the image with them."""
    import torch

    detector = _tiny()
    module = detector.module("predict").eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(_image()))["y"].numpy()
    return detector, {key: value.numpy() for key, value in module.state_dict().items()}, expected


def _difference(found: np.ndarray, expected: np.ndarray) -> str:
    largest = float(abs(found - expected).max())
    if not largest < 1e-4:
        raise ValueError(f"its values differ from torch's by {largest:.2g}")
    return f"its values are torch's to {largest:.1g}"


if __name__ == "__main__":
    print(TESTS[sys.argv[1]]())
