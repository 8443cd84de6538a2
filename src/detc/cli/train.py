"""detc train"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import REMAT, REMAT_BUDGET, recomputed, report, split_spec
from detc.cli.completion import detectors


def train(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.", autocompletion=detectors)],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the run, in place of the spec's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a device's batch; the learning rate follows.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches of one step; the learning rate follows.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the whole detector to start from.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Of --weights, load what fits, and say what not.")] = False,
    pretrained: Annotated[Path | None, typer.Option(help="Weights of the backbone to start from.")] = None,
    from_scratch: Annotated[bool, typer.Option(help="Do without the pretrained weights that the spec names.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME if not given.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Decides the first weights, the order of images, every transform.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that load images, for each device.")] = 2,
    devices: Annotated[int, typer.Option(min=1, help="Processes that train, each on a GPU where there are any.")] = 1,
    strategy: Annotated[
        str, typer.Option(help="ddp: every process has all weights. fsdp: each has a part of them, which saves memory.")
    ] = "ddp",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train what torch.compile makes of the detector.")
    ] = False,
    remat: Annotated[bool, typer.Option("--remat", help=REMAT)] = False,
    remat_budget: Annotated[float, typer.Option(min=0, help=REMAT_BUDGET)] = 0.15,
) -> None:
    """Train a detector on the data and with the schedule of its spec.

    Example: detc train specs/fpg.det --data coco --pretrained resnet50.pth --remat
    """
    import detc
    from detc.runtime.training.launch import launch, launched

    if devices > 1 and not launched():
        raise typer.Exit(launch(sys.argv[1:], devices))

    from detc.runtime.train import TrainOptions
    from detc.runtime.train import train as run_training

    detector = detc.load(*split_spec(spec))
    options = TrainOptions(
        data,
        epochs,
        batch,
        accumulate,
        weights,
        pretrained,
        from_scratch,
        output,
        resume,
        seed,
        workers,
        partial,
        recomputed(detector, remat, remat_budget),
        compiled,
        strategy,
    )
    done = run_training(detector, options, report)
    if done.interrupted:
        if done.first:
            typer.echo(f"stopped and saved; continue with --output {done.run.folder} --resume", err=True)
        raise typer.Exit(130)
    if done.first:
        best = f"best {done.metric} on the validation images {done.best:.3f}"
        typer.echo(f"{best}; its weights are {done.run.best_weights}")
