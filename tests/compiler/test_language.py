"""What editors ask, without an editor: `detc.compiler.language`."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from detc.compiler.check import check_paths
from detc.compiler.language import edits, hover, navigation
from detc.compiler.language.check import check
from detc.compiler.language.completion import complete
from detc.compiler.language.highlight import highlight
from detc.compiler.language.positions import Positions
from detc.compiler.language.project import Project
from detc.compiler.language.session import Session
from detc.dsl import highlight as pygments_words
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.parser import parse, recover
from detc.dsl.source import Source
from detc.dsl.tokens import RESERVED, scan

SPECS = Path(__file__).parents[2] / "specs"

BLOCKS = """\
record Sizes(base: int = 4) { double = base * 2 }

block Twice(channels: int, sizes: Sizes = Sizes())(x: feature) -> feature {
    y = x |> first: Conv2d(channels, sizes.base - 1)
    for i in 0 ..< 2 {
        y = y |> more[i]: Conv2d(channels, 3)
    }
    freeze first
    return y
}
"""
MINE = """\
import Twice, Sizes from "blocks.det"
model Only(body: block)(image: feature) -> feature { return image |> body: body }
detector small : Only { body = Twice(16) }
detector large = small with { body.channels = 32  body.sizes.base = 6 }
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "blocks.det").write_text(BLOCKS)
    (tmp_path / "mine.det").write_text(MINE)
    return Session(Project(folders=(tmp_path,)))


def last(project: Project, path: Path, near: int = 0) -> list[str]:
    """The kinds of what is wrong with a file."""
    *_, step = check(project, path, near)
    assert step.done
    return [d.kind.slug for d in step.diagnostics]


# ---- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_count_in_the_editors_units(encoding: str) -> None:
    text = "a🦊é\r\nbb\rc\n\nlast"
    positions = Positions(text, encoding)
    units = {"utf-8": [0, 1, 5, 7], "utf-16": [0, 1, 3, 4], "utf-32": [0, 1, 2, 3]}[encoding]
    assert [positions.position(offset) for offset in range(4)] == [(0, unit) for unit in units]
    assert [positions.position(offset) for offset in (5, 8, 10, 11)] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    for offset in set(range(len(text) + 1)) - {4}:
        assert positions.offset(*positions.position(offset)) == offset
    # Beyond the line's end is its end, before the line feed; beyond the last line the text's.
    assert positions.offset(0, 99) == 3
    assert positions.offset(99, 0) == len(text)


def test_recovery_keeps_every_declaration_but_the_broken_ones() -> None:
    def names(text: str) -> list[str]:
        file, errors = recover(Source("x", text))
        assert errors
        assert all(text[d.name_start :].startswith(d.name) for d in file.declarations)
        return [d.name for d in file.declarations]

    assert names("let a = 1\nlet b = \nlet c = 3\nlet d = 4") == ["a", "c", "d"]
    assert names("let a = 1\nlet b = [1, 2\nlet c = 3\n") == ["a", "c"]
    assert names("let a = 1\nblock B(x: feature) -> feature {\n    return x\n\nlet c = 3\nlet d = (\n") == ["a", "c"]
    assert names("let a = 1\ndetector \nlet c = 3\ndefau") == ["a", "c"]
    assert names(")\nlet a = 1\nlet b = 2\n") == ["a", "b"]
    assert names("let a = 1\n" + "(" * 500) == []


def test_tokens_cover_all_but_blanks() -> None:
    for text in ('x |> `a{i}`[0]: C(1e-4) # "no string', '"open', "a..<b..c # 🦊", "p[l] = \x00 ü"):
        tokens = scan(text)
        between = [text[a.end : b.start] for a, b in pairwise(tokens)]
        assert not "".join(between).replace("ü", "").strip()
        assert all(text[token.start : token.end] == token.text for token in tokens)
    assert [k.kind for k in scan('"open')] == ["string"]
    # The words that other tools colour as reserved.
    assert RESERVED == pygments_words.RESERVED
    for word in RESERVED:
        with pytest.raises(DiagnosticError) as error:
            parse(Source("x", f"let {word} = 1\n"))
        assert f'"{word}" is reserved' in error.value.diagnostics[0].detail
        parse(Source("x", f"let {word}s = 1\n"))


