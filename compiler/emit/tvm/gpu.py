"""What `--target cuda` has of its own: convolutions as implicit matrix products, which TVM's default rules schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from tvm import relax

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.tvm import letterbox, regions, suppress
from detc.compiler.emit.tvm.module import OPAQUE, Builder, Epilogue, Kernel, finished


@dataclass(frozen=True)
class Gpu:
    """The backend of `--target cuda`."""

    name = "cuda"
    bfloat16 = "bfloat16"

    def conv(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
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

    def dense(self, b: Builder, x: relax.Var, name: str, weight: np.ndarray) -> relax.Var:
        return b.emit(relax.op.matmul(x, b.parameter(name, weight.transpose(1, 0))))

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
        features = [b.cast(feature, "float32") for feature in features]
        shapes = [[int(d) for d in feature.ty.shape] for feature in features]
        sizes = [(shape[1], shape[2], stride) for shape, stride in zip(shapes, strides, strict=True)]
        levels = b.parameter("levels." + "-".join(f"{h}x{w}of{s:g}" for h, w, s in sizes), np.array(sizes, np.float32))
        return b.compute(regions.on_cuda, features, levels, boxes, level, size, samples, **OPAQUE)

    def fit(self, b: Builder, pixels: relax.Var, sizes: relax.Var, settings: Letterbox) -> relax.Var:
        size = (b.static.height, b.static.width)
        return b.compute(letterbox.on_cuda, pixels, sizes, *size, *astuple(settings), **OPAQUE)

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        return b.several(3, suppress.on_cuda, boxes, scores, classes, iou, keep, **OPAQUE)
