"""From a detector with weights to a verified artifact. `detc export` is this with a progress display."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detc.compiler.emit.static import Static
from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.compiler.serialize import to_text
from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import artifact
from detc.runtime.agreement import Verification, compare
from detc.runtime.artifact import missing_features
from detc.runtime.blame import disagreement, first_wrong
from detc.runtime.files import make_folder, write_whole
from detc.runtime.judge import Candidate, Judge, OnnxCandidate, TvmCandidate, engine

if TYPE_CHECKING:
    import numpy as np
    import torch

    from detc.compiler.graph import Graph, Value
    from detc.runtime.detector import Detector

Target = Literal["onnx", "llvm", "cuda"]
TARGETS: tuple[Target, ...] = ("onnx", "llvm", "cuda")


def export(
    detector: Detector,
    module: torch.fx.GraphModule,
    output: Path,
    *,
    target: Target,
    height: int,
    width: int,
    batch: int = 1,
    arch: str | None = None,
    without: Collection[str] = (),
    step: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Compiles a detector's predict view with the weights of `module`, verifies it, and writes it to `output`.

    `height` and `width` are multiples of the graph's size divisor. `output` is a `.detc` artifact, or, for the target
    onnx and a name that ends in `.onnx`, the model itself with the manifest among its metadata. `step` is told what is
    being done. `without` names passes of the graph to leave out, to measure or to suspect them.

    Raises:
        DiagnosticError: op-without-lowering, export-disagrees, cannot-write, and what the target's tools lack.
    """
    _require_place(output)
    state = {key: value.detach().cpu().numpy() for key, value in module.state_dict().items()}
    original = detector.graph.view("predict")
    size = {"batch": batch, "height": height, "width": width}
    step("optimising the graph")
    optimise = passes(**size, without=without)
    graph, weights = apply(optimise, original, {key: state[key] for key in original.weights})
    candidate: Candidate | None
    if target == "onnx":
        from detc.compiler.emit.onnx import emit

        step("writing the ONNX model")
        model = emit(graph, weights, **size)
        members = {"model.onnx": model.SerializeToString()}
        extra: dict[str, Any] = {"arch": None}
        candidate = OnnxCandidate(members["model.onnx"], graph)
    else:
        from detc.compiler.emit.tvm.build import build_cuda, build_llvm

        if target == "llvm":
            step(f"compiling kernels for {arch or 'this processor'}")
            build = partial(build_llvm, weights=weights, **size, arch=arch)
        else:
            step(f"compiling kernels for {arch or 'sm_90'}")
            build = partial(build_cuda, weights=weights, **size, arch=arch or "sm_90")
        kernels = build(graph)
        members = {"kernels.so": kernels.library, "weights.safetensors": _safetensors(kernels.parameters)}
        extra = {
            "arch": kernels.arch,
            "features": kernels.features,
            "machine": platform.machine(),
            "functions": kernels.functions,
            "prepared": kernels.prepared,
        }
        lacking = missing_features(kernels.features)
        candidate = (
            None if target == "cuda" or lacking else TvmCandidate(engine(kernels), kernels.parameters, graph, build)
        )
        reason = "no GPU" if target == "cuda" else f"this processor lacks {', '.join(lacking)}"
    if candidate is None:
        verification = Verification("not run", reason)
    else:
        step("comparing with torch.fx")
        judge, shape = Judge(original, state, graph), (batch, 3, height, width)
        verification = compare(judge, candidate, shape)
        if verification.status == "failed":
            step("looking for the first value that differs")
            summary = f"the {target} export of {detector.name} does not agree with torch.fx; nothing was written"
            raise DiagnosticError(disagreement(summary, verification, first_wrong(judge, candidate, shape)))
    described = manifest(detector, graph, target, size) | extra | {"verification": asdict(verification)}
    described |= {"passes": [one.name for one in optimise], "graph": fingerprint(graph)}
    step(f"writing {output}")
    if target == "onnx" and output.suffix == ".onnx":
        entry = model.metadata_props.add()
        entry.key, entry.value = "detc", json.dumps(described)
        data = model.SerializeToString()
        write_whole(output, lambda temporary: temporary.write_bytes(data))
    else:
        artifact.write(output, described, members)
    return verification


def _require_place(output: Path) -> None:
    """Raises DiagnosticError cannot-write before any work is done, where `output` cannot be written after it."""
    make_folder(output.parent)
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        why = "it is a folder" if output.is_dir() else f"{output.parent} takes no files of yours"
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{output}: {why}"))


def manifest(detector: Detector, graph: Graph, target: Target, size: Mapping[str, int]) -> dict[str, Any]:
    """What an artifact says of itself, but for what the target adds."""
    static = Static(graph, size["batch"], size["height"], size["width"])

    def described(values: Mapping[str, Value]) -> list[dict[str, Any]]:
        return [
            {"name": name, "shape": static.shape(value), "dtype": graph.type_of(value).dtype}
            for name, value in values.items()
        ]

    data = detector.data.as_json() if detector.data is not None else {}
    return {
        "detector": detector.name,
        "classes": detector.classes,
        "target": target,
        "spec": {
            "file": detector.path.name,
            "text": detector.source,
            "sha256": hashlib.sha256(detector.source.encode()).hexdigest(),
            "hash": detector.hash,
        },
        "inputs": described(static.inputs),
        "outputs": described(static.outputs),
        "preprocessing": {name: data.get(name) for name in ("resize", "normalize", "pad")},
        "versions": _versions(target),
    }


def fingerprint(graph: Graph) -> str:
    """SHA-256 of a graph's text form."""
    return hashlib.sha256(to_text(graph).encode()).hexdigest()


def _safetensors(parameters: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    data: bytes = save(dict(parameters))
    return data


def _versions(target: Target) -> dict[str, str]:
    """The versions of the tools that took part."""
    import detc

    tools = {"torch": "torch", "numpy": "numpy"}
    tools |= {"onnx": "onnx"} if target == "onnx" else {"tvm": "apache-tvm", "tvm-ffi": "apache-tvm-ffi"}
    found = {"detc": detc.__version__, **{name: version(package) for name, package in tools.items()}}
    if target == "cuda":
        from detc.compiler.emit.nvcc import find_nvcc

        printed = subprocess.run([find_nvcc(), "--version"], capture_output=True, text=True, check=False).stdout
        release = re.search(r"release [\d.]+, V([\d.]+)", printed)
        found["nvcc"] = release[1] if release else "unknown"
    return found
