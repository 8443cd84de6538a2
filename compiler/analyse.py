"""What a graph costs, from the graph alone: parameters, arithmetic, and the memory of activations.

Two counts of arithmetic are kept apart. `macs` are the multiply-adds of convolutions and fully connected layers: what
the papers' tables call "FLOPs". `flops` are floating-point operations in the plain sense: two for every multiply-add,
and those of all other ops as `RULES` has them (a comparison or a transcendental function counts as one).

What PyTorch's autograd keeps for the backward pass is counted in two ways, as one may with a hook on saved tensors
(`torch.autograd.graph.saved_tensors_hooks`): every distinct storage once, and every call of the hook with the size of
its tensor, which counts a tensor for every operation that keeps it. Parameters and buffers, which a hook is handed as
well, are counted apart. All is for single precision. See `memory` for what counts as an activation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from detc.compiler.graph import Graph, Node, Value
from detc.compiler.memory import NOTHING, TRUTH, Memory, Recomputed, results
from detc.compiler.rules import BYTES, RULES, reads, rule_of

__all__ = ["RULES", "TRUTH", "Component", "Cost", "Recomputation", "Summary", "costs", "owner", "summarise"]


@dataclass(slots=True)
class Component:
    """What a component, with everything inside it, costs.

    `name` is what was applied at `path`, empty where the path only groups, and `calls` how many times. Weights count
    once, arithmetic and activations every time. `activation_bytes` is the sum of all tensors made.
    """

    path: str
    name: str = ""
    calls: int = 0
    parameters: int = 0
    trainable: int = 0
    macs: int = 0
    flops: int = 0
    activation_bytes: int = 0
    saved_bytes: int = 0
    packed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What computing tensors again in the backward pass, rather than keeping them, saves and costs.

    `nodes` are computed again, at `flops` more operations, the part `flops_share` of the forward pass. The other
    figures are those of the plain step, to compare with.
    """

    nodes: int
    flops: int
    flops_share: float
    plain_saved_bytes: int
    plain_packed_bytes: int
    plain_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The costs of one view of a detector, for a batch of images of one size.

    `total` is the whole view; `components` are its parts down to the depth asked for, each before its own parts.
    `weight_bytes` are those of parameters and buffers. `peak_bytes` is the largest sum of the bytes of all activations
    alive at a time: of the train view in a step, forward and backward, with their gradients, of others in inference.

    Of the train view, `total.saved_bytes` are those of the distinct storages of activations that autograd keeps, and
    `total.packed_bytes` those of the activations in all calls of a hook on saved tensors. `saved_weight_bytes` and
    `packed_weight_bytes` are the same of parameters and buffers. `positives` is how many regions of an image were
    taken to have a class, where that matters. `recomputation` is there where some activations are recomputed.

    `uncounted` says how often ops occur that `RULES` lacks: a project's own, whose arithmetic and saved tensors are
    missing from the sums.
    """

    name: str
    view: str
    batch: int
    height: int
    width: int
    size_divisor: int
    total: Component
    components: tuple[Component, ...]
    weight_bytes: int
    peak_bytes: int
    saved_weight_bytes: int = 0
    packed_weight_bytes: int = 0
    positives: int | None = None
    recomputation: Recomputation | None = None
    uncounted: Mapping[str, int] = field(default_factory=dict)


def summarise(
    graph: Graph,
    view: str,
    height: int,
    width: int,
    batch: int = 1,
    depth: int = 2,
    recomputed: Recomputed = NOTHING,
    positives: int | None = None,
) -> Summary:
    """The costs of `view` for `batch` images of `height` x `width` pixels, by components `depth` labels deep.

    The image is padded to the next multiple of the graph's size divisor first, as it is at run time. The train view is
    counted for `TRUTH` objects in every image, and for `positives` regions with a class, of those a second stage is
    trained on: the most that there can be, if not given. `recomputed` is what its backward pass computes again.
    """
    divisor = graph.size_divisor
    height, width = (-(-size // divisor) * divisor for size in (height, width))
    part = graph.view(view)
    total = Component("", graph.name, 1)
    components: dict[str, Component] = {}

    def rows(path: str) -> list[Component]:
        return [total, *(components.setdefault(prefix, Component(prefix)) for prefix in _prefixes(path, depth))]

    for node in part.nodes:
        path = owner(node)
        rows(path)
        if node.weights and path in components:
            components[path].name = node.op
            components[path].calls += 1
    for call in part.calls:
        if call.path in components:
            components[call.path].name = call.component
            components[call.path].calls += 1

    weight_bytes = 0
    for weight in part.weights.values():
        if weight.tied is not None:
            continue
        size = prod(weight.shape)
        weight_bytes += size * BYTES[weight.dtype]
        if not weight.buffer:
            for row in rows(weight.key.rpartition(".")[0]):
                row.parameters += size
                row.trainable += size if weight.trainable else 0

    memory = Memory(part, batch, height, width, positives)
    weights = [kept for node in part.nodes for kept in memory.weights(node)]
    for node, cost in zip(part.nodes, _costs(memory, recomputed), strict=True):
        for row in rows(owner(node)):
            row.macs += cost.macs
            row.flops += cost.flops
            row.activation_bytes += cost.activation_bytes
            row.saved_bytes += cost.saved_bytes
            row.packed_bytes += cost.packed_bytes
    uncounted = Counter(node.op for node in part.nodes if node.op not in RULES)
    return Summary(
        name=graph.name,
        view=view,
        batch=batch,
        height=height,
        width=width,
        size_divisor=divisor,
        total=total,
        components=tuple(_in_tree_order(components)),
        weight_bytes=weight_bytes,
        peak_bytes=memory.step_peak(recomputed) if view == "train" else memory.peak(),
        saved_weight_bytes=sum(dict(weights).values()),
        packed_weight_bytes=sum(size for _, size in weights),
        positives=memory.most_positives(),
        recomputation=None if recomputed == NOTHING else _recomputation(memory, recomputed),
        uncounted=uncounted,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node costs; see Component."""

    macs: int
    flops: int
    activation_bytes: int
    saved_bytes: int
    packed_bytes: int


