"""Training a detector."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from detc.compiler.memory import NOTHING, Recomputed
from detc.dsl.catalogue.data import NO_OBJECTS
from detc.dsl.catalogue.running import BAD_OPTION, CANNOT_RESUME, NO_SETTINGS, OUT_OF_MEMORY, PRETRAINED_MISSING
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.checkpoint import load_pretrained, load_weights, save_weights
from detc.runtime.data.dataset import Dataset, classes_differ
from detc.runtime.data.loading import epoch_batches, trained_images, training_loader
from detc.runtime.data.preprocess import Detections
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import Data, data_root
from detc.runtime.evaluate import Evaluation, EvaluationImages, evaluation_batches, evaluation_of
from detc.runtime.predict import data_of, preprocess_of
from detc.runtime.training.callbacks import Checkpoints, Curves, Interrupted, Telling
from detc.runtime.training.module import DetectorModule
from detc.runtime.training.run import Run, RunOptions, free_folder, latest_folder, resume_run, start_run
from detc.runtime.training.schedule import Schedule, schedule_settings

if TYPE_CHECKING:
    from detc.runtime.detector import Detector


@dataclass(frozen=True)
class TrainOptions:
    """What the command line may change of a spec, and what it adds. None leaves what the spec says."""

    data: Path | None = None
    epochs: int | None = None
    batch: int | None = None
    weights: Path | None = None
    pretrained: Path | None = None
    from_scratch: bool = False
    output: Path | None = None
    resume: bool = False
    seed: int = 0
    workers: int = 2
    partial: bool = False
    recomputed: Recomputed = NOTHING


@dataclass(frozen=True)
class Trained:
    """How a run ended: its folder, the best value of the metric that decides, on the validation images, and whether it
    was stopped before its end."""

    run: Run
    metric: str
    best: float
    interrupted: bool


def train(detector: Detector, options: TrainOptions, tell: Callable[[Iterable[Diagnostic]], None]) -> Trained:
    """Trains a detector as its spec's data and schedule say, in a folder of its own, and evaluates it as it goes.

    Warnings about the data go to `tell`; progress is printed. Ctrl-C and SIGTERM save the state and end the run.

    Raises:
        DiagnosticError: anything wrong with spec, data, options or folder, and a loss that is not finite.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    settings, schedule = training_settings(detector, options)
    root = data_root(settings, detector.path, options.data)
    taken, found = detector.graph.view("train").inputs, detector.graph.view("predict")
    dataset, problems = read_split(settings, "train", root, False, "truth_masks" in taken, "proposals" in taken)
    finds_masks, takes_proposals = "masks" in found.views["predict"], "proposals" in found.inputs
    validation, more = read_split(settings, "val", root, True, finds_masks, takes_proposals)
    tell([*problems, *more])
    if validation.classes != dataset.classes:
        raise DiagnosticError(classes_differ(dataset, validation))
    detector = detector.named(dataset.classes)
    images = trained_images(dataset, settings)
    if not images:
        raise DiagnosticError(NO_OBJECTS.at(None, "no training image has an object that covers a pixel"))
    if len(images) < len(dataset.images):
        console.print(f"{len(dataset.images) - len(images)} training images without an object are not trained on")

    torch.manual_seed(options.seed)
    views = detector.modules("train", "predict", recomputed=options.recomputed)
    if not options.resume:
        tell(_load_start(detector, views, options))
    run = _open_run(detector, settings, root, options)
    step = _saved_step(run) if options.resume else 0
    batches = epoch_batches(images, settings, options.seed, schedule.epoch_images)
    batches.epoch, batches.skip = divmod(step, len(batches))
    if step >= schedule.epochs * len(batches):
        summary = f"{run.folder} has done its {schedule.epochs} epochs"
        raise DiagnosticError(CANNOT_RESUME.at(None, summary, detail="--epochs makes the run longer"))
    run.forget_after(step)
    _announce(console, run, dataset, validation, settings, schedule, step, len(batches))

    preprocess = preprocess_of(settings, detector.graph.size_divisor)
    loader = training_loader(images, settings, batches, preprocess.multiple, options.workers)
    evaluated = evaluation_batches(EvaluationImages(validation, preprocess), options.workers)

    def keep(weights: dict[str, torch.Tensor], path: Path) -> None:
        save_weights(path, weights, detector)

    def measure(found_in: Mapping[int, Detections]) -> Evaluation:
        tells_classes = "classes" in found.views["predict"]
        return evaluation_of(validation, found_in, tells_classes, settings.sources("val"), root)

    rate = schedule.optimizer.lr * settings.batch / schedule.batch
    module = DetectorModule(detector.graph, views, schedule, rate, len(batches), validation, measure, run.folder, keep)
    saving = Checkpoints(run, keep)
    with _handling_signals(saving.ask_to_stop), _quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=schedule.epochs,
            devices=1,
            precision=_precision(schedule.precision, console),
            gradient_clip_val=schedule.clip,
            callbacks=[Curves(run, detector.name), Telling(console), saving],
            logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
            check_val_every_n_epoch=schedule.evaluate_every,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, loader, evaluated, ckpt_path=run.state if options.resume else None, weights_only=True)
            if schedule.epochs % schedule.evaluate_every:
                trainer.validate(module, evaluated, verbose=False)
        except Interrupted:
            return Trained(run, saving.metric, saving.best, interrupted=True)
        except RuntimeError as error:  # torch has a class of its own for a GPU's memory alone
            if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
            summary = f"there is too little memory for steps of {settings.batch} images"
            hint = "--remat keeps less; --batch takes fewer, and the learning rate follows; smaller images help as well"
            raise DiagnosticError(OUT_OF_MEMORY.at(None, summary, detail=hint)) from None
    run.draw_curves(detector.name)
    return Trained(run, saving.metric, saving.best, interrupted=False)


