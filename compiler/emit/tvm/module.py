"""From a predict graph to a Relax module.

Each part of the graph (`static.parts`) is a function, `part_0` and so on; `main` is all of them after one another, and
`detect`, where there is a `Letterbox`, `main` with what belongs before and after it. A function takes its parameters
after its inputs, in the order in which `Program` lists them. Weights are stored as they are in the checkpoint, but for
folding and rounding: the function `prepare` lays them out as kernels read them, once, when they are loaded. Shapes are
static, but for the pixels'. Within and between parts what is (N, C, H, W) in the graph lies in memory as (N, H, W, C);
what the detector takes and gives is as in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tvm
from tvm import relax, te, tirx

from detc.compiler.emit.letterbox import Letterbox
from detc.compiler.emit.precision import Precision, low_values, rounded
from detc.compiler.emit.static import Static, parts, require_lowerings
from detc.compiler.emit.tvm.fusion import chains
from detc.compiler.emit.tvm.letterbox import add as add_detect
from detc.compiler.graph import Graph, Node, Value
from detc.compiler.rules import reads

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


# Attributes of a PrimFunc that passes are to leave as it is: not fused with others, not scheduled.
OPAQUE = {"op_pattern": 8, "tirx.is_scheduled": True}


class Backend(Protocol):
    """What differs between targets. Values of bfloat16 have the type `bfloat16` in memory: on some, that of their bits,
    uint16."""

    name: str
    bfloat16: str

    def conv(self, b: Builder, x: relax.Var, kernel: Kernel, shape: tuple[int, ...], epilogue: Epilogue) -> relax.Var:
        """The convolution of x (N, H, W, C) and what follows it: of this shape, (N, C, H, W)."""
        ...

    def dense(self, b: Builder, x: relax.Var, name: str, weight: np.ndarray, epilogue: Epilogue) -> relax.Var:
        """The product of x (M, D) with a weight (F, D), the parameter `name`, and what follows it: (M, F)."""
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

    def fit(self, b: Builder, pixels: relax.Var, sizes: relax.Var, settings: Letterbox) -> relax.Var:
        """The image (N, 3, H, W) of pixels (N, h, w, 3) uint8, of each of which `sizes` says how much is image."""
        ...

    def top(self, b: Builder, x: relax.Var, count: int) -> tuple[relax.Var, relax.Var]:
        """The `count` highest of x (N, K) float32, best first, and where they are, int64."""
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
class Epilogue:
    """What is done to a convolution's results before they are stored: a bias (C,) float32 and another feature (N, h, w,
    C) are added, the latter enlarged (nearest) where it is smaller, negative results become 0, and all are stored as
    `dtype`, a type in memory."""

    bias: relax.Var | None = None
    residual: relax.Var | None = None
    relu: bool = False
    dtype: str = "float32"

    @property
    def added(self) -> list[relax.Var]:
        """What is added: the bias before the other feature."""
        return [other for other in (self.bias, self.residual) if other is not None]


@dataclass(frozen=True)
class Program:
    """A Relax module, the arrays that its functions take, and the names of what `main` gives in order.

    `functions` names the parameters of each function, which are among `parameters` or, but for those of `prepare`,
    among `prepared`, which it gives in this order.
    """

    module: tvm.IRModule
    parameters: dict[str, np.ndarray]
    functions: dict[str, tuple[str, ...]]
    prepared: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Preparation:
    """A parameter that `prepare` makes: of the array stored as `source`, by a tensor expression of this result."""

    source: str
    array: np.ndarray
    function: Callable[[te.Tensor], te.Tensor]


class Builder:
    """Emits one function. Variables stand for values of the graph; parameters appear as they are asked for."""

    def __init__(
        self,
        block: relax.BlockBuilder,
        static: Static,
        weights: Weights,
        backend: Backend,
        precision: Precision = "float32",
        low: frozenset[Value] = frozenset(),
    ) -> None:
        self.block = block
        self.static = static
        self.weights = weights
        self.backend = backend
        self.precision = precision
        # Values that are stored in this precision; all others, and all sums, are float32.
        self.low = low
        self.variables: dict[Value, relax.Var] = {}
        self.parameters: dict[str, tuple[relax.Var, np.ndarray | Preparation]] = {}
        found = chains(static.graph)
        # By their convolutions, and by their last nodes.
        self.chains = {chain.conv.name: chain for chain in found.values()}
        self._lasts = found
        self._inner = frozenset(name for chain in found.values() for name in chain.inner)
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

    def prepared(self, name: str, source: str, array: np.ndarray, function: Any) -> relax.Var:
        """The function's parameter of this name, which `prepare` makes by a tensor expression of a weight.

        The weight is stored as `source`, rounded to the precision of values.
        """
        if name not in self.parameters:
            stored = rounded(array, self.precision)
            made = function(te.placeholder(stored.shape, str(stored.dtype)))
            shape = tuple(int(d) for d in made.shape)
            variable = relax.Var(name, relax.TensorType(shape, made.dtype))
            self.parameters[name] = (variable, Preparation(source, stored, function))
        return self.parameters[name][0]

    def stored(self, value: Value) -> str:
        """The type in memory of a value of float32."""
        if value not in self.low:
            return "float32"
        return self.backend.bfloat16 if self.precision == "bfloat16" else self.precision

    def read(self, value: Value, dtype: str = "float32") -> relax.Var:
        """The variable of a value, as `dtype` where it is stored otherwise."""
        return self.cast(self.variables[value], dtype)

    def cast(self, variable: relax.Var, dtype: str) -> relax.Var:
        """A variable as another type of real numbers in memory; those that hold whole numbers stay."""
        own = str(variable.ty.dtype)
        if own == dtype or own in ("int64", "bool"):
            return variable

        def convert(x: te.Tensor) -> te.Tensor:
            return te.compute(x.shape, lambda *index: as_stored(real(x, *index), dtype), name="cast")

        return self.compute(convert, variable)

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
        """Adds a node of the graph; of a chain that a convolution takes with it, all of it with the last."""
        from detc.compiler.emit.tvm.lowerings import LOWERINGS

        if node.name in self._inner:
            return
        first = self._lasts[node.name].conv if node.name in self._lasts else node
        result = LOWERINGS[first.op](self, first)
        for index, variable in enumerate((result,) if isinstance(result, relax.Var) else result):
            value = Value(node.name, index)
            self.variables[value] = self.cast(variable, self.stored(value))


def program(
    graph: Graph,
    weights: Weights,
    backend: Backend,
    *,
    batch: int,
    height: int,
    width: int,
    precision: Precision = "float32",
    letterbox: Letterbox | None = None,
) -> Program:
    """The module for `batch` images of `height` x `width` pixels, whose layers store results in `precision`; with a
    `letterbox`, with `detect` (`letterbox.add`).

    `weights` maps every key of `graph.weights` to its array. Raises DiagnosticError where an op has no lowering.
    """
    from detc.compiler.emit.tvm.lowerings import LOWERINGS

    graph = graph.view("predict")
    require_lowerings(graph, LOWERINGS, backend.name)
    whole = Static(graph, batch, height, width)
    low = low_values(graph) if precision != "float32" else frozenset()
    block = relax.BlockBuilder()
    built = []
    for index, part in enumerate(parts(graph)):
        static = Static(part.graph, batch, height, width)
        names = list(zip(part.graph.inputs, part.given, strict=True))
        inner = {Value(name) for name, value in names if value in low} | {v for v in low if v.node in part.graph}
        b = Builder(block, static, weights, backend, precision, frozenset(inner))
        inputs = {name: _variable(name, b, Value(name), in_graph=v.node in graph.inputs) for name, v in names}
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
    own = {name: relax.Var(name, variable.ty) for _, b, _ in built for name, (variable, _) in b.parameters.items()}
    main = Builder(block, whole, weights, backend)
    given = {name: _variable(name, main, Value(name), in_graph=True) for name in graph.inputs}
    main.variables |= {Value(name): variable for name, variable in given.items()}
    with block.function("main", [*given.values(), *own.values()]):
        for part, b, function in built:
            arguments = [*(main.variables[value] for value in part.given), *(own[name] for name in b.parameters)]
            found = block.emit(relax.Call(function, arguments))
            for index, value in enumerate(part.results):
                main.variables[value] = block.emit(relax.TupleGetItem(found, index))
        results = [_as_in_graph(main, value) for value in whole.outputs.values()]
        variable = block.emit_func_output(block.emit(relax.Tuple(results)))
    functions = {"main": tuple(parameters)}
    if letterbox is not None:
        add_detect(main, variable, letterbox, [relax.Var(name, each.ty) for name, each in own.items()])
        functions["detect"] = functions["main"]
    functions |= {f"part_{index}": tuple(b.parameters) for index, (_, b, _) in enumerate(built)}
    prepared = {name: made for name, made in parameters.items() if isinstance(made, Preparation)}
    stored = {name: array for name, array in parameters.items() if isinstance(array, np.ndarray)}
    stored |= {made.source: made.array for made in prepared.values()}
    if prepared:
        functions["prepare"] = _prepare(block, prepared)
    return Program(block.finalize(), stored, functions, tuple(prepared), tuple(whole.outputs))


def _prepare(block: relax.BlockBuilder, prepared: Mapping[str, Preparation]) -> tuple[str, ...]:
    """Adds the function that makes these parameters; the names of what it takes."""
    sources = {made.source: made.array for made in prepared.values()}
    given = {name: relax.Var(name, relax.TensorType(a.shape, str(a.dtype))) for name, a in sources.items()}
    with block.function("prepare", list(given.values())):
        made = [block.emit_te(each.function, given[each.source]) for each in prepared.values()]
        block.emit_func_output(block.emit(relax.Tuple(made)))
    return tuple(sources)


def _variable(name: str, b: Builder, value: Value, *, in_graph: bool) -> relax.Var:
    """A function's input, as it lies in the graph or in memory."""
    shape = b.shape(value)
    if len(shape) == 4 and not in_graph:
        shape = (shape[0], *shape[2:], shape[1])
    dtype = b.static.graph.type_of(value).dtype
    return relax.Var(name, relax.TensorType(shape, b.stored(value) if dtype == "float32" else dtype))


