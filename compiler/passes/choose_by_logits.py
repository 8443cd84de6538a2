"""Choosing among scores before the sigmoid that makes scores of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from detc.compiler.graph import Graph, Value
from detc.compiler.passes.rewriting import rewritten, shown

if TYPE_CHECKING:
    from detc.compiler.passes import Weights


@dataclass(frozen=True)
class ChooseByLogits:
    """Lets `select_top` choose among logits, and apply the sigmoid to the few that it chooses.

    A sigmoid never falls, so that the best logits have the best scores; the threshold is compared with the scores of
    those chosen, as before. Logits that differ may have one score, by rounding or, above 17, because it is 1: their
    order, which is left open among scores, is that of the logits then.

    A softmax stays: what its sum divides by differs from row to row, so logits of different rows have no order.
    """

    name: ClassVar[str] = "choose-by-logits"

    def run(self, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
        views = shown(graph)
        nodes = {node.name: node for node in graph.nodes}
        for node in graph.nodes:
            users = graph.users(node.name)
            if node.op == "sigmoid" and Value(node.name) not in views and {user.op for user in users} == {"select_top"}:
                for user in users:
                    ports = ((user.inputs[0][0], node.operands[0]),)
                    nodes[user.name] = replace(user, inputs=ports, attrs={**user.attrs, "logits": True})
        return rewritten(graph, nodes.values()), weights
