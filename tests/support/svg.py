"""Reads the pictures that detc draws, and fails where they are not fit to print."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from xml.etree import ElementTree

from detc.compiler.draw.canvas import along
from detc.compiler.draw.text import width

SVG = "{http://www.w3.org/2000/svg}"

Point = tuple[float, float]
Area = tuple[float, float, float, float]


@dataclass
class Picture:
    """What an SVG shows: circles by value, boxes and texts as areas (left, top, right, bottom), arrows as points."""

    size: Area
    circles: dict[str, Point] = field(default_factory=dict)
    radius: float = 0.0
    boxes: list[Area] = field(default_factory=list)
    frames: list[Area] = field(default_factory=list)
    texts: list[tuple[str, Area]] = field(default_factory=list)
    arrows: list[tuple[str, list[Point]]] = field(default_factory=list)


def read(svg: str) -> Picture:
    root = ElementTree.fromstring(svg)
    left, top, wide, high = map(float, root.attrib["viewBox"].split())
    picture = Picture((left, top, left + wide, top + high))
    for shape in root.iter():
        number = {name: float(value) for name, value in shape.attrib.items() if name in {"x", "y", "cx", "cy", "r"}}
        if shape.tag == f"{SVG}circle":
            assert shape.attrib["data-value"] not in picture.circles
            picture.circles[shape.attrib["data-value"]] = (number["cx"], number["cy"])
            picture.radius = number["r"]
        elif shape.tag == f"{SVG}rect":
            right, bottom = (number[a] + float(shape.attrib[b]) for a, b in (("x", "width"), ("y", "height")))
            areas = picture.frames if shape.attrib["class"] == "frame" else picture.boxes
            areas.append((number["x"], number["y"], right, bottom))
        elif shape.tag == f"{SVG}text":
            size = float(shape.attrib["font-size"])
            wide = width(shape.text or "", size, "font-weight" in shape.attrib)
            x = number["x"] - wide * {"start": 0, "middle": 0.5, "end": 1}[shape.attrib["text-anchor"]]
            # From the height of capitals to the baseline.
            picture.texts.append((shape.text or "", (x, number["y"] - 0.72 * size, x + wide, number["y"])))
        elif shape.tag == f"{SVG}g":
            path, head = (part.attrib["d"] for part in shape.iter(f"{SVG}path"))
            way = [tuple(map(float, at.split(","))) for at in path.replace("M", "").translate({67: "", 76: ""}).split()]
            tip = tuple(map(float, head.split()[0].removeprefix("M").split(",")))
            picture.arrows.append((shape.get("data-kind") or "", [*way[:-1], tip]))  # type: ignore[list-item]
    return picture


def overlap(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def within(a: Area, b: Area) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def check(svg: str) -> Picture:
    """Fails where things overlap or are cut off."""
    picture = read(svg)
    reach = picture.radius
    round_ones = {name: (x - reach, y - reach, x + reach, y + reach) for name, (x, y) in picture.circles.items()}
    areas = [*round_ones.values(), *picture.boxes, *picture.frames, *(area for _, area in picture.texts)]
    assert all(within(area, picture.size) for area in areas)
    assert all(within((x, y, x, y), picture.size) for _, way in picture.arrows for x, y in along(way))
    for one, other in combinations(picture.texts, 2):
        assert not overlap(one[1], other[1]), (one, other)
    for one, other in combinations(picture.boxes, 2):
        assert not overlap(one, other) or within(one, other) or within(other, one), (one, other)
    for one, other in combinations(round_ones.values(), 2):
        assert not overlap(one, other)
    for text, area in picture.texts:
        for box in [*picture.boxes, *round_ones.values()]:
            assert not overlap(area, box) or within(area, box), (text, box)
    for box in picture.boxes:
        assert not any(overlap(box, circle) for circle in round_ones.values())
    return picture
