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

CHECKPOINT_UNREADABLE = Kind(
    "E0510",
    "checkpoint-unreadable",
    """
A file of weights cannot be read: it is not there, was cut off (an interrupted download, a full disk), or is no
checkpoint at all. detc reads PyTorch's files (.pth, .pt, .ckpt) and safetensors, by what is in them and not by their
names.

Wrong, a page that a browser saved in place of the file:

    detc predict specs/fpg.det photo.jpg --weights fpg.html

Right, the file itself:

    detc predict specs/fpg.det photo.jpg --weights retinanet_r50_fpg_crop640_50e_coco-311081ae.pth
""",
)

CHECKPOINT_UNSAFE = Kind(
    "E0511",
    "checkpoint-unsafe",
    """
A PyTorch file holds more than tensors and plain values. Such a file is a program: to read it all, Python would run what
it says. detc reads weights only, and runs nothing from a file.

Wrong, a whole model pickled:

    torch.save(model, "model.pth")

Right, its weights:

    torch.save(model.state_dict(), "model.pth")

If you trust where the file comes from, convert it outside detc:

    torch.save(torch.load("model.pth", weights_only=False)["state_dict"], "weights.pth")
""",
)

CHECKPOINT_MISMATCH = Kind(
    "E0512",
    "checkpoint-mismatch",
    """
A file of weights is not of this detector: weights are missing from it, it holds others, or shapes differ. Loading what
happens to fit would leave the rest at random, and nothing later would say so.

Wrong, weights of another neck:

    detc eval specs/nas_fpn.det:retinanet_r50_nasfpn_crop640_50e --weights retinanet_r50_fpn.pth

Right, weights of this one:

    detc eval specs/nas_fpn.det:retinanet_r50_nasfpn_crop640_50e --weights retinanet_r50_nasfpn.pth

Where only a part is meant to be loaded, as when a trained detector gets new classes, ask for it: `detc train ...
--weights FILE --partial`, or `partial=True` in Python.
""",
)

CHECKPOINT_PARTIAL = Kind(
    "E0514",
    "checkpoint-partial",
    """
Only a part of the detector's weights was in the file, and loading what fits was asked for (`--partial`). The others
keep what the spec initialises them with. Look through the list: what is meant to be new should be all of it.

Meant, when a detector trained on COCO gets two classes: `bbox_head.retina_cls.weight` and its bias have another shape.
Not meant: everything under `backbone` is missing.
""",
    severity="warning",
)

CLASSES_REORDERED = Kind(
    "E0513",
    "classes-reordered",
    """
A file of weights names the detector's classes in another order. Every detection would have another class's name.

Wrong, for weights trained with the classes ["cat", "dog"]:

    detector pets : SingleStage { classes = ["dog", "cat"] ... }

Right:

    detector pets : SingleStage { classes = ["cat", "dog"] ... }
""",
)

REFERENCE_MALFORMED = Kind(
    "E0520",
    "reference-malformed",
    """
A file given as reference is none: `detc verify` compares with the layout (state-dict key -> shape), the forward values
or the losses of one configuration, as JSON, or JSON compressed by gzip.

Wrong, a layout whose shapes are missing:

    ["backbone.conv1.weight", "backbone.bn1.weight"]

Right:

    {"backbone.conv1.weight": [64, 3, 7, 7], "backbone.bn1.weight": [64]}
""",
)

REFERENCE_UNMATCHED = Kind(
    "E0521",
    "reference-unmatched",
    """
No reference is of any detector given, so nothing would be compared. Detectors and references are matched by
configuration: the detector's `reported { config = ... }` against the reference's "config", or its file name with / for
every __.

Wrong, in the spec, beside a reference called fpg__retinanet_r50_fpg_crop640_50e_coco.json:

    reported { config = "retinanet_r50_fpg" }

Right:

    reported { config = "fpg/retinanet_r50_fpg_crop640_50e_coco" }
""",
)
