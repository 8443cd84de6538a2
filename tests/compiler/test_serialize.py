from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from handmade import Builder, fpn_detector
from hypothesis import given
from hypothesis import strategies as st

import detc
from detc.compiler import dims
from detc.compiler.graph import Attribute, Call, Graph, Node, Value, Weight
from detc.compiler.serialize import GraphSyntaxError, from_json, from_text, to_json, to_text
from detc.compiler.types import TensorType


def parts(graph: Graph) -> dict[str, object]:
    """Everything that a graph is made of, in order, as values that compare."""
    return {
        "name": graph.name,
        "inputs": list(graph.inputs.items()),
        "nodes": list(graph.nodes),
        "attribute order": [list(node.attrs) for node in graph.nodes],
        "weights": list(graph.weights.items()),
        "views": [(view, list(outputs.items())) for view, outputs in graph.views.items()],
        "calls": graph.calls,
        "size_divisor": graph.size_divisor,
    }


def everything() -> Graph:
    """A graph in which every construct of the forms occurs."""
    half = TensorType((dims.N, 4, dims.mul(2, dims.H), dims.mul(2, dims.W)), "float16", Fraction(1, 2))
    rows = TensorType((dims.N, dims.minimum(1000, dims.mul(9, dims.mul(dims.H, dims.W))), 4))
    scalar = TensorType((), "int64")
    x, odd = Value("image"), Value("odd name, 3")
    nodes = {
        "a.0": Node("a.0", "Conv2d", (("x", x),), {"kernel": 3, "bias": True}, {"weight": "a.0.weight"}, (half,), "a"),
        odd.node: Node(
            odd.node,
            "many",
            (("xs", (x, Value("a.0"))), ("one", (x,)), ("none", ()), ("y", x)),
            {"f": 1e-05, "big": math.inf, "low": -math.inf, "n": -3, "s": 'say "no"\n', "no": False, "nil": None}
            | {"nested": ((8.0, 0.5), (), ("a", None))},
            {},
            (half, rows, scalar),
        ),
    }
    weights = {
        "a.0.weight": Weight("a.0.weight", (4, 3, 3, 3), init=("normal", 0.0, 0.01), trainable=False),
        "b": Weight("b", (), "int64", ("zeros",), buffer=True),
        "tied": Weight("tied", (4, 3, 3, 3), tied="a.0.weight"),
    }
    calls = (
        Call("a.0", "Conv2d", "op", (((), Value("a.0")),)),
        Call("n", "N", "neck", (((3,), x), (("scores", -1), Value(odd.node, 2)), (("",), x))),
        Call("nothing", "Loss", "block", ()),
    )
    views = {"forward": {"": x}, "train": {}, "predict": {"boxes": Value(odd.node, 1), "all": (x, odd), "no": ()}}
    return Graph("every construct", {"image": half}, nodes, weights, views, calls, 32)


@pytest.mark.parametrize("graph", [fpn_detector(), everything(), Builder().graph({})], ids=lambda g: g.name)
def test_both_forms_read_back(graph: Graph) -> None:
    assert parts(from_text(to_text(graph))) == parts(graph)
    form = json.loads(json.dumps(to_json(graph)))
    assert parts(from_json(form)) == parts(graph)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("retinanet", "retinanet_r50_fpn_1x"),
        ("nas_fpn", "retinanet_r50_nasfpn_crop640_50e"),
        ("fpg", "retinanet_r50_fpg_crop640_50e"),
        ("simpledet", "simpledet_tdbu_1280_3_384"),
    ],
)
def test_a_specs_graph_reads_back_with_all_views(spec: str, name: str) -> None:
    graph = detc.load(Path(__file__).parents[2] / f"specs/{spec}.det", name).graph
    text = to_text(graph)
    assert parts(from_text(text)) == parts(graph)
    assert parts(from_json(json.loads(json.dumps(to_json(graph))))) == parts(graph)
    assert len(text.splitlines()) == 3 + len(graph.inputs) + len(graph.weights) + len(graph) + len(graph.calls) + sum(
        2 + len(outputs) for outputs in graph.views.values()
    )


def test_a_node_is_one_line() -> None:
    (line,) = [line for line in to_text(fpn_detector()).splitlines() if "%neck.fpn_convs.1 =" in line]
    assert line.strip() == (
        "%neck.fpn_convs.1 = Conv2d(x: %neck.sum4) "
        "{channels: 16, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, standardize: false, bias: true} "
        "<weight: neck.fpn_convs.1.weight, bias: neck.fpn_convs.1.bias> "
        "-> float32[N, 16, ceil(H/16), ceil(W/16)] /16 @ neck.fpn_convs"
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("graph g {\n  size_divisor 1\n  input %image: float32[N, 3\n  view predict {\n  }\n}", "line 4, column 3"),
        ("graph g {\n  size_divisor 1\n  %a = relu(x: @)\n}", "line 3, column 16"),
        ("graph g {\n  size_divisor 1\n", "ends too early"),
    ],
)
def test_a_broken_text_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(GraphSyntaxError, match=place):
        from_text(text)


sizes = st.recursive(
    st.sampled_from([dims.N, dims.H, dims.W, dims.G]),
    lambda inner: st.one_of(
        st.builds(dims.add, inner, inner | st.integers(-9, 9)),
        st.builds(dims.mul, inner, inner | st.integers(1, 9)),
        st.builds(dims.floordiv, inner, st.integers(1, 64)),
        st.builds(dims.minimum, inner, inner | st.integers(1, 9)),
    ),
    max_leaves=5,
)


@given(st.lists(sizes | st.integers(1, 2000), max_size=4), st.none() | st.fractions(Fraction(1, 64), 64))
def test_any_type_reads_back(shape: list[dims.Size], stride: Fraction | None) -> None:
    type_ = TensorType(tuple(shape), stride=stride)
    graph = Graph("g", {"image": type_}, {}, {}, {})
    assert from_text(to_text(graph)).inputs["image"] == type_


attributes: st.SearchStrategy[Attribute] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(attributes)
def test_any_attribute_reads_back(value: Attribute) -> None:
    graph = Graph("g", {}, {"n": Node("n", "op", (), {"a": value}, {}, (TensorType(()),))}, {}, {})
    for read in (from_text(to_text(graph)), from_json(json.loads(json.dumps(to_json(graph))))):
        back = read["n"].attrs["a"]
        assert back == value and repr(back) == repr(value)
