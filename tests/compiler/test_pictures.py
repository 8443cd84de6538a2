"""What must hold of every picture, whatever it shows: nothing overlaps, nothing is cut off, nothing is missing."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest
from svg import Picture, Point, check, read

from detc.compiler.draw import to_svg
from detc.compiler.draw.canvas import along
from detc.compiler.draw.parts import data_operands, find, whole
from detc.compiler.draw.pyramid import level_of, plan
from detc.compiler.draw.text import width, wrapped
from detc.compiler.elaborate import elaborate
from detc.compiler.graph import Graph, Value
from detc.compiler.modules import Loader

SPECS = Path(__file__).parents[2] / "specs"
# One row for every kind of neck, and of every kind of head.
ROWS = [
    "retinanet.det:retinanet_r50_fpn_1x",
    "nas_fpn.det:retinanet_r50_nasfpn_crop640_50e",
    "nas_fpn.det:retinanet_r50_fpn_crop640_50e",
    "fpg.det:faster_rcnn_r50_fpg_crop640_50e",
    "fpg.det:retinanet_r50_fpg_crop640_50e",
    "pafpn.det:faster_rcnn_r50_pafpn_1x",
    "simpledet.det:simpledet_nasfpn_640_7_256",
    "simpledet.det:simpledet_tdbu_1280_3_384",
    "cascade_rcnn.det:cascade_mask_rcnn_r50_fpn_1x",
    "mask_rcnn.det:mask_rcnn_r50_fpn_1x",
    "rpn.det:rpn_r50_fpn_1x",
    "fast_rcnn.det:fast_rcnn_r50_fpn_1x",
]


def graph_of(row: str) -> Graph:
    spec, name = row.split(":")
    return elaborate(Loader((SPECS,)).load(SPECS / spec), name).graph


def check_arrows(picture: Picture, graph: Graph, neck: str) -> None:
    """Fails where an arrow passes through a cell, or where arrows are not what the graph says.

    One leads from a cell to another exactly if data flow between them through no third.
    """
    part = find(whole(graph), neck)
    assert part is not None
    cells = {str(value): value for value in map(_value, picture.circles)}
    drawn: set[tuple[str, str]] = set()
    for kind, way in picture.arrows:
        ends = [next((c for c, at in picture.circles.items() if math.dist(at, point) < 16), "") for point in _ends(way)]
        for name, at in picture.circles.items():
            nearest = min(math.dist(at, point) for point in along(way, 60))
            assert name in ends or nearest > picture.radius + 1, (kind, ends, name)
        if kind:
            assert all(ends)
            drawn.add((ends[0], ends[1]))
            (_, y0), (_, y1) = (picture.circles[end] for end in ends)
            assert (kind == "up", kind == "down") == (y1 < y0, y1 > y0)
    makers = {value.node for value in cells.values()}
    flows = set()
    for name, value in cells.items():
        stack = [value.node] if value.node in part.nodes else []
        seen = set(stack)
        while stack:
            for operand in data_operands(graph[stack.pop()]):
                if operand.node in makers:
                    flows.add((str(operand), name))
                elif operand.node in part.nodes and operand.node not in seen:
                    seen.add(operand.node)
                    stack.append(operand.node)
    assert drawn == flows


def _value(text: str) -> Value:
    node, _, output = text.removeprefix("%").partition("#")
    return Value(node, int(output or 0))


def _ends(way: list[Point]) -> tuple[Point, Point]:
    return way[0], way[-1]


def check_rows(picture: Picture, graph: Graph) -> None:
    """Fails where a row is not a level, or a column not straight."""
    rows: dict[int, set[float]] = {}
    for name, (_, y) in picture.circles.items():
        level = level_of(graph, _value(name))
        assert level is not None
        rows.setdefault(level, set()).add(y)
    heights = [rows[level] for level in sorted(rows)]
    assert all(len(ys) == 1 for ys in heights)
    assert [max(ys) for ys in heights] == sorted({max(ys) for ys in heights}, reverse=True)
    columns = sorted({x for x, _ in picture.circles.values()})
    steps = {round(after - before, 3) for before, after in pairwise(columns)}
    assert len(steps) <= 1
    assert len(set(picture.circles.values())) == len(picture.circles)


def check_all(graph: Graph, depth: int = 1) -> None:
    """The picture of a whole detector, and those of its components, so many labels deep."""
    picture = check(to_svg(graph))
    # Without a neck, as with dilated backbones, a detector is drawn in layers.
    assert bool(picture.circles) == any(call.kind == "neck" for call in graph.calls)
    if picture.circles:
        check_rows(picture, graph)
        check_arrows(picture, graph, "neck")
    for call in {call.path: call for call in graph.calls if call.path.count(".") < depth}.values():
        picture = check(to_svg(graph, call.path))
        if picture.circles:
            check_arrows(picture, graph, call.path)


@pytest.mark.parametrize("row", ROWS)
def test_pictures_of_every_kind_of_detector(row: str) -> None:
    check_all(graph_of(row))


@pytest.mark.slow
@pytest.mark.parametrize("spec", sorted(path.name for path in SPECS.glob("*.det")))
def test_pictures_of_all_detectors(spec: str) -> None:
    for detector in Loader((SPECS,)).load(SPECS / spec).detectors:
        check_all(graph_of(f"{spec}:{detector.name}"), depth=2)


def test_everything_in_a_neck_is_drawn() -> None:
    graph = graph_of("fpg.det:retinanet_r50_fpg_crop640_50e")
    part = find(whole(graph), "neck")
    assert part is not None
    of_neck = plan(graph, part)
    assert of_neck is not None
    labels = {arrow.path for arrow in of_neck.arrows} | {cell.path for cell in of_neck.cells.values()}
    modules = {key.rpartition(".")[0] for node in part.nodes for key in graph[node].weights.values()}
    missing = [m for m in modules if not any(f"{m}.".startswith(f"{path}.") for path in labels if path)]
    assert not missing
    # 9 pathways: the grid's corner of 1 + 2 + 3 + 4 is cut off.
    assert Counter(cell.merges for cell in of_neck.cells.values())["GridNode"] == 9 * 5 - 10


def test_two_cells_of_one_paper_look_the_same() -> None:
    # Both are figure 7 of Ghiasi et al., CVPR 2019, built from other parts.
    shapes = []
    for row in ("nas_fpn.det:retinanet_r50_nasfpn_crop640_50e", "simpledet.det:simpledet_nasfpn_640_7_256"):
        graph = graph_of(row)
        part = find(whole(graph), "neck")
        assert part is not None
        of_neck = plan(graph, part)
        assert of_neck is not None
        (repeat,) = of_neck.repeats
        at = {value: (cell.level, cell.column) for value, cell in of_neck.cells.items()}
        shapes.append(sorted((at[a.source], at[a.target]) for a in of_neck.arrows if at[a.target][1] >= repeat.first))
        texts = [text for text, _ in read(to_svg(graph)).texts]
        assert (texts.count("GP"), texts.count("+")) == (4, 5)
    assert shapes[0] == shapes[1]


def test_stages_of_a_cascade_are_in_their_order() -> None:
    texts = dict(read(to_svg(graph_of("cascade_rcnn.det:cascade_mask_rcnn_r50_fpn_1x"))).texts)
    stages = [texts[label][0] for label in ("bbox_head.0", "bbox_head.1", "bbox_head.2", "mask_head")]
    assert stages == sorted(stages)


def test_a_picture_is_the_same_bytes_each_time() -> None:
    script = (
        "import sys; from detc import load; from detc.compiler.draw import to_html, to_svg\n"
        "for row in sys.argv[1:]:\n"
        "    graph = load(*row.split(':')).graph\n"
        "    print(to_html(graph), to_svg(graph), *(to_svg(graph, c.path) for c in graph.calls if '.' not in c.path))"
    )
    rows = [f"{SPECS / spec}" for spec in ("fpg.det:retinanet_r50_fpg_crop640_50e", ROWS[8])]
    printed = {
        subprocess.run(
            [sys.executable, "-c", script, *rows],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_widths_are_those_of_the_font() -> None:
    metrics = Path(mpl.get_data_path()) / "fonts" / "pdfcorefonts"
    for file, bold in (("Helvetica.afm", False), ("Helvetica-Bold.afm", True)):
        for line in (metrics / file).read_text().splitlines():
            if line.startswith("C ") and 32 <= (code := int(line.split()[1])) < 127:
                real = float(line.split("WX ")[1].split()[0])
                # Code 39 and 96 of the font's own encoding are curly quotes.
                if code not in {39, 96} and not bold:
                    assert width(chr(code), 1000) == real, chr(code)
                elif bold and chr(code).isalnum():
                    assert width(chr(code), 1000, bold=True) >= real, chr(code)


def test_lines_break_between_words() -> None:
    assert wrapped("one two three", 10, width("one two", 10)) == ["one two", "three"]
    assert wrapped("incomprehensible", 10, 5) == ["incomprehensible"]
    assert wrapped("", 10, 5) == []


def test_names_of_stages_are_below_them() -> None:
    graph = graph_of("retinanet.det:retinanet_r50_fpn_1x")
    picture = read(to_svg(graph))
    texts = dict(picture.texts)
    for label in ("lateral_convs", "fpn_convs"):
        left, top, right, _ = texts[label]
        columns = {x for value, (x, _) in picture.circles.items() if value.startswith(f"%neck.{label}")}
        assert len(columns) == 1
        assert columns.pop() == pytest.approx((left + right) / 2)
        assert top > max(y for _, y in picture.circles.values())
