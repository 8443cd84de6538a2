"""Which values of a predict view may be stored with fewer digits than single precision."""

from __future__ import annotations

from typing import Literal

import numpy as np

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


def rounded(array: np.ndarray, precision: Precision) -> np.ndarray:
    """An array float32 as it is stored: float32, float16, or, of bfloat16, which numpy lacks, its bits as uint16."""
    if precision == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        # To the nearest, and of two to the one whose last bit is 0.
        halves: np.ndarray = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        halves[np.isnan(array)] = 0x7FFF
        return halves
    return array.astype(precision)
