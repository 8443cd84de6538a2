"""Colours for specs, by Pygments: documentation tools find the lexer by its names, "det" and "*.det"."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import ClassVar

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text, Whitespace

_GRAMMAR = files("detc.dsl").joinpath("grammar.lark").read_text(encoding="utf-8")

# The words that are keywords only where what follows makes them so, as the grammar's regular expressions of them.
CONTEXTUAL = tuple(re.findall(r"^\w+\.2: /(.+)/$", _GRAMMAR, re.MULTILINE))
# Words that are keywords inside one statement, with what they stand between.
INNER = (r'from(?=\s+")', r"(?<=\]\s)of(?=\s+[A-Za-z_])", r"(?<=[\w\]`]\s)to(?=\s+[A-Za-z_`\[])")
# The words that never are names.
_QUOTED = re.findall(r'"([a-z]+)"', re.sub(r"^//.*$", "", _GRAMMAR, flags=re.MULTILINE))
RESERVED = frozenset(_QUOTED) - {"from", "of", "to"}
# The types of parameters and results that are no record's.
TYPES = (
    *("int", "float", "bool", "string", "levels", "any", "function", "record", "truth"),
    *("feature", "tensor", "pyramid", "bundle"),
    *("block", "cell", "backbone", "neck", "head", "model", "op"),
)

_DECLARATIONS = [regex for regex in CONTEXTUAL if re.match(r"\(\?:block|op|record|let|detector", regex)]
_CONSTANTS = {"true", "false", "none"}
_WORDS = {"and", "or", "not", "in"}
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class DetLexer(RegexLexer):
    """The lexer of .det files, specs of detectors."""

    name = "detc"
    aliases: ClassVar = ["det"]
    filenames: ClassVar = ["*.det"]

    tokens: ClassVar = {
        "root": [
            (r"##[^\n]*", String.Doc),
            (r"#[^\n]*", Comment.Single),
            (r"\s+", Whitespace),
            (r'"(?:[^"\\\n]|\\.)*"', String.Double),
            ("`", String.Backtick, "template"),
            *[
                (rf"\b({regex})(\s+)({_NAME})", bygroups(Keyword.Declaration, Whitespace, Name.Class))
                for regex in _DECLARATIONS
            ],
            *[(rf"\b{regex}", Keyword) for regex in (*CONTEXTUAL, *INNER)],
            (words(sorted(_CONSTANTS), r"\b", r"\b"), Keyword.Constant),
            (words(sorted(_WORDS), r"\b", r"\b"), Operator.Word),
            (words(sorted(RESERVED - _CONSTANTS - _WORDS), r"\b", r"\b"), Keyword),
            (
                rf"(:)(\s+)(\[?)({'|'.join(TYPES)})\b(?=\]?\??\s*[,)=])",
                bygroups(Punctuation, Whitespace, Punctuation, Keyword.Type),
            ),
            (rf"(->)(\s+)({'|'.join(TYPES)})\b", bygroups(Operator, Whitespace, Keyword.Type)),
            (r"\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+", Number.Float),
            (r"\d+", Number.Integer),
            (rf"{_NAME}(?=\()", Name.Function),
            (_NAME, Name),
            (r"\|>|->|\.\.<|\.\.|\*\*|//|[=!<>]=|[-+*/%&<>=?]", Operator),
            (r"[()\[\]{},:.]", Punctuation),
        ],
        "template": [
            (r"[^`{\n]+", String.Backtick),
            (r"\{[^{}`\n]*\}", String.Interpol),
            (r"\{", String.Backtick),
            (r"`", String.Backtick, "#pop"),
            (r"\n", Text, "#pop"),
        ],
    }
