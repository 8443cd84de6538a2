"""Exported detectors: one `.detc` file each, written by `detc export`, run without torch and without a compiler.

    from detc.runtime.artifact import Artifact

    detector = Artifact.load("model.detc")
    found = detector(image)                   # (N, 3, H, W) float32, normalised as detector.manifest["preprocessing"]
    says found["boxes"], found["scores"], found["classes"]      # and found["masks"], of a detector that finds them

A `.detc` file is a zip archive without compression. `manifest.json` says what is in it (see
`detc.runtime.export.manifest`), with the SHA-256 of every other member: `model.onnx`, or `kernels.so` and
`weights.safetensors`.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import platform
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from detc.compiler.emit.tvm import settle_threads
from detc.dsl.catalogue.data import PROPOSALS_MISSING
from detc.dsl.catalogue.export import (
    ARTIFACT_DAMAGED,
    ARTIFACT_ELSEWHERE,
    ARTIFACT_VERSION,
    NOT_AN_ARTIFACT,
    WRONG_INPUT,
)
from detc.dsl.catalogue.running import NO_SETTINGS
from detc.dsl.diagnostics import DiagnosticError, Kind
from detc.runtime.files import write_whole

if TYPE_CHECKING:
    from detc.runtime.predict import Predictor

FORMAT = 1

_MANIFEST = "manifest.json"
# Of DLPack: what a device is called in a virtual machine's set-up, and its pooled allocator.
_CPU, _CUDA, _POOLED = 1, 2, 2
# The attribute of a device that says whether it is there.
_EXISTS = 0


class Engine(Protocol):
    """Runs a compiled detector."""

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in a whole batch. The inputs come in the order in which the manifest has them."""
        ...


class OnnxEngine:
    """An ONNX model under ONNX Runtime, on the CPU."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.inputs = [given.name for given in self._session.get_inputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self.run(inputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for the given inputs."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


class TvmEngine:
    """Kernels under TVM's virtual machine: needs the runtime's libraries alone.

    `functions` names the arrays that each function of the library takes after its inputs: some of the parameters, and of
    those that its function `prepare` gives, which are `prepared`. `outputs` names what `main` gives.
    """

    def __init__(
        self,
        library: bytes,
        parameters: Mapping[str, np.ndarray],
        functions: Mapping[str, Sequence[str]],
        prepared: Sequence[str],
        outputs: Sequence[str],
        target: str,
    ) -> None:
        ffi = _tvm_runtime(target)
        self._kind = _CUDA if target == "cuda" else _CPU
        self._device = ffi.device("cuda" if target == "cuda" else "cpu", 0)
        with tempfile.NamedTemporaryFile(prefix="detc-", suffix=".so") as file:
            file.write(library)
            file.flush()
            self._module = ffi.load_module(file.name)
        self._machine = self._module["vm_load_executable"]()
        host = (_CPU, 0, _POOLED)
        self._machine["vm_initialization"](*((_CUDA, 0, _POOLED, *host) if target == "cuda" else host))
        self._ffi = ffi
        self._outputs = tuple(outputs)
        tensors = {name: self._put(array) for name, array in parameters.items()}
        if prepared:
            made = self._machine["prepare"](*(tensors[name] for name in functions["prepare"]))
            tensors |= zip(prepared, made, strict=True)
        self._arguments = {
            name: [tensors[key] for key in keys] for name, keys in functions.items() if name != "prepare"
        }

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self.call("main", *inputs.values()), strict=True))

    def call(self, function: str, *inputs: np.ndarray) -> list[np.ndarray]:
        """The results of one of the library's functions."""
        results = self._machine[function](*(self._put(array) for array in inputs), *self._arguments[function])
        return [self._take(result) for result in results]

    def _put(self, array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array)
        shape, dtype = self._ffi.Shape(array.shape), self._ffi.dtype(str(array.dtype))
        tensor = self._ffi.get_global_func("runtime.TVMTensorAllocWithScope")(shape, dtype, self._device, None)
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._ffi.get_global_func("runtime.TVMTensorCopyFromBytes")(tensor, pointer, array.nbytes)
        return tensor

    def _take(self, tensor: Any) -> np.ndarray:
        array = np.empty(tuple(tensor.shape), str(tensor.dtype))
        pointer = ctypes.c_void_p(array.ctypes.data)
        self._ffi.get_global_func("runtime.TVMTensorCopyToBytes")(tensor, pointer, array.nbytes)
        return array


