"""detc predict"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import split_spec


def predict(
    spec: Annotated[str, typer.Argument(metavar="SPEC[:NAME]|ARTIFACT", help="The spec, or an exported artifact.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for pictures and predictions.json.")],
    weights: Annotated[Path | None, typer.Option(help="The trained weights; an artifact has its own.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of the boxes drawn.")] = 0.3,
) -> None:
    """Find objects in images: pictures with boxes, and all boxes as COCO JSON."""
    import detc
    from detc.runtime.predict import detector_predictor, image_files, write_predictions

    paths = image_files(images)
    if weights is None:
        raise typer.BadParameter("a spec needs --weights FILE")
    predictor = detector_predictor(detc.load(*split_spec(spec)), weights)
    for path, found in write_predictions(predictor, paths, output, score):
        counts = Counter(predictor.classes[number] for number in found.above(score).classes)
        typer.echo(f"{path}: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'nothing'}")
    typer.echo(f"{len(paths)} pictures and predictions.json are in {output}")
