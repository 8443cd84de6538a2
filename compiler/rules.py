"""What each primitive costs: its arithmetic, and what PyTorch's autograd keeps of it for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from detc.compiler.graph import Node, Value, flatten

Shape = tuple[int, ...]

# Of one element.
BYTES = {
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


def _transposed_macs(sized: Sized) -> int:
    return sized.elements("x") * sized.attr("channels") * sized.attr("kernel") ** 2


def _linear_macs(sized: Sized) -> int:
    return sized.made * sized.operands["x"][0][-1]


def _bias(sized: Sized) -> int:
    return sized.made if "bias" in sized.node.weights else 0


def _standardized(sized: Sized) -> int:
    """The weight less its mean, and that over its deviation; mean and deviation of every channel."""
    if not sized.node.attrs.get("standardize"):
        return 0
    channels = sized.outputs[0][1]
    inputs = sized.operands["x"][0][1] // sized.attr("groups")
    return 2 * 4 * channels * (1 + inputs * sized.attr("kernel") ** 2)


def _region_lookups(sized: Sized) -> int:
    """A multiply-add for each of a point's four neighbours. Where a cell has as many points as pixels, mostly 2 x 2."""
    points = sized.attr("samples") or 2
    return 2 * 4 * points**2 * sized.made


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


def _per_row(count: int) -> Count:
    """For every row of a prediction of boxes."""
    return _per_input("labels", count)


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

    `macs` and `other` count its arithmetic: multiply-adds, and operations beside them. `view` marks an op whose result
    shares its first operand's memory, `stops` one through which no gradient flows back.

    For the backward pass `saves` says which tensors of the graph autograd keeps, `extra` how many bytes of the op's
    own, `repeats` how many bytes of those it is handed a second time, and `weights` which of the op's weights it keeps.

    `sizes` are the ports of which only the shape is used. `again` says whether computing the op a second time from the
    same operands gives the same result: not so for one that draws at random.
    """

    macs: Count = _nothing
    other: Count = _nothing
    saves: Callable[[Node, Needs], Iterable[Value]] = _none
    extra: Count = _nothing
    repeats: Count = _nothing
    weights: tuple[str, ...] = ()
    view: bool = False
    stops: bool = False
    sizes: frozenset[str] = frozenset({"like"})
    again: bool = True


RULES: dict[str, Rule] = {
    "Conv2d": Rule(macs=_conv_macs, other=_bias, saves=_operands("x"), extra=_standardized, weights=("weight",)),
    "ConvTranspose2d": Rule(macs=_transposed_macs, other=_bias, saves=_operands("x"), weights=("weight",)),
    "Linear": Rule(macs=_linear_macs, other=_bias, saves=_operands("x"), weights=("weight",)),
    "BatchNorm2d": Rule(
        other=_per_output(2),
        saves=_operands("x"),
        # Mean and inverse deviation of every channel, where they are those of the batch.
        extra=lambda sized: 0 if sized.node.attrs["fixed"] else 2 * 4 * sized.outputs[0][1],
        weights=("weight", "running_mean", "running_var"),
    ),
    "GroupNorm": Rule(
        other=_per_output(7),
        saves=_operands("x"),
        # Mean and inverse deviation of every group.
        extra=lambda sized: 2 * 4 * sized.outputs[0][0] * sized.attr("groups"),
        weights=("weight",),
    ),
    "relu": Rule(other=_per_output(1), saves=_result),
    "sigmoid": Rule(other=_per_output(4), saves=_result),
    "softmax": Rule(other=_per_output(4), saves=_result),
    "scale": Rule(other=_per_output(1)),
    "detach": Rule(view=True, stops=True),
    "add": Rule(other=_per_output(1)),
    "mul": Rule(other=_per_output(1), saves=_factors),
    "max_pool": Rule(
        other=lambda sized: sized.made * sized.attr("kernel") ** 2,
        saves=_operands("x"),
        extra=_per_output(BYTES["int64"]),
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
    "decode_delta": Rule(other=_per_output(8), extra=_per_input("deltas", 8), sizes=frozenset({"image"})),
    # Five tensors of the logits' size, one of them kept by two operations, and two masks.
    "focal_loss": Rule(
        other=_per_input("logits", 20),
        extra=lambda sized: (5 * 4 + 1) * sized.elements("logits") + sized.elements("labels"),
        repeats=_per_input("logits", 4),
    ),
    # The difference, and a mask of the rows that count.
    "l1_loss": Rule(other=_per_input("prediction", 3), extra=_masked(4)),
    "smooth_l1_loss": Rule(
        other=_per_input("prediction", 5), saves=_operands("prediction", "target"), extra=_masked(0)
    ),
    "iou_loss": Rule(other=_per_row(20), saves=_operands("prediction", "target"), extra=_per_row(12 * 4 + 1)),
    "giou_loss": Rule(
        other=_per_row(32),
        saves=_operands("prediction", "target"),
        extra=_per_row(17 * 4 + 1),
        repeats=_per_row(9 * 4),
    ),
    "bounded_iou_loss": Rule(other=_per_row(50), extra=_per_row(27 * 4 + 1)),
    # What is 1 for the row's class, and which rows count.
    "binary_cross_entropy": Rule(
        other=_per_input("logits", 8),
        saves=_operands("logits"),
        extra=lambda sized: 4 * sized.elements("logits") + sized.elements("labels"),
    ),
    # The logarithms of the probabilities, kept by two operations.
    "cross_entropy": Rule(
        other=_per_input("logits", 5),
        saves=_operands("labels"),
        extra=_per_input("logits", 4),
        repeats=_per_input("logits", 4),
    ),
    "mask_loss": Rule(
        other=_per_input("logits", 8), saves=_operands("logits", "targets"), extra=_per_input("labels", 1)
    ),
    "fill": Rule(sizes=frozenset({"x"})),
    "drop_small": Rule(other=_per_output(5)),
    "drop_absent": Rule(other=_per_output(1), extra=_per_input("scores", 1)),
    "assign_levels": Rule(other=_per_output(8)),
    "roi_align": Rule(other=_region_lookups, saves=_operands("boxes", "level")),
    "flatten": Rule(view=True),
    "per_image": Rule(view=True),
    "fields": Rule(view=True),
    # The places in x of what is taken.
    "take_class": Rule(
        saves=_operands("x"),
        extra=_per_input("classes", 8),
        repeats=lambda sized: 8 * (sized.attr("fields") - 1) * sized.elements("classes"),
    ),
    "take_channel": Rule(extra=_per_input("classes", 2 * 8)),
    "inside": Rule(other=_per_output(8), sizes=frozenset({"image"})),
    "assign_regions": Rule(other=_overlaps("boxes", "truth_boxes")),
    "any_object": Rule(other=_per_output(1)),
    "object_numbers": Rule(other=_per_output(1)),
    "sample_rows": Rule(other=_per_input("labels", 1), again=False),
    "keep_rows": Rule(),
    "take_rows": Rule(),
    "count_rows": Rule(other=_per_input("labels", 1)),
    # An object's mask at the region's cells, by two products of matrices.
    "mask_targets": Rule(other=_per_output(64), sizes=frozenset({"image"})),
    "select_top": Rule(other=_per_input("x", 1)),
    "nms": Rule(other=_suppression),
}

# An op of the user's own: nothing is known of it, so it is not run twice either.
_UNKNOWN = Rule(again=False)


def rule_of(node: Node) -> Rule:
    """What is known of a node's op."""
    return RULES.get(node.op, _UNKNOWN)


def reads(node: Node) -> list[Value]:
    """The values that a node looks at; of its other operands it only wants the size."""
    sizes = rule_of(node).sizes
    return [value for port, values in node.inputs if port not in sizes for value in flatten(values)]
