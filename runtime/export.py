"""From a detector with weights to a verified artifact. `detc export` is this with a progress display."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.precision import Precision
from detc.compiler.emit.static import Static, parts
from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.compiler.serialize import to_text
from detc.dsl.catalogue.export import EXPORT_DISAGREES
from detc.dsl.catalogue.running import BAD_OPTION, CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import artifact
from detc.runtime.agreement import MATCHED_SHARE, Verification, compare, match
from detc.runtime.artifact import installed, missing_features, packed
from detc.runtime.blame import disagreement, first_wrong
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.records import interpret
from detc.runtime.data.transforms import Normalize
from detc.runtime.engines import WEIGHTS, Engine, OnnxEngine, TvmEngine, on_device
from detc.runtime.files import make_folder, write_whole
from detc.runtime.judge import Candidate, Judge, OnnxCandidate, TvmCandidate
from detc.runtime.low_precision import OpenVinoCandidate, compare_found, compare_rounded

if TYPE_CHECKING:
    import torch

    from detc.compiler.graph import Graph, Value
    from detc.compiler.passes import Weights
    from detc.runtime.detector import Detector

Target = Literal["onnx", "llvm", "cuda"]
TARGETS: tuple[Target, ...] = ("onnx", "llvm", "cuda")

# Height and width of the pictures that the way from pixels to boxes is tried with.
_TRIED = ((37, 120), (333, 90), (1, 64), (480, 640))


@dataclass(frozen=True)
class Variant:
    """A batch and an image size that an artifact holds, as the manifest's `entries` have it, with its verification."""

    batch: int
    height: int
    width: int
    outputs: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    verification: Verification
    functions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prepared: tuple[str, ...] = ()
    passes: Sequence[str] = ()
    graph: str = ""

    @property
    def name(self) -> str:
        """Its batch and size, as its file's name has them."""
        return f"{self.batch}x{self.height}x{self.width}"


@dataclass(frozen=True)
class _Compiled:
    """A variant, the content of its file, and the weights it refers to."""

    variant: Variant
    weights: Mapping[str, np.ndarray]
    content: Any
    more: Mapping[str, Any]


def export(
    detector: Detector,
    module: torch.fx.GraphModule,
    output: Path,
    *,
    target: Target,
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int] = (1,),
    arch: str | None = None,
    precision: Precision = "float32",
    without: Collection[str] = (),
    step: Callable[[str], None] = lambda _: None,
) -> tuple[Variant, ...]:
    """Compiles a detector's predict view with the weights of `module`, verifies it, and writes it to `output`.

    There is a variant for each of `batches` and each of `sizes`, (height, width), which are multiples of the graph's
    size divisor; they share one copy of the weights. Where the detector's data says what pixels become, and it takes
    images alone, variants take pixels of any size (`compiler.emit.letterbox`), else normalised images.

    `output` is a `.detc` artifact, or, for the target onnx, one variant and a name that ends in `.onnx`, the model
    itself with the manifest among its metadata. `step` is told what is being done. `without` names passes of the graph
    to leave out, to measure or to suspect them.

    Raises:
        DiagnosticError: op-without-lowering, export-disagrees, cannot-write, bad-option, and what the target's tools
            lack.
    """
    _require_place(output)
    bare = target == "onnx" and output.suffix == ".onnx"
    variants = [(batch, *size) for size in dict.fromkeys(sizes) for batch in sorted(set(batches))]
    if bare and len(variants) > 1:
        summary = f"{output}: a bare model has one size and one batch, and not {len(variants)}"
        raise DiagnosticError(BAD_OPTION.at(None, summary, detail="give one of each, or a name that ends in .detc"))
    state = {key: value.detach().cpu().numpy() for key, value in module.state_dict().items()}
    original = detector.graph.view("predict")
    work = _Work(detector, original, state, _letterbox(detector, original), target, arch, precision, without, step)
    compiled = [work.compiled(*variant) for variant in variants]
    described = manifest(detector, target) | {
        "precision": precision,
        **compiled[0].more,
        "entries": [asdict(each.variant) for each in compiled],
    }
    step(f"writing {output}")
    if bare:
        (model,) = (each.content for each in compiled)
        entry = model.metadata_props.add()
        entry.key, entry.value = "detc", json.dumps({"format": artifact.FORMAT, **described})
        data = model.SerializeToString()
        write_whole(output, lambda temporary: temporary.write_bytes(data))
    else:
        artifact.write(output, described, _members(compiled, described))
    return tuple(each.variant for each in compiled)


def _letterbox(detector: Detector, graph: Graph) -> Letterbox | None:
    """What pixels become, where the detector's data says so and it takes nothing beside images."""
    if detector.data is None or set(graph.inputs) != {"image"}:
        return None
    return interpret(detector.data.normalize, (Normalize,))


