"""The layout of any text: of random programs, and of the library's with other white space and more comments."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

from fuzzing import Inputs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from layouts import formatted, holds, meaning, parsed

from detc.compiler.elaborate import elaborate
from detc.compiler.modules import Loader, specs_folder
from detc.compiler.serialize import to_text
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.format import WIDTH
from detc.dsl.parser import COMMENT_OR_STRING

SPECS = sorted(specs_folder().rglob("*.det"))
NAMES = st.sampled_from(["x", "p", "c", "neck", "train", "weight", "loss", "levels", "conv1", "a_rather_long_name" * 2])
LITERALS = st.sampled_from(["1", "0.5", "1e-4", '"s"', '"a # b"', "`l{i}`", "true", "none"])


def joined(parts: st.SearchStrategy[str], brackets: str) -> st.SearchStrategy[str]:
    def between(items: list[str], comma: bool) -> str:
        return brackets[0] + ", ".join(items) + ("," if comma and items else "") + brackets[1]

    return st.builds(between, st.lists(parts, max_size=5), st.booleans())


def grown(e: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "//", "|>", "and", "or", "&", "**", "..", "..<", "==", "in"])
    named = st.builds("{} = {}".format, NAMES, e)
    return st.one_of(
        st.builds("({} {} {})".format, e, operators, e),
        st.builds("({} |> {} |> {}: {})".format, e, e, NAMES, NAMES),
        st.builds("{} |> {}({})".format, NAMES, NAMES, e),
        st.builds("{}[{}].{}".format, NAMES, e, NAMES),
        st.builds("{}{}{}".format, NAMES, joined(e, "()"), joined(st.one_of(e, named), "()")),
        joined(e, "[]"),
        joined(named, "{}"),
        joined(st.builds("{}: {}".format, LITERALS, e), "{}"),
        st.builds("[{} for {} in {} if {}]".format, e, NAMES, e, e),
        st.builds("(if {} then {} else {})".format, e, e, e),
        st.builds("(x, y) -> {}".format, e),
        st.builds("(-{} - not_{} + (not {}))".format, NAMES, NAMES, e),
        st.builds("({} with {{ a = {} b.c = {} reported {{ d = 1 e = -2 f = {} }} }})".format, NAMES, e, e, e),
    )


EXPRESSIONS = st.recursive(st.one_of(NAMES, LITERALS), grown, max_leaves=12)


def nested(s: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    body = st.lists(s, max_size=4).map(lambda items: "{ " + "\n".join(items) + " }")
    return st.one_of(
        st.builds("for i in {} {}".format, EXPRESSIONS, body),
        st.builds("if {} {} else if {} {} else {}".format, EXPRESSIONS, body, NAMES, body, body),
        st.builds("if {} {}".format, EXPRESSIONS, body),
        body.map("train(truth) {}".format),
        body.map("predict {}".format),
    )


STATEMENTS = st.recursive(
    st.one_of(
        st.builds("{}[{}], y = {}".format, NAMES, EXPRESSIONS, EXPRESSIONS),
        st.builds("{} = {}".format, NAMES, EXPRESSIONS),
        EXPRESSIONS.map("return {}".format),
        EXPRESSIONS.map('require a + {}, "message"'.format),
        EXPRESSIONS.map("loss `l{{i}}`[0] = {}".format),
        EXPRESSIONS.map("init Conv2d.weight: {}".format),
        st.just("freeze conv1, [0].b"),
        st.just("tie a[0] to b"),
    ),
    nested,
    max_leaves=8,
)
PARAMETERS = st.builds("{}: [int]? = {}".format, NAMES, EXPRESSIONS)
ITEMS = st.one_of(
    st.just('import a, b from "c.det"'),
    st.just("default a"),
    st.builds("let a{} = {}".format, joined(PARAMETERS, "()"), EXPRESSIONS),
    st.builds("record A{} {{ b = {} }}".format, joined(PARAMETERS, "()"), EXPRESSIONS),
    st.builds(
        "block A{}{} -> feature {{ {} }}".format,
        joined(PARAMETERS, "()"),
        joined(PARAMETERS, "()"),
        st.lists(STATEMENTS, max_size=5).map("\n".join),
    ),
    st.builds("op A{} -> (y: f) {{ y.shape = {} }}".format, joined(PARAMETERS, "()"), EXPRESSIONS),
    st.builds("detector a : M {{ b = {} c.d = {} }}".format, EXPRESSIONS, EXPRESSIONS),
)
PROGRAMS = st.lists(ITEMS, max_size=4).map("\n".join)
SPACES = [" ", " ", " ", "\n", "\n\n\n", "\t", "\r\n", "  # c\n", "\n# own\n", "\n\n## doc\n\n", "# \u00fc \r\n"]
TOKEN = re.compile(
    COMMENT_OR_STRING.pattern
    + r"|\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\w+|\|>|->|\*\*|//|\.\.<|\.\.|[=!<>]=|[^\s\w]|\s+"
)


def shuffled(text: str, chance: random.Random, spaces: list[str]) -> str:
    """The text with other white space, and with comments, where there was white space."""
    tokens = [match.group() for match in TOKEN.finditer(text)]
    # A comment ends with its line.
    ending = [space for space in spaces if space.startswith(("\n", "\r"))]
    return "".join(
        chance.choice(ending if before.startswith("#") else spaces)
        if token.isspace() and chance.random() < 0.4
        else token
        for before, token in zip(["", *tokens], tokens, strict=False)
    )


def parses(text: str) -> bool:
    try:
        parsed(text)
    except DiagnosticError:
        return False
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(text=PROGRAMS, seed=st.integers(0, 2**32))
def test_any_program(text: str, seed: int) -> None:
    assume(parses(text))
    result = holds(text)
    for line in result.splitlines():
        # What is longer holds nothing that may go to the next line; a name and what it is equal to may be one.
        assert len(line) <= WIDTH or len(line.split()) < 40
    changed = shuffled(text, random.Random(seed), SPACES)
    if parses(changed):
        holds(changed)


def test_programs_of_the_grammar() -> None:
    """More kinds of nesting than people write."""
    inputs, parsable = Inputs(11), 0
    for _ in range(150):
        text = inputs.grown().decode()
        if parses(text):
            parsable += 1
            holds(text)
    assert parsable > 20


@cache
def declarations() -> list[str]:
    """The declarations of the library and the zoo, with the comments above them."""
    found = []
    for path in SPECS:
        text = path.read_text()
        starts = [d.start for d in parsed(text).declarations]
        found += [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return found


@settings(max_examples=150, deadline=None)
@given(number=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_specs_with_other_white_space(number: int, seed: int) -> None:
    text = declarations()[number % len(declarations())]
    changed = shuffled(text, random.Random(seed), SPACES)
    assume(parses(changed))
    assert meaning(parsed(changed)) == meaning(parsed(text))
    holds(changed)


@settings(max_examples=100, deadline=None)
@given(number=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_the_layout_does_not_depend_on_white_space(number: int, seed: int) -> None:
    """But for empty lines, and line ends behind a brace or beside comments."""
    chance = random.Random(seed)
    text = re.sub(r"^ *#.*\n|    #.*$", "", declarations()[number % len(declarations())], flags=re.MULTILINE)
    changed = re.sub(
        r"(?<![{\s])(\s+)(?=\S)",
        lambda m: m[1] if m[1].count("\n") > 1 else chance.choice([" ", "\t  ", "\n", "\r\n   "]),
        re.sub(r'"[^"\n]*"|`[^`\n]*`', lambda m: m[0].replace(" ", "\0"), text),
    ).replace("\0", " ")
    assume(parses(changed))
    assert formatted(changed) == formatted(text)


def test_the_graph_is_the_same(tmp_path: Path) -> None:
    """Of specs whose white space is gone, and that are then formatted with all they import."""
    for path in SPECS:
        squeezed = " ".join(
            token for token in TOKEN.findall(path.read_text()) if not token.isspace() and token[0] != "#"
        )
        target = tmp_path / path.relative_to(specs_folder())
        target.parent.mkdir(exist_ok=True)
        target.write_text(formatted(squeezed))
    for name in ("fpg.det", "cascade_rcnn.det", "simpledet.det"):
        graphs = []
        for folder in (specs_folder(), tmp_path):
            module = Loader().load(folder / name)
            graphs.append([to_text(elaborate(module, d.name).graph) for d in module.detectors[:3]])
        assert graphs[0] == graphs[1]
