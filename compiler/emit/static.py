"""What the inference targets share: a predict graph at one image size, and the constants that follow from the size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from detc.compiler.graph import Graph, Node, Value, Values, flatten
from detc.dsl.catalogue.export import OP_WITHOUT_LOWERING
from detc.dsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy as np

# What a predict view gives, in the order in which targets return it; not every detector has all of them.
OUTPUTS = ("boxes", "scores", "classes", "masks")

# What chooses among candidates, and what begins another network after a choice, beside all that has weights.
_CHOOSES = frozenset({"select_top", "nms"})
_CUTS_OUT = frozenset({"assign_levels", "roi_align"})
# A region nearly of a level's size belongs to that level: of the size as a share of the first level's.
NEARLY = 1e-6

# What depends on shapes alone.
_CONSTANT = frozenset({"anchor_grid", "fill", "constant"})


@dataclass(frozen=True)
class Static:
    """A graph whose view `predict` is emitted for `batch` images of `height` x `width` pixels."""

    graph: Graph
    batch: int
    height: int
    width: int

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value."""
        return self.graph.type_of(value).at(self.batch, self.height, self.width)

    @property
    def inputs(self) -> dict[str, Value]:
        """What the graph takes."""
        return {name: Value(name) for name in self.graph.inputs}

    @property
    def outputs(self) -> dict[str, Value]:
        """What the graph gives, of a whole detector in the order of `OUTPUTS`."""
        predict = self.graph.views["predict"]
        names = [*(name for name in OUTPUTS if name in predict), *(name for name in predict if name not in OUTPUTS)]
        return {name: flatten(predict[name])[0] for name in names}


@dataclass(frozen=True)
class Part:
    """A stretch of a predict view that is compiled and compared on its own: a network, or a choice among its results.

    `graph` takes what earlier parts gave. Its inputs are `given`, its outputs `results`, in this order, which are
    values of the whole graph; the outputs' names are those of the values. `chooses` says which of the two it is.
    """

    graph: Graph
    given: tuple[Value, ...]
    results: tuple[Value, ...]
    chooses: bool


def parts(graph: Graph) -> tuple[Part, ...]:
    """The parts of a predict graph, each after those it takes from: networks and choices by turns.

    A detector of one stage has two. Of one with two, the heads of the chosen proposals are another network, which the
    choice of detections follows, and perhaps the network of their masks.
    """
    depth: dict[str, int] = {}
    constant: set[str] = set()
    for node in graph.nodes:
        sources = [value.node for value in node.operands]
        if node.op in _CONSTANT or (sources and all(name in constant for name in sources)):
            constant.add(node.name)
            continue
        place = max((depth.get(name, 0) for name in sources), default=0)
        if node.op in _CHOOSES:
            place += place % 2 == 0
        elif node.op in _CUTS_OUT or node.weights:
            place += place % 2
        depth[node.name] = place
    shown = dict.fromkeys(v for values in graph.views["predict"].values() for v in flatten(values))
    for value in shown:
        if value.node in constant:
            depth[value.node] = 0
    found = []
    for place in sorted(set(depth.values())):
        inside = {name for name, where in depth.items() if where == place}
        wanted = [value for name in inside for value in graph[name].operands]
        while wanted:
            name = wanted.pop().node
            if name in constant and name not in inside:
                inside.add(name)
                wanted.extend(graph[name].operands)
        later = {name for name in graph.reached("predict") if name in graph and name not in inside}
        taken = {v for name in later if depth.get(name, place) >= place for v in graph[name].operands} | shown.keys()
        nodes = [node for node in graph.nodes if node.name in inside]
        results = [
            value
            for node in nodes
            if depth.get(node.name) == place
            for value in (Value(node.name, index) for index in range(len(node.types)))
            if value in taken
        ]
        found.append(cut_out(graph, nodes, results, chooses=place % 2 == 1))
    return tuple(found)


def cut_out(graph: Graph, nodes: Sequence[Node], results: Sequence[Value], *, chooses: bool) -> Part:
    """The part that these nodes are, with what they take from others as its inputs."""
    inside = {node.name for node in nodes}
    names: dict[Value, str] = {}
    for node in nodes:
        for value in node.operands:
            if value.node not in inside and value not in names:
                name = re.sub(r"\W", "_", label(value))
                while name in names.values() or name in inside:
                    name += "_"
                names[value] = name

    def renamed(values: Values) -> Values:
        if isinstance(values, tuple):
            return tuple(Value(names[v]) if v in names else v for v in values)
        return Value(names[values]) if values in names else values

    own = {n.name: replace(n, inputs=tuple((port, renamed(values)) for port, values in n.inputs)) for n in nodes}
    keys = {key for node in nodes for key in node.weights.values()}
    keys |= {tied for key in keys if (tied := graph.weights[key].tied) is not None}
    weights = {key: weight for key, weight in graph.weights.items() if key in keys}
    inputs = {name: graph.type_of(value) for value, name in names.items()}
    views = {"predict": {label(value): value for value in results}}
    return Part(Graph(graph.name, inputs, own, weights, views), tuple(names), tuple(results), chooses)


def label(value: Value) -> str:
    """A value's name: that of its node, with the number of the output where it is not the first."""
    return str(value).removeprefix("%")


def require_lowerings(graph: Graph, lowerings: Container[str], target: str) -> None:
    """Raises a DiagnosticError that names every op (once, at its first node) which `lowerings` does not have."""
    missing: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op not in lowerings:
            missing.setdefault(node.op, node)
    if missing:
        raise DiagnosticError(unsupported(node, target, f"{node.op} has no lowering") for node in missing.values())


def unsupported(node: Node, target: str, why: str) -> Diagnostic:
    """The diagnostic for a node that a target cannot take."""
    return OP_WITHOUT_LOWERING.at(
        node.origins[0] if node.origins else None,
        f"cannot export to {target}: {why}",
        label=f"{node.op} is applied here",
        detail=f"the node is {node.name}",
    )


def pair(attribute: object) -> tuple[int, int]:
    """An attribute for height and width: one number for both, or two."""
    if isinstance(attribute, int):
        return attribute, attribute
    assert isinstance(attribute, tuple) and len(attribute) == 2
    return attribute


def numbers(attribute: object) -> tuple[float, ...]:
    """A list attribute as floats."""
    assert isinstance(attribute, tuple)
    return tuple(float(v) for v in attribute)


def number(attribute: object) -> float:
    """A number attribute."""
    assert isinstance(attribute, int | float | Fraction)
    return float(attribute)


def anchors(attrs: Mapping[str, object], height: int, width: int) -> np.ndarray:
    """The result of `anchor_grid` over a height x width feature: (H * W * A, 4) float32 boxes in pixels."""
    import numpy as np

    step = number(attrs["step"])
    base = step if attrs["base"] is None else number(attrs["base"])
    root = np.sqrt(np.array(numbers(attrs["ratios"])))[:, None]
    scales = np.array(numbers(attrs["scales"]))[None, :]
    half_height = (base * root * scales).reshape(-1) / 2
    half_width = (base / root * scales).reshape(-1) / 2
    centre = number(attrs["offset"]) * base
    y = np.arange(height)[:, None, None] * step + centre
    x = np.arange(width)[None, :, None] * step + centre
    corners = np.broadcast_arrays(x - half_width, y - half_height, x + half_width, y + half_height)
    return np.stack(corners, axis=-1).reshape(-1, 4).astype(np.float32)
