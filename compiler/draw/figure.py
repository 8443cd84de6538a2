"""Draws the plan of a neck as the papers draw it, alone or between its backbone and its heads."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import networkx as nx

from detc.compiler.draw.canvas import FRAME, PALE, Canvas, Point, along, towards
from detc.compiler.draw.layers import ABOUT, NAME, Box, outline
from detc.compiler.draw.parts import Part
from detc.compiler.draw.pyramid import Arrow, Cell, Kind, Plan
from detc.compiler.draw.text import width
from detc.compiler.graph import Graph, Value

COLOURS: dict[Kind, str] = {"same": "#57606a", "up": "#d1570c", "down": "#1f6fd0", "skip": "#1a8f5f"}
MEANINGS: dict[Kind, str] = {
    "same": "same level",
    "up": "to a coarser level",
    "down": "to a finer level",
    "skip": "skip",
}


class Figure:
    """Draws a plan. Cells stand on a grid of `DX` by `DY`; their radius is `R`."""

    DX, DY, R = 58.0, 54.0, 11.0

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
        several = len({cell.merges for cell in plan.cells.values() if cell.merges}) > 1
        for cell in plan.cells.values():
            x, y = self.at(cell)
            canvas.circle(x, y, self.R, f"{cell.path or cell.value}: {self.graph.type_of(cell.value)}", str(cell.value))
            if cell.merges:
                sign = _initials(cell.merges) if several else "+"
                size = 14.0 if len(sign) == 1 else 8.5
                canvas.words(x, y + 0.36 * size, sign, size)
        self._margins()
        self._legend()
        canvas.heading(title, about)
        return canvas.text(title)

    def _span(self, arrow: Arrow) -> int:
        return self.plan.cells[arrow.target].column - self.plan.cells[arrow.source].column

    def _way(self, arrow: Arrow, arcs: Counter[tuple[Value, Value]]) -> list[Point]:
        """The points of an arrow between the rims of its cells.

        It is straight where nothing is in the way, else bent as little as it takes to pass beside all other cells.
        """
        start, end = (self.at(self.plan.cells[value]) for value in (arrow.source, arrow.target))
        (x0, y0), (x1, y1) = start, end
        reach = self.R + 1.5
        straight = [towards(start, end, reach), towards(end, start, reach)]
        if y0 == y1 and (arrow.kind == "skip" or self._hits(straight, start, end)):
            arcs[arrow.source, arrow.target] += 1
            span = round((x1 - x0) / self.DX)
            height = min(10 + 3.8 * span, self.DY - self.R - 8) * 4 / 3 + 6 * (arcs[arrow.source, arrow.target] - 1)
            lift = reach * 0.9
            lean = min(0.35 * (x1 - x0), 40)
            return [(x0 + 4, y0 - lift), (x0 + lean, y0 - height), (x1 - lean, y1 - height), (x1 - 4, y1 - lift)]
        if not self._hits(straight, start, end):
            return straight
        # Below the diagonal there is room, and to the right of what is upright.
        length = math.dist(start, end)
        across = (abs(y1 - y0) / length, abs(x1 - x0) / length)
        ways = []
        for share in (0.3, -0.3, 0.5, -0.5, 0.75, -0.75, 1.0, -1.0):
            bend = (share * self.DX * across[0], share * self.DY * across[1])
            a = (x0 + (x1 - x0) * 0.25 + bend[0], y0 + (y1 - y0) * 0.25 + bend[1])
            b = (x0 + (x1 - x0) * 0.75 + bend[0], y0 + (y1 - y0) * 0.75 + bend[1])
            ways.append([towards(start, a, reach), a, b, towards(end, b, reach)])
        return min(ways, key=lambda way: self._hits(way, start, end))

    def _hits(self, way: list[Point], *ends: Point) -> int:
        """How many other cells an arrow would touch."""
        points = along(way, 48)
        others = self.occupied - set(ends)
        return sum(any(math.dist(cell, point) < self.R + 2.5 for point in points) for cell in others)

    def _caption(self, arrow: Arrow) -> str:
        return f"{arrow.path or 'resize'}: {MEANINGS[arrow.kind]}"

    def _margins(self) -> None:
        """Names of levels at both sides, of stages below, and brackets around what repeats."""
        canvas, plan = self.canvas, self.plan
        left = min(-self.R - 30, canvas.left - 6)
        for level, y in self.rows.items():
            canvas.words(left, y + 4, f"1/{2**level}", 11, "end", pale=True)
        enters = "P" if plan.part.call is not None and plan.part.call.kind == "cell" else "C"
        for value in plan.inputs:
            cell = plan.cells[value]
            canvas.words(-self.R - 4, self.rows[cell.level] - 7, f"{enters}{cell.level}", 11, "end")
        for value in plan.outputs:
            cell = plan.cells[value]
            x, y = self.at(cell)
            canvas.arrow([(x + self.R + 1.5, y), (self.last + 50, y)], COLOURS["same"], "output")
            canvas.words(self.last + 31, y - 5, f"P{cell.level}", 11)
        self._stages()
        top = min(self.rows.values())
        for repeat in plan.repeats:
            x0, x1 = repeat.first * self.DX - 21, repeat.last * self.DX + 21
            arched = any(
                arrow.kind == "skip"
                and self.rows[self.plan.cells[arrow.source].level] == top
                and repeat.first <= plan.cells[arrow.target].column <= repeat.last
                for arrow in plan.arrows
            )
            above = self.DY - 8 if arched else 24
            canvas.box(x0, top - above, x1 - x0, -top + above + 24, look="frame")
            canvas.words(x1, top - above - 6, f"{repeat.name} \u00d7 {repeat.times}", 12, "end", bold=True)

    def _stages(self) -> None:
        """Names of columns below them, in as many lines as keep them apart; a line gathers numbered ones."""
        canvas, plan = self.canvas, self.plan
        y = self.R + 18
        runs: list[tuple[str, float, float]] = []
        folded = {column for repeat in plan.repeats for column in range(repeat.first, repeat.last + 1)}
        for index, column in enumerate(plan.columns):
            x = index * self.DX
            if index in folded or not column.label:
                continue
            if column.number:
                canvas.words(x, y, column.number, 10, pale=True)
            if runs and runs[-1][0] == column.label and runs[-1][2] == x - self.DX:
                runs[-1] = (column.label, runs[-1][1], x)
            else:
                runs.append((column.label, x, x))
        filled: list[float] = []
        for label, start, end in runs:
            middle, half = (start + end) / 2, width(label, 10) / 2
            line = next((i for i, right in enumerate(filled) if right + 5 <= middle - half), len(filled))
            filled[line:] = [middle + half, *filled[line + 1 :]]
            canvas.words(middle, y + 16 + 13 * line, label, 10)
            if end > start:
                path = f"M{start - 16:g},{y + 4:g} H{end + 16:g}"
                canvas.shapes.append(f'<path class="frame" d="{path}" stroke="{FRAME}" fill="none"/>')

    def _surroundings(self) -> None:
        """The backbone at the left, its levels from the finest up, and the heads at the right of the outputs."""
        canvas, plan = self.canvas, self.plan
        if self.before is not None:
            ends = [self.at(plan.cells[value]) for value in plan.inputs]
            for (x0, y0), (x1, y1) in pairwise(ends):
                canvas.arrow([(x0, y0 - self.R - 1.5), (x1, y1 + self.R + 1.5)], PALE, "backbone")
            low, high = max(y for _, y in ends), min(y for _, y in ends)
            canvas.arrow([(0, low + self.R + 24), (0, low + self.R + 1.5)], PALE, "image")
            canvas.words(-6, low + self.R + 24, "image", 11, "end")
            canvas.words(8, high - self.R - 20, self.before.name, 12, "end", bold=True)
        low, high = (end(self.rows[plan.cells[value].level] for value in plan.outputs) for end in (max, min))
        left, top, bottom = self.last + 52, high - 22, low + 22
        frames = [_Frame(self.graph, part) for part in self.after]
        tallest = max((frame.height for frame in frames), default=0.0)
        if tallest > bottom - top:
            middle = (top + bottom) / 2
            top, bottom = middle - tallest / 2, middle + tallest / 2
        for index, frame in enumerate(frames):
            if index and self._feeds(self.after[index - 1], frame.part):
                # A second stage reads what the first found, and the features again.
                middle = (low + high) / 2
                canvas.arrow([(left - 14, middle), (left + 12, middle)], PALE)
                left += 13
                canvas.arrow(_under((self.last + 44, low), (left + 24, bottom + 1.5), bottom + 14), PALE)
            frame.draw(canvas, left, top, bottom)
            left += frame.width + 14

    def _feeds(self, first: Part, second: Part) -> bool:
        """Whether something of `second` is computed from what `first` makes."""
        reached = {name for node in first.nodes for name in nx.descendants(self.graph.nx, node)}
        return not reached.isdisjoint(second.nodes)

    def _legend(self) -> None:
        """A line for every kind of arrow that occurs, with the labels it goes through."""
        canvas = self.canvas
        x, y = canvas.left, canvas.bottom + 24
        for kind, colour in COLOURS.items():
            arrows = [arrow for arrow in self.plan.arrows if arrow.kind == kind]
            if arrows:
                counts = Counter(arrow.label for arrow in arrows if arrow.label)
                labels = [label for label, count in counts.items() if count > 1]
                text = MEANINGS[kind] + (f": {', '.join(labels)}" if 0 < len(labels) < 4 else "")
                canvas.arrow([(x, y - 4), (x + 24, y - 4)], colour)
                canvas.words(x + 30, y, text, 11, "start")
                y += 17


class _Frame:
    """A head: its name and, from left to right, the modules inside it and what feeds what."""

    COLUMN, LINE, HEIGHT = 20.0, 12.0, 34.0

    # A head of more modules than this is an empty box: there are pictures of its own for it.
    MOST = 9

    def __init__(self, graph: Graph, part: Part) -> None:
        self.part = part
        flow = outline(graph, part)
        if len(flow) > self.MOST:
            flow = nx.DiGraph()
        self.flow = flow
        self.columns: list[list[Box]] = [list(column) for column in nx.topological_generations(flow)]
        self.widths = [max(self._width(box) for box in column) for column in self.columns]
        inside = sum(self.widths) + self.COLUMN * max(0, len(self.columns) - 1)
        self.width = 24 + max(width(part.name, NAME, bold=True), inside)
        lines = max(map(len, self.columns), default=0)
        self.height = 52 + lines * (self.HEIGHT + self.LINE) - self.LINE if lines else 52.0
        self.inside = inside

    def _width(self, box: Box) -> float:
        return 14 + max(width(box.name, ABOUT), width(box.about, ABOUT - 1), 18)

    def draw(self, canvas: Canvas, left: float, top: float, bottom: float) -> None:
        canvas.box(left, top, self.width, bottom - top, self.part.path)
        if not self.columns:
            canvas.words(left + self.width / 2, (top + bottom) / 2 + 4, self.part.name, NAME, bold=True)
            return
        canvas.words(left + self.width / 2, top + 20, self.part.name, NAME, bold=True)
        x, middle = left + (self.width - self.inside) / 2, (top + 28 + bottom) / 2
        for column, room in zip(self.columns, self.widths, strict=True):
            if x > left + (self.width - self.inside) / 2:
                column.sort(key=lambda box: sum(other.y for other in self.flow.predecessors(box)))
            y = middle - (len(column) * (self.HEIGHT + self.LINE) - self.LINE) / 2
            for box in column:
                box.x, box.y = x + room / 2, y
                half = self._width(box) / 2
                canvas.box(box.x - half, box.y, 2 * half, self.HEIGHT, box.detail)
                canvas.words(box.x, box.y + (14 if box.about else 21), box.name, ABOUT)
                if box.about:
                    canvas.words(box.x, box.y + 27, box.about, ABOUT - 1, pale=True)
                y += self.HEIGHT + self.LINE
            x += room + self.COLUMN
        for source, target in self.flow.edges:
            x0, x1 = source.x + self._width(source) / 2, target.x - self._width(target) / 2 - 1
            y0, y1 = source.y + self.HEIGHT / 2, target.y + self.HEIGHT / 2
            half = (x1 - x0) / 2
            canvas.arrow([(x0, y0), (x0 + half, y0), (x1 - half, y1), (x1, y1)], PALE)


def _under(start: Point, end: Point, depth: float) -> list[Point]:
    """Down from the start, along at a depth, and up to the end, with round corners."""
    (x0, y0), (x1, y1) = start, end
    a, b = (x0 + 12, depth), (x1 - 12, depth)
    return [
        start,
        (x0, depth - (depth - y0) / 4),
        (x0 + 2, depth),
        a,
        a,
        b,
        b,
        (x1 - 2, depth),
        (x1, depth - 2),
        (x1, y1),
    ]


def _initials(name: str) -> str:
    """What of a component's name fits a cell: its capitals, or its first letters."""
    capitals = "".join(letter for letter in name if letter.isupper())
    return {"add": "+", "Sum": "+", "mul": "\u00d7"}.get(name, capitals[:3] if len(capitals) > 1 else name[:3])
