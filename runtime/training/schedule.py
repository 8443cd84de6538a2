"""What `specs/lib/schedules.det` declares, as Python reads it. The meaning of each field is documented there."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from detc.compiler.graph import Graph
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError, suggest
from detc.runtime.data.records import bad_setting, interpret, one_of, require
from detc.runtime.training.optimizer import SGD, AdamW, Optimizer

PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class StepDecay:
    at: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.at, self.at[1:], strict=False))
        require(rising and all(epoch > 0 for epoch in self.at), "at", "must be rising epochs, from 1")
        require(0 < self.factor <= 1, "factor", "must be above 0 and at most 1")

    def multiplier(self, epoch: float, epochs: int) -> float:
        """What the learning rate is multiplied by at a time of a run of so many epochs."""
        return self.factor ** bisect_right(self.at, math.floor(epoch))


@dataclass(frozen=True, kw_only=True)
class _Between:
    """A decay between two epochs, to a part of the whole rate."""

    end: float = 0.0
    first: float = 0.0
    last: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.end <= 1, "end", "must be from 0 to 1")
        require(self.first >= 0, "first", "must not be negative")
        require(self.last is None or self.last > self.first, "last", "must be after `first`")

    def multiplier(self, epoch: float, epochs: int) -> float:
        """What the learning rate is multiplied by at a time of a run of so many epochs."""
        last = epochs if self.last is None else self.last
        if epoch >= last:  # which may come before `first` in a run that was made shorter
            return self.end
        passed = max(0.0, epoch - self.first) / (last - self.first) if last > self.first else 0.0
        return self.end + (1 - self.end) * self._left(passed)

    def _left(self, passed: float) -> float:
        """What is left of the rate above `end` after a part of the time, from 0 to 1."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class CosineDecay(_Between):
    def _left(self, passed: float) -> float:
        return (1 + math.cos(math.pi * passed)) / 2


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay(_Between):
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.power > 0, "power", "must be above 0")

    def _left(self, passed: float) -> float:
        return (1.0 - passed) ** self.power


@dataclass(frozen=True)
class LinearWarmup:
    length: float = 500
    unit: str = "iterations"
    start: float = 0.001

    def __post_init__(self) -> None:
        require(self.length > 0, "length", "must be above 0")
        require(self.unit in ("iterations", "epochs"), "unit", 'must be "iterations" or "epochs"')
        require(0 <= self.start <= 1, "start", "must be from 0 to 1")

    def multiplier(self, step: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied by at a step."""
        length = self.length * (steps_per_epoch if self.unit == "epochs" else 1)
        return self._risen(step / length) if step < length else 1.0

    def _risen(self, passed: float) -> float:
        return self.start + (1 - self.start) * passed


@dataclass(frozen=True)
class ExponentialWarmup(LinearWarmup):
    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.start > 0, "start", "must be above 0")

    def _risen(self, passed: float) -> float:
        return float(self.start ** (1 - passed))


@dataclass(frozen=True)
class MovingAverage:
    decay: float = 0.9999
    ramp: float = 2000.0

    def __post_init__(self) -> None:
        require(0 < self.decay < 1, "decay", "must be above 0 and below 1")
        require(self.ramp >= 0, "ramp", "must not be negative")

    def kept(self, step: int) -> float:
        """The part of the average that a step, from 1, keeps."""
        return self.decay * (1 - math.exp(-step / self.ramp)) if self.ramp else self.decay


@dataclass(frozen=True)
class EarlyStop:
    patience: int
    margin: float = 0.0

    def __post_init__(self) -> None:
        require(self.patience >= 1, "patience", "must be at least 1")
        require(0 <= self.margin < 1, "margin", "must be at least 0 and below 1")


@dataclass(frozen=True)
class Schedule:
    epochs: int
    optimizer: Optimizer = field(metadata=one_of(SGD, AdamW))
    decay: StepDecay | CosineDecay | PolynomialDecay | None = field(
        metadata=one_of(StepDecay, CosineDecay, PolynomialDecay)
    )
    warmup: LinearWarmup | None = field(metadata=one_of(LinearWarmup, ExponentialWarmup))
    batch: int
    epoch_images: int | None
    clip: float | None
    precision: str
    evaluate_every: int
    accumulate: int = 1
    float32: tuple[str, ...] = ()
    average: MovingAverage | None = field(default=None, metadata=one_of(MovingAverage))
    metric: str | None = None
    stop: EarlyStop | None = field(default=None, metadata=one_of(EarlyStop))

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 100_000, "epochs", "must be from 1 to 100000")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(self.epoch_images is None or self.epoch_images >= 1, "epoch_images", "must be at least 1")
        require(self.clip is None or self.clip > 0, "clip", "must be above 0")
        require(1 <= self.accumulate <= 4096, "accumulate", "must be from 1 to 4096")
        require(self.precision in PRECISIONS, "precision", f"must be one of {', '.join(PRECISIONS)}")
        require(self.evaluate_every >= 1, "evaluate_every", "must be at least 1")

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied by at a step (from 0) of a run: decay times warm-up."""
        factor = 1.0
        if self.decay is not None:
            factor *= self.decay.multiplier(step / steps_per_epoch, self.epochs)
        if self.warmup is not None:
            factor *= self.warmup.multiplier(step, steps_per_epoch)
        return factor


def schedule_settings(record: Record) -> Schedule:
    """The schedule of a detector.

    Raises:
        DiagnosticError: unknown-record or bad-setting, at the span in the spec.
    """
    settings: Schedule = interpret(record, (Schedule,))
    return settings


def check_labels(record: Record, settings: Schedule, graph: Graph) -> None:
    """Checks that the labels which a detector's schedule names are there.

    Raises:
        DiagnosticError: bad-setting.
    """
    for label in settings.float32:
        if not graph.below(label):
            message = f'nothing is at or below "{label}"'
            raise DiagnosticError(bad_setting(record, "float32", message, _near(label, graph)))
    keys = [key for key, weight in graph.weights.items() if not weight.buffer]
    groups = zip(settings.optimizer.groups, record.fields["optimizer"].fields["groups"], strict=True)
    for group, described in groups if settings.optimizer.groups else ():
        if not any(group.names(key) for key in keys):
            message = f'no weight has "{group.path}" in its key'
            raise DiagnosticError(bad_setting(described, "path", message, _near(group.path, graph)))


def check_metric(record: Record, settings: Schedule, known: Sequence[str]) -> None:
    """Checks that the figure which decides is one of those that evaluations will have.

    Raises:
        DiagnosticError: bad-setting.
    """
    if settings.metric is not None and settings.metric not in known:
        hint = f"{suggest(settings.metric, known)} They have {', '.join(known)}".strip()
        message = "evaluations of this detector on this data have no such figure"
        raise DiagnosticError(bad_setting(record, "metric", message, hint))


def _near(label: str, graph: Graph) -> str:
    parts = [key.split(".") for key in graph.weights]
    labels = {".".join(part[: count + 1]) for part in parts for count in range(len(part))}
    return suggest(label, labels | {name for part in parts for name in part})
