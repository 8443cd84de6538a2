"""Graphs made by hand, for tests that should not depend on the language."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from detc.compiler import dims
from detc.compiler.graph import Attribute, Call, Graph, Node, Value, Values, Weight
from detc.compiler.types import TensorType

IMAGE = TensorType((dims.N, 3, dims.H, dims.W), stride=Fraction(1))


def feature(channels: int, stride: int) -> TensorType:
    """(N, channels, ceil(H/stride), ceil(W/stride)) with that stride."""
    height, width = (dims.floordiv(dims.add(size, stride - 1), stride) for size in (dims.H, dims.W))
    return TensorType((dims.N, channels, height, width), stride=Fraction(stride))


class Builder:
    """Collects nodes, weights and calls; every method that adds a node returns its first output."""

    def __init__(self, name: str = "handmade") -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self.weights: dict[str, Weight] = {}
        self.calls: list[Call] = []
        self.types = {"image": IMAGE}
        self.image = Value("image")

    def node(
        self,
        name: str,
        op: str,
        inputs: Mapping[str, Values],
        type_: TensorType,
        scope: str = "",
        weights: Mapping[str, str] | None = None,
        **attrs: Attribute,
    ) -> Value:
        self.nodes[name] = Node(name, op, tuple(inputs.items()), attrs, weights or {}, (type_,), scope)
        self.types[name] = type_
        return Value(name)

    def conv(
        self,
        label: str,
        x: Value,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        bias: bool = True,
        frozen: bool = False,
        name: str | None = None,
    ) -> Value:
        """A convolution with "same" padding whose weights are at `label`; `name` tells a second use of them apart."""
        source = self.types[x.node]
        assert source.stride is not None
        shapes = {"weight": (channels, source.channels, kernel, kernel), "bias": (channels,)}
        if not bias:
            del shapes["bias"]
        for part, shape in shapes.items():
            self.weights[f"{label}.{part}"] = Weight(
                f"{label}.{part}", shape, init=("normal", 0.01), trainable=not frozen
            )
        return self.node(
            name or label,
            "Conv2d",
            {"x": x},
            feature(channels, int(source.stride) * stride),
            label.rpartition(".")[0],
            {part: f"{label}.{part}" for part in shapes},
            channels=channels,
            kernel=kernel,
            stride=stride,
            padding=kernel // 2,
            dilation=1,
            groups=1,
            standardize=False,
            bias=bias,
        )

    def batch_norm(self, label: str, x: Value) -> Value:
        """Batch normalisation that is trained, at `label`."""
        keys = {}
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            keys[part] = f"{label}.{part}"
            counter = part == "num_batches_tracked"
            self.weights[keys[part]] = Weight(
                keys[part],
                () if counter else (self.types[x.node].channels,),
                "int64" if counter else "float32",
                buffer=part not in ("weight", "bias"),
            )
        attrs: dict[str, Attribute] = {"eps": 1e-5, "momentum": 0.1, "fixed": False, "trainable": True}
        scope = label.rpartition(".")[0]
        return self.node(label, "BatchNorm2d", {"x": x}, self.types[x.node], scope, keys, **attrs)

    def relu(self, name: str, x: Value, scope: str = "") -> Value:
        return self.node(name, "relu", {"x": x}, self.types[x.node], scope)

    def add(self, name: str, x: Value, y: Value, scope: str = "") -> Value:
        return self.node(name, "add", {"x": x, "y": y}, self.types[x.node], scope)

    def resize(self, name: str, x: Value, like: Value, scope: str = "") -> Value:
        target = self.types[like.node]
        assert target.stride is not None
        type_ = feature(self.types[x.node].channels, int(target.stride))
        return self.node(name, "resize", {"x": x, "like": like}, type_, scope, mode="nearest")

    def max_pool(self, name: str, x: Value, scope: str = "") -> Value:
        source = self.types[x.node]
        assert source.stride is not None
        type_ = feature(source.channels, int(source.stride) * 2)
        return self.node(name, "max_pool", {"x": x}, type_, scope, kernel=1, stride=2, padding=0)

    def call(self, path: str, component: str, kind: str, outputs: Values | dict[int, Value]) -> None:
        named: tuple[tuple[tuple[str | int, ...], Value], ...]
        if isinstance(outputs, dict):
            named = tuple(((level,), value) for level, value in outputs.items())
        else:
            named = tuple(((), value) for value in ((outputs,) if isinstance(outputs, Value) else outputs))
        self.calls.append(Call(path, component, kind, named))

    def graph(self, views: Mapping[str, Mapping[str, Values]], size_divisor: int = 1) -> Graph:
        inputs = {"image": IMAGE}
        return Graph(self.name, inputs, self.nodes, self.weights, views, tuple(self.calls), size_divisor)


def backbone(b: Builder, channels: int = 8) -> dict[int, Value]:
    """Levels 3 to 5 from strided convolutions."""
    x = b.conv("backbone.stem", b.image, channels, 7, 4, bias=False)
    levels = {}
    for level in (3, 4, 5):
        x = b.relu(f"backbone.relu{level}", b.conv(f"backbone.layer{level}", x, channels, 3, 2), "backbone")
        levels[level] = x
    b.call("backbone", "Plain", "backbone", levels)
    return levels


def fpn(b: Builder, c: dict[int, Value], channels: int = 16) -> dict[int, Value]:
    """Lin et al., CVPR 2017, with one level more by pooling."""
    merged = {}
    for index, level in enumerate(c):
        merged[level] = b.conv(f"neck.lateral_convs.{index}", c[level], channels)
        b.call(f"neck.lateral_convs.{index}", "Conv2d", "block", merged[level])
    for level in sorted(c, reverse=True)[1:]:
        coarser = b.resize(f"neck.up{level}", merged[level + 1], merged[level], "neck")
        merged[level] = b.add(f"neck.sum{level}", merged[level], coarser, "neck")
    p = {}
    for index, level in enumerate(c):
        p[level] = b.conv(f"neck.fpn_convs.{index}", merged[level], channels, 3)
        b.call(f"neck.fpn_convs.{index}", "Conv2d", "block", p[level])
    top = max(p)
    p[top + 1] = b.max_pool(f"neck.p{top + 1}", p[top], "neck")
    b.call("neck", "FPN", "neck", p)
    return p


def head(b: Builder, p: dict[int, Value], classes: int = 4) -> dict[int, Value]:
    """One convolution, the same on every level."""
    scores = {level: b.conv("bbox_head.cls", x, classes, 3, name=f"bbox_head.cls{level}") for level, x in p.items()}
    b.call("bbox_head", "Head", "head", scores)
    return scores


def fpn_detector() -> Graph:
    """Backbone, FPN and shared head; `forward` gives the scores of every level."""
    b = Builder("fpn_detector")
    scores = head(b, fpn(b, backbone(b)))
    return b.graph({"forward": {"scores": tuple(scores.values())}}, size_divisor=32)


def fpg(b: Builder, c: dict[int, Value], pathways: int, channels: int = 16) -> dict[int, Value]:
    """Chen et al., 2020, figure 2, without the cut corner, and with the extra levels made from the coarsest input."""
    p = {level: b.conv(f"neck.lateral_convs.{i}", x, channels) for i, (level, x) in enumerate(c.items())}
    for i, x in enumerate(p.values()):
        b.call(f"neck.lateral_convs.{i}", "Conv2d", "block", x)
    top = max(p) + 1
    p[top] = b.conv("neck.extra.0", p[top - 1], channels, 3, 2)
    b.call("neck.extra.0", "Conv2d", "block", p[top])
    start = dict(p)
    for i in range(pathways):
        before = dict(p)
        for level in p:
            path = f"neck.fpn_transitions.{i}.{level - min(p)}"
            terms = [b.conv(f"{path}.across_lateral.conv", before[level], channels)]
            b.call(f"{path}.across_lateral", "ActConvNorm", "block", terms[-1])
            terms.append(b.conv(f"{path}.across_skip.conv", start[level], channels))
            b.call(f"{path}.across_skip", "ActConvNorm", "block", terms[-1])
            if level > min(p):
                terms.append(b.conv(f"{path}.same_up.conv", p[level - 1], channels, 3, 2))
                b.call(f"{path}.same_up", "ActConvNorm", "block", terms[-1])
                up = b.conv(f"{path}.across_up.conv", before[level - 1], channels, 3, 2)
                terms.append(up)
                b.call(f"{path}.across_up", "ActConvNorm", "block", up)
            if level < max(p):
                down = b.resize(f"{path}.resize", before[level + 1], before[level], path)
                terms.append(b.conv(f"{path}.across_down.conv.conv", down, channels, 3))
                b.call(f"{path}.across_down.conv", "ActConvNorm", "block", terms[-1])
            total = terms[0]
            for n, term in enumerate(terms[1:]):
                total = b.add(f"{path}.add_{n}", total, term, path)
            p[level] = total
            b.call(path, "GridNode", "cell", total)
    q = {}
    for i, (level, x) in enumerate(p.items()):
        q[level] = b.conv(f"neck.output_transition.{i}.conv_out", x, channels, 3)
        b.call(f"neck.output_transition.{i}.conv_out", "ActConvNorm", "block", q[level])
    b.call("neck", "FPG", "neck", q)
    return q


def fpg_detector(pathways: int = 3) -> Graph:
    """Backbone, Feature Pyramid Grid and shared head."""
    b = Builder("fpg_detector")
    scores = head(b, fpg(b, backbone(b), pathways))
    return b.graph({"forward": {"scores": tuple(scores.values())}}, size_divisor=64)
