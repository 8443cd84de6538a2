"""The optimizers that `specs/lib/schedules.det` declares, and which weights get which rate and decay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from detc.runtime.data.records import list_of, require


@dataclass(frozen=True)
class ParameterGroup:
    path: str
    lr: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        require(all(self.path.split(".")), "path", "must be labels with a dot between each two")
        require(self.lr >= 0, "lr", "must not be negative")
        require(self.decay >= 0, "decay", "must not be negative")

    def names(self, key: str) -> bool:
        """Whether `path` is some labels in a row of a weight's key."""
        labels, wanted = key.split("."), self.path.split(".")
        return any(
            all(map(fnmatchcase, labels[start : start + len(wanted)], wanted))
            for start in range(len(labels) - len(wanted) + 1)
        )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What optimizers have in common."""

    lr: float
    weight_decay: float
    norm_decay: float = 1.0
    bias_lr: float = 1.0
    bias_decay: float = 1.0
    groups: tuple[ParameterGroup, ...] = field(default=(), metadata=list_of(ParameterGroup))

    def __post_init__(self) -> None:
        require(0 < self.lr < 100, "lr", "must be above 0 and below 100")
        for name in ("weight_decay", "norm_decay", "bias_lr", "bias_decay"):
            require(getattr(self, name) >= 0, name, "must not be negative")

    def multipliers(self, key: str, norm_keys: Collection[str]) -> tuple[float, float]:
        """What the learning rate and the weight decay of a weight are multiplied by."""
        named = [group for group in self.groups if group.names(key)]
        if named:
            group = max(named, key=lambda group: len(group.path))
            return group.lr, group.decay
        if key in norm_keys:
            return 1.0, self.norm_decay
        return (self.bias_lr, self.bias_decay) if key.rpartition(".")[2] == "bias" else (1.0, 1.0)

    def parameter_groups(
        self, parameters: Iterable[tuple[str, nn.Parameter]], norm_keys: Collection[str], lr: float
    ) -> list[dict[str, Any]]:
        """The groups of torch's optimizers for these parameters by key; `lr` is the rate of the run."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for key, parameter in parameters:
            groups[self.multipliers(key, norm_keys)].append(parameter)
        return [
            {"params": members, "lr": lr * rate, "weight_decay": self.weight_decay * decay}
            for (rate, decay), members in groups.items()
        ]

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's optimizer of such groups."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    weight_decay: float = 0.0001
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "must be at least 0 and below 1")
        require(self.momentum > 0 or not self.nesterov, "nesterov", "needs a momentum above 0")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", "must be two, from 0 to below 1")
        require(self.eps > 0, "eps", "must be above 0")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps)
