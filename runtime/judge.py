"""What an exported detector is compared with, and what is compared: both part by part, and value by value.

The judge is the torch.fx module of the graph as elaborated. The graph that is exported has been through passes
(`compiler/passes`), and has other nodes; but a value that both have is the same, and what passes between the parts of
the exported graph is in both. So the judge computes, from what a part is given, what the part is to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from detc.compiler.emit.precision import Precision, low_values, rounded
from detc.compiler.emit.static import Part, cut_out, label, parts
from detc.compiler.graph import Graph, Value, flatten
from detc.runtime.engines import OnnxEngine, TvmEngine

if TYPE_CHECKING:
    import onnx
    import torch

    from detc.compiler.emit.tvm.build import Kernels

# Name of an output, or of an input -> its value.
Arrays = Mapping[str, np.ndarray]


class Compared(Protocol):
    """An exported detector under test, as a whole and part by part."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs for a whole batch."""
        ...

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What one part alone gives for these inputs."""
        ...


class Candidate(Compared, Protocol):
    """One that can be looked into where it disagrees."""

    def inside(self, index: int, given: Sequence[np.ndarray], values: Sequence[Value]) -> Mapping[Value, np.ndarray]:
        """Those of these values of one part that it has, for these inputs."""
        ...


class Judge:
    """The torch.fx module of the predict view of `graph`, with the weights `state`, by the parts of `exported`: the
    graph after the passes of an export, or, without one, the same."""

    def __init__(self, graph: Graph, state: Arrays, exported: Graph | None = None) -> None:
        self.graph = graph
        self.exported = exported or graph
        self.parts = parts(self.exported)
        self._state = state
        self._own = _counterparts(graph, self.parts)
        self._modules = [self._module(part) for part in self._own]
        # What the last run gave: the graph as elaborated takes the sizes of anchors from features.
        self._last: dict[Value, np.ndarray] = {}

    def _module(self, part: Part) -> torch.fx.GraphModule:
        import torch

        from detc.compiler.emit.fx import emit
        from detc.runtime.plugins import kernels

        module = emit(part.graph, ("predict",), kernels())["predict"].eval()
        module.load_state_dict({key: torch.from_numpy(self._state[key]) for key in module.state_dict()})
        return module

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs for a whole batch."""
        return self.outputs(self.values(inputs))

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What one part alone gives for these inputs."""
        part = self.parts[index]
        found = self._run(index, {**self._last, **dict(zip(part.given, given, strict=True))})
        return [found[value] for value in part.results]

    def inside(self, index: int, given: Sequence[np.ndarray], values: Sequence[Value]) -> Mapping[Value, np.ndarray]:
        """Those of these values of one part that the graph as elaborated has, for these inputs."""
        own = self._own[index]
        there = [value for value in values if value.node in own.graph]
        shown = own.graph.replaced(views={"predict": {label(value): value for value in there}})
        module = self._module(Part(shown, own.given, tuple(there), own.chooses))
        known = {**self._last, **dict(zip(self.parts[index].given, given, strict=True))}
        return dict(zip(there, _results(module, [known[value] for value in own.given]), strict=True))

    def _run(self, index: int, values: Mapping[Value, np.ndarray]) -> dict[Value, np.ndarray]:
        own = self._own[index]
        found = _results(self._modules[index], [values[value] for value in own.given])
        return dict(zip(own.results, found, strict=True))

    def in_double(self, values: Mapping[Value, np.ndarray]) -> dict[Value, np.ndarray]:
        """The results of the networks, computed in double precision from `values`."""
        found: dict[Value, np.ndarray] = {}
        for own, module in zip(self._own, self._modules, strict=True):
            if not own.chooses:
                given = [values[value] for value in own.given]
                results = _results(
                    module.double(), [x.astype(np.float64) if x.dtype == np.float32 else x for x in given]
                )
                module.float()
                found |= zip(own.results, results, strict=True)
        return found

    def values(
        self, inputs: Arrays, changed: Callable[[Value, np.ndarray], np.ndarray] = lambda _, array: array
    ) -> dict[Value, np.ndarray]:
        """The results of every part, and the inputs. Those of the first part go on as `changed` makes them."""
        values = {Value(name): value for name, value in inputs.items()}
        for index in range(len(self.parts)):
            found = self._run(index, values)
            values |= {value: changed(value, array) for value, array in found.items()} if index == 0 else found
        self._last = values
        return values

    def along(
        self, candidate: Compared, inputs: Arrays
    ) -> tuple[dict[Value, np.ndarray], list[tuple[Value, np.ndarray, np.ndarray]]]:
        """The results of every part, those of networks a candidate's own; and of each of these what it is to be, and
        what it is, given what the candidate's earlier networks gave."""
        values = {Value(name): value for name, value in inputs.items()}
        compared = []
        for index, part in enumerate(self.parts):
            found = self._run(index, values)
            if not part.chooses:
                actual = candidate.part(index, [values[value] for value in part.given])
                compared += [(v, found[v], result) for v, result in zip(part.results, actual, strict=True)]
                found |= zip(part.results, actual, strict=True)
            values |= found
        self._last = values
        return values, compared

    def outputs(self, values: Mapping[Value, np.ndarray]) -> Arrays:
        """The detector's outputs among all values."""
        shown = self.exported.views["predict"]
        return {name: values[flatten(shown[name])[0]] for name in self.graph.views["predict"]}