@dataclass(frozen=True)
class _Work:
    """What variants are made of, and how."""

    detector: Detector
    original: Graph
    state: Mapping[str, np.ndarray]
    letterbox: Letterbox | None
    target: Target
    arch: str | None
    precision: Precision
    without: Collection[str]
    step: Callable[[str], None]

    def compiled(self, batch: int, height: int, width: int) -> _Compiled:
        """One variant, compiled and verified."""
        size = {"batch": batch, "height": height, "width": width}
        self.step("optimising the graph")
        optimise = passes(**size, without=self.without)
        graph, weights = apply(optimise, self.original, {key: self.state[key] for key in self.original.weights})
        make = self._onnx if self.target == "onnx" else self._kernels
        each = make(graph, weights, size)
        made = replace(each.variant, passes=[one.name for one in optimise], graph=fingerprint(graph))
        return replace(each, variant=made)

    def _onnx(self, graph: Graph, weights: Weights, size: Mapping[str, int]) -> _Compiled:
        from detc.compiler.emit.onnx import emit, halve, large_weights

        self.step("writing the ONNX model")
        model = emit(graph, weights, **size, letterbox=self.letterbox)
        if self.precision == "float16":
            halve(model)
        data = model.SerializeToString()
        # The model in bfloat16 is that in float32, which OpenVINO is told to compute in bfloat16.
        computed: Precision = "float16" if self.precision == "float16" else "float32"
        verification = self._verified(graph, size, OnnxCandidate(data, graph), OnnxEngine(data), computed)
        if self.precision == "bfloat16" and installed("openvino"):
            plain = emit(graph, weights, **size).SerializeToString()
            alone = [emit(part.graph, weights, **size).SerializeToString() for part in parts(graph)]
            outputs = list(Static(graph, **size).outputs)
            judge, shape = Judge(self.original, self.state, graph), _shape(size)
            rounded = OpenVinoCandidate(plain, alone, outputs, self.precision)
            verification = compare_found(judge, rounded, shape, self.precision)
            self._require(verification)
        variant = self._described(graph, size, verification)
        return _Compiled(variant, large_weights(model), model, {"arch": None})

    def _kernels(self, graph: Graph, weights: Weights, size: Mapping[str, int]) -> _Compiled:
        from detc.compiler.emit.tvm.build import build_cuda, build_llvm

        given: dict[str, Any] = {**size, "weights": weights, "precision": self.precision}
        if self.target == "llvm":
            self.step(f"compiling kernels for {self.arch or 'this processor'}")
            build = partial(build_llvm, arch=self.arch, **given)
        else:
            self.step(f"compiling kernels for {self.arch or 'sm_90'}")
            build = partial(build_cuda, arch=self.arch or "sm_90", **given)
        kernels = build(graph, letterbox=self.letterbox)
        more = {"arch": kernels.arch, "features": kernels.features, "machine": platform.machine()}
        lacking = missing_features(kernels.features)
        if self.target == "cuda" or lacking:
            reason = "no GPU" if self.target == "cuda" else f"this processor lacks {', '.join(lacking)}"
            verification = Verification("not run", reason)
        else:
            tensors = on_device(kernels.parameters, kernels.target)
            described = (tensors, kernels.functions, kernels.prepared, kernels.outputs, kernels.target)
            candidate = TvmCandidate(
                TvmEngine(kernels.library, *described), kernels.parameters, graph, build, self.precision
            )
            engine = TvmEngine(kernels.library, *described, entry="main" if self.letterbox is None else "detect")
            verification = self._verified(graph, size, candidate, engine, self.precision)
        variant = self._described(graph, size, verification)
        variant = replace(variant, functions=kernels.functions, prepared=kernels.prepared)
        return _Compiled(variant, kernels.parameters, kernels.library, more)

    def _verified(
        self, graph: Graph, size: Mapping[str, int], candidate: Any, engine: Engine, precision: Precision
    ) -> Verification:
        """How a variant compares: the network and what is chosen, and then the way from pixels to boxes.

        Raises DiagnosticError export-disagrees.
        """
        self.step("comparing with torch.fx")
        judge, shape = Judge(self.original, self.state, graph), _shape(size)
        if precision == "float32":
            verification = compare(judge, candidate, shape)
            if verification.status == "failed":
                self.step("looking for the first value that differs")
                raise DiagnosticError(disagreement(self._refusal, verification, first_wrong(judge, candidate, shape)))
        else:
            verification = compare_rounded(judge, candidate, shape, precision)
        if self.letterbox is not None and verification.status == "passed":
            preprocess = Preprocess.fitting(self.letterbox, size["height"], size["width"])
            wrong = _tried(preprocess, candidate, engine, size["batch"])
            if wrong:
                verification = replace(verification, status="failed", why=wrong)
        self._require(verification)
        return verification

    def _require(self, verification: Verification) -> None:
        if verification.status == "failed":
            detail = "\n".join(filter(None, [str(verification), verification.why]))
            raise DiagnosticError(EXPORT_DISAGREES.at(None, self._refusal, detail=detail))

    @property
    def _refusal(self) -> str:
        return f"the {self.target} export of {self.detector.name} does not agree with torch.fx; nothing was written"

    def _described(self, graph: Graph, size: Mapping[str, int], verification: Verification) -> Variant:
        static = Static(graph, **size)

        def described(values: Mapping[str, Value]) -> list[dict[str, Any]]:
            return [
                {"name": name, "shape": static.shape(value), "dtype": graph.type_of(value).dtype}
                for name, value in values.items()
            ]

        inputs = described(static.inputs)
        if self.letterbox is not None:
            inputs = [
                {"name": "pixels", "shape": [size["batch"], "h", "w", 3], "dtype": "uint8", "order": "bgr"},
                {"name": "sizes", "shape": [size["batch"], 2], "dtype": "int64"},
            ]
        return Variant(**size, inputs=inputs, outputs=described(static.outputs), verification=verification)


