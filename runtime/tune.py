"""Which tiles are fastest for the layers of a detector, measured on this machine's GPU. `detc tune` is this with a bar.

Needs nvcc, torch and the GPU; TVM is not needed. Kernels are compiled into one binary, loaded through the driver and
launched on torch's stream, on arrays that torch allocates. A choice whose results are not those of torch is not taken.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detc.compiler.emit.nvcc import find_nvcc
from detc.compiler.emit.static import Static, pair
from detc.compiler.emit.tvm import conv_cuda
from detc.compiler.emit.tvm.conv_cuda import Ending
from detc.compiler.emit.tvm.own import CudaKernel, joined
from detc.compiler.emit.tvm.tuning import Choice, Convolution, candidates, clocks, read_table
from detc.dsl.catalogue.export import BAD_TABLE, CUDA_BUILD_FAILED, NO_GPU
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.files import write_whole

if TYPE_CHECKING:
    import torch

    from detc.compiler.graph import Graph, Node

# Of the driver: the attribute of a function that is the most shared memory it may have.
_MOST_SHARED = 8
# How long one choice is measured, and how often, of which the median counts.
_SECONDS, _TIMES = 0.004, 5
# Of a result's largest value. Sums of thousands of rounded products come in another order in torch.
_TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Measured:
    """Seconds of a choice for a layer, or, of one that computed something else, the largest error."""

    choice: Choice
    seconds: float
    error: float
    agrees: bool


def layers(graph: Graph, batch: int, height: int, width: int) -> list[Convolution]:
    """The layers of a predict view that run on tensor cores, in the graph's order."""
    static = Static(graph.view("predict"), batch, height, width)
    found = (_layer(static, node) for node in static.graph.nodes)
    return [layer for layer in found if layer is not None]


def _layer(static: Static, node: Node) -> Convolution | None:
    if node.op not in ("Conv2d", "ConvTranspose2d", "Linear"):
        return None
    given, shape = static.shape(node.operands[0]), node.type.at(static.batch, static.height, static.width)
    if node.op == "Linear":
        *rows, inputs = given
        count = 1
        for row in rows:
            count *= row
        return Convolution(1, count, 1, inputs, count, 1, shape[-1])
    n, channels, height, width = given
    outputs, rows_, columns = shape[1:]
    kernel, stride, padding = (pair(node.attrs[name]) for name in ("kernel", "stride", "padding"))
    if node.op == "Conv2d":
        groups = node.attrs["groups"]
        assert isinstance(groups, int)
        groups = conv_cuda.joined_groups(channels, outputs, groups)
        sizes = (n, height, width, channels, rows_, columns, outputs)
        return Convolution(*sizes, kernel, stride, padding, pair(node.attrs["dilation"]), groups)
    if kernel == stride and padding == (0, 0):
        return Convolution(n, height, width, channels, height, width, outputs * kernel[0] * kernel[1])
    apart = ((height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    around = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    return Convolution(n, *apart, channels, rows_, columns, outputs, kernel, padding=around)


def architecture() -> str:
    """That of this machine's GPU, as sm_90. Raises DiagnosticError gpu-missing."""
    import torch

    if not torch.cuda.is_available():
        detail = "tune on the machine that the detector is to run on; without a table, tiles are chosen by a rule"
        raise DiagnosticError(NO_GPU.at(None, "torch finds no NVIDIA GPU here", detail=detail))
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def load_table(path: Path) -> dict[str, dict[str, Choice]]:
    """A table that an earlier run has written, or an empty one. Raises DiagnosticError bad-table."""
    try:
        return read_table(path) if path.exists() else {}
    except (ValueError, OSError) as error:
        detail = "give --table another file, or remove this one"
        raise DiagnosticError(BAD_TABLE.at(None, f"{path}: {error}", detail=detail)) from None


def save_table(path: Path, table: Mapping[str, Mapping[str, Choice]]) -> None:
    """Writes a table whole. Raises DiagnosticError cannot-write."""
    described = {arch: {key: str(choice) for key, choice in sorted(found.items())} for arch, found in table.items()}
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, "utf-8"))


def promising(layer: Convolution, arch: str, most: int) -> list[Choice]:
    """The choices that the rule thinks best, its own first."""
    return sorted(candidates(layer, arch), key=lambda choice: clocks(layer, choice, arch))[:most]


