"""The moving average of a run's weights."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from detc.runtime.training.module import DetectorModule
from detc.runtime.training.schedule import MovingAverage


class Averaging(WeightAveraging):
    """Averages weights and running statistics after every step, and puts the average in place for evaluations."""

    def __init__(self, settings: MovingAverage) -> None:
        def update(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor) -> None:
            # The first step's weights were taken as they are.
            part = 1 - settings.kept(int(count) + 1)
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, currents, part)
            else:
                torch._foreach_copy_(averages, currents)  # the counts that normalisation layers keep

        super().__init__(multi_avg_fn=update)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # Lightning would leave the average on the CPU: the weights go to the GPU only after this.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def weights(self) -> dict[str, Tensor]:
        """The average of every parameter and buffer of the detector under its key."""
        assert self._average_model is not None
        module = self._average_model.module
        assert isinstance(module, DetectorModule)
        return module.weights()
