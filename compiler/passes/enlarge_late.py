"""Work on a feature before it is made larger, not after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node, Value
from detc.compiler.passes.rewriting import rewritten, shown

if TYPE_CHECKING:
    from detc.compiler.passes import Weights

# What takes each cell by itself.
_BY_CELL = frozenset({"relu", "sigmoid", "scale", "BatchNorm2d"})


@dataclass(frozen=True)
class EnlargeLate:
    """Moves what is done to each cell alone from behind an enlargement to before it.

    A nearest enlargement repeats cells. ReLU, sigmoid, scale, normalisation by running statistics, a sum or product
    with one value a channel, and a 1x1 convolution of stride 1 give the same for all copies of a cell: they are
    computed once, and the result is repeated. Only where nothing else uses the enlarged feature. The same feature at
    its own size is often needed too (Feature Pyramid Grids), and then `common-subexpressions` finds what they share.
    """

    name: ClassVar[str] = "enlarge-late"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        moved = True
        while moved:
            graph, moved = _moved(graph)
        return graph, weights


def _moved(graph: Graph) -> tuple[Graph, bool]:
    """The graph with every enlargement one step later, where it can be; and whether there was one."""
    views = shown(graph)
    instead: dict[str, tuple[Node, ...]] = {}
    for node in graph.nodes:
        port = _enlarged(graph, node)
        if port is None:
            continue
        name, value = node.inputs[port]
        assert isinstance(value, Value)
        large = graph[value.node]
        if value in views or graph.users(large.name) != [node] or large.name in instead:
            continue
        source = large.operands[0]
        inputs = (*node.inputs[:port], (name, source), *node.inputs[port + 1 :])
        small = graph.type_of(source)
        channels = node.type.shape[1]
        before = replace(small, shape=(small.shape[0], channels, *small.shape[2:]))
        # The enlargement takes the name of what it now gives.
        work = replace(node, name=f"{node.name}.small", inputs=inputs, types=(before,))
        enlarged = ((large.inputs[0][0], Value(work.name)), *large.inputs[1:])
        after = replace(large, name=node.name, types=node.types, inputs=enlarged, origins=node.origins)
        instead |= {large.name: (), node.name: (work, after)}
    if not instead:
        return graph, False
    return rewritten(graph, (new for node in graph.nodes for new in instead.get(node.name, (node,)))), True


def _enlarged(graph: Graph, node: Node) -> int | None:
    """Which of a node's inputs is an enlarged feature that it takes cell by cell."""
    by_cell = node.op in _BY_CELL or (
        node.op == "Conv2d" and node.attrs["kernel"] == node.attrs["stride"] == 1 and node.attrs["padding"] == 0
    )
    candidates = [0] if by_cell else []
    if node.op in {"add", "mul"}:
        shapes = [graph.type_of(value).shape for value in node.operands]
        candidates = [port for port in (0, 1) if len(shapes[0]) == 4 and shapes[1 - port][2:] == (1, 1)]
    for port in candidates:
        value = node.inputs[port][1]
        if isinstance(value, Value) and value.node in graph and _enlarges(graph, graph[value.node]):
            return port
    return None


def _enlarges(graph: Graph, node: Node) -> bool:
    """Whether a node repeats the cells of its first input."""
    if node.op == "upsample":
        return True
    source, result = graph.type_of(node.operands[0]).stride if node.operands else None, node.type.stride
    return node.op == "resize" and source is not None and result is not None and source > result
