"""Diagnostics about weights: kernels, checkpoints and comparison with reference figures. Codes E05xx."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

KERNEL_MISSING = Kind(
    "E0501",
    "kernel-missing",
    "an op has no kernel",
    """
An op of the graph has no kernel, so torch cannot run it.

The ops of the library have theirs in detc. An op of a project's own needs a kernel of the same name in a Python file
that the user names (`detc --kernels my_kernels.py train mine.det`); a spec alone cannot import code.
""",
    wrong=Example(
        "det",
        """
op swish(x: feature) -> (y: feature) {}

block Example(x: feature) -> feature {
    return x |> swish
}
""",
        "without more",
    ),
    right=Example("python", "def swish(x):\n    return x * x.sigmoid()", "with this in my_kernels.py"),
)

KERNEL_MISMATCH = Kind(
    "E0502",
    "kernel-mismatch",
    "an op and its kernel disagree about weights",
    """
An op's declaration and its kernel disagree about its weights.

The kernel of an op with weights is called as `kernel(weights, **attributes)`, with the shape of each weight by name,
and gives a `torch.nn.Module` that holds tensors of these names and shapes and no others. The examples are kernels for
`op Scale(x: feature) -> (y: feature) { weight scale: [x.channels] = ones() }`.
""",
    wrong=Example(
        "python",
        """
import torch


class Scale(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(weights["scale"]))

    def forward(self, x):
        return x * self.factor[:, None, None]
""",
    ),
    right=Example(
        "python",
        """
import torch


class Scale(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(weights["scale"]))

    def forward(self, x):
        return x * self.scale[:, None, None]
""",
    ),
)

UNKNOWN_INITIALISER = Kind(
    "E0503",
    "unknown-initialiser",
    "a weight is initialised with a record that is no initialiser",
    """
A weight is initialised with a record that is none of the initialisers of `lib/ops.det`. Records of a spec's own are
data: nothing says how to fill a tensor with them.
""",
    wrong=Example(
        "det",
        """
record tiny()

block Example(x: feature) -> feature {
    init Conv2d.weight: tiny()
    return x |> conv: Conv2d(8, 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    init Conv2d.weight: normal(0.001)
    return x |> conv: Conv2d(8, 3)
}
""",
    ),
)

CHECKPOINT_UNREADABLE = Kind(
    "E0510",
    "checkpoint-unreadable",
    "a file of weights cannot be read",
    """
A file of weights cannot be read: it is not there, was cut off (an interrupted download, a full disk), or is no
checkpoint at all. detc reads PyTorch's files (.pth, .pt, .ckpt) and safetensors, by what is in them and not by their
names.
""",
    wrong=Example("shell", "detc convert fpg.html", "a page that a browser saved in place of the file"),
    right=Example("shell", "detc convert weights.pth", "the file itself"),
)

CHECKPOINT_UNSAFE = Kind(
    "E0511",
    "checkpoint-unsafe",
    "a file of weights holds more than weights",
    """
A PyTorch file holds more than tensors and plain values. Such a file is a program: to read it all, Python would run what
it says. detc reads weights only, and runs nothing from a file.

If you trust where the file comes from, convert it outside detc, with
`torch.save(torch.load("model.pth", weights_only=False).state_dict(), "weights.pth")`.
""",
    wrong=Example("python", 'torch.save(model, "model.pth")', "a whole model pickled"),
    right=Example("python", 'torch.save(model.state_dict(), "model.pth")', "its weights"),
)

CHECKPOINT_MISMATCH = Kind(
    "E0512",
    "checkpoint-mismatch",
    "a file of weights is not of this detector",
    """
A file of weights is not of this detector: weights are missing from it, it holds others, or shapes differ. Loading what
happens to fit would leave the rest at random, and nothing later would say so.

Where only a part is meant to be loaded, as when a trained detector gets new classes, ask for it: `detc train ...
--weights FILE --partial`, or `partial=True` in Python. `detc convert FILE --spec SPEC:NAME` lists what differs, tensor
by tensor.
""",
    wrong=Example(
        "shell", "detc predict mine.det photos/ --weights other.safetensors --output found", "weights of another neck"
    ),
    right=Example("shell", "detc predict mine.det photos/ --weights best.safetensors --output found"),
)

CHECKPOINT_PARTIAL = Kind(
    "E0514",
    "checkpoint-partial",
    "only a part of the weights was in the file",
    """
Only a part of the detector's weights was in the file, and loading what fits was asked for (`--partial`). The others
keep what the spec initialises them with. Look through the list: what is meant to be new should be all of it.

Meant, when a detector trained on COCO gets two classes: `bbox_head.retina_cls.weight` and its bias have another shape.
""",
    wrong=Example("text", "everything under `backbone` is missing, since the file is of another backbone."),
    right=Example("text", "`bbox_head.retina_cls` alone has another shape, since the classes are new."),
    severity="warning",
)

CLASSES_REORDERED = Kind(
    "E0513",
    "classes-reordered",
    "a file of weights names the classes in another order",
    """
A file of weights names the detector's classes in another order. Every detection would have another class's name.
""",
    wrong=Example(
        "det",
        'detector pets = mine with { classes = ["dog", "cat"] }',
        'for weights trained with the classes ["cat", "dog"]',
    ),
    right=Example("det", 'detector pets = mine with { classes = ["cat", "dog"] }'),
)

REFERENCE_MALFORMED = Kind(
    "E0520",
    "reference-malformed",
    "a file given as reference is none",
    """
A file given as reference is none: `detc verify` compares with the layout (state-dict key -> shape), the forward values
or the losses of one configuration, as JSON, or JSON compressed by gzip.
""",
    wrong=Example("json", '["backbone.conv1.weight", "backbone.bn1.weight"]', "a layout without shapes"),
    right=Example("json", '{"backbone.conv1.weight": [64, 3, 7, 7], "backbone.bn1.weight": [64]}'),
)

REFERENCE_UNMATCHED = Kind(
    "E0521",
    "reference-unmatched",
    "no reference is of any detector given",
    """
No reference is of any detector given, so nothing would be compared. Detectors and references are matched by
configuration: the detector's `reported { config = ... }` against the reference's "config", or its file name with / for
every __. The examples stand beside a reference called fpg__retinanet_r50_fpg_crop640_50e_coco.json.
""",
    wrong=Example(
        "det",
        """
detector mine = retinanet_r50_fpg_crop640_50e with {
    reported { config = "retinanet_r50_fpg" }
}
""",
    ),
    right=Example(
        "det",
        """
detector mine = retinanet_r50_fpg_crop640_50e with {
    reported { config = "fpg/retinanet_r50_fpg_crop640_50e_coco" }
}
""",
    ),
)
