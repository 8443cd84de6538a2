"""What `specs/lib/schedules.det` declares, as Python reads it. The meaning of each field is documented there."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from detc.compiler.values import Record
from detc.runtime.data.records import interpret, one_of, require

PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class SGD:
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0001
    norm_decay: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.lr < 100, "lr", "must be above 0 and below 100")
        require(0 <= self.momentum < 1, "momentum", "must be at least 0 and below 1")
        require(self.weight_decay >= 0, "weight_decay", "must not be negative")
        require(self.norm_decay >= 0, "norm_decay", "must not be negative")


@dataclass(frozen=True)
class StepDecay:
    at: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.at, self.at[1:], strict=False))
        require(rising and all(epoch > 0 for epoch in self.at), "at", "must be rising epochs, from 1")
        require(0 < self.factor <= 1, "factor", "must be above 0 and at most 1")


@dataclass(frozen=True)
class LinearWarmup:
    length: float = 500
    unit: str = "iterations"
    start: float = 0.001

    def __post_init__(self) -> None:
        require(self.length > 0, "length", "must be above 0")
        require(self.unit in ("iterations", "epochs"), "unit", 'must be "iterations" or "epochs"')
        require(0 <= self.start <= 1, "start", "must be from 0 to 1")


@dataclass(frozen=True)
class Schedule:
    epochs: int
    optimizer: SGD = field(metadata=one_of(SGD))
    decay: StepDecay | None = field(metadata=one_of(StepDecay))
    warmup: LinearWarmup | None = field(metadata=one_of(LinearWarmup))
    batch: int
    epoch_images: int | None
    clip: float | None
    precision: str
    evaluate_every: int

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 100_000, "epochs", "must be from 1 to 100000")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(self.epoch_images is None or self.epoch_images >= 1, "epoch_images", "must be at least 1")
        require(self.clip is None or self.clip > 0, "clip", "must be above 0")
        require(self.precision in PRECISIONS, "precision", f"must be one of {', '.join(PRECISIONS)}")
        require(self.evaluate_every >= 1, "evaluate_every", "must be at least 1")

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied by at a step (from 0) of a run: decay times warm-up."""
        factor = 1.0
        if self.decay is not None:
            factor *= self.decay.factor ** bisect_right(self.decay.at, step // steps_per_epoch)
        if self.warmup is not None:
            length = self.warmup.length * (steps_per_epoch if self.warmup.unit == "epochs" else 1)
            if step < length:
                factor *= self.warmup.start + (1 - self.warmup.start) * step / length
        return factor


def schedule_settings(record: Record) -> Schedule:
    """The schedule of a detector.

    Raises:
        DiagnosticError: unknown-record or bad-setting, at the span in the spec.
    """
    settings: Schedule = interpret(record, (Schedule,))
    return settings
