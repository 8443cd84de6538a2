"""Weight standardisation, done once to the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node

if TYPE_CHECKING:
    import numpy as np

    from detc.compiler.passes import Weights

# What is added to a deviation that is divided by.
_EPSILON = 1e-5


@dataclass(frozen=True)
class FoldStandardization:
    """Gives convolutions with standardised weights (Qiao et al., 2019) the standardised weights as their own.

    A weight that another node uses as it is, too, keeps its key there, and has a second one here.
    """

    name: ClassVar[str] = "fold-standardization"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        folded = [node for node in graph.nodes if node.attrs.get("standardize")]
        if not folded:
            return graph, weights
        plain = {key for node in graph.nodes if node not in folded for key in node.weights.values()}
        # What was one tensor under two names need not stay one: it may be standardised under one of them alone.
        table = {key: replace(weight, tied=None) for key, weight in graph.weights.items()}
        arrays = dict(weights)
        nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
        for node in folded:
            own = node.weights["weight"]
            key = own.removesuffix("weight") + "standardized.weight" if own in plain else own
            table[key] = replace(table[own], key=key)
            arrays[key] = standardized(weights[own])
            attrs = {**node.attrs, "standardize": False}
            nodes[node.name] = replace(node, attrs=attrs, weights={**node.weights, "weight": key})
        used = {key for node in nodes.values() for key in node.weights.values()}
        result = graph.replaced(nodes=nodes, weights={key: table[key] for key in table if key in used})
        return result, {key: arrays[key] for key in result.weights}


def standardized(kernel: np.ndarray) -> np.ndarray:
    """A kernel (O, I, KH, KW) less its mean and over its deviation, for each of O."""
    import numpy as np

    rows = kernel.reshape(len(kernel), -1).astype(np.float64)
    rows = (rows - rows.mean(axis=1, keepdims=True)) / (rows.std(axis=1, ddof=1, keepdims=True) + _EPSILON)
    result: np.ndarray = rows.reshape(kernel.shape).astype(np.float32)
    return result
