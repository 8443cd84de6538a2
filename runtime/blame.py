"""Which value of a graph is the first that an exported detector gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detc.compiler.emit.static import Part, label
from detc.compiler.graph import Graph, Node, Value
from detc.dsl.catalogue.export import EXPORT_DISAGREES
from detc.dsl.diagnostics import Diagnostic
from detc.runtime.agreement import (
    BOX_SHARE,
    BOX_TOLERANCE,
    HEAD_TOLERANCE,
    MATCHED_SHARE,
    SCORE_TOLERANCE,
    Verification,
    head_error,
    inputs_like,
    made_up_parts,
)
from detc.runtime.judge import Candidate, Judge


@dataclass(frozen=True)
class Fault:
    """The first value, in the order of the graph, that is wrong: what the exported graph's node gives, and how
    wrong."""

    node: Node
    value: Value
    error: str

    def __str__(self) -> str:
        return f"{label(self.value)}, of {self.node.op}, is the first value that differs: {self.error}"


def disagreement(summary: str, verification: Verification, fault: Fault | None) -> Diagnostic:
    """What is told of an exported detector that does not agree: at the first value that is wrong, the report."""
    if fault is None:
        return EXPORT_DISAGREES.at(None, summary, detail=str(verification))
    span = fault.node.origins[0] if fault.node.origins else None
    return EXPORT_DISAGREES.at(span, summary, label=str(fault), detail=f"{verification}\n{fault}")


def first_wrong(judge: Judge, candidate: Candidate, shape: tuple[int, int, int, int]) -> Fault | None:
    """The first value that the candidate computes wrongly, given the right ones before its part; None where each part
    by itself is right."""
    inputs = inputs_like(judge.graph, 0, shape)
    values = judge.values(inputs)
    for index, part in enumerate(judge.parts):
        if not part.chooses:
            fault = _in_part(judge, candidate, index, part, [values[value] for value in part.given])
            if fault is not None:
                return fault
    for index, part, given in made_up_parts(judge, values):
        fault = _in_part(judge, candidate, index, part, given)
        if fault is not None:
            return fault
    return None


def _in_part(judge: Judge, candidate: Candidate, index: int, part: Part, given: Sequence[np.ndarray]) -> Fault | None:
    """The first wrong value of a part.

    Each value alone is looked at first. Where all are right and the part is not, it is what the compiler makes of
    several nodes at once that is wrong: then the least stretch from the part's beginning is looked for that is wrong as
    a whole, only its ends being shown.
    """
    nodes = [node for node in part.graph.nodes if node.op != "constant"]
    everything = [Value(node.name, place) for node in nodes for place in range(len(node.types))]
    expected = judge.inside(index, given, everything)
    found = dict(zip(part.results, candidate.part(index, given), strict=True))
    whole = _first(part, expected, found)
    if whole is None:
        return None
    alone = _first(part, expected, candidate.inside(index, given, list(expected)))
    if alone is not None:
        return alone
    low, high = 0, len(nodes)
    while high - low > 1:
        middle = (low + high) // 2
        ends = [value for value in _ends(part, nodes[:middle]) if value in expected]
        fault = _first(part, expected, candidate.inside(index, given, ends)) if ends else None
        if fault is None:
            low = middle
        else:
            high, whole = middle, fault
    return whole


def _ends(part: Part, nodes: Sequence[Node]) -> list[Value]:
    """What these first nodes of a part give to others, or as its results."""
    inside = {node.name for node in nodes}
    taken = {v for node in part.graph.nodes if node.name not in inside for v in node.operands} | set(part.results)
    values = (Value(node.name, place) for node in nodes for place in range(len(node.types)))
    return [value for value in values if value in taken]


def _first(part: Part, expected: Mapping[Value, np.ndarray], found: Mapping[Value, np.ndarray]) -> Fault | None:
    present: dict[Value, np.ndarray] = {}
    for node in part.graph.nodes:
        there = _present(part.graph, node, expected, present)
        for place in range(len(node.types)):
            value = Value(node.name, place)
            if there is not None:
                present[value] = there
            if value in found and value in expected:
                error = _wrong(expected[value], found[value], there if part.chooses else None, chosen=part.chooses)
                if error:
                    return Fault(node, value, error)
    return None


def _present(
    graph: Graph, node: Node, values: Mapping[Value, np.ndarray], present: Mapping[Value, np.ndarray]
) -> np.ndarray | None:
    """Which rows (N, k) of what a node gives stand for something: not those beyond the candidates that there are."""
    if node.op in {"select_top", "nms"}:
        scores = Value(node.name, 0 if node.op == "select_top" else 1)
        there: np.ndarray | None = values[scores] > 0 if scores in values else None
        return there
    rows = [present[value] for value in node.operands if value in present]
    if node.op == "concat":
        return np.concatenate(rows, axis=1) if len(rows) == len(node.operands) else None
    return rows[-1] if rows and len(node.type.shape) > 1 else None


def _wrong(expected: np.ndarray, actual: np.ndarray, there: np.ndarray | None, *, chosen: bool) -> str:
    """How wrong a value is, in words; none if it is right. Of what is chosen, most rows are to be right."""
    if expected.shape != actual.shape:
        return f"its shape is {actual.shape}, not {expected.shape}"
    if not chosen:
        error = head_error(expected, actual)
        return "" if error <= HEAD_TOLERANCE else f"it is off by {error:.1e} where its largest value counts as 1"
    if expected.dtype.kind == "f":
        largest = float(np.max(np.abs(expected), initial=0.0))
        least = SCORE_TOLERANCE if largest <= 1 else BOX_TOLERANCE
        wrong = ~(np.abs(expected - actual) <= np.maximum(least, BOX_SHARE * np.abs(expected)))
    else:
        wrong = expected != actual
    rows = wrong.reshape(*wrong.shape[:2], -1).any(axis=2)
    if there is not None and there.shape == rows.shape:
        rows = rows[there]
    if rows.sum() <= (1 - MATCHED_SHARE) * rows.size:
        return ""
    return f"{rows.sum()} of {rows.size} rows are wrong"
