"""What follows from the sizes alone, computed beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.emit.static import anchors
from detc.compiler.graph import Graph, Node, Value, Weight
from detc.compiler.passes.rewriting import rewritten

if TYPE_CHECKING:
    import numpy as np

    from detc.compiler.passes import Weights


@dataclass(frozen=True)
class FoldConstants:
    """Replaces anchors, filled tensors, and what is joined of them, by `constant`s for images of one size.

    A constant is a node without inputs, whose weight `value` it gives. So the features that anchors take their sizes
    from are not needed for that any more.
    """

    name: ClassVar[str] = "fold-constants"
    batch: int
    height: int
    width: int

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        found: dict[Value, np.ndarray] = {}
        nodes: list[Node] = []
        table, arrays = dict(graph.weights), dict(weights)
        for node in graph.nodes:
            value = self._value(graph, node, found)
            if value is None:
                nodes.append(node)
                continue
            found[Value(node.name)] = value
            key = f"{node.name}.value"
            table[key] = Weight(key, value.shape, str(value.dtype), trainable=False, buffer=True)
            arrays[key] = value
            attrs = {"dtype": str(value.dtype)}
            nodes.append(replace(node, op="constant", inputs=(), attrs=attrs, weights={"value": key}))
        if not found:
            return graph, weights
        result = rewritten(graph.replaced(weights=table), nodes)
        return result, {key: arrays[key] for key in result.weights}

    def _value(self, graph: Graph, node: Node, found: Mapping[Value, np.ndarray]) -> np.ndarray | None:
        """What a node gives, where that follows from the sizes."""
        import numpy as np

        sizes = (self.batch, self.height, self.width)
        match node.op:
            case "anchor_grid":
                height, width = graph.type_of(node.operands[0]).at(*sizes)[2:]
                return anchors(node.attrs, height, width)
            case "fill":
                return np.full(node.type.at(*sizes), node.attrs["value"], node.type.dtype)
            case "concat" if all(value in found for value in node.operands):
                axis = node.attrs["axis"]
                assert isinstance(axis, int)
                return np.concatenate([found[value] for value in node.operands], axis)
        return None
