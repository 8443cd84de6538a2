"""Poolings of one feature by several sizes, each from the one before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Node, Value
from detc.compiler.passes.rewriting import rewritten

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


@dataclass(frozen=True)
class PoolChains:
    """Takes the largest of windows of 4 x 4 cells, say, from the largest of their quarters, where those are there.

    NAS-FPN pools a level by two, four and eight for the levels above. Windows that do not overlap, without padding:
    those of one size are made of whole ones of the other, and what is dropped at the border is the same.
    """

    name: ClassVar[str] = "pool-chains"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        nodes: list[Node] = []
        chained = False
        done: set[str] = set()
        for node in graph.nodes:
            if node.name in done:
                continue
            if not _is_plain(node):
                nodes.append(node)
                continue
            (source,) = node.operands
            pools = sorted(
                (user for user in graph.users(source.node) if _is_plain(user) and user.operands == (source,)), key=_size
            )
            for index, pool in enumerate(pools):
                parts = [part for part in pools[:index] if _size(pool) % _size(part) == 0 and _size(part) < _size(pool)]
                if parts:
                    ports = ((pool.inputs[0][0], Value(parts[-1].name)),)
                    size = _size(pool) // _size(parts[-1])
                    nodes.append(replace(pool, inputs=ports, attrs={**pool.attrs, "kernel": size, "stride": size}))
                    chained = True
                else:
                    nodes.append(pool)
            done |= {pool.name for pool in pools}
        return (rewritten(graph, nodes), weights) if chained else (graph, weights)


def _is_plain(node: Node) -> bool:
    """Whether a node's windows lie side by side."""
    a = node.attrs
    return node.op == "max_pool" and a["kernel"] == a["stride"] and a["padding"] == 0 and isinstance(a["kernel"], int)


def _size(node: Node) -> int:
    size = node.attrs["kernel"]
    assert isinstance(size, int)
    return size
