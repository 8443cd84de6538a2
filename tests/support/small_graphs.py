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
        sized = 1 if op in ("crop", "resize") else None
        ports = tuple(("like" if i == sized else f"port{i}", value) for i, value in enumerate(inputs))
        node = Node(name, op, ports, attrs, weights or {}, ())
        results = evaluate(node, self.values, self.arrays)
        types = tuple(TensorType(tuple(r.shape), str(r.dtype).removeprefix("torch.")) for r in results)
        self.nodes[name] = Node(name, op, ports, attrs, weights or {}, types)
        values = tuple(Value(name, i) for i in range(len(results)))
        self.values.update(zip(values, results, strict=True))
        return values[0] if len(values) == 1 else values

    def given(self, name: str, value: torch.Tensor) -> Value:
        """An input beside the image."""
        value = value.contiguous()
        self.inputs[name] = TensorType(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        self.values[Value(name)] = value
        return Value(name)

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """The inputs' values."""
        return {name: self.values[Value(name)].numpy() for name in self.inputs}

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
        standardize=False,
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
            standardize=standardize,
        )

    def dense(self, x: Value, features: int, *, label: str = "", scale: float = 1.0) -> Value:
        """A fully connected layer with weights under `label`, whose results are about `scale` times its input's."""
        label = label or f"fc{len(self.nodes)}"
        inputs = self.values[x].shape[-1]
        limit = scale * math.sqrt(3 / inputs)
        weights = {
            "weight": self.weight(f"{label}.weight", features, inputs, low=-limit, high=limit),
            "bias": self.weight(f"{label}.bias", features, low=-scale, high=scale),
        }
        return self.add("Linear", x, weights=weights, features=features, bias=True)

    def transposed(
        self, x: Value, channels: int, kernel: int, *, stride: int = 0, padding: int = 0, bias: bool = True
    ) -> Value:
        """A transposed convolution; its stride is its kernel's size where none is given."""
        label = f"deconv{len(self.nodes)}"
        inputs = self.values[x].shape[1]
        scale = math.sqrt(3 / inputs)
        weights = {"weight": self.weight(f"{label}.weight", inputs, channels, kernel, kernel, low=-scale, high=scale)}
        if bias:
            weights["bias"] = self.weight(f"{label}.bias", channels)
        size = {"kernel": kernel, "stride": stride or kernel, "padding": padding}
        return self.add("ConvTranspose2d", x, weights=weights, channels=channels, bias=bias, **size)

    def group_norm(self, x: Value, groups: int) -> Value:
        """Normalisation by groups, with scales and shifts that are far from neutral."""
        label = f"gn{len(self.nodes)}"
        channels = self.values[x].shape[1]
        weights = {
            "weight": self.weight(f"{label}.weight", channels, low=0.5, high=2.0),
            "bias": self.weight(f"{label}.bias", channels),
        }
        return self.add("GroupNorm", x, weights=weights, groups=groups, eps=1e-5)

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
            clip=True,
        )
        scores.append(score)
        boxes.append(box)
        labels.append(label)
    joined = [small.add("concat", tuple(values), axis=1) for values in (boxes, scores, labels)]
    kept_boxes, kept_scores, kept_classes = small.add("nms", *joined, iou=0.5, keep=20)
    return small, small.graph(boxes=kept_boxes, scores=kept_scores, classes=kept_classes)