def _results(module: torch.fx.GraphModule, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    import torch

    with torch.inference_mode():
        found = module(*(torch.from_numpy(array) for array in given))
    return [value.numpy() for value in found.values()]


def _counterparts(graph: Graph, exported: Sequence[Part]) -> list[Part]:
    """What computes in `graph` what each part of the exported graph does."""
    insides = []
    for part in exported:
        inside: set[str] = set()
        wanted = [value for value in part.results if value not in part.given]
        while wanted:
            name = wanted.pop().node
            # Where a choice meets a network, it is the sizes of anchors that it takes from there.
            if name in graph and name not in inside and not (part.chooses and graph[name].weights):
                inside.add(name)
                wanted.extend(value for value in graph[name].operands if value not in part.given)
        insides.append(inside)
    taken = {value for inside in insides for name in inside for value in graph[name].operands}
    own = []
    for part, inside in zip(exported, insides, strict=True):
        nodes = [node for node in graph.nodes if node.name in inside]
        known = {*part.given, *part.results}
        beyond = [
            value
            for value in (Value(node.name, index) for node in nodes for index in range(len(node.types)))
            if value in taken
            and value not in known
            and any(node.name not in inside and node.name in set().union(*insides) for node in graph.users(value.node))
        ]
        own.append(cut_out(graph, nodes, [*part.results, *beyond], chooses=part.chooses))
    return own


class OnnxCandidate:
    """A model of an exported graph. One that takes pixels is entered where it has made the image of them, and left
    where its boxes are still in pixels of that."""

    def __init__(self, model: bytes | onnx.ModelProto, graph: Graph) -> None:
        import onnx

        self._model = onnx.load_from_string(model) if isinstance(model, bytes) else model
        self._graph = graph
        self._parts = parts(graph)
        self._engines: dict[tuple[str, ...], OnnxEngine] = {}
        self._half = _half_tensors(self._model)

    def __call__(self, inputs: Arrays) -> Arrays:
        shown = {name: _tensor(self._graph, flatten(v)[0]) for name, v in self._graph.views["predict"].items()}
        found = self._between(inputs, list(shown.values()))
        return dict(zip(shown, found, strict=True))

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        part = self._parts[index]
        inputs = {_tensor(self._graph, value): array for value, array in zip(part.given, given, strict=True)}
        return self._between(inputs, [_tensor(self._graph, value) for value in part.results])

    def _between(self, given: Arrays, names: Sequence[str]) -> list[np.ndarray]:
        """Tensors of the model, computed from others."""
        given = {name: array.astype(np.float16) if name in self._half else array for name, array in given.items()}
        key = (*given, "", *names)
        if key not in self._engines:
            self._engines[key] = OnnxEngine(_stretch(self._model, given, list(dict.fromkeys(names))))
        engine = self._engines[key]
        found = engine.run({name: given[name] for name in engine.inputs})
        return [found[name].astype(np.float32) if name in self._half else found[name] for name in names]

    def inside(self, index: int, given: Sequence[np.ndarray], values: Sequence[Value]) -> Mapping[Value, np.ndarray]:
        part = self._parts[index]
        inputs = {_tensor(self._graph, value): array for value, array in zip(part.given, given, strict=True)}
        made = {name for node in self._model.graph.node for name in node.output}
        names = {value: str(value) for value in values if str(value) in made}
        engine = OnnxEngine(_stretch(self._model, inputs, list(names.values())))
        found = engine.run({name: inputs[name] for name in engine.inputs})
        return {value: found[name] for value, name in names.items()}


def _half_tensors(model: onnx.ModelProto) -> set[str]:
    """The tensors of a model that are float16."""
    import onnx

    half = onnx.TensorProto.FLOAT16
    if all(tensor.data_type != half for tensor in model.graph.initializer):
        return set()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {info.name for info in inferred.value_info if info.type.tensor_type.elem_type == half}


def _tensor(graph: Graph, value: Value) -> str:
    """What a model calls a value."""
    return value.node if value.node in graph.inputs else str(value)


class TvmCandidate:
    """Kernels of an exported graph, on the machine they are made for, with their `parameters`, which store results of
    layers in a precision. `compiled` makes kernels of another graph, which gets those of the parameters that it takes
    too."""

    def __init__(
        self,
        engine: TvmEngine,
        parameters: Arrays,
        graph: Graph,
        compiled: Callable[[Graph], Kernels],
        precision: Precision = "float32",
    ) -> None:
        self._graph = graph
        self._parts = parts(graph)
        self._engine = engine
        self._parameters = parameters
        self._compiled = compiled
        self._precision = precision
        self._low = low_values(graph) if precision != "float32" else frozenset()

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._engine(**inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Between parts, features lie in memory as (N, H, W, C), those of layers rounded."""
        inside = []
        for value, array in zip(self._parts[index].given, given, strict=True):
            lying = array.transpose(0, 2, 3, 1) if array.ndim == 4 and value.node in self._graph else array
            inside.append(self._stored(lying) if value in self._low else lying)
        found = (_real(array) for array in self._engine.call(f"part_{index}", *inside))
        return [array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for array in found]

    def _stored(self, array: np.ndarray) -> np.ndarray:
        """An array as kernels take it: on a GPU bfloat16 is a type of its own, on a processor its bits are."""
        stored = rounded(array, self._precision)
        if stored.dtype != np.uint16 or self._engine.target != "cuda":
            return stored
        import ml_dtypes

        return stored.view(ml_dtypes.bfloat16)

    def inside(self, index: int, given: Sequence[np.ndarray], values: Sequence[Value]) -> Mapping[Value, np.ndarray]:
        part = self._parts[index].graph
        shown = part.replaced(views={"predict": {label(value): value for value in values}}).view("predict")
        inputs = dict(zip(part.inputs, given, strict=True))
        kernels = self._compiled(shown)
        parameters = {name: self._parameters.get(name, array) for name, array in kernels.parameters.items()}
        again = engine(replace(kernels, parameters=parameters))
        found = again(**{name: inputs[name] for name in shown.inputs})
        return {value: found[label(value)] for value in values}


def _real(stored: np.ndarray) -> np.ndarray:
    """Rounded values as float32: float16, bfloat16, or its bits as uint16; others as they are."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32) if stored.dtype.name in ("float16", "bfloat16") else stored


def engine(kernels: Kernels) -> TvmEngine:
    """Kernels, loaded."""
    given = (kernels.parameters, kernels.functions, kernels.prepared, kernels.outputs)
    return TvmEngine(kernels.library, *given, kernels.target)


def _stretch(model: onnx.ModelProto, given: Arrays, results: Sequence[str]) -> bytes:
    """The model of what lies between some tensors and others. It takes those of the first that it needs."""
    import onnx
    from onnx import helper

    makers = {name: node for node in model.graph.node for name in node.output}
    kept: set[str] = set()
    reached: set[str] = set()
    wanted = list(results)
    while wanted:
        name = wanted.pop()
        if name in reached:
            continue
        reached.add(name)
        if name not in given and name in makers:
            kept.add(makers[name].name)
            wanted.extend(makers[name].input)
    graph = helper.make_graph(
        [node for node in model.graph.node if node.name in kept],
        model.graph.name,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in given.items()
            if name in reached
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
        [tensor for tensor in model.graph.initializer if tensor.name in reached],
    )
    between = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(between.SerializeToString())
