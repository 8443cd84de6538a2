from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from handmade import Builder, backbone, fpg_detector, fpn, fpn_detector, head

from detc.compiler.draw import to_html, to_svg
from detc.compiler.draw.parts import find, whole
from detc.compiler.draw.pyramid import Plan, plan
from detc.compiler.elaborate import elaborate
from detc.compiler.graph import Graph
from detc.compiler.modules import Loader

SPECS = Path(__file__).parents[2] / "specs"
SVG = "{http://www.w3.org/2000/svg}"


def picture(graph: Graph, path: str) -> Plan:
    part = find(whole(graph), path)
    assert part is not None
    found = plan(graph, part)
    assert found is not None
    return found


def arrows(svg: str) -> Counter[tuple[str, str]]:
    """How many arrows there are of each kind and label."""
    found: Counter[tuple[str, str]] = Counter()
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if kind := group.get("data-kind"):
            title = group.findtext(f"{SVG}title") or ""
            found[kind, title.split(":")[0].split(".")[-1] if ":" in title else ""] += 1
    return found


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_fpn_has_the_arrows_of_its_figure_in_three_columns() -> None:
    graph = fpn_detector()
    of_neck = picture(graph, "neck")
    kinds = Counter((a.kind, a.label) for a in of_neck.arrows)
    assert kinds == {
        ("same", "lateral_convs"): 3,
        ("down", ""): 2,
        ("same", "fpn_convs"): 3,
        ("up", ""): 1,
    }
    at = {str(value): cell.column for value, cell in of_neck.cells.items()}
    assert [at[f"%backbone.relu{level}"] for level in (3, 4, 5)] == [0, 0, 0]
    assert [at[name] for name in ("%neck.sum3", "%neck.sum4", "%neck.lateral_convs.2")] == [1, 1, 1]
    assert [at[f"%neck.{p}"] for p in ("fpn_convs.0", "fpn_convs.1", "fpn_convs.2", "p6")] == [2, 2, 2, 2]


def test_fpg_has_every_arrow_of_its_figure() -> None:
    graph = fpg_detector(pathways=3)
    of_neck = picture(graph, "neck")
    kinds = Counter((a.kind, a.label) for a in of_neck.arrows)
    # Four levels and three pathways; the first skip of a level, though short, is one.
    assert kinds == {
        ("same", "lateral_convs"): 3,
        ("up", "extra"): 1,
        ("same", "across_lateral"): 12,
        ("skip", "across_skip"): 12,
        ("up", "same_up"): 9,
        ("up", "across_up"): 9,
        ("down", "across_down"): 9,
        ("same", "conv_out"): 4,
    }
    drawn = arrows(to_svg(graph))
    assert sum(drawn.values()) == sum(kinds.values())
    assert drawn["skip", "across_skip"] == 12


def test_fpg_has_a_column_for_every_pathway() -> None:
    of_neck = picture(fpg_detector(pathways=3), "neck")
    for pathway in range(3):
        cells = [c for c in of_neck.cells.values() if c.path.startswith(f"neck.fpn_transitions.{pathway}.")]
        assert sorted(c.level for c in cells) == [3, 4, 5, 6]
        assert {c.column for c in cells} == {pathway + 2}
        assert of_neck.columns[pathway + 2].number == str(pathway)
    assert {of_neck.cells[value].column for value in of_neck.outputs} == {5}


def test_no_two_cells_share_a_place() -> None:
    for of_neck in (picture(fpg_detector(), "neck"), picture(fpn_detector(), "neck")):
        places = [(cell.level, cell.column) for cell in of_neck.cells.values()]
        assert len(places) == len(set(places))


@pytest.mark.parametrize(
    ("spec", "name", "wirings"),
    [
        (
            "fpg.det",
            "retinanet_r50_fpg_crop640_50e",
            {"across_lateral": 35, "across_skip": 35, "same_up": 30, "across_down": 26, "conv_out": 5},
        ),
        ("retinanet.det", "retinanet_r50_fpn_1x", {"lateral_convs": 3, "fpn_convs": 5}),
    ],
)
def test_published_necks_have_every_arrow(spec: str, name: str, wirings: dict[str, int]) -> None:
    of_neck = picture(elaborate(Loader((SPECS,)).load(SPECS / spec), name).graph, "neck")
    labels = Counter(arrow.label for arrow in of_neck.arrows)
    assert {label: labels[label] for label in wirings} == wirings


def test_a_cell_that_is_stacked_is_drawn_once() -> None:
    graph = elaborate(Loader((SPECS,)).load(SPECS / "nas_fpn.det"), "retinanet_r50_nasfpn_crop640_50e").graph
    of_neck = picture(graph, "neck")
    assert [(r.name, r.times) for r in of_neck.repeats] == [("NASFPNCell", 7)]
    # Figure 7 of the paper: nine joins, each of two features.
    joins = [cell for cell in of_neck.cells.values() if cell.merges]
    assert len(joins) == 9
    assert all(sum(a.target == cell.value for a in of_neck.arrows) == 2 for cell in joins)
    assert "NASFPNCell \u00d7 7" in words(to_svg(graph))


def test_a_picture_of_the_whole_names_what_is_around_the_neck() -> None:
    texts = words(to_svg(fpn_detector()))
    assert {"Plain", "Head", "image", "C3", "C5", "P3", "P6", "1/8", "1/64"} <= set(texts)