# ---- work ------------------------------------------------------------------------------------------------------------


def test_a_keystroke_parses_one_file_and_elaborates_what_it_changes(tmp_path: Path) -> None:
    shutil.copytree(SPECS, tmp_path / "specs")
    path = tmp_path / "specs/cascade_rcnn.det"
    project = Project(folders=(tmp_path,))
    text = path.read_text()
    project.open(path, text)
    assert last(project, path) == []
    graphs = project.work["elaborated"]
    assert graphs == 12

    def typed(new: str) -> dict[str, int]:
        project.work.clear()
        project.open(path, new)
        assert last(project, path) == []
        return dict(project.work)

    # A published figure changes no graph, and a comment moves all that follows.
    assert typed(text.replace("box_ap = 40.3", "box_ap = 40.35")) == {"parsed": 1, "elaborated": 0}
    assert typed("# moved\n" + text) == {"parsed": 1, "elaborated": 0}
    # One row with another backbone: this one is elaborated, and what is a variant of it.
    row = text.replace("backbone.depth = 101", "backbone.depth = 18", 1)
    assert row != text
    assert 1 <= typed(row)["elaborated"] <= 2
    # Where the text does not parse, nothing is elaborated, and little is once it does again.
    project.work.clear()
    project.open(path, row.replace("ResNet(50)", "ResNet(50", 1))
    assert last(project, path) == ["syntax-error"]
    assert dict(project.work) == {"parsed": 1}
    assert typed(row) == {"parsed": 1, "elaborated": 0}


def test_what_is_kept_between_keystrokes_says_where_things_are_now(tmp_path: Path) -> None:
    """The edited file's model applies components of a library; what they made is kept, and the model moves."""
    (tmp_path / "blocks.det").write_text(
        "block Same(x: feature) -> feature { return x }\n"
        "block Half(x: feature) -> feature { return x |> max_pool(2, stride = 2) }\n"
    )
    text = (
        'import Same, Half from "blocks.det"\n'
        "model Only(a: block)(image: feature) -> feature {\n"
        "    x = image |> same: Same\n"
        "    y = x |> half: a\n"
        "    return x + y\n"
        "}\n"
        "detector one : Only { a = Half }\n"
    )
    path = tmp_path / "mine.det"
    project = Project(folders=(tmp_path,))
    for start in ("", "# moved\n", "# moved\n\n# again\n"):
        project.open(path, start + text)
        for _ in range(2):
            [step] = [s for s in check(project, path) if s.done]
            [found] = step.diagnostics
            lines = start.count("\n")
            assert {(label.span.source.name.rpartition("/")[2], label.span.line) for label in found.labels} == {
                ("mine.det", lines + 5),
                ("mine.det", lines + 2),
                ("mine.det", lines + 7),
                ("blocks.det", 2),
            }


def test_a_file_is_parsed_again_only_when_it_changes(session: Session, tmp_path: Path) -> None:
    project = session.project
    path = tmp_path / "mine.det"
    assert last(project, path) == []
    project.work.clear()
    assert last(project, path) == []
    assert project.work["parsed"] == 0
    # Without anybody saying so.
    (tmp_path / "blocks.det").write_text(BLOCKS.replace("block Twice", "block Thrice"))
    assert last(project, path) == ["unknown-import"]
    assert project.work["parsed"] == 1
    (tmp_path / "blocks.det").unlink()
    assert last(project, path) == ["import-not-found"]
    project.open(tmp_path / "other.det", 'import Twice from "blocks.det"')
    (tmp_path / "blocks.det").write_text(BLOCKS)
    project.changed_on_disk(tmp_path / "blocks.det")
    assert last(project, path) == []


