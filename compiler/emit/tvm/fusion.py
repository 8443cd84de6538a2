"""Which nodes a convolution takes with it: what follows it and nothing else looks at.

A bias, a sum with another feature and a rectifier are applied to results while they are still in registers. Where the
other feature is one that was only made larger for that sum (a pyramid's top-down path), it is read as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detc.compiler.graph import Graph, Node, Value, flatten
from detc.compiler.rules import reads

_LARGER = frozenset({"resize", "upsample"})


@dataclass(frozen=True)
class Chain:
    """A convolution, the other operand of the sum that follows it, and whether a rectifier ends the chain.

    `last` is the node whose value the chain gives; `inner` names the others, whose values nothing outside reads.
    """

    conv: Node
    residual: Value | None
    relu: bool
    last: Node
    inner: frozenset[str]


def chains(graph: Graph) -> dict[str, Chain]:
    """The chains of a predict view by the names of their last nodes, convolutions with nothing to take included."""
    readers = _readers(graph)
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    found: dict[str, Chain] = {}
    taken: set[str] = set()
    # From the last: of two convolutions that are added, the later one takes the sum.
    for conv in reversed([node for node in graph.nodes if node.op == "Conv2d"]):
        nodes = [conv]
        residual, relu = None, False
        reader = _only(readers, conv)
        if reader is not None and reader.op == "add" and reader.name not in taken:
            (other,) = (value for value in reader.operands if value.node != conv.name)
            if graph.type_of(other).shape == reader.type.shape:
                nodes.append(reader)
                residual = other
                if other.node in graph and graph[other.node].op in _LARGER:
                    enlarged = graph[other.node]
                    if _only(readers, enlarged) is reader:
                        nodes.append(enlarged)
                        residual = enlarged.operands[0]
                reader = _only(readers, reader)
        if reader is not None and reader.op == "relu":
            relu = True
            nodes.append(reader)
        taken |= {node.name for node in nodes}
        last = max(nodes, key=lambda node: place[node.name])
        found[last.name] = Chain(conv, residual, relu, last, frozenset(n.name for n in nodes if n is not last))
    return found


def _readers(graph: Graph) -> dict[str, list[Node | None]]:
    """The nodes that read each node's value, once for each time, with None for the world outside."""
    readers: dict[str, list[Node | None]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for value in reads(node):
            readers.setdefault(value.node, []).append(node)
    for values in graph.views["predict"].values():
        for value in flatten(values):
            readers.setdefault(value.node, []).append(None)
    return readers


def _only(readers: Mapping[str, list[Node | None]], node: Node) -> Node | None:
    """The node that reads another's value, where it is the only one and reads it once."""
    (reader, *others) = readers[node.name] or (None,)
    return None if others else reader
