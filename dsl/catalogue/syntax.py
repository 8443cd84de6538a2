"""E01: the text of a spec."""

from __future__ import annotations

from detc.dsl.diagnostics import Example, Kind

SYNTAX_ERROR = Kind(
    "E0101",
    "syntax-error",
    "something stands where it cannot",
    """The text is not a spec: something stands where it cannot. What the diagnostic points at is the first thing that
does not fit; the mistake may be just before it.""",
    wrong=Example("det", "let neck = FPN(256,, levels = 3..7)"),
    right=Example("det", "let neck = FPN(256, levels = 3..7)"),
)

UNTERMINATED = Kind(
    "E0102",
    "unterminated",
    "a bracket is never closed",
    """A bracket is opened and never closed. The diagnostic points at the one left open.""",
    wrong=Example(
        "det",
        """
block Twice(x: feature) -> feature {
    return x + x
""",
    ),
    right=Example(
        "det",
        """
block Twice(x: feature) -> feature {
    return x + x
}
""",
    ),
)

UNTERMINATED_STRING = Kind(
    "E0103",
    "unterminated-string",
    "a string is never closed",
    """A string is opened with " and its line ends before it is closed.""",
    wrong=Example("det", 'let root = "data/coco'),
    right=Example("det", 'let root = "data/coco"'),
)

NESTED_TOO_DEEPLY = Kind(
    "E0104",
    "nested-too-deeply",
    "brackets or operators are nested too deeply",
    """Brackets or operators are nested deeper than anything that a person reads. The limit keeps every check quick.
Name the inner parts, and use the names.""",
    wrong=Example("det", f"let a = {'(' * 160}1{')' * 160}"),
    right=Example("det", "let inner = 1\nlet a = (inner)"),
)

UNREADABLE_FILE = Kind(
    "E0105",
    "unreadable-file",
    "a spec cannot be read",
    """The file cannot be read: it does not exist, is a folder, or may not be opened.""",
    wrong=Example("shell", "detc compile specs/retinanett.det"),
    right=Example("shell", "detc compile specs/retinanet.det"),
)

NOT_UTF8 = Kind(
    "E0106",
    "not-utf8",
    "a spec is not UTF-8 text",
    """A spec is UTF-8 text, and this file has bytes that are not. Save it as UTF-8, or check that it is a spec at
all.""",
    wrong=Example("shell", "detc check latin1.det", "with a comment in Latin-1"),
    right=Example("shell", "iconv -f latin1 -t utf-8 latin1.det > mine.det\ndetc check mine.det"),
)

EMPTY_FILE = Kind(
    "E0107",
    "empty-file",
    "a file declares nothing",
    """The file declares nothing. A file of the library declares components; a file to compile, at least one
detector.""",
    wrong=Example("det", "# to be written"),
    right=Example(
        "det",
        """
detector mine : SingleStage {
    backbone = ResNet(50)
    neck     = FPN(256, levels = 3..7)
    head     = RetinaHead()
    classes  = ["cat", "dog"]
}
""",
    ),
)

TOO_LARGE_FILE = Kind(
    "E0108",
    "too-large-file",
    "a file is larger than any spec",
    """The file is larger than any spec (one megabyte). It is probably not a spec.""",
    wrong=Example("shell", "detc check weights.det", "which are weights under a wrong name"),
    right=Example("shell", "detc check mine.det"),
)
