"""Counts over all processes that train together.

Losses are sums over a batch divided by a count of it, and what processes average is their gradients. So that several
with a part of a batch each take the step of one with the whole of it, each divides its own sum by the count of all
parts together over the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile counts are those of this process, which the others do not wait for."""
    global _alone  # noqa: PLW0603  # a kernel has no other way to learn who else runs it
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


# An op of torch's own, so that compilers leave it whole.
torch.library.define("detc::joint_count", "(Tensor count) -> Tensor")


@torch.library.impl("detc::joint_count", "CompositeExplicitAutograd")
def _joint_count(count: Tensor) -> Tensor:
    total = count.detach().to(torch.float32, copy=True)
    if _alone or not (distributed.is_available() and distributed.is_initialized()):
        return total.clamp_(min=1)
    distributed.all_reduce(total)
    return total.clamp_(min=1).div_(distributed.get_world_size())


@torch.library.register_fake("detc::joint_count")
def _joint_count_fake(count: Tensor) -> Tensor:
    return count.new_empty((), dtype=torch.float32)


def joint_count(count: Tensor) -> Tensor:
    """What this process's sum of a loss is divided by: the count of all processes, at least 1, over their number.

    `count` is the scalar of this process; the result is a float32 scalar.
    """
    joint: Tensor = torch.ops.detc.joint_count(count)
    return joint
