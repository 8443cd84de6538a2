"""Colours for specs: the Pygments lexer, and the grammars of editors, which say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String

from detc.compiler.modules import specs_folder
from detc.dsl.highlight import CONTEXTUAL, INNER, RESERVED, TYPES, DetLexer

ROOT = Path(__file__).parents[1]
VSCODE = ROOT / "editors/vscode"
SPECS = sorted(specs_folder().rglob("*.det"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    block
    for path in DOCUMENTS
    for block in re.findall(r"^```det\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
]
TEXTS = [*(path.read_text() for path in SPECS), *BLOCKS]
SAMPLE = """\
## Doubles, as in "the paper".
block Double(neck: neck? = none, train: [int] = [1])(x: feature) -> pyramid {  # twice
    train = `layer{i + 1}`[0].conv: Conv2d(1e-4, 0.5, 3)
    if not train { freeze [0], a }
    train(truth) { loss loss = init + weight }
    tie a to b
}
detector d = e with { reported { box_ap = 1 } }
"""


def test_the_words_are_those_of_the_grammar() -> None:
    words = [word for regex in CONTEXTUAL for word in re.match(r"(?:\(\?:)?([a-z|]+)", regex)[1].split("|")]
    assert {"block", "model", "op", "detector", "import", "reported", "train", "loss", "weight", "buffer"} < set(words)
    assert len(words) == len(set(words)) == 26
    language = (ROOT / "docs/language.md").read_text()
    assert set(re.search(r"`([a-z ]+)` are reserved", language.replace("\n", " "))[1].split()) == RESERVED


@pytest.mark.parametrize(
    "text", TEXTS, ids=[*(path.name for path in SPECS), *(f"block-{i}" for i in range(len(BLOCKS)))]
)
def test_the_lexer_knows_every_character(text: str) -> None:
    tokens = list(DetLexer(stripnl=False, ensurenl=False).get_tokens(text))
    assert "".join(value for _, value in tokens) == text
    assert [value for kind, value in tokens if kind in Error] == []


def test_the_lexer_tells_keywords_from_names() -> None:
    tokens = [(kind, value) for kind, value in DetLexer().get_tokens(SAMPLE) if not value.isspace()]
    assert tokens[0] == (String.Doc, '## Doubles, as in "the paper".')
    assert tokens[1:3] == [(Keyword.Declaration, "block"), (Name.Class, "Double")]
    assert [kind for kind, value in tokens if value == "neck"] == [Name, Keyword.Type]
    assert [kind for kind, value in tokens if value == "train"] == [Name, Name, Name, Keyword]
    assert [kind for kind, value in tokens if value == "loss"] == [Keyword, Name]
    assert [kind for kind, value in tokens if value in ("init", "weight")] == [Name, Name]
    assert [kind for kind, value in tokens if value in ("1e-4", "0.5", "3")] == [
        Number.Float,
        Number.Float,
        Number.Integer,
    ]
    for expected in [
        (Comment.Single, "# twice"),
        (String.Interpol, "{i + 1}"),
        (Operator.Word, "not"),
        (Keyword, "freeze"),
        (Keyword, "tie"),
        (Keyword, "to"),
        (Keyword, "with"),
        (Keyword, "reported"),
        (Keyword.Constant, "none"),
        (Keyword.Type, "pyramid"),
        (Name.Function, "Conv2d"),
        (Keyword.Declaration, "detector"),
    ]:
        assert expected in tokens


def test_the_lexer_is_found_by_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pygments.lexers"] == {"det": "detc.dsl.highlight:DetLexer"}
    assert (DetLexer.aliases, DetLexer.filenames) == (["det"], ["*.det"])


# ---- VS Code --------------------------------------------------------------------------------------------------------


def rules(node: object) -> Iterator[dict[str, object]]:
    if isinstance(node, dict):
        if "match" in node or "begin" in node:
            yield node
        for child in node.values():
            yield from rules(child)
    elif isinstance(node, list):
        for child in node:
            yield from rules(child)


@pytest.fixture(scope="module")
def grammar() -> dict[str, object]:
    return json.loads((VSCODE / "syntaxes/det.tmLanguage.json").read_text())


def test_the_textmate_grammar_has_the_words_of_the_language(grammar: dict[str, object]) -> None:
    matches = [str(rule["match"]) for rule in rules(grammar) if "match" in rule]
    for regex in (*CONTEXTUAL, *INNER):
        assert rf"\b{regex}" in matches or any(m.startswith(rf"\b({regex})\s+(") for m in matches), regex
    plain = [set(m[5:-3].split("|")) for m in matches if re.fullmatch(r"\\b\(\?:[a-z|]+\)\\b", m)]
    assert set().union(*plain) == RESERVED and sum(map(len, plain)) == len(RESERVED)
    assert any("|".join(TYPES) in m for m in matches)


def test_the_textmate_grammar_colours_every_line(grammar: dict[str, object]) -> None:
    """Its regular expressions are of the subset that Python and Oniguruma share. They match line by line."""
    repository = grammar["repository"]
    assert isinstance(repository, dict)
    order = [name["include"][1:] for name in grammar["patterns"]]  # type: ignore[index]
    compiled = [
        re.compile(str(rule.get("match") or rf"{rule['begin']}[^\"`]*(?:{rule['end']})"))
        for name in order
        for rule in repository[name]["patterns"]
    ]
    for line in {line for text in TEXTS for line in text.splitlines()}:
        place = 0
        while place < len(line):
            found = [m for m in (regex.match(line, place) for regex in compiled) if m and m.end() > place]
            assert found or line[place].isspace() or line[place] == "\\", (line, place)
            place = found[0].end() if found else place + 1


def test_the_files_of_the_extension_are_there() -> None:
    package = json.loads((VSCODE / "package.json").read_text())
    contributes = package["contributes"]
    paths = [contributes["languages"][0]["configuration"], contributes["grammars"][0]["path"]]
    assert all((VSCODE / path).is_file() for path in paths)
    configuration = json.loads((VSCODE / paths[0]).read_text())
    assert configuration["comments"] == {"lineComment": "#"}
    rule = configuration["indentationRules"]
    increase, decrease = re.compile(rule["increaseIndentPattern"]), re.compile(rule["decreaseIndentPattern"])
    for line in ["detector d : Model {", "    data = Data(  # open", "let a = [", "    } else {"]:
        assert increase.search(line), line
    assert not increase.search("block Same(x: feature) -> feature { return x }")
    assert decrease.search("    } else {") and not decrease.search("    x = 1")


# ---- VS Code's own libraries ----------------------------------------------------------------------------------------


def node(script: str, *arguments: object) -> Any:
    """What a script of tests/support prints, which needs the extension's packages."""
    paths = [str(VSCODE / "node_modules"), *filter(None, [os.environ.get("NODE_PATH")])]
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(paths)}
    there = "['vscode-textmate', 'vscode-oniguruma', 'vscode-languageserver-protocol'].forEach(require.resolve)"
    if (
        shutil.which("node") is None
        or subprocess.run(["node", "-e", there], env=environment, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs node, and `npm install` in editors/vscode (or NODE_PATH with its packages)")
    command = ["node", str(ROOT / "tests/support" / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vs_code_colours_all_specs_as_the_documentation_does() -> None:
    found = node("tokenize.js", VSCODE / "syntaxes/det.tmLanguage.json", *SPECS)
    kinds = {"comment": Comment, "string": String, "constant.numeric": Number}
    for spec in SPECS:
        text = spec.read_text()
        starts = [0, *(m.end() for m in re.finditer("\n", text))]
        scopes = {
            starts[line] + place: scope
            for line, tokens in enumerate(found[str(spec)])
            for start, end, scope in tokens
            for place in range(start, end)
        }
        for start, token, word in DetLexer().get_tokens_unprocessed(text):
            kind = Comment if token is String.Doc else token
            scope = scopes.get(start, "")
            if not word.strip() or scope.startswith(("meta.embedded", "constant.character")):
                continue
            for name, of_pygments in kinds.items():
                if kind not in String.Interpol:
                    assert scope.startswith(name) == (kind in of_pygments), (spec.name, word, kind, scope)
            of_words = (kind in Keyword and kind not in Keyword.Type) or kind in Operator.Word
            if re.fullmatch(r"[a-z]+", word) and not scope.startswith("string"):
                coloured = scope.startswith(("keyword", "storage", "constant.language"))
                assert coloured == of_words, (spec.name, text.count("\n", 0, start) + 1, word, kind, scope)


def test_vs_codes_library_understands_the_server(tmp_path: Path) -> None:
    (tmp_path / "mine.det").write_text("let a = 1\n")
    told = node("session.js", tmp_path, sys.executable, "-m", "detc", "lsp")
    assert told == {"status": 0, "hover": True, "before": [], "after": [["E0101", 0]], "names": ["a"]}


# ---- Vim ------------------------------------------------------------------------------------------------------------


def test_the_vim_syntax_has_the_words_of_the_language() -> None:
    text = (ROOT / "editors/vim/syntax/det.vim").read_text()
    known = set(re.findall(r"[a-z]+", " ".join(re.findall(r"/\\v.*/", text))))
    words = {word for regex in CONTEXTUAL for word in re.match(r"(?:\(\?:)?([a-z|]+)", regex)[1].split("|")}
    assert words | RESERVED | set(TYPES) | {"from", "of", "to"} <= known


@pytest.mark.skipif(shutil.which("vim") is None, reason="there is no vim")
def test_vim_tells_keywords_from_names(tmp_path: Path) -> None:
    (tmp_path / "sample.det").write_text(SAMPLE)
    places = {(1, 1): "detDocumentation", (2, 1): "detDeclaration", (2, 14): "detName", (2, 20): "detType"}
    places |= {
        (3, 5): "detName",
        (5, 5): "detStatement",
        (5, 20): "detStatement",
        (5, 25): "detName",
        (6, 11): "detStatement",
    }
    asked = [f"call add(g:found, synIDattr(synID({line}, {column}, 1), 'name'))" for line, column in places]
    script = ["set nocompatible", f"set runtimepath^={ROOT}/editors/vim", "filetype plugin indent on", "syntax on"]
    script += [f"edit {tmp_path}/sample.det", "let g:found = [&filetype]", *asked]
    script += [
        "normal! gg=G",
        "call add(g:found, string(getline(4)))",
        f"call writefile(g:found, '{tmp_path}/found')",
        "qa!",
    ]
    (tmp_path / "script.vim").write_text("\n".join(script))
    subprocess.run(
        ["vim", "-Nes", "-u", str(tmp_path / "script.vim")], timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    found = (tmp_path / "found").read_text().splitlines()
    assert found == ["det", *places.values(), "'    if not train { freeze [0], a }'"]
