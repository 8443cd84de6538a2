"""What `--target cuda` has of its own.

In float32, convolutions are implicit matrix products that TVM's default rules schedule. In float16 and bfloat16, they
and all other layers are kernels of our own, on tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.tvm import conv_cuda, letterbox, regions, suppress, top, tuning
from detc.compiler.emit.tvm.conv_cuda import Ending
from detc.compiler.emit.tvm.module import OPAQUE, Builder, Epilogue, Kernel, finished, sorted_top
from detc.compiler.emit.tvm.tuning import Convolution
from detc.dsl.catalogue.export import CUDA_BUILD_FAILED
from detc.dsl.diagnostics import DiagnosticError


@dataclass(frozen=True)
class Gpu:
    """The backend of `--target cuda`, for an architecture such as sm_90."""

    arch: str
    name = "cuda"
    bfloat16 = "bfloat16"

    def conv(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
        if b.precision != "float32":
            n, outputs, rows, columns = shape
            weight, groups = conv_cuda.pack(kernel.weight, kernel.groups, b.precision)
            _, height, width, channels = (int(d) for d in x.ty.shape)
            sides = (kernel.weight.shape[2], kernel.weight.shape[3])
            sizes = (n, height, width, channels, rows, columns, outputs)
            layer = Convolution(*sizes, sides, kernel.stride, kernel.padding, kernel.dilation, groups)
            return self._layer(b, x, f"{kernel.name}.rows", weight, layer, (n, rows, columns, outputs), epilogue)
        weight = b.parameter(kernel.name, kernel.weight.transpose(0, 2, 3, 1))
        result = relax.op.nn.conv2d(
            b.cast(x, "float32"),
            weight,
            strides=kernel.stride,
            padding=kernel.padding * 2,
            dilation=kernel.dilation,
            groups=kernel.groups,
            data_layout="NHWC",
            kernel_layout="OHWI",
            out_layout="NHWC",
            out_dtype="float32",
        )
        return finished(b, b.emit(result), epilogue)

    def dense(self, b: Builder, x: relax.Var, name: str, weight: np.ndarray, epilogue: Epilogue) -> relax.Var:
        if b.precision != "float32":
            rows, inputs = (int(d) for d in x.ty.shape)
            layer = Convolution(1, rows, 1, inputs, rows, 1, len(weight))
            packed, _ = conv_cuda.pack(weight[:, :, None, None], 1, b.precision)
            return self._layer(b, x, f"{name}.rows", packed, layer, (rows, len(weight)), epilogue)
        product = relax.op.matmul(b.cast(x, "float32"), b.parameter(name, weight.transpose(1, 0)))
        return finished(b, b.emit(product), epilogue)

    def _layer(
        self,
        b: Builder,
        x: relax.Var,
        name: str,
        weight: np.ndarray,
        layer: Convolution,
        shape: tuple[int, ...],
        epilogue: Epilogue,
    ) -> relax.Var:
        """A layer on tensor cores: its result, of this shape, with channels last."""
        numbers_read = math.prod(int(d) for d in x.ty.shape)
        if numbers_read >= 1 << 31:
            summary = f"the input of {name} has {numbers_read} numbers, and kernels count to {1 << 31}"
            raise DiagnosticError(CUDA_BUILD_FAILED.at(None, summary, detail="give a smaller --batch or --size"))
        reading = conv_cuda.reading(layer, str(x.ty.dtype))
        choice = tuning.choose(layer, self.arch, gathered=reading != conv_cuda.CHUNKS)
        residual = epilogue.residual
        ending = Ending(
            bias=epilogue.bias is not None,
            relu=epilogue.relu,
            residual=None if residual is None else (int(residual.ty.shape[1]), int(residual.ty.shape[2])),
            residual_wide=residual is not None and str(residual.ty.dtype) == "float32",
            result_wide=epilogue.dtype == "float32",
        )
        product = conv_cuda.kernel(b.precision, reading, choice.tile)
        add_up = conv_cuda.sum_kernel(b.precision)
        numbers = conv_cuda.numbers(layer, choice, ending)

        def emitted(x: te.Tensor, weight: te.Tensor, *others: te.Tensor) -> Any:
            def launches(ins: Any, outs: Any) -> Any:
                x, weight, *rest = ins
                # Pointers that are not read, where there is nothing that they could point to.
                bias = rest.pop(0) if ending.bias else x
                after = rest.pop(0) if ending.residual else x
                blocks, tile = conv_cuda.blocks(layer, choice), choice.tile
                given = (x, weight, bias, after, outs[0], *numbers)
                first = product.launch(*given, blocks=blocks, threads=tile.threads, shared=tile.shared)
                if choice.splits == 1:
                    return first
                blocks, threads = conv_cuda.sum_blocks(layer)
                second = add_up.launch(outs[0], bias, after, outs[1], *numbers, blocks=blocks, threads=threads)
                return tirx.SeqStmt([tirx.Evaluate(first), tirx.Evaluate(second)])

            shapes, dtypes = [shape], [epilogue.dtype]
            if choice.splits > 1:
                shapes, dtypes = [(choice.splits, *shape), shape], ["float32", epilogue.dtype]
            return te.extern(shapes, [x, weight, *others], launches, dtype=dtypes, name="tensor_cores")

        arguments = (x, b.parameter(name, weight), *epilogue.added)
        if choice.splits == 1:
            return b.compute(emitted, *arguments, **OPAQUE)
        return b.several(2, emitted, *arguments, **OPAQUE)[1]

    def cut(
        self,
        b: Builder,
        features: Sequence[relax.Var],
        boxes: relax.Var,
        level: relax.Var,
        size: int,
        samples: int,
        strides: Sequence[float],
    ) -> relax.Var:
        stored = {str(feature.ty.dtype) for feature in features}
        if len(stored) > 1:
            features = [b.cast(feature, "float32") for feature in features]
        shapes = [[int(d) for d in feature.ty.shape] for feature in features]
        sizes = [(shape[1], shape[2], stride) for shape, stride in zip(shapes, strides, strict=True)]
        levels = b.parameter("levels." + "-".join(f"{h}x{w}of{s:g}" for h, w, s in sizes), np.array(sizes, np.float32))
        return b.compute(regions.on_cuda, features, levels, boxes, level, size, samples, **OPAQUE)

    def fit(self, b: Builder, pixels: relax.Var, sizes: relax.Var, settings: Letterbox) -> relax.Var:
        size = (b.static.height, b.static.width)
        return b.compute(letterbox.on_cuda, pixels, sizes, *size, *astuple(settings), **OPAQUE)

    def top(self, b: Builder, x: relax.Var, count: int) -> tuple[relax.Var, relax.Var]:
        if not top.fits(count, tuning.device(self.arch).shared):
            return sorted_top(b, x, count)
        best, index = b.several(2, top.on_cuda, x, count, **OPAQUE)
        return best, index

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        return b.several(3, suppress.on_cuda, boxes, scores, classes, iou, keep, **OPAQUE)
