"""Which values of a predict view may be stored with fewer digits than single precision."""

from __future__ import annotations

from typing import Literal

from detc.compiler.graph import Graph, Value, flatten
from detc.compiler.rules import reads

# How values are stored. Sums over channels, pixels and rows are always kept in float32.
Precision = Literal["float32", "float16", "bfloat16"]

# What computes from rounded values, and gives values that are as good rounded: the layers of networks, and what moves
# or combines their results. All else (box arithmetic, the functions that scores come from, choices) is not here: what
# it reads and gives stays float32.
_LAYERS = frozenset(
    {
        "BatchNorm2d",
        "Conv2d",
        "ConvTranspose2d",
        "GroupNorm",
        "Linear",
        "add",
        "concat",
        "crop",
        "detach",
        "flatten",
        "global_avg_pool",
        "global_max_pool",
        "max_pool",
        "mul",
        "relu",
        "resize",
        "roi_align",
        "scale",
        "upsample",
    }
)


def low_values(graph: Graph) -> frozenset[Value]:
    """The results of layers that only layers read."""
    low = {Value(node.name) for node in graph.nodes if node.op in _LAYERS and node.type.dtype == "float32"}
    low -= {value for values in graph.views["predict"].values() for value in flatten(values)}
    return frozenset(low.difference(*(reads(node) for node in graph.nodes if node.op not in _LAYERS)))
