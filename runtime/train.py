"""Training a detector."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from rich.console import Console

from detc.compiler.memory import NOTHING, Recomputed
from detc.dsl.catalogue.data import NO_OBJECTS
from detc.dsl.catalogue.running import BAD_OPTION, CANNOT_RESUME, NO_SETTINGS, OUT_OF_MEMORY, PRETRAINED_MISSING
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.checkpoint import load_pretrained, load_weights, save_weights
from detc.runtime.data.dataset import Dataset, classes_differ
from detc.runtime.data.images import watched_workers
from detc.runtime.data.loading import EpochBatches, epoch_batches, trained_images, training_loader
from detc.runtime.data.preprocess import Detections
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import Data, data_root
from detc.runtime.evaluate import (
    Evaluation,
    EvaluationImages,
    deciding_metric,
    evaluation_batches,
    evaluation_of,
    metric_names,
)
from detc.runtime.predict import data_of, preprocess_of
from detc.runtime.training.averaging import Averaging
from detc.runtime.training.callbacks import Checkpoints, Curves, Evaluating, Interrupted, Telling
from detc.runtime.training.module import DetectorModule
from detc.runtime.training.processes import Processes, joined
from detc.runtime.training.run import Run, RunOptions, free_folder, latest_folder, resume_run, start_run
from detc.runtime.training.schedule import EarlyStop, Schedule, check_labels, check_metric, schedule_settings
from detc.runtime.training.sharding import ShardedModule, sharding_strategy

if TYPE_CHECKING:
    from detc.runtime.detector import Detector


STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class TrainOptions:
    """What the command line may change of a spec, and what it adds. None leaves what the spec says."""

    data: Path | None = None
    epochs: int | None = None
    batch: int | None = None
    accumulate: int | None = None
    weights: Path | None = None
    pretrained: Path | None = None
    from_scratch: bool = False
    output: Path | None = None
    resume: bool = False
    seed: int = 0
    workers: int = 2
    partial: bool = False
    recomputed: Recomputed = NOTHING
    compiled: bool = False
    strategy: str = "ddp"


@dataclass(frozen=True)
class Trained:
    """How a run ended: its folder, the best value of the metric that decides, on the validation images, and whether it
    was stopped before its end. Of several processes, the `first` tells."""

    run: Run
    metric: str
    best: float
    interrupted: bool
    first: bool = True


@dataclass(frozen=True)
class _Plan:
    """What a run is going to do. Steps are the optimizer's, each of `batch` images over all processes."""

    settings: Data
    schedule: Schedule
    processes: Processes
    batches: EpochBatches

    @property
    def batch(self) -> int:
        return self.settings.batch * self.processes.count * self.schedule.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.batches) / self.schedule.accumulate)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.schedule.epochs

    @property
    def rate(self) -> float:
        """The learning rate before decay and warm-up, in proportion to the batch. Goyal et al., 2017."""
        return self.schedule.optimizer.lr * self.batch / self.schedule.batch

    def start_at(self, step: int) -> None:
        """Goes on after so many steps."""
        epoch, within = divmod(step, self.steps_per_epoch)
        self.batches.start_at(epoch, within * self.schedule.accumulate)


def train(detector: Detector, options: TrainOptions, tell: Callable[[Iterable[Diagnostic]], None]) -> Trained:
    """Trains a detector as its spec's data and schedule say, in a folder of its own, and evaluates it as it goes.

    Where torch's launcher started several processes, each trains on a part of every batch. Warnings about the data go
    to `tell`; progress is printed. Ctrl-C and SIGTERM save the state and end the run.

    Raises:
        DiagnosticError: anything wrong with spec, data, options or folder, and a loss that is not finite.
    """
    with joined() as processes:
        return _train(detector, options, tell if processes.first else lambda warnings: None, processes)


