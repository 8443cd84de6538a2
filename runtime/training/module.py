"""A detector as Lightning trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from detc.compiler.graph import Graph
from detc.dsl.catalogue.running import NON_FINITE_LOSS
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.dataset import Dataset
from detc.runtime.data.images import readable
from detc.runtime.data.loading import Batch
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.evaluate import Evaluation
from detc.runtime.predict import as_arrays
from detc.runtime.training.schedule import Schedule


class DetectorModule(pl.LightningModule):
    """The train and predict modules of a detector, which share their parameters, with a schedule.

    `lr` is the learning rate before decay and warm-up, for the batches of this run. `validation` is the data set that
    evaluations are on, and `measure` gives the figures of what was found in it, by image number. `keep` writes weights
    to a file: when a loss is not finite, nonfinite.safetensors in `folder`.
    """

    def __init__(
        self,
        graph: Graph,
        views: Mapping[str, nn.Module],
        schedule: Schedule,
        lr: float,
        steps_per_epoch: int,
        validation: Dataset,
        measure: Callable[[Mapping[int, Detections]], Evaluation],
        folder: Path,
        keep: Callable[[dict[str, torch.Tensor], Path], None],
    ) -> None:
        super().__init__()
        self.train_view = views["train"]
        self.predict_view = views["predict"]
        self.schedule = schedule
        self.lr = lr
        self.steps_per_epoch = steps_per_epoch
        self.validation = validation
        self.measure = measure
        self.folder = folder
        self.keep = keep
        self.norm_keys = {key for node in graph.nodes if "Norm" in node.op for key in node.weights.values()}
        self.inputs = tuple(graph.view("train").inputs)
        self.tells_classes = "classes" in graph.views["predict"]
        self.found: dict[int, Detections] = {}

    def weights(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer of the detector under its key."""
        return dict(self.train_view.state_dict())

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        terms = {}
        for name, value in self.train_view(**{name: batch.inputs[name] for name in self.inputs}).items():
            terms[name] = torch.stack(value).sum() if isinstance(value, tuple | list) else value
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            self._stop(terms, batch, batch_index)
        return {"loss": loss, "terms": {name: value.detach() for name, value in terms.items()}}

    def _stop(self, terms: dict[str, torch.Tensor], batch: Batch, batch_index: int) -> None:
        wrong = [f"{name} = {value.item()}" for name, value in terms.items() if not torch.isfinite(value)]
        kept = self.folder / "nonfinite.safetensors"
        self.keep(self.weights(), kept)
        where = f"epoch {self.current_epoch + 1}, step {batch_index + 1}, learning rate {self._rate():.3g}"
        raise DiagnosticError(
            NON_FINITE_LOSS.at(
                None,
                f"{', '.join(wrong) or 'the sum of the losses'} is not finite ({where})",
                detail="a lower learning rate, a longer warm-up or `schedule.clip` is what usually helps",
                notes=(f"images of the batch: {', '.join(batch.files)}", f"the weights before this step: {kept}"),
            )
        )

    def _rate(self) -> float:
        return float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        settings = self.schedule.optimizer
        trained = {name: p for name, p in self.train_view.named_parameters() if p.requires_grad}
        norms = [parameter for name, parameter in trained.items() if name in self.norm_keys]
        others = [parameter for name, parameter in trained.items() if name not in self.norm_keys]
        groups = [
            {"params": others, "weight_decay": settings.weight_decay},
            {"params": norms, "weight_decay": settings.weight_decay * settings.norm_decay},
        ]
        optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=self.lr, momentum=settings.momentum)
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.lr_factor(step, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.batch_sampler.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        batch = readable(batch)
        return batch.to(device) if isinstance(batch, Batch) else batch  # an evaluation's go there as they are used

    def on_validation_epoch_start(self) -> None:
        self.found = {}

    def validation_step(self, item: Any, batch_index: int) -> None:
        arrays, placements, images = item
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        outputs = as_arrays(self.predict_view(**inputs))
        for image, found in zip(images, Preprocess.detections(outputs, placements), strict=True):
            self.found[image.number] = found

    def on_validation_epoch_end(self) -> None:
        self.evaluation = self.measure(self.found)
        metrics = self.evaluation.metrics.items()
        known = {f"val/{name}": value for name, value in metrics if not math.isnan(value)}
        self.log_dict(known, batch_size=1)
