"""Plans the picture of a neck: levels as rows, stages as columns, as papers draw it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import networkx as nx

from detc.compiler.draw.parts import Part, sources
from detc.compiler.graph import Graph, Value

# What an arrow does: stays at its level between neighbouring columns, goes to a coarser or a finer level, or stays at
# its level and passes over columns.
Kind = Literal["same", "up", "down", "skip"]


@dataclass(slots=True)
class Cell:
    """One feature of the picture: at `level` (log2 of its stride), in `column`. `merges` is what joins several features
    there ("add", or a component), empty where nothing is joined."""

    value: Value
    level: int
    merges: str = ""
    path: str = ""
    column: int = 0


@dataclass(slots=True)
class Arrow:
    """From one cell to another, through the components at `path`; `label` is their last label."""

    source: Value
    target: Value
    path: str = ""
    label: str = ""
    kind: Kind = "same"


@dataclass(frozen=True, slots=True)
class Column:
    """What a column's arrows come through: a shared label and, among numbered siblings, the number."""

    label: str
    number: str = ""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Columns `first` to `last` stand for `times` equal components one after another."""

    first: int
    last: int
    name: str
    times: int


@dataclass(slots=True)
class Plan:
    """A neck's picture. `inputs` and `outputs` are the cells at its left and right end."""

    part: Part
    cells: dict[Value, Cell]
    arrows: list[Arrow]
    inputs: list[Value]
    outputs: list[Value]
    columns: list[Column] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def levels(self) -> list[int]:
        """Finest first."""
        return sorted({cell.level for cell in self.cells.values()})


def plan(graph: Graph, part: Part) -> Plan | None:
    """The picture of a component that turns a pyramid into a pyramid, joining its levels; None where it does not."""
    if part.call is None:
        return None
    inputs = _by_level(graph, sources(graph, part))
    outputs = _by_level(graph, (value for _, value in part.call.outputs))
    if any(len({level_of(graph, v) for v in values}) < 2 for values in (inputs, outputs)):
        return None
    flow = _Flow(graph, part)
    picture = flow.picture(inputs, [flow.stands_for(v) for v in outputs])
    if all(picture.cells[arrow.source].level == picture.cells[arrow.target].level for arrow in picture.arrows):
        return None
    _place(picture)
    _classify(picture)
    picture.columns = _columns(picture)
    picture.repeats = [
        Repeat(min(columns), max(columns), name, times)
        for name, times, nodes in flow.repeats
        if (columns := {cell.column for cell in picture.cells.values() if cell.value.node in nodes})
    ]
    return picture


def level_of(graph: Graph, value: Value) -> int | None:
    """log2 of a feature's stride, where that is a whole number."""
    type_ = graph.type_of(value)
    if not type_.is_feature or type_.stride is None or type_.stride.denominator != 1:
        return None
    stride = type_.stride.numerator
    return stride.bit_length() - 1 if stride & (stride - 1) == 0 else None


def _by_level(graph: Graph, values: Iterable[Value]) -> list[Value]:
    """The features among values, each once, finest first."""
    levels = {value: level for value in values if (level := level_of(graph, value)) is not None}
    return sorted(levels, key=lambda value: levels[value])