def _train(
    detector: Detector, options: TrainOptions, tell: Callable[[Iterable[Diagnostic]], None], processes: Processes
) -> Trained:
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not processes.first)
    settings, schedule = training_settings(detector, options)
    if options.strategy == "fsdp" and processes.count == 1:
        hint = "--devices N, or torchrun, starts several"
        raise DiagnosticError(BAD_OPTION.at(None, "--strategy fsdp needs more than one process", detail=hint))
    root = data_root(settings, detector.path, options.data)
    taken, found = detector.graph.view("train").inputs, detector.graph.view("predict")
    dataset, problems = read_split(settings, "train", root, False, "truth_masks" in taken, "proposals" in taken)
    finds_masks, takes_proposals = "masks" in found.views["predict"], "proposals" in found.inputs
    tells_classes = "classes" in found.views["predict"]
    assert detector.schedule is not None
    check_metric(detector.schedule, schedule, metric_names(tells_classes, finds_masks, settings.sources("val")))
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
    batches = epoch_batches(images, settings, options.seed, schedule.epoch_images, processes.rank, processes.count)
    plan = _Plan(settings, schedule, processes, batches)

    torch.manual_seed(options.seed)
    float32 = set().union(*(detector.graph.below(label) for label in schedule.float32))
    views = detector.modules("train", "predict", recomputed=options.recomputed, float32=float32)
    if not options.resume:
        tell(_load_start(detector, views, options))
    if options.compiled:
        views["train"].compile()
    run = processes.from_first(_open_run(detector, plan, root, options) if processes.first else None)
    step = _saved_step(run, plan) if options.resume else 0
    plan.start_at(step)
    if processes.first:
        run.forget_after(step)
    _announce(console, run, dataset, validation, plan, step)

    preprocess = preprocess_of(settings, detector.graph.size_divisor)
    loader = training_loader(images, settings, batches, preprocess.multiple, options.workers, schedule.epochs)
    part = replace(validation, images=validation.images[processes.rank :: processes.count])
    evaluated = evaluation_batches(EvaluationImages(part, preprocess), options.workers)

    def keep(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_weights(path, tensors, detector)

    def measure(found: Mapping[int, Detections]) -> Evaluation:
        return evaluation_of(validation, found, tells_classes, settings.sources("val"))

    kind = ShardedModule if options.strategy == "fsdp" else DetectorModule
    module = kind(
        detector.graph, views, schedule, plan.rate, plan.steps_per_epoch, processes, options.seed, run.folder, keep
    )
    averaging = Averaging(schedule.average) if schedule.average is not None else None
    evaluating = Evaluating(measure, processes, schedule.metric or deciding_metric(tells_classes))
    stopping = _early_stop(schedule.stop, evaluating.deciding)
    saving = Checkpoints(run, evaluating, processes, (averaging or module).weights, keep)
    callbacks: list[pl.Callback] = [evaluating]
    if processes.first:
        curves = Curves(run, detector.name, evaluating, validation, tells_classes)
        callbacks += [curves, Telling(console, evaluating, plan.steps)]
    callbacks += [callback for callback in (averaging, stopping, saving) if callback is not None]
    with _handling_signals(saving.ask_to_stop), _quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=schedule.epochs,
            devices=processes.here,
            num_nodes=processes.count // processes.here,
            strategy=_strategy(options.strategy, processes),
            precision=_precision(schedule.precision, console),
            gradient_clip_val=schedule.clip,
            accumulate_grad_batches=schedule.accumulate,
            callbacks=callbacks,
            logger=TensorBoardLogger(run.folder, name="tensorboard", version="", purge_step=step or None),
            check_val_every_n_epoch=schedule.evaluate_every,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            with watched_workers():
                state = run.state if options.resume else None
                trainer.fit(module, loader, evaluated, ckpt_path=state, weights_only=True)
        except Interrupted:
            return Trained(run, evaluating.deciding, saving.best, True, processes.first)
        except RuntimeError as error:  # torch has a class of its own for a GPU's memory alone
            if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
            summary = f"there is too little memory for steps of {settings.batch} images"
            hint = "--remat keeps less; --batch takes fewer, and the learning rate follows; smaller images help as well"
            raise DiagnosticError(OUT_OF_MEMORY.at(None, summary, detail=hint)) from None
    if stopping is not None and stopping.stopped_epoch:
        patience = f"{stopping.patience} evaluations without a better {stopping.monitor.removeprefix('val/')}"
        console.print(f"stopped after epoch {stopping.stopped_epoch + 1}: {patience}")
    if processes.first:
        run.draw_curves(detector.name)
    return Trained(run, evaluating.deciding, saving.best, False, processes.first)


def _strategy(name: str, processes: Processes) -> Strategy | str:
    """How the processes of a run work together."""
    if name == "fsdp":
        return sharding_strategy(processes.count)
    return DDPStrategy(gradient_as_bucket_view=True) if processes.count > 1 else "auto"


def _early_stop(settings: EarlyStop | None, deciding: str) -> EarlyStopping | None:
    if settings is None:
        return None
    return EarlyStopping(
        f"val/{deciding}",
        settings.margin,
        settings.patience,
        mode="max",
        strict=False,  # where the data has no object of a size, its figure is not there
        check_on_train_epoch_end=False,  # but after an evaluation, so that the state which an epoch's end saves knows
    )


def _saved_step(run: Run, plan: _Plan) -> int:
    """The steps that a run's saved state has behind it.

    Raises:
        DiagnosticError: cannot-resume where it is damaged, or has nothing left to do.
    """
    try:
        state = torch.load(run.state, map_location="cpu", weights_only=True)
        step = int(state["global_step"])
        stopped = [held["stopped_epoch"] for held in state["callbacks"].values() if "stopped_epoch" in held]
    except Exception:  # a damaged file can fail anywhere in torch's readers, as anything
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{run.state} is damaged")) from None
    if any(stopped):
        summary = f"{run.folder} stopped early after epoch {max(stopped) + 1}, as `schedule.stop` says"
        raise DiagnosticError(CANNOT_RESUME.at(None, summary, detail="its best weights are in best.safetensors"))
    if step >= plan.steps:
        summary = f"{run.folder} has done its {plan.schedule.epochs} epochs"
        raise DiagnosticError(CANNOT_RESUME.at(None, summary, detail="--epochs makes the run longer"))
    return step


def _open_run(detector: Detector, plan: _Plan, root: Path, options: TrainOptions) -> Run:
    """A new run folder, or with --resume the one that is there."""
    recorded = RunOptions(
        detector=detector.name,
        spec_hash=detector.hash,
        data=str(root.resolve()),
        batch=plan.settings.batch,
        accumulate=plan.schedule.accumulate,
        processes=plan.processes.count,
        seed=options.seed,
    )
    if options.resume:
        return resume_run(options.output or latest_folder(detector.name), recorded)
    started_from = {"weights": _text(options.weights), "pretrained": _text(options.pretrained)}
    return start_run(options.output or free_folder(detector.name), recorded, detector, started_from)


def training_settings(detector: Detector, options: TrainOptions) -> tuple[Data, Schedule]:
    """A detector's data and schedule with what the command line changes.

    Raises:
        DiagnosticError: no-settings, bad-setting, unknown-record, bad-option, class-lists-differ.
    """
    settings = data_of(detector)
    if detector.schedule is None:
        raise DiagnosticError(NO_SETTINGS.at(None, f"{detector.name} has no `schedule`"))
    schedule = schedule_settings(detector.schedule)
    check_labels(detector.schedule, schedule, detector.graph)
    for name in ("epochs", "batch", "accumulate"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DiagnosticError(BAD_OPTION.at(None, f"--{name} {value}: must be at least 1"))
    for name in ("workers", "seed"):
        if getattr(options, name) < 0:
            raise DiagnosticError(BAD_OPTION.at(None, f"--{name} {getattr(options, name)}: must not be negative"))
    if options.strategy not in STRATEGIES:
        raise DiagnosticError(BAD_OPTION.at(None, f"--strategy {options.strategy}: is one of {', '.join(STRATEGIES)}"))
    if options.strategy == "fsdp":
        for wrong, why in (
            (schedule.average is not None, "cannot average weights, as `schedule.average` says"),
            (schedule.precision == "float16", "cannot mix float16 with float32, as `schedule.precision` says"),
        ):
            if wrong:
                raise DiagnosticError(BAD_OPTION.at(None, f"--strategy fsdp {why}", detail="--strategy ddp can"))
    if options.batch is not None:
        settings = replace(settings, batch=options.batch)
    if options.epochs is not None:
        schedule = replace(schedule, epochs=options.epochs)
    if options.accumulate is not None:
        schedule = replace(schedule, accumulate=options.accumulate)
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


def _announce(console: Console, run: Run, dataset: Dataset, validation: Dataset, plan: _Plan, step: int) -> None:
    """Says what the run is about to do."""
    schedule, reference = plan.schedule, plan.schedule.optimizer.lr
    parts = [f"{plan.settings.batch} images"]
    if plan.schedule.accumulate > 1:
        parts.insert(0, f"{plan.schedule.accumulate} batches")
    if plan.processes.count > 1:
        parts.insert(0, f"{plan.processes.count} processes")
    lines = [
        f"run folder {run.folder}",
        f"training on {len(dataset.images)} images, {_class_counts(dataset)}",
        f"validation on {len(validation.images)} images, {_class_counts(validation)}",
        f"{schedule.epochs} epochs of {plan.steps_per_epoch} steps of {' of '.join(parts)}, {schedule.precision}",
    ]
    if plan.batch == schedule.batch:
        lines.append(f"learning rate {reference:g}")
    else:
        rescaled = f"{plan.rate:g} for {plan.batch}"
        lines.append(f"learning rate rescaled to the batch: {reference:g} for {schedule.batch} images is {rescaled}")
    if step:
        lines.append(f"resumed at step {step}, epoch {step // plan.steps_per_epoch + 1}")
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
