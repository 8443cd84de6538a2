"""An ONNX model whose network computes in float16: convolutions and matrix products, and what lies between them.

Everything else stays in float32: fitting of pixels, anchors and boxes, sigmoid and softmax, choices, NMS. A tensor is
cast once where it enters or leaves the network. Weights and biases of the network are stored in float16.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# What makes a network, and what stays in it where what it computes with is in it already: so many of its inputs.
_BEGINS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_FOLLOWS = {"Relu": 1, "Add": 2, "MaxPool": 1, "Concat": None, "Resize": 1}
_MOST = float(np.finfo(np.float16).max)


def halve(model: onnx.ModelProto) -> None:
    """Makes the network of a model compute in float16. Weights beyond its range become the largest it has."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    half: set[str] = set()
    stored: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        """The tensor in another type, which is made once."""
        if (name, to) not in casts:
            made = f"{name}/{'half' if to == TensorProto.FLOAT16 else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}/Cast", to=to))
            casts[name, to] = made
        return casts[name, to]

    for node in graph.node:
        if node.op_type in _BEGINS:
            stored.update(name for name in node.input if name in weights)
            node.input[:] = [name if name in half | weights else cast(name, TensorProto.FLOAT16) for name in node.input]
            half.update(node.output)
        elif node.op_type in _FOLLOWS and half.issuperset(node.input[: _FOLLOWS[node.op_type]]):
            half.update(node.output)
        else:
            node.input[:] = [cast(name, TensorProto.FLOAT) if name in half | stored else name for name in node.input]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        if tensor.name in stored:
            array = np.clip(numpy_helper.to_array(tensor), -_MOST, _MOST).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
