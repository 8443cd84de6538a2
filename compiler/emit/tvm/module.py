"""From a predict graph to a Relax module.

The module has three functions. `network` takes the image and gives what post-processing reads; `detect` is
post-processing; `main` is both. Each takes its parameters after its inputs, in the order in which `Program` lists them.
Shapes are static and features lie in memory as (N, H, W, C); what goes in and comes out is (N, C, H, W), as in the
graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tvm
from tvm import relax, te

from detc.compiler.emit.static import Static, heads, require_lowerings
from detc.compiler.graph import Graph, Node, Value

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


# Attributes of a PrimFunc that passes are to leave as it is: not fused with others, not scheduled.
OPAQUE = {"op_pattern": 8, "tirx.is_scheduled": True}


class Backend(Protocol):
    """What differs between targets."""

    name: str

    def conv(self, b: Builder, node: Node, x: relax.Var) -> relax.Var:
        """The convolution of x (N, H, W, C), without bias."""
        ...

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        """`nms` over candidates that are sorted by score."""
        ...


@dataclass(frozen=True)
class Program:
    """A Relax module, the arrays that its functions take, and the names of the network's results in order."""

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]
    functions: dict[str, tuple[str, ...]]
    heads: tuple[str, ...]


class Builder:
    """Emits one function. Variables stand for values of the graph; parameters appear as they are asked for."""

    def __init__(self, block: relax.BlockBuilder, static: Static, weights: Weights, backend: Backend) -> None:
        self.block = block
        self.static = static
        self.weights = weights
        self.backend = backend
        self.variables: dict[Value, relax.Var] = {}
        self.parameters: dict[str, tuple[relax.Var, np.ndarray]] = {}

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value in the graph: of a feature (N, C, H, W)."""
        return self.static.shape(value)

    def parameter(self, name: str, array: np.ndarray) -> relax.Var:
        """The function's parameter of this name; the first to ask for it gives its value."""
        if name not in self.parameters:
            array = np.ascontiguousarray(array)
            variable = relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
            self.parameters[name] = (variable, array)
        return self.parameters[name][0]

    def weight(self, node: Node, name: str) -> np.ndarray:
        """The array of a node's weight."""
        return self.weights[node.weights[name]]

    def emit(self, expression: relax.Expr) -> relax.Var:
        """Binds an expression to a variable."""
        return self.block.emit(expression)

    def compute(self, function: Any, *args: Any, **attributes: Any) -> relax.Var:
        """Binds a tensor expression over the given arguments; `attributes` go to its PrimFunc."""
        return self.block.emit_te(function, *args, primfunc_attrs=attributes or None)

    def several(self, count: int, function: Any, *args: Any, **attributes: Any) -> tuple[relax.Var, ...]:
        """As `compute`, for a function with `count` results."""
        result = self.compute(function, *args, **attributes)
        return tuple(self.emit(relax.TupleGetItem(result, index)) for index in range(count))

    def lower(self, node: Node) -> None:
        """Adds a node of the graph."""
        from detc.compiler.emit.tvm.lowerings import LOWERINGS

        result = LOWERINGS[node.op](self, node)
        for index, variable in enumerate((result,) if isinstance(result, relax.Var) else result):
            self.variables[Value(node.name, index)] = variable


def program(graph: Graph, weights: Weights, backend: Backend, *, batch: int, height: int, width: int) -> Program:
    """The module for `batch` images of `height` x `width` pixels.

    `weights` maps every key of `graph.weights` to its array. Raises DiagnosticError where an op has no lowering.
    """
    from detc.compiler.emit.tvm.lowerings import LOWERINGS

    graph = graph.view("predict")
    require_lowerings(graph, LOWERINGS, backend.name)
    static = Static(graph, batch, height, width)
    border = heads(graph)
    first = graph.replaced(views={"predict": border}).view("predict")
    inside = {node.name for node in first.nodes}
    block = relax.BlockBuilder()

    network = Builder(block, static, weights, backend)
    image = relax.Var("image", relax.TensorType(static.image_shape, "float32"))
    with block.function("network"):
        with block.dataflow():
            network.variables[Value("image")] = network.emit(relax.op.permute_dims(image, [0, 2, 3, 1]))
            for node in first.nodes:
                network.lower(node)
            results = [_as_in_graph(network, value) for value in border.values()]
            returned = block.emit_output(relax.Tuple(results))
        network_var = block.emit_func_output(returned, [image, *_variables(network)])

    detect = Builder(block, static, weights, backend)
    inputs = [
        relax.Var(f"head_{index}", relax.TensorType(static.shape(value), graph.type_of(value).dtype))
        for index, value in enumerate(border.values())
    ]
    with block.function("detect"):
        with block.dataflow():
            for value, variable in zip(border.values(), inputs, strict=True):
                detect.variables[value] = _as_in_memory(detect, value, variable)
            for node in graph.nodes:
                if node.name not in inside:
                    detect.lower(node)
            returned = block.emit_output(relax.Tuple([_as_in_graph(detect, value) for value in static.outputs]))
        detect_var = block.emit_func_output(returned, [*inputs, *_variables(detect)])

    parameters = {name: array for b in (network, detect) for name, (_, array) in b.parameters.items()}
    image = relax.Var("image", relax.TensorType(static.image_shape, "float32"))
    own = {name: relax.Var(name, relax.TensorType(array.shape, str(array.dtype))) for name, array in parameters.items()}
    with block.function("main", [image, *own.values()]):
        found = block.emit(relax.Call(network_var, [image, *(own[name] for name in network.parameters)]))
        parts = [block.emit(relax.TupleGetItem(found, index)) for index in range(len(border))]
        block.emit_func_output(block.emit(relax.Call(detect_var, [*parts, *(own[name] for name in detect.parameters)])))
    functions = {"main": tuple(parameters), "network": tuple(network.parameters), "detect": tuple(detect.parameters)}
    return Program(block.finalize(), parameters, functions, tuple(border))


def _variables(b: Builder) -> Iterable[relax.Var]:
    return (variable for variable, _ in b.parameters.values())


def _as_in_graph(b: Builder, value: Value) -> relax.Var:
    variable = b.variables[value]
    return b.emit(relax.op.permute_dims(variable, [0, 3, 1, 2])) if len(b.shape(value)) == 4 else variable


def _as_in_memory(b: Builder, value: Value, variable: relax.Var) -> relax.Var:
    return b.emit(relax.op.permute_dims(variable, [0, 2, 3, 1])) if len(b.shape(value)) == 4 else variable


def rows(x: te.Tensor, index: te.Tensor) -> te.Tensor:
    """Rows `index` (N, k) of x, which is (N, K, D) or (K, D): (N, k, D)."""
    n, count = index.shape
    if len(x.shape) == 2:
        return te.compute((n, count, x.shape[1]), lambda i, j, d: x[index[i, j], d], name="rows")
    return te.compute((n, count, x.shape[2]), lambda i, j, d: x[i, index[i, j], d], name="rows")
