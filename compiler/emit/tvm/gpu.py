"""What `--target cuda` has of its own: convolutions as implicit matrix products, which TVM's default rules schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from detc.compiler.emit.static import pair
from detc.compiler.emit.tvm.module import OPAQUE, Builder
from detc.compiler.emit.tvm.suppress import on_cuda
from detc.compiler.graph import Node


@dataclass(frozen=True)
class Gpu:
    """The backend of `--target cuda`."""

    name = "cuda"

    def conv(self, b: Builder, node: Node, x: relax.Var) -> relax.Var:
        kernel = b.parameter(node.weights["weight"], b.weight(node, "weight").transpose(0, 2, 3, 1))
        result = relax.op.nn.conv2d(
            x,
            kernel,
            strides=pair(node.attrs["stride"]),
            padding=pair(node.attrs["padding"]) * 2,
            dilation=pair(node.attrs["dilation"]),
            groups=node.attrs["groups"],
            data_layout="NHWC",
            kernel_layout="OHWI",
            out_layout="NHWC",
            out_dtype="float32",
        )
        return b.emit(result)

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        return b.several(3, on_cuda, boxes, scores, classes, iou, keep, **OPAQUE)
