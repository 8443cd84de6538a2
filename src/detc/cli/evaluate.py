"""detc eval"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import TTA, split_spec
from detc.cli.common import report as tell
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.runtime.evaluate import Evaluation


def evaluate(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.", autocompletion=detectors)],
    weights: Annotated[Path, typer.Option(help="The trained weights.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for metrics and results as COCO JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page on what is wrong, with its tables.")] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of the report's confusions; else where F1 is best.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help=TTA)] = None,
    measure: Annotated[bool, typer.Option(help="Work out metrics; --no-measure only looks for objects.")] = True,
) -> None:
    """Measure a detector on annotated images, with COCO's metrics.

    Example: detc eval mine.det --data pets --weights runs/mine/best.safetensors --report report
    """
    if not measure and output is None:
        raise typer.BadParameter("--no-measure needs --output FOLDER for what is found")
    if report is not None and not measure:
        raise typer.BadParameter("--report needs metrics: leave --no-measure out")
    if score is not None and report is None:
        raise typer.BadParameter("--score is for the report: give --report FOLDER too")
    import detc
    from detc.cli.progress import watched
    from detc.runtime.evaluate import evaluate as run
    from detc.runtime.evaluate import write_evaluation

    watch = partial(watched, what="evaluating")
    detector = detc.load(*split_spec(spec))
    if report is not None and "classes" not in detector.graph.view("predict").views["predict"]:
        raise typer.BadParameter(f"--report is about classes, and {detector.graph.name} finds proposals without any")
    measured = run(detector, weights, data, split, workers, tell, watch, measure, tta)
    if measured.evaluation is not None:
        _print(measured.evaluation, split)
    if output is not None:
        typer.echo(f"{', '.join(write_evaluation(output, measured))} are in {output}")
    if report is not None and measured.evaluation is not None:
        from detc.runtime.evaluation.analysis import analyse
        from detc.runtime.evaluation.report import write_report

        kinds = (False, True) if measured.evaluation.has_masks else (False,)
        analyses = [analyse(measured.dataset, measured.found, score, masks) for masks in kinds]
        names = write_report(report, f"{detector.graph.name} on {split}", measured.evaluation, *analyses)
        typer.echo(f"{', '.join(names)} are in {report}")


def _print(evaluation: Evaluation, split: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    metrics = evaluation.metrics
    kind = (
        "box and mask metrics"
        if evaluation.has_masks
        else "box metrics"
        if evaluation.classes
        else "recall of proposals"
    )
    seen = f" in {evaluation.views} views each" if evaluation.views > 1 else ""
    console.print(f"{evaluation.images} images of {split}{seen}; COCO {kind}, computed by pycocotools")
    if evaluation.classes:
        table = Table(box=None, header_style="bold", pad_edge=False)
        more = (*(["mask_AP"] if evaluation.has_masks else []), *evaluation.own_metrics)
        for name in ("class", "objects", "AP", "AP50", *more):
            table.add_column(name.replace("_", " "), justify="left" if name == "class" else "right")
        for row in evaluation.classes:
            values = [row.mask_ap] if evaluation.has_masks else []
            figures = [_figure(value) for value in (row.ap, row.ap50, *values, *evaluation.own_figures(row).values())]
            table.add_row(escape(row.name), str(row.objects), *figures)
        objects = str(sum(row.objects for row in evaluation.classes))
        table.add_row("all", objects, *(_figure(metrics[name]) for name in ("AP", "AP50", *more)), style="bold")
        console.print(table)
    lines: dict[str, tuple[str, ...]] = {"": tuple(metrics)}
    if evaluation.has_masks:
        masks = tuple(name for name in metrics if name.startswith(("mask_", "Cityscapes_")))
        lines = {"boxes  ": tuple(name for name in metrics if name not in masks), "masks  ": masks}
    for start, names in lines.items():
        figures = (f"{name.removeprefix('mask_')} {_figure(metrics[name])}" for name in names)
        console.print(start + "  ".join(figures), soft_wrap=True)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
