"""What differs between two graphs, as boxes: what is in both is taken together, and opened only where it differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx

from detc.compiler.draw.layers import ABOUT, NAME
from detc.compiler.draw.parts import Part, data_operands, whole
from detc.compiler.draw.text import width
from detc.compiler.graph import Graph, Node, Weight
from detc.compiler.provenance import shown

Status = Literal["same", "added", "removed", "changed"]

_NUMBER = re.compile(r"\b\d+\b")

# As many values that differ are told of one box.
_TOLD = 2


@dataclass(eq=False, slots=True)
class Item:
    """A component or a node of either graph, or of both. `nodes` are the names of all nodes inside, of either."""

    path: str
    name: str
    status: Status
    nodes: frozenset[str]
    module: bool
    about: str = ""
    parts: list[Item] = field(default_factory=list)

    @property
    def alike(self) -> tuple[str, ...]:
        """What boxes that are drawn as one have in common."""
        return _NUMBER.sub("#", self.path), self.name, self.status, self.about


@dataclass(eq=False, slots=True)
class ChangeBox:
    """What is drawn for some items alike: their component or op, where they are, and what became of them."""

    name: str
    path: str
    about: str
    status: Status
    alike: tuple[str, ...]
    count: int = 1

    @property
    def title(self) -> str:
        sign = {"same": "", "added": "+ ", "removed": "\u2212 ", "changed": "~ "}[self.status]
        return f"{sign}{self.name}" + (f" \u00d7 {self.count}" if self.count > 1 else "")

    @property
    def lines(self) -> list[str]:
        """The lines below its title."""
        each = " each" if self.count > 1 and self.status in {"added", "removed"} else ""
        return [line for line in (self.path, self.about and f"{self.about}{each}") if line]

    @property
    def width(self) -> float:
        bold = self.status != "same"
        return 22 + max(width(self.title, NAME, bold), *(width(line, ABOUT) for line in self.lines), 30)


def changes(a: Graph, b: Graph) -> nx.DiGraph:
    """The boxes of what is in either graph and which feeds which.

    An edge has the `status` of the flow of data that it stands for, added or removed. What is unchanged and has no
    weights is left out, and what is fed by way of others is not drawn twice.
    """
    items = list(_opened(_union(a, b, whole(a), whole(b))))
    flow = _flow(a, b, items)
    for item in [item for item in flow if item.status == "same" and not item.module]:
        for before, _, first in list(flow.in_edges(item, data="status")):
            for _, after, second in list(flow.out_edges(item, data="status")):
                status = next((status for status in (first, second) if status != "same"), "same")
                if not flow.has_edge(before, after):
                    flow.add_edge(before, after, status=status)
        flow.remove_node(item)
    return _chained(_merged(_reduced(flow)))


def _union(a: Graph, b: Graph, old: Part, new: Part) -> Item:
    """What two parts of the same component have, matched by label path and component; nodes by their names."""
    before, after = _keyed(old), _keyed(new)
    parts = []
    for key in dict.fromkeys([*after, *before]):
        was, now = before.get(key), after.get(key)
        if was is None:
            parts.append(_only(b, after[key], "added"))
        elif now is None:
            parts.append(_only(a, was, "removed"))
        elif was.node is not None and now.node is not None:
            told = _told(a, b, was.node, now.node)
            status: Status = "same" if told is None else "changed"
            parts.append(Item(now.path, now.name, status, was.nodes | now.nodes, _is_module(now), told or ""))
        else:
            parts.append(_union(a, b, was, now))
    status = "same" if all(part.status == "same" for part in parts) else "changed"
    item = Item(new.path, new.name, status, old.nodes | new.nodes, bool(_modules(parts)), "", parts)
    inside = _modules([item])
    if status == "changed" and new.call is not None and all(part.status == "changed" for part in inside):
        # All of it differs: to open it would tell no more.
        alike = {part.about for part in inside}
        item.about = _counts(a, b, old, new) or (alike.pop() if len(alike) == 1 else "")
        item.parts = []
    return item


def _keyed(part: Part) -> dict[tuple[str, str, int], Part]:
    counts: Counter[tuple[str, str]] = Counter()
    found = {}
    for inner in part:
        name = (inner.path, inner.name) if inner.node is None else (inner.node.name, inner.node.op)
        found[*name, counts[name]] = inner
        counts[name] += 1
    return found


def _only(graph: Graph, part: Part, status: Status) -> Item:
    keys = _keys(graph, part)
    about = f"{len(keys)} {'key' if len(keys) == 1 else 'keys'}" if keys else ""
    return Item(part.path, part.name, status, part.nodes, bool(keys), about)


def _keys(graph: Graph, part: Part) -> dict[str, Weight]:
    keys = (key for name in part.nodes for key in graph[name].weights.values())
    return {key: graph.weights[key] for key in sorted(keys)}


def _is_module(part: Part) -> bool:
    return part.call is not None or (part.node is not None and bool(part.node.weights))


def _modules(items: Iterable[Item]) -> list[Item]:
    """The innermost items with weights."""
    return [leaf for item in items for leaf in ([item] if not item.parts else _modules(item.parts)) if leaf.module]


def _told(a: Graph, b: Graph, old: Node, new: Node) -> str | None:
    """What differs between two nodes of one name, or None: attributes, or else weights."""
    told = [
        f"{name}: {shown(old.attrs.get(name))} \u2192 {shown(new.attrs.get(name))}"
        for name in dict.fromkeys([*old.attrs, *new.attrs])
        if old.attrs.get(name) != new.attrs.get(name)
    ]
    if not told:
        for name in dict.fromkeys([*old.weights, *new.weights]):
            was, now = (
                graph.weights[node.weights[name]] if name in node.weights else None
                for graph, node in ((a, old), (b, new))
            )
            if was != now:
                told.append(f"{name}: {_weight_told(was, now)}")
    return ", ".join([*told[:_TOLD], *(["\u2026"] if len(told) > _TOLD else [])]) if told else None


def _weight_told(old: Weight | None, new: Weight | None) -> str:
    shapes = [str(list(weight.shape)) if weight is not None else "none" for weight in (old, new)]
    if old is None or new is None or old.shape != new.shape:
        return " \u2192 ".join(shapes)
    if old.trainable != new.trainable:
        return "trained" if new.trainable else "frozen"
    return "initialised otherwise" if old.init != new.init else "tied otherwise"


def _counts(a: Graph, b: Graph, old: Part, new: Part) -> str:
    """How many keys of a component a checkpoint would lack, have in vain, or have in another shape."""
    before, after = _keys(a, old), _keys(b, new)
    reshaped = sum(before[key].shape != after[key].shape for key in before.keys() & after.keys())
    counts = {"new": len(after.keys() - before.keys()), "gone": len(before.keys() - after.keys()), "reshaped": reshaped}
    return ", ".join(f"{count} keys {what}" for what, count in counts.items() if count)


def _opened(item: Item) -> Iterable[Item]:
    for part in item.parts:
        if part.parts and part.status == "changed":
            yield from _opened(part)
        else:
            yield part


def _flow(a: Graph, b: Graph, items: list[Item]) -> nx.DiGraph:
    """Which items feed which, in either graph. What is there twice may be in a circle: its last edge is left out."""
    flow = nx.DiGraph()
    flow.add_nodes_from(items)
    edges: list[dict[tuple[Item, Item], None]] = []
    for graph, absent in ((b, "removed"), (a, "added")):
        makers = {name: item for item in items if item.status != absent for name in item.nodes if name in graph}
        found: dict[tuple[Item, Item], None] = {}
        for node in graph.nodes:
            for value in data_operands(node):
                source, target = makers.get(value.node), makers.get(node.name)
                if source is not None and target is not None and source is not target:
                    found[source, target] = None
        edges.append(found)
    after, before = edges
    for source, target in dict.fromkeys([*after, *before]):
        if not nx.has_path(flow, target, source):
            both = (source, target) in before and (source, target) in after
            status = "same" if both else "added" if (source, target) in after else "removed"
            flow.add_edge(source, target, status=status)
    return flow


def _reduced(flow: nx.DiGraph) -> nx.DiGraph:
    reduced = nx.transitive_reduction(flow)
    kept = nx.DiGraph()
    kept.add_nodes_from(flow)
    kept.add_edges_from((a, b, data) for a, b, data in flow.edges(data=True) if reduced.has_edge(a, b))
    return kept


def _merged(flow: nx.DiGraph) -> nx.DiGraph:
    """The same with one box for all items alike that are fed by the same."""
    order = {item: index for index, item in enumerate(flow)}
    boxes: dict[tuple[object, ...], ChangeBox] = {}
    of: dict[Item, ChangeBox] = {}
    merged = nx.DiGraph()
    for item in nx.lexicographical_topological_sort(flow, key=order.__getitem__):
        sources = [of[source] for source in flow.predecessors(item)]
        key = (item.alike, frozenset(sources))
        if key in boxes:
            boxes[key].count += 1
            boxes[key].path = _common(boxes[key].path, item.path)
        box = of[item] = boxes.setdefault(key, ChangeBox(item.name, item.path, item.about, item.status, item.alike))
        merged.add_node(box)
        for source, data in zip(sources, (flow.edges[s, item] for s in flow.predecessors(item)), strict=True):
            merged.add_edge(source, box, **data)
    return merged


def _chained(flow: nx.DiGraph) -> nx.DiGraph:
    """The same with a row of boxes alike, each fed by the one before alone, as its first."""
    for box in list(nx.topological_sort(flow)):
        before = list(flow.predecessors(box))
        if len(before) != 1 or before[0].alike != box.alike or flow.out_degree(before[0]) != 1:
            continue
        head = before[0]
        head.count += box.count
        head.path = _common(head.path, box.path)
        for _, user, data in list(flow.out_edges(box, data=True)):
            flow.add_edge(head, user, **data)
        flow.remove_node(box)
    return flow


def _common(one: str, other: str) -> str:
    """Two paths with numbers that differ as *."""
    labels = zip(one.split("."), other.split("."), strict=True)
    return ".".join(a if a == b else "*" for a, b in labels)
