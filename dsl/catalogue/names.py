"""E02: names, imports, parameters and overrides."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

UNKNOWN_NAME = Kind(
    "E0201",
    "unknown-name",
    """A name is used that nothing declares: not a parameter or value of the component, nothing in the file or imported.

Wrong (nothing called Resnet is imported):

    import ResNet from "lib/backbones.det"
    detector mine : SingleStage { backbone = Resnet(50) }

Right:

    detector mine : SingleStage { backbone = ResNet(50) }
""",
)

DUPLICATE_NAME = Kind(
    "E0202",
    "duplicate-name",
    """One file declares or imports the same name twice. Rename one, or drop the import.""",
)

IMPORT_NOT_FOUND = Kind(
    "E0203",
    "import-not-found",
    """The file named in an import exists neither beside the importing file nor under an import root. The roots are
the folder of the spec that was asked for, every --import-root, and detc's own specs ("lib/necks.det",
"retinanet.det").""",
)

IMPORT_OUTSIDE_ROOTS = Kind(
    "E0204",
    "import-outside-roots",
    """A spec may only import files under its import roots, so that a spec from a stranger cannot read your files. That
holds after links are followed.

Wrong:

    import secrets from "../../private/specs.det"

Right: call detc with `--import-root ../../private`, and

    import secrets from "specs.det"
""",
)

IMPORT_CYCLE = Kind(
    "E0205",
    "import-cycle",
    """Files import each other in a circle. Move what both need into a third file.""",
)

UNKNOWN_IMPORT = Kind(
    "E0206",
    "unknown-import",
    """The imported file exists but does not declare this name.""",
)

UNKNOWN_PARAMETER = Kind(
    "E0207",
    "unknown-parameter",
    """A component, record or function is called with an argument that it does not have.

Wrong:

    FPN(256, level = 3..7)

Right:

    FPN(256, levels = 3..7)
""",
)

MISSING_ARGUMENT = Kind(
    "E0208",
    "missing-argument",
    """A parameter without a default, or an input, is not given.

Wrong:

    x |> Conv2d(kernel = 3)

Right:

    x |> conv: Conv2d(64, kernel = 3)
""",
)

REPEATED_ARGUMENT = Kind(
    "E0209",
    "repeated-argument",
    """One argument is given twice, or there are more arguments than parameters or inputs.

Wrong:

    Conv2d(64, channels = 128)

Right:

    Conv2d(128)
""",
)

UNKNOWN_OVERRIDE = Kind(
    "E0210",
    "unknown-override",
    """`with { path = value }` names a path that does not exist, so the override would have no effect.

Wrong:

    detector mine = base with { backbone.dept = 101 }

Right:

    detector mine = base with { backbone.depth = 101 }
""",
)

UNKNOWN_FIELD = Kind(
    "E0211",
    "unknown-field",
    """A value is asked for a field that it does not have. Features have channels, height, width and stride; pyramids
have levels; records and components have their parameters.

Wrong:

    anchors.counts

Right:

    anchors.count
""",
)

UNKNOWN_DETECTOR = Kind(
    "E0212",
    "unknown-detector",
    """The file does not declare a detector of this name. `detc compile FILE` lists those it declares.

Wrong:

    detc compile specs/fpg.det:fpg

Right:

    detc compile specs/fpg.det:retinanet_r50_fpg_crop640_50e
""",
)

NO_DETECTOR = Kind(
    "E0213",
    "no-detector",
    """The command needs a detector and the file declares none, or several and no `default NAME` says which one is
meant. Name one, as in `detc compile FILE:NAME`, or add a default to the file:

    default retinanet_r50_fpn_1x
""",
)
