"""detc eval"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import report, split_spec


def evaluate(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.")],
    weights: Annotated[Path, typer.Option(help="The trained weights.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    output: Annotated[Path | None, typer.Option(help="Folder for metrics and results as COCO JSON.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 2,
) -> None:
    """Measure a detector on annotated images, with COCO's metrics."""
    import detc
    from detc.runtime.evaluate import print_evaluation, write_evaluation
    from detc.runtime.evaluate_detector import evaluate_detector

    path, name = split_spec(spec)
    measured = evaluate_detector(detc.load(path, name), path, weights, data, split, workers, report)
    print_evaluation(measured.evaluation)
    if output is not None:
        write_evaluation(output, measured.dataset, measured.found, measured.evaluation)
        typer.echo(f"metrics.json, results.json and truth.json are in {output}")
