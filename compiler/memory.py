"""What the backward pass of a graph keeps in memory, and what it would if some of that were computed again instead.

Memory is that of activations, without weights, their gradients, optimizer state and the workspace inside a kernel. In
inference a tensor lives from the op that makes it to the last op that uses it, in the graph's order. In training it
lives, beyond that, until the backward pass of the last op for which autograd keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

from detc.compiler.dims import Dim, Size, evaluate
from detc.compiler.graph import Graph, Node, Value, flatten
from detc.compiler.rules import BYTES, Shape, Sized, reads, rule_of

# How many objects an image of the train view is taken to have.
TRUTH = 20


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the backward pass computes again rather than keeps.

    `values` are results of nodes: whoever needs one in the backward pass has it computed from its node's operands,
    which are kept, or computed again themselves. `inside` names nodes that compute all of what they keep of their own
    (the intermediate results of a loss, say) again from their operands.
    """

    values: frozenset[Value] = frozenset()
    inside: frozenset[str] = frozenset()


NOTHING = Recomputed()


class Backward:
    """Which tensors of a graph the backward pass reaches and keeps."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = list(graph.nodes)
        self._bases: dict[Value, Value] = {}
        self._reached: set[str] = set()
        for node in self.order:
            if rule_of(node).view:
                self._bases[Value(node.name)] = self.base(node.operands[0])
            trained = any(
                graph.weights[key].trainable and not graph.weights[key].buffer for key in node.weights.values()
            )
            if trained or (any(map(self.needs_gradient, reads(node))) and not rule_of(node).stops):
                self._reached.add(node.name)

    def needs_gradient(self, value: Value) -> bool:
        """Whether the backward pass reaches a value: something trained is behind it, and it is not a whole number."""
        return value.node in self._reached and self.graph.type_of(value).dtype.startswith(("float", "bfloat"))

    def reaches(self, node: Node) -> bool:
        """Whether the backward pass runs through a node."""
        return any(self.needs_gradient(value) for value in results(node))

    def base(self, value: Value) -> Value:
        """The value whose memory this one shares: itself, mostly."""
        return self._bases.get(value, value)

    def keeps(self, node: Node) -> tuple[Value, ...]:
        """The graph's tensors that autograd keeps for a node, each as often as it is handed it."""
        return tuple(rule_of(node).saves(node, self.needs_gradient)) if self.reaches(node) else ()

    def demands(self, recomputed: Recomputed) -> tuple[set[Value], set[Value]]:
        """What is computed again because something needs it, and what is kept to compute that from."""
        again: set[Value] = set()
        sources: set[Value] = set()
        wanted: list[Value] = []
        for node in self.order:
            wanted += (value for value in self.keeps(node) if value in recomputed.values)
            if node.name in recomputed.inside:
                wanted += reads(node)
        while wanted:
            value = wanted.pop()
            if value not in recomputed.values:
                sources.add(value)
            elif value not in again:
                again.add(value)
                wanted += reads(self.graph[value.node])
        return again, sources


