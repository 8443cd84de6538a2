"""What the inference targets share: a predict graph at one image size, and the constants that follow from the size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from detc.compiler.graph import Graph, Node, Value, flatten
from detc.dsl.catalogue.export import OP_WITHOUT_LOWERING
from detc.dsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy as np

# Where post-processing starts: the first choice among candidates. What precedes it is the network.
_CHOOSES = frozenset({"select_top", "nms"})

# The outputs of every predict view, in the order in which targets return them.
OUTPUTS = ("boxes", "scores", "classes")


@dataclass(frozen=True)
class Static:
    """A graph whose view `predict` is emitted for `batch` images of `height` x `width` pixels."""

    graph: Graph
    batch: int
    height: int
    width: int

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value."""
        return self.graph.type_of(value).at(self.batch, self.height, self.width)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""
        return self.graph.inputs["image"].at(self.batch, self.height, self.width)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Boxes, scores and classes."""
        predict = self.graph.views["predict"]
        return tuple(flatten(predict[name])[0] for name in OUTPUTS)


def require_lowerings(graph: Graph, lowerings: Container[str], target: str) -> None:
    """Raises a DiagnosticError that names every op (once, at its first node) which `lowerings` does not have."""
    missing: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op not in lowerings:
            missing.setdefault(node.op, node)
    if missing:
        raise DiagnosticError(unsupported(node, target, f"{node.op} has no lowering") for node in missing.values())


def unsupported(node: Node, target: str, why: str) -> Diagnostic:
    """The diagnostic for a node that a target cannot take."""
    return OP_WITHOUT_LOWERING.at(
        node.origins[0] if node.origins else None,
        f"cannot export to {target}: {why}",
        label=f"{node.op} is applied here",
        detail=f"the node is {node.name}",
    )


def heads(graph: Graph) -> dict[str, Value]:
    """The network's results: what post-processing takes from it, by name of the node (and output).

    Constants (anchors) are not among them.
    """
    late: set[str] = set()
    computed = set(graph.inputs)
    found: dict[str, Value] = {}
    for node in graph.nodes:
        if node.op in _CHOOSES or any(v.node in late for v in node.operands):
            late.add(node.name)
            for value in node.operands:
                if value.node not in late and value.node in computed and value.node not in graph.inputs:
                    found[str(value).removeprefix("%")] = value
        elif node.op != "anchor_grid" and any(v.node in computed for v in node.operands):
            computed.add(node.name)
    for values in graph.views["predict"].values():
        for value in flatten(values):
            if value.node not in late:
                found[str(value).removeprefix("%")] = value
    return found


def pair(attribute: object) -> tuple[int, int]:
    """An attribute for height and width: one number for both, or two."""
    if isinstance(attribute, int):
        return attribute, attribute
    assert isinstance(attribute, tuple) and len(attribute) == 2
    return attribute


def numbers(attribute: object) -> tuple[float, ...]:
    """A list attribute as floats."""
    assert isinstance(attribute, tuple)
    return tuple(float(v) for v in attribute)


def number(attribute: object) -> float:
    """A number attribute."""
    assert isinstance(attribute, int | float | Fraction)
    return float(attribute)


def anchors(attrs: Mapping[str, object], height: int, width: int) -> np.ndarray:
    """The result of `anchor_grid` over a height x width feature: (H * W * A, 4) float32 boxes in pixels."""
    import numpy as np

    step = number(attrs["step"])
    base = step if attrs["base"] is None else number(attrs["base"])
    root = np.sqrt(np.array(numbers(attrs["ratios"])))[:, None]
    scales = np.array(numbers(attrs["scales"]))[None, :]
    half_height = (base * root * scales).reshape(-1) / 2
    half_width = (base / root * scales).reshape(-1) / 2
    centre = number(attrs["offset"]) * base
    y = np.arange(height)[:, None, None] * step + centre
    x = np.arange(width)[None, :, None] * step + centre
    corners = np.broadcast_arrays(x - half_width, y - half_height, x + half_width, y + half_height)
    return np.stack(corners, axis=-1).reshape(-1, 4).astype(np.float32)