def test_the_detector_at_the_cursor_is_checked_first(session: Session, tmp_path: Path) -> None:
    text = MINE + "detector broken = small with { body.chanels = 1 }\ndetector other = small with { boby = 1 }\n"
    session.project.open(tmp_path / "mine.det", text)
    for name, word in (("broken", "chanels"), ("other", "boby")):
        steps = check(session.project, tmp_path / "mine.det", text.index(name))
        next(steps)
        [found] = next(steps).diagnostics
        assert word in found.summary


def test_the_editor_says_what_the_command_line_says(tmp_path: Path) -> None:
    shutil.copytree(SPECS, tmp_path / "specs")
    for name, old, new in (
        ("retinanet.det", "ResNet(50)", "ResNet(51)"),
        ("fpg.det", "FPG(", "FPN("),
        ("lib/necks.det", "c.levels & levels", "c.level & levels"),
        ("rpn.det", "default ", "default no"),
    ):
        path = tmp_path / "specs" / name
        text = path.read_text()
        path.write_text(text.replace(old, new))
        (tmp_path / "none").mkdir(exist_ok=True)
        *_, step = check(Project(), path)
        told = check_paths([path], (tmp_path / "specs",)).diagnostics
        assert {(d.kind.slug, d.summary) for d in step.diagnostics} == {(d.kind.slug, d.summary) for d in told}
        path.write_text(text)


# ---- questions -------------------------------------------------------------------------------------------------------


def test_definitions_of_what_the_tree_has_no_place_for(session: Session, tmp_path: Path) -> None:
    text = (
        "block B(f: function = (a, b) -> a + b, s: [int] = [i * 2 for # i\n i in [1] if i > 0])(x: feature) "
        "-> feature {\n"
        "    for i in [1] { x = x |> relu }\n    train(t) { loss a = sum([t.boxes]) }\n    return x\n}\n"
    )
    path = tmp_path / "b.det"
    session.project.open(path, text)

    def defined(needle: str, inside: int = 0) -> int:
        place = navigation.definition(session, path, text.index(needle) + inside)
        assert place is not None
        return place.start

    assert defined("a + b") == text.index("(a, b)") + 1
    assert defined("a + b", 4) == text.index("b) ->")
    assert defined("i * 2") == text.index("i in [1] if")
    assert defined("i > 0") == text.index("i in [1] if")
    assert defined("t.boxes") == text.index("t) {")
    assert defined("x = x") == text.index("x: feature")
    # A field of a record, by a parameter's type and by an override's path.
    place = navigation.definition(session, tmp_path / "blocks.det", BLOCKS.index("base - 1"))
    assert place is not None and place.start == BLOCKS.index("base: int")
    place = navigation.definition(session, tmp_path / "mine.det", MINE.index("base = 6"))
    assert place == navigation.Place(tmp_path / "blocks.det", BLOCKS.index("base: int"), BLOCKS.index("base: int") + 4)


def test_hover_in_a_detector_with_mistakes_shows_what_is_known(session: Session, tmp_path: Path) -> None:
    broken = BLOCKS.replace("freeze first", "z = y + x")
    session.project.open(tmp_path / "blocks.det", broken)
    found = hover.hover(session, tmp_path / "blocks.det", broken.index("more"))
    assert found is not None
    assert "16 channels, stride 1" in found.text
    assert "`body.more.0`, `body.more.1`" in found.text


def test_hover_says_what_is_frozen(session: Session, tmp_path: Path) -> None:
    found = hover.hover(session, tmp_path / "mine.det", MINE.index("Twice(16)"))
    assert found is not None
    # 3 x 3 x 3 x 16 + 16, frozen, and twice 3 x 3 x 16 x 16 + 16.
    assert "5,088 parameters, 4,640 of them trained" in found.text


