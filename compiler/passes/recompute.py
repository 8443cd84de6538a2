"""Which tensors the backward pass of a training step computes again rather than keeps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import networkx

from detc.compiler.graph import Graph, Node
from detc.compiler.memory import NOTHING, Burst, Memory, Recomputed, Step, results
from detc.compiler.rules import reads, rule_of

# Capacities are whole numbers, with which flows are exact: of bytes in this unit, of operations at a price of 1 to it.
_UNIT = 1 << 20
# Halvings of the range in which the price is looked for, by its logarithm.
_STEPS = 10
# Dearer prices that are tried as well, each so many times the one before: less is computed again, and less at once.
_DEARER, _TIMES = 2, 4
# After so many cuts of bursts in a row that lower no peak, there will be none that does.
_PATIENCE = 3
_SOURCE, _SINK = "source", "sink"


@dataclass(frozen=True)
class Recompute:
    """Chooses what a training step computes again so that it needs little memory.

    For that it may spend at most `budget` of the forward pass's operations. The choice is made by the costs that the
    graph has for `batch` images of `height` x `width` pixels. Bytes and operations grow alike with both, so it serves
    other sizes too.

    It is in two parts. With a price in bytes for every operation, what to keep at the least cost is a minimum cut (see
    `_cheapest`), and the price is the least that stays within the budget. But what is computed again at once, for the
    first tensor of a chain that is needed, may be most of the network, which is then in memory as a whole. So the
    largest such burst is cut in two by keeping tensors in its middle, the rest is chosen anew, and so on while that
    lowers the step's peak.
    """

    name: ClassVar[str] = "recompute"
    budget: float = 0.15
    height: int = 640
    width: int = 640
    batch: int = 1

    def run(self, graph: Graph) -> Recomputed:
        """What the backward pass of the graph's train view is to compute again."""
        divisor = graph.size_divisor
        height, width = (-(-size // divisor) * divisor for size in (self.height, self.width))
        memory = Memory(graph.view("train"), self.batch, height, width)
        allowed = self.budget * sum(map(memory.flops, memory.order))
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if memory.flops_again(_cheapest(memory, _price(middle))) <= allowed:
                low = middle
            else:
                high = middle
        best, least = NOTHING, memory.step_peak()
        for price in (_price(low) * _TIMES**i for i in range(_DEARER + 1)):
            found, peak = _in_parts(memory, price)
            if peak < least and memory.flops_again(found) <= allowed:
                best, least = found, peak
        return best


def _price(place: float) -> int:
    """From 1 byte an operation, at 0, down to a millionth of that, at 1."""
    return max(1, round(2 ** (20 * (1 - place))))


def _in_parts(memory: Memory, price: int) -> tuple[Recomputed, int]:
    """What to compute again, in bursts that suit the peak of a step, and that peak."""
    kept: frozenset[str] = frozenset()
    found = _cheapest(memory, price)
    step = Step(memory, found)
    best, least, tries = found, step.peak, 0
    while step.bursts and tries < _PATIENCE:
        more = kept | _middle(memory, max(step.bursts, key=lambda burst: burst.bytes))
        if more == kept:
            break
        kept = more
        found = _cheapest(memory, price, kept)
        step = Step(memory, found)
        tries += 1
        if step.peak < least:
            best, least, tries = found, step.peak, 0
    return best, least


def _middle(memory: Memory, burst: Burst) -> frozenset[str]:
    """The nodes whose results, kept, cut a burst in two: where it holds the least, not too near its ends."""
    nodes = [memory.graph[name] for name in burst.nodes]
    last = {memory.base(value).node: step for step, node in enumerate(nodes) for value in reads(node)}

    def size(node: Node) -> int:
        return sum(memory.bytes(value) for value in results(node) if memory.base(value) == value)

    total, done = sum(map(size, nodes)), 0
    alive: dict[str, int] = {}
    least, middle = total, frozenset[str]()
    for step, node in enumerate(nodes):
        done += size(node)
        alive[node.name] = size(node)
        alive = {name: size for name, size in alive.items() if size and last.get(name, step) > step}
        if total <= 4 * done <= 3 * total and sum(alive.values()) < least:
            least, middle = sum(alive.values()), frozenset(alive)
    return middle


def _cheapest(memory: Memory, price: int, kept: Iterable[str] = ()) -> Recomputed:
    """What to compute again such that bytes kept and operations, at `price` each, cost the least together.

    A minimum cut: every tensor stands for an edge, of the capacity of its bytes, between its node and itself, and
    cutting it is keeping it. From the source an edge with the price of computing it leads to every node, and from every
    operand an endless one: to compute a node again, its operands must be there. What the backward pass needs is tied to
    the sink. What a node keeps of its own is a tensor of a second node, of the same price and operands. On the source's
    side is then what is kept or never needed, on the sink's what is computed again: never results of the nodes `kept`.
    """
    network = networkx.DiGraph()
    kept = frozenset(kept)

    def computing(vertex: Hashable, node: Node, allowed: bool) -> None:
        if allowed:
            network.add_edge(_SOURCE, vertex, capacity=memory.flops(node) * price)
        else:
            network.add_edge(_SOURCE, vertex)
        for value in reads(node):
            if value.node in memory.graph:  # and is no input, which is there anyway
                network.add_edge(value, vertex)

    for node in memory.order:
        again = rule_of(node).again
        computing(node.name, node, again and node.name not in kept)
        for value in results(node):
            if memory.base(value) == value:
                network.add_edge(node.name, value, capacity=memory.bytes(value) * _UNIT)
            else:  # one that shares another's memory is there with that
                network.add_edge(node.name, value)
        own = memory.inside(node)
        if own:
            computing((node.name, "again"), node, again)
            network.add_edge((node.name, "again"), (node.name, "own"), capacity=own * _UNIT)
            network.add_edge((node.name, "own"), _SINK)
        for value in memory.keeps(node):
            if value.node in memory.graph:
                network.add_edge(value, _SINK)
    if _SINK not in network:
        return NOTHING
    _, (_, again) = networkx.minimum_cut(network, _SOURCE, _SINK, flow_func=networkx.algorithms.flow.boykov_kolmogorov)
    values = {value for node in memory.order if node.name in again for value in results(node) if value in again}
    # A view of a tensor that is kept is kept with it.
    values = {value for value in values if memory.base(value) == value or memory.base(value) in values}
    inside = frozenset(node.name for node in memory.order if (node.name, "again") in again)
    needed, _ = memory.demands(Recomputed(frozenset(values), inside))
    return Recomputed(frozenset(needed), inside)
