"""What several passes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from detc.compiler.graph import Graph, Node, Value, Values, flatten


def rewritten(graph: Graph, nodes: Iterable[Node], same: Mapping[Value, Value] | None = None) -> Graph:
    """The graph with other nodes, each after what it uses, and what its views then reach of them.

    A value that `same` maps to another is taken from there by all who use it.
    """
    same = same or {}

    def renamed(values: Values) -> Values:
        return same.get(values, values) if isinstance(values, Value) else tuple(same.get(v, v) for v in values)

    own = {n.name: replace(n, inputs=tuple((port, renamed(values)) for port, values in n.inputs)) for n in nodes}
    views = {view: {name: renamed(values) for name, values in outputs.items()} for view, outputs in graph.views.items()}
    there = own.keys() | graph.inputs.keys()
    calls = tuple(replace(c, outputs=tuple(o for o in c.outputs if o[1].node in there)) for c in graph.calls)
    return graph.replaced(nodes=own, views=views, calls=calls).view(*graph.views)


def shown(graph: Graph) -> set[Value]:
    """What the views give."""
    return {value for outputs in graph.views.values() for values in outputs.values() for value in flatten(values)}
