"""SVG pictures of a detector or one of its components, for papers and pages."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import networkx as nx

from detc.compiler.draw.layers import Layers, layers
from detc.compiler.draw.parts import Part, find, whole
from detc.compiler.draw.pyramid import Arrow, Cell, Kind, Plan, plan
from detc.compiler.graph import Graph, Value

COLOURS: dict[Kind, str] = {"same": "#6e7781", "up": "#d1570c", "down": "#1f6fd0", "skip": "#1a8f5f"}
MEANINGS: dict[Kind, str] = {
    "same": "same level",
    "up": "to a coarser level",
    "down": "to a finer level",
    "skip": "skip",
}
INK, PALE, PAPER = "#24292f", "#6e7781", "#ffffff"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"

# The drawing is made for light paper; where a page is dark, ink and paper change places.
STYLE = (
    "@media (prefers-color-scheme: dark) {"
    " .ink { fill: #e6edf3 } .pale { fill: #9198a1 } .paper { fill: #0d1117 }"
    " .rim { stroke: #c9d1d9 } .frame { stroke: #3d444d } }"
)

Point = tuple[float, float]


def to_svg(graph: Graph, path: str = "") -> str:
    """The picture of the component at a label path, or of the whole detector.

    A component that turns a pyramid into a pyramid is drawn as papers do: its levels as rows, the finest at the bottom,
    its stages as columns. Any other is drawn as boxes in layers. The whole detector is drawn as its neck, between the
    backbone that feeds it and the heads that read it.

    Raises:
        KeyError: no component is applied at `path`.
    """
    root = whole(graph)
    part = find(root, path)
    if part is None:
        raise KeyError(path)
    if picture := plan(graph, part):
        return _Pyramid(graph, picture).text(f"{part.name} ({part.path})", _about(part))
    if not path:
        for inner in root:
            if picture := plan(graph, inner):
                before, after = _around(graph, root, inner)
                names = [p.name for p in (before, inner, *after) if p]
                return _Pyramid(graph, picture, before, after).text(graph.name, " \u2192 ".join(names))
    return _boxes(layers(graph, part), part.name if path else graph.name, _about(part))


def _about(part: Part) -> str:
    """The first two sentences of a component's documentation: what it is, and where it is from."""
    doc = " ".join(part.call.doc.split()) if part.call else ""
    return ". ".join(re.split(r"\. (?=[A-Z`])", doc)[:2]).removesuffix(".")


def _around(graph: Graph, root: Part, neck: Part) -> tuple[Part | None, list[Part]]:
    """The component that feeds a neck, and those that read it."""
    before = [
        p for p in root if p.call and any(n in p.nodes for name in neck.nodes for n in graph.nx.predecessors(name))
    ]
    after = [
        p for p in root if p.call and any(n in neck.nodes for name in p.nodes for n in graph.nx.predecessors(name))
    ]
    return next((p for p in before if p is not neck), None), [p for p in after if p is not neck]