class _Flow:
    """Which parts of a neck feed which, with equal components in a row folded into the first of them."""

    def __init__(self, graph: Graph, part: Part) -> None:
        self.graph = graph
        self.part = part
        self.repeats: list[tuple[str, int, frozenset[str]]] = []
        self.opened: list[frozenset[str]] = []
        self.folded: dict[Value, Value] = {}
        self.entering: set[Value] = set()
        self.made_by: dict[str, Part] = {}
        if part.call is not None and part.call.kind == "cell":
            self.opened.append(part.nodes)
        self.steps = list(self._expand(part))
        for step in self.steps:
            self.made_by.update(dict.fromkeys(step.nodes, step))

    def stands_for(self, value: Value) -> Value:
        """The value that is drawn for this one: that of the first of the equal components."""
        return self.folded.get(value, value)

    def _expand(self, part: Part) -> Iterable[Part]:
        """The steps of a neck: nodes and components with one result; a component with several levels is opened."""
        inner = list(part)
        index = 0
        while index < len(inner):
            step = inner[index]
            index += 1
            if not self._opens(step):
                yield step
                continue
            self.entering.update(self._taken(step))
            self.opened.append(step.nodes)
            times = 1
            last = step
            while index < len(inner) and self._repeats(last, inner[index]):
                last = inner[index]
                self.folded.update(zip(self._results(last), self._results(step), strict=True))
                index += 1
                times += 1
            if times > 1:
                self.repeats.append((step.name, times, step.nodes))
            yield from self._expand(step)

    def _results(self, step: Part) -> list[Value]:
        assert step.call is not None
        return [value for _, value in step.call.outputs]

    def _opens(self, step: Part) -> bool:
        return step.call is not None and len({level_of(self.graph, value) for value in self._results(step)}) > 1

    def _repeats(self, step: Part, following: Part) -> bool:
        """Whether `following` does to the results of `step` alone what `step` did to its operands."""
        if following.call is None or step.call is None or following.name != step.name:
            return False
        levels = [[level_of(self.graph, v) for v in self._results(s)] for s in (step, following)]
        ops = [Counter(self.graph[name].op for name in s.nodes) for s in (step, following)]
        return levels[0] == levels[1] and ops[0] == ops[1] and set(self._taken(following)) <= set(self._results(step))

    def _taken(self, step: Part) -> list[Value]:
        return [v for v in sources(self.graph, step) if level_of(self.graph, v) is not None]

    def picture(self, inputs: list[Value], outputs: list[Value]) -> Plan:
        """Cells where features come in, are joined, are used several times, or go out; arrows are what lies between."""
        graph = self.graph
        users: Counter[Value] = Counter()
        joins: dict[Value, str] = {}
        paths: dict[Value, str] = {}
        operands: dict[Value, list[Value]] = {}
        for step in self.steps:
            taken = [self.stands_for(v) for v in self._taken(step)]
            for value in taken:
                users[value] += 1
            for result in self._made(step):
                operands[result] = taken
                paths[result] = step.path
                if len(taken) > 1:
                    joins[result] = "GP" if self._is_gated(step) else step.name
        absorbed = {
            v
            for v in joins
            if users[v] == 1 and v not in outputs and joins[v] == "add" and self._is_sum(v) and self._feeds_sum(v)
        }
        ends = {*inputs, *outputs, *self.entering, *(set(joins) - absorbed), *(v for v, n in users.items() if n > 1)}
        cells: dict[Value, Cell] = {}
        arrows: list[Arrow] = []

        def trace(value: Value, target: Value, path: str, label: str) -> None:
            """Follows a way into a cell back to where it starts; the first component on it gives it its name."""
            if value in ends:
                arrows.append(Arrow(value, target, path, label))
                return
            step = self.made_by[value.node]
            if step.call is not None or (step.node is not None and step.node.weights):
                path, label = step.path, step.label
            for operand in operands[value]:
                trace(operand, target, path, label)

        for value in [*inputs, *(v for v in operands if v in ends)]:
            level = level_of(graph, value)
            assert level is not None
            cells[value] = Cell(value, level, joins.get(value, ""), paths.get(value, ""))
        for value in cells:
            if value not in inputs:
                for operand in operands[value]:
                    for path, label in _ways(graph, operand, self.made_by[value.node]):
                        trace(operand, value, path, label)
        picture = Plan(self.part, cells, arrows, inputs, outputs)
        self._splice(picture)
        return picture

    def _splice(self, picture: Plan) -> None:
        """Takes out what no figure shows: a feature that only changes its size on the way into one join, which uses it
        twice, and in a cell the convolution after each join, which belongs to it."""
        cells, arrows = picture.cells, picture.arrows
        for value in [v for v in cells if v not in {*picture.inputs, *picture.outputs, *self.entering}]:
            into = [a for a in arrows if a.target == value]
            out = [a for a in arrows if a.source == value]
            made_by = self.made_by[value.node]
            if len(into) == 1 and len(out) == 1 and made_by.node is not None and not made_by.node.weights:
                del cells[value]
                arrows.remove(into[0])
                out[0].source = into[0].source
        for inside in self.opened:
            joins = [v for v, cell in cells.items() if cell.merges and v.node in inside]
            after = {v: [a for a in arrows if a.source == v] for v in joins}
            if not joins or any(len(out) != 1 for out in after.values()):
                continue
            for join, (arrow,) in after.items():
                cell = cells.get(arrow.target)
                into = [a for a in arrows if a.target == arrow.target]
                if cell is None or cell.merges or len(into) > 1 or cell.level != cells[join].level:
                    continue
                cell.merges = cells[join].merges
                arrows.remove(arrow)
                for other in arrows:
                    if other.target == join:
                        other.target = arrow.target
                        other.path = other.path or arrow.path
                del cells[join]

    def _made(self, step: Part) -> list[Value]:
        """The features that a step makes and others use."""
        if step.call is not None:
            values = self._results(step)
        else:
            assert step.node is not None
            values = [Value(step.node.name, i) for i in range(len(step.node.types))]
        return [value for value in values if level_of(self.graph, value) is not None]

    def _is_sum(self, value: Value) -> bool:
        made_by = self.made_by[value.node]
        return made_by.node is not None and made_by.node.op == "add"

    def _is_gated(self, step: Part) -> bool:
        """Whether a sum is that of global pooling (Ghiasi et al., 2019): one feature weighs the other's channels."""
        return step.name == "add" and any(
            made_by.name == "mul" and any(level_of(self.graph, v) is None for v in sources(self.graph, made_by))
            for value in self._taken(step)
            if (made_by := self.made_by.get(value.node)) is not None
        )

    def _feeds_sum(self, value: Value) -> bool:
        """Whether a sum's only user is a sum at its level, so that the two are one."""
        (user,) = [s for s in self.steps if value in map(self.stands_for, self._taken(s))]
        results = self._made(user)
        return len(results) == 1 and self._is_sum(results[0]) and user.name == self.made_by[value.node].name


