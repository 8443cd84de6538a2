"""detc predict"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import TTA, split_spec

if TYPE_CHECKING:
    from detc.runtime.predict import Predictor


def predict(
    spec: Annotated[str, typer.Argument(metavar="SPEC[:NAME]|ARTIFACT", help="The spec, or an exported artifact.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for pictures and predictions.json.")],
    weights: Annotated[Path | None, typer.Option(help="The trained weights; an artifact has its own.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of the boxes drawn.")] = 0.3,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help=TTA)] = None,
) -> None:
    """Find objects in images: pictures with boxes, and all boxes as COCO JSON."""
    from detc.runtime.inputs import image_files
    from detc.runtime.predictions import write_predictions

    paths = image_files(images)
    predictor = _predictor(spec, weights, tta)
    for path, found in write_predictions(predictor, paths, output, score):
        counts = Counter(predictor.classes[number] for number in found.above(score).classes)
        typer.echo(f"{path}: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'nothing'}")
    typer.echo(f"{len(paths)} pictures and predictions.json are in {output}")


def _predictor(spec: str, weights: Path | None, tta: bool | None) -> Predictor:
    import detc

    if spec.endswith(".detc"):
        if weights is not None:
            raise typer.BadParameter(f"{spec} has its own weights: leave --weights out")
        if tta:
            raise typer.BadParameter(f"{spec} was exported for one view of one size: --tta needs a spec")
        return detc.Artifact.load(spec).predictor()
    if weights is None:
        raise typer.BadParameter("a spec needs --weights FILE")
    return detc.load(*split_spec(spec)).predictor(weights, tta)