@pytest.mark.parametrize(
    ("before", "offered", "not_offered"),
    [
        ("detector d : ", {"Only", "SingleStage"}, {"Twice", "small"}),
        ("detector d = ", {"small", "large"}, {"Only"}),
        ("detector d : Only { ", {"body", "data", "classes", "reported"}, {"image"}),
        ("detector d : Only { body = Twice(8)  ", {"data"}, {"body"}),
        ("detector d : Only { body = ", {"Twice", "ConvModule"}, {"data"}),
        ("detector d = small with { body.sizes.", {"base"}, {"double", "body"}),
        ("let s = Sizes(", {"base"}, set()),
        ("let s = Twice(channels = 1, ", {"sizes", "x"}, {"channels"}),
        ("block B(n: ", {"int", "levels", "Sizes"}, {"Twice"}),
        ("block B(s: Sizes)(x: feature) -> feature { y = s.", {"base", "double"}, {"channels"}),
        ("block B(p: pyramid) -> feature { y = p.", {"levels", "first"}, {"channels"}),
        ("block B(n: int)(x: feature) -> feature { return ", {"n", "x", "Twice", "relu", "min"}, {"small"}),
        ("default ", {"small", "large"}, {"Twice"}),
        ("import ", {"ResNet", "FPN"}, {"small"}),
        ("# a comment ", set(), {"Twice"}),
        ('let s = "', set(), {"Twice"}),
        ("", {"detector", "import", "block"}, {"freeze"}),
    ],
)
def test_completion_is_told_from_tokens(
    session: Session, tmp_path: Path, before: str, offered: set[str], not_offered: set[str]
) -> None:
    path = tmp_path / "mine.det"
    for rest in ("", "\nlet after = 1\n"):
        session.project.open(path, MINE + before + rest)
        found = {item.label for item in complete(session, path, len(MINE + before))}
        assert offered <= found
        assert not not_offered & found


def test_a_completion_replaces_the_word_that_is_there(session: Session, tmp_path: Path) -> None:
    text = MINE + "detector d : Only { body = Twi"
    session.project.open(tmp_path / "mine.det", text)
    [item] = [i for i in complete(session, tmp_path / "mine.det", len(text)) if i.label == "Twice"]
    assert (text[item.start : item.end], item.insert) == ("Twi", "Twice")


def test_renaming_keeps_the_meaning(session: Session, tmp_path: Path) -> None:
    def renamed(name: str, needle: str, new: str) -> dict[str, str]:
        text = session.project.text(tmp_path / name)
        changes = edits.rename(session, tmp_path / name, text.index(needle), new)
        return {path.name: edits.applied(session.project.text(path), found) for path, found in changes.items()}

    texts = renamed("blocks.det", "base: int", "side")
    assert "double = side * 2" in texts["blocks.det"]
    assert "sizes.side - 1" in texts["blocks.det"]
    assert "body.sizes.side = 6" in texts["mine.det"]
    assert renamed("blocks.det", "y = x", "out")["blocks.det"].count("out") == 4
    assert renamed("mine.det", "small :", "tiny") == {"mine.det": MINE.replace("small", "tiny")}
    with pytest.raises(edits.Refused, match="means something else"):
        renamed("blocks.det", "i in", "y")


def test_the_library_is_never_renamed(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "mine.det"
    session.project.open(path, 'import ConvModule from "lib/blocks.det"\nlet c = ConvModule(8)\n')
    with pytest.raises(edits.Refused, match="detc's own library"):
        edits.rename(session, path, 8, "Other")
    installed = tmp_path / ".venv/lib/site-packages/x.det"
    assert not session.project.editable(installed)
    assert not session.project.editable(tmp_path.parent / "x.det")
    assert session.project.editable(tmp_path / "sub/x.det")


def test_colours_do_not_overlap_and_end_in_their_line(session: Session, tmp_path: Path) -> None:
    for path in (tmp_path / "mine.det", SPECS / "lib/ops.det", SPECS / "fpg.det"):
        text = session.project.text(path)
        found = highlight(session, path)
        assert all(a.end <= b.start for a, b in pairwise(found))
        assert not any("\n" in text[k.start : k.end] for k in found)
    told = {text[k.start : k.end]: k.kind for k in highlight(session, tmp_path / "blocks.det") for text in [BLOCKS]}
    assert (told["record"], told["freeze"], told["Sizes"]) == ("keyword", "keyword", "type")
    assert (told["Conv2d"], told["first"], told["sizes"], told["y"]) == (
        "function",
        "property",
        "parameter",
        "variable",
    )
