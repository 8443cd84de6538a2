"""A detector as Lightning trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, fx

from detc.compiler.graph import Graph, Node
from detc.dsl.catalogue.running import NON_FINITE_LOSS
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import readable
from detc.runtime.data.loading import Batch
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.predict import as_arrays
from detc.runtime.training.nonfinite import first_non_finite
from detc.runtime.training.processes import Processes
from detc.runtime.training.schedule import Schedule

# What seeds the random choices within a step, beside those of the data (detc.runtime.data.loading).
_STEPS = 2


class DetectorModule(pl.LightningModule):
    """The train and predict modules of a detector, which share their parameters, with a schedule.

    `lr` is the learning rate before decay and warm-up, for the batches of this run; `steps_per_epoch` counts steps of
    the optimizer. What samplers draw in a step follows from `seed`, the step and the process alone, so that a resumed
    run draws it again. `keep` writes tensors to a file: when a loss is not finite, the weights to
    nonfinite.safetensors in `folder`, and the batch to nonfinite-batch.safetensors.
    """

    def __init__(
        self,
        graph: Graph,
        views: Mapping[str, fx.GraphModule],
        schedule: Schedule,
        lr: float,
        steps_per_epoch: int,
        processes: Processes,
        seed: int,
        folder: Path,
        keep: Callable[[dict[str, Tensor], Path], None],
    ) -> None:
        super().__init__()
        self.train_view = views["train"]
        self.predict_view = views["predict"]
        self.graph = graph
        self.schedule = schedule
        self.lr = lr
        self.steps_per_epoch = steps_per_epoch
        self.processes = processes
        self.seed = seed
        self.folder = folder
        self.keep = keep
        self.norm_keys = {key for node in graph.nodes if "Norm" in node.op for key in node.weights.values()}
        self.inputs = tuple(graph.view("train").inputs)

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer of the detector under its key."""
        return dict(self.train_view.state_dict())

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of every weight alone."""
        return False

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        self._draw_anew(batch_index)
        terms = {}
        for name, value in self.train_view(**self._taken(batch)).items():
            terms[name] = torch.stack(value).sum() if isinstance(value, tuple | list) else value
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            self._stop(terms, batch, batch_index)
        told = self.processes.mean(torch.stack([value.detach().float() for value in terms.values()]))
        return {"loss": loss, "terms": dict(zip(terms, told.unbind(), strict=True))}

    def _taken(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch.inputs[name] for name in self.inputs}

    def _draw_anew(self, batch_index: int) -> None:
        key = (self.seed, _STEPS, self.current_epoch, batch_index, self.processes.rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def _stop(self, terms: dict[str, Tensor], batch: Batch, batch_index: int) -> None:
        wrong = [f"{name} = {value.item()}" for name, value in terms.items() if not torch.isfinite(value)]
        suffix = f"-{self.processes.rank}" if self.processes.rank else ""
        inputs = self.folder / f"nonfinite-batch{suffix}.safetensors"
        self.keep(dict(batch.inputs), inputs)
        first: Node | str | None = None
        if self.sharded:  # the weights are the other processes' as well, who know of nothing
            notes = [f"the batch: {inputs}; a run with --strategy ddp says where, and keeps the weights too"]
        else:
            self._draw_anew(batch_index)
            first = first_non_finite(self.train_view, self.graph, self._taken(batch))
            kept = self.folder / f"nonfinite{suffix}.safetensors"
            self.keep(self.weights(), kept)
            notes = [
                _said(first, self.schedule.precision),
                f"the weights before this step: {kept}; the batch: {inputs}",
            ]
        where = f"epoch {self.current_epoch + 1}, step {batch_index + 1}, learning rate {self._rate():.3g}"
        raise DiagnosticError(
            NON_FINITE_LOSS.at(
                first.origins[0] if isinstance(first, Node) and first.origins else None,
                f"{', '.join(wrong) or 'the sum of the losses'} is not finite ({where})",
                label="the first result that is not finite",
                detail="a lower learning rate, a longer warm-up or `schedule.clip` is what usually helps",
                notes=(*notes, f"images of the batch: {', '.join(batch.files)}"),
            )
        )

    def _rate(self) -> float:
        return float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        settings = self.schedule.optimizer
        trained = [(key, parameter) for key, parameter in self.train_view.named_parameters() if parameter.requires_grad]
        optimizer = settings.build(settings.parameter_groups(trained, self.norm_keys, self.lr))
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.lr_factor(step, self.steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.batch_sampler.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        batch = readable(batch)
        return batch.to(device) if isinstance(batch, Batch) else batch  # an evaluation's go there as they are used

    def validation_step(self, item: Any, batch_index: int) -> dict[int, Detections]:
        """What is found in the images of a batch, by their numbers."""
        arrays, placements, images = item
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        outputs = as_arrays(self.predict_view(**inputs))
        found = Preprocess.detections(outputs, placements)
        return {image.number: detections for image, detections in zip(images, found, strict=True)}


def _said(first: Node | str | None, precision: str) -> str:
    if first is None:
        return "computed once more, node by node, the same step was finite: the fault is not one of the numbers alone"
    if isinstance(first, str):
        return f"the weight {first} was not finite before this step: the step before it went too far"
    where = f"the first result that is not finite is that of {first.op} {first.name}"
    label = first.scope or first.name
    if precision == "float16":
        return f'{where}; `schedule.float32 = ["{label}"]` would compute it in float32'
    return f"{where}, in {label}" if first.scope else where