def mask_rcnn(
    height: int = 64, width: int = 96, batch: int = 1, agnostic: bool = False, seed: int = 5
) -> tuple[Small, Graph]:
    """A Mask R-CNN in small: proposals on two levels, boxes and masks of these, which some images have fewer of."""
    small, channels, classes = Small(height, width, batch, seed), 8, 3
    image = Value("image")
    x = small.add("relu", small.group_norm(small.conv(image, channels, 7, stride=4, bias=False), 4))
    fine = small.add("relu", small.norm(small.conv(x, channels, 3, stride=2, standardize=True)))
    coarse = small.add("relu", small.conv(fine, channels, 3, stride=2))
    pyramid = (small.conv(fine, channels), small.conv(coarse, channels))
    columns: list[list[Value]] = [[], [], []]
    coding = {"means": (0.0,) * 4, "clip_ratio": 0.016, "clip": True}
    for level, (feature, step) in enumerate(zip(pyramid, (8, 16), strict=True)):
        tower = small.add("relu", small.conv(feature, channels, 3, label="rpn"))
        logits = small.add("detach", small.add("per_anchor", small.conv(tower, 3, label="rpn_cls"), fields=1))
        deltas = small.add("detach", small.add("per_anchor", small.conv(tower, 12, label="rpn_reg"), fields=4))
        sizes = {"scales": (2.0,), "ratios": (0.5, 1.0, 2.0), "base": None, "offset": 0.0, "step": step}
        grid = small.add("anchor_grid", feature, **sizes)
        score, index, _ = small.add("select_top", small.add("sigmoid", logits), count=40, threshold=0.45)
        anchors, offsets = small.add("gather_rows", grid, index), small.add("gather_rows", deltas, index)
        box = small.add("decode_delta", anchors, offsets, image, stds=(0.5,) * 4, **coding)
        columns[0].append(box)
        columns[1].append(small.add("drop_small", box, score, minimum=9.0))
        columns[2].append(small.add("fill", score, value=level, dtype="int64"))
    joined = [small.add("concat", tuple(values), axis=1) for values in columns]
    regions, present, _ = small.add("nms", *joined, iou=0.6, keep=50)

    def cut(boxes: Value, size: int) -> Value:
        level = small.add("assign_levels", boxes, count=2, finest=16.0)
        return small.add("roi_align", *pyramid, boxes, level, size=size, samples=0, strides=(8, 16))

    hidden = small.add("relu", small.dense(small.add("flatten", cut(regions, 3)), 24))
    scores = small.add("per_image", small.dense(hidden, classes + 1, scale=2.0), regions)
    deltas = small.add("per_image", small.dense(hidden, 4 if agnostic else 4 * classes), regions)
    probabilities = small.add("fields", small.add("softmax", scores), start=0, stop=classes)
    best, rows, labels = small.add(
        "select_top", small.add("drop_absent", probabilities, present), count=60, threshold=0.2
    )
    deltas = small.add("gather_rows", deltas, rows)
    deltas = deltas if agnostic else small.add("take_class", deltas, labels, fields=4)
    boxes = small.add("decode_delta", small.add("gather_rows", regions, rows), deltas, image, stds=(0.1,) * 4, **coding)
    boxes, kept, labels = small.add("nms", boxes, best, labels, iou=0.5, keep=20)
    logits = small.conv(small.add("relu", small.transposed(small.conv(cut(boxes, 6), channels, 3), 8, 2)), classes)
    masks = small.add("sigmoid", small.add("take_channel", logits, labels))
    halves = [small.add("scale", part, factor=0.5) for part in (masks, masks)]
    masks = small.add("add", *halves)
    return small, small.graph(boxes=boxes, scores=kept, classes=labels, masks=masks)


def region_values(small: Small) -> dict[str, Value]:
    """Ops that a Mask R-CNN uses in one way alone, or not at all, by the name of what is tried.

    Boxes are hard: across the border, tiny, thin, without an area, inverted, as large as the image.
    """
    image = Value("image")
    n, _, height, width = small.image.shape
    hard = [
        (0, 0, width, height), (0, 0, 2, 2), (width - 1, height - 1, width, height), (3.3, 4.4, 3.9, 4.7), (5, 5, 5, 5),
        (-6, -9, 20, 30), (width - 4, 2, width + 30, 60), (7, 3, 7.5, 40), (30, 20, 12, 8), (0, 0, 0, 0),
        (8, 8, 40, 40), (8, 8, 23.5, 24.25), (1, 1, 17, 17), (width + 50, 0, width + 60, 9),
    ]  # fmt: skip
    boxes = small.given(
        "given_boxes", torch.tensor(hard, dtype=torch.float32).expand(n, -1, -1) + torch.arange(n)[:, None, None]
    )
    scores = small.given("given_scores", (torch.arange(n * len(hard)) % 3 * 0.25).view(n, -1))
    classes = small.given("given_classes", torch.arange(n * len(hard)).view(n, -1) % 6 - 1)
    fine = small.conv(image, 6, 3, stride=4)
    coarse = small.conv(fine, 6, 3, stride=2)
    odd = small.given("given_level", torch.arange(n * len(hard)).view(n, -1) % 2)
    level = small.add("assign_levels", boxes, count=2, finest=16.0)
    cut = small.add("roi_align", fine, coarse, boxes, level, size=5, samples=0, strides=(4, 8))
    flat = small.add("flatten", cut)
    rows = small.add("per_image", flat, boxes)
    return {
        "adaptive": cut,
        "other levels": small.add("roi_align", fine, coarse, boxes, odd, size=4, samples=0, strides=(4, 8)),
        "two points": small.add("roi_align", fine, boxes, small.add("assign_levels", boxes, count=1, finest=56.0),
                                size=3, samples=2, strides=(4,)),
        "flat": flat,
        "level": level,
        "dense rows": small.dense(rows, 7),
        "dense of flat": small.dense(flat, 40),
        "unbiased": small.add("Linear", flat, weights={"weight": small.weight("w", 5, 150)}, features=5, bias=False),
        "small": small.add("drop_small", boxes, scores, minimum=8.0),
        "absent": small.add("drop_absent", rows, scores),
        "absent scores": small.add("drop_absent", scores, scores),
        "class": small.add("take_class", rows, classes, fields=50),
        "channel": small.add("take_channel", small.conv(cut, 4), classes),
        "unclipped": small.add("decode_delta", boxes, small.add("fields", rows, start=3, stop=7), image,
                               means=(0.1, 0.0, 0.0, -0.1), stds=(0.1, 0.2, 0.3, 0.1), clip_ratio=0.5, clip=False),
        "ones": small.add("fill", boxes, value=1, dtype="float32"),
        "softmax": small.add("softmax", rows),
        "halved": small.add("scale", small.add("detach", fine), factor=1 / 3),
        "normal": small.group_norm(small.conv(image, 12, 3), 3),
        "normal by pixel": small.group_norm(small.add("scale", fine, factor=40.0), 6),
        "standard": small.conv(image, 9, 3, standardize=True),
        "twice": small.transposed(fine, 5, 2),
        "thrice": small.transposed(fine, 16, 3, bias=False),
        "overlapping": small.transposed(fine, 7, 4, stride=2, padding=1),
        "apart": small.transposed(fine, 3, 2, stride=3),
    }  # fmt: skip


