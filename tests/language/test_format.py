"""The canonical layout, rule by rule, and that the project's own texts have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import formatted, holds, parsed

from detc.compiler.modules import specs_folder
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.markdown import blocks, format_blocks
from detc.dsl.source import Source

ROOT = Path(__file__).parents[2]

# ---- rule by rule ---------------------------------------------------------------------------------------------------

KEPT = {
    "nothing": "",
    "comments alone": "# one\n\n## two\n# three\n",
    "an empty body": "op relu(x: tensor) -> (y: tensor) {}\n",
    "a body on its line": "block Same(x: feature) -> feature { return x }\n",
    "a body on its own lines": "block Same(x: feature) -> feature {\n    return x\n}\n",
    "short fields on a line": "let a = b with { c = 1  d.e = 2 }\n",
    "a chain of conditions": """
block A(x: feature) {
    if a { y = 1 } else if b { y = 2 } else { y = 3 }
    if a {
        y = 1
    } else {
        y = 2
    }
    # why
}
""",
    "fields side by side": """
detector d : Model {
    backbone   = ResNet(50)
    neck       = FPN(256, levels = 3..7)
    pretrained = "torchvision://resnet50"
    training_proposals = Proposals(before = 2000)

    head = RetinaHead()
    reported {
        box_ap = 40.5  memory_gb = 13.2  fps = -1
        config = "a"
        checkpoint = "b"
        mask_ap = 1.0
    }
    head.anchors.octaves = 2    # a
    data = coco(                # b
        resize    = Resize([1333, 800]),
        normalize = imagenet_rgb,
    )
    schedule = steps(12, [8, 11])
}
""",
    "a table of statements": """
cell C(p: pyramid) -> pyramid {
    p4_1 = a: Sum()(p[6], p[4])
    p4   = b: Sum()(p[4], p4_1)
    p3   = c: Sum()(p[3], p4)

    a = 1
    not_of_that_table = 2
    b = 3
    if b {}
    c = 1
    two = 2
    return {3: p3, 4: p4}
}
""",
    "what is one a line by its last comma": "let a = f(\n    1,\n    b = 2,\n)\n",
    "comments in lists": """
let a = [
    # first
    f(1),    # one
    # second
    f(2),    # two
    # last
]
let b = f(    # open
    1, 2
)
let c = {
    # nothing
}
""",
    "comments on parameters": """
block A(
    ## The width.
    channels: int,
    bias: bool = true,    # as published
    # no more
)(x: feature) -> feature {    # begin
    # above
    return x    # result
    # below
}    # end

# the end
""",
    "a comment where a line would go on": "let a = 1\n    # why\n    + 2\n",
    "numbers and ranges": "let a = [-1, 2 ** -b, not c, 3..7, 0 ..< n, 1 .. x.last, a & b, 1e-4]\n",
    "labels": """
block A(x: f) {
    x = x |> `l{i + 1}`[0].conv: Conv2d(8, 3)
    freeze [i], a.b
    tie a[0] to b
    init Conv2d.weight: normal(0.01)
    loss `{a}.b`[l] = x
}
""",
    "an op": """
