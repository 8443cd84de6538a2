"""Literate cases: Markdown whose code blocks are executed.

A block ```det is a file. A comment `# error: [slug]` or `# warning: [slug]` at the end of a line expects that
diagnostic with its culprit on that line; a block without any must compile without one. `det path=lib.det` writes the
block as a file that later blocks of the same section can import. A block ```types after it lists nodes and the types
that they must have, ```weights lists exactly the weights with their shapes, ```divisor the size divisor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from detc.compiler.check import check_paths
from detc.compiler.elaborate import elaborate
from detc.compiler.modules import Loader, choose
from detc.dsl.diagnostics import Diagnostic

_FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPECTED = re.compile(r"#.*?\b(error|warning): \[([a-z0-9-]+)\]")


@dataclass
class Case:
    name: str
    text: str
    files: dict[str, str]
    expected: dict[str, list[str]] = field(default_factory=dict)


def cases(path: Path) -> list[Case]:
    """The cases of one Markdown file, named by their section and line."""
    markdown = path.read_text(encoding="utf-8")
    found: list[Case] = []
    section, files = "", {}
    for match in _FENCE.finditer(markdown):
        headings = re.findall(r"^#+ (.*)$", _outside_fences(markdown[: match.start()]), re.MULTILINE)
        if headings and headings[-1] != section:
            section, files = headings[-1], {}
        language, options, text = match.groups()
        line = markdown[: match.start()].count("\n") + 1
        if language == "det" and "example" in options:
            continue  # a diagnostic's, which test_catalogue.py runs
        if language == "det" and "path=" in options:
            files = {**files, options.split("path=")[1].strip(): text}
        elif language == "det":
            found.append(Case(f"{path.stem}:{line} {section}", text, files))
        elif language in ("types", "weights", "divisor"):
            found[-1].expected[language] = text.strip().splitlines()
    return found


def _outside_fences(markdown: str) -> str:
    return _FENCE.sub("", markdown)


def _place(diagnostic: Diagnostic) -> tuple[str, int]:
    """File and line of the culprit."""
    if not diagnostic.labels:
        return "", 0
    span = diagnostic.labels[0].span
    return Path(span.source.name).name, span.line


def run(case: Case, folder: Path) -> None:
    """Check a case; raises AssertionError where it does not hold."""
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    spec = folder / "case.det"
    spec.write_text(case.text, encoding="utf-8")
    wanted = {
        (name, number, severity, slug)
        for name, text in {**case.files, "case.det": case.text}.items()
        for number, line in enumerate(text.splitlines(), 1)
        for severity, slug in _EXPECTED.findall(line)
    }
    diagnostics = check_paths([spec]).diagnostics
    seen = {(*_place(d), d.severity, d.kind.slug) for d in diagnostics}
    assert seen == wanted, "\n".join(f"{d.kind.slug}: {d.summary} at {d.labels[:1]}" for d in diagnostics)
    if case.expected:
        module = Loader().load(spec)
        graph = elaborate(module, choose(module, None)).graph
        types = {node.name: str(node.type) for node in graph.nodes}
        for line in case.expected.get("types", []):
            name, _, kind = line.partition(": ")
            assert types.get(name) == kind, f"{name} is {types.get(name)}"
        if "weights" in case.expected:
            weights = [f"{w.key}: {list(w.shape)}" for w in graph.weights.values()]
            assert weights == case.expected["weights"]
        if "divisor" in case.expected:
            assert graph.size_divisor == int(case.expected["divisor"][0])