def evaluate(node: Node, values: dict[Value, torch.Tensor], arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
    """The results of one node."""
    w = {name: torch.from_numpy(arrays[key]) for name, key in node.weights.items()}
    if node.op == "constant":
        return (w["value"],)
    x, *more = [values[v] for v in node.operands]
    a = node.attrs
    match node.op:
        case "Conv2d":
            if a["standardize"]:
                flat = w["weight"].flatten(1)
                flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
                w["weight"] = flat.view_as(w["weight"])
            result = F.conv2d(x, w["weight"], w.get("bias"), a["stride"], a["padding"], a["dilation"], a["groups"])
        case "BatchNorm2d":
            result = F.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"], eps=a["eps"])
        case "GroupNorm":
            result = F.group_norm(x, a["groups"], w["weight"], w["bias"], a["eps"])
        case "ConvTranspose2d":
            result = F.conv_transpose2d(x, w["weight"], w.get("bias"), a["stride"], a["padding"])
        case "Linear":
            result = F.linear(x, w["weight"], w.get("bias"))
        case "softmax":
            result = x.softmax(-1)
        case "scale":
            result = x * a["factor"]
        case "detach":
            result = x
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
            scores = x.sigmoid() if a.get("logits") else x
            top, position = scores.flatten(1).topk(min(a["count"], x[0].numel()))
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
            result = torch.cat([centre - size / 2, centre + size / 2], -1)
            if a["clip"]:
                result = torch.minimum(result.clamp(min=0), torch.tensor([image.shape[3], image.shape[2]] * 2))
        case "fill":
            result = torch.full(x.shape[:2], a["value"], dtype=getattr(torch, a["dtype"]))
        case "drop_small":
            sides = x[..., 2:] - x[..., :2]
            result = more[0] * (sides > a["minimum"]).all(-1)
        case "drop_absent":
            result = x.clone()
            result[more[0] <= 0] = 0
        case "assign_levels":
            sides = (x[..., 2:] - x[..., :2]).double()
            reach = (sides.prod(-1).sqrt() / a["finest"] + 1e-6).clamp(min=1e-9).log2()
            result = reach.floor().clamp(0, a["count"] - 1).long()
        case "roi_align":
            *features, boxes, level = (x, *more)
            result = _roi_align(features, boxes, level, a["size"], a["samples"], a["strides"])
        case "flatten":
            result = x.flatten(1)
        case "per_image":
            result = x.view(*more[0].shape[:2], *x.shape[1:])
        case "fields":
            result = x[..., a["start"] : a["stop"]]
        case "take_class":
            result = torch.zeros(*x.shape[:2], a["fields"])
            for i, j in np.ndindex(*x.shape[:2]):
                of_class = x[i, j].split(a["fields"])
                result[i, j] = of_class[_known(more[0][i, j], len(of_class))]
        case "take_channel":
            classes = more[0].flatten()
            rows = [x[i, _known(label, x.shape[1])] for i, label in enumerate(classes)]
            result = torch.stack(rows).view(*more[0].shape, *x.shape[2:])
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


def _known(label: torch.Tensor, count: int) -> int:
    return int(label) if 0 <= label < count else 0


def _roi_align(features, boxes, level, size: int, samples: int, strides) -> torch.Tensor:
    """Cell by cell, point by point."""
    result = torch.zeros(boxes.shape[0] * boxes.shape[1], features[0].shape[1], size, size)
    for row, (image, region) in enumerate(np.ndindex(*boxes.shape[:2])):
        which = int(level[image, region])
        feature = features[which][image]
        x1, y1, x2, y2 = (boxes[image, region] / float(strides[which])).tolist()
        columns, rows = (samples or math.ceil((high - low) / size) for low, high in ((x1, x2), (y1, y2)))
        for cy, cx in np.ndindex(size, size):
            for py, px in np.ndindex(max(rows, 0), max(columns, 0)):
                y = y1 - 0.5 + (y2 - y1) / size * (cy + (py + 0.5) / rows)
                x = x1 - 0.5 + (x2 - x1) / size * (cx + (px + 0.5) / columns)
                result[row, :, cy, cx] += _bilinear(feature, y, x) / (rows * columns)
    return result


def _bilinear(feature: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """A feature (C, H, W) between the centres of its cells; 0 a cell and more beyond them."""
    height, width = feature.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(feature))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
    below = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
    return above * (1 - dy) + below * dy
