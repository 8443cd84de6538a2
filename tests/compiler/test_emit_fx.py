"""What the emitted modules share, hold and compute, on graphs built by hand."""

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from detc.compiler import dims
from detc.compiler.emit.fx import INITIALISERS, emit
from detc.compiler.graph import Graph, Node, Value, Weight
from detc.compiler.types import TensorType
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.kernels import KERNELS

FEATURE = TensorType((dims.N, 4, dims.H, dims.W))
SCALAR = TensorType(())
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def conv(name, x, label, channels=4):
    attrs = {"channels": channels, "kernel": 1, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": False}
    attrs["standardize"] = False
    return Node(name, "Conv2d", (("x", Value(x)),), attrs, {"weight": f"{label}.weight"}, (FEATURE,))


def norm(name, x, label, fixed=False):
    attrs = {"eps": 1e-5, "momentum": 0.1, "fixed": fixed, "trainable": True}
    return Node(name, "BatchNorm2d", (("x", Value(x)),), attrs, {n: f"{label}.{n}" for n in NORM}, (FEATURE,))


def norm_weights(label):
    buffers = {
        "running_mean": Weight("", (4,), buffer=True),
        "running_var": Weight("", (4,), init=("ones",), buffer=True),
        "num_batches_tracked": Weight("", (), "int64", buffer=True),
    }
    found = {"weight": Weight("", (4,), init=("ones",)), "bias": Weight("", (4,)), **buffers}
    return {f"{label}.{n}": replace(w, key=f"{label}.{n}") for n, w in found.items()}


def conv_weight(label, inputs=4, **more):
    key = f"{label}.weight"
    return {key: Weight(key, (4, inputs, 1, 1), init=("normal", 0.5), **more)}


def two_towers():
    """A stem; a tower that two levels share; convolutions tied, with a norm each; one convolution for prediction
    alone, and one that is frozen."""
    nodes = [
        conv("stem", "image", "stem.conv"),
        conv("high", "stem", "head.tower"),
        conv("low", "high", "head.tower"),
        conv("a", "high", "level.0.conv"),
        norm("a_norm", "a", "level.0.bn"),
        conv("b", "low", "level.1.conv"),
        norm("b_norm", "b", "level.1.bn"),
        conv("extra", "b_norm", "extra"),
        Node("sum", "add", (("x", Value("a_norm")), ("y", Value("b_norm"))), {}, {}, (FEATURE,)),
        Node("pooled", "global_avg_pool", (("x", Value("sum")),), {}, {}, (FEATURE,)),
    ]
    weights = {
        **conv_weight("stem.conv", 3, trainable=False),
        **conv_weight("level.0.conv"),
        **norm_weights("level.0.bn"),
        **conv_weight("level.1.conv", tied="level.0.conv.weight"),
        **norm_weights("level.1.bn"),
        **conv_weight("head.tower"),
        **conv_weight("extra"),
    }
    views = {
        "forward": {"levels": (Value("a_norm"), Value("b_norm"))},
        "train": {"loss": Value("pooled")},
        "predict": {"boxes": Value("extra")},
    }
    inputs = {"image": TensorType((dims.N, 3, dims.H, dims.W))}
    return Graph("two_towers", inputs, {n.name: n for n in nodes}, weights, views)


@pytest.mark.parametrize("view", ["forward", "train", "predict"])
def test_each_view_alone_has_all_keys_of_the_detector_in_its_order(view):
    graph = two_towers()
    state = emit(graph, [view], KERNELS)[view].state_dict()
    assert list(state) == list(graph.weights)
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: w.shape for k, w in graph.weights.items()}
    assert state["level.0.bn.num_batches_tracked"].dtype == torch.int64


def test_the_module_computes_the_graph():
    module = emit(two_towers(), ["forward"], KERNELS)["forward"].eval()
    x = torch.randn(2, 3, 5, 6)
    state = module.state_dict()
    stem = nn.functional.conv2d(x, state["stem.conv.weight"])
    high = nn.functional.conv2d(stem, state["head.tower.weight"])
    low = nn.functional.conv2d(high, state["head.tower.weight"])
    scale = (1 + 1e-5) ** -0.5
    out = module(x)
    assert list(out) == ["levels"] and isinstance(out["levels"], tuple)
    for got, feature in zip(out["levels"], (high, low), strict=True):
        torch.testing.assert_close(got, nn.functional.conv2d(feature, state["level.0.conv.weight"]) * scale)


