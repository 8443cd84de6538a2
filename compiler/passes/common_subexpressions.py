"""What is computed twice, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node, Value, flatten
from detc.compiler.passes.rewriting import rewritten

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


@dataclass(frozen=True)
class CommonSubexpressions:
    """Keeps the first of several nodes that apply one op with the same attributes and weights to the same values.

    Weights that are tied are the same. No op of a predict view is left to chance.
    """

    name: ClassVar[str] = "common-subexpressions"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        first: dict[object, str] = {}
        same: dict[Value, Value] = {}
        kept: list[Node] = []
        for node in graph.nodes:
            inputs = tuple((port, tuple(same.get(v, v) for v in flatten(values))) for port, values in node.inputs)
            tensors = tuple(sorted((name, graph.weights[key].tied or key) for name, key in node.weights.items()))
            attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
            other = first.setdefault((node.op, inputs, attrs, tensors), node.name)
            if other == node.name:
                kept.append(node)
            else:
                same |= {Value(node.name, index): Value(other, index) for index in range(len(node.types))}
        if not same:
            return graph, weights
        result = rewritten(graph, kept, same)
        return result, {key: weights[key] for key in result.weights}
