"""Training with every weight, its gradient and its optimizer state in parts, one in each process: FSDP."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from detc.runtime.training.module import DetectorModule


def sharding_strategy(processes: int) -> ModelParallelStrategy:
    """Lightning's strategy for a `ShardedModule` in so many processes; checkpoints are one file, with whole tensors."""
    return ModelParallelStrategy(
        data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


class ShardedModule(DetectorModule):
    """A detector of which each process holds a part. Zhao et al., PyTorch FSDP, 2023.

    Weights are put together for a step, or an evaluation, as a whole: the layers of a detector are too small to be
    fetched one by one. What is saved is the memory of optimizer states and gradients, and of the weights in between.
    """

    @property
    def sharded(self) -> bool:
        return True

    def configure_model(self) -> None:
        if not isinstance(self.train_view, FSDPModule):
            fully_shard(self.train_view, mesh=self.device_mesh["data_parallel"])

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer under its key, whole: all processes must ask for it together."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(self.train_view, options=options)

    def on_validation_start(self) -> None:
        self._view().unshard()

    def on_validation_end(self) -> None:
        self._view().reshard()

    def _view(self) -> FSDPModule:
        view: Any = self.train_view
        assert isinstance(view, FSDPModule)
        return view
