"""E03: what values are, and whether they fit."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

TYPE_MISMATCH = Kind(
    "E0301",
    "type-mismatch",
    """A value is not of the type that its parameter, input or operator takes.

Wrong:

    FPN("256")

Right:

    FPN(256)
""",
)

CHANNELS_MISMATCH = Kind(
    "E0302",
    "channels-mismatch",
    """Two features are added or multiplied cell by cell, and have different numbers of channels. The diagnostic shows
where each comes from. Bring them to the same number with a 1x1 convolution.

Wrong:

    c[4] + c[5]

Right:

    (c[4] |> a: Conv2d(256, 1)) + resize(c[5] |> b: Conv2d(256, 1), like = c[4])
""",
)

STRIDE_MISMATCH = Kind(
    "E0303",
    "stride-mismatch",
    """Two features are combined cell by cell, and their cells are different distances apart in the image. The
diagnostic shows where each comes from.

Wrong (strides 8 and 16):

    p[3] + p[4]

Right:

    p[3] + resize(p[4], like = p[3])
""",
)

SIZE_MISMATCH = Kind(
    "E0304",
    "size-mismatch",
    """Two features have the same stride and yet different heights or widths, for every image size: a convolution
without padding, or a crop, cut some cells off one of them.""",
)

MISSING_LEVEL = Kind(
    "E0305",
    "missing-level",
    """A pyramid is asked for a level that it does not have.

Wrong (this FPN makes 3 to 6):

    neck = FPN(256, levels = 3..6)
    ... p[7]

Right:

    neck = FPN(256, levels = 3..7)
""",
)

BAD_OPERAND = Kind(
    "E0306",
    "bad-operand",
    """An operator or a built-in function is given values that it cannot take: a number and a feature, a list index past
the end, a division by zero.

Wrong:

    x + 1

Right (both are features):

    x + y
""",
)

REQUIREMENT = Kind(
    "E0307",
    "requirement-failed",
    """A `require` of the component does not hold for the parameters and inputs it was given. The message is the
component's author's.""",
)

LABEL_CONFLICT = Kind(
    "E0308",
    "label-conflict",
    """Two different modules stand under one label. Labels are the keys of the checkpoint: one label is one set of
weights. Using a label again with the same module shares its weights; with another module it is a mistake.

Wrong:

    x |> conv: Conv2d(64, 3) |> conv: Conv2d(128, 3)

Right:

    x |> conv1: Conv2d(64, 3) |> conv2: Conv2d(128, 3)
""",
)

UNLABELLED_WEIGHTS = Kind(
    "E0309",
    "unlabelled-weights",
    """A module with weights is used without a label. The label is the weights' key in the checkpoint, so it has to be
said.

Wrong:

    x |> Conv2d(64, 3)

Right:

    x |> conv: Conv2d(64, 3)
""",
)

EXPANDS_WITHOUT_END = Kind(
    "E0310",
    "expands-without-end",
    """A component uses itself, directly or through others, so that the graph would never be finished.""",
)

TOO_LARGE = Kind(
    "E0311",
    "too-large",
    """The spec expands beyond any detector: too many nodes, loop turns, or too large a number. Compilation always
ends.""",
)

NOT_STATIC = Kind(
    "E0312",
    "not-static",
    """A value of the graph stands where the compiler needs a number that it can know: a condition, a range, a
parameter.""",
)

UNUSED_OUTPUT = Kind(
    "E0313",
    "unused-output",
    """Something is computed that no loss, prediction or output uses. Weights in it would never be trained; with
distributed training in other frameworks they hang the run. Drop it, or use it. Training leaves such weights out by
itself.

Wrong (the head reads levels 3 to 6 of 3 to 7):

    neck = FPN(256, levels = 3..7)
    head = RetinaHead(levels = 3..6)
""",
    severity="warning",
)

NO_RESULT = Kind(
    "E0314", "no-result", """A component ends without `return`, or returns another type than it declares."""
)

MISPLACED = Kind(
    "E0315",
    "misplaced-statement",
    """A statement stands where it means nothing: a loss outside `train`, `weight` outside a primitive, a view
inside another.""",
)

UNTRAINED = Kind(
    "E0316",
    "untrained-weights",
    """These weights are used by the predictions but no loss depends on them, so training cannot change them. Add a
loss, or freeze them to say that it is meant.""",
    severity="warning",
)
