"""The graph: what a spec becomes, and what every target is emitted from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from detc.compiler.types import TensorType
from detc.dsl.source import Span

if TYPE_CHECKING:
    import networkx

# What an attribute of a node may be. Nested lists are tuples, so that attributes are values.
Attribute = int | float | bool | str | None | tuple["Attribute", ...]

ViewName = Literal["forward", "train", "predict"]
VIEWS: tuple[ViewName, ...] = ("forward", "train", "predict")


@dataclass(frozen=True, slots=True)
class Value:
    """One output of one node; of a graph input where `node` is the input's name."""

    node: str
    output: int = 0

    def __str__(self) -> str:
        return f"%{self.node}" if self.output == 0 else f"%{self.node}#{self.output}"


Values = Value | tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter or buffer.

    `key` is its name in the state dict. `init` is the initialiser as (name, parameters...). `trainable` is false
    where the spec freezes it. `tied` is the key of the weight that this one is a second name of."""

    key: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    init: tuple[Attribute, ...] = ("zeros",)
    trainable: bool = True
    buffer: bool = False
    tied: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One application of a primitive; see docs/architecture.md for the fields."""

    name: str
    op: str
    inputs: tuple[tuple[str, Values], ...]
    attrs: Mapping[str, Attribute]
    weights: Mapping[str, str]
    types: tuple[TensorType, ...]
    scope: str = ""
    origins: tuple[Span, ...] = field(default=(), compare=False)

    @property
    def operands(self) -> tuple[Value, ...]:
        """All inputs in port order, flattened."""
        flat: list[Value] = []
        for _, values in self.inputs:
            flat.extend((values,) if isinstance(values, Value) else values)
        return tuple(flat)

    @property
    def type(self) -> TensorType:
        """The type of the only, or first, output."""
        return self.types[0]


@dataclass(frozen=True, slots=True)
class Call:
    """One application of a component: where, of what, and what came out, under names such as "" or "scores" and
    levels."""

    path: str
    component: str
    kind: str
    outputs: tuple[tuple[tuple[str | int, ...], Value], ...]
    span: Span | None = field(default=None, compare=False)
    doc: str = field(default="", compare=False)


Outputs = Mapping[str, Values]


class Graph:
    """A detector's graph, in topological order. Frozen once built: passes make new ones."""

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, TensorType],
        nodes: Mapping[str, Node],
        weights: Mapping[str, Weight],
        views: Mapping[str, Outputs],
        calls: tuple[Call, ...] = (),
        size_divisor: int = 1,
    ) -> None:
        self.name = name
        self.inputs = dict(inputs)
        self.weights = dict(weights)
        self.views = {view: dict(outputs) for view, outputs in views.items()}
        self.calls = calls
        self.size_divisor = size_divisor
        self._nodes = dict(nodes)

    @cached_property
    def nx(self) -> networkx.MultiDiGraph:
        """The graph for networkx's algorithms: nodes with their `Node` under "node" (inputs have none), and an edge
        for every use, its key the port and the index there, with the `output` that is used. Made when first asked
        for, since importing networkx is a third of the time of checking a spec."""
        import networkx

        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=self.name)
        graph.add_nodes_from(self.inputs)
        for node in self.nodes:
            graph.add_node(node.name, node=node)
            for port, values in node.inputs:
                for index, value in enumerate(flatten(values)):
                    graph.add_edge(value.node, node.name, key=(port, index), output=value.output)
        return networkx.freeze(graph)

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes, each after what it uses."""
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def type_of(self, value: Value) -> TensorType:
        """The type of a value."""
        if value.node in self.inputs:
            return self.inputs[value.node]
        return self[value.node].types[value.output]

    @cached_property
    def _users(self) -> dict[str, dict[str, Node]]:
        users: dict[str, dict[str, Node]] = {}
        for node in self.nodes:
            for value in node.operands:
                users.setdefault(value.node, {})[node.name] = node
        return users

    def users(self, name: str) -> list[Node]:
        """The nodes that use an output of the node (or input) called `name`."""
        return list(self._users.get(name, {}).values())

    def below(self, label: str) -> set[str]:
        """Names of the nodes at or below a label path, such as "neck" or "bbox_head.retina_reg"."""
        dotted = f"{label}."
        return {
            node.name
            for node in self.nodes
            for place in (node.scope, *(key.rpartition(".")[0] for key in node.weights.values()))
            if f"{place}.".startswith(dotted)
        }

    def reached(self, *views: str) -> set[str]:
        """Names of all nodes and inputs that the outputs of these views depend on."""
        found: set[str] = set()
        stack = [v.node for view in views for values in self.views.get(view, {}).values() for v in flatten(values)]
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                if name in self:
                    stack.extend(value.node for value in self[name].operands)
        return found

    def view(self, *views: str) -> Graph:
        """The part of the graph that these views need.

        Kept are all weights whose nodes remain, with their ties, and all applications of which an output or a node
        remains: a head of which only the losses are needed is there without outputs.
        """
        reached = self.reached(*views)
        nodes = {n.name: n for n in self.nodes if n.name in reached}
        used = {key for n in nodes.values() for key in n.weights.values()}
        weights = {k: w for k, w in self.weights.items() if k in used or w.tied in used}
        inputs = {k: t for k, t in self.inputs.items() if k in reached or k == "image"}
        calls = [
            replace(c, outputs=tuple(o for o in c.outputs if o[1].node in reached or o[1].node in inputs))
            for c in self.calls
        ]
        # Components with nodes inside, of which no application has outputs left.
        bare = {path for scope in {n.scope for n in nodes.values()} for path in _upwards(scope)}
        bare -= {c.path for c in calls if c.outputs}
        kept_calls = []
        for call in calls:
            if call.outputs or call.path in bare:
                kept_calls.append(call)
                bare.discard(call.path)
        kept = {v: self.views[v] for v in views if v in self.views}
        return Graph(self.name, inputs, nodes, weights, kept, tuple(kept_calls), self.size_divisor)

    def replaced(self, **changes: object) -> Graph:
        """This graph with the given constructor arguments changed."""
        arguments: dict[str, object] = {
            "name": self.name,
            "inputs": self.inputs,
            "nodes": {n.name: n for n in self.nodes},
            "weights": self.weights,
            "views": self.views,
            "calls": self.calls,
            "size_divisor": self.size_divisor,
        }
        return Graph(**{**arguments, **changes})  # type: ignore[arg-type]


def _upwards(path: str) -> Iterator[str]:
    """The label path and those around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def flatten(values: Values) -> tuple[Value, ...]:
    """One value or several, as a tuple."""
    return (values,) if isinstance(values, Value) else values
