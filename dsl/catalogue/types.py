"""E03: what values are, and whether they fit."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

TYPE_MISMATCH = Kind(
    "E0301",
    "type-mismatch",
    "a value is of another type than what takes it",
    """A value is not of the type that its parameter, input or operator takes.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d("64", 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64, 3)
}
""",
    ),
)

CHANNELS_MISMATCH = Kind(
    "E0302",
    "channels-mismatch",
    "features of different numbers of channels are combined",
    """Two features are added or multiplied cell by cell, and have different numbers of channels. The diagnostic shows
where each comes from. Bring them to the same number with a 1x1 convolution.""",
    wrong=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    return {4: c[4] + resize(c[5], like = c[4])}
}
""",
    ),
    right=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    fewer = c[5] |> reduce: Conv2d(c[4].channels, 1)
    return {4: c[4] + resize(fewer, like = c[4])}
}
""",
    ),
)

STRIDE_MISMATCH = Kind(
    "E0303",
    "stride-mismatch",
    "features of different strides are combined",
    """Two features are combined cell by cell, and their cells are different distances apart in the image. The
diagnostic shows where each comes from. Resize one of them.""",
    wrong=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    fine = c[4] |> fine: Conv2d(64, 1)
    coarse = c[5] |> coarse: Conv2d(64, 1)
    return {4: fine + coarse}
}
""",
        "strides 16 and 32",
    ),
    right=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    fine = c[4] |> fine: Conv2d(64, 1)
    coarse = c[5] |> coarse: Conv2d(64, 1)
    return {4: fine + resize(coarse, like = fine)}
}
""",
    ),
)

SIZE_MISMATCH = Kind(
    "E0304",
    "size-mismatch",
    "features of one stride have different sizes",
    """Two features have the same stride and yet different heights or widths, for every image size: a convolution
without padding, or a crop, cut some cells off one of them.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x + (x |> conv: Conv2d(3, 3, padding = 0))
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x + (x |> conv: Conv2d(3, 3))
}
""",
    ),
)

MISSING_LEVEL = Kind(
    "E0305",
    "missing-level",
    "a pyramid does not have this level",
    """A pyramid is asked for a level that it does not have. The diagnostic says which it has.""",
    wrong=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    return {4: c[4], 5: c[5], 6: relu(c[6])}
}
""",
        "the backbone makes levels 4 and 5",
    ),
    right=Example(
        "det",
        """
neck Example(c: pyramid) -> pyramid {
    return {4: c[4], 5: c[5], 6: max_pool(2)(c[5])}
}
""",
    ),
)

BAD_OPERAND = Kind(
    "E0306",
    "bad-operand",
    "an operator or function cannot take this value",
    """An operator or a built-in function is given values that it cannot take: a list index past the end, a division by
zero, something to join that is no text.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64 // 0, 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64 // 2, 3)
}
""",
    ),
)

REQUIREMENT = Kind(
    "E0307",
    "requirement-failed",
    "a requirement of a component does not hold",
    """A `require` of the component does not hold for the parameters and inputs it was given. The message is the
component's author's.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(8, 3, groups = 2)
}
""",
        "x has three channels",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(9, 3, groups = 3)
}
""",
    ),
)

LABEL_CONFLICT = Kind(
    "E0308",
    "label-conflict",
    "one label stands for two different modules",
    """Two different modules stand under one label. Labels are the keys of the checkpoint: one label is one set of
weights. Using a label again with the same module shares its weights; with another module it is a mistake.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64, 3) |> conv: Conv2d(128, 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv1: Conv2d(64, 3) |> conv2: Conv2d(128, 3)
}
""",
    ),
)

UNLABELLED_WEIGHTS = Kind(
    "E0309",
    "unlabelled-weights",
    "a module with weights has no label",
    """A module with weights is used without a label. The label is the weights' key in the checkpoint, so it has to be
said.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> Conv2d(64, 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64, 3)
}
""",
    ),
)

EXPANDS_WITHOUT_END = Kind(
    "E0310",
    "expands-without-end",
    "a component contains itself",
    """A component uses itself, directly or through others, so that the graph would never be finished. A number of
