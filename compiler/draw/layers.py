"""Plans the picture of any component: boxes in layers, each below all that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import takewhile

import networkx as nx

from detc.compiler.draw.layout import Layout, in_layers
from detc.compiler.draw.parts import Part, data_operands
from detc.compiler.draw.pyramid import level_of
from detc.compiler.draw.text import width
from detc.compiler.graph import Graph, Value, flatten
from detc.compiler.types import TensorType

_NUMBER = re.compile(r"\b\d+\b")

HEIGHT, GAP, LEVEL = 38.0, 20.0, 68.0
# Sizes of a box's name and of the line below it.
NAME, ABOUT = 12.0, 10.0


@dataclass(eq=False, slots=True)
class Box:
    """One box: the top of it is at (x, y), x being its middle. `opens` says that it is a component, not a single op;
    `module` that it is a component or has weights."""

    name: str
    about: str = ""
    detail: str = ""
    opens: bool = False
    module: bool = False
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return 22 + max(width(self.name, NAME, self.opens), width(self.about, ABOUT), 30)

    height = HEIGHT


@dataclass(slots=True)
class Layers:
    """Boxes and the cubic curves between them: lists of points, the first and every third of them on the curve."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[list[tuple[float, float]]] = field(default_factory=list)


def layers(graph: Graph, part: Part) -> Layers:
    """The picture of a component's inside.

    What is done alike to every level of a pyramid is drawn once, with how many times, and so is a chain of equal
    components with numbered labels, such as the blocks of a stage.
    """
    flow = _alike(graph, part, _flow(graph, part))
    return _layout(_chains(flow))


def outline(graph: Graph, part: Part) -> nx.DiGraph:
    """Which modules inside a component feed which, as a graph of boxes whose names are their labels.

    What has no weights is left out, and so is what is fed by way of others.
    """
    flow = _chains(_alike(graph, part, _flow(graph, part)))
    for box in [box for box in flow if not box.module]:
        flow.add_edges_from((a, b) for a in flow.predecessors(box) for b in flow.successors(box))
        flow.remove_node(box)
    order = list(flow)
    reduced = nx.transitive_reduction(flow)
    outlined = nx.DiGraph()
    outlined.add_nodes_from(order)
    outlined.add_edges_from((a, b) for a in order for b in order if reduced.has_edge(a, b))
    for box in order:
        kind = box.name.partition(" \u00d7 ")[0]
        label, _, size = box.about.removesuffix(".*").partition(": ")
        box.name, box.about = label or kind, size or (kind if label else "")
    return outlined


def _flow(graph: Graph, part: Part) -> nx.DiGraph:
    """Which parts feed which, with what comes from outside and, for a whole detector, what its views give."""
    flow = nx.DiGraph()
    makers = {name: inner for inner in part for name in inner.nodes}
    outside: dict[Value, Part] = {}

    def maker(value: Value) -> Part:
        if value.node in makers:
            return makers[value.node]
        if value.node in graph.inputs:
            return outside.setdefault(value, Part("", value.node, frozenset()))
        level = level_of(graph, value)
        name = _shape(graph.type_of(value)) if level is None else f"1/{2**level}"
        return outside.setdefault(value, Part(graph[value.node].scope, name, frozenset()))

    for inner in part:
        flow.add_node(inner)
        for name in inner.nodes:
            for value in data_operands(graph[name]):
                if value.node not in inner.nodes:
                    flow.add_edge(maker(value), inner)
    if not part.path:
        results: dict[Part, list[str]] = {}
        for outputs in graph.views.values():
            for name, values in outputs.items():
                results.setdefault(maker(flatten(values)[0]), []).append(name or "result")
        for source, names in results.items():
            text = ", ".join(dict.fromkeys(names))
            flow.add_edge(source, Part("", text, frozenset()))
    return flow


def _alike(graph: Graph, part: Part, flow: nx.DiGraph) -> nx.DiGraph:
    """The flow between boxes, where parts that do the same to alike operands share one."""
    boxes: dict[tuple[object, ...], Box] = {}
    members: dict[Box, list[Part]] = {}
    of: dict[Part, Box] = {}
    merged = nx.DiGraph()
    for inner in nx.lexicographical_topological_sort(flow, key=_order_in(graph)):
        taken = frozenset(of[p] for p in flow.predecessors(inner))
        if inner.nodes:
            same: object = (_NUMBER.sub("#", inner.path) if _is_module(inner) else "", inner.name)
        else:
            same = frozenset((_NUMBER.sub("#", user.path), user.name) for user in flow.successors(inner))
        box = boxes.setdefault((same, taken), Box(inner.name, opens=bool(inner.parts), module=_is_module(inner)))
        of[inner] = box
        members.setdefault(box, []).append(inner)
        merged.add_node(box, part=inner)
        merged.add_edges_from((source, box) for source in taken)
    for box, alike in members.items():
        box.about = _about(part, alike)
        box.detail = "\n".join(f"{p.path}: {_types(graph, p)}" for p in alike if p.nodes)
        if len(alike) > 1 and alike[0].nodes:
            box.name += f" \u00d7 {len(alike)}"
        elif len(alike) > 1:
            names = list(dict.fromkeys(p.name for p in alike))
            listed = ", ".join(names)
            box.name = listed if len(listed) <= _LISTED else f"{names[0]} \u2026 {names[-1]}"
    return merged


