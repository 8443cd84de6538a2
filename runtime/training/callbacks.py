"""What goes on around the steps of a run: saving, drawing, telling."""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.images import read_image
from detc.runtime.data.preprocess import Detections
from detc.runtime.evaluate import Evaluation
from detc.runtime.files import write_whole
from detc.runtime.pictures import contact_sheet, draw_detections, draw_truth, write_picture
from detc.runtime.training.module import DetectorModule
from detc.runtime.training.processes import Processes
from detc.runtime.training.run import SHOWN_METRICS, Run

SAVE_SECONDS = 600.0
CURVE_STEPS = 10
PLAIN_SECONDS = 20.0
PICTURES = 6
PICTURE_SCORE = 0.3


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


class Evaluating(pl.Callback):
    """Collects what is found in the validation images, over all processes, and measures it.

    `measure` computes the figures of what was found, by image number. `evaluation` and `found` are those of the last
    evaluation; the latter in the first process alone.
    """

    def __init__(
        self, measure: Callable[[Mapping[int, Detections]], Evaluation], processes: Processes, deciding: str
    ) -> None:
        self.measure = measure
        self.processes = processes
        self.deciding = deciding
        self.found: dict[int, Detections] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            # The last epoch is evaluated in any case, within the run, so that the state it saves knows of it.
            trainer.check_val_every_n_epoch = 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.found = {}

    def on_validation_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.found.update(outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for found in self.processes.to_first(self.found):
            self.found.update(found)
        self.evaluation = self.processes.from_first(self.measure(self.found) if self.processes.first else None)
        known = {f"val/{name}": value for name, value in self.evaluation.metrics.items() if not math.isnan(value)}
        module.log_dict(known, batch_size=1)


class Checkpoints(pl.Callback):
    """Saves the run's state (last.ckpt) and weights, at every epoch's end, every ten minutes, and when asked to stop.

    The best weights are those of the evaluation with the highest deciding metric. `weights` gives those that count,
    and `save` writes them to a path.
    """

    def __init__(
        self,
        run: Run,
        evaluating: Evaluating,
        processes: Processes,
        weights: Callable[[], dict[str, torch.Tensor]],
        save: Callable[[dict[str, torch.Tensor], Path], None],
    ) -> None:
        self.run = run
        self.evaluating = evaluating
        self.processes = processes
        self.weights = weights
        self.save = save
        self.best = -1.0
        self.saved = time.monotonic()
        self.stop = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """Handles Ctrl-C and SIGTERM: ends the run after the step or evaluation at hand; a second one at once."""
        if self.stop:
            signal.default_int_handler(number, frame)
        self.stop = True

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_idx + 1
        # Not at an epoch's end, which saves anyhow, nor between batches whose gradients are still being added up.
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        if self.processes.any(self.stop or time.monotonic() - self.saved > SAVE_SECONDS):
            self._save_state(trainer)
            if self.processes.any(self.stop):
                raise Interrupted

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        figure = self.evaluating.evaluation.metrics.get(self.evaluating.deciding, math.nan)
        if figure > self.best:
            self.best = figure
            self._save_weights(self.run.best_weights)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save_weights(self.run.last_weights)
        self._save_state(trainer)
        if self.processes.any(self.stop) and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            raise Interrupted

    def _save_weights(self, path: Path) -> None:
        weights = self.weights()  # of all processes together, where each has a part
        if self.processes.first:
            self.save(weights, path)

    def _save_state(self, trainer: pl.Trainer) -> None:
        # All processes take part; the first one alone writes, and the others' name is not used.
        if self.processes.first:
            write_whole(self.run.state, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.run.state)
        self.saved = time.monotonic()


class Curves(pl.Callback):
    """Appends to the run's tables, draws its curves, and puts predictions on a few validation images into pictures."""

    def __init__(self, run: Run, title: str, evaluating: Evaluating, validation: Dataset, tells_classes: bool) -> None:
        self.run = run
        self.title = title
        self.evaluating = evaluating
        self.validation = validation
        self.classes = validation.classes if tells_classes else ("object",)
        self.sums: dict[str, float] = defaultdict(float)
        self.batches = 0

    def on_train_batch_end(self, trainer: pl.Trainer, module: DetectorModule, outputs: Any, *_: Any) -> None:  # type: ignore[override]
        for name, value in outputs["terms"].items():
            self.sums[name] += float(value)
        self.batches += 1
        if self.batches == CURVE_STEPS * trainer.accumulate_grad_batches:
            self._flush(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:  # type: ignore[override]
        self._flush(trainer, module)
        self.run.draw_curves(self.title)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        evaluation = self.evaluating.evaluation
        by_class = {f"AP50 {c.name}": c.ap50 for c in evaluation.classes}
        row = {"epoch": epoch, "step": trainer.global_step, **evaluation.metrics, **by_class}
        self.run.append("evaluations.csv", row)
        rows = []
        for image in self.validation.images[:PICTURES]:
            pixels = read_image(image.path, image.size)
            found = self.evaluating.found[image.number].above(PICTURE_SCORE)
            truth = draw_truth(pixels, image.boxes, image.labels, image.masks)
            rows.append([truth, draw_detections(pixels, found, self.classes)])
        sheet = contact_sheet(rows, titles=("annotated", f"found, score at least {PICTURE_SCORE}"))
        write_picture(self.run.folder / "pictures" / f"epoch-{epoch:03d}.jpg", sheet)

    def _flush(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        if self.batches:
            means = {name: value / self.batches for name, value in self.sums.items()}
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            row = {
                "step": trainer.global_step,
                "epoch": round(trainer.global_step / module.steps_per_epoch, 4),
                "lr": rate,
                "loss": sum(means.values()),
                **means,
            }
            self.run.append("training.csv", row)
            for logger in trainer.loggers:
                scalars = {f"train/{name}": value for name, value in row.items() if name not in ("step", "epoch")}
                logger.log_metrics(scalars, trainer.global_step)
        self.sums.clear()
        self.batches = 0


class Telling(pl.Callback):
    """Progress for people: a bar with the time left on a terminal, a line now and then where there is none.

    `steps` is the length of the whole run.
    """

    def __init__(self, console: Console, evaluating: Evaluating, steps: int) -> None:
        self.console = console
        self.evaluating = evaluating
        self.steps = steps
        self.bar: Progress | None = None
        self.loss = 0.0
        self.said = self.started = time.monotonic()
        self.first = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.first = trainer.global_step
        self.started = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=self.steps, completed=self.first)
            self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = sum(float(value) for value in outputs["terms"].values())
        self.loss = loss if trainer.global_step <= self.first + 1 else 0.95 * self.loss + 0.05 * loss
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, description=self._where(trainer))
        elif time.monotonic() - self.said > PLAIN_SECONDS:
            self.said = time.monotonic()
            done = trainer.global_step - self.first
            left = (self.said - self.started) / max(done, 1) * (self.steps - trainer.global_step)
            steps = f"step {trainer.global_step}/{self.steps}"
            self.console.print(f"{self._where(trainer)}, {steps}, {_duration(left)} left")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = self.evaluating.evaluation.metrics
        text = ", ".join(f"{name} {metrics[name]:.3f}" for name in SHOWN_METRICS if name in metrics)
        self.console.print(f"{self._where(trainer)}: {text} on the validation images")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _where(self, trainer: pl.Trainer) -> str:
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        return f"epoch {epoch}/{trainer.max_epochs}, loss {self.loss:.3f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