def test_views_of_one_call_share_their_parameters():
    views = emit(two_towers(), ["train", "predict"], KERNELS)
    with torch.no_grad():
        views["train"].head.tower.weight.fill_(7)
    assert (views["predict"].state_dict()["head.tower.weight"] == 7).all()


def test_tied_weights_are_one_tensor_under_two_keys():
    module = emit(two_towers(), ["train"], KERNELS)["train"]
    state = module.state_dict()
    assert state["level.0.conv.weight"].data_ptr() == state["level.1.conv.weight"].data_ptr()
    names = [name for name, _ in module.named_parameters()]
    assert "level.0.conv.weight" in names and "level.1.conv.weight" not in names


def test_only_what_training_reaches_and_the_spec_leaves_free_takes_a_gradient():
    module = emit(two_towers(), ["train"], KERNELS)["train"]
    takes = {name: p.requires_grad for name, p in module.named_parameters()}
    assert [name for name, gradient in takes.items() if not gradient] == ["stem.conv.weight", "extra.weight"]
    module(torch.randn(2, 3, 4, 4))["loss"].square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in module.parameters()), "as DDP demands"


def test_without_a_train_view_all_weights_take_gradients():
    graph = two_towers()
    graph = graph.replaced(views={"forward": graph.views["forward"]})
    module = emit(graph, ["forward"], KERNELS)["forward"]
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == ["stem.conv.weight"]


def test_copies_and_pickles_keep_keys_values_ties_and_sharing():
    views = emit(two_towers(), ["train", "predict"], KERNELS)
    x = torch.randn(1, 3, 4, 4)
    views["predict"].eval()
    for other in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        for view in views:
            expected, got = views[view].state_dict(), other[view].state_dict()
            assert list(got) == list(expected)
            assert all(torch.equal(got[k], expected[k]) for k in got)
            assert got["level.0.conv.weight"].data_ptr() == got["level.1.conv.weight"].data_ptr()
            assert got["head.tower.weight"].data_ptr() != expected["head.tower.weight"].data_ptr()
        assert other["train"].head is other["predict"].head
        assert torch.equal(other["predict"](x)["boxes"], views["predict"](x)["boxes"])
    alone = copy.deepcopy(emit(two_towers(), ["forward"], KERNELS)["forward"])
    assert list(alone.state_dict()) == list(two_towers().weights), "keys that the view does not call too"


def test_code_names_nodes_and_attributes():
    graph = two_towers()
    pool = Node("pool", "max_pool", (("x", Value("stem")),), {"kernel": 2, "stride": 2, "padding": 0}, {}, (FEATURE,))
    graph = graph.replaced(
        nodes={**{n.name: n for n in graph.nodes}, "pool": pool}, views={"forward": {"features": Value("pool")}}
    )
    code = emit(graph, ["forward"], KERNELS)["forward"].code
    assert "stem = self.stem.conv(image)" in code
    assert "pool = detc_runtime_kernels_max_pool(stem, kernel = 2, stride = 2, padding = 0)" in code
    assert "return {'features': pool}" in code


def test_several_inputs_and_results():
    def both(xs, *, swap):
        return (xs[1], xs[0]) if swap else (xs[0], xs[1])

    nodes = {
        "join": Node("join", "both", (("xs", (Value("x"), Value("y"))),), {"swap": True}, {}, (SCALAR, SCALAR)),
    }
    inputs = {"x": SCALAR, "y": SCALAR}
    graph = Graph("g", inputs, nodes, {}, {"forward": {"first": Value("join", 0), "second": Value("join", 1)}})
    module = emit(graph, ["forward"], {"both": both})["forward"]
    assert module(x=torch.tensor(1.0), y=torch.tensor(2.0)) == {"first": 2.0, "second": 1.0}


