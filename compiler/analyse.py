"""What a graph costs, from the graph alone: parameters, arithmetic, and the memory of activations.

Two counts of arithmetic are kept apart. `macs` are the multiply-adds of convolutions: what the papers' tables call
"FLOPs". `flops` are floating-point operations in the plain sense: two for every multiply-add, and those of all other
ops as `RULES` has them (a comparison or a transcendental function counts as one).

Memory is that of activations, without weights, gradients, optimizer state and the workspace inside a kernel. In
inference a tensor lives from the op that makes it to the last op that uses it, in the graph's order; `peak_bytes` is
the largest sum of those alive at a time, the image and the results included. For training, `saved_bytes` is what
PyTorch's autograd keeps for the backward pass, each tensor once however many ops keep it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from detc.compiler.graph import Graph, Node, Value, flatten

Shape = tuple[int, ...]

# How many objects an image of the train view is taken to have.
TRUTH = 20

_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, slots=True)
class Sized:
    """A node with the shapes that its operands and outputs have for one batch and image size."""

    node: Node
    operands: Mapping[str, tuple[Shape, ...]]
    outputs: tuple[Shape, ...]

    def attr(self, name: str) -> int:
        value = self.node.attrs[name]
        assert isinstance(value, int)
        return value

    def elements(self, port: str) -> int:
        """How many elements the tensors given to a port have."""
        return sum(map(prod, self.operands[port]))

    @property
    def made(self) -> int:
        """How many elements the first output has."""
        return prod(self.outputs[0])


Count = Callable[[Sized], int]
Needs = Callable[[Value], bool]


def _nothing(_: Sized) -> int:
    return 0


def _per_output(operations: int) -> Count:
    return lambda sized: operations * sized.made


def _per_input(port: str, operations: int) -> Count:
    return lambda sized: operations * sized.elements(port)


def _conv_macs(sized: Sized) -> int:
    channels = sized.operands["x"][0][1] // sized.attr("groups")
    return sized.made * channels * sized.attr("kernel") ** 2


def _conv_bias(sized: Sized) -> int:
    return sized.made if "bias" in sized.node.weights else 0


def _interpolation(sized: Sized) -> int:
    return 0 if sized.node.attrs["mode"] == "nearest" else 7 * sized.made


def _overlaps(rows: str, columns: str) -> Count:
    """Every box of one port against every box of the other: intersection, union, quotient."""

    def count(sized: Sized) -> int:
        batch, objects, _ = sized.operands[columns][0]
        return 14 * batch * objects * sized.operands[rows][0][-2]

    return count


def _suppression(sized: Sized) -> int:
    batch, candidates, _ = sized.operands["boxes"][0]
    return 14 * batch * candidates * sized.attr("keep")


def _masked(bytes_each: int) -> Count:
    """Bytes for every number of a prediction, and one for every row."""
    return lambda sized: bytes_each * sized.elements("prediction") + sized.elements("labels")


def _operands(*ports: str) -> Callable[[Node, Needs], Iterable[Value]]:
    """Keeps the tensors given to these ports."""
    return lambda node, _: [value for port, values in node.inputs if port in ports for value in flatten(values)]


def _result(node: Node, _: Needs) -> Iterable[Value]:
    return [Value(node.name)]


def _none(_: Node, __: Needs) -> Iterable[Value]:
    return ()


def _factors(node: Node, needs: Needs) -> Iterable[Value]:
    """Each factor is kept for the gradient of the other."""
    x, y = node.operands
    return [kept for kept, other in ((x, y), (y, x)) if needs(other)]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one op costs.

    `macs` and `other` count its arithmetic: multiply-adds, and operations beside them. `saves` says which tensors of
    the graph autograd keeps for it, `extra` how many bytes of its own it keeps. `view` marks an op whose result shares
    its operand's memory.
    """

    macs: Count = _nothing
    other: Count = _nothing
    saves: Callable[[Node, Needs], Iterable[Value]] = _none
    extra: Count = _nothing
    view: bool = False


RULES: dict[str, Rule] = {
    "Conv2d": Rule(macs=_conv_macs, other=_conv_bias, saves=_operands("x")),
    "BatchNorm2d": Rule(
        other=_per_output(2),
        saves=_operands("x"),
        # Mean and inverse deviation of every channel, where they are those of the batch.
        extra=lambda sized: 0 if sized.node.attrs["fixed"] else 2 * 4 * sized.outputs[0][1],
    ),
    "relu": Rule(other=_per_output(1), saves=_result),
    "sigmoid": Rule(other=_per_output(4), saves=_result),
    "add": Rule(other=_per_output(1)),
    "mul": Rule(other=_per_output(1), saves=_factors),
    "max_pool": Rule(
        other=lambda sized: sized.made * sized.attr("kernel") ** 2,
        saves=_operands("x"),
        extra=_per_output(_BYTES["int64"]),
    ),
    "global_avg_pool": Rule(other=_per_input("x", 1)),
    "global_max_pool": Rule(other=_per_input("x", 1), saves=_operands("x")),
    "resize": Rule(other=_interpolation),
    "upsample": Rule(other=_interpolation),
    "crop": Rule(view=True),
    "split": Rule(view=True),
    "concat": Rule(),
    "per_anchor": Rule(),
    "gather_rows": Rule(),
    "anchor_grid": Rule(other=_per_output(1)),
    "assign_max_iou": Rule(other=_overlaps("anchors", "truth_boxes")),
    "encode_delta": Rule(other=_per_output(6)),
    "decode_delta": Rule(other=_per_output(8)),
    # Five tensors of the logits' size and a mask.
    "focal_loss": Rule(other=_per_input("logits", 20), extra=_per_input("logits", 5 * 4 + 1)),
    # The difference, and a mask of the rows that count.
    "l1_loss": Rule(other=_per_input("prediction", 3), extra=_masked(4)),
    "smooth_l1_loss": Rule(
        other=_per_input("prediction", 5), saves=_operands("prediction", "target"), extra=_masked(0)
    ),
    "select_top": Rule(other=_per_input("x", 1)),
    "nms": Rule(other=_suppression),
}


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


