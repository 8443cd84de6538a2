"""SVG pictures of a detector or one of its components, for papers and pages."""

from __future__ import annotations

import re

from detc.compiler.draw.canvas import PALE, Canvas
from detc.compiler.draw.figure import Figure
from detc.compiler.draw.layers import ABOUT, NAME, Layers, layers
from detc.compiler.draw.parts import Part, find, whole
from detc.compiler.draw.pyramid import plan
from detc.compiler.graph import Graph, ViewName

# Of a graph with several views the first of these is drawn that has what is to be drawn.
_VIEWS: tuple[ViewName, ...] = ("predict", "forward", "train")


def to_svg(graph: Graph, path: str = "") -> str:
    """The picture of the component at a label path, or of the whole detector.

    A component that turns a pyramid into a pyramid is drawn as papers do: its levels as rows, the finest at the bottom,
    its stages as columns. Any other is drawn as boxes in layers. The whole detector is drawn as its neck, between the
    backbone that feeds it and the heads that read it. Of several views one is drawn: predict, where the component is in
    it, else forward, else train. The same graph gives the same bytes.

    Raises:
        KeyError: no component is applied at `path`.
    """
    graph = _one_view(graph, path)
    root = whole(graph)
    part = find(root, path)
    if part is None:
        raise KeyError(path)
    if picture := plan(graph, part):
        return Figure(graph, picture).text(f"{part.name} ({part.path})", _about(part))
    if not path:
        for inner in root:
            if picture := plan(graph, inner):
                before, after = _around(graph, root, inner)
                names = [p.name for p in (before, inner, *after) if p]
                return Figure(graph, picture, before, after).text(graph.name, " \u2192 ".join(names))
    return _boxes(layers(graph, part), f"{part.name} ({part.path})" if path else graph.name, _about(part))


def _one_view(graph: Graph, path: str) -> Graph:
    if len(graph.views) < 2:
        return graph
    for view in _VIEWS:
        if view in graph.views:
            part = graph.view(view)
            if not path or any(call.path == path for call in part.calls):
                return part
    return graph


def _about(part: Part) -> str:
    """The first two sentences of a component's documentation: what it is, and where it is from."""
    doc = " ".join(part.call.doc.replace("`", "").split()) if part.call else ""
    return ". ".join(re.split(r"\. (?=[A-Z])", doc)[:2]).removesuffix(".")


def _around(graph: Graph, root: Part, neck: Part) -> tuple[Part | None, list[Part]]:
    """The component that feeds a neck, and those that read it."""
    before = [
        p for p in root if p.call and any(n in p.nodes for name in neck.nodes for n in graph.nx.predecessors(name))
    ]
    after = [
        p for p in root if p.call and any(n in neck.nodes for name in p.nodes for n in graph.nx.predecessors(name))
    ]
    return next((p for p in before if p is not neck), None), [p for p in after if p is not neck]


def _boxes(picture: Layers, title: str, about: str) -> str:
    """Draws boxes in layers, from top to bottom."""
    canvas = Canvas()
    for line in picture.arrows:
        canvas.arrow(line, PALE)
    for box in picture.boxes:
        canvas.box(box.x - box.width / 2, box.y, box.width, box.height, box.detail)
        canvas.words(box.x, box.y + (16 if box.about else 23), box.name, NAME, bold=box.opens)
        if box.about:
            canvas.words(box.x, box.y + 30, box.about, ABOUT, pale=True)
    canvas.heading(title, about)
    return canvas.text(title)
