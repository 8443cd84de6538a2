"""The passes of an export, in their order."""

from __future__ import annotations

from collections.abc import Collection

from detc.compiler.passes import Pass
from detc.compiler.passes.choose_by_logits import ChooseByLogits
from detc.compiler.passes.common_subexpressions import CommonSubexpressions
from detc.compiler.passes.enlarge_late import EnlargeLate
from detc.compiler.passes.fold_batch_norm import FoldBatchNorm
from detc.compiler.passes.fold_constants import FoldConstants
from detc.compiler.passes.fold_standardization import FoldStandardization
from detc.compiler.passes.pool_chains import PoolChains
from detc.compiler.passes.remove_identities import RemoveIdentities

# Weights are to be standardised before anything else can use them: no target does it.
REQUIRED = frozenset({FoldStandardization.name})


def passes(batch: int, height: int, width: int, without: Collection[str] = ()) -> list[Pass]:
    """What a predict graph goes through before it is emitted for `batch` images of `height` x `width` pixels.

    Norms are folded first, so that what is looked for stands side by side; subexpressions are shared after work has
    moved to where it may be the same. `without` names passes to leave out.
    """
    ordered: tuple[Pass, ...] = (
        RemoveIdentities(),
        FoldStandardization(),
        FoldBatchNorm(),
        EnlargeLate(),
        CommonSubexpressions(),
        PoolChains(),
        ChooseByLogits(),
        FoldConstants(batch, height, width),
    )
    return [step for step in ordered if step.name not in without]


def names() -> list[str]:
    """Those that can be left out."""
    return [step.name for step in passes(1, 1, 1) if step.name not in REQUIRED]
