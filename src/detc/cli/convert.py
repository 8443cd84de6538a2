"""detc convert"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import choice, split_spec
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.runtime.convert import Conversion, TensorRow


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A file of weights, such as a published .pth.")],
    spec: Annotated[
        str | None,
        typer.Option(metavar="SPEC[:NAME]", help="The detector that the weights are for.", autocompletion=detectors),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The safetensors file; CHECKPOINT.safetensors if not given.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Write weights as safetensors, with a report on every tensor. Nothing from the file is run.

    With --spec, exits with 1 and writes nothing where a weight of the detector is missing or has another shape.

    Example: detc convert retinanet_r50_fpn_1x_coco.pth --spec specs/retinanet.det:retinanet_r50_fpn_1x
    """
    choice("--format", form, ("text", "json"))
    import detc
    from detc.runtime.convert import convert as run

    detector = None if spec is None else detc.load(*split_spec(spec))
    done = run(checkpoint, output or checkpoint.with_suffix(".safetensors"), detector)
    if form == "json":
        typer.echo(json.dumps(done.as_json(), indent=1))
    else:
        _print(done, "the file" if detector is None else detector.name)
    if done.output is None:
        raise typer.Exit(1)


def _print(done: Conversion, whose: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("tensor", "type", "shape", ""):
        table.add_column(name, no_wrap=True)
    for row in done.rows:
        kind = row.found or row.wanted
        assert kind is not None
        style = "" if row.state == "written" and row.finite else "yellow"
        table.add_row(Text(row.key), Text(kind[0]), Text(str(list(kind[1]))), Text(_remark(row)), style=style)
    console.print(table)
    if done.others:
        typer.echo(f"not read, since it is no weight: {', '.join(done.others)}")
    if done.classes is not None:
        typer.echo(f"{len(done.classes)} classes are named")
    counts = [
        f"{done.count('missing')} are missing",
        f"{done.count('reshaped')} have another shape",
        f"{done.count('should be equal')} should be equal and are not",
        f"{done.count('left over')} are left over",
    ]
    told = "".join(f", {text}" for text in counts if not text.startswith("0 "))
    typer.echo(f"{done.count('written')} tensors fit {whose}{told}")
    if done.output is None:
        typer.echo("nothing was written", err=True)
    else:
        typer.echo(f"written: {done.output}")


def _remark(row: TensorRow) -> str:
    remarks = [] if row.state == "written" else [row.state]
    if row.wanted is not None and row.found is not None:
        if row.state == "reshaped":
            remarks = [f"the detector has {list(row.wanted[1])}"]
        elif row.wanted[0] != row.found[0]:
            remarks.append(f"becomes {row.wanted[0]}")
    if not row.finite:
        remarks.append("has values that are no finite numbers")
    return "; ".join(remarks)
