"""From a predict graph to a Relax module.

Each part of the graph (`static.parts`) is a function, `part_0` and so on; `main` is all of them after one another. A
function takes its parameters after its inputs, in the order in which `Program` lists them. Shapes are static. Within
and between parts what is (N, C, H, W) in the graph lies in memory as (N, H, W, C); what the detector takes and gives is
as in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tvm
from tvm import relax, te

from detc.compiler.emit.static import Static, parts, require_lowerings
from detc.compiler.graph import Graph, Node, Value

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


# Attributes of a PrimFunc that passes are to leave as it is: not fused with others, not scheduled.
OPAQUE = {"op_pattern": 8, "tirx.is_scheduled": True}


class Backend(Protocol):
    """What differs between targets."""

    name: str

    def conv(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...]) -> relax.Var:
        """The convolution of x (N, H, W, C), without bias: of this shape, (N, C, H, W)."""
        ...

    def dense(self, b: Builder, x: relax.Var, name: str, weight: np.ndarray) -> relax.Var:
        """The product of x (M, D) with a weight (F, D), the parameter `name`: (M, F)."""
        ...

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
        """`roi_align`: (N * R, size, size, C)."""
        ...

    def suppress(
        self, b: Builder, boxes: relax.Var, scores: relax.Var, classes: relax.Var, iou: float, keep: int
    ) -> Sequence[relax.Var]:
        """`nms` over candidates that are sorted by score."""
        ...


@dataclass(frozen=True)
class Kernel:
    """A convolution's weights (O, I, KH, KW), which become the parameter `name`, and how they are applied."""

    name: str
    weight: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Program:
    """A Relax module, the arrays that its functions take, and the names of what `main` gives in order."""

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]
    functions: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]


class Builder:
    """Emits one function. Variables stand for values of the graph; parameters appear as they are asked for."""

    def __init__(self, block: relax.BlockBuilder, static: Static, weights: Weights, backend: Backend) -> None:
        self.block = block
        self.static = static
        self.weights = weights
        self.backend = backend
        self.variables: dict[Value, relax.Var] = {}
        self.parameters: dict[str, tuple[relax.Var, np.ndarray]] = {}
        # Rows of values that lie in the order of (H, W, C) and not of the graph's (C, H, W), and these sizes.
        self.by_pixel: dict[Value, tuple[int, int, int]] = {}

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
    whole = Static(graph, batch, height, width)
    block = relax.BlockBuilder()
    built = []
    for index, part in enumerate(parts(graph)):
        b = Builder(block, Static(part.graph, batch, height, width), weights, backend)
        inputs = {
            name: _variable(name, b.static, Value(name), in_graph=v.node in graph.inputs)
            for name, v in zip(part.graph.inputs, part.given, strict=True)
        }
        with block.function(f"part_{index}"):
            with block.dataflow():
                for (name, variable), value in zip(inputs.items(), part.given, strict=True):
                    lies_otherwise = value.node in graph.inputs and _is_read(part.graph, name)
                    b.variables[Value(name)] = _as_in_memory(b, Value(name), variable) if lies_otherwise else variable
                for node in part.graph.nodes:
                    b.lower(node)
                returned = block.emit_output(relax.Tuple([b.variables[value] for value in part.results]))
            function = block.emit_func_output(returned, [*inputs.values(), *_variables(b)])
        built.append((part, b, function))

    parameters = {name: array for _, b, _ in built for name, (_, array) in b.parameters.items()}
    own = {name: relax.Var(name, relax.TensorType(array.shape, str(array.dtype))) for name, array in parameters.items()}
    given = {name: _variable(name, whole, Value(name), in_graph=True) for name in graph.inputs}
    main = Builder(block, whole, weights, backend)
    main.variables |= {Value(name): variable for name, variable in given.items()}
    with block.function("main", [*given.values(), *own.values()]):
        for part, b, function in built:
            arguments = [*(main.variables[value] for value in part.given), *(own[name] for name in b.parameters)]
            found = block.emit(relax.Call(function, arguments))
            for index, value in enumerate(part.results):
                main.variables[value] = block.emit(relax.TupleGetItem(found, index))
        results = [_as_in_graph(main, value) for value in whole.outputs.values()]
        block.emit_func_output(block.emit(relax.Tuple(results)))
    functions = {"main": tuple(parameters)}
    functions |= {f"part_{index}": tuple(b.parameters) for index, (_, b, _) in enumerate(built)}
    return Program(block.finalize(), parameters, functions, tuple(whole.outputs))


def _variable(name: str, static: Static, value: Value, *, in_graph: bool) -> relax.Var:
    """A function's input, as it lies in the graph or in memory."""
    shape = static.shape(value)
    if len(shape) == 4 and not in_graph:
        shape = (shape[0], *shape[2:], shape[1])
    return relax.Var(name, relax.TensorType(shape, static.graph.type_of(value).dtype))


def _is_read(graph: Graph, name: str) -> bool:
    """Whether anything looks at an input's values: `decode_delta` does not look at those of the image."""
    return any(node.op != "decode_delta" or Value(name) != node.operands[2] for node in graph.users(name))


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