def fingerprint(graph: Graph) -> str:
    """SHA-256 of a graph's text form."""
    return hashlib.sha256(to_text(graph).encode()).hexdigest()


def _shape(size: Mapping[str, int]) -> tuple[int, int, int, int]:
    return size["batch"], 3, size["height"], size["width"]


def _tried(preprocess: Preprocess, candidate: Candidate, engine: Engine, batch: int) -> str:
    """What is wrong with the way from pixels to boxes, if anything: pictures of several sizes through it, and through
    the candidate with what Python does before and after it."""
    rng = np.random.default_rng(0)
    for first in range(0, len(_TRIED), batch):
        tried = [_TRIED[(first + row) % len(_TRIED)] for row in range(batch)]
        pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in tried]
        image, placements = preprocess(pictures)
        expected = Preprocess.detections(dict(candidate({"image": image})), placements)
        pixels, sizes = packed(pictures)
        actual = Preprocess.detections(engine(pixels=pixels, sizes=sizes), [place.unscaled for place in placements])
        for size, *pair in zip(tried, expected, actual, strict=True):
            matched, count = match(*({"boxes": v.boxes, "scores": v.scores, "classes": v.classes} for v in pair))
            if matched < MATCHED_SHARE * count:
                return f"pixels of {size[0]} x {size[1]} give other boxes than the network with Python before it"
    return ""


def _members(compiled: Sequence[_Compiled], described: dict[str, Any]) -> dict[str, bytes]:
    """The files of an artifact: the weights of all variants, each once, and the variants."""
    weights: dict[str, np.ndarray] = {}
    keys: list[dict[str, str]] = []
    for each in compiled:
        own = {}
        for name, array in each.weights.items():
            key = name
            # Constants of a size have the name of another size's.
            if name in weights and not np.array_equal(weights[name], array):
                key = f"{name}@{each.variant.name}"
            own[name] = key
            weights[key] = array
        keys.append(own)
    members = {WEIGHTS: _safetensors(weights)}
    for each, own, entry in zip(compiled, keys, described["entries"], strict=True):
        if described["target"] == "onnx":
            from detc.compiler.emit.onnx import refer

            places = _places(members[WEIGHTS])
            refer(each.content, WEIGHTS, {name: places[key] for name, key in own.items()})
            entry["file"] = f"model-{each.variant.name}.onnx"
            members[entry["file"]] = each.content.SerializeToString()
        else:
            functions = each.variant.functions.items()
            entry["functions"] = {function: [own.get(name, name) for name in names] for function, names in functions}
            entry["file"] = f"kernels-{each.variant.name}.so"
            members[entry["file"]] = each.content
    return members


def _places(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the arrays of a safetensors file lie: from which byte on, and how many."""
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    ends = {name: each["data_offsets"] for name, each in described.items() if name != "__metadata__"}
    return {name: (8 + length + start, end - start) for name, (start, end) in ends.items()}


def _require_place(output: Path) -> None:
    """Raises DiagnosticError cannot-write before any work is done, where `output` cannot be written after it."""
    make_folder(output.parent)
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        why = "it is a folder" if output.is_dir() else f"{output.parent} takes no files of yours"
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{output}: {why}"))


def manifest(detector: Detector, target: Target) -> dict[str, Any]:
    """What an artifact says of itself, but for what its variants and its target add."""
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
        "preprocessing": {name: data.get(name) for name in ("resize", "normalize", "pad")},
        "versions": _versions(target),
    }


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