class Bench:
    """Kernels on this machine's GPU, of one precision."""

    def __init__(self, choices: Iterable[tuple[Convolution, Choice]], dtype: str, arch: str) -> None:
        """Compiles what these choices need. Raises DiagnosticError cuda-build-failed."""
        import torch

        torch.zeros(1, device="cuda")  # makes torch's context this thread's
        self._dtype = dtype
        kernels = {self._kernel(layer, choice) for layer, choice in choices} | {conv_cuda.sum_kernel(dtype)}
        binary = compiled(sorted(kernels, key=lambda kernel: kernel.name), arch)
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), binary)
        self._functions = {kernel: self._function(kernel) for kernel in kernels}

    def measure(self, layer: Convolution, choices: Sequence[Choice]) -> list[Measured]:
        """Every choice for a layer, on random numbers, the fastest first; those that compute something else last."""
        import torch

        generator = torch.Generator("cuda").manual_seed(0)
        kind = getattr(torch, self._dtype)
        reading = self._reading(layer)

        def random(*shape: int, dtype: torch.dtype = kind) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).to(dtype)

        given = torch.float32 if reading == conv_cuda.WIDE else kind
        x = random(layer.images, layer.height, layer.width, layer.channels, dtype=given)
        weight = random(layer.outputs, layer.depth, *layer.kernel) * (layer.packed**-0.5)
        packed = torch.zeros(layer.outputs, layer.packed, device="cuda", dtype=kind)
        packed[:, : weight[0].numel()] = weight.permute(0, 2, 3, 1).reshape(layer.outputs, -1)
        bias = random(layer.outputs, dtype=torch.float32)
        pairs = (layer.stride, layer.padding, layer.dilation)
        image = x.to(kind).permute(0, 3, 1, 2)
        wanted = torch.nn.functional.conv2d(image, weight, bias.to(kind), *pairs, layer.groups).relu()
        wanted = wanted.permute(0, 2, 3, 1).float()
        found = []
        for choice in choices:
            result = torch.full(wanted.shape, torch.nan, device="cuda", dtype=kind)
            sums = (choice.splits, *wanted.shape) if choice.splits > 1 else (0,)
            partial = torch.full(sums, torch.nan, device="cuda", dtype=torch.float32)
            arrays = (x, packed, bias, result, partial)
            self._launch(layer, choice, *arrays)
            error = float((result.float() - wanted).abs().max() / wanted.abs().max())
            agrees = error <= _TOLERANCE[self._dtype]  # (NaN does not)
            seconds = self._seconds(layer, choice, arrays) if agrees else float("inf")
            found.append(Measured(choice, seconds, error, agrees))
        return sorted(found, key=lambda measured: measured.seconds)

    def _reading(self, layer: Convolution) -> str:
        """Inputs of few channels are images, which are float32."""
        return conv_cuda.reading(layer, self._dtype if layer.depth % 8 == 0 else "float32")

    def _kernel(self, layer: Convolution, choice: Choice) -> CudaKernel:
        return conv_cuda.kernel(self._dtype, self._reading(layer), choice.tile)

    def _launch(self, layer: Convolution, choice: Choice, *arrays: torch.Tensor) -> None:
        x, weight, bias, result, partial = arrays
        numbers = conv_cuda.numbers(layer, choice, Ending(bias=True, relu=True))
        first = partial if choice.splits > 1 else result
        tile = choice.tile
        blocks = conv_cuda.blocks(layer, choice)
        self._run(self._kernel(layer, choice), (x, weight, bias, x, first), numbers, blocks, tile.threads, tile.shared)
        if choice.splits > 1:
            add_up = conv_cuda.sum_kernel(self._dtype)
            self._run(add_up, (partial, bias, x, result), numbers, *conv_cuda.sum_blocks(layer), 0)

    def _run(
        self,
        kernel: CudaKernel,
        arrays: Sequence[torch.Tensor],
        numbers: Sequence[int],
        blocks: int,
        threads: int,
        shared: int,
    ) -> None:
        import torch

        values = [*(ctypes.c_void_p(array.data_ptr()) for array in arrays), *map(ctypes.c_int, numbers)]
        given = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        function = self._functions[kernel]
        self._call("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, shared, stream, given, None)

    def _seconds(self, layer: Convolution, choice: Choice, arrays: Sequence[torch.Tensor]) -> float:
        """The median of some measurements, each of as many launches as take about `_SECONDS`."""
        import torch

        def timed(launches: int) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(launches):
                self._launch(layer, choice, *arrays)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / launches

        launches = max(4, int(_SECONDS / timed(4)))
        return sorted(timed(launches) for _ in range(_TIMES))[_TIMES // 2]

    def _function(self, kernel: CudaKernel) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, kernel.name.encode())
        if kernel.dynamic:
            tile = conv_cuda.tile_of(kernel)
            self._call("cuFuncSetAttribute", function, _MOST_SHARED, tile.shared)
        return function

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gave {status}")


def compiled(kernels: Iterable[CudaKernel], arch: str) -> bytes:
    """Machine code of kernels for an architecture. Raises DiagnosticError nvcc-missing, cuda-build-failed."""
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory(prefix="detc-tune-") as name:
        source, binary = Path(name) / "kernels.cu", Path(name) / "kernels.cubin"
        source.write_text(joined(kernels), "utf-8")
        command = [nvcc, "-O3", f"-arch={arch}", "-cubin", "-o", binary, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            detail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
            raise DiagnosticError(CUDA_BUILD_FAILED.at(None, f"kernels did not compile for {arch}", detail=detail))
        return binary.read_bytes()
