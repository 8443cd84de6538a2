"""Plans the picture of any component: boxes in layers, each below all that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

import networkx as nx

from detc.compiler.draw.parts import Part, data_operands
from detc.compiler.draw.pyramid import level_of
from detc.compiler.graph import Graph, Value, flatten

_NUMBER = re.compile(r"\b\d+\b")

HEIGHT, GAP, LEVEL = 36.0, 22.0, 68.0


@dataclass(eq=False, slots=True)
class Box:
    """One box: the top of it is at (x, y), x being its middle. `opens` says that it is a component, not a single op."""

    name: str
    about: str = ""
    detail: str = ""
    opens: bool = False
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return 22 + max(6.4 * len(self.name), 5.2 * len(self.about), 30)

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
        name = str(graph.type_of(value)) if level is None else f"1/{2**level}"
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
            flow.add_edge(source, Part(text, text, frozenset()))
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
        box = boxes.setdefault((same, taken), Box(inner.name, opens=inner.call is not None))
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
            names = [p.name for p in alike]
            box.name = f"{names[0]} \u2026 {names[-1]}" if names[0].startswith("1/") else ", ".join(names)
    return merged


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
    """Places boxes: layer by longest way from the top, order and position by what they hang on.

    An arrow over several layers goes through a point in each of them, which is placed as a narrow box is.
    """
    rank = dict.fromkeys(flow, 0)
    for box in nx.topological_sort(flow):
        for user in flow.successors(box):
            rank[user] = max(rank[user], rank[box] + 1)
    for box in reversed(list(nx.topological_sort(flow))):
        if flow.in_degree(box) == 0 and flow.out_degree(box):
            rank[box] = min(rank[user] for user in flow.successors(box)) - 1
    rows: list[list[Box]] = [[] for _ in range(1 + max(rank.values(), default=0))]
    for box in nx.topological_sort(flow):
        rows[rank[box]].append(box)
    ties = nx.Graph()
    ties.add_nodes_from(flow)
    ways: list[list[Box]] = []
    for source, target in flow.edges:
        points = [Box("") for _ in range(rank[target] - rank[source] - 1)]
        for offset, point in enumerate(points, 1):
            rows[rank[source] + offset].append(point)
        ways.append([source, *points, target])
        ties.add_edges_from(pairwise(ways[-1]))
    _arrange(rows, ties)
    arrows = []
    for way in ways:
        line = [(way[0].x, way[0].y + HEIGHT)]
        for before, after in pairwise(way):
            start, end = before.y + HEIGHT, after.y - (2 if after is way[-1] else 0)
            bend = (start + end) / 2
            line += [(before.x, bend), (after.x, bend), (after.x, end)]
            if after is not way[-1]:
                line += [(after.x, end + HEIGHT / 3), (after.x, end + HEIGHT * 2 / 3), (after.x, end + HEIGHT)]
        arrows.append(line)
    return Layers([box for row in rows for box in row if box.name], arrows)


def _arrange(rows: list[list[Box]], ties: nx.Graph) -> None:
    """Gives the boxes of each row an order and positions near those that they are tied to in the rows beside it."""
    place = {box: float(index) for row in rows for index, box in enumerate(row)}
    depth = {box: index for index, row in enumerate(rows) for box in row}

    def middle(box: Box, step: int) -> float:
        near = [place[other] for other in ties[box] if depth[other] == depth[box] + step]
        return sum(near) / len(near) if near else place[box]

    for sweep in range(8):
        step = -1 if sweep % 2 == 0 else 1
        for row in rows if step < 0 else reversed(rows):
            row.sort(key=lambda box: middle(box, step))
            place.update({box: float(index) for index, box in enumerate(row)})
    for index, row in enumerate(rows):
        x = 0.0
        for box in row:
            box.y = index * LEVEL
            box.x = x + _room(box) / 2
            x += _room(box) + GAP
    for _ in range(12):
        for row in (*rows, *reversed(rows)):
            wanted = [sum(o.x for o in ties[box]) / len(ties[box]) if ties[box] else box.x for box in row]
            _settle(row, wanted)


def _room(box: Box) -> float:
    return box.width if box.name else 6.0


def _settle(row: list[Box], wanted: list[float]) -> None:
    """Moves a row's boxes as near to where they are wanted as order and widths allow; those that touch go as one."""
    groups: list[tuple[list[Box], float]] = []
    for box, x in zip(row, wanted, strict=True):
        group, start = [box], x - _room(box) / 2
        while groups and groups[-1][1] + _width(groups[-1][0]) + GAP > start:
            before, left = groups.pop()
            share = len(before) / (len(before) + len(group))
            start = share * left + (1 - share) * (start - _width(before) - GAP)
            group = before + group
        groups.append((group, start))
    for group, start in groups:
        x = start
        for box in group:
            box.x = x + _room(box) / 2
            x += _room(box) + GAP


def _width(group: Iterable[Box]) -> float:
    boxes = list(group)
    return sum(map(_room, boxes)) + GAP * (len(boxes) - 1)