class Memory(Backward):
    """The tensors of a graph at one batch and image size: what they weigh, beside who keeps them.

    How many regions of an image have a class, of those that a second stage is trained on, is known only when the graph
    runs: the most that there can be, if `positives` does not say.
    """

    def __init__(self, graph: Graph, batch: int, height: int, width: int, positives: int | None = None) -> None:
        super().__init__(graph)
        self.size = (batch, height, width, TRUTH)
        self.positives = positives
        drawn = (node.types[1].shape[1] for node in self.order if node.op == "sample_rows")
        self.uncertain = frozenset() if positives is None else frozenset(drawn)
        self.shape = cache(self._shape)
        self.bytes = cache(self._bytes)
        self.sized = cache(self._sized)

    def most_positives(self) -> int | None:
        """The regions of an image that are taken to have a class, where something is computed of those alone."""
        used = {value for node in self.order for value in node.operands}
        drawn = [Value(node.name, 1) for node in self.order if node.op == "sample_rows"]
        return max((self.shape(value)[1] for value in drawn if value in used), default=None)

    def _shape(self, value: Value) -> Shape:
        return tuple(evaluate(self._certain(dim), *self.size) for dim in self.graph.type_of(value).shape)

    def _certain(self, dim: Size) -> Size:
        """A dimension with the number of positives in it, where that is given."""
        if isinstance(dim, int) or not self.uncertain:
            return dim
        if dim in self.uncertain:
            assert self.positives is not None
            return min(self.positives, evaluate(dim, *self.size))
        return Dim(dim.operator, tuple(part if isinstance(part, str) else self._certain(part) for part in dim.operands))

    def _bytes(self, value: Value) -> int:
        return prod(self.shape(value)) * BYTES[self.graph.type_of(value).dtype]

    def _sized(self, name: str) -> Sized:
        node = self.graph[name]
        operands = {port: tuple(map(self.shape, flatten(values))) for port, values in node.inputs}
        return Sized(node, operands, tuple(map(self.shape, results(node))))

    def macs(self, node: Node) -> int:
        return rule_of(node).macs(self.sized(node.name))

    def flops(self, node: Node) -> int:
        return 2 * self.macs(node) + rule_of(node).other(self.sized(node.name))

    def inside(self, node: Node) -> int:
        """The bytes that autograd keeps for a node beside tensors of the graph."""
        return rule_of(node).extra(self.sized(node.name)) if self.reaches(node) else 0

    def repeats(self, node: Node) -> int:
        """The bytes of these that it is handed twice."""
        return rule_of(node).repeats(self.sized(node.name)) if self.reaches(node) else 0

    def weights(self, node: Node) -> Iterator[tuple[str, int]]:
        """Key and bytes of every weight that autograd keeps for a node."""
        if self.reaches(node):
            for name in rule_of(node).weights:
                key = node.weights[name]
                weight = self.graph.weights[key]
                yield weight.tied or key, prod(weight.shape) * BYTES[weight.dtype]

    def flops_again(self, recomputed: Recomputed) -> int:
        """The operations of computing everything again once."""
        again, _ = self.demands(recomputed)
        nodes = [*{value.node for value in again}, *recomputed.inside]
        return sum(self.flops(self.graph[name]) for name in nodes)

    # ---- peaks -------------------------------------------------------------------------------------------------------

    def _last_uses(self) -> dict[int, list[Value]]:
        """The tensors that no node uses after a step."""
        last: dict[Value, int] = {}
        for step, node in enumerate(self.order):
            for value in (*node.operands, *results(node)):
                last[self.base(value)] = step
        ends: dict[int, list[Value]] = {}
        for value, step in last.items():
            ends.setdefault(step, []).append(value)
        return ends

    def _lasting(self) -> set[Value]:
        """What lives to the end: the inputs and the results."""
        kept = {Value(name) for name in self.graph.inputs}
        for outputs in self.graph.views.values():
            kept |= {self.base(value) for values in outputs.values() for value in flatten(values)}
        return kept

    def _forward(self, kept: set[Value], inside: dict[str, int]) -> tuple[int, int]:
        """The most bytes alive at a time in a forward pass that keeps these, and those alive after it."""
        kept = kept | self._lasting()
        ends = self._last_uses()
        alive = peak = sum(self.bytes(Value(name)) for name in self.graph.inputs)
        for step, node in enumerate(self.order):
            alive += sum(self.bytes(value) for value in results(node) if self.base(value) == value)
            alive += inside.get(node.name, 0)
            peak = max(peak, alive)
            alive -= sum(self.bytes(value) for value in ends.get(step, ()) if value not in kept)
        return peak, alive

    def peak(self) -> int:
        """The most bytes alive at a time in inference, inputs and results included."""
        return self._forward(set(), {})[0]

    def step_peak(self, recomputed: Recomputed = NOTHING) -> int:
        """The most bytes alive at a time in a training step, forward and backward, inputs and losses included.

        The backward pass runs through the nodes in reverse. It holds the gradient of a tensor from the last user of the
        tensor to its maker, and what it computes again from the first need to the last.
        """
        return Step(self, recomputed).peak