class Artifact:
    """An exported detector, loaded and ready."""

    def __init__(self, manifest: Mapping[str, Any], engine: Engine) -> None:
        self.manifest = manifest
        self.engine = engine

    @property
    def name(self) -> str:
        """The detector's name."""
        name: str = self.manifest["detector"]
        return name

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self.manifest["classes"])

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W): the only batch and size it takes."""
        n, channels, height, width = self.manifest["inputs"][0]["shape"]
        return n, channels, height, width

    def __call__(self, image: np.ndarray, **others: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in images (n, 3, H, W) float32, normalised; n may be less than the artifact's batch N.

        `others` are what the manifest's `inputs` has beside `image`: of a detector that takes proposals, `proposals`
        (n, R, 4) float32 in pixels and `proposal_scores` (n, R) float32, 0 where there is none.

        Returns `boxes` (n, K, 4) float32 in pixels as x1, y1, x2, y2, `scores` (n, K) float32, of a detector that tells
        classes apart `classes` (n, K) int64, and of one that finds masks `masks` (n, K, h, w) float32, the probability
        of the object in h x w cells of its box; sorted by score. Absent ones have score 0 and class -1.

        Raises:
            DiagnosticError: wrong-artifact-input.
        """
        given = {"image": image, **others}
        names = [described["name"] for described in self.manifest["inputs"]]
        if given.keys() != set(names):
            summary = f"{self.name} takes {', '.join(names)}, and not {', '.join(given)}"
            raise DiagnosticError(WRONG_INPUT.at(None, summary))
        count = len(image)
        whole = {}
        for described in self.manifest["inputs"]:
            array = given[described["name"]]
            n, *rest = described["shape"]
            if array.dtype != described["dtype"] or [*array.shape] != [count, *rest] or not 1 <= count <= n:
                shape, wanted = ("x".join(map(str, sizes)) for sizes in (array.shape, described["shape"]))
                what = "" if described["name"] == "image" else f"{described['name']} of "
                summary = f"{self.name} takes {what}{described['dtype']} {wanted}, and not {array.dtype} {shape}"
                raise DiagnosticError(WRONG_INPUT.at(None, summary))
            if count < n:
                array = np.concatenate([array, np.zeros((n - count, *rest), array.dtype)])
            whole[described["name"]] = array
        return {name: value[:count] for name, value in self.engine(**whole).items()}

    def first_network(self, image: np.ndarray) -> None:
        """Runs what comes before any box is chosen, alone, under TVM: for measurements. `image` is a whole batch."""
        assert isinstance(self.engine, TvmEngine)
        self.engine.call("part_0", image)

    def predictor(self) -> Predictor:
        """This detector with what belongs before and after it: pictures in, boxes in their pixels out.

        Images are fitted into the artifact's size, keeping their ratio.

        Raises:
            DiagnosticError: proposals-missing, where it takes more than an image; no-settings, where its spec had no
                `data` to say what images become.
        """
        described = self.manifest["preprocessing"]
        if described.get("normalize") is None:
            hint = "give the spec `data` and export it again, or call the artifact itself with normalised images"
            summary = f"{self.name} was exported without `data`, which says how images are normalised"
            raise DiagnosticError(NO_SETTINGS.at(None, summary, detail=hint))
        if len(self.manifest["inputs"]) > 1:
            summary = f"{self.name} takes proposals beside an image"
            raise DiagnosticError(PROPOSALS_MISSING.at(None, summary, detail="call the artifact itself with them"))
        from detc.runtime.data.preprocess import Preprocess
        from detc.runtime.data.transforms import Normalize, Resize
        from detc.runtime.predict import Predictor

        _, _, height, width = self.image_shape
        fields = {k: v for k, v in described["normalize"].items() if k != "record"}
        tells_apart = any(output["name"] == "classes" for output in self.manifest["outputs"])
        return Predictor(
            self,
            Preprocess(Resize((width, height)), Normalize(**fields), 1, fixed=(width, height)),
            tuple(self.classes) if tells_apart else ("object",),
        )

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Reads an artifact and checks every byte of it.

        Raises:
            DiagnosticError: not-an-artifact, artifact-damaged, artifact-version, or artifact-for-another-machine.
        """
        path = Path(path)
        manifest, members = read(path)
        target = manifest["target"]
        if target == "onnx":
            return cls(manifest, OnnxEngine(members["model.onnx"]))
        _require_machine(path, manifest)
        from safetensors.numpy import load

        parameters = load(members["weights.safetensors"])
        outputs = [output["name"] for output in manifest["outputs"]]
        functions, prepared = manifest["functions"], manifest["prepared"]
        return cls(manifest, TvmEngine(members["kernels.so"], parameters, functions, prepared, outputs, target))


def write(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Writes an artifact whole or not at all. The manifest gets its `format` and the members' sizes and hashes here.

    Raises:
        DiagnosticError: cannot-write.
    """
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=1)

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(_MANIFEST), text)
            for name, data in members.items():
                archive.writestr(_entry(name), data)

    write_whole(path, fill)


