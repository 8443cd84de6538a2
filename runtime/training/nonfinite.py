"""Where a forward pass leaves the finite numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from detc.compiler.graph import Graph, Node
from detc.runtime.kernels.joint import alone


class _Found(Exception):
    """The first node with a value that is not finite."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node


class _Watching(fx.Interpreter):
    """Runs a module node by node, and stops at the first whose result takes gradients and is not finite.

    Results that take none are left out: they may be infinite on purpose, as the scores of what does not count.
    """

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if "node" in n.meta:
            for tensor in _tensors(result):
                if tensor.requires_grad and not torch.isfinite(tensor).all():
                    raise _Found(n)
        return result


def first_non_finite(module: fx.GraphModule, graph: Graph, inputs: Mapping[str, Tensor]) -> Node | str | None:
    """The first node of a train module whose result is not finite, or the key of a weight that is not finite already.

    None where this pass through the module is finite. Call it under the autocast settings, and with the random state,
    of the pass that was not. It does not wait for other processes.
    """
    for key, tensor in module.named_parameters():
        if not torch.isfinite(tensor).all():
            return key
    buffers = {key: buffer.clone() for key, buffer in module.named_buffers()}
    watching = _Watching(module)
    watching.garbage_collect_values = True
    arguments = [inputs[n.name] for n in module.graph.nodes if n.op == "placeholder"]
    try:
        with alone(), torch.enable_grad():
            watching.run(*arguments)
    except _Found as found:
        return graph[found.node.meta["node"]]
    finally:
        for key, buffer in module.named_buffers():
            buffer.copy_(buffers[key])
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
