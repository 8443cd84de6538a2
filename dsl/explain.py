"""Explanations of diagnostics: for a terminal, and as the page of the documentation."""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections.abc import Iterable

from detc.dsl.diagnostics import KINDS, Example, Kind

# The first two digits of a code, and what its kinds are about.
FAMILIES = {
    "E01": "The text of a spec",
    "E02": "Names, imports, parameters and overrides",
    "E03": "Types",
    "E05": "Weights and kernels",
    "E06": "Data",
    "E07": "Training, evaluating and predicting",
    "E08": "Export",
}


def all_kinds() -> list[Kind]:
    """Every kind of diagnostic, by code; loads the whole catalogue."""
    from detc.dsl import catalogue

    for module in pkgutil.iter_modules(catalogue.__path__):
        importlib.import_module(f"{catalogue.__name__}.{module.name}")
    return sorted(KINDS.values(), key=lambda kind: kind.code)


def to_terminal(kind: Kind) -> str:
    """What `detc explain CODE` prints."""
    return "\n\n".join(
        (
            f"{kind.code} [{kind.slug}], {kind.severity}: {kind.summary}",
            kind.explanation.strip(),
            _shown(kind.wrong, "Wrong"),
            _shown(kind.right, "Right"),
        )
    )


def _shown(example: Example, title: str) -> str:
    text = example.text.strip("\n")
    note = f" ({example.note})" if example.note else ""
    return f"{title}{note}:\n\n" + textwrap.indent(text, "    ")


def to_page(kinds: Iterable[Kind]) -> str:
    """The page of all kinds, as Markdown. The anchor of a kind is its code in small letters."""
    parts = [
        """# Diagnostics

<!-- Written by docs/generate.py from dsl/catalogue. -->

Every error and warning of detc has a code and a slug that do not change. `detc explain CODE` prints what stands here,
and `detc check --format json` gives `code`, `slug` and `page` for tools: the anchor of a diagnostic on this page is
its code in small letters, `errors.md#e0303`. With `--format github` GitHub shows each beside its line in a pull
request.

Examples of the language leave out the imports of what comes with detc, and the detector around a component called
`Example`. Examples in JSON are the part of an annotation file that matters. The tests run the
examples that need no other machine and no files of other programs: what is wrong gives this diagnostic, and what is
right does not."""
    ]
    family = ""
    for kind in kinds:
        if kind.code[:3] != family:
            family = kind.code[:3]
            parts.append(f"## {family}: {FAMILIES[family]}")
        parts += [
            f'<a id="{kind.code.lower()}"></a>\n\n### {kind.code} {kind.slug}',
            f"*{kind.severity}*: {kind.summary}.",
            kind.explanation.strip(),
            _fenced(kind.wrong, "Wrong"),
            _fenced(kind.right, "Right"),
        ]
    return "\n\n".join(parts) + "\n"


def _fenced(example: Example, title: str) -> str:
    note = f", {example.note}" if example.note else ""
    text = example.text.strip("\n")
    if example.language == "text":
        return f"{title}{note}: {text}"
    # The literate tests run blocks of `det` as whole files, which these are not.
    language = "det example" if example.language == "det" else example.language
    return f"{title}{note}:\n\n```{language}\n{text}\n```"
