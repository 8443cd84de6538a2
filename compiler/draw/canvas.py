"""An SVG picture under construction: text, boxes, circles and arrows, and how large they are together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

from detc.compiler.draw.text import width as width_of
from detc.compiler.draw.text import wrapped

INK, PALE, PAPER, FRAME = "#24292f", "#57606a", "#ffffff", "#b6bec7"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"

# What the colours of arrows are on dark paper.
_ON_DARK = {
    PALE: "#8b949e",
    "#d1570c": "#f0883e",
    "#1f6fd0": "#58a6ff",
    "#1a8f5f": "#3fb98a",
    "#1a7f37": "#3fb950",
    "#cf222e": "#f85149",
    "#9a6700": "#d29922",
}

# The drawing is made for light paper; where a page is dark, ink and paper change places. Print is always light.
STYLE = (
    "@media screen and (prefers-color-scheme: dark) {"
    " .ink { fill: #e6edf3 } .pale { fill: #9198a1 } .paper { fill: #0d1117 }"
    " .rim { stroke: #c9d1d9 } .frame { stroke: #3d444d } .same { fill: #161b22; stroke: #3d444d }"
    " .added { fill: #12261e; stroke: #3fb950 } .removed { fill: #25171c; stroke: #f85149 }"
    " .changed { fill: #272115; stroke: #d29922 } "
    + " ".join(f'g[stroke="{light}"] {{ stroke: {dark}; fill: {dark} }}' for light, dark in _ON_DARK.items())
    + " }"
)

# How a box looks: a thing, a frame around several, and what a comparison finds, told apart without colours by signs.
BOXES = {
    "paper rim": f'fill="{PAPER}" stroke="{INK}"',
    "frame": f'fill="none" stroke="{FRAME}" stroke-dasharray="3 3"',
    "same": f'fill="#f6f8fa" stroke="{FRAME}"',
    "added": 'fill="#dafbe1" stroke="#1a7f37" stroke-width="1.6"',
    "removed": 'fill="#ffebe9" stroke="#cf222e" stroke-width="1.6" stroke-dasharray="5 3"',
    "changed": 'fill="#fff8c5" stroke="#9a6700" stroke-width="1.6"',
}

Point = tuple[float, float]

# The narrowest that a picture's heading is broken to.
_HEADING = 340.0


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
        width = width_of(text, size, bold)
        start = {"start": 0.0, "middle": -width / 2, "end": -width}[anchor]
        self.cover(x + start, y - size)
        self.cover(x + start + width, y + 0.3 * size)
        weight = ' font-weight="bold"' if bold else ""
        fill, name = (PALE, "pale") if pale else (INK, "ink")
        where = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"'
        self.shapes.append(f'<text class="{name}" {where} fill="{fill}"{weight}>{escape(text)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, title: str = "", look: str = "paper rim", more: str = ""
    ) -> None:
        """A rectangle with rounded corners: in the colours of a thing, or of another `look` among `BOXES`.

        `more` are further attributes.
        """
        self.cover(x, y)
        self.cover(x + width, y + height)
        where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"'
        self.shapes.append(f'<rect class="{look}" {BOXES[look]}{more} {where}>{_title(title)}</rect>')

    def circle(self, x: float, y: float, radius: float, title: str, value: str) -> None:
        """A circle for a value of the graph."""
        self.cover(x - radius, y - radius)
        self.cover(x + radius, y + radius)
        where = f'cx="{x:g}" cy="{y:g}" r="{radius:g}"'
        look = f'class="paper rim" fill="{PAPER}" stroke="{INK}" stroke-width="1.2"'
        self.shapes.append(f'<circle {look} data-value="{escape(value)}" {where}>{_title(title)}</circle>')

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
            f'<path d="{line}" fill="none" stroke-width="1.4"/><path d="{head}" stroke="none"/></g>'
        )

    def heading(self, title: str, about: str) -> None:
        """The title above all that is there, and below it what it is about, no wider than the picture."""
        left, top = self.left, self.top
        lines = wrapped(about, 11, max(self.right - left, _HEADING))
        for index, line in enumerate(lines):
            self.words(left, top - 15 - 14 * (len(lines) - 1 - index), line, 11, "start", pale=True)
        self.words(left, top - 18 - 14 * len(lines), title, 15, "start", bold=True)

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
    return f"{point[0]:.5g},{point[1]:.5g}"


def towards(start: Point, aim: Point, distance: float) -> Point:
    """The point at a distance from the start in the direction of another."""
    share = distance / (math.dist(start, aim) or 1.0)
    return start[0] + (aim[0] - start[0]) * share, start[1] + (aim[1] - start[1]) * share


def along(points: list[Point], steps: int = 24) -> list[Point]:
    """Points on a line of two points or a chain of cubic curves, its ends among them."""
    if len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
    found = [points[0]]
    for index in range(0, len(points) - 1, 3):
        curve = points[index : index + 4]
        for i in range(1, steps + 1):
            t = i / steps
            shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            found.append(
                (
                    sum(share * x for share, (x, _) in zip(shares, curve, strict=True)),
                    sum(share * y for share, (_, y) in zip(shares, curve, strict=True)),
                )
            )
    return found
