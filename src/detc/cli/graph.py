"""detc graph"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import choice, split_spec
from detc.cli.completion import detectors


def graph(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.", autocompletion=detectors)],
    view: Annotated[
        str | None, typer.Option(help="forward, train or predict; if not given, a page has all, a picture predict.")
    ] = None,
    component: Annotated[
        str, typer.Option(help="Label path of the component to draw, as neck or backbone.layer1.0.")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="FILE.svg or FILE.html; NAME.svg if not given.")] = None,
) -> None:
    """Draw a detector, or one of its components: as a picture, or as a page to look around in.

    Example: detc graph specs/fpg.det --output fpg.html
    """
    import detc
    from detc.compiler.draw import to_html, to_svg
    from detc.dsl.diagnostics import suggest
    from detc.runtime.files import write_text

    detector = detc.load(*split_spec(spec))
    drawn = detector.graph
    if view is not None:
        choice("--view", view, tuple(drawn.views))
        drawn = drawn.view(view)
    if output is None:
        output = Path(f"{drawn.name}{f'.{component}' if component else ''}.svg")
    choice("the ending of --output", output.suffix, (".svg", ".html"))
    paths = {call.path for call in drawn.calls}
    if component and component not in paths:
        raise typer.BadParameter(f"no component has the label path {component!r}. {suggest(component, paths)}".rstrip())
    write_text(output, (to_svg if output.suffix == ".svg" else to_html)(drawn, component))
    typer.echo(output)
