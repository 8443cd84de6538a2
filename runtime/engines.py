"""What runs an exported detector: ONNX Runtime, OpenVINO, or TVM's runtime. None needs torch, or a compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detc.compiler.emit.tvm import settle_threads
from detc.dsl.catalogue.export import ARTIFACT_ELSEWHERE
from detc.dsl.diagnostics import DiagnosticError

# The file of an artifact that has the weights, which ONNX models refer to by this name.
WEIGHTS = "weights.safetensors"

# Of DLPack: what a device is called in a virtual machine's set-up, and its pooled allocator.
_CPU, _CUDA, _POOLED = 1, 2, 2
# The attribute of a device that says whether it is there.
_EXISTS = 0
# What TVM's runtime takes an array of as it lies.
_ALIGNED = 64
# How OpenVINO calls the precisions that a detector may be exported in. Its own choice would be bfloat16 where the
# processor has it.
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

Arrays = Mapping[str, np.ndarray]


class Engine(Protocol):
    """A compiled detector, for one batch and image size."""

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in a whole batch. The inputs come in the order in which the manifest has them."""
        ...


class OnnxEngine:
    """An ONNX model under ONNX Runtime, on the CPU. `weights` is the content of the file that it refers to, `threads`
    how many it may use, None as many as it likes.

    Arrays are neither copied on their way in nor on their way out; the session keeps its memory from run to run.
    """

    def __init__(self, model: bytes, weights: bytes | None = None, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # The constants of what is folded away before it runs are no news.
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        if weights is not None:
            options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.inputs = [given.name for given in self._session.get_inputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self.run(inputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """All outputs for the given inputs."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


class OpenVinoEngine:
    """An ONNX model under OpenVINO, on the CPU, computing in `precision`; `outputs` names what it gives.

    `threads` is how many it may use, None as many as it likes.
    """

    def __init__(
        self,
        model: bytes,
        weights: bytes | None,
        outputs: Sequence[str],
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        import openvino

        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        # It reads weights from files alone, which it does not need after that.
        with tempfile.TemporaryDirectory(prefix="detc-") as name:
            path = Path(name) / "model.onnx"
            path.write_bytes(model)
            if weights is not None:
                path.with_name(WEIGHTS).write_bytes(weights)
            self._request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
        self._outputs = tuple(outputs)

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self.results(inputs), strict=False))

    def results(self, inputs: Any) -> list[np.ndarray]:
        """All outputs, in the model's order: OpenVINO may call them otherwise. Inputs are named, or in their order."""
        found = self._request.infer(inputs, share_inputs=True)
        return [found[index] for index in range(len(found))]


class TvmEngine:
    """Kernels under TVM's virtual machine: needs the runtime's libraries alone.

    `functions` names the arrays that each function of the library takes after its inputs: some of the parameters, and
    of those that its function `prepare` gives, which are `prepared`. Calling the engine calls `entry`, and `outputs`
    names what that gives. Engines that are given one result of `on_device` share those arrays, and what is prepared of
    them. On a CPU, arrays that lie at a multiple of 64 bytes are taken where they are, others copied to memory that is
    kept for the next call.
    """

    def __init__(
        self,
        library: bytes,
        parameters: Arrays | Tensors,
        functions: Mapping[str, Sequence[str]],
        prepared: Sequence[str],
        outputs: Sequence[str],
        target: str,
        entry: str = "main",
    ) -> None:
        ffi = tvm_runtime(target)
        self._kind = _CUDA if target == "cuda" else _CPU
        with tempfile.NamedTemporaryFile(prefix="detc-", suffix=".so") as file:
            file.write(library)
            file.flush()
            self._module = ffi.load_module(file.name)
        self._machine = self._module["vm_load_executable"]()
        host = (_CPU, 0, _POOLED)
        self._machine["vm_initialization"](*((_CUDA, 0, _POOLED, *host) if target == "cuda" else host))
        self._ffi = ffi
        self.target = target
        self._outputs = tuple(outputs)
        self._entry = entry
        if not isinstance(parameters, Tensors):
            parameters = on_device(parameters, target)
        if not parameters.keys() >= set(prepared):
            made = self._machine["prepare"](*(parameters[name] for name in functions["prepare"]))
            for name, tensor in zip(prepared, made, strict=True):
                parameters.setdefault(name, tensor)
        called = {name: keys for name, keys in functions.items() if name != "prepare"}
        self._arguments = {name: [parameters[key] for key in keys] for name, keys in called.items()}
        self._kept: dict[tuple[Any, ...], Any] = {}

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self.call(self._entry, *inputs.values()), strict=True))

    def call(self, function: str, *inputs: np.ndarray) -> list[np.ndarray]:
        """The results of one of the library's functions."""
        given = [self._put(place, array) for place, array in enumerate(inputs)]
        results = self._machine[function](*given, *self._arguments[function])
        return [_take(self._ffi, result) for result in results]

    def _put(self, place: int, array: np.ndarray) -> Any:
        whole = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNED == 0
        if self._kind == _CPU and whole and array.size:
            return self._ffi.from_dlpack(array)
        key = (place, array.shape, array.dtype)
        if key not in self._kept:
            # Of pixels of ever other sizes only the last are kept.
            self._kept = {other: tensor for other, tensor in self._kept.items() if other[0] != place}
            self._kept[key] = _allocated(self._ffi, array, self.target)
        _fill(self._ffi, self._kept[key], array)
        return self._kept[key]


class Tensors(dict[str, Any]):
    """Tensors of TVM's, by name, where the kernels for a target run."""


def on_device(parameters: Arrays, target: str) -> Tensors:
    """Arrays as tensors of TVM's, where the kernels for a target run."""
    ffi = tvm_runtime(target)
    tensors = Tensors()
    for name, array in parameters.items():
        tensors[name] = _allocated(ffi, array, target)
        _fill(ffi, tensors[name], array)
    return tensors


def aligned(shape: Sequence[int]) -> np.ndarray:
    """An array of bytes that every engine takes where it lies; its values are whatever was there."""
    size = int(np.prod(shape))
    space = np.empty(size + _ALIGNED, np.uint8)
    start = -space.ctypes.data % _ALIGNED
    return space[start : start + size].reshape(shape)


def _allocated(ffi: Any, array: np.ndarray, target: str) -> Any:
    shape, dtype = ffi.Shape(array.shape), ffi.dtype(str(array.dtype))
    device = ffi.device("cuda" if target == "cuda" else "cpu", 0)
    return ffi.get_global_func("runtime.TVMTensorAllocWithScope")(shape, dtype, device, None)


def _fill(ffi: Any, tensor: Any, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    pointer = ctypes.c_void_p(array.ctypes.data)
    ffi.get_global_func("runtime.TVMTensorCopyFromBytes")(tensor, pointer, array.nbytes)


def _take(ffi: Any, tensor: Any) -> np.ndarray:
    array = np.empty(tuple(tensor.shape), str(tensor.dtype))
    pointer = ctypes.c_void_p(array.ctypes.data)
    ffi.get_global_func("runtime.TVMTensorCopyToBytes")(tensor, pointer, array.nbytes)
    return array


@cache
def tvm_runtime(target: str) -> Any:
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