def _ways(graph: Graph, value: Value, step: Part) -> list[tuple[str, str]]:
    """The path and label of every way that a value takes into a step: the step's, or where it joins several, inside."""
    if len(sources(graph, step)) == 1:
        named = step.call is not None or (step.node is not None and step.node.weights)
        return [(step.path, step.label) if named else ("", "")]
    ways = []
    reached = {value}
    for inner in step:
        taken = sources(graph, inner)
        if len(taken) == 1 and taken[0] in reached:
            if inner.call is not None or (inner.node is not None and inner.node.weights):
                ways.append((inner.path, inner.path.removeprefix(f"{step.path}.").split(".")[0]))
            else:
                reached.update(Value(name) for name in inner.nodes)
    return ways or [("", "")]


def _place(picture: Plan) -> None:
    """Gives every cell its column.

    At one level every cell has a column of its own; an arrow between levels may stand upright. A cell that joins
    nothing yet comes as early as it can, so that all that leads into the neck is in line; every other
    comes as late as it can, so that all of a stage is in line though its first arrows come from different stages.
    """
    order = nx.MultiDiGraph()
    order.add_nodes_from(picture.cells)
    for arrow in picture.arrows:
        step = picture.cells[arrow.source].level == picture.cells[arrow.target].level
        leaves = arrow.source in picture.inputs
        order.add_edge(arrow.source, arrow.target, step=int(step or leaves))
    sequence = list(nx.topological_sort(order))
    for level in picture.levels:
        at_level = [value for value in sequence if picture.cells[value].level == level]
        order.add_edges_from(pairwise(at_level), step=1)
    early: dict[Value, int] = {}
    plain: set[Value] = set()
    for value in sequence:
        edges = list(order.in_edges(value, data="step"))
        early[value] = max((early[source] + step for source, _, step in edges), default=0)
        if value in picture.inputs or (
            not picture.cells[value].merges and all(source in plain for source, _, _ in edges)
        ):
            plain.add(value)
    last = max(early.values())
    late: dict[Value, int] = {}
    for value in reversed(sequence):
        edges = list(order.out_edges(value, data="step"))
        late[value] = min((late[target] - step for _, target, step in edges), default=last)
        if value in plain and value not in picture.outputs:
            late[value] = early[value]
        picture.cells[value].column = late[value]


def _classify(picture: Plan) -> None:
    """Gives every arrow its kind: what most of those with its label do, so that a short skip is still one."""
    votes: dict[str, Counter[Kind]] = {}
    for arrow in picture.arrows:
        source, target = picture.cells[arrow.source], picture.cells[arrow.target]
        if source.level != target.level:
            arrow.kind = "up" if target.level > source.level else "down"
        elif target.column - source.column > 1:
            arrow.kind = "skip"
        votes.setdefault(arrow.label, Counter())[arrow.kind] += 1
    for arrow in picture.arrows:
        (kind, _) = votes[arrow.label].most_common(1)[0]
        if arrow.label and {arrow.kind, kind} == {"same", "skip"}:
            arrow.kind = kind


_NUMBERED = re.compile(r"(.*?)\.?(\d+)(\..*)?")


def _columns(picture: Plan) -> list[Column]:
    """Names the columns after the label path that all arrows into them go through."""
    columns: list[Column] = []
    for column in range(1 + max(cell.column for cell in picture.cells.values())):
        paths = [a.path.split(".") for a in picture.arrows if picture.cells[a.target].column == column and a.path]
        shared: list[str] = []
        for labels in zip(*paths, strict=False):
            if len(set(labels)) > 1:
                break
            shared.append(labels[0])
        shared = shared[picture.part.path.count(".") + 1 :]
        match = _NUMBERED.fullmatch(".".join(shared))
        columns.append(Column(match[1], match[2]) if match else Column(".".join(shared)))
    return columns
