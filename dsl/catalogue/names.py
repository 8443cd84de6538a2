"""E02: names, imports, parameters and overrides."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

UNKNOWN_NAME = Kind(
    "E0201",
    "unknown-name",
    "a name is used that nothing declares",
    """A name is used that nothing declares: not a parameter or value of the component, nothing in the file or imported.
Capital letters count.""",
    wrong=Example("det", "let body = Resnet(50)"),
    right=Example("det", "let body = ResNet(50)"),
)

DUPLICATE_NAME = Kind(
    "E0202",
    "duplicate-name",
    "a name is declared twice",
    """One file declares or imports the same name twice. Rename one, or drop the import.""",
    wrong=Example(
        "det",
        """
import FPN from "lib/necks.det"

neck FPN(c: pyramid) -> pyramid {
    return c
}
""",
    ),
    right=Example(
        "det",
        """
neck Plain(c: pyramid) -> pyramid {
    return c
}
""",
    ),
)

IMPORT_NOT_FOUND = Kind(
    "E0203",
    "import-not-found",
    "an imported file is not there",
    """The file named in an import exists neither beside the importing file nor under an import root. The roots are
the folder of the spec that was asked for, every --import-root, and detc's own specs ("lib/necks.det",
"retinanet.det").""",
    wrong=Example("det", 'import FPN from "lib/neck.det"'),
    right=Example("det", 'import FPN from "lib/necks.det"\n\nlet neck = FPN(128)'),
)

IMPORT_OUTSIDE_ROOTS = Kind(
    "E0204",
    "import-outside-roots",
    "an import leaves the import roots",
    """A spec may only import files under its import roots, so that a spec from a stranger cannot read your files. That
holds after links are followed. Name a folder that you trust on the command line, as in
`detc check mine.det --import-root ../../private`, and import relative to it.""",
    wrong=Example("det", 'import secrets from "../../private/specs.det"'),
    right=Example("det", 'import FPN from "lib/necks.det"\n\nlet neck = FPN(128)'),
)

IMPORT_CYCLE = Kind(
    "E0205",
    "import-cycle",
    "files import each other in a circle",
    """Files import each other in a circle, or a file imports itself. Move what both need into a third file.""",
    wrong=Example("det", 'import Twice from "example.det"', "in example.det itself"),
    right=Example(
        "det",
        """
block Twice(x: feature) -> feature {
    return x + x
}
""",
    ),
)

UNKNOWN_IMPORT = Kind(
    "E0206",
    "unknown-import",
    "the imported file does not declare this name",
    """The imported file exists but does not declare this name. What a file itself imports is not handed on.""",
    wrong=Example("det", 'import FPN from "lib/heads.det"'),
    right=Example("det", 'import FPN from "lib/necks.det"\n\nlet neck = FPN(128)'),
)

UNKNOWN_PARAMETER = Kind(
    "E0207",
    "unknown-parameter",
    "an argument is given for a parameter that does not exist",
    """A component, record or function is called with an argument that it does not have.""",
    wrong=Example("det", "let neck = FPN(256, level = 3..7)"),
    right=Example("det", "let neck = FPN(256, levels = 3..7)"),
)

MISSING_ARGUMENT = Kind(
    "E0208",
    "missing-argument",
    "a parameter or an input is not given",
    """A parameter without a default, or an input, is not given.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(kernel = 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64, kernel = 3)
}
""",
    ),
)

REPEATED_ARGUMENT = Kind(
    "E0209",
    "repeated-argument",
    "an argument is given twice, or there are too many",
    """One argument is given twice, a field is set twice, or there are more arguments than parameters or inputs.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(64, 3, channels = 128)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(128, 3)
}
""",
    ),
)

UNKNOWN_OVERRIDE = Kind(
    "E0210",
    "unknown-override",
    "an override names a path that does not exist",
    """`with { path = value }` names a path that does not exist, so the override would have no effect.""",
    wrong=Example("det", "detector mine = retinanet_r50_fpn_1x with { backbone.dept = 101 }"),
    right=Example("det", "detector mine = retinanet_r50_fpn_1x with { backbone.depth = 101 }"),
)

UNKNOWN_FIELD = Kind(
    "E0211",
    "unknown-field",
    "a value has no field of this name",
    """A value is asked for a field that it does not have. Features have channels, height, width and stride; pyramids
have levels; records and components have their parameters.""",
    wrong=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(x.channel, 3)
}
""",
    ),
    right=Example(
        "det",
        """
block Example(x: feature) -> feature {
    return x |> conv: Conv2d(x.channels, 3)
}
""",
    ),
)

UNKNOWN_DETECTOR = Kind(
    "E0212",
    "unknown-detector",
    "the file declares no detector of this name",
    """The file does not declare a detector of this name. `detc compile FILE` lists those it declares.""",
    wrong=Example("shell", "detc compile specs/fpg.det:fpg"),
    right=Example("shell", "detc compile specs/fpg.det:retinanet_r50_fpg_crop640_50e"),
)

NO_DETECTOR = Kind(
    "E0213",
    "no-detector",
    "it is not said which detector is meant, or there is none",
    """The command needs a detector and the file declares none, or several and no `default NAME` says which one is
meant. Name one, as in `detc compile FILE:NAME`, or add a line such as `default retinanet_r50_fpn_1x` to the file.""",
    wrong=Example("shell", "detc compile specs/lib/necks.det"),
    right=Example("shell", "detc compile specs/retinanet.det:retinanet_r50_fpn_1x"),
)