# As long may be a list of what comes from outside; of a longer one, its ends are shown.
_LISTED = 24


def _shape(type_: TensorType) -> str:
    """The shape of what comes from outside, with sizes that only running tells as a question mark."""
    sizes = [text if len(text := str(size)) <= 6 else "?" for size in type_.shape]
    return " \u00d7 ".join(sizes) or "1"


def _order_in(graph: Graph) -> Callable[[Part], int]:
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return lambda part: min((order[name] for name in part.nodes), default=-1)


def _is_module(part: Part) -> bool:
    return part.call is not None or (part.node is not None and bool(part.node.weights))


def _about(part: Part, alike: list[Part]) -> str:
    """The second line of a box: the label of what it stands for, and what a convolution is."""
    first = alike[0]
    if not first.nodes:
        shared = takewhile(lambda same: len(set(same)) == 1, zip(*(p.path.split(".") for p in alike), strict=False))
        return ".".join(labels[0] for labels in shared)
    if not _is_module(first):
        return ""
    labels = [p.path.removeprefix(part.path).removeprefix(".").split(".") for p in alike]
    label = ".".join(same[0] if len(set(same)) == 1 else "*" for same in zip(*labels, strict=True))
    if first.node is not None and first.node.op == "Conv2d":
        attrs = first.node.attrs
        size = f"{attrs['kernel']}\u00d7{attrs['kernel']}, {attrs['channels']}"
        return f"{label}: {size}" + (f", /{attrs['stride']}" if attrs["stride"] != 1 else "")
    return label


def _types(graph: Graph, part: Part) -> str:
    if part.call is not None:
        return ", ".join(str(graph.type_of(value)) for _, value in part.call.outputs)
    return ", ".join(map(str, part.node.types)) if part.node else ""


def _chains(flow: nx.DiGraph) -> nx.DiGraph:
    """The flow with every chain of equal components that are numbered under one label drawn as its first."""

    def follows(box: Box) -> Box | None:
        """The box of the same label and component before this one, where that is all it takes and all that is taken."""
        before = list(flow.predecessors(box))
        if len(before) != 1 or flow.out_degree(before[0]) != 1 or not box.opens:
            return None
        ours, theirs = (flow.nodes[b]["part"] for b in (box, before[0]))
        stems = [p.path.rpartition(".") for p in (ours, theirs)]
        numbered = all(number.isdigit() for _, _, number in stems)
        return before[0] if numbered and stems[0][0] == stems[1][0] and ours.name == theirs.name else None

    links = {box: before for box in flow if (before := follows(box)) is not None}
    heads: dict[Box, Box] = {}
    for box in nx.topological_sort(flow):
        heads[box] = heads[links[box]] if box in links else box
    drawn = nx.DiGraph()
    for box, head in heads.items():
        drawn.add_node(head)
        drawn.add_edges_from((head, heads[user]) for user in flow.successors(box) if heads[user] is not head)
    for head in drawn:
        times = sum(1 for other in heads.values() if other is head)
        if times > 1:
            head.name += f" \u00d7 {times}"
            head.about = head.about.rpartition(".")[0] or head.about
    return drawn


def _layout(flow: nx.DiGraph) -> Layers:
    """Places boxes and draws the arrows between them."""
    layout = in_layers(flow, {box: box.width for box in flow}, GAP)
    for index, row in enumerate(layout.rows):
        for node in row:
            if isinstance(node, Box):
                node.x, node.y = layout.place[node], index * LEVEL
    boxes = [node for row in layout.rows for node in row if isinstance(node, Box)]
    return Layers(boxes, [curve(layout, way, HEIGHT, LEVEL) for way in layout.ways])


def curve(layout: Layout, way: list[Hashable], height: float, step: float) -> list[tuple[float, float]]:
    """The way of an arrow between boxes of a height whose layers are a step apart: upright where it passes a layer."""
    depth = next(index for index, row in enumerate(layout.rows) if way[0] in row)
    x = layout.place[way[0]]
    line = [(x, depth * step + height)]
    for offset, after in enumerate(way[1:], 1):
        start, end = (depth + offset - 1) * step + height, (depth + offset) * step - (2 if after is way[-1] else 0)
        bend, aim = (start + end) / 2, layout.place[after]
        line += [(x, bend), (aim, bend), (aim, end)]
        x = aim
        if after is not way[-1]:
            line += [(x, end + height / 3), (x, end + height * 2 / 3), (x, end + height)]
    return line
