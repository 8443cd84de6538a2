"""What differs between two detectors: settings, components, weights and arithmetic, by component."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import Any, Literal

from detc.compiler.dims import equal
from detc.compiler.elaborate import Elaborated
from detc.compiler.graph import Graph, Node, Value, Weight, flatten
from detc.compiler.provenance import shown
from detc.compiler.scope import Closure
from detc.compiler.types import TensorType
from detc.compiler.values import Record

# A path, and what is there in the first and in the second detector.
_Told = tuple[str, str | None, str | None]

What = Literal["setting", "component", "weight", "attribute", "nodes", "wiring", "output"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, at `path`. `before` is None for what is new, `after` for what is gone.

    Numbers in a path that stand for several alike are written *; `count` says how many. `breaks` says that a checkpoint
    of the first detector does not load into the second because of it. `inside` says that `before` and `after` only
    count the weights inside a component that was replaced.
    """

    what: What
    path: str
    before: str | None
    after: str | None
    count: int = 1
    breaks: bool = False
    inside: bool = False

    @property
    def component(self) -> str:
        """The outermost label that it belongs to."""
        return self.path.split(".")[0]


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from the first detector to the second.

    `missing` are the keys that the second needs and a checkpoint of the first lacks, `extra` those that it has in vain,
    and `reshaped` those whose shape differs, with both shapes.
    """

    changes: list[Change] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def loads(self) -> bool:
        """Whether a checkpoint of the first detector loads into the second."""
        return not (self.missing or self.extra or self.reshaped)


def differences(a: Elaborated, b: Elaborated) -> Difference:
    """What changes from detector `a` to detector `b`; their names and published figures do not count."""
    found = compare(a.graph, b.graph)
    before, after = _settings(a), _settings(b)
    settings = [
        Change("setting", path, before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]
    return Difference([*settings, *found.changes], found.missing, found.extra, found.reshaped)


def compare(a: Graph, b: Graph) -> Difference:
    """What changes from graph `a` to graph `b`, whatever their specs say."""
    found = Difference()
    replaced = _components(a, b, found)
    _weights(a, b, found, replaced)
    _nodes(a, b, found, replaced)
    _outputs(a, b, found)
    if a.size_divisor != b.size_divisor:
        found.changes.append(Change("attribute", "size divisor", str(a.size_divisor), str(b.size_divisor)))
    return found


def _settings(detector: Elaborated) -> dict[str, str]:
    """What the spec sets, as text, by path: components' arguments as written, data and schedule with their defaults."""
    found: dict[str, str] = {}

    def walk(path: str, value: Any) -> None:
        match value:
            case Closure():
                found[path] = value.name
                for name, bound in value.arguments.items():
                    walk(f"{path}.{name}", bound.value)
            case Record():
                found[path] = value.name
                for name, inner in value.fields.items():
                    walk(f"{path}.{name}", inner)
            case tuple() if any(isinstance(inner, Closure | Record) for inner in value):
                for index, inner in enumerate(value):
                    walk(f"{path}.{index}", inner)
            case _:
                found[path] = shown(value)

    records = {"data": detector.data, "schedule": detector.schedule}
    for name, bound in {**detector.value.model.arguments, **detector.value.fields}.items():
        if name not in ("reported", "classes", *records):
            walk(name, bound.value)
    for name, record in records.items():
        if record is not None:
            walk(name, record)
    found["classes"] = shown(detector.classes)
    return found


def _components(a: Graph, b: Graph, found: Difference) -> dict[str, None]:
    """Notes the components that differ; gives the paths of the outermost ones, whose insides are only counted."""
    before, after = ({call.path: call.component for call in graph.calls} for graph in (a, b))
    replaced: dict[str, None] = {}
    # Calls end from the inside out; outermost first, what is inside a replaced component is known to be.
    for path in sorted({*before, *after}, key=lambda path: path.count(".")):
        old, new = before.get(path), after.get(path)
        if old != new and _within(path, replaced) is None:
            replaced[path] = None
    changes = (
        (path, before.get(path), after.get(path)) for path in dict.fromkeys([*before, *after]) if path in replaced
    )
    for (pattern, old, new), count in _alike(changes).items():
        found.changes.append(Change("component", pattern, old, new, count))
    return replaced


def _within(path: str, components: Mapping[str, None]) -> str | None:
    """The one of some components that a label path is in."""
    labels = path.split(".")
    prefixes = (".".join(labels[: depth + 1]) for depth in range(len(labels)))
    return next((prefix for prefix in prefixes if prefix in components), None)


