"""Does an artifact still compute what the spec that it was made of says?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.dsl.catalogue.export import EXPORT_DISAGREES, OTHER_SPEC
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.agreement import Verification, compare
from detc.runtime.artifact import Artifact, Entry, read
from detc.runtime.blame import disagreement, first_wrong
from detc.runtime.detector import Detector, load
from detc.runtime.engines import WEIGHTS, TvmEngine
from detc.runtime.export import fingerprint
from detc.runtime.judge import Judge, OnnxCandidate, TvmCandidate
from detc.runtime.low_precision import compare_rounded
from detc.runtime.predict import loaded_module

if TYPE_CHECKING:
    from detc.compiler.emit.tvm.build import Kernels
    from detc.compiler.graph import Graph
    from detc.compiler.passes import Weights


def verify_artifact(
    path: Path,
    weights: Path,
    spec: tuple[Path, str | None] | None = None,
    roots: tuple[Path, ...] = (),
    step: Callable[[str], None] = lambda _: None,
) -> tuple[Verification, list[Diagnostic]]:
    """Compares the artifact at `path` with torch.fx: how it agrees, and where it does not, what is wrong first.

    `weights` is the file that it was exported with. `spec` is the file and the name of its detector; without one, the
    spec's text in the artifact is taken. `step` is told what is being done.

    Raises:
        DiagnosticError: artifact-of-another-spec, what is wrong with the artifact, the spec, or the weights.
    """
    import torch

    step(f"reading {path}")
    manifest, members = read(path)
    artifact = Artifact.load(path)
    detector = _spec_of(path, manifest, roots) if spec is None else load(*spec, roots)
    original = detector.graph.view("predict")
    step(f"loading {weights}")
    torch.manual_seed(0)
    state = {key: value.numpy() for key, value in loaded_module(detector, weights).state_dict().items()}
    for entry in artifact.entries:
        size = {"batch": entry.batch, "height": entry.height, "width": entry.width}
        shape = (entry.batch, 3, entry.height, entry.width)
        chosen = [one for one in passes(**size) if one.name in entry.passes]
        graph, arrays = apply(chosen, original, {key: state[key] for key in original.weights})
        if fingerprint(graph) != entry.graph:
            whose = f"{detector.path}:{detector.name}" if spec else "the spec in it"
            summary = f"{path} was made of another graph than this detc makes of {whose}"
            detail = "give --spec as it was exported, or export it again"
            raise DiagnosticError(OTHER_SPEC.at(None, summary, detail=detail))
        judge = Judge(original, state, graph)
        candidate = _candidate(manifest, members, entry, graph, arrays)
        step(f"comparing {entry.file} with torch.fx")
        # In bfloat16 a model is that in float32, which an engine is told to compute otherwise.
        if manifest["precision"] == "float32" or (manifest["precision"], manifest["target"]) == ("bfloat16", "onnx"):
            verification = compare(judge, candidate, shape)
            if verification.status == "failed":
                step("looking for the first value that differs")
                fault = first_wrong(judge, candidate, shape)
                return verification, [disagreement(f"{path} does not agree with torch.fx", verification, fault)]
        else:
            verification = compare_rounded(judge, candidate, shape, manifest["precision"])
            if verification.status == "failed":
                summary = f"{path} does not agree with torch.fx"
                return verification, [EXPORT_DISAGREES.at(None, summary, detail=str(verification))]
    return verification, []


def _spec_of(path: Path, manifest: dict[str, Any], roots: tuple[Path, ...]) -> Detector:
    """The detector of the spec that an artifact carries."""
    with tempfile.TemporaryDirectory(prefix="detc-") as folder:
        file = Path(folder) / "spec.det"
        file.write_text(manifest["spec"]["text"], encoding="utf-8")
        try:
            return load(file, manifest["detector"], roots)
        except DiagnosticError as error:
            summary = f"{path}: the spec in it does not compile by itself: {error.diagnostics[0].summary}"
            raise DiagnosticError(OTHER_SPEC.at(None, summary, detail="give --spec SPEC:NAME as exported")) from None


def _candidate(
    manifest: dict[str, Any], members: dict[str, bytes], entry: Entry, graph: Graph, weights: Weights
) -> Any:
    """A variant under test: from normalised images to boxes in pixels of those, whatever it takes and gives."""
    if manifest["target"] == "onnx":
        import onnx

        from detc.compiler.emit.onnx import embed

        model = onnx.load_from_string(members[entry.file])
        embed(model, members[WEIGHTS])
        return OnnxCandidate(model, graph)
    from safetensors.numpy import load as arrays

    from detc.compiler.emit.tvm.build import build_cuda, build_llvm

    precision, parameters = manifest["precision"], arrays(members[WEIGHTS])
    outputs = [output["name"] for output in entry.outputs]
    engine = TvmEngine(members[entry.file], parameters, entry.functions, entry.prepared, outputs, manifest["target"])
    build: Callable[..., Kernels] = build_llvm if manifest["target"] == "llvm" else build_cuda
    size = {"batch": entry.batch, "height": entry.height, "width": entry.width}
    compiled = partial(build, weights=weights, **size, arch=manifest["arch"], precision=precision)
    return TvmCandidate(engine, parameters, graph, compiled, precision)
