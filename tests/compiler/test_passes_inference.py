"""The passes of an export, each on a graph that has what it looks for, and all on whole detectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_graphs import Small, evaluate, mask_rcnn, retinanet

import detc
from detc.compiler.emit.fx import emit
from detc.compiler.emit.static import parts
from detc.compiler.graph import Graph, Value
from detc.compiler.passes import apply, discover
from detc.compiler.passes.choose_by_logits import ChooseByLogits
from detc.compiler.passes.common_subexpressions import CommonSubexpressions
from detc.compiler.passes.enlarge_late import EnlargeLate
from detc.compiler.passes.fold_constants import FoldConstants
from detc.compiler.passes.inference import REQUIRED, names, passes
from detc.compiler.passes.pool_chains import PoolChains
from detc.compiler.passes.remove_identities import RemoveIdentities
from detc.runtime.kernels import KERNELS

IMAGE = Value("image")


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def kept(small: Small, step, *results: Value, tolerance: float = 0.0) -> Graph:
    """The graph with these results after a pass, once their values are seen to be the same."""
    graph, weights = apply([step], small.graph(boxes=results), small.arrays)
    assert set(weights) == set(graph.weights)
    values = {IMAGE: small.image}
    for node in graph.nodes:
        for index, result in enumerate(evaluate(node, values, weights)):
            values[Value(node.name, index)] = result
            assert tuple(result.shape) == node.types[index].at(*small.image.shape[:1], 64, 96), node.name
    for before, after in zip(results, graph.views["predict"]["boxes"], strict=True):
        np.testing.assert_allclose(values[after], small.values[before], atol=tolerance, rtol=0)
    return graph


def test_what_does_nothing_is_removed() -> None:
    small = Small()
    x = small.conv(IMAGE, 4)
    same = small.add("resize", small.add("detach", small.add("scale", x, factor=1.0)), x, mode="nearest")
    same = small.add("concat", (small.add("crop", small.add("upsample", same, scale=1, mode="nearest"), x),), axis=1)
    same = small.add("max_pool", small.add("fields", same, start=0, stop=96), kernel=1, stride=1, padding=0)
    twice = small.add("relu", small.add("relu", same))
    graph = kept(small, RemoveIdentities(), small.add("add", twice, x), same)
    assert ops(graph) == ["Conv2d", "relu", "add"]
    assert graph.views["predict"]["boxes"][1] == x


def test_what_does_something_is_not_removed() -> None:
    small = Small()
    x = small.conv(IMAGE, 4)
    half = small.add("max_pool", x, kernel=1, stride=2, padding=0)
    results = [
        half,
        small.add("max_pool", x, kernel=3, stride=1, padding=1),
        small.add("scale", x, factor=0.5),
        small.add("crop", x, half),
        small.add("resize", half, x, mode="nearest"),
        small.add("concat", (x, x), axis=1),
    ]
    assert len(kept(small, RemoveIdentities(), *results)) == 1 + len(results)


def test_what_is_the_same_is_computed_once() -> None:
    small = Small()
    a, b = (small.add("relu", small.conv(IMAGE, 4, label="c")) for _ in range(2))
    graph = kept(small, CommonSubexpressions(), small.add("add", a, b), b)
    assert ops(graph) == ["Conv2d", "relu", "add"]
    assert graph.views["predict"]["boxes"][1] == a


def test_what_differs_in_weights_attributes_or_order_is_not_the_same() -> None:
    small = Small()
    a, b = small.conv(IMAGE, 4, label="c"), small.conv(IMAGE, 4, label="d")
    strided = small.conv(IMAGE, 4, label="c", stride=2)
    pooled = [small.add("concat", pair, axis=1) for pair in ((a, b), (b, a))]
    assert len(kept(small, CommonSubexpressions(), strided, *pooled)) == 5


def test_tied_weights_are_the_same() -> None:
    small = Small()
    a, b = small.conv(IMAGE, 4, label="c", bias=False), small.conv(IMAGE, 4, label="d", bias=False)
    small.arrays["d.weight"] = small.arrays["c.weight"]
    small.values[b] = small.values[a]
    weight = small.weights["d.weight"]
    small.weights["d.weight"] = type(weight)(weight.key, weight.shape, tied="c.weight")
    assert ops(kept(small, CommonSubexpressions(), a, b)) == ["Conv2d"]


def test_each_cell_is_worked_on_before_it_is_repeated() -> None:
    small = Small()
    x = small.conv(IMAGE, 4, stride=2)
    gate = small.add("sigmoid", small.add("global_avg_pool", x))
    large = small.add("relu", small.add("upsample", x, scale=2, mode="nearest"))
    y = small.conv(small.add("mul", large, gate), 6)
    graph = kept(small, EnlargeLate(), y, tolerance=1e-6)
    assert ops(graph)[-4:] == ["relu", "mul", "Conv2d", "upsample"]
    assert graph[y.node].op == "upsample"


@pytest.mark.parametrize("what", ["padded", "shared", "shown"])
def test_what_sees_its_neighbours_or_is_not_alone_stays_behind_the_enlargement(what: str) -> None:
    small = Small()
    large = small.add("upsample", small.conv(IMAGE, 4, stride=2), scale=2, mode="nearest")
    y = small.conv(large, 6, 3) if what == "padded" else small.add("relu", large)
    results = {"padded": [y], "shared": [y, small.add("sigmoid", large)], "shown": [y, large]}[what]
    graph = kept(small, EnlargeLate(), *results)
    assert ops(graph)[:2] == ["Conv2d", "upsample"]


def test_large_windows_are_made_of_small_ones() -> None:
    small = Small()
    x = small.conv(IMAGE, 4, 2, padding=0)  # 63 x 95: rows are left over
    sizes = (8, 2, 3, 4, 6, 2)
    pools = [small.add("max_pool", x, kernel=size, stride=size, padding=0) for size in sizes]
    other = small.add("max_pool", x, kernel=4, stride=4, padding=1)
    graph = kept(small, PoolChains(), *pools, other)
    assert [graph[pool.node].attrs["kernel"] for pool in pools] == [2, 2, 3, 2, 2, 2]
    assert graph[other.node].attrs["kernel"] == 4


def test_scores_are_chosen_by_their_logits() -> None:
    small, graph = retinanet()
    result, _ = apply([ChooseByLogits()], graph, small.arrays)
    chosen = [node for node in result.nodes if node.op == "select_top"]
    assert len(chosen) == 3
    assert all(node.attrs["logits"] and result[node.operands[0].node].op == "per_anchor" for node in chosen)
    # One is left: that of a gate.
    assert ops(result).count("sigmoid") == ops(graph).count("sigmoid") - 3 == 1


def test_scores_of_a_softmax_and_scores_that_are_shown_stay() -> None:
    small = Small()
    rows = small.add("per_anchor", IMAGE, fields=3)
    soft = small.add("select_top", small.add("softmax", rows), count=20, threshold=0.3)
    scores = small.add("sigmoid", rows)
    shown = small.add("select_top", scores, count=20, threshold=0.3)
    graph = small.graph(boxes=(*soft, *shown), scores=scores)
    assert ops(apply([ChooseByLogits()], graph, {})[0]) == ops(graph)


def test_saturated_and_low_scores_are_chosen_alike() -> None:
    """Many logits have the score 1, and many are at the threshold: which of the equal are chosen is open, scores are
    not."""
    logits = torch.cat((torch.linspace(17, 40, 30), torch.full((40,), -0.5), torch.linspace(-8, -120, 30)))
    logits = logits[torch.randperm(100, generator=torch.Generator().manual_seed(0))].reshape(1, 50, 2)
    select = KERNELS["select_top"]
    before, _, _ = select(logits.sigmoid(), count=80, threshold=0.3)
    after, rows, labels = select(logits, count=80, threshold=0.3, logits=True)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (after == 1).sum() == 30 and (after == 0).sum() == 10
    torch.testing.assert_close(logits[0, rows[0], labels[0]].sigmoid()[:70], after[0, :70], rtol=0, atol=0)
    # Of equal scores, the higher logit comes first.
    assert (logits[0, rows[0], labels[0]][:30].diff() < 0).all()


def test_anchors_and_numbers_of_levels_are_constants() -> None:
    small, graph = mask_rcnn()
    result, weights = apply([FoldConstants(1, 64, 96)], graph, small.arrays)
    assert not {"anchor_grid", "fill"} & set(ops(result))
    constants = {node.name: weights[node.weights["value"]] for node in result.nodes if node.op == "constant"}
    assert sorted((array.shape, str(array.dtype)) for array in constants.values()) == [
        ((1, 80), "int64"),
        ((72, 4), "float32"),
        ((288, 4), "float32"),
    ]
    # The network gives nothing any more for the sake of its size.
    given = {
        op: {cut[v.node].op for v in parts(cut)[1].given if v != IMAGE} for op, cut in (("", graph), ("c", result))
    }
    assert "Conv2d" in given[""]
    assert given["c"] == {"sigmoid", "detach"}


SPEC = """
import ResNet from "lib/backbones.det"
import NASFPN, FPG, SimpleDetNeck, SimpleDetNASFPNCell from "lib/necks.det"
import RetinaSepBNHead, RetinaHead from "lib/heads.det"
import SingleStage from "lib/models.det"