op X(n: int)(xs: [tensor], k: block?) -> (y: tensor) {
    label "x"
    weight weight: [n, 4] = zeros()
    buffer count: [] of int64 = zeros()
    attr step = like.stride
    align x, y
    require n > 0, "n is positive"
}
""",
}


@pytest.mark.parametrize("text", [text.lstrip("\n") for text in KEPT.values()], ids=list(KEPT))
def test_a_canonical_layout_is_kept(text: str) -> None:
    assert holds(text) == text


LONG = "abcdefghijklmnopqrstuvwxyz" * 2
CHANGED = {
    "white space": ("let  a=f( 1,b=2 )  [ 0 ] . c\n\n\n\nlet b=[ ]\n\n", "let a = f(1, b = 2)[0].c\n\nlet b = []\n"),
    "other line ends, tabs, no last line end": (
        "## a\r\nlet a\t= 1\r\n\r\n\r\nlet b = 2 # c\r",
        "## a\nlet a = 1\n\nlet b = 2    # c\n",
    ),
    "commas": ("let a = [1, 2,]\nlet b = (c,)\nlet d = {}", "let a = [1, 2]\nlet b = (c)\nlet d = {}\n"),
    "a comment before a comma": (
        "let a = f(1 # one\n, 2 # two\n)",
        "let a = f(\n    1,    # one\n    2,    # two\n)\n",
    ),
    "empty lines at the ends of a block": ("block A(x: f) {\n\n\nx = 1\n\n\n}", "block A(x: f) {\n    x = 1\n}\n"),
    "arguments on their own line": (
        f"let a = f({LONG}, {LONG}, b = 1)\n",
        f"let a = f(\n    {LONG}, {LONG}, b = 1\n)\n",
    ),
    "arguments one a line": (
        f"let a = f({LONG}, {LONG}, b = {LONG})\n",
        f"let a = f(\n    {LONG},\n    {LONG},\n    b = {LONG},\n)\n",
    ),
    "words fill lines": (
        f"let a = [{'1234567, ' * 16}1]",
        f"let a = [\n    {'1234567, ' * 12}1234567,\n    1234567, 1234567, 1234567, 1\n]\n",
    ),
    "imports fill lines": (
        f'import {LONG}, {LONG}, {LONG} from "a.det"',
        f'import {LONG}, {LONG},\n    {LONG} from "a.det"\n',
    ),
    "a pipeline": (
        f"let a = x |> {LONG} |> {LONG} |> y",
        f"let a = x |> {LONG}\n          |> {LONG}\n          |> y\n",
    ),
    "one stage": (
        f"let a = x |> c: f({LONG}, {LONG}, 1)",
        f"let a = x |> c: f(\n    {LONG}, {LONG}, 1\n)\n",
    ),
    "a sum": (f"let a = {LONG} + {LONG} - b * {LONG}", f"let a = {LONG}\n    + {LONG}\n    - b * {LONG}\n"),
    "a condition": (
        f"let a = if b then {LONG} else if c then {LONG} else d",
        f"let a = if b then {LONG}\n    else if c then {LONG}\n    else d\n",
    ),
    "the last list of a component": (
        f"block A(a: {LONG})(b: {LONG}, c: int) -> feature {{}}",
        f"block A(a: {LONG})(\n    b: {LONG}, c: int\n) -> feature {{}}\n",
    ),
    "no parameters": (
        f"op A() -> (a: {LONG}, b: {LONG}) {{}}",
        f"op A() -> (\n    a: {LONG}, b: {LONG}\n) {{}}\n",
    ),
    "parameters where there is one input": (
        f"block A(a: {LONG}, c: int)(b: {LONG}) -> feature {{}}",
        f"block A(\n    a: {LONG}, c: int\n)(b: {LONG}) -> feature {{}}\n",
    ),
    "a message": (
        f'block A(x: f) {{ require {LONG}, "{LONG} {LONG}" }}',
        f'block A(x: f) {{\n    require {LONG},\n        "{LONG} {LONG}"\n}}\n',
    ),
    "a block that is too long": (
        f"let a = b with {{ c = {LONG}  e = {LONG} }}",
        f"let a = b with {{\n    c = {LONG}\n    e = {LONG}\n}}\n",
    ),
}


@pytest.mark.parametrize(("text", "wanted"), CHANGED.values(), ids=list(CHANGED))
def test_a_layout_becomes_canonical(text: str, wanted: str) -> None:
    assert holds(text) == wanted


def test_a_byte_order_mark_is_no_part_of_a_text() -> None:
    with pytest.raises(DiagnosticError):
        formatted("\ufefflet a = 1")


def test_a_syntax_error_is_told_as_by_a_check() -> None:
    text = "let a = {1: 2, b = 3}\nlet c = (\n"
    with pytest.raises(DiagnosticError) as of_parse:
        parsed(text)
    with pytest.raises(DiagnosticError) as of_format:
        formatted(text)
    assert str(of_format.value) == str(of_parse.value)


@pytest.mark.parametrize(
    "text", ["(" * 149 + "1" + ")" * 149, "f(" * 140 + "1" + ")" * 140, "1" + " + 1" * 290, "-" * 250 + "1"]
)
def test_deep_nesting_is_formatted_or_refused(text: str) -> None:
    """Whatever the parser lets through."""
    try:
        holds(f"let a = {text}")
    except DiagnosticError as error:
        assert [d.kind.slug for d in error.diagnostics] == ["nested-too-deeply"]


# ---- the files of the project ---------------------------------------------------------------------------------------

MARKDOWN = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "tests/language").glob("*.md"),
    *ROOT.glob("examples/*/*.md"),
]
FILES = [*sorted(specs_folder().rglob("*.det")), *sorted((ROOT / "examples").rglob("*.det")), *sorted(MARKDOWN)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_specs_and_documentation_are_formatted(path: Path) -> None:
    text = path.read_bytes().decode()
    if path.suffix == ".md":
        result, wrong = format_blocks(Source(path.name, text))
        assert wrong == []
    else:
        result = formatted(text)
    assert text == result, f"detc fmt would change {path}"


# ---- Markdown --------------------------------------------------------------------------------------------------------


def test_blocks_of_pages_are_laid_out_where_they_stand() -> None:
    page = """# A page

```det
let a=1   # one
```

- in a list:

  ~~~ det path=mine.det
  block   B(x: feature)->feature {
      return x
  }

  ~~~

```python
let = "```det"
```

````markdown
```det
let a=1
```
````

```details
let a=1
```

```det
let never_closed=1
"""
    laid_out, wrong = format_blocks(Source("page.md", page))
    assert wrong == []
    assert laid_out == page.replace("let a=1   # one", "let a = 1    # one", 1).replace(
        "  block   B(x: feature)->feature {\n      return x\n  }\n\n",
        "  block B(x: feature) -> feature {\n      return x\n  }\n",
    )
    assert format_blocks(Source("page.md", laid_out)) == (laid_out, [])
    windows = page.replace("\n", "\r\n")
    assert format_blocks(Source("page.md", windows)) == (laid_out.replace("\n", "\r\n"), [])


def test_blocks_with_mistakes_are_left_and_told_unless_they_say_so() -> None:
    page = """Wrong:

```det
let a = = 1
```
```det
let b=1
```
```det
let a = = 1    # error: [syntax-error]
```
```det example
let a = = 1
```
"""
    laid_out, wrong = format_blocks(Source("page.md", page))
    assert laid_out == page.replace("let b=1", "let b = 1")
    assert [(d.kind.slug, d.labels[0].span.line, d.labels[0].span.text) for d in wrong] == [("syntax-error", 4, "=")]


LINES = ["```", "```det", "~~~det", "````det", "  ```det", "let a=1", "# h", "", "x\r", "~~~", "> q"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(LINES)))
def test_pages_keep_all_but_their_blocks(lines: list[str]) -> None:
    page = "\n".join(lines)
    laid_out, _ = format_blocks(Source("page.md", page))
    assert format_blocks(Source("page.md", laid_out))[0] == laid_out

    def outside(text: str) -> str:
        for block in reversed(list(blocks(text))):
            text = text[: block.start] + text[block.end :]
        return text

    assert outside(laid_out) == outside(page)
