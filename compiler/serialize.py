"""The two written forms of a graph: text, for people and goldens, and JSON, for tools. Both read back.

The text form has one node a line:

    %neck.p3 = Conv2d(x: %neck.m3) {channels: 256, kernel: 3} <weight: neck.fpn_convs.0.conv.weight>
               -> float32[N, 256, ceil(H/8), ceil(W/8)] /8 @ neck.fpn_convs.0

that is: value = op(ports) {attributes} <weights> -> types @ scope, on a single line. `graph.lark` is its grammar.
Neither form gives back the places of a spec that nodes and calls come from: a spec that is only moved has the same text
form. The JSON form names those places, and has the calls' documentation, for tools.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken

from detc.compiler.dims import Dim, Size
from detc.compiler.graph import Attribute, Call, Graph, Node, Value, Values, Weight
from detc.compiler.types import TensorType

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class GraphSyntaxError(ValueError):
    """A text that is not the text form of a graph. The message says at which line and column."""


def to_text(graph: Graph) -> str:
    """The text form of a graph: the same graph always gives the same text, and `from_text` gives the graph back."""
    lines = [f"graph {_name(graph.name)} {{", f"  size_divisor {graph.size_divisor}"]
    lines += [f"  input {_value(Value(name))}: {type_}" for name, type_ in graph.inputs.items()]
    lines += [f"  {_weight(weight)}" for weight in graph.weights.values()]
    lines += [f"  {_node(node)}" for node in graph.nodes]
    lines += [f"  {_call(call)}" for call in graph.calls]
    for view, outputs in graph.views.items():
        lines.append(f"  view {_name(view)} {{")
        lines += [f"    {_name(name)} = {_values(values)}" for name, values in outputs.items()]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def from_text(text: str) -> Graph:
    """The graph whose text form is `text`; raises GraphSyntaxError where it is no such form."""
    graph: Graph = _parse(text, "start")
    return graph


def to_json(graph: Graph) -> dict[str, Any]:
    """The JSON form of a graph: plain dicts, lists, strings and numbers.

    Types are as in the text form. A value is [node, output]; a port or result of several values a list of those.
    """
    return {
        "name": graph.name,
        "size_divisor": graph.size_divisor,
        "inputs": {name: str(type_) for name, type_ in graph.inputs.items()},
        "weights": {
            weight.key: {
                "shape": list(weight.shape),
                "dtype": weight.dtype,
                "init": _plain(weight.init),
                "trainable": weight.trainable,
                "buffer": weight.buffer,
                "tied": weight.tied,
            }
            for weight in graph.weights.values()
        },
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "inputs": {port: _json_values(values) for port, values in node.inputs},
                "attrs": {name: _plain(value) for name, value in node.attrs.items()},
                "weights": dict(node.weights),
                "types": [str(type_) for type_ in node.types],
                "scope": node.scope,
                "origins": [str(span) for span in node.origins],
            }
            for node in graph.nodes
        ],
        "calls": [
            {
                "path": call.path,
                "component": call.component,
                "kind": call.kind,
                "outputs": [[list(path), _json_values(value)] for path, value in call.outputs],
                "origin": None if call.span is None else str(call.span),
                "doc": call.doc,
            }
            for call in graph.calls
        ],
        "views": {
            view: {name: _json_values(values) for name, values in outputs.items()}
            for view, outputs in graph.views.items()
        },
    }


def from_json(form: dict[str, Any]) -> Graph:
    """The graph whose JSON form is `form`."""
    nodes = {}
    for n in form["nodes"]:
        nodes[n["name"]] = Node(
            name=n["name"],
            op=n["op"],
            inputs=tuple((port, _from_json_values(values)) for port, values in n["inputs"].items()),
            attrs={name: _tuples(value) for name, value in n["attrs"].items()},
            weights=n["weights"],
            types=tuple(_parse_type(type_) for type_ in n["types"]),
            scope=n["scope"],
        )
    weights = {
        key: Weight(
            key,
            tuple(w["shape"]),
            w["dtype"],
            tuple(_tuples(part) for part in w["init"]),
            w["trainable"],
            w["buffer"],
            w["tied"],
        )
        for key, w in form["weights"].items()
    }
    calls = tuple(
        Call(
            c["path"],
            c["component"],
            c["kind"],
            tuple((tuple(path), Value(*value)) for path, value in c["outputs"]),
            doc=c["doc"],
        )
        for c in form["calls"]
    )
    return Graph(
        name=form["name"],
        inputs={name: _parse_type(type_) for name, type_ in form["inputs"].items()},
        nodes=nodes,
        weights=weights,
        views={
            view: {name: _from_json_values(values) for name, values in outputs.items()}
            for view, outputs in form["views"].items()
        },
        calls=calls,
        size_divisor=form["size_divisor"],
    )


# Printing


def _name(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)


def _value(value: Value) -> str:
    return f"%{_name(value.node)}" + (f"#{value.output}" if value.output else "")


def _values(values: Values) -> str:
    return _value(values) if isinstance(values, Value) else f"[{', '.join(map(_value, values))}]"


def _attribute(value: Attribute) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case tuple():
            return f"[{', '.join(map(_attribute, value))}]"
        case _:
            return repr(value)


def _weight(weight: Weight) -> str:
    initialiser, *parameters = weight.init
    marks = [] if weight.trainable else ["frozen"]
    if weight.buffer:
        marks.append("buffer")
    if weight.tied is not None:
        marks.append(f"tied {_name(weight.tied)}")
    shape = ", ".join(map(str, weight.shape))
    init = f"{_name(str(initialiser))}({', '.join(map(_attribute, parameters))})"
    return " ".join([f"weight {_name(weight.key)}: {weight.dtype}[{shape}] = {init}", *marks])


def _node(node: Node) -> str:
    ports = ", ".join(f"{_name(port)}: {_values(values)}" for port, values in node.inputs)
    parts = [f"{_value(Value(node.name))} = {_name(node.op)}({ports})"]
    if node.attrs:
        parts.append("{" + ", ".join(f"{_name(n)}: {_attribute(v)}" for n, v in node.attrs.items()) + "}")
    if node.weights:
        parts.append("<" + ", ".join(f"{_name(n)}: {_name(key)}" for n, key in node.weights.items()) + ">")
    parts.append("-> " + ", ".join(map(str, node.types)))
    if node.scope:
        parts.append(f"@ {_name(node.scope)}")
    return " ".join(parts)


def _call(call: Call) -> str:
    text = f"call {_name(call.path)}: {_name(call.kind)} {_name(call.component)}"
    outputs = [
        f"({', '.join(str(step) if isinstance(step, int) else _name(step) for step in path)}) {_value(value)}"
        for path, value in call.outputs
    ]
    return f"{text} -> {', '.join(outputs)}" if outputs else text


def _json_values(values: Values) -> list[Any]:
    return [values.node, values.output] if isinstance(values, Value) else [_json_values(value) for value in values]


def _from_json_values(form: list[Any]) -> Values:
    if len(form) == 2 and isinstance(form[0], str):
        return Value(form[0], form[1])
    return tuple(Value(*value) for value in form)


def _plain(value: Attribute) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Attribute:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# Parsing


@cache
def _parser(start: str) -> Lark:
    grammar = Path(__file__).with_name("graph.lark").read_text(encoding="utf-8")
    return Lark(grammar, start=start, parser="lalr", transformer=_Builder())


@cache
def _parse_type(text: str) -> TensorType:
    type_: TensorType = _parse(text, "type")
    return type_


def _parse(text: str, start: str) -> Any:
    try:
        return _parser(start).parse(text)
    except UnexpectedInput as error:
        ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        fault = "the text of the graph ends too early" if ended else "this is not the text form of a graph"
        raise GraphSyntaxError(f"line {error.line}, column {error.column}: {fault}") from error


class _Pair(tuple[str, Any]):
    """What a named part of the text gave, with the name of the part."""


class _Builder(Transformer[Token, Any]):
    """Builds the graph bottom up; every method is named after a rule of the grammar and takes what its parts gave."""

    def start(self, parts: list[Any]) -> Graph:
        name, divisor, *rest = parts
        grouped: dict[str, list[Any]] = {"input": [], "weight": [], "node": [], "call": [], "view": []}
        for kind, part in rest:
            grouped[kind].append(part)
        return Graph(
            name=name,
            inputs=dict(grouped["input"]),
            nodes={node.name: node for node in grouped["node"]},
            weights={weight.key: weight for weight in grouped["weight"]},
            views=dict(grouped["view"]),
            calls=tuple(grouped["call"]),
            size_divisor=int(divisor),
        )

    def input(self, parts: list[Any]) -> _Pair:
        value, type_ = parts
        return _Pair(("input", (value.node, type_)))

    def weight(self, parts: list[Any]) -> _Pair:
        key, dtype, *rest = parts
        sizes = [part for part in rest if isinstance(part, Token)]
        initialiser, *others = rest[len(sizes) :]
        weight = Weight(key, tuple(map(int, sizes)), str(dtype))
        parameters: list[Attribute] = []
        for part in others:
            if isinstance(part, _Pair):
                weight = replace(weight, **{part[0]: part[1]})
            else:
                parameters.append(part)
        return _Pair(("weight", replace(weight, init=(initialiser, *parameters))))

    def frozen(self, _: list[Any]) -> _Pair:
        return _Pair(("trainable", False))

    def buffer(self, _: list[Any]) -> _Pair:
        return _Pair(("buffer", True))

    def tied(self, parts: list[Any]) -> _Pair:
        return _Pair(("tied", parts[0]))

    def node(self, parts: list[Any]) -> _Pair:
        value, op, ports, attributes, keys, *rest = parts
        types = tuple(part for part in rest if isinstance(part, TensorType))
        scope = rest[-1] if isinstance(rest[-1], str) else ""
        return _Pair(("node", Node(value.node, op, tuple(ports), dict(attributes), dict(keys), types, scope)))

    ports = attributes = keys = list
    port = entry = key = result = output = tuple
    several = path = tuple

    def call(self, parts: list[Any]) -> _Pair:
        path, kind, component, *outputs = parts
        return _Pair(("call", Call(path, component, kind, tuple(outputs))))

    def view(self, parts: list[Any]) -> _Pair:
        name, *results = parts
        return _Pair(("view", (name, dict(results))))

    def value(self, parts: list[Any]) -> Value:
        return Value(parts[0], *map(int, parts[1:]))

    def name(self, parts: list[Any]) -> str:
        (token,) = parts
        return str(token) if token.type == "WORD" else self.text(parts)

    def text(self, parts: list[Any]) -> str:
        text: str = json.loads(parts[0])
        return text

    def string(self, parts: list[Any]) -> str:
        text: str = parts[0]
        return text

    def integer(self, parts: list[Any]) -> int:
        return int(parts[0])

    def real(self, parts: list[Any]) -> float:
        return float(parts[0])

    def infinity(self, _: list[Any]) -> float:
        return math.inf

    def negative_infinity(self, _: list[Any]) -> float:
        return -math.inf

    def true(self, _: list[Any]) -> bool:
        return True

    def false(self, _: list[Any]) -> bool:
        return False

    def none(self, _: list[Any]) -> None:
        return None

    def type(self, parts: list[Any]) -> TensorType:
        dtype, *sizes = parts
        stride = sizes.pop() if sizes and isinstance(sizes[-1], Fraction) else None
        return TensorType(tuple(sizes), str(dtype), stride)

    def stride(self, parts: list[Any]) -> Fraction:
        return Fraction(*map(int, parts))

    # Dimensions are built as they were, not through the simplifying functions of detc.compiler.dims.

    def variable(self, parts: list[Any]) -> Dim:
        return Dim("var", (str(parts[0]),))

    def product(self, parts: list[Any]) -> Dim:
        return Dim("*", tuple(int(part) if isinstance(part, Token) else part for part in parts))

    def total(self, parts: list[Any]) -> Dim:
        return Dim("+", tuple(parts))

    def plus(self, parts: list[Any]) -> Size:
        size: Size = parts[0]
        return size

    def minus(self, parts: list[Any]) -> int:
        return -int(parts[0])

    def floor(self, parts: list[Any]) -> Dim:
        return Dim("//", (parts[0], int(parts[1])))

    def ceil(self, parts: list[Any]) -> Dim:
        size, divisor = parts[0], int(parts[1])
        return Dim("//", (Dim("+", (size, divisor - 1)), divisor))

    def minimum(self, parts: list[Any]) -> Dim:
        return Dim("min", tuple(int(part) if isinstance(part, Token) else part for part in parts))

    def at_most(self, parts: list[Any]) -> Dim:
        return Dim("at most", tuple(parts))
