"""Is a graph whole? Run after elaboration and around every pass; a fault here is a bug in detc, not a user's."""

from __future__ import annotations

from detc.compiler.graph import Graph, Value, flatten


class GraphError(Exception):
    """A graph breaks a rule of its own."""


def verify(graph: Graph) -> Graph:
    """The graph itself, after checking that every value exists before it is used, that weights and their ties exist,
    and that nodes which share weights agree on them.

    Raises:
        GraphError: naming the first node that breaks a rule.
    """
    outputs = dict.fromkeys(graph.inputs, 1)
    owners: dict[str, tuple[str, object]] = {}
    for node in graph.nodes:
        for value in node.operands:
            _exists(value, outputs, f"{node.name} uses")
        if not node.types:
            raise GraphError(f"{node.name} has no output")
        for name, key in node.weights.items():
            if key not in graph.weights:
                raise GraphError(f"{node.name} uses the weight {key}, which does not exist")
            owner = owners.setdefault(key, (node.op, name))
            if owner != (node.op, name):
                raise GraphError(
                    f"{key} is the {name} of {node.op} in {node.name}, and {owner[1]} of {owner[0]} elsewhere"
                )
        outputs[node.name] = len(node.types)
    for key, weight in graph.weights.items():
        if weight.key != key:
            raise GraphError(f"the weight {weight.key} is filed under {key}")
        if weight.tied is not None:
            other = graph.weights.get(weight.tied)
            if other is None or other.shape != weight.shape or other.tied is not None:
                raise GraphError(f"{key} is tied to {weight.tied}, which is missing, tied itself or of another shape")
    for view, results in graph.views.items():
        for name, values in results.items():
            for value in flatten(values):
                _exists(value, outputs, f"the {view} view's {name} is")
    for call in graph.calls:
        for _, value in call.outputs:
            _exists(value, outputs, f"{call.path} returns")
    return graph


def _exists(value: Value, outputs: dict[str, int], what: str) -> None:
    if not 0 <= value.output < outputs.get(value.node, 0):
        raise GraphError(f"{what} {value}, which does not exist there")
