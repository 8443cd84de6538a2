"""detc eval"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import report, split_spec

if TYPE_CHECKING:
    from detc.runtime.evaluate import Evaluation


def evaluate(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.")],
    weights: Annotated[Path, typer.Option(help="The trained weights.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for metrics and results as COCO JSON.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
) -> None:
    """Measure a detector on annotated images, with COCO's metrics."""
    from rich.console import Console
    from rich.progress import track

    import detc
    from detc.runtime.evaluate import evaluate as measure
    from detc.runtime.evaluate import write_evaluation

    watch = partial(track, description="evaluating", console=Console(stderr=True))
    measured = measure(detc.load(*split_spec(spec)), weights, data, split, workers, report, watch)
    _print(measured.evaluation, split)
    if output is not None:
        write_evaluation(output, measured)
        typer.echo(f"metrics.json, results.json and truth.json are in {output}")


def _print(evaluation: Evaluation, split: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{evaluation.images} images of {split}; COCO box metrics, computed by pycocotools")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("class", "objects", "AP", "AP50"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in evaluation.classes:
        table.add_row(row.name, str(row.objects), _figure(row.ap), _figure(row.ap50))
    metrics = evaluation.metrics
    objects = str(sum(row.objects for row in evaluation.classes))
    table.add_row("all", objects, _figure(metrics["AP"]), _figure(metrics["AP50"]), style="bold")
    console.print(table)
    console.print("  ".join(f"{name} {_figure(value)}" for name, value in metrics.items()), soft_wrap=True)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
