"""Graphs in the making, and pieces of them: what applying a component added, kept to be added again where the same is
applied to inputs of the same types.

The blocks of a stage are alike, the detectors of a file differ in a backbone or a head and share the rest, and an edit
changes one component of some: most of every graph is known already."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any

from detc.compiler.graph import Attribute, Call, Node, Value, Values, Weight
from detc.compiler.modules import Module
from detc.compiler.scope import Bundle, Closure, Function, Levels, Pyramid, Tensor, identity
from detc.dsl.source import Span


@dataclass(frozen=True)
class InitRule:
    """`init TARGET.weight: rule` in the component at `path`, `depth` components deep."""

    path: str
    depth: int
    # An op's name, or a label relative to `path`.
    target: str
    by_op: bool
    weight: str
    rule: tuple[Attribute, ...]


@dataclass
class Made:
    """What components have added so far: to a whole graph, or to a piece that stands under a label of its own."""

    # How many nodes there are around the piece. Its losses, labels and names begin with the ones around it.
    around: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    # The divisor of image sizes that all sums need.
    divisor: int = 1
    calls: list[Call] = field(default_factory=list)
    # By name and index.
    losses: dict[str, dict[tuple[int, ...], Tensor]] = field(default_factory=dict)
    predictions: dict[str, Values] = field(default_factory=dict)
    frozen: list[tuple[str, Span]] = field(default_factory=list)
    ties: list[tuple[str, str, Span]] = field(default_factory=list)
    init_rules: dict[InitRule, None] = field(default_factory=dict)
    # label path -> (what stands there, where).
    labelled: dict[str, tuple[Any, Span]] = field(default_factory=dict)
    # How often each name of a node was asked for.
    names: dict[str, int] = field(default_factory=dict)

    def piece(self) -> Made:
        """What is made next, apart from this."""
        around = self.around + len(self.nodes)
        losses = {name: dict(parts) for name, parts in self.losses.items()}
        return Made(around, losses=losses, labelled=dict(self.labelled), names=dict(self.names))

    def add(self, piece: Made) -> None:
        """What a piece has added is added here."""
        self.nodes.update(piece.nodes)
        self.weights.update(piece.weights)
        self.divisor = lcm(self.divisor, piece.divisor)
        self.calls += piece.calls
        self.losses.update(piece.losses)
        self.predictions.update(piece.predictions)
        self.frozen += piece.frozen
        self.ties += piece.ties
        self.init_rules.update(piece.init_rules)
        self.labelled.update(piece.labelled)
        self.names.update(piece.names)


@dataclass(frozen=True, slots=True)
class Piece:
    """What an application made, and its result."""

    # Keeps alive what the key names by its id.
    closure: Closure
    path: str
    # Where it was applied, and the uses around that: the last origins of each node.
    uses: tuple[Span, ...]
    inputs: tuple[Tensor, ...]
    result: Any
    steps: int
    made: Made
    # How often each of its names was asked for before.
    before: Mapping[str, int]

    def at(self, path: str, uses: tuple[Span, ...], inputs: tuple[Tensor, ...]) -> Piece:
        """The same under another label, of other inputs of the same types."""
        if (path, uses, inputs) == (self.path, self.uses, self.inputs):
            return self
        move = _Move(self, path, uses, inputs)
        before = {move.path(name): count for name, count in self.before.items()}
        result, made = move.result(self.result), move.made(self.made)
        return Piece(self.closure, path, uses, inputs, result, self.steps, made, before)

    def fits(self, around: Made, most: int) -> bool:
        """Whether it would be made the same: its nodes would have the same names, nothing stands under its labels, and
        no more than `most` nodes come of it."""
        return (
            all(around.names.get(name, 0) == count for name, count in self.before.items())
            and around.labelled.keys().isdisjoint(self.made.labelled)
            and around.losses.keys().isdisjoint(self.made.losses)
            and around.around + len(around.nodes) + len(self.made.nodes) <= most
        )

    @classmethod
    def of(
        cls,
        closure: Closure,
        path: str,
        uses: tuple[Span, ...],
        inputs: tuple[Tensor, ...],
        result: Any,
        steps: int,
        made: Made,
        around: Made,
    ) -> Piece | None:
        """What `made` has beyond `around`; None where the piece has a part in what was there, or its result may hold
        anything."""
        before = {n: around.names.get(n, 0) for n, count in made.names.items() if around.names.get(n) != count}
        changed = any(len(made.losses[name]) != len(parts) for name, parts in around.losses.items())
        if changed or any(name in around.labelled for name in before) or not _movable(result):
            return None
        alone = replace(
            made,
            around=0,
            losses={name: parts for name, parts in made.losses.items() if name not in around.losses},
            labelled={label: module for label, module in made.labelled.items() if label not in around.labelled},
            names={name: made.names[name] for name in before},
        )
        return cls(closure, path, uses, inputs, result, steps, alone, before)


class _Move:
    """Writes what stands under one label as if it stood under another."""

    def __init__(self, piece: Piece, path: str, uses: tuple[Span, ...], inputs: tuple[Tensor, ...]) -> None:
        self._start = len(piece.path)
        self._path = path
        self._uses = uses
        self._inputs = {old.value: new for old, new in zip(piece.inputs, inputs, strict=True)}
        self._names = piece.made.nodes
        self._values = {old: new.value for old, new in self._inputs.items()}

    def made(self, made: Made) -> Made:
        path, value, values, start = self.path, self.value, self.values, self._start
        around = len(self._uses)
        nodes = {}
        for n in made.nodes.values():
            inputs = tuple((port, value(v) if isinstance(v, Value) else values(v)) for port, v in n.inputs)
            weights = {name: path(key) for name, key in n.weights.items()}
            origins = n.origins[:-around] + self._uses
            name = path(n.name)
            nodes[name] = Node(name, n.op, inputs, n.attrs, weights, n.types, path(n.scope), origins)
        moved = [
            Weight(path(w.key), w.shape, w.dtype, w.init, w.trainable, w.buffer, w.tied) for w in made.weights.values()
        ]
        calls = [
            Call(
                path(c.path),
                c.component,
                c.kind,
                tuple((way, value(v)) for way, v in c.outputs),
                c.span if len(c.path) > start else self._uses[0],
                c.doc,
            )
            for c in made.calls
        ]
        return Made(
            nodes=nodes,
            weights={w.key: w for w in moved},
            divisor=made.divisor,
            calls=calls,
            losses={name: {i: self.tensor(x) for i, x in parts.items()} for name, parts in made.losses.items()},
            predictions={name: value(v) if isinstance(v, Value) else values(v) for name, v in made.predictions.items()},
            frozen=[(path(label), span) for label, span in made.frozen],
            ties=[(path(one), path(other), span) for one, other, span in made.ties],
            init_rules={
                InitRule(path(r.path), r.depth, r.target, r.by_op, r.weight, r.rule): None for r in made.init_rules
            },
            labelled={path(label): module for label, module in made.labelled.items()},
            names={path(name): count for name, count in made.names.items()},
        )

    def path(self, path: str) -> str:
        """A name below the label; of what has none, names stay."""
        return self._path + path[self._start :]

    def value(self, value: Value) -> Value:
        found = self._values.get(value)
        if found is None:
            # What is not made here is an input of the graph: the truth, while training.
            own = value.node in self._names
            found = self._values[value] = Value(self.path(value.node), value.output) if own else value
        return found

    def values(self, values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(self.value(v) for v in values)

    def tensor(self, tensor: Tensor) -> Tensor:
        if tensor.value in self._inputs:
            return self._inputs[tensor.value]
        value = self.value(tensor.value)
        return tensor if value == tensor.value else Tensor(value, tensor.type, tensor.span, value.node)

    def result(self, result: Any) -> Any:
        match result:
            case Tensor():
                return self.tensor(result)
            case Pyramid():
                return Pyramid({level: self.result(item) for level, item in result.entries.items()}, result.span)
            case Bundle():
                return Bundle({name: self.result(item) for name, item in result.entries.items()})
            case tuple():
                return tuple(self.result(item) for item in result)
        return result


def _movable(result: Any) -> bool:
    """Whether a result is made of tensors and plain values: a function may hold anything."""
    match result:
        case Pyramid() | Bundle():
            return all(_movable(item) for item in result.entries.values())
        case tuple():
            return all(_movable(item) for item in result)
    return result is None or isinstance(result, Tensor | Levels | int | float | Fraction | str)


def given(value: Any, tensors: dict[Value, Tensor]) -> Hashable:
    """What makes two inputs of a component the same, whatever they are called: types, and which of them are one value.
    The tensors are put into `tensors`, each once."""
    match value:
        case Tensor():
            tensors.setdefault(value.value, value)
            return list(tensors).index(value.value), value.type
        case Pyramid():
            return value.span, tuple((level, given(item, tensors)) for level, item in value.entries.items())
        case Bundle():
            return tuple((name, given(item, tensors)) for name, item in value.entries.items())
        case tuple():
            return tuple(given(item, tensors) for item in value)
    return identity(value)


def modules_of(value: Any) -> set[Module | None]:
    """The files that declare what a static value is made of, without what those import; None for those of a function,
    which may see any."""
    match value:
        case Closure():
            return {value.module}.union(*(modules_of(bound.value) for bound in value.arguments.values()))
        case tuple():
            return set().union(*(modules_of(item) for item in value))
        case Pyramid() | Bundle():
            return set().union(*(modules_of(item) for item in value.entries.values()))
        case Function():
            return {None}
    return set()
