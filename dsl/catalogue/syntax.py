"""E01: the text of a spec."""

from __future__ import annotations

from detc.dsl.diagnostics import Kind

SYNTAX_ERROR = Kind(
    "E0101",
    "syntax-error",
    """The text is not a spec: something stands where it cannot.

Wrong:

    neck = FPN(256,, levels = 3..7)

Right:

    neck = FPN(256, levels = 3..7)
""",
)

UNTERMINATED = Kind(
    "E0102",
    "unterminated",
    """A bracket is opened and never closed. The diagnostic points at the one left open.

Wrong:

    block Twice()(x: feature) -> feature {
        return x + x

Right:

    block Twice()(x: feature) -> feature {
        return x + x
    }
""",
)

UNTERMINATED_STRING = Kind(
    "E0103",
    "unterminated-string",
    """A string is opened with " and its line ends before it is closed.

Wrong:

    root = "data/coco

Right:

    root = "data/coco"
""",
)

NESTED_TOO_DEEPLY = Kind(
    "E0104",
    "nested-too-deeply",
    """Brackets or operators are nested deeper than anything that a person reads. The limit keeps every check quick.
Name the inner parts, and use the names.
""",
)

UNREADABLE_FILE = Kind(
    "E0105",
    "unreadable-file",
    """The file cannot be read: it does not exist, is a folder, or may not be opened.""",
)

NOT_UTF8 = Kind(
    "E0106",
    "not-utf8",
    """A spec is UTF-8 text, and this file has bytes that are not. Save it as UTF-8, or check that it is a spec at
all.""",
)

EMPTY_FILE = Kind(
    "E0107",
    "empty-file",
    """The file declares nothing. A file of the library declares components; a file to compile, at least one detector:

    detector mine : SingleStage {
        backbone = ResNet(50)
        neck     = FPN(256, levels = 3..7)
        head     = RetinaHead()
    }
""",
)

TOO_LARGE_FILE = Kind(
    "E0108",
    "too-large-file",
    """The file is larger than any spec (one megabyte). It is probably not a spec.""",
)
