"""Nodes that give what they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node, Value
from detc.compiler.passes.rewriting import rewritten

if TYPE_CHECKING:
    from detc.compiler.passes import Weights

# These do nothing where the sizes of what they give are those of what they take, at any size of the image.
_RESIZING = frozenset({"resize", "upsample", "crop"})


@dataclass(frozen=True)
class RemoveIdentities:
    """Removes what does nothing at inference: `detach`, a change of size to the same size, a `concat` of one, a `scale`
    by 1, a pooling of single cells, `fields` that are all there are, and the ReLU of a ReLU."""

    name: ClassVar[str] = "remove-identities"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        same: dict[Value, Value] = {}
        kept: list[Node] = []
        for node in graph.nodes:
            if _does_nothing(graph, node):
                source = node.operands[0]
                same[Value(node.name)] = same.get(source, source)
            else:
                kept.append(node)
        if not same:
            return graph, weights
        return rewritten(graph, kept, same), weights


def _does_nothing(graph: Graph, node: Node) -> bool:
    attrs = node.attrs
    match node.op:
        case "detach":
            return True
        case "concat":
            return len(node.operands) == 1
        case "scale":
            return attrs["factor"] == 1
        case "max_pool":
            return attrs["kernel"] == attrs["stride"] == 1
        case "fields":
            return node.type.shape == graph.type_of(node.operands[0]).shape
        case "relu":
            source = node.operands[0].node
            return source in graph and graph[source].op == "relu"
    return node.op in _RESIZING and node.type.shape == graph.type_of(node.operands[0]).shape
