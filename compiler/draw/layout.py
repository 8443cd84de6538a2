"""Places boxes in layers: Gansner et al., A Technique for Drawing Directed Graphs, IEEE TSE 1993.

Layers and positions are both least weighted sums of distances under least distances: linear programs whose duals are
flows of minimal cost (section 2.3 and 4.2 of the paper), which networkx solves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import TypeVar

import networkx as nx

N = TypeVar("N", bound=Hashable)


@dataclass(eq=False, slots=True)
class Bend:
    """Where an arrow over several layers passes one of them."""


@dataclass(slots=True)
class Layout:
    """`rows` are the layers with what is in them, in order; `ways` what each edge passes, its ends among them;
    `place` the middle of each along its layer."""

    rows: list[list[Hashable]]
    ways: list[list[Hashable]] = field(default_factory=list)
    place: dict[Hashable, float] = field(default_factory=dict)


def in_layers(flow: nx.DiGraph, room: Mapping[Hashable, float], gap: float, narrow: float = 8.0) -> Layout:
    """Layers of an acyclic graph, each after all that it takes, with few crossings and straight long edges.

    `room` is how much of its layer each node fills; between neighbours is `gap`, and a bend fills `narrow`.
    """
    order = list(nx.lexicographical_topological_sort(flow, key={n: i for i, n in enumerate(flow)}.__getitem__))
    rank = nearest(order, [(tail, head, 1, 1) for tail, head in flow.edges])
    rows: list[list[Hashable]] = [[] for _ in range(1 + max(rank.values(), default=0))]
    for node in order:
        rows[rank[node]].append(node)
    ways: list[list[Hashable]] = []
    for source, target in flow.edges:
        bends: list[Hashable] = [Bend() for _ in range(rank[target] - rank[source] - 1)]
        for offset, bend in enumerate(bends, 1):
            rows[rank[source] + offset].append(bend)
        ways.append([source, *bends, target])
    above: dict[Hashable, list[Hashable]] = {node: [] for row in rows for node in row}
    below: dict[Hashable, list[Hashable]] = {node: [] for row in rows for node in row}
    for way in ways:
        for upper, lower in pairwise(way):
            above[lower].append(upper)
            below[upper].append(lower)
    rows = _uncrossed(rows, above, below)
    layout = Layout(rows, ways)
    layout.place = _places(layout, room, gap, narrow)
    return layout


def nearest(variables: Iterable[N], bounds: Iterable[tuple[N, N, int, int]]) -> dict[N, int]:
    """Whole numbers x, the least 0, of least sum of weight * (x[head] - x[tail]) with x[head] - x[tail] >= least.

    Each bound is (tail, head, weight, least); they form no cycle.
    """
    listed = list(bounds)
    network = nx.DiGraph()
    network.add_nodes_from(variables, demand=0)
    merged: dict[tuple[N, N], tuple[int, int]] = {}
    for tail, head, weight, least in listed:
        before = merged.get((tail, head), (0, least))
        merged[tail, head] = (before[0] + weight, max(before[1], least))
    for (tail, head), (weight, least) in merged.items():
        network.add_edge(tail, head, weight=-least)
        network.nodes[tail]["demand"] -= weight
        network.nodes[head]["demand"] += weight
    _, flow = nx.network_simplex(network)
    # Bounds that the flow goes over hold with equality. Shortest ways over what may not be exceeded solve all of them.
    slack = nx.DiGraph()
    slack.add_nodes_from(network)
    for (tail, head), (_, least) in merged.items():
        slack.add_edge(head, tail, weight=-least)
        if flow[tail][head] > 0:
            slack.add_edge(tail, head, weight=least)
    origin = object()
    slack.add_weighted_edges_from((origin, node, 0) for node in list(network))
    distance = nx.single_source_bellman_ford_path_length(slack, origin)
    least_of_all = min((distance[node] for node in network), default=0)
    return {node: distance[node] - least_of_all for node in network}


_Near = Mapping[Hashable, Sequence[Hashable]]


def _uncrossed(rows: list[list[Hashable]], above: _Near, below: _Near) -> list[list[Hashable]]:
    """Orders within the rows with few crossings: by the middle of what is tied to each, and then by exchanges."""
    rows = [list(row) for row in rows]
    best, least = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(12):
        if not least:
            break
        downwards = sweep % 2 == 0
        near = above if downwards else below
        for row in rows if downwards else reversed(rows):
            place = {node: index for others in rows for index, node in enumerate(others)}
            wanted = {n: (sum(place[o] for o in near[n]) / len(near[n]) if near[n] else place[n]) for n in row}
            row.sort(key=wanted.__getitem__)
        _exchange(rows, above, below)
        crossings = _crossings(rows, below)
        if crossings < least:
            best, least = [list(row) for row in rows], crossings
    return best


def _exchange(rows: list[list[Hashable]], above: _Near, below: _Near) -> None:
    """Exchanges neighbours in a row as long as that uncrosses edges."""
    place = {node: index for row in rows for index, node in enumerate(row)}

    def crossed(left: Hashable, right: Hashable) -> int:
        return sum(place[a] > place[b] for near in (above, below) for a in near[left] for b in near[right])

    for row in rows:
        moved = True
        while moved:
            moved = False
            for index, (left, right) in enumerate(pairwise(row)):
                if crossed(left, right) > crossed(right, left):
                    row[index : index + 2] = [right, left]
                    place[left], place[right] = index + 1, index
                    moved = True


def _crossings(rows: list[list[Hashable]], below: _Near) -> int:
    found = 0
    for row, following in pairwise(rows):
        place = {node: index for index, node in enumerate(following)}
        ends: list[int] = []
        for node in row:
            targets = sorted(place[target] for target in below[node])
            found += sum(end > target for target in targets for end in ends)
            ends += targets
    return found


def _places(layout: Layout, room: Mapping[Hashable, float], gap: float, narrow: float) -> dict[Hashable, float]:
    """Positions along the rows with the least weighted length of edges, where what bends weighs most.

    The distance of an edge's ends is that of both from a point at neither's right (section 4.2).
    """
    nodes = [node for row in layout.rows for node in row]
    bounds: list[tuple[Hashable, Hashable, int, int]] = []
    for row in layout.rows:
        for left, right in pairwise(row):
            apart = (room.get(left, narrow) + room.get(right, narrow)) / 2 + gap
            bounds.append((left, right, 0, round(apart)))
    points: list[Hashable] = []
    for way in layout.ways:
        for upper, lower in pairwise(way):
            weight = (1, 2, 8)[isinstance(upper, Bend) + isinstance(lower, Bend)]
            point = object()
            points.append(point)
            bounds += [(point, upper, weight, 0), (point, lower, weight, 0)]
    found = nearest([*nodes, *points], bounds)
    place = {node: float(found[node]) for node in nodes}
    _straighten(layout, place, room, gap, narrow)
    left = min(place.values(), default=0.0)
    return {node: place[node] - left for node in nodes}


def _straighten(
    layout: Layout, place: dict[Hashable, float], room: Mapping[Hashable, float], gap: float, narrow: float
) -> None:
    """Moves what can stand straight below or above a neighbour without making edges longer: one bend for several."""
    tied: dict[Hashable, list[Hashable]] = {node: [] for node in place}
    for way in layout.ways:
        for upper, lower in pairwise(way):
            tied[upper].append(lower)
            tied[lower].append(upper)

    def cost(node: Hashable, x: float) -> tuple[float, int]:
        apart = [abs(place[other] - x) for other in tied[node]]
        return sum(apart), sum(distance > 0 for distance in apart)

    for rows in (layout.rows, layout.rows[::-1]):
        for row in rows:
            for index, node in enumerate(row):
                lowest, highest = -inf, inf
                if index:
                    lowest = (
                        place[row[index - 1]] + (room.get(row[index - 1], narrow) + room.get(node, narrow)) / 2 + gap
                    )
                if index + 1 < len(row):
                    beside = row[index + 1]
                    highest = place[beside] - (room.get(beside, narrow) + room.get(node, narrow)) / 2 - gap
                candidates = [place[other] for other in tied[node] if lowest <= place[other] <= highest]
                place[node] = min([place[node], *candidates], key=lambda x, node=node: cost(node, x))  # type: ignore[misc]
