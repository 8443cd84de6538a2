"""From a predict graph to an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.onnx.letterbox import Fit, back, fit, image
from detc.compiler.emit.static import Static, require_lowerings
from detc.compiler.graph import Node, Value

if TYPE_CHECKING:
    from detc.compiler.graph import Graph
    from detc.compiler.passes import Weights

# 17 is the oldest opset with all operators in the form used here; runtimes of 2022 and later read it.
OPSET = 17
_IR_VERSION = 8

# Bytes above which a tensor is a weight whose values the checker does not need.
_LARGE = 1024

_DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class Builder:
    """Collects the nodes and constants of a model. Tensors are known by name; a value's is as it is written,
    %neck.conv."""

    def __init__(self, static: Static, weights: Weights) -> None:
        self.static = static
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._names = {value: name for name, value in static.inputs.items()}
        self._scope = ""
        self._count = 0

    def name_of(self, value: Value) -> str:
        """The tensor that holds a value of the graph."""
        return self._names[value]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value of the graph."""
        return self.static.shape(value)

    def weight(self, node: Node, name: str) -> str:
        """The initializer of a node's weight; nodes that share a weight share the initializer."""
        return self._initializer(node.weights[name], self.weights[node.weights[name]])

    def constant(self, array: np.ndarray | Sequence[int] | Sequence[float] | float, dtype: type = np.float32) -> str:
        """An initializer with these values."""
        self._count += 1
        return self._initializer(f"{self._scope}/constant_{self._count}", np.asarray(array, dtype))

    def integers(self, *values: int) -> str:
        """An initializer with these whole numbers, as the shape and index inputs of operators take them."""
        return self.constant(values, np.int64)

    def _initializer(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def apply(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """Adds an operator; the name of its output, or a list of them."""
        self._count += 1
        name = f"{self._scope}/{op}_{self._count}"
        names = [name if i == 0 else f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attrs))
        return names[0] if outputs == 1 else names

    def letterbox(self, settings: Letterbox) -> Fit:
        """Makes the image of `pixels` and `sizes`; how images are scaled for it."""
        self._scope = "letterbox"
        value = Value("image")
        n, channels, height, width = self.shape(value)
        how = fit(self, "sizes", height, width)
        made = image(self, "pixels", how, settings, (n, channels, height, width))
        self._names[value] = self._called(value.node, made, self.nodes)
        return how

    def lower(self, node: Node) -> None:
        """Adds a node of the graph."""
        from detc.compiler.emit.onnx.lowerings import LOWERINGS

        self._scope = node.name
        before = len(self.nodes)
        result = LOWERINGS[node.op](self, node)
        for index, name in enumerate((result,) if isinstance(result, str) else result):
            value = Value(node.name, index)
            self._names[value] = self._called(str(value), name, self.nodes[before:])

    def _called(self, wanted: str, name: str, nodes: Sequence[onnx.NodeProto]) -> str:
        """Names the tensor after its value, where one of these operators makes it. A constant keeps its name."""
        if name in self.initializers:
            return name
        if not any(name in node.output for node in nodes):
            name = self.apply("Identity", name)
            nodes = self.nodes[-1:]
        for names in (names for node in nodes for names in (node.output, node.input)):
            names[:] = [wanted if other == name else other for other in names]
        return wanted


def emit(
    graph: Graph, weights: Weights, *, batch: int, height: int, width: int, letterbox: Letterbox | None = None
) -> onnx.ModelProto:
    """The model for `batch` images of `height` x `width` pixels, checked by onnx.checker with full shape inference.

    Its inputs and outputs are those of the graph's view `predict`. Of a detector these are `image` (batch, 3, height,
    width) float32, normalised; and `boxes` (batch, K, 4) float32 in pixels, `scores` (batch, K) float32, and, where it
    has them, `classes` (batch, K) int64 and `masks` (batch, K, h, w) float32, sorted by score; absent ones have score 0
    and class -1. A part of a detector (`static.parts`) has its own. With a `letterbox`, there are `pixels` (batch, h,
    w, 3) uint8 of any size and `sizes` (batch, 2) int64 in the place of `image`, and boxes are in pixels of those.

    `weights` maps every key of `graph.weights` to its array. Raises DiagnosticError where an op has no lowering.
    """
    from detc.compiler.emit.onnx.lowerings import LOWERINGS

    graph = graph.view("predict")
    require_lowerings(graph, LOWERINGS, "onnx")
    static = Static(graph, batch, height, width)
    builder = Builder(static, weights)
    given = {name: _info(name, static, value) for name, value in static.inputs.items()}
    if letterbox is not None:
        del given["image"]
        given["pixels"] = helper.make_tensor_value_info("pixels", TensorProto.UINT8, (batch, "rows", "columns", 3))
        given["sizes"] = helper.make_tensor_value_info("sizes", TensorProto.INT64, (batch, 2))
        how = builder.letterbox(letterbox)
    for node in graph.nodes:
        builder.lower(node)
    outputs = []
    for name, value in static.outputs.items():
        result = builder.name_of(value)
        if letterbox is not None and name == "boxes":
            result = back(builder, result, how)
        builder.nodes.append(helper.make_node("Identity", [result], [name], name=f"{name}/Identity"))
        outputs.append(_info(name, static, value))
    tensors = list(builder.initializers.values())

    def assembled(inputs: list[onnx.ValueInfoProto], initializers: list[onnx.TensorProto]) -> onnx.ModelProto:
        built = helper.make_graph(builder.nodes, graph.name, inputs, outputs, initializers)
        model = helper.make_model(built, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="detc")
        model.ir_version = _IR_VERSION
        return model

    # The checker copies what it is given several times over, so it gets the large weights as inputs, without values.
    large = [tensor for tensor in tensors if len(tensor.raw_data) > _LARGE]
    described = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
    small = [tensor for tensor in tensors if len(tensor.raw_data) <= _LARGE]
    onnx.checker.check_model(assembled([*given.values(), *described], small), full_check=True)
    return assembled([*given.values()], tensors)


def large_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The arrays of a model that are worth a place outside it."""
    tensors = model.graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.raw_data) > _LARGE}


def refer(model: onnx.ModelProto, file: str, places: Mapping[str, tuple[int, int]]) -> None:
    """Takes arrays out of a model, which finds them in `file` then: from which byte on, and how many."""
    for tensor in model.graph.initializer:
        if tensor.name in places:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            start, length = places[tensor.name]
            for key, value in (("location", file), ("offset", str(start)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)


def embed(model: onnx.ModelProto, content: bytes) -> None:
    """Puts arrays that a model finds in a file back into it, given the file's content."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            places = {entry.key: entry.value for entry in tensor.external_data}
            start, length = int(places["offset"]), int(places["length"])
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = content[start : start + length]


def _info(name: str, static: Static, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _DTYPES[static.graph.type_of(value).dtype], static.shape(value))
