"""Small graphs built by hand, and a plain torch interpreter of them: a judge that shares no code with the targets."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from detc.compiler.graph import Graph, Node, Value, Weight
from detc.compiler.types import TensorType


class Small:
    """Builds a graph of fixed sizes by running it: every method adds one node, with the shapes that torch gives.

    `values` holds what each node gives for `image`.
    """

    def __init__(self, height: int = 64, width: int = 96, batch: int = 1, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.image = torch.randn(batch, 3, height, width, generator=self.generator)
        self.inputs = {"image": TensorType(tuple(self.image.shape))}
        self.nodes: dict[str, Node] = {}
        self.weights: dict[str, Weight] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[Value, torch.Tensor] = {Value("image"): self.image}

    def add(
        self,
        op: str,
        *inputs: Value | tuple[Value, ...],
        weights: dict[str, str] | None = None,
        name: str = "",
        **attrs,
    ):
        """Applies an op; its first value, or all of them where it has several."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        ports = tuple((f"port{i}", value) for i, value in enumerate(inputs))
        node = Node(name, op, ports, attrs, weights or {}, ())
        results = evaluate(node, self.values, self.arrays)
        types = tuple(TensorType(tuple(r.shape), str(r.dtype).removeprefix("torch.")) for r in results)
        self.nodes[name] = Node(name, op, ports, attrs, weights or {}, types)
        values = tuple(Value(name, i) for i in range(len(results)))
        self.values.update(zip(values, results, strict=True))
        return values[0] if len(values) == 1 else values

    def weight(self, key: str, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """A weight with values between `low` and `high`, made once."""
        if key not in self.arrays:
            self.weights[key] = Weight(key, shape)
            self.arrays[key] = (torch.rand(*shape, generator=self.generator) * (high - low) + low).numpy()
        return key

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int = 1,
        *,
        label: str = "",
        stride=1,
        bias=True,
        groups=1,
        dilation=1,
        padding=None,
    ) -> Value:
        """A convolution with weights under `label`, of a scale that keeps values near 1."""
        label = label or f"conv{len(self.nodes)}"
        fan_in = self.values[x].shape[1] // groups
        scale = math.sqrt(3 / (fan_in * kernel * kernel))
        weights = {"weight": self.weight(f"{label}.weight", channels, fan_in, kernel, kernel, low=-scale, high=scale)}
        if bias:
            weights["bias"] = self.weight(f"{label}.bias", channels)
        padding = dilation * (kernel - 1) // 2 if padding is None else padding
        return self.add(
            "Conv2d",
            x,
            weights=weights,
            channels=channels,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def norm(self, x: Value, label: str = "") -> Value:
        """A batch norm with running statistics that are far from neutral."""
        label = label or f"bn{len(self.nodes)}"
        channels = self.values[x].shape[1]
        weights = {
            "weight": self.weight(f"{label}.weight", channels, low=0.5, high=2.0),
            "bias": self.weight(f"{label}.bias", channels),
            "running_mean": self.weight(f"{label}.running_mean", channels),
            "running_var": self.weight(f"{label}.running_var", channels, low=0.2, high=3.0),
        }
        return self.add("BatchNorm2d", x, weights=weights, eps=1e-5, momentum=0.1, fixed=False, trainable=True)

    def graph(self, **predict: Value | tuple[Value, ...]) -> Graph:
        """The graph whose predict view has these outputs."""
        return Graph("small", self.inputs, self.nodes, self.weights, {"predict": predict})

    def expected(self, graph: Graph) -> dict[str, np.ndarray]:
        """What the predict view's outputs are for `image`."""
        return {name: self.values[value].numpy() for name, value in graph.views["predict"].items()}


def retinanet(
    height: int = 64, width: int = 96, batch: int = 1, channels: int = 16, classes: int = 3
) -> tuple[Small, Graph]:
    """A RetinaNet in small: three levels, a top-down neck with a pooled top, a shared head with norms per level."""
    small = Small(height, width, batch)
    x = small.add("relu", small.norm(small.conv(Value("image"), channels, 7, stride=2, bias=False)))
    x = small.add("max_pool", x, kernel=3, stride=2, padding=1)
    pyramid = []
    for _ in range(2):
        x = small.add("relu", small.norm(small.conv(x, channels, 3, stride=2, bias=False)))
        short = x
        x = small.norm(small.conv(x, channels, 3, bias=False))
        x = small.add("relu", small.add("add", x, short))
        pyramid.append(x)
    fine, coarse = pyramid
    top = small.add("resize", coarse, fine, mode="nearest")
    fine = small.conv(small.add("add", small.conv(fine, channels), top), channels, 3)
    gate = small.add("sigmoid", small.add("global_avg_pool", coarse))
    coarse = small.add("mul", coarse, gate)
    pyramid = [fine, coarse, small.add("max_pool", coarse, kernel=1, stride=2, padding=0)]
    scores, boxes, labels = [], [], []
    for level, (feature, step) in enumerate(zip(pyramid, (8, 16, 32), strict=True)):
        tower = small.norm(small.conv(feature, channels, 3, label="tower", bias=False), label=f"norms.{level}")
        tower = small.add("relu", tower)
        logits = small.add("per_anchor", small.conv(tower, 6 * classes, 3, label="cls"), fields=classes)
        deltas = small.add("per_anchor", small.conv(tower, 24, 3, label="reg"), fields=4)
        grid = small.add(
            "anchor_grid", feature, scales=(2.0, 3.0), ratios=(0.5, 1.0, 2.0), base=None, offset=0.0, step=step
        )
        score, index, label = small.add("select_top", small.add("sigmoid", logits), count=50, threshold=0.4)
        box = small.add(
            "decode_delta",
            small.add("gather_rows", grid, index),
            small.add("gather_rows", deltas, index),
            Value("image"),
            means=(0.0, 0.0, 0.0, 0.0),
            stds=(0.1, 0.1, 0.2, 0.2),
            clip_ratio=0.016,
        )
        scores.append(score)
        boxes.append(box)
        labels.append(label)
    joined = [small.add("concat", tuple(values), axis=1) for values in (boxes, scores, labels)]
    kept_boxes, kept_scores, kept_classes = small.add("nms", *joined, iou=0.5, keep=20)
    return small, small.graph(boxes=kept_boxes, scores=kept_scores, classes=kept_classes)


def evaluate(node: Node, values: dict[Value, torch.Tensor], arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    """The results of one node."""
    x, *more = [values[v] for v in node.operands]
    w = {name: torch.from_numpy(arrays[key]) for name, key in node.weights.items()}
    a = node.attrs
    match node.op:
        case "Conv2d":
            result = F.conv2d(x, w["weight"], w.get("bias"), a["stride"], a["padding"], a["dilation"], a["groups"])
        case "BatchNorm2d":
            result = F.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"], eps=a["eps"])
        case "relu" | "sigmoid":
            result = getattr(torch, node.op)(x)
        case "add":
            result = x + more[0]
        case "mul":
            result = x * more[0]
        case "max_pool":
            result = F.max_pool2d(x, a["kernel"], a["stride"], a["padding"])
        case "global_avg_pool":
            result = x.mean((2, 3), keepdim=True)
        case "global_max_pool":
            result = x.amax((2, 3), keepdim=True)
        case "resize":
            result = x
            for axis in (2, 3):
                size, count = x.shape[axis], more[0].shape[axis]
                result = result.index_select(axis, torch.arange(count) * size // count)
        case "upsample":
            result = x.repeat_interleave(a["scale"], 2).repeat_interleave(a["scale"], 3)
        case "crop":
            result = x[:, :, : more[0].shape[2], : more[0].shape[3]]
        case "anchor_grid":
            rows = []
            for y in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for ratio in a["ratios"]:
                        for scale in a["scales"]:
                            base = a["base"] or a["step"]
                            h, v = base * scale / math.sqrt(ratio) / 2, base * scale * math.sqrt(ratio) / 2
                            cx, cy = (column + a["offset"]) * a["step"], (y + a["offset"]) * a["step"]
                            rows.append((cx - h, cy - v, cx + h, cy + v))
            result = torch.tensor(rows)
        case "per_anchor":
            result = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, a["fields"])
        case "concat":
            result = torch.cat([x, *more], a["axis"])
        case "split":
            result = x.split([like.shape[-2] for like in more], 1)[a["index"]]
        case "select_top":
            top, position = x.flatten(1).topk(min(a["count"], x[0].numel()))
            top = torch.where(top > a["threshold"], top, 0.0)
            return top, position // x.shape[2], position % x.shape[2]
        case "gather_rows":
            index = more[0]
            result = torch.stack([(x if x.dim() == 2 else x[i])[rows] for i, rows in enumerate(index)])
        case "decode_delta":
            deltas, image = more
            deltas = deltas * torch.tensor(a["stds"]) + torch.tensor(a["means"])
            size, centre = x[..., 2:] - x[..., :2], (x[..., 2:] + x[..., :2]) / 2
            limit = abs(math.log(a["clip_ratio"]))
            centre, size = centre + size * deltas[..., :2], size * deltas[..., 2:].clamp(-limit, limit).exp()
            result = torch.cat([centre - size / 2, centre + size / 2], -1).clamp(min=0)
            result = torch.minimum(result, torch.tensor([image.shape[3], image.shape[2]] * 2))
        case "nms":
            return _nms(x, *more, iou=a["iou"], keep=a["keep"])
        case _:
            raise NotImplementedError(node.op)
    return (result,)


def _nms(
    boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou: float, keep: int
) -> tuple[torch.Tensor, ...]:
    n = len(boxes)
    kept = (torch.zeros(n, keep, 4), torch.zeros(n, keep), torch.full((n, keep), -1))
    for image in range(n):
        chosen: list[int] = []
        for i in scores[image].argsort(descending=True, stable=True).tolist():
            if scores[image, i] > 0 and len(chosen) < keep:
                rivals = (j for j in chosen if classes[image, i] == classes[image, j])
                if not any(_iou(boxes[image, i], boxes[image, j]) > iou for j in rivals):
                    chosen.append(i)
        for target, source in zip(kept, (boxes, scores, classes), strict=True):
            target[image, : len(chosen)] = source[image, chosen]
    return kept


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = (high - low).clamp(min=0).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))