@pytest.mark.parametrize("view", ["forward", "train", "predict"])
def test_a_second_stage_is_in_every_view(view: str) -> None:
    """Its outputs are of inference: in training only losses are, which no application returns."""
    whole_graph = elaborate(Loader((SPECS,)).load(SPECS / "mask_rcnn.det"), "mask_rcnn_r50_fpn_1x").graph
    graph = whole_graph.view(view)
    paths = [call.path for call in graph.calls]
    assert {"backbone", "neck", "rpn_head", "roi_head", "roi_head.bbox_head"} <= set(paths)
    assert paths.count("roi_head") == 1
    # What it is made of is inside it, and drawn there.
    part = find(whole(graph), "roi_head")
    assert part is not None
    assert part.nodes == {n.name for n in graph.nodes if n.name.startswith("roi_head.")}
    assert "roi_head.bbox_head" in {inner.path for inner in part}
    assert {"RPNHead", "RegionHead", "bbox_head"} <= set(words(to_svg(graph)))
    data = json.loads(to_html(graph).partition('id="data">')[2].partition("</script>")[0])
    [number] = [i for i, p in enumerate(data["parts"]) if p["path"] == "roi_head" and "node" not in p]
    assert data["parts"][number]["parent"] == 0
    assert {data["parts"][i]["path"] for i in data["parts"][number]["parts"]} >= {"roi_head.bbox_head"}
    # Nothing else was kept than what is needed.
    needed = graph.reached(view)
    assert all(value.node in needed for call in graph.calls for _, value in call.outputs)


def test_what_has_no_pyramid_is_drawn_in_layers() -> None:
    graph = elaborate(Loader((SPECS,)).load(SPECS / "retinanet.det"), "retinanet_r50_fpn_1x").graph
    stages = [text for text in words(to_svg(graph, "backbone")) if text.startswith("Bottleneck")]
    assert stages == ["Bottleneck \u00d7 3", "Bottleneck \u00d7 4", "Bottleneck \u00d7 6", "Bottleneck \u00d7 3"]
    # The head does the same to each of five levels.
    of_head = words(to_svg(graph.view("predict"), "bbox_head"))
    assert of_head.count("nms") == 1
    assert "decode_delta \u00d7 5" in of_head


def test_boxes_do_not_overlap() -> None:
    graph = elaborate(Loader((SPECS,)).load(SPECS / "retinanet.det"), "retinanet_r50_fpn_1x").graph
    boxes = [
        tuple(float(rect.get(side) or 0) for side in ("x", "y", "width", "height"))
        for rect in ElementTree.fromstring(to_svg(graph, "bbox_head")).iter(f"{SVG}rect")
    ]
    for i, (x0, y0, w0, h0) in enumerate(boxes):
        for x1, y1, w1, h1 in boxes[:i]:
            assert x0 + w0 <= x1 or x1 + w1 <= x0 or y0 + h0 <= y1 or y1 + h1 <= y0


def test_an_unknown_component_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"neck\.nothing"):
        to_svg(fpn_detector(), "neck.nothing")


def test_text_is_escaped() -> None:
    b = Builder("a < b & c")
    scores = head(b, fpn(b, backbone(b)))
    assert "a < b & c" in words(to_svg(b.graph({"forward": {"s": tuple(scores.values())}})))


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_the_page_needs_no_network() -> None:
    page = to_html(fpg_detector())
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=", page)


def test_a_name_cannot_end_the_pages_data() -> None:
    b = Builder()
    evil = b.node("</script>", "relu", {"x": b.conv("conv", b.image, 8)}, b.types["conv"])
    data = data_of(to_html(b.graph({"forward": {"y": evil}})))
    assert [node["name"] for node in data["nodes"]] == ["conv", "</script>"]


def test_the_page_has_every_node_in_the_tree_of_components() -> None:
    graph = elaborate(Loader((SPECS,)).load(SPECS / "retinanet.det"), "retinanet_r50_fpn_1x").graph
    data = data_of(to_html(graph))

    def path_to(part: int) -> list[str]:
        entry = data["parts"][part]
        return ([] if entry["parent"] is None else path_to(entry["parent"])) + [entry["path"]]

    (conv,) = [node for node in data["nodes"] if node["name"] == "neck.fpn_convs.0.conv"]
    assert path_to(conv["part"]) == ["", "neck", "neck.fpn_convs.0", "neck.fpn_convs.0.conv"]
    assert [data["weights"][w]["key"] for w in conv["weights"]] == [
        "neck.fpn_convs.0.conv.weight",
        "neck.fpn_convs.0.conv.bias",
    ]
    assert conv["macs"] == 80 * 80 * 256 * 256 * 9
    assert any("conv: conv(" in text for _, text in conv["lines"])
    # Losses are in the head too, and only in the train view.
    (loss,) = {tuple(node["views"]) for node in data["nodes"] if node["op"] == "focal_loss"}
    assert loss == ("train",)
    assert all(path_to(node["part"])[1] == "bbox_head" for node in data["nodes"] if node["op"] == "focal_loss")


def test_the_pages_grid_puts_levels_in_rows() -> None:
    graph = fpg_detector(pathways=3)
    data = data_of(to_html(graph))
    at = {part["path"]: part["at"] for part in data["parts"] if "at" in part}
    assert [at[f"neck.fpn_transitions.1.{i}"] for i in range(4)] == [[6, 3], [6, 4], [6, 5], [6, 6]]
