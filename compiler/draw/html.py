"""One page, without a network, in which a person looks around in a detector: opens components down to single ops, and
reads shapes, costs, weights and the spec's lines."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from detc.compiler.analyse import costs
from detc.compiler.draw.parts import Part, data_operands, sources, whole
from detc.compiler.draw.pyramid import level_of, plan
from detc.compiler.graph import Graph, Value, flatten
from detc.dsl.source import Span

# The image size that the page counts arithmetic for, before padding to the divisor.
SIZE = 640


def to_html(graph: Graph, path: str = "") -> str:
    """The page as HTML, with the component at `path` opened.

    What a spec says is data there, never markup or script: names are escaped, and the page's policy lets a browser run
    the page's own script alone and load nothing.
    """
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    filled = {
        "TITLE": escape(graph.name),
        "HASH": b64encode(sha256(script.encode()).digest()).decode(),
        # Within a script element "<!--" and "<script" have a meaning too, not only its end.
        "DATA": json.dumps(_Data(graph).form(path), separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"@(TITLE|HASH|DATA)@", lambda match: filled[match[1]], template)


class _Data:
    """The graph as the page's script takes it: parts, nodes and weights in lists that refer to each other by number."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parts: list[dict[str, Any]] = []
        self.node_part: dict[str, int] = {}
        self.keys = {key: number for number, key in enumerate(graph.weights)}

    def form(self, path: str) -> dict[str, Any]:
        graph = self.graph
        size = -(-SIZE // graph.size_divisor) * graph.size_divisor
        spent = costs(graph, size, size)
        self._add(whole(graph), None, {})
        views = {view: graph.reached(view) for view in graph.views}
        order = {node.name: number for number, node in enumerate(graph.nodes)}
        nodes = [
            {
                "name": node.name,
                "part": self.node_part[node.name],
                "op": node.op,
                "attrs": {name: value for name, value in node.attrs.items() if value is not None},
                "types": [str(type_) for type_ in node.types],
                "from": sorted({order[v.node] for v in data_operands(node) if v.node in order}),
                "inputs": sorted({v.node for v in data_operands(node) if v.node in graph.inputs}),
                "weights": [self.keys[key] for key in node.weights.values()],
                "macs": spent[node.name].macs,
                "flops": spent[node.name].flops,
                "views": [view for view, reached in views.items() if node.name in reached],
                "lines": _lines(node.origins[:3]),
            }
            for node in graph.nodes
        ]
        weights = [
            {
                "key": weight.key,
                "shape": weight.shape,
                "trainable": weight.trainable,
                "buffer": weight.buffer,
                "tied": weight.tied,
            }
            for weight in graph.weights.values()
        ]
        results = {
            view: [
                {"name": name or "result", "from": sorted({order[v.node] for v in flatten(values) if v.node in order})}
                for name, values in outputs.items()
            ]
            for view, outputs in graph.views.items()
        }
        return {
            "name": graph.name,
            "size": size,
            "divisor": graph.size_divisor,
            "inputs": {name: str(type_) for name, type_ in graph.inputs.items()},
            "parts": self.parts,
            "nodes": nodes,
            "weights": weights,
            "results": results,
            "open": path,
        }

    def _add(self, part: Part, parent: int | None, places: Mapping[Part, tuple[int, float]]) -> int:
        number = len(self.parts)
        entry: dict[str, Any] = {"path": part.path, "name": part.name, "parent": parent, "parts": []}
        self.parts.append(entry)
        if part.node is not None:
            self.node_part[part.node.name] = number
            entry["node"] = True
        if part.call is not None:
            entry["kind"] = part.call.kind
            entry["doc"] = part.call.doc
            entry["types"] = [str(self.graph.type_of(value)) for _, value in part.call.outputs]
            entry["lines"] = _lines([part.call.span] if part.call.span is not None else [])
        if part.span is not None:
            entry["kind"] = "without a label"
            entry["lines"] = _lines([part.span])
        if part in places:
            entry["at"] = places[part]
        levels = {level_of(self.graph, value) for value in _results(part)}
        if len(levels) == 1:
            entry["level"] = levels.pop()
        inside = self._places(part)
        entry["parts"] = [self._add(inner, number, inside) for inner in part]
        return number

    def _places(self, part: Part) -> dict[Part, tuple[int, float]]:
        """Column and level of each part of a neck, where all of it is drawn as a grid.

        Cells are in even columns and what leads into them is before them; what changes the level stands between two.
        """
        picture = plan(self.graph, part)
        if picture is None:
            return {}
        cells = {cell.value.node: cell for cell in picture.cells.values()}
        places: dict[Part, tuple[int, float]] = {}
        for inner in reversed(part.parts):
            value = _results(inner)[0]
            level = level_of(self.graph, value)
            if inner.call is not None and len({level_of(self.graph, v) for _, v in inner.call.outputs}) > 1:
                return {}
            if value.node in cells:
                cell = cells[value.node]
                # Among joins, what joins nothing stands with what leads into them: the last lateral with the others.
                leads = not cell.merges and any(o.merges and o.column == cell.column for o in cells.values())
                places[inner] = (2 * cell.column - leads, cell.level)
                continue
            users = {user.name for user in self.graph.users(value.node)}
            columns = [places[other][0] for other in part if other in places and users & other.nodes]
            before = [level_of(self.graph, source) for source in sources(self.graph, inner)]
            if level is None or not columns or None in before:
                return {}
            origin = cells.get(sources(self.graph, inner)[0].node)
            upright = before != [level] and origin is not None and 2 * origin.column == min(columns)
            places[inner] = (
                min(columns) - (0 if upright else 1),
                level if before == [level] else (level + max(filter(None, before))) / 2,
            )
        return places


def _results(part: Part) -> list[Value]:
    """What a part makes."""
    if part.call is not None:
        return [value for _, value in part.call.outputs]
    return [Value(part.node.name, index) for index in range(len(part.node.types))] if part.node is not None else []


def _lines(spans: Iterable[Span]) -> list[tuple[str, str]]:
    """The place and the spec's line of each span."""
    return list(
        dict.fromkeys((f"{span.source.name}:{span.line}", span.source.line(span.line).strip()) for span in spans)
    )
