"""detc predict"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import TTA, report, split_spec
from detc.cli.completion import detectors
from detc.cli.progress import progress

if TYPE_CHECKING:
    from detc.runtime.predict import Finder
    from detc.runtime.predictions import Look


def predict(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC[:NAME]|ARTIFACT", help="The spec, or an exported artifact.", autocompletion=detectors
        ),
    ],
    images: Annotated[list[str], typer.Argument(help="Images, videos, folders or patterns.")],
    output: Annotated[Path, typer.Option(help="Folder for pictures, videos and predictions.json.")],
    weights: Annotated[Path | None, typer.Option(help="The trained weights; an artifact has its own.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of the boxes drawn.")] = 0.3,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help=TTA)] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders of folders too.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="What runs an artifact: onnxruntime, openvino or tvm; the fastest by default.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of videos, look at every so-maniest frame.")] = 1,
) -> None:
    """Find objects in images and videos: pictures with boxes, and all boxes as COCO JSON.

    Ctrl-C keeps what is done until then.

    Example: detc predict mine.det photos/ ride.mp4 --weights runs/mine/best.safetensors --output found
    """
    from detc.runtime.inputs import media_files
    from detc.runtime.predictions import count_looks, write_predictions

    paths = media_files(images, recursive)
    predictor = _predictor(spec, weights, tta, engine)
    looks = write_predictions(predictor, paths, output, score, every, report)
    with (
        closing(looks),
        progress(count_looks(paths, every), "predicting") as step,
        closing(_Tally(score)) as tally,
    ):
        for look in looks:
            tally.add(look)
            step()
    typer.echo(f"pictures of {len(paths)} files and predictions.json are in {output}")


class _Tally:
    """Prints what was found in each file, when the next one's turn comes, or none's."""

    def __init__(self, score: float) -> None:
        self.score = score
        self.path: Path | None = None
        self.frames = 0
        self.counts: Counter[str] = Counter()

    def add(self, look: Look) -> None:
        if look.path != self.path:
            self.close()
            self.path = look.path
        self.frames += look.frame is not None
        self.counts.update(look.found.above(self.score).names)

    def close(self) -> None:
        if self.path is not None:
            seen = f"{self.frames} frames, " if self.frames else ""
            found = ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "nothing"
            typer.echo(f"{self.path}: {seen}{found}")
        self.path, self.frames, self.counts = None, 0, Counter()


def _predictor(spec: str, weights: Path | None, tta: bool | None, engine: str | None) -> Finder:
    import detc

    if spec.endswith(".detc"):
        if weights is not None:
            raise typer.BadParameter(f"{spec} has its own weights: leave --weights out")
        if tta:
            raise typer.BadParameter(f"{spec} was exported for one view of an image: --tta needs a spec")
        artifact = detc.Artifact.load(spec, engine or "fastest")
        predictor = artifact.predictor()
        artifact.warm_up()
        typer.echo(f"running under {artifact.described}")
        return predictor
    if engine is not None:
        raise typer.BadParameter("--engine is for artifacts: a spec is run by torch")
    if weights is None:
        raise typer.BadParameter("a spec needs --weights FILE")
    return detc.load(*split_spec(spec)).predictor(weights, tta)
