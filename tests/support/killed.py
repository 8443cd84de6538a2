"""Starts a training run that kills itself (SIGKILL), as a machine that loses power would.

`python killed.py SPEC NAME OUTPUT MOMENT TIME`: at the TIME-th (from 1) of the moments
    step      a step has been taken
    begun     half of a file has been written, under its temporary name
    written   a file has been written under its temporary name, and not yet renamed
    renamed   a file has been renamed
    row       half of a row of a table has been written
With --resume after these, the run that is there is gone on with.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import detc
from detc.runtime import files
from detc.runtime.train import TrainOptions, train
from detc.runtime.training import run as run_module
from detc.runtime.training.module import DetectorModule


def main(spec: str, name: str, output: str, moment: str, time: str, *more: str) -> None:
    left = int(time)

    def passed(reached: str) -> bool:
        nonlocal left
        left -= reached == moment
        return left == 0 and reached == moment

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    step = DetectorModule.on_train_batch_end
    replace = Path.replace

    def ending(self: DetectorModule, *arguments: object) -> None:
        step(self, *arguments)
        if passed("step"):
            die()

    def renaming(self: Path, target: Path) -> Path:
        if passed("begun"):
            os.truncate(self, self.stat().st_size // 2)
            die()
        if passed("written"):
            die()
        renamed = replace(self, target)
        if passed("renamed"):
            die()
        return renamed

    def appending(self: run_module.Run, table: str, row: dict[str, object]) -> None:
        append(self, table, row)
        if passed("row"):
            path = self.folder / table
            os.truncate(path, path.stat().st_size - 7)
            die()

    append: Callable[..., None] = run_module.Run.append
    DetectorModule.on_train_batch_end = ending  # type: ignore[method-assign]
    Path.replace = renaming  # type: ignore[method-assign, assignment]
    run_module.Run.append = appending  # type: ignore[method-assign]
    assert files.Path is Path
    torch.set_num_threads(1)
    options = TrainOptions(output=Path(output), workers=0, resume="--resume" in more)
    train(detc.load(spec, name), options, lambda warnings: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