repetitions that is known is a loop.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> again: Example
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    for i in 0 ..< 3 {
        x = x |> again[i]: Conv2d(8, 3)
    }
    return x
}
""",
    ),
)

TOO_LARGE = Kind(
    "E0311",
    "too-large",
    "a spec expands beyond any detector",
    """The spec expands beyond any detector: too many nodes, loop turns, or too large a number. Compilation always
ends.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    for i in 0 ..< 100000000 {
        x = relu(x)
    }
    return x
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    for i in 0 ..< 3 {
        x = relu(x)
    }
    return x
}
""",
    ),
)

NOT_STATIC = Kind(
    "E0312",
    "not-static",
    "a value of the graph stands where a known number is needed",
    """A value of the graph stands where the compiler needs a number that it can know: a condition, a range, a
parameter. Height and width depend on the image; channels, strides and levels are known.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    if x.height > 100 {
        x = relu(x)
    }
    return x
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    if x.stride > 4 {
        x = relu(x)
    }
    return x
}
""",
    ),
)

UNUSED_OUTPUT = Kind(
    "E0313",
    "unused-output",
    "something is computed that nothing uses",
    """Something is computed that no loss, prediction or output uses. Weights in it would never be trained; with
distributed training in other frameworks they hang the run. Drop it, or use it. Training leaves such weights out by
itself.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    y = x |> conv: Conv2d(8, 3)
    return relu(x)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    y = x |> conv: Conv2d(8, 3)
    return relu(y)
}
""",
    ),
    severity="warning",
)

NO_RESULT = Kind(
    "E0314",
    "no-result",
    "a component returns nothing, or another type than it declares",
    """A component ends without `return`, or returns another type than it declares.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    y = relu(x)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return relu(x)
}
""",
    ),
)

MISPLACED = Kind(
    "E0315",
    "misplaced-statement",
    "a statement stands where it means nothing",
    """A statement stands where it means nothing: a loss outside `train`, `weight` outside a primitive, a view
inside another.""",
    wrong=Example(
        "det",
        """
head Example(c: pyramid, image: feature) -> bundle {
    scores = c[5] |> score: Conv2d(classes, 1)
    loss size = scores
    return {scores = scores}
}
""",
    ),
    right=Example(
        "det",
        """
head Example(c: pyramid, image: feature) -> bundle {
    scores = c[5] |> score: Conv2d(classes, 1)
    cells = anchor_grid([1.0], [1.0])(like = scores)
    train(truth) {
        labels, boxes, positives = assign_max_iou(classes, 0.5, 0.5)(cells, truth.boxes, truth.labels)
        loss loss_cls = focal_loss(scores |> per_anchor(classes), labels, normalizer = positives)
    }
    return {scores = scores}
}
""",
    ),
)

UNTRAINED = Kind(
    "E0316",
    "untrained-weights",
    "weights are used and no loss depends on them",
    """These weights are used by the predictions but no loss depends on them, so training cannot change them. Add a
loss, or freeze them to say that it is meant.""",
    wrong=Example(
        "det",
        """
head Example(c: pyramid, image: feature) -> bundle {
    scores  = c[5] |> score: Conv2d(classes, 1)
    quality = c[5] |> quality: Conv2d(1, 1)
    cells   = anchor_grid([1.0], [1.0])(like = scores)
    train(truth) {
        labels, boxes, positives = assign_max_iou(classes, 0.5, 0.5)(cells, truth.boxes, truth.labels)
        loss loss_cls = focal_loss(scores |> per_anchor(classes), labels, normalizer = positives)
    }
    return {scores = scores, quality = quality}
}
""",
    ),
    right=Example(
        "det",
        """
head Example(c: pyramid, image: feature) -> bundle {
    scores  = c[5] |> score: Conv2d(classes, 1)
    quality = c[5] |> quality: Conv2d(1, 1)
    cells   = anchor_grid([1.0], [1.0])(like = scores)
    train(truth) {
        labels, boxes, positives = assign_max_iou(classes, 0.5, 0.5)(cells, truth.boxes, truth.labels)
        loss loss_cls = focal_loss(scores |> per_anchor(classes), labels, normalizer = positives)
    }
    freeze quality
    return {scores = scores, quality = quality}
}
""",
    ),
    severity="warning",
)
