"""Diagnostics about weights: kernels, checkpoints and comparison with reference figures. Codes E05xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

KERNEL_MISSING = Kind(
    "E0501",
    "kernel-missing",
    """
An op of the graph has no kernel, so torch cannot run it.

The ops of the library have theirs in detc. An op of a project's own needs a kernel of the same name in a Python module
that the user names; a spec alone cannot import code.

Wrong, without more:

    op swish(x: tensor) -> (y: tensor) {}

Right, with it, in the module:

    def swish(x): return x * x.sigmoid()
""",
)

KERNEL_MISMATCH = Kind(
    "E0502",
    "kernel-mismatch",
    """
An op's declaration and its kernel disagree about its weights.

The kernel of an op with weights is called as `kernel(weights, **attributes)`, with the shape of each weight by name,
and gives a `torch.nn.Module` that holds tensors of these names and shapes and no others.

Wrong, for `weight scale: [x.channels] = ones()`:

    class Scale(nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(weights["scale"]))

Right:

            self.scale = nn.Parameter(torch.ones(weights["scale"]))
""",
)

UNKNOWN_INITIALISER = Kind(
    "E0503",
    "unknown-initialiser",
    """
A weight is initialised with a record that is none of the initialisers of `lib/ops.det`. Records of a spec's own are
data: nothing says how to fill a tensor with them.

Wrong:

    record tiny()
    init Conv2d.weight: tiny()

Right:

    init Conv2d.weight: normal(0.001)
""",
)