def costs(graph: Graph, height: int, width: int, batch: int = 1) -> dict[str, Cost]:
    """What each node costs, by name, for images of that size, which is a multiple of the graph's divisor."""
    memory = Memory(graph, batch, height, width)
    return {node.name: cost for node, cost in zip(graph.nodes, _costs(memory, NOTHING), strict=True)}


def _costs(memory: Memory, recomputed: Recomputed) -> Iterable[Cost]:
    """What each node costs, in order: a tensor that several nodes keep counts for the first.

    What is kept to compute something again counts for the node that does.
    """
    again, sources = memory.demands(recomputed)
    known: set[Value] = set()
    packed_sources: set[Value] = set()
    for node in memory.order:
        made = 0 if rule_of(node).view else sum(map(memory.bytes, results(node)))
        anew = node.name in recomputed.inside
        kept = [] if anew else [value for value in memory.keeps(node) if value not in again]
        packed = sum(map(memory.bytes, kept))
        if anew or any(value in again for value in results(node)):
            held = {value for value in reads(node) if value in sources} - packed_sources
            packed += sum(map(memory.bytes, held))
            packed_sources |= held
            kept += held
        distinct = {memory.base(value) for value in kept} - known
        known |= distinct
        saved = sum(map(memory.bytes, distinct))
        if not anew:
            saved += memory.inside(node)
            packed += memory.inside(node) + memory.repeats(node)
        yield Cost(memory.macs(node), memory.flops(node), made, saved, packed)


def _recomputation(memory: Memory, recomputed: Recomputed) -> Recomputation:
    again, _ = memory.demands(recomputed)
    plain = list(_costs(memory, NOTHING))
    flops = memory.flops_again(recomputed)
    return Recomputation(
        nodes=len({value.node for value in again} | recomputed.inside),
        flops=flops,
        flops_share=flops / sum(cost.flops for cost in plain),
        plain_saved_bytes=sum(cost.saved_bytes for cost in plain),
        plain_packed_bytes=sum(cost.packed_bytes for cost in plain),
        plain_peak_bytes=memory.step_peak(),
    )


def owner(node: Node) -> str:
    """The label path that a node counts for: its module's, or that of the component it stands in."""
    return next(iter(node.weights.values())).rpartition(".")[0] if node.weights else node.scope


def _prefixes(path: str, depth: int) -> list[str]:
    """The first `depth` paths on the way from the root to `path`."""
    labels = path.split(".") if path else []
    return [".".join(labels[: n + 1]) for n in range(min(depth, len(labels)))]


def _in_tree_order(components: Mapping[str, Component]) -> Iterable[Component]:
    """Every component before its parts, siblings in the order in which they came."""
    parts: dict[str, list[str]] = {}
    for path in components:
        parts.setdefault(path.rpartition(".")[0], []).append(path)

    def below(path: str) -> Iterable[Component]:
        for part in parts.get(path, ()):
            yield components[part]
            yield from below(part)

    return below("")