def _saved_step(run: Run) -> int:
    """The steps that a run's saved state has behind it."""
    try:
        return int(torch.load(run.state, map_location="cpu", weights_only=True)["global_step"])
    except Exception:  # a damaged file can fail anywhere in torch's readers, as anything
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{run.state} is damaged")) from None


def _open_run(detector: Detector, settings: Data, root: Path, options: TrainOptions) -> Run:
    """A new run folder, or with --resume the one that is there."""
    recorded = RunOptions(
        detector=detector.name,
        spec_hash=detector.hash,
        data=str(root.resolve()),
        batch=settings.batch,
        seed=options.seed,
    )
    if options.resume:
        return resume_run(options.output or latest_folder(detector.name), recorded)
    started_from = {"weights": _text(options.weights), "pretrained": _text(options.pretrained)}
    return start_run(options.output or free_folder(detector.name), recorded, detector.source, started_from)


def training_settings(detector: Detector, options: TrainOptions) -> tuple[Data, Schedule]:
    """A detector's data and schedule with what the command line changes.

    Raises:
        DiagnosticError: no-settings, bad-setting, unknown-record, bad-option, class-lists-differ.
    """
    settings = data_of(detector)
    if detector.schedule is None:
        raise DiagnosticError(NO_SETTINGS.at(None, f"{detector.name} has no `schedule`"))
    schedule = schedule_settings(detector.schedule)
    for name in ("epochs", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DiagnosticError(BAD_OPTION.at(None, f"--{name} {value}: must be at least 1"))
    for name in ("workers", "seed"):
        if getattr(options, name) < 0:
            raise DiagnosticError(BAD_OPTION.at(None, f"--{name} {getattr(options, name)}: must not be negative"))
    if options.batch is not None:
        settings = dataclasses.replace(settings, batch=options.batch)
    if options.epochs is not None:
        schedule = dataclasses.replace(schedule, epochs=options.epochs)
    return settings, schedule


def _load_start(
    detector: Detector, views: Mapping[str, torch.nn.Module], options: TrainOptions
) -> tuple[Diagnostic, ...]:
    """Loads the weights that a new run starts from into its modules; warnings about them.

    Raises:
        DiagnosticError: pretrained-missing where the spec names some that were not given; what is wrong with the file.
    """
    if options.weights:
        return load_weights(views["train"], options.weights, detector, partial=options.partial).warnings
    if options.pretrained:
        load_pretrained(views["train"], options.pretrained, detector)
    elif detector.pretrained and not options.from_scratch:
        hint = "--pretrained FILE gives them, --weights FILE other weights to start from, --from-scratch does without"
        summary = f'{detector.name} starts from pretrained weights, "{detector.pretrained}", which were not given'
        raise DiagnosticError(PRETRAINED_MISSING.at(None, summary, detail=hint))
    return ()


def _announce(
    console: Console,
    run: Run,
    dataset: Dataset,
    validation: Dataset,
    settings: Data,
    schedule: Schedule,
    step: int,
    steps_per_epoch: int,
) -> None:
    """Says what the run is about to do."""
    reference = schedule.optimizer.lr
    lines = [
        f"run folder {run.folder}",
        f"training on {len(dataset.images)} images, {_class_counts(dataset)}",
        f"validation on {len(validation.images)} images, {_class_counts(validation)}",
        f"{schedule.epochs} epochs of {steps_per_epoch} steps of {settings.batch} images, {schedule.precision}",
    ]
    if settings.batch == schedule.batch:
        lines.append(f"learning rate {reference:g}")
    else:
        rescaled = f"{reference * settings.batch / schedule.batch:g} for {settings.batch}"
        lines.append(f"learning rate rescaled to the batch: {reference:g} for {schedule.batch} images is {rescaled}")
    if step:
        lines.append(f"resumed at step {step}, epoch {step // steps_per_epoch + 1}")
    for line in lines:
        console.print(line)


def _class_counts(dataset: Dataset) -> str:
    counts = list(zip(dataset.classes, dataset.counts(), strict=True))
    if len(counts) > 8:
        return f"{sum(count for _, count in counts)} objects of {len(counts)} classes"
    return ", ".join(f"{count} {name}" for name, count in counts)


def _precision(name: str, console: Console) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Lightning's name of a precision. On a CPU, whose float16 is slow and incomplete, bfloat16 stands in for it."""
    if name == "float16" and not torch.cuda.is_available():
        console.print("float16 needs a GPU: this run mixes bfloat16 with float32 instead")
        return "bf16-mixed"
    names: dict[str, Literal["32-true", "16-mixed", "bf16-mixed"]]
    names = {"float32": "32-true", "float16": "16-mixed", "bfloat16": "bf16-mixed"}
    return names[name]


@contextmanager
def _handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handler` meanwhile; not outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Leaves out Lightning's hints about things that detc decides."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            log.setLevel(level)


def _text(path: Path | None) -> str | None:
    return str(path.resolve()) if path is not None else None