@dataclass(frozen=True, slots=True)
class Summary:
    """The costs of one view of a detector, for a batch of images of one size.

    `total` is the whole view; `components` are its parts down to the depth asked for, each before its own parts.
    `weight_bytes` are those of parameters and buffers. `peak_bytes` is of inference; for a view that is trained,
    `total.saved_bytes` is what the backward pass needs. `uncounted` says how often ops occur that `RULES` lacks: a
    project's own, whose arithmetic and saved tensors are missing from the sums.
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
    uncounted: Mapping[str, int] = field(default_factory=dict)


def summarise(graph: Graph, view: str, height: int, width: int, batch: int = 1, depth: int = 2) -> Summary:
    """The costs of `view` for `batch` images of `height` x `width` pixels, by components `depth` labels deep.

    The image is padded to the next multiple of the graph's size divisor first, as it is at run time. The train view is
    counted for `TRUTH` objects in every image.
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
        weight_bytes += size * _BYTES[weight.dtype]
        if not weight.buffer:
            for row in rows(weight.key.rpartition(".")[0]):
                row.parameters += size
                row.trainable += size if weight.trainable else 0

    memory = _Memory(part, batch, height, width)
    for node in part.nodes:
        cost = memory.cost(node)
        for row in rows(owner(node)):
            row.macs += cost.macs
            row.flops += cost.flops
            row.activation_bytes += cost.activation_bytes
            row.saved_bytes += cost.saved_bytes
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
        peak_bytes=memory.peak(),
        uncounted=uncounted,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node costs; see Component."""

    macs: int
    flops: int
    activation_bytes: int
    saved_bytes: int


def costs(graph: Graph, height: int, width: int, batch: int = 1) -> dict[str, Cost]:
    """What each node costs, by name, for images of that size, which is a multiple of the graph's divisor."""
    memory = _Memory(graph, batch, height, width)
    return {node.name: memory.cost(node) for node in graph.nodes}


class _Memory:
    """Tensors of a graph at one batch and image size: their bytes, who shares them, and which take a gradient."""

    def __init__(self, graph: Graph, batch: int, height: int, width: int) -> None:
        self.graph = graph
        self.size = (batch, height, width, TRUTH)
        self.bases: dict[Value, Value] = {}
        self.gradient: set[str] = set()
        self.saved: set[Value] = set()
        for node in graph.nodes:
            if node.op in RULES and RULES[node.op].view:
                self.bases[Value(node.name)] = self.base(node.operands[0])
            trained = any(
                graph.weights[key].trainable and not graph.weights[key].buffer for key in node.weights.values()
            )
            if trained or any(map(self.needs_gradient, node.operands)):
                self.gradient.add(node.name)

    def needs_gradient(self, value: Value) -> bool:
        """Whether the backward pass reaches a value: something trained is behind it, and it is not a whole number."""
        return value.node in self.gradient and self.graph.type_of(value).dtype.startswith(("float", "bfloat"))

    def base(self, value: Value) -> Value:
        """The value whose memory this one shares: itself, mostly."""
        return self.bases.get(value, value)

    def shape(self, value: Value) -> Shape:
        return self.graph.type_of(value).at(*self.size)

    def bytes(self, value: Value) -> int:
        return prod(self.shape(value)) * _BYTES[self.graph.type_of(value).dtype]

    def sized(self, node: Node) -> Sized:
        operands = {port: tuple(map(self.shape, flatten(values))) for port, values in node.inputs}
        return Sized(node, operands, tuple(self.shape(Value(node.name, i)) for i in range(len(node.types))))

    def cost(self, node: Node) -> Cost:
        """What a node costs. Asked in order: a tensor that several nodes keep counts for the first."""
        sized = self.sized(node)
        rule = RULES.get(node.op, Rule())
        macs = rule.macs(sized)
        made = 0 if rule.view else sum(self.bytes(Value(node.name, i)) for i in range(len(node.types)))
        kept = 0
        if self.needs_gradient(Value(node.name)):
            keeps = {self.base(value) for value in rule.saves(node, self.needs_gradient)} - self.saved
            kept = sum(map(self.bytes, keeps)) + rule.extra(sized)
            self.saved |= keeps
        return Cost(macs, 2 * macs + rule.other(sized), made, kept)

    def peak(self) -> int:
        """The most bytes alive at a time, when the nodes run in order and every tensor goes after its last use."""
        order = list(self.graph.nodes)
        kept = {Value(name) for name in self.graph.inputs}
        for outputs in self.graph.views.values():
            kept |= {self.base(value) for values in outputs.values() for value in flatten(values)}
        last: dict[Value, int] = {}
        for step, node in enumerate(order):
            for value in (*node.operands, *(Value(node.name, i) for i in range(len(node.types)))):
                last[self.base(value)] = step
        ends: dict[int, list[Value]] = {}
        for value, step in last.items():
            if value not in kept:
                ends.setdefault(step, []).append(value)
        alive = peak = sum(self.bytes(Value(name)) for name in self.graph.inputs)
        for step, node in enumerate(order):
            made = {Value(node.name, i) for i in range(len(node.types))}
            alive += sum(self.bytes(value) for value in made if self.base(value) == value)
            peak = max(peak, alive)
            alive -= sum(map(self.bytes, ends.get(step, ())))
        return peak


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