def _is_read(graph: Graph, name: str) -> bool:
    """Whether anything looks at an input's values, and not only at its size."""
    return any(Value(name) in reads(node) for node in graph.users(name))


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


def sorted_top(b: Builder, x: relax.Var, count: int) -> tuple[relax.Var, relax.Var]:
    """The `count` highest of x (N, K), best first, and where they are, int64: by TVM's sort of whole rows."""
    top = b.emit(relax.op.topk(x, k=count, axis=-1, ret_type="both", largest=True, dtype="int64"))
    return b.emit(relax.TupleGetItem(top, 0)), b.emit(relax.TupleGetItem(top, 1))


def nearest(x: te.Tensor, height: int, width: int) -> te.Tensor:
    """x (N, h, w, C) at another size, by whole-number division, which is exact at any ratio (as TVM's own resize is
    not)."""
    n, h, w, channels = (int(d) for d in x.shape)
    return te.compute(
        (n, height, width, channels), lambda i, y, v, c: x[i, y * h // height, v * w // width, c], name="nearest"
    )


def real(stored: Any, *index: Any) -> Any:
    """An element of an array of real numbers in memory, as float32."""
    value = stored[index]
    if str(stored.dtype) == "uint16":
        return tirx.reinterpret("float32", tirx.Cast("uint32", value) << tirx.const(16, "uint32"))
    return value if str(stored.dtype) == "float32" else tirx.Cast("float32", value)


def as_stored(value: Any, dtype: str) -> Any:
    """A float32 as it is kept in memory, where uint16 stands for the bits of a bfloat16: as `rounded` rounds."""
    if dtype != "uint16":
        return value if dtype == "float32" else tirx.Cast(dtype, value)
    bits = tirx.reinterpret("uint32", value)
    last = (bits >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
    upper = (bits + (last + tirx.const(0x7FFF, "uint32"))) >> tirx.const(16, "uint32")
    # What is no number stays none: rounding its bits could make it one.
    return tirx.Cast("uint16", tirx.Select(tirx.isnan(value), tirx.const(0x7FC0, "uint32"), upper))


def finished(b: Builder, x: relax.Var, epilogue: Epilogue) -> relax.Var:
    """A convolution's results (N, H, W, C) with what follows it, by operators of their own, which are fused later."""
    if epilogue.bias is not None:
        x = b.emit(relax.op.add(x, epilogue.bias))
    if epilogue.residual is not None:
        other = epilogue.residual
        _, height, width, channels = (int(d) for d in x.ty.shape)
        if [int(d) for d in other.ty.shape] != [int(x.ty.shape[0]), height, width, channels]:
            other = b.compute(nearest, other, height, width)
        x = b.emit(relax.op.add(x, b.cast(other, "float32")))
    if epilogue.relu:
        x = b.emit(relax.op.nn.relu(x))
    return b.cast(x, epilogue.dtype)