@dataclass
class Canvas:
    """Collects shapes; the picture's size is what they cover."""

    shapes: list[str] = field(default_factory=list)
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    def cover(self, x: float, y: float) -> None:
        self.left, self.right = min(self.left, x), max(self.right, x)
        self.top, self.bottom = min(self.top, y), max(self.bottom, y)

    def words(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 10,
        anchor: str = "middle",
        pale: bool = False,
        bold: bool = False,
    ) -> None:
        """A line of text whose baseline is at y."""
        width = 0.56 * size * len(text)
        start = {"start": 0.0, "middle": -width / 2, "end": -width}[anchor]
        self.cover(x + start, y - size)
        self.cover(x + start + width, y + 0.3 * size)
        weight = ' font-weight="bold"' if bold else ""
        fill, name = (PALE, "pale") if pale else (INK, "ink")
        where = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
        self.shapes.append(f'<text class="{name}" {where} fill="{fill}"{weight}>{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, title: str = "", dashed: bool = False) -> None:
        """A rectangle with rounded corners: filled for a thing, dashed around several."""
        self.cover(x, y)
        self.cover(x + width, y + height)
        look = (
            'class="frame" fill="none" stroke="#b6bec7" stroke-dasharray="3 3"'
            if dashed
            else f'class="paper rim" fill="{PAPER}" stroke="{INK}"'
        )
        self.shapes.append(
            f'<rect {look} x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5">{_title(title)}</rect>'
        )

    def circle(self, x: float, y: float, radius: float, title: str) -> None:
        self.cover(x - radius, y - radius)
        self.cover(x + radius, y + radius)
        self.shapes.append(
            f'<circle class="paper rim" cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{PAPER}" stroke="{INK}" '
            f'stroke-width="1.2">{_title(title)}</circle>'
        )

    def arrow(self, points: list[Point], colour: str, title: str = "", kind: str = "") -> None:
        """A line of two points, or a chain of cubic curves (four points, three more for each next one), with a head."""
        for point in points:
            self.cover(*point)
        (x, y), (end_x, end_y) = points[-2], points[-1]
        angle = math.atan2(end_y - y, end_x - x)
        tip = [(end_x - 6 * math.cos(angle + turn), end_y - 6 * math.sin(angle + turn)) for turn in (0.42, -0.42)]
        neck = (end_x - 5 * math.cos(angle), end_y - 5 * math.sin(angle))
        start, *rest = [*points[:-1], neck]
        command = "L" if len(points) == 2 else "C"
        line = f"M{_at(start)} {command}{' '.join(map(_at, rest))}"
        head = f"M{_at(points[-1])} L{_at(tip[0])} L{_at(tip[1])} Z"
        data = f' data-kind="{kind}"' if kind else ""
        self.shapes.append(
            f'<g stroke="{colour}" fill="{colour}"{data}>{_title(title)}'
            f'<path d="{line}" fill="none" stroke-width="1.3"/><path d="{head}" stroke="none"/></g>'
        )

    def text(self, title: str) -> str:
        """The SVG document."""
        margin = 14
        x, y = self.left - margin, self.top - margin
        width, height = self.right - x + margin, self.bottom - y + margin
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{x:g} {y:g} {width:g} {height:g}" '
                f'width="{width:g}" height="{height:g}" font-family="{FONT}" role="img">',
                _title(title),
                f"<style>{STYLE}</style>",
                *self.shapes,
                "</svg>",
                "",
            ]
        )


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _at(point: Point) -> str:
    return f"{point[0]:.4g},{point[1]:.4g}"


