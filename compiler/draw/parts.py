"""What a drawing is made of: the applications of components, nested, each with the nodes inside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import networkx as nx

from detc.compiler.analyse import owner
from detc.compiler.graph import Call, Graph, Node, Value
from detc.dsl.source import Span

_APPLIED = re.compile(r"[A-Za-z_]\w*(?=\()")

# Ports that give a size and no data: they are no arrows of a drawing.
SIZE_PORTS = frozenset({"like"})


@dataclass(eq=False, slots=True)
class Part:
    """One application of a component with the names of all nodes inside, or, with `node`, that node alone.

    `parts` are what it is made of, in the graph's order. `path` is its label path. An application that has no label,
    and of which the graph has no call, has its `span` instead.
    """

    path: str
    name: str
    nodes: frozenset[str]
    call: Call | None = None
    node: Node | None = None
    span: Span | None = None
    parts: list[Part] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Its path's last label that is a word: `across_skip` of `neck.fpn_transitions.0.across_skip`."""
        return next((label for label in reversed(self.path.split(".")) if not label.isdigit()), "")

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)


def data_operands(node: Node) -> Iterable[Value]:
    """The operands of a node that are data."""
    for port, values in node.inputs:
        if port not in SIZE_PORTS:
            yield from (values,) if isinstance(values, Value) else values


def whole(graph: Graph) -> Part:
    """The graph as one part, with its components inside."""
    root = Part("", graph.name, frozenset(node.name for node in graph.nodes))
    calls = [Part(c.path, c.component, inside, c) for c, inside in _claims(graph) if inside]
    # Outermost first: what encloses a part is the last larger one before it that holds all its nodes.
    calls.sort(key=lambda part: -len(part.nodes))
    placed = [root]
    for part in calls:
        home = next(other for other in reversed(placed) if part.nodes < other.nodes or other is root)
        home.parts.append(part)
        placed.append(part)
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    for part in placed:
        held = {name for inner in part for name in inner.nodes}
        part.parts += [
            Part(owner(graph[name]), graph[name].op, frozenset({name}), node=graph[name])
            for name in order
            if name in part.nodes and name not in held
        ]
        part.parts.sort(key=lambda inner: min(order[name] for name in inner.nodes))
    root.parts = _unlabelled(graph, root.parts)
    return root


def _unlabelled(graph: Graph, parts: list[Part]) -> list[Part]:
    """The parts of a whole detector, with nodes that one application without a label made taken together.

    Such is what turns the maps of a proposal network into proposals. Its place is known from the nodes' origins: the
    last is the detector, the one before it what stands in the model.
    """
    groups: dict[Span, list[Part]] = {}
    for part in parts:
        if part.node is not None and len(part.node.origins) > 2:
            groups.setdefault(part.node.origins[-2], []).append(part)
    taken: dict[Part, Part] = {}
    for span, inside in groups.items():
        name = _APPLIED.match(span.text)
        nodes = frozenset(node for part in inside for node in part.nodes)
        if name is not None and len(inside) > 1 and _closed(graph, nodes):
            taken.update(dict.fromkeys(inside, Part("", name[0], nodes, span=span, parts=inside)))
    return list(dict.fromkeys(taken.get(part, part) for part in parts))


def _closed(graph: Graph, nodes: frozenset[str]) -> bool:
    """Whether nothing leads out of some nodes and back, so that they may stand as one."""
    after = {name for node in nodes for name in graph.nx.successors(node)} - nodes
    before = {name for node in nodes for name in graph.nx.predecessors(node)} - nodes
    reached = after.union(*(nx.descendants(graph.nx, name) for name in after))
    return reached.isdisjoint(before | nodes)


def find(root: Part, path: str) -> Part | None:
    """The first application at a label path."""
    if root.path == path and (root.call is not None or not path):
        return root
    return next((found for part in root if part.call is not None and (found := find(part, path))), None)


def sources(graph: Graph, part: Part) -> list[Value]:
    """What a part takes from outside as data, each value once."""
    operands = (v for name in sorted(part.nodes) for v in data_operands(graph[name]) if v.node not in part.nodes)
    return list(dict.fromkeys(operands))


def _claims(graph: Graph) -> list[tuple[Call, frozenset[str]]]:
    """Every application with its nodes.

    Those are the nodes at or below its path that its outputs depend on without leaving it, and, of what no outputs
    depend on (a head's losses and its decoding), what stands at its path or in an application below it.
    """
    claims = [(call, _behind(graph, call)) for call in graph.calls]
    first = {call.path: inside for call, inside in reversed(claims)}
    for call, inside in claims:
        labels = call.path.split(".")
        for path in (".".join(labels[:depth]) for depth in range(len(labels) - 1, 0, -1)):
            if path in first and not any(inside <= other for around, other in claims if around.path == path):
                first[path] |= inside
    claimed = {name for _, inside in claims for name in inside}
    for node in graph.nodes:
        if node.name not in claimed:
            labels = node.scope.split(".")
            for depth in range(len(labels)):
                first.get(".".join(labels[: depth + 1]), set()).add(node.name)
    return [(call, frozenset(inside)) for call, inside in claims]


def _behind(graph: Graph, call: Call) -> set[str]:
    """The nodes at or below an application's path that its outputs depend on without leaving it."""

    def inside(name: str) -> bool:
        if name not in graph:
            return False
        node = graph[name]
        return any(place == call.path or place.startswith(f"{call.path}.") for place in (node.scope, owner(node)))

    found: set[str] = set()
    stack = [value.node for _, value in call.outputs]
    while stack:
        name = stack.pop()
        if name not in found and inside(name):
            found.add(name)
            stack.extend(graph.nx.predecessors(name))
    return found