def test_export_and_compile_take_the_module():
    module = emit(two_towers(), ["predict"], KERNELS)["predict"].eval()
    x = torch.randn(1, 3, 4, 4)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_tools_that_trace_the_module_again_call_kernels_and_do_not_enter_them():
    # As torch's quantisation does. The kernels that branch on their inputs, and the fixed norm, are what could fail.
    graph = two_towers()
    top = Node("top", "select_top", (("x", Value("rows")),), {"count": 3, "threshold": 0.0}, {}, (SCALAR,) * 3)
    nodes = {
        "stem": graph["stem"],
        "fixed": norm("fixed", "stem", "level.0.bn", fixed=True),
        "rows": Node("rows", "per_anchor", (("x", Value("fixed")),), {"fields": 2}, {}, (SCALAR,)),
        "top": top,
        "best": Node("best", "gather_rows", (("x", Value("rows")), ("i", Value("top", 1))), {}, {}, (SCALAR,)),
    }
    graph = graph.replaced(nodes=nodes, views={"predict": {"best": Value("best")}})
    module = emit(graph, ["predict"], KERNELS)["predict"].eval()
    again = torch.fx.symbolic_trace(module)
    called = {n.target for n in again.graph.nodes if n.op == "call_function"}
    assert {KERNELS["per_anchor"], KERNELS["select_top"], KERNELS["gather_rows"]} <= called
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(again(x)["best"], module(x)["best"])


def test_initial_values_depend_on_the_seed_alone_and_not_on_the_views():
    torch.manual_seed(3)
    a = emit(two_towers(), ["predict"], KERNELS)["predict"].state_dict()
    torch.manual_seed(3)
    b = emit(two_towers(), ["train", "forward"], KERNELS)["train"].state_dict()
    c = emit(two_towers(), ["predict"], KERNELS)["predict"].state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["stem.conv.weight"], c["stem.conv.weight"])


@pytest.mark.parametrize(
    ("init", "std", "bound"),
    [
        (("zeros",), 0, 0),
        (("ones",), 0, 1),
        (("constant", 2.5), 0, 2.5),
        (("prior", 0.01), 0, math.log(99)),
        (("normal", 0.01), 0.01, None),
        (("kaiming_normal",), math.sqrt(2 / (64 * 9)), None),
        (("xavier_uniform", 1.0), math.sqrt(2 / (32 * 9 + 64 * 9)), math.sqrt(6 / (32 * 9 + 64 * 9))),
        (("caffe2_xavier",), math.sqrt(1 / (32 * 9)), math.sqrt(3 / (32 * 9))),
        (("fan_in_uniform", 48), math.sqrt(1 / (3 * 48)), math.sqrt(1 / 48)),
    ],
)
def test_initialisers_have_the_spread_of_their_formulas(init, std, bound):
    torch.manual_seed(0)
    tensor = torch.empty(64, 32, 3, 3)
    INITIALISERS[init[0]](tensor, *init[1:])
    assert tensor.std().item() == pytest.approx(std, rel=0.02, abs=1e-6)
    if bound is not None:
        assert tensor.abs().max().item() == pytest.approx(bound, rel=0.001)


def test_prior_is_the_bias_whose_sigmoid_is_the_probability():
    bias = torch.empty(3)
    INITIALISERS["prior"](bias, 0.01)
    assert torch.sigmoid(bias).tolist() == pytest.approx([0.01] * 3)


def slug(graph, kernels=KERNELS, view="forward"):
    with pytest.raises(DiagnosticError) as raised:
        emit(graph, [view], kernels)
    return raised.value.diagnostics[0]


def test_an_op_without_a_kernel_is_named_with_the_nearest():
    graph = two_towers()
    graph = graph.replaced(nodes={**{n.name: n for n in graph.nodes}, "sum": replace(graph["sum"], op="ad")})
    found = slug(graph, view="train")
    assert found.kind.slug == "kernel-missing" and "ad" in found.summary and '"add"' in found.detail


def test_a_kernel_with_other_weights_than_declared_is_refused():
    class Wider(nn.Module):
        def __init__(self, weights, **attributes):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(weights["weight"]))
            self.bias = nn.Parameter(torch.zeros(4))

    found = slug(two_towers(), {**KERNELS, "Conv2d": Wider})
    assert found.kind.slug == "kernel-mismatch"
    assert "declares no bias" in found.summary and "bias [4]" in found.summary


def test_a_record_that_is_no_initialiser_is_refused():
    graph = two_towers()
    odd = replace(graph.weights["extra.weight"], init=("norml", 1.0))
    found = slug(graph.replaced(weights={**graph.weights, "extra.weight": odd}))
    assert found.kind.slug == "unknown-initialiser" and '"normal"' in found.detail