class _Pyramid:
    """Draws a plan. Cells stand on a grid of `DX` by `DY`; their radius is `R`."""

    DX, DY, R = 66.0, 66.0, 11.0

    def __init__(
        self, graph: Graph, picture: Plan, before: Part | None = None, after: list[Part] | None = None
    ) -> None:
        self.graph = graph
        self.plan = picture
        self.before = before
        self.after = after or []
        self.canvas = Canvas()
        self.rows = {level: -index * self.DY for index, level in enumerate(picture.levels)}
        self.occupied = {self.at(cell) for cell in picture.cells.values()}
        self.last = max(cell.column for cell in picture.cells.values()) * self.DX

    def at(self, cell: Cell) -> Point:
        return cell.column * self.DX, self.rows[cell.level]

    def text(self, title: str, about: str) -> str:
        plan, canvas = self.plan, self.canvas
        self._surroundings()
        arcs: Counter[tuple[Value, Value]] = Counter()
        for arrow in sorted(plan.arrows, key=self._span):
            canvas.arrow(self._way(arrow, arcs), COLOURS[arrow.kind], self._caption(arrow), arrow.kind)
        for cell in plan.cells.values():
            x, y = self.at(cell)
            canvas.circle(x, y, self.R, f"{cell.path or cell.value}: {self.graph.type_of(cell.value)}")
            if cell.merges and len({c.merges for c in plan.cells.values() if c.merges}) > 1:
                canvas.words(x, y + 3.2, _initials(cell.merges), 8.5)
            elif cell.merges:
                canvas.words(x, y + 4, "+", 12)
        self._margins()
        top, left = canvas.top, canvas.left
        canvas.words(left, top - 30, title, 14, "start", bold=True)
        if about:
            canvas.words(left, top - 13, about, 10, "start", pale=True)
        self._legend()
        return canvas.text(title)

    def _span(self, arrow: Arrow) -> int:
        return self.plan.cells[arrow.target].column - self.plan.cells[arrow.source].column

    def _way(self, arrow: Arrow, arcs: Counter[tuple[Value, Value]]) -> list[Point]:
        """The points of an arrow between the rims of its cells: straight where nothing is in the way, else curved."""
        (x0, y0), (x1, y1) = (self.at(self.plan.cells[end]) for end in (arrow.source, arrow.target))
        span = round((x1 - x0) / self.DX)
        reach = self.R + 1.5
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        blocked = any(
            0 < (px - x0) * ux + (py - y0) * uy < length and abs((px - x0) * uy - (py - y0) * ux) < self.R + 3
            for px, py in self.occupied - {(x0, y0), (x1, y1)}
        )
        if y0 == y1 and (blocked or arrow.kind == "skip"):
            arcs[arrow.source, arrow.target] += 1
            height = min(9 + 4.3 * span, self.DY - self.R - 12) * 4 / 3 + 6 * arcs[arrow.source, arrow.target]
            lift = reach * 0.9
            lean = min(0.35 * (x1 - x0), 40)
            return [(x0 + 4, y0 - lift), (x0 + lean, y0 - height), (x1 - lean, y1 - height), (x1 - 4, y1 - lift)]
        if not blocked:
            return [(x0 + reach * ux, y0 + reach * uy), (x1 - reach * ux, y1 - reach * uy)]
        # Bent to the side where the arrow's columns leave room: upright ones to the right, others below the diagonal.
        bend = 0.3 * self.DX if x0 == x1 else 0.38 * self.DX
        side = (abs(uy) * bend, abs(ux) * bend)
        a = (x0 + (x1 - x0) * 0.25 + side[0], y0 + (y1 - y0) * 0.25 + side[1])
        b = (x0 + (x1 - x0) * 0.75 + side[0], y0 + (y1 - y0) * 0.75 + side[1])
        return [_towards((x0, y0), a, reach), a, b, _towards((x1, y1), b, reach)]

    def _caption(self, arrow: Arrow) -> str:
        return f"{arrow.path or 'resize'}: {MEANINGS[arrow.kind]}"

    def _margins(self) -> None:
        """Names of levels at both sides, of stages below, and brackets around what repeats."""
        canvas, plan = self.canvas, self.plan
        left = min(-self.R - 30, canvas.left - 6)
        for level, y in self.rows.items():
            canvas.words(left, y + 4, f"1/{2**level}", 10, "end", pale=True)
        for value in plan.inputs:
            cell = plan.cells[value]
            canvas.words(-self.R - 5, self.rows[cell.level] - 7, f"C{cell.level}", 10, "end")
        for value in plan.outputs:
            cell = plan.cells[value]
            x, y = self.at(cell)
            canvas.arrow([(x + self.R + 1.5, y), (self.last + 62, y)], COLOURS["same"], "output")
            canvas.words(self.last + 40, y - 6, f"P{cell.level}", 10)
        y = self.R + 20
        runs: list[tuple[str, float, float]] = []
        folded = {column for repeat in plan.repeats for column in range(repeat.first, repeat.last + 1)}
        for index, column in enumerate(plan.columns):
            x = index * self.DX
            if index in folded:
                continue
            if column.number:
                canvas.words(x, y, column.number, 9, pale=True)
            if runs and runs[-1][0] == column.label:
                runs[-1] = (column.label, runs[-1][1], x)
            else:
                runs.append((column.label, x, x))
        for label, start, end in runs:
            if label:
                canvas.words((start + end) / 2, y + 16, label, 10)
                if end > start:
                    line = f"M{start - 20:g},{y + 4:g} H{end + 20:g}"
                    canvas.shapes.append(f'<path class="frame" d="{line}" stroke="#b6bec7" fill="none"/>')
        top = min(self.rows.values())
        for repeat in plan.repeats:
            x0, x1 = repeat.first * self.DX - 26, repeat.last * self.DX + 26
            canvas.box(x0, top - 34, x1 - x0, -top + 34 + 28, dashed=True)
            canvas.words(x1 - 4, top - 40, f"{repeat.name} \u00d7 {repeat.times}", 11, "end", bold=True)

    def _surroundings(self) -> None:
        """The backbone at the left, its levels from the finest up, and the heads at the right of the outputs."""
        canvas, plan = self.canvas, self.plan
        if self.before is not None:
            ends = [self.at(plan.cells[value]) for value in plan.inputs]
            for (x0, y0), (x1, y1) in pairwise(ends):
                canvas.arrow([(x0, y0 - self.R - 1.5), (x1, y1 + self.R + 1.5)], PALE, "backbone")
            low, high = max(y for _, y in ends), min(y for _, y in ends)
            canvas.arrow([(0, low + self.R + 26), (0, low + self.R + 1.5)], PALE, "image")
            canvas.words(0, low + self.R + 36, "image", 10)
            canvas.words(6, high - self.R - 20, self.before.name, 11, "end", bold=True)
        low, high = (end(self.rows[plan.cells[value].level] for value in plan.outputs) for end in (max, min))
        x, middle = self.last + 64, (low + high) / 2
        for index, part in enumerate(self.after):
            if index and self._feeds(self.after[index - 1], part):
                # A second stage reads what the first found, and the features again.
                canvas.arrow([(x - 16, middle), (x + 12, middle)], PALE)
                below = low + 36
                canvas.arrow(
                    [(self.last + 40, low), (self.last + 40, below), (x + 28, below), (x + 28, low + 21.5)], PALE
                )
                x += 14
            width = 24 + 6.8 * len(part.name)
            canvas.box(x, high - 20, width, low - high + 40, part.path)
            canvas.words(x + width / 2, middle + 4, part.name, 11, bold=True)
            x += width + 16

    def _feeds(self, first: Part, second: Part) -> bool:
        """Whether something of `second` is computed from what `first` makes."""
        reached = {name for node in first.nodes for name in nx.descendants(self.graph.nx, node)}
        return not reached.isdisjoint(second.nodes)

    def _legend(self) -> None:
        """A line for every kind of arrow that occurs, with the labels it goes through."""
        canvas = self.canvas
        x, y = canvas.left, canvas.bottom + 26
        for kind, colour in COLOURS.items():
            arrows = [arrow for arrow in self.plan.arrows if arrow.kind == kind]
            if arrows:
                labels = list(dict.fromkeys(arrow.label for arrow in arrows if arrow.label))
                text = MEANINGS[kind] + (f": {', '.join(labels)}" if 0 < len(labels) < 4 else "")
                canvas.arrow([(x, y - 3.5), (x + 24, y - 3.5)], colour)
                canvas.words(x + 30, y, text, 10, "start")
                y += 16


def _towards(start: Point, aim: Point, distance: float) -> Point:
    length = math.dist(start, aim)
    return tuple(s + (a - s) * distance / length for s, a in zip(start, aim, strict=True))  # type: ignore[return-value]


def _initials(name: str) -> str:
    """What of a component's name fits a cell: its capitals, or its first letters."""
    capitals = "".join(letter for letter in name if letter.isupper())
    return {"add": "+", "mul": "\u00d7"}.get(name, capitals[:3] if len(capitals) > 1 else name[:3])


def _boxes(picture: Layers, title: str, about: str) -> str:
    """Draws boxes in layers, from top to bottom."""
    canvas = Canvas()
    for line in picture.arrows:
        canvas.arrow(line, PALE)
    for box in picture.boxes:
        canvas.box(box.x - box.width / 2, box.y, box.width, box.height, box.detail)
        canvas.words(box.x, box.y + (15 if box.about else 22), box.name, 11, bold=box.opens)
        if box.about:
            canvas.words(box.x, box.y + 29, box.about, 9, pale=True)
    left, top = canvas.left, canvas.top
    canvas.words(left, top - 30, title, 14, "start", bold=True)
    if about:
        canvas.words(left, top - 13, about, 10, "start", pale=True)
    return canvas.text(title)
