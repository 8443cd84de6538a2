from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from handmade import Builder, backbone, fpg, fpn, fpn_detector, head

from detc.compiler.diff import Change, Difference, compare, differences
from detc.compiler.elaborate import Elaborated, elaborate
from detc.compiler.graph import Graph
from detc.compiler.modules import Loader

SPECS = Path(__file__).parents[2] / "specs"


def detector(spec: str, name: str) -> Elaborated:
    return elaborate(Loader((SPECS,)).load(SPECS / spec), name)


def of(found: Difference, what: str) -> list[tuple[str, str | None, str | None, int]]:
    return [(c.path, c.before, c.after, c.count) for c in found.changes if c.what == what]


def test_a_graph_is_the_same_as_itself() -> None:
    found = compare(fpn_detector(), fpn_detector())
    assert found == Difference()
    assert found.loads


def test_a_replaced_neck_is_one_change_and_its_weights_are_counted() -> None:
    graphs: list[Graph] = []
    for neck in (fpn, partial(fpg, pathways=2)):
        b = Builder()
        scores = head(b, neck(b, backbone(b)))
        graphs.append(b.graph({"forward": {"s": tuple(scores.values())}}))
    found = compare(*graphs)
    assert of(found, "component") == [("neck", "FPN", "FPG", 1)]
    # The laterals have the same keys and shapes; nothing is said of the head, which only reads another neck.
    assert len(found.extra) == 6
    assert of(found, "weight") == [("neck", "6 gone", f"{len(found.missing)} new", 1)]
    assert all(change.component == "neck" for change in found.changes)


def test_a_reshaped_weight_breaks_a_checkpoint_and_a_frozen_one_does_not() -> None:
    graph = fpn_detector()
    weight = graph.weights["backbone.layer4.weight"]
    reshaped = replace(weight, shape=(8, 8, 1, 1))
    found = compare(graph, graph.replaced(weights={**graph.weights, weight.key: reshaped}))
    assert found.changes == [Change("weight", weight.key, "[8, 8, 3, 3]", "[8, 8, 1, 1]", breaks=True)]
    assert found.reshaped == {weight.key: ((8, 8, 3, 3), (8, 8, 1, 1))}
    assert not found.loads

    frozen = replace(weight, trainable=False)
    found = compare(graph, graph.replaced(weights={**graph.weights, weight.key: frozen}))
    assert [(c.after, c.breaks) for c in found.changes] == [("[8, 8, 3, 3] normal(0.01) frozen", False)]
    assert found.loads


def test_alike_changes_are_told_once() -> None:
    graph = fpn_detector()
    nodes = {
        node.name: replace(node, attrs={**node.attrs, "dilation": 2})
        if node.name.startswith("neck.fpn_convs")
        else node
        for node in graph.nodes
    }
    found = compare(graph, graph.replaced(nodes=nodes))
    assert of(found, "attribute") == [("neck.fpn_convs.*.dilation", "1", "2", 3)]
    assert found.loads


def test_another_operand_is_a_change_of_wiring() -> None:
    graph = fpn_detector()
    node = graph["neck.fpn_convs.0"]
    lateral = graph["neck.sum3"].operands[0]
    nodes = {n.name: n for n in graph.nodes} | {node.name: replace(node, inputs=(("x", lateral),))}
    found = compare(graph, graph.replaced(nodes=nodes))
    assert of(found, "wiring") == [("neck.fpn_convs.0", "x: %neck.sum3", "x: %neck.lateral_convs.*", 1)]


def test_settings_are_those_of_the_spec() -> None:
    found = differences(
        detector("retinanet.det", "retinanet_r50_fpn_1x"), detector("retinanet.det", "retinanet_r101_fpn_2x")
    )
    settings = of(found, "setting")
    assert ("backbone.depth", "50", "101", 1) in settings
    assert ("schedule.epochs", "12", "24", 1) in settings
    assert of(found, "component") == [("backbone.layer3.*", None, "Bottleneck", 17)]
    # Of 17 further blocks, each has three convolutions and three normalisations of five tensors.
    assert len(found.missing) == 17 * (3 + 3 * 5)
    assert not found.extra and not found.reshaped


def test_halved_channels_reshape_and_add_nothing() -> None:
    found = differences(
        detector("fpg.det", "retinanet_r50_fpg_crop640_50e"),
        detector("fpg.det", "retinanet_r50_fpg_chn128_crop640_50e"),
    )
    assert ("neck.channels", "256", "128", 1) in of(found, "setting")
    assert not found.missing and not found.extra
    assert found.reshaped["neck.fpn_transitions.4.0.across_down.conv.conv.weight"] == (
        (256, 256, 3, 3),
        (128, 128, 3, 3),
    )