def results(node: Node) -> list[Value]:
    """The values that a node makes."""
    return [Value(node.name, output) for output in range(len(node.types))]


@dataclass(frozen=True, slots=True)
class Burst:
    """Nodes that are computed again at once, for the first of them that is needed; the bytes alive that this adds."""

    nodes: tuple[str, ...]
    bytes: int


class Step:
    """A training step, simulated: the most bytes alive at a time, and what is computed again at once.

    `holders` counts who still needs a tensor: autograd's nodes, and what is yet to be computed from it.
    """

    def __init__(self, memory: Memory, recomputed: Recomputed) -> None:
        self.memory = memory
        self.recomputed = recomputed
        self.again, sources = memory.demands(recomputed)
        self.holders: Counter[Value] = Counter()
        self.computed: set[Value] = set()
        self.gradients: set[Value] = set()
        self.bursts: list[Burst] = []
        self.places = {node.name: place for place, node in enumerate(memory.order)}
        kept = {memory.base(value) for value in sources}
        inside = {}
        for node in memory.order:
            for value in memory.keeps(node):
                self._hold(value)
                if value not in self.again:
                    kept.add(memory.base(value))
            if node.name in recomputed.inside:
                self._hold(*reads(node))
            else:
                inside[node.name] = memory.inside(node)
        for name in {value.node for value in self.again}:
            self._hold(*reads(memory.graph[name]))
        self.peak, self.alive = memory._forward(kept, inside)
        self.lasting = memory._lasting()
        for node in reversed(memory.order):
            if memory.reaches(node):
                self._backward(node)

    def _key(self, value: Value) -> Value:
        return value if value in self.again else self.memory.base(value)

    def _hold(self, *values: Value) -> None:
        self.holders.update(map(self._key, values))

    def _release(self, values: Iterable[Value]) -> None:
        for value in map(self._key, values):
            self.holders[value] -= 1
            if not self.holders[value] and value not in self.lasting and self.memory.base(value) == value:
                self.alive -= self.memory.bytes(value)

    def _compute(self, value: Value) -> None:
        """Computes a value again, and before it what it needs and is not there, in the order of the forward pass."""
        before = self.alive
        names: set[str] = set()
        stack = [value]
        while stack:
            missing = stack.pop()
            if missing in self.again and missing not in self.computed and missing.node not in names:
                names.add(missing.node)
                stack += reads(self.memory.graph[missing.node])
        nodes = sorted(names, key=self.places.__getitem__)
        for name in nodes:
            node = self.memory.graph[name]
            for made in results(node):
                self.computed.add(made)
                if self.memory.base(made) == made and self.holders[made]:
                    self.alive += self.memory.bytes(made)
            self.peak = max(self.peak, self.alive)
            self._release(reads(node))
        self.bursts.append(Burst(tuple(nodes), self.alive - before))

    def _backward(self, node: Node) -> None:
        memory = self.memory
        inside = memory.inside(node)
        if node.name in self.recomputed.inside:
            operands = list(reads(node))
            for value in operands:
                if value in self.again and value not in self.computed:
                    self._compute(value)
            self.alive += inside
            self._release(operands)
        for value in memory.keeps(node):
            if value in self.again and value not in self.computed:
                self._compute(value)
        for value in dict.fromkeys(node.operands):
            if memory.needs_gradient(value) and value not in self.gradients:
                self.gradients.add(value)
                self.alive += memory.bytes(value)
        self.peak = max(self.peak, self.alive)
        self._release(memory.keeps(node))
        self.alive -= inside + sum(memory.bytes(value) for value in results(node) if value in self.gradients)
