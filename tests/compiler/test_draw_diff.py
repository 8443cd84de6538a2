from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
from handmade import Builder, backbone, fpg, fpn, fpn_detector, head
from svg import SVG, check, read

from detc.cli.diff import _markdown
from detc.compiler.diff import Change, Difference, compare
from detc.compiler.draw import diff_to_html, diff_to_svg
from detc.compiler.draw.changes import changes
from detc.compiler.elaborate import elaborate
from detc.compiler.graph import Graph
from detc.compiler.modules import Loader

SPECS = Path(__file__).parents[2] / "specs"

PAIRS = [
    ("fpg.det:faster_rcnn_r50_fpn_crop640_50e", "fpg.det:faster_rcnn_r50_fpg_crop640_50e"),
    ("fpg.det:retinanet_r50_fpg_crop640_50e", "fpg.det:retinanet_r50_fpg_chn128_crop640_50e"),
    ("retinanet.det:retinanet_r50_fpn_1x", "retinanet.det:retinanet_r101_fpn_2x"),
    ("faster_rcnn.det:faster_rcnn_r50_fpn_1x", "cascade_rcnn.det:cascade_mask_rcnn_r50_fpn_1x"),
    ("retinanet.det:retinanet_r50_fpn_1x", "nas_fpn.det:retinanet_r50_nasfpn_crop640_50e"),
]


def graph_of(row: str) -> Graph:
    spec, name = row.split(":")
    return elaborate(Loader((SPECS,)).load(SPECS / spec), name).graph


def boxes(a: Graph, b: Graph) -> Counter[tuple[str, str, str]]:
    """How many parts stand in each box, by status, component and path."""
    return Counter({(box.status, box.name, box.path): box.count for box in changes(a, b)})


def edges(a: Graph, b: Graph) -> set[tuple[str, str, str]]:
    return {(source.path, data["status"], target.path) for source, target, data in changes(a, b).edges(data=True)}


def drawn(svg: str) -> Counter[str]:
    """How many boxes there are of each status, the legend's left out."""
    return Counter(
        status
        for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect")
        if (status := rect.get("data-status")) is not None
    )


@pytest.mark.parametrize(("first", "second"), [*PAIRS, *[(b, a) for a, b in PAIRS]])
def test_pictures_of_differences_are_fit_to_print(first: str, second: str) -> None:
    a, b = graph_of(first), graph_of(second)
    picture = check(diff_to_svg(a, b))
    # No arrow passes through a box: it starts below one and ends above one.
    for kind, way in picture.arrows:
        if kind:
            xs = [x for x, _ in way]
            below = [box for box in picture.boxes if box[0] <= xs[0] <= box[2] and abs(box[3] - way[0][1]) < 1]
            above = [box for box in picture.boxes if box[0] <= xs[-1] <= box[2] and abs(box[1] - way[-1][1]) < 3]
            assert len(below) == len(above) == 1
    assert diff_to_svg(a, b) == diff_to_svg(a, b)


def test_the_same_is_grey_and_folded() -> None:
    graph = graph_of("retinanet.det:retinanet_r50_fpn_1x")
    assert drawn(diff_to_svg(graph, graph)) == {"same": 3}
    assert boxes(graph, graph) == {
        ("same", "ResNet", "backbone"): 1,
        ("same", "FPN", "neck"): 1,
        ("same", "RetinaHead", "bbox_head"): 1,
    }


def test_a_replaced_neck_is_gone_and_new() -> None:
    graphs: list[Graph] = []
    for neck in (fpn, partial(fpg, pathways=2)):
        b = Builder()
        scores = head(b, neck(b, backbone(b)))
        graphs.append(b.graph({"forward": {"s": tuple(scores.values())}}))
    found = boxes(*graphs)
    assert {(status, name) for status, name, path in found if path == "neck"} == {("removed", "FPN"), ("added", "FPG")}
    assert {status for status, _, path in found if path != "neck"} == {"same"}
    assert {status for source, status, target in edges(*graphs) if "neck" in (source, target)} == {"added", "removed"}


def test_blocks_that_are_new_are_between_those_that_were() -> None:
    a, b = (graph_of(f"retinanet.det:retinanet_r{depth}_fpn_1x") for depth in (50, 101))
    found = boxes(a, b)
    assert found["added", "Bottleneck", "backbone.layer3.*"] == 17
    assert found["same", "Bottleneck", "backbone.layer3.*"] == 6
    assert not [1 for status, _, _ in found if status in ("removed", "changed")]
    # Backwards, what was new is gone.
    assert boxes(b, a)["removed", "Bottleneck", "backbone.layer3.*"] == 17


def test_a_changed_attribute_and_a_frozen_weight_are_told() -> None:
    graph = fpn_detector()
    node = graph["neck.fpn_convs.0"]
    nodes = {n.name: n for n in graph.nodes} | {node.name: replace(node, attrs={**node.attrs, "dilation": 2})}
    weight = graph.weights["backbone.layer4.weight"]
    weights = {**graph.weights, weight.key: replace(weight, trainable=False)}
    told = {
        box.path: box.about
        for box in changes(graph, graph.replaced(nodes=nodes, weights=weights))
        if box.status != "same"
    }
    assert told == {"neck.fpn_convs.0": "dilation: 1 \u2192 2", "backbone.layer4": "weight: frozen"}


def test_what_differs_in_training_alone_is_drawn() -> None:
    graph = graph_of("retinanet.det:retinanet_r50_fpn_1x")
    nodes = {n.name: replace(n, attrs={**n.attrs, "gamma": 3.0}) if n.op == "focal_loss" else n for n in graph.nodes}
    assert drawn(diff_to_svg(graph, graph.replaced(nodes=nodes)))["changed"] == 1


def test_a_picture_says_whether_a_checkpoint_loads() -> None:
    a, b = (graph_of(f"retinanet.det:retinanet_r{depth}_fpn_1x") for depth in (50, 101))
    text = " ".join(text for text, _ in read(diff_to_svg(a, b)).texts)
    assert "does not load into retinanet_r101_fpn_1x: 306 keys missing, 0 extra, 0 reshaped" in text
    assert "a checkpoint of retinanet_r50_fpn_1x loads into" in " ".join(t for t, _ in read(diff_to_svg(a, a)).texts)


EVIL = "</pre></details><script>alert(1)</script>```\n"


def test_a_page_lists_the_keys_and_nothing_is_injected() -> None:
    graphs = []
    for name in ("fine", EVIL):
        b = Builder(name)
        graphs.append(b.graph({"forward": {"y": b.conv(name, b.image, 8)}}))
    found = compare(*graphs)
    page = diff_to_html(*graphs, found, [EVIL])
    assert "<script" not in page
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]
    assert page.count("<details>") == 2
    assert all(key in page for key in found.extra)


def test_markdown_breaks_out_of_no_fence() -> None:
    change = Change("setting", "data.classes", f'"{EVIL}"', None)
    text = _markdown(Difference([change], missing=["a.weight"], reshaped={"b": ((1,), (2,))}), "one", "two")
    # The fence is longer than what is inside it.
    assert text.count("````diff\n") == 1
    assert "breaking: a checkpoint of `one` does not load into `two`: 1 keys missing, 0 extra, 1 reshaped" in text
    assert "a.weight" in text and "b: [1] \u2192 [2]" in text
    assert "not load" not in _markdown(Difference([change]), "one", "two")
