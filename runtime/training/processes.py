"""The processes of a run: one alone, or several that torch's launcher started, for `torchrun` or `--devices N`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from detc.dsl.catalogue.running import BAD_OPTION, PROCESS_LOST
from detc.dsl.diagnostics import DiagnosticError

T = TypeVar("T")

# Figures of a large data set, which one process computes while the others wait, take longer than torch's half hour.
_PATIENCE = timedelta(hours=6)
# How torch's messages begin, or what is in them, when a process at the other end of a connection is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer", "/gloo/", "NCCL error", "Broken pipe")


@dataclass(frozen=True)
class Processes:
    """Which process this is (`rank`, from 0), of how many (`count`), and of how many on this machine (`here`)."""

    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """What the first process has for `value`, which is not looked at in the others."""
        if self.count == 1:
            return value
        held: list[Any] = [value if self.first else None]
        distributed.broadcast_object_list(held, src=0)
        found: T = held[0]
        return found

    def to_first(self, value: T) -> list[T]:
        """In the first process what each has, in their order; in the others nothing."""
        if self.count == 1:
            return [value]
        held: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(value, held, dst=0)
        return held or []

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes of a tensor that each has."""
        if self.count == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.count

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return flag
        told = torch.tensor(float(flag), device=_device())
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return bool(told)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run, connected until the end of the context.

    Raises:
        DiagnosticError: bad-option where there are more of them than GPUs; process-lost where another is gone.
    """
    if not distributed.is_torchelastic_launched() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    here, place = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if here > torch.cuda.device_count():
            summary = f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs"
            raise DiagnosticError(BAD_OPTION.at(None, summary, detail="each process has a GPU to itself"))
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), here)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise DiagnosticError(PROCESS_LOST.at(None, "another process of this run has ended")) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
