"""detc new"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import choice

FORMS = ("voc", "coco", "yolo")


def new(
    name: Annotated[Path, typer.Argument(help="The folder to make; the detector is called after it.")],
    base: Annotated[
        str, typer.Option("--from", metavar="[SPEC:]ROW", help="The published detector to start from; see detc zoo.")
    ] = "retinanet.det:retinanet_r50_fpn_1x",
    data: Annotated[
        Path | None, typer.Option(help="The data, as downloaded or annotated; asked for on a terminal.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="The classes, as cat,dog; those of the data if not given.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="voc, coco or yolo, of data that is still to come, or lies in several."),
    ] = None,
) -> None:
    """Start a project: a spec for your classes and data, and a README with the commands that train it.

    Nothing is overwritten. Example: detc new pets --from retinanet_r50_fpn_1x --data path/to/pets --classes cat,dog
    """
    if form is not None:
        choice("--format", form, FORMS)
    if data is None and sys.stdin.isatty():
        given = typer.prompt("Folder of the data (empty: it is still to come)", default="", show_default=False)
        data = Path(given) if given else None
    if data is None and classes is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("give --data, from which the classes are read, or --classes")
        classes = typer.prompt("Classes, as cat,dog")
    named = [word.strip() for word in classes.split(",")] if classes is not None else None
    if named is not None and (not all(named) or len(set(named)) != len(named)):
        raise typer.BadParameter("--classes are different names with commas between them, as cat,dog")

    from detc.runtime.project import find_row, no_data, own_data, start

    row = find_row(base)
    found = no_data(form or "voc", named or ()) if data is None else own_data(data, form, named)
    spec = start(name, row, found)
    typer.echo(f"{spec}: {row.name} for {len(found.classes)} classes")
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"next: detc data check {spec}; {spec.parent / 'README.md'} says how to go on")
