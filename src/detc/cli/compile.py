"""detc compile"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import REMAT, REMAT_BUDGET, choice, recomputed, report, split_spec
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.runtime.detector import Detector


def compile_spec(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC[:NAME]", help="A spec, and which of its detectors.", autocompletion=detectors)
    ],
    emit: Annotated[list[str] | None, typer.Option(help="graph, json, fx, svg or html; may be repeated.")] = None,
    view: Annotated[str | None, typer.Option(help="forward, train or predict; all where it makes sense.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file, or with several --emit a folder; else printed.")] = None,
    remat: Annotated[bool, typer.Option("--remat", help=f"Of fx and the train view. {REMAT}")] = False,
    remat_budget: Annotated[float, typer.Option(min=0, help=REMAT_BUDGET)] = 0.15,
    import_root: Annotated[list[Path] | None, typer.Option(help="A folder that specs may import from.")] = None,
) -> None:
    """Compile a detector: elaborate, verify and infer, and write what --emit asks for.

    Example: detc compile specs/fpg.det --emit fx --output fpg.py
    """
    import detc
    from detc.compiler.graph import VIEWS
    from detc.runtime.files import write_text

    wanted = emit or []
    for target in wanted:
        choice("--emit", target, tuple(EMITTERS))
    if view is not None:
        choice("--view", view, VIEWS)
    if remat and (wanted != ["fx"] or view != "train"):
        raise typer.BadParameter("--remat is of training with torch: it takes --emit fx --view train")
    path, name = split_spec(spec)
    roots = tuple(import_root or ())
    detector = detc.load(path, name, roots)
    report(detector.warnings)
    if name is None:
        _list(detector)
    graph = detector.graph
    parameters = sum(_size(w.shape) for w in graph.weights.values() if not w.buffer and w.tied is None)
    print(
        f"{detector.name}: {len(graph)} nodes, {parameters:,} parameters, "
        f"views {', '.join(graph.views)}, image sizes in multiples of {graph.size_divisor}",
        file=sys.stderr,
    )
    for target in wanted:
        text = _fx(detector, view, remat, remat_budget) if target == "fx" else EMITTERS[target](detector, view)
        if output is None:
            print(text)
        else:
            many = len(wanted) > 1 or output.is_dir()
            file = output / f"{detector.name}{SUFFIXES[target]}" if many else output
            write_text(file, text)
            print(f"wrote {file}", file=sys.stderr)


def _list(detector: Detector) -> None:
    """The detectors of the file, when the user did not say which."""
    from detc.cli.zoo import FIGURES

    for other in detector.siblings():
        marker = "*" if other.name == detector.name else " "
        figures = ", ".join(f"{title} {other.reported[key]}" for key, title in FIGURES.items() if key in other.reported)
        print(f"{marker} {other.name}{'  ' + figures if figures else ''}", file=sys.stderr)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dimension in shape:
        size *= dimension
    return size


def _graph(detector: Detector, view: str | None) -> str:
    from detc.compiler.serialize import to_text

    return to_text(detector.graph.view(view) if view else detector.graph)


def _json(detector: Detector, view: str | None) -> str:
    from detc.compiler.serialize import to_json

    graph = detector.graph.view(view) if view else detector.graph
    content = to_json(graph)
    return content if isinstance(content, str) else json.dumps(content, indent=1)


def _fx(detector: Detector, view: str | None, remat: bool = False, budget: float = 0.0) -> str:
    view = view or "forward"
    module = detector.modules(view, recomputed=recomputed(detector, remat, budget))[view]  # type: ignore[arg-type]
    return f"# {detector.name}, the {view} view, as torch.fx has it.\n{module.code}"


def _svg(detector: Detector, view: str | None) -> str:
    from detc.compiler.draw import to_svg

    return to_svg(detector.graph.view(view) if view else detector.graph)


def _html(detector: Detector, view: str | None) -> str:
    from detc.compiler.draw import to_html

    return to_html(detector.graph.view(view) if view else detector.graph)


EMITTERS: dict[str, Callable[[Detector, str | None], str]] = {
    "graph": _graph,
    "json": _json,
    "fx": _fx,
    "svg": _svg,
    "html": _html,
}
SUFFIXES = {"graph": ".graph", "json": ".json", "fx": ".py", "svg": ".svg", "html": ".html"}