def _weights(a: Graph, b: Graph, found: Difference, replaced: Mapping[str, None]) -> None:
    changes: list[_Told] = []
    inside: dict[str, Counter[str]] = {}
    for key in dict.fromkeys([*a.weights, *b.weights]):
        old, new = a.weights.get(key), b.weights.get(key)
        if old is None:
            found.missing.append(key)
        elif new is None:
            found.extra.append(key)
        elif old.shape != new.shape:
            found.reshaped[key] = (old.shape, new.shape)
        elif old == new:
            continue
        place = _within(key, replaced)
        if place is None:
            shape_only = old is None or new is None or old.shape != new.shape
            described = [None if weight is None else _weight_text(weight, shape_only) for weight in (old, new)]
            changes.append((key, described[0], described[1]))
        elif old is None or new is None or old.shape != new.shape:
            kind = "new" if old is None else "gone" if new is None else "reshaped"
            inside.setdefault(place, Counter())[kind] += 1
    for (pattern, before, after), count in _alike(changes).items():
        shapes = [text and text.split("]")[0] for text in (before, after)]
        found.changes.append(Change("weight", pattern, before, after, count, shapes[0] != shapes[1]))
    patterns: dict[str, Counter[str]] = {}
    for place, counts in inside.items():
        patterns.setdefault(_pattern(place), Counter()).update(counts)
    for pattern, counts in patterns.items():
        now = ", ".join(f"{counts[kind]} {kind}" for kind in ("new", "reshaped") if counts[kind])
        was = f"{counts['gone']} gone" if counts["gone"] else None
        found.changes.append(Change("weight", pattern, was, now or None, breaks=True, inside=True))


def _weight_text(weight: Weight, shape_only: bool) -> str:
    shape = f"[{', '.join(map(str, weight.shape))}]"
    if shape_only:
        return shape
    parts = [shape, f"{weight.init[0]}({', '.join(map(shown, weight.init[1:]))})"]
    if not weight.trainable:
        parts.append("frozen")
    if weight.tied is not None:
        parts.append(f"tied to {weight.tied}")
    return " ".join(parts)


def _nodes(a: Graph, b: Graph, found: Difference, replaced: Mapping[str, None]) -> None:
    before, after = ({node.name: node for node in graph.nodes} for graph in (a, b))
    attributes: list[_Told] = []
    wiring: list[_Told] = []
    gone: dict[str, Counter[str]] = {}
    new: dict[str, Counter[str]] = {}
    for name in dict.fromkeys([*before, *after]):
        old, now = before.get(name), after.get(name)
        if _within(name, replaced) is not None:
            continue
        if old is None or now is None or old.op != now.op:
            for node, counts in ((old, gone), (now, new)):
                if node is not None:
                    counts.setdefault(_pattern(node.scope), Counter())[node.op] += 1
            continue
        for attribute in dict.fromkeys([*old.attrs, *now.attrs]):
            values = [node.attrs.get(attribute) for node in (old, now)]
            if values[0] != values[1]:
                attributes.append((f"{name}.{attribute}", shown(values[0]), shown(values[1])))
        operands = [_operands(node, replaced) for node in (old, now)]
        if operands[0] != operands[1]:
            wiring.append((name, operands[0], operands[1]))
    for what, changes in (("attribute", attributes), ("wiring", wiring)):
        found.changes.extend(
            Change(what, pattern, was, is_, count)  # type: ignore[arg-type]
            for (pattern, was, is_), count in _alike(changes).items()
        )
    for scope in dict.fromkeys([*gone, *new]):
        texts = [
            ", ".join(
                f"{count} {op}" for op, count in (counts.get(scope, Counter()) - others.get(scope, Counter())).items()
            )
            for counts, others in ((gone, new), (new, gone))
        ]
        if any(texts):
            found.changes.append(Change("nodes", scope, texts[0] or None, texts[1] or None))


def _operands(node: Node, replaced: Mapping[str, None]) -> str:
    """What a node takes, up to the numbers that tell nodes of one op apart and what is inside replaced components."""

    def name(value: Value) -> str:
        return f"%{_within(value.node, replaced) or _pattern(str(value).removeprefix('%'))}"

    return ", ".join(f"{port}: {' '.join(map(name, flatten(values)))}" for port, values in node.inputs)


def _outputs(a: Graph, b: Graph, found: Difference) -> None:
    divisor = lcm(a.size_divisor, b.size_divisor)

    def results(graph: Graph) -> dict[str, list[TensorType]]:
        return {
            f"{view}.{name}" if name else view: [graph.type_of(value) for value in flatten(values)]
            for view, outputs in graph.views.items()
            for name, values in outputs.items()
        }

    def agree(old: TensorType, new: TensorType) -> bool:
        sizes = zip(old.shape, new.shape, strict=False)
        same = old.dtype == new.dtype and len(old.shape) == len(new.shape)
        return same and all(equal(x, y, divisor) for x, y in sizes)

    before, after = results(a), results(b)
    for path in dict.fromkeys([*before, *after]):
        old, new = before.get(path, []), after.get(path, [])
        if len(old) != len(new) or not all(map(agree, old, new)):
            texts = [", ".join(dict.fromkeys(map(str, types))) for types in (old, new)]
            found.changes.append(Change("output", path, texts[0] or None, texts[1] or None))


_NUMBER = re.compile(r"(?<![A-Za-z])\d+(?![A-Za-z])")


def _pattern(path: str) -> str:
    """A path with every number that is a label, or counts nodes of one op, as *."""
    return _NUMBER.sub("*", path)


def _alike(changes: Iterable[_Told]) -> Counter[_Told]:
    """Changes that are the same but for numbers in their paths, counted; one alone keeps its path."""
    listed = list(changes)
    counts = Counter((_pattern(path), before, after) for path, before, after in listed)
    told: Counter[_Told] = Counter()
    for path, before, after in listed:
        key = (_pattern(path), before, after)
        told[key if counts[key] > 1 else (path, before, after)] += 1
    return told
