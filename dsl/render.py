"""Diagnostics as text for a terminal, and as data for tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detc.dsl.diagnostics import Diagnostic, Label

_COLOURS = {"error": "\033[1;31m", "warning": "\033[1;33m", "bold": "\033[1m", "frame": "\033[1;34m", "off": "\033[0m"}
_PLAIN = dict.fromkeys(_COLOURS, "")
# Longer lines are cut around the place that is meant.
_WIDTH = 160


def to_text(diagnostic: Diagnostic, colour: bool = False) -> str:
    """The diagnostic with the lines it is about, as a compiler prints it."""
    paint = _COLOURS if colour else _PLAIN
    tone = paint[diagnostic.severity]
    head = f"{tone}{diagnostic.severity}[{diagnostic.kind.code}]{paint['off']}{paint['bold']}"
    lines = [f"{head}: {diagnostic.summary} [{diagnostic.kind.slug}]{paint['off']}"]
    width = max((len(str(label.span.line)) for label in diagnostic.labels), default=1)
    frame = f"{paint['frame']}{' ' * width} |{paint['off']}"
    for index, label in enumerate(diagnostic.labels):
        lines += _excerpt(label, width, index == 0, paint, tone if index == 0 else paint["frame"])
    if diagnostic.labels and (diagnostic.detail or diagnostic.notes):
        lines.append(frame)
    if diagnostic.detail:
        lines.append(f"{' ' * width} {paint['frame']}={paint['off']} help: {diagnostic.detail}")
    lines += [f"{' ' * width} {paint['frame']}={paint['off']} note: {note}" for note in diagnostic.notes]
    return "\n".join(lines)


def _excerpt(label: Label, width: int, first: bool, paint: dict[str, str], tone: str) -> list[str]:
    span = label.span
    line, column = span.source.position(span.start)
    text = span.source.line(line) if span.source.text else ""
    length = max(1, min(span.end, span.start + len(text) - column + 1) - span.start)
    skipped = max(0, column - _WIDTH // 2) if len(text) > _WIDTH else 0
    text = text[skipped : skipped + _WIDTH]
    length = min(length, max(1, _WIDTH - (column - 1 - skipped)))
    mark = ("^" if first else "-") * length
    frame, off = paint["frame"], paint["off"]
    # Tabs keep their width above and below.
    indent = "".join("\t" if c == "\t" else " " for c in text[: column - 1 - skipped])
    arrow = "-->" if first else ":::"
    return [
        f"{' ' * width}{frame}{arrow}{off} {span.source.name}:{line}:{column}",
        f"{' ' * width} {frame}|{off}",
        f"{frame}{line:>{width}} |{off} {text}",
        f"{' ' * width} {frame}|{off} {indent}{tone}{mark}{' ' + label.text if label.text else ''}{off}",
    ]


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """The diagnostic as plain data. Lines and columns count from 1; `end` is exclusive. `page` is where the
    documentation explains it, and `explain` the command that does."""
    code = diagnostic.kind.code
    return {
        "code": code,
        "slug": diagnostic.kind.slug,
        "page": f"docs/errors.md#{code.lower()}",
        "explain": f"detc explain {code}",
        "severity": diagnostic.severity,
        "summary": diagnostic.summary,
        "detail": diagnostic.detail,
        "notes": list(diagnostic.notes),
        "labels": [
            {
                "file": label.span.source.name,
                "line": label.span.line,
                "column": label.span.source.position(label.span.start)[1],
                "end_line": label.span.source.position(label.span.end)[0],
                "end_column": label.span.source.position(label.span.end)[1],
                "text": label.text,
            }
            for label in diagnostic.labels
        ],
    }


def to_github(diagnostic: Diagnostic) -> str:
    """The diagnostic as a workflow command, which GitHub shows beside the line that is meant, in a pull request too.

    Source: "Workflow commands for GitHub Actions", setting an error message. Columns are only of places in one line.
    """
    code = diagnostic.kind.code
    fields = {"title": f"{code} [{diagnostic.kind.slug}]"}
    lines = [diagnostic.summary]
    for index, label in enumerate(diagnostic.labels):
        span = label.span
        (line, column), (end, end_column) = span.source.position(span.start), span.source.position(span.end)
        if index == 0:
            fields |= {"file": span.source.name, "line": str(line), "endLine": str(end)}
            if line == end:
                fields |= {"col": str(column), "endColumn": str(max(column, end_column - 1))}
            lines += [label.text] if label.text else []
        else:
            lines.append(f"{span}: {label.text}" if label.text else str(span))
    lines += [f"help: {diagnostic.detail}"] if diagnostic.detail else []
    lines += [*(f"note: {note}" for note in diagnostic.notes), f"detc explain {code}"]
    told = ",".join(f"{name}={_escaped(value, property=True)}" for name, value in fields.items())
    return f"::{diagnostic.severity} {told}::{_escaped(chr(10).join(lines))}"


def _escaped(text: str, property: bool = False) -> str:
    """What would end a workflow command, or one of its properties, written as GitHub reads it."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text


def count(diagnostics: Iterable[Diagnostic]) -> str:
    """2 errors and 1 warning."""
    severities = [d.severity for d in diagnostics]
    parts = []
    for severity in ("error", "warning"):
        number = severities.count(severity)
        if number:
            parts.append(several(number, severity))
    return " and ".join(parts)


def several(number: int, what: str) -> str:
    """2 errors, or 1 error."""
    return f"{number} {what}{'' if number == 1 else 's'}"
