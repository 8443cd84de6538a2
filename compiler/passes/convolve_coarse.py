"""A 3x3 convolution of a feature at twice its size, done at its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.dims import add
from detc.compiler.graph import Graph, Node, Value, Weight
from detc.compiler.passes.rewriting import rewritten, shown

if TYPE_CHECKING:
    import numpy as np

    from detc.compiler.passes import Weights

# What a convolution must be like.
_ATTRIBUTES = {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1}


@dataclass(frozen=True)
class ConvolveCoarse:
    """Replaces `upsample(2)` and the 3x3 convolution after it by a 2x2 convolution and `interleave`.

    Of the nine cells under the kernel, several are copies of one: each of the four places within a doubled cell sees
    2 x 2 different cells, with weights that are sums of the nine. One convolution, padded by 1, gives the four places'
    results as channels, of which `interleave` makes a feature of twice the size. That is 4 / 9 of the operations, with
    16 / 9 of the weights. Feature Pyramid Grids have such a convolution in almost every node (AcrossDown). Only where
    nothing else uses the enlarged feature.
    """

    name: ClassVar[str] = "convolve-coarse"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        views = shown(graph)
        table, arrays = dict(graph.weights), dict(weights)
        nodes: dict[str, Node] = {}
        for node in graph.nodes:
            large = graph[node.operands[0].node] if node.operands and node.operands[0].node in graph else None
            if (
                large is None
                or not _matches(node, large)
                or Value(large.name) in views
                or graph.users(large.name) != [node]
            ):
                nodes[node.name] = node
                continue
            prefix = node.weights["weight"].removesuffix("weight") + "coarse."
            keys = {name: prefix + name for name in node.weights}
            for name, key in keys.items():
                array = weights[node.weights[name]]
                arrays[key] = _by_place(array) if name == "weight" else _four_times(array)
                table[key] = Weight(key, arrays[key].shape)
            source = large.operands[0]
            kind = graph.type_of(source)
            channels = 4 * node.type.channels
            sizes = (add(kind.height, 1), add(kind.width, 1))
            conv = replace(
                node,
                name=f"{node.name}.coarse",
                inputs=((node.inputs[0][0], source),),
                attrs={**node.attrs, "channels": channels, "kernel": 2},
                weights=keys,
                types=(replace(kind, shape=(kind.shape[0], channels, *sizes)),),
            )
            nodes[conv.name] = conv
            ports = (("x", Value(conv.name)),)
            nodes[node.name] = replace(node, op="interleave", inputs=ports, attrs={}, weights={})
        if len(nodes) == len(graph):
            return graph, weights
        result = rewritten(graph.replaced(weights=table), nodes.values())
        return result, {key: arrays[key] for key in result.weights}


def _matches(node: Node, large: Node) -> bool:
    """Whether a node is such a convolution, of a feature twice its size."""
    doubled = large.op == "upsample" and large.attrs["scale"] == 2 and large.attrs["mode"] == "nearest"
    plain = node.op == "Conv2d" and not node.attrs.get("standardize")
    return doubled and plain and all(node.attrs[name] == value for name, value in _ATTRIBUTES.items())


def _by_place(kernel: np.ndarray) -> np.ndarray:
    """A kernel (O, I, 3, 3) as (4 * O, I, 2, 2): for each place in a doubled cell, row by row, the sums that it
    sees."""
    import numpy as np

    # Of three rows under the kernel, the upper place of a cell has one in the cell above; the lower, one in that below.
    seen = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float64)
    places = np.einsum("arp,bsq,oipq->aboirs", seen, seen, kernel.astype(np.float64))
    result: np.ndarray = places.reshape(-1, kernel.shape[1], 2, 2).astype(np.float32)
    return result


def _four_times(bias: np.ndarray) -> np.ndarray:
    """A bias (O,) for all four places."""
    import numpy as np

    return np.tile(bias, 4)
