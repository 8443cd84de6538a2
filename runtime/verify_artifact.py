"""Does an artifact still compute what the spec that it was made of says?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.dsl.catalogue.export import OTHER_SPEC
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.agreement import Verification, compare
from detc.runtime.artifact import Artifact, TvmEngine, read
from detc.runtime.blame import disagreement, first_wrong
from detc.runtime.detector import Detector, load
from detc.runtime.export import fingerprint
from detc.runtime.judge import Candidate, Judge, OnnxCandidate, TvmCandidate
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
    detector = _spec_of(path, manifest, roots) if spec is None else load(*spec, roots)
    batch, _, height, width = shape = tuple(manifest["inputs"][0]["shape"])
    original = detector.graph.view("predict")
    step(f"loading {weights}")
    torch.manual_seed(0)
    state = {key: value.numpy() for key, value in loaded_module(detector, weights).state_dict().items()}
    chosen = [one for one in passes(batch, height, width) if one.name in manifest["passes"]]
    graph, arrays = apply(chosen, original, {key: state[key] for key in original.weights})
    if fingerprint(graph) != manifest["graph"]:
        whose = f"{detector.path}:{detector.name}" if spec else "the spec in it"
        summary = f"{path} was made of another graph than this detc makes of {whose}"
        raise DiagnosticError(OTHER_SPEC.at(None, summary, detail="give --spec as it was exported, or export it again"))
    judge = Judge(original, state, graph)
    candidate = _candidate(path, manifest, members, graph, arrays)
    step("comparing with torch.fx")
    verification = compare(judge, candidate, shape)
    if verification.status == "passed":
        return verification, []
    step("looking for the first value that differs")
    summary = f"{path} does not agree with torch.fx"
    return verification, [disagreement(summary, verification, first_wrong(judge, candidate, shape))]


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
    path: Path, manifest: dict[str, Any], members: dict[str, bytes], graph: Graph, weights: Weights
) -> Candidate:
    batch, _, height, width = manifest["inputs"][0]["shape"]
    if manifest["target"] == "onnx":
        return OnnxCandidate(members["model.onnx"], graph)
    import safetensors.numpy

    from detc.compiler.emit.tvm.build import build_cuda, build_llvm

    artifact = Artifact.load(path)
    assert isinstance(artifact.engine, TvmEngine)
    build: Callable[..., Kernels] = build_llvm if manifest["target"] == "llvm" else build_cuda
    size = {"batch": batch, "height": height, "width": width}
    compiled = partial(build, weights=weights, **size, arch=manifest["arch"])
    return TvmCandidate(artifact.engine, safetensors.numpy.load(members["weights.safetensors"]), graph, compiled)
