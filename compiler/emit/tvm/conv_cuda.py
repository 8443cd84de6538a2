"""Convolutions on tensor cores: the kernels' names and sources, their weights, their launches.

The kernels are templates (kernels_cuda/conv.cuh). A name says everything about one of them, so that `named` gives the
source of any that a compiled module calls, and only those are compiled. Sizes of layers are arguments of a launch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from detc.compiler.emit.precision import Precision, rounded
from detc.compiler.emit.tvm.own import CudaKernel
from detc.compiler.emit.tvm.tuning import Choice, Convolution, Tile

# Precision of the factors -> what it is called in names, and in the kernels' source.
_SHORT = {"float16": "f16", "bfloat16": "bf16"}
_TYPES = {"f16": "Half", "bf16": "Bfloat"}
# How an input is read: 16 bytes at a time, number by number, or so and in float32.
CHUNKS, NUMBERS, WIDE = "chunks", "numbers", "wide"

_BIAS, _RELU, _RESIDUAL, _RESIDUAL_WIDE, _RESULT_WIDE = 1, 2, 4, 8, 16
_HEADERS = ("warp.cuh", "conv.cuh")
_FIELDS = (
    "images", "height", "width", "channels", "rows", "columns", "outputs", "kernel_height", "kernel_width", "stride_y",
    "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x", "groups", "depth", "residual_height",
    "residual_width", "splits", "options",
)  # fmt: skip
_POINTERS = ("x", "weight", "bias", "residual", "result")
_PARAMETERS = ", ".join(f"int {field}" for field in _FIELDS)
_LAYER = f"const Layer layer = {{{', '.join(_FIELDS)}}};"
# A thread of the kernel that adds up splits takes 8 channels of a pixel.
_SUM_THREADS = 128
# Output channels of a group, at least: groups of fewer are joined, with zeros between them.
_WIDE_ENOUGH = 32


@dataclass(frozen=True)
class Ending:
    """What a launch does with the sums: options for `numbers`, and the height and width of the residual."""

    bias: bool = False
    relu: bool = False
    residual: tuple[int, int] | None = None
    residual_wide: bool = False
    result_wide: bool = False

    @property
    def options(self) -> int:
        flags = (
            (self.bias, _BIAS),
            (self.relu, _RELU),
            (self.residual is not None, _RESIDUAL),
            (self.residual_wide, _RESIDUAL_WIDE),
            (self.result_wide, _RESULT_WIDE),
        )
        return sum(flag for wanted, flag in flags if wanted)


def kernel(dtype: str, reading: str, tile: Tile) -> CudaKernel:
    """The kernel of a precision ("float16", "bfloat16"), a way of reading, and a tile.

    Its pointers: x (images, height, width, channels), weights as `pack` gives them, bias (outputs,) float32, residual,
    result. What an option turns off is not read.
    """
    return named(f"detc_conv_{_SHORT[dtype]}_{reading}_{tile}")


def sum_kernel(dtype: str) -> CudaKernel:
    """The kernel that adds up partial sums (splits, pixels, outputs) float32; pointers as above, without weights."""
    return named(f"detc_conv_sum_{_SHORT[dtype]}")


def tile_of(kernel: CudaKernel) -> Tile:
    """The tile of one that `kernel` gives."""
    return Tile.parse(kernel.name.split("_", 4)[-1])


def named(name: str) -> CudaKernel:
    """The kernel of a name. Raises KeyError where it is none of these."""
    if found := re.fullmatch(r"detc_conv_(f16|bf16)_(chunks|numbers|wide)_(\w+)", name):
        short, reading, text = found.groups()
        tile, t = Tile.parse(text), _TYPES[short]
        given = "float" if reading == WIDE else t
        sizes = (tile.pixels, tile.outputs, tile.depth, *tile.warps, tile.stages)
        chunked = "true" if reading == CHUNKS else "false"
        body = f"Convolution<{t}, {given}, {chunked}, {', '.join(map(str, sizes))}>::run"
        pointers = f"const {given}* x, const {t}* weight, const float* bias, const void* residual, void* result"
        source = (
            f'extern "C" __global__ void __launch_bounds__({tile.threads})\n{name}({pointers}, {_PARAMETERS}) {{\n'
            f"  {_LAYER}\n  {body}(layer, x, weight, bias, residual, result);\n}}\n"
        )
        arguments = ("handle",) * len(_POINTERS) + ("int32",) * len(_FIELDS)
        return CudaKernel(name, source, arguments, _HEADERS, dynamic=True)
    if found := re.fullmatch(r"detc_conv_sum_(f16|bf16)", name):
        pointers = "const float* x, const float* bias, const void* residual, void* result"
        source = (
            f'extern "C" __global__ void __launch_bounds__({_SUM_THREADS})\n{name}({pointers}, {_PARAMETERS}) {{\n'
            f"  {_LAYER}\n  sum_splits<{_TYPES[found[1]]}>(layer, x, bias, residual, result);\n}}\n"
        )
        return CudaKernel(name, source, ("handle",) * (len(_POINTERS) - 1) + ("int32",) * len(_FIELDS), _HEADERS)
    raise KeyError(name)


def reading(layer: Convolution, input_dtype: str) -> str:
    """How a kernel is to read the layer's input."""
    if input_dtype == "float32":
        return WIDE
    return CHUNKS if layer.depth % 8 == 0 else NUMBERS


def numbers(layer: Convolution, choice: Choice, ending: Ending) -> tuple[int, ...]:
    """The numbers of a launch, after the pointers: those of `kernel` and of `sum_kernel` alike."""
    pairs = (layer.kernel, layer.stride, layer.padding, layer.dilation)
    return (
        *(layer.images, layer.height, layer.width, layer.channels, layer.rows, layer.columns, layer.outputs),
        *(side for pair in pairs for side in pair),
        *(layer.groups, layer.depth),
        *(ending.residual or (layer.rows, layer.columns)),
        *(choice.splits, ending.options),
    )


def blocks(layer: Convolution, choice: Choice) -> int:
    """Blocks of a launch of `kernel`."""
    across, down = -(-layer.per_group // choice.tile.outputs), -(-layer.pixels // choice.tile.pixels)
    return across * down * layer.groups * choice.splits


def sum_blocks(layer: Convolution) -> tuple[int, int]:
    """Blocks, and threads of each, of a launch of `sum_kernel`."""
    return -(-layer.pixels * -(-layer.outputs // 8) // _SUM_THREADS), _SUM_THREADS


def joined_groups(channels: int, outputs: int, groups: int) -> int:
    """In how many groups a grouped convolution is computed: the channels of a group are to be read 16 bytes at a time,
    and its results to fill a tile. Where that cannot be, in one."""
    for together in range(1, groups):
        if (
            groups % together == 0
            and channels // groups * together % 8 == 0
            and outputs // groups * together >= _WIDE_ENOUGH
        ):
            return groups // together
    return 1


def pack(weight: np.ndarray, groups: int, dtype: Precision) -> tuple[np.ndarray, int]:
    """Weights (O, I, KH, KW) as rows (O, KH * KW * I) of a multiple of 8 numbers, and in how many groups they then are.

    Weights between joined groups are zeros; all are as `rounded` stores them.
    """
    outputs, depth, *cells = weight.shape
    left = joined_groups(depth * groups, outputs, groups)
    together = groups // left
    if together > 1:
        whole = np.zeros((outputs, together, depth, *cells), weight.dtype)
        own = np.arange(outputs) // (outputs // groups) % together
        whole[np.arange(outputs), own] = weight
        weight = whole.reshape(outputs, together * depth, *cells)
    rows = weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    return rounded(rows, dtype), left
