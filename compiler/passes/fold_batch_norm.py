"""Batch normalisation after a convolution, folded into the convolution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node, Weight, flatten

if TYPE_CHECKING:
    import numpy as np

    from detc.compiler.passes import Weights

# A convolution with the batch norm that follows it, by their weights' keys: nodes alike in this share a folded weight.
Identity = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], float]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Scales the weights of a convolution by the batch norm after it, and adds a bias.

    Only where nothing else uses the convolution's output. Where one weight serves several convolutions with different
    batch norms after them (a head shared by the levels with norms of their own), each gets its own copy, under a new
    key. A folded node keeps the batch norm's name, so that whatever refers to its value still does.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        pairs = _foldable(graph)
        if not pairs:
            return graph, weights
        folded_away = {conv.name for conv, _ in pairs.values()}
        keys_of = _new_keys(graph, pairs)
        nodes: dict[str, Node] = {}
        table = dict(graph.weights)
        arrays = dict(weights)
        for node in graph.nodes:
            if node.name in folded_away:
                continue
            if node.name not in pairs:
                nodes[node.name] = node
                continue
            conv, norm = pairs[node.name]
            weight_key, bias_key = keys_of[_identity(conv, norm)]
            kernel, bias = _fold(conv, norm, weights)
            for key, array in ((weight_key, kernel), (bias_key, bias)):
                table[key] = Weight(key, array.shape)
                arrays[key] = array
            nodes[node.name] = replace(
                conv,
                name=norm.name,
                attrs={**conv.attrs, "bias": True},
                weights={"weight": weight_key, "bias": bias_key},
                types=norm.types,
                origins=conv.origins + norm.origins,
            )
        used = {key for node in nodes.values() for key in node.weights.values()}
        calls = tuple(
            replace(call, outputs=tuple(o for o in call.outputs if o[1].node not in folded_away))
            for call in graph.calls
        )
        result = graph.replaced(
            nodes=nodes,
            weights={key: weight for key, weight in table.items() if key in used},
            calls=tuple(call for call in calls if call.outputs),
        )
        return result, {key: arrays[key] for key in result.weights}


def _foldable(graph: Graph) -> dict[str, tuple[Node, Node]]:
    """Name of a batch norm -> (the convolution that it can be folded into, itself)."""
    shown = {v.node for outputs in graph.views.values() for values in outputs.values() for v in flatten(values)}
    pairs: dict[str, tuple[Node, Node]] = {}
    for norm in graph.nodes:
        if norm.op != "BatchNorm2d":
            continue
        source = norm.operands[0].node
        if source not in graph or source in shown:
            continue
        conv = graph[source]
        if conv.op == "Conv2d" and not conv.attrs.get("standardize") and graph.users(source) == [norm]:
            pairs[norm.name] = (conv, norm)
    return pairs


def _identity(conv: Node, norm: Node) -> Identity:
    eps = norm.attrs["eps"]
    assert isinstance(eps, float)
    return tuple(sorted(conv.weights.items())), tuple(sorted(norm.weights.items())), eps


def _new_keys(graph: Graph, pairs: Mapping[str, tuple[Node, Node]]) -> dict[Identity, tuple[str, str]]:
    """The keys of each folded weight and bias: the convolution's own, where all its uses fold alike."""
    uses: dict[str, set[Identity | None]] = defaultdict(set)
    folded = {conv.name: _identity(conv, norm) for conv, norm in pairs.values()}
    for node in graph.nodes:
        for key in node.weights.values():
            uses[key].add(folded.get(node.name))
    keys: dict[Identity, tuple[str, str]] = {}
    for conv, norm in pairs.values():
        own = conv.weights["weight"]
        prefix = own.removesuffix("weight")
        if all(len(uses[key]) == 1 for key in conv.weights.values()):
            keys[_identity(conv, norm)] = (own, conv.weights.get("bias", f"{prefix}bias"))
        else:
            prefix += f"folded.{norm.weights['weight'].removesuffix('weight')}"
            keys[_identity(conv, norm)] = (f"{prefix}weight", f"{prefix}bias")
    return keys


def affine(norm: Node, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """What a batch norm does at inference: the scale and the shift of each channel, (C,) each, in double precision."""
    import numpy as np

    def array(name: str) -> np.ndarray:
        return weights[norm.weights[name]].astype(np.float64)

    eps = norm.attrs["eps"]
    assert isinstance(eps, float)
    scale = array("weight") / np.sqrt(array("running_var") + eps)
    return scale, array("bias") - array("running_mean") * scale


def _fold(conv: Node, norm: Node, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (O, I, KH, KW) and bias (O,) of the convolution that does both."""
    import numpy as np

    scale, shift = affine(norm, weights)
    kernel = weights[conv.weights["weight"]].astype(np.float64) * scale[:, None, None, None]
    if "bias" in conv.weights:
        shift = shift + weights[conv.weights["bias"]].astype(np.float64) * scale
    return kernel.astype(np.float32), shift.astype(np.float32)