def _entry(name: str) -> zipfile.ZipInfo:
    """An archive member with a date of its own: equal contents make equal files."""
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest, and every member it names, checked. Nothing is unpacked to a path that the archive chooses.

    Raises:
        DiagnosticError: not-an-artifact, artifact-damaged or artifact-version.
    """

    def wrong(kind: Kind, why: str) -> DiagnosticError:
        return DiagnosticError(kind.at(None, f"{path}: {why}"))

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if _MANIFEST not in entries:
                raise wrong(NOT_AN_ARTIFACT, "there is no manifest in it")
            manifest = json.loads(archive.read(_MANIFEST))
            if not isinstance(manifest, dict) or "format" not in manifest:
                raise wrong(NOT_AN_ARTIFACT, "its manifest is not one of detc's")
            if manifest["format"] != FORMAT:
                raise wrong(ARTIFACT_VERSION, f"it has format {manifest['format']}; this detc reads {FORMAT}")
            members = {}
            for name, described in manifest["files"].items():
                entry = entries.get(name)
                if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != described["size"]:
                    raise wrong(ARTIFACT_DAMAGED, f"{name} is missing, or not as large as it should be")
                members[name] = archive.read(name)
                if hashlib.sha256(members[name]).hexdigest() != described["sha256"]:
                    raise wrong(ARTIFACT_DAMAGED, f"the content of {name} has changed")
    except zipfile.BadZipFile as error:
        if path.read_bytes()[:4] == b"PK\x03\x04":
            raise wrong(ARTIFACT_DAMAGED, f"it is cut short or altered ({error})") from None
        raise wrong(NOT_AN_ARTIFACT, "it is no archive") from None
    except OSError as error:
        raise wrong(NOT_AN_ARTIFACT, error.strerror or str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, RecursionError, RuntimeError) as error:
        raise wrong(ARTIFACT_DAMAGED, f"its manifest cannot be read ({error!r})") from None
    return manifest, members


def _require_machine(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises DiagnosticError where the machine code was made for another machine or another TVM."""
    here = version("apache-tvm")
    if manifest["versions"]["tvm"] != here:
        summary = f"{path}: it was compiled with TVM {manifest['versions']['tvm']}, and {here} is installed"
        raise DiagnosticError(ARTIFACT_VERSION.at(None, summary))
    missing = missing_features(manifest["features"]) if manifest["target"] == "llvm" else []
    if manifest["machine"] != platform.machine() or missing:
        what = f"{manifest['machine']} with {', '.join(missing)}" if missing else manifest["machine"]
        summary = f"{path}: it is compiled for {manifest['arch']} ({what}), which this processor is not"
        raise DiagnosticError(ARTIFACT_ELSEWHERE.at(None, summary))


def missing_features(features: Iterable[str]) -> list[str]:
    """Those of these instruction sets, named as LLVM names them, that this processor lacks."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return []
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    present = {flag.replace("_", "") for flag in line.partition(":")[2].split()}
    return sorted(feature for feature in features if feature.replace("-", "") not in present)


@cache
def _tvm_runtime(target: str) -> Any:
    """tvm_ffi, with the libraries of TVM's runtime loaded beside it.

    Raises:
        DiagnosticError: artifact-for-another-machine, where the target is cuda and its driver is not there.
    """
    settle_threads()
    import tvm_ffi

    found = importlib.util.find_spec("tvm")
    assert found is not None and found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0]) / "lib"
    names = ["libtvm_runtime.so", "libtvm_runtime_extra.so", *(["libtvm_runtime_cuda.so"] if target == "cuda" else [])]
    for name in names:
        try:
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            summary = f"TVM's runtime for {target} does not load: {error}"
            raise DiagnosticError(ARTIFACT_ELSEWHERE.at(None, summary)) from None
    if target == "cuda" and not tvm_ffi.get_global_func("runtime.GetDeviceAttr")(_CUDA, 0, _EXISTS):
        raise DiagnosticError(ARTIFACT_ELSEWHERE.at(None, "there is no NVIDIA GPU here"))
    return tvm_ffi
