"""Draws what differs between two detectors, for a pull request: as a picture, or as a page with the keys that break."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from detc.compiler.diff import Difference, compare
from detc.compiler.draw.canvas import PALE, Canvas
from detc.compiler.draw.changes import ChangeBox, Status, changes
from detc.compiler.draw.layers import ABOUT, GAP, NAME, curve
from detc.compiler.draw.layout import in_layers
from detc.compiler.graph import Graph, ViewName

COLOURS: dict[Status, str] = {"same": PALE, "added": "#1a7f37", "removed": "#cf222e", "changed": "#9a6700"}
MEANINGS: dict[Status, str] = {
    "added": "+ only in the second",
    "removed": "\u2212 only in the first",
    "changed": "~ changed",
    "same": "the same in both",
}
HEIGHT, STEP = 52.0, 84.0

_VIEWS: tuple[ViewName, ...] = ("predict", "train", "forward")

# The page: light or dark as the reader's, nothing loaded, nothing run.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 14px Helvetica, Arial, sans-serif; margin: 24px }}
svg {{ max-width: 100%; height: auto }}
pre {{ font: 12px monospace; overflow-wrap: anywhere; white-space: pre-wrap }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def diff_to_svg(a: Graph, b: Graph) -> str:
    """The picture of what changes from graph `a` to graph `b`.

    Components that are the same are one grey box each; those that differ are opened, down to what was added, removed or
    changed. It shows prediction, or where that is the same what differs in training. The same graphs give the same
    bytes.
    """
    first, second = _view(a, b)
    flow = changes(first, second)
    layout = in_layers(flow, {box: box.width for box in flow}, GAP)
    canvas = Canvas()
    for way in layout.ways:
        status = flow.edges[way[0], way[-1]]["status"]
        canvas.arrow(curve(layout, way, HEIGHT, STEP), COLOURS[status], kind=status)
    for index, row in enumerate(layout.rows):
        for box in row:
            if isinstance(box, ChangeBox):
                _box(canvas, box, layout.place[box], index * STEP)
    _legend(canvas, {box.status for box in flow})
    about = loading(compare(a, b), a.name, b.name)
    canvas.heading(f"{a.name} \u2192 {b.name}", about)
    return canvas.text(f"{a.name} \u2192 {b.name}: {about}")


def diff_to_html(a: Graph, b: Graph, found: Difference, lines: Iterable[str]) -> str:
    """A page with the picture, `lines` that tell the changes, and the keys that keep a checkpoint from loading."""
    title = f"{a.name} \u2192 {b.name}"
    keys = [
        f"<details><summary>{len(listed)} {what}</summary><pre>{escape(chr(10).join(listed))}</pre></details>"
        for what, listed in key_lists(found).items()
        if listed
    ]
    told = f"<pre>{escape(chr(10).join(lines))}</pre>"
    return _PAGE.format(title=escape(title), body="\n".join([diff_to_svg(a, b), *keys, told]))


def loading(found: Difference, first: str, second: str) -> str:
    """Whether a checkpoint of the first detector loads into the second, and what keeps it from that."""
    if found.loads:
        return f"a checkpoint of {first} loads into {second}"
    counts = f"{len(found.missing)} keys missing, {len(found.extra)} extra, {len(found.reshaped)} reshaped"
    return f"breaking: a checkpoint of {first} does not load into {second}: {counts}"


def key_lists(found: Difference) -> dict[str, list[str]]:
    """The keys that keep a checkpoint from loading, under what is wrong with them."""
    return {
        "keys missing in a checkpoint of the first": found.missing,
        "keys that the second does not have": found.extra,
        "keys of another shape": [
            f"{key}: {list(was)} \u2192 {list(now)}" for key, (was, now) in found.reshaped.items()
        ],
    }


def _view(a: Graph, b: Graph) -> tuple[Graph, Graph]:
    """The same view of both: the first that differs, or else the first that both have."""
    pairs = [(a.view(view), b.view(view)) for view in _VIEWS if view in a.views and view in b.views]
    return next((pair for pair in pairs if compare(*pair).changes), pairs[0] if pairs else (a, b))


def _box(canvas: Canvas, box: ChangeBox, x: float, y: float) -> None:
    canvas.box(x - box.width / 2, y, box.width, HEIGHT, box.path, box.status, f' data-status="{box.status}"')
    lines = box.lines
    first = y + (HEIGHT - 14 * len(lines)) / 2 + 4
    canvas.words(x, first, box.title, NAME, bold=box.status != "same")
    for index, line in enumerate(lines, 1):
        canvas.words(x, first + 14 * index, line, ABOUT, pale=True)


def _legend(canvas: Canvas, statuses: set[Status]) -> None:
    x, y = canvas.left, canvas.bottom + 20
    for status, meaning in MEANINGS.items():
        if status in statuses:
            canvas.box(x, y, 24, 12, look=status)
            canvas.words(x + 32, y + 10, meaning, 11, "start")
            y += 18