detector nas : SingleStage {
    backbone = ResNet(18, channels = 8, norm = BatchNorm2d())
    neck     = NASFPN(8, stack = 2, norm = BatchNorm2d())
    head     = RetinaSepBNHead(stacked = 1, channels = 8)
    classes  = ["cat", "dog"]
}

detector grid = nas with {
    neck = FPG(8, pathways = 5)
}

detector simple = nas with {
    neck = SimpleDetNeck(SimpleDetNASFPNCell, channels = 8, stack = 1, norm = BatchNorm2d())
}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.det"
    path.write_text(SPEC)
    return path


def network(graph: Graph, weights: dict[str, np.ndarray], image: torch.Tensor) -> dict[str, np.ndarray]:
    """What the first part of a predict graph gives under torch.fx."""
    part = parts(graph)[0]
    module = emit(part.graph, ("predict",), KERNELS)["predict"].eval()
    module.load_state_dict({key: torch.from_numpy(weights[key]) for key in module.state_dict()})
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module(image).items()}


@pytest.mark.parametrize("name", ["nas", "grid", "simple"])
def test_a_whole_detector_keeps_its_values(spec: Path, name: str) -> None:
    torch.manual_seed(0)
    detector = detc.load(spec, name)
    state = {key: value.numpy() for key, value in detector.module("predict").state_dict().items()}
    graph = detector.graph.view("predict")
    size = {"batch": 1, "height": 128, "width": 256}
    plain = passes(**size, without=names())
    before, weights = apply(plain, graph, {key: state[key] for key in graph.weights})
    after, changed = apply(passes(**size), before, weights)
    assert len(after) < len(before)
    assert ops(after).count("relu") < ops(before).count("relu") or name != "grid"
    image = torch.randn(1, 3, 128, 256, generator=torch.Generator().manual_seed(1))
    expected, found = network(before, weights, image), network(after, changed, image)
    compared = 0
    for label, value in found.items():
        if label in expected:
            np.testing.assert_allclose(value, expected[label], atol=2e-5, rtol=1e-4)
            compared += 1
    assert compared >= 5


def test_any_pass_can_be_left_out_but_what_targets_need() -> None:
    assert names() == [step.name for step in passes(1, 64, 64) if step.name != "fold-standardization"]
    assert {"fold-standardization"} == REQUIRED
    assert {step.name for step in passes(1, 64, 64, without=["pool-chains"])} == {*names(), *REQUIRED} - {"pool-chains"}
    assert {*names(), *REQUIRED} | {"recompute"} == discover().keys()


@pytest.mark.parametrize("path", sorted((Path(detc.__file__).parent / "specs").glob("*.det")), ids=lambda p: p.stem)
def test_boxes_are_decoded_only_for_what_is_chosen(path: Path) -> None:
    for detector in detc.load(path).siblings():
        graph = detector.graph.view("predict")
        for node in graph.nodes:
            if node.op == "decode_delta":
                boxes, deltas, _ = node.operands
                chosen = {"gather_rows", "take_class", "nms"}
                # A cascade refines all its regions, which are chosen already.
                refined = graph[boxes.node].op in {"nms", "decode_delta"} or boxes.node in graph.inputs
                assert graph[boxes.node].op in chosen or refined, node.name
                assert graph[deltas.node].op in chosen or refined, node.name
