"""detc fmt"""

from __future__ import annotations

import difflib
import gc
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from detc.cli.completion import spec_files


def fmt(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Specs, folders of specs, or pages of Markdown; - is the standard input.", autocompletion=spec_files
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="As --check, and print what would change.")] = False,
) -> int:
    """Lay specs out in the canonical way (docs/language.md). A file with a syntax error is left as it is.

    Of pages of Markdown (*.md) it is the fenced blocks of det that are laid out, each by itself.

    Example: detc fmt specs/ --check
    """
    from detc.cli.common import report
    from detc.compiler.modules import decode, read_bytes, shown_path, spec_files
    from detc.dsl.diagnostics import DiagnosticError
    from detc.dsl.format import format_source
    from detc.dsl.markdown import format_blocks
    from detc.dsl.render import several
    from detc.dsl.source import Source
    from detc.runtime.files import write_text

    # As for detc check: short, and without cycles worth collecting.
    gc.disable()
    stdin = Path("-")
    files, diagnostics = spec_files([path for path in paths if path != stdin])
    files += [stdin] * (stdin in paths)
    changed = 0
    for file in files:
        name = "<stdin>" if file == stdin else shown_path(file)
        try:
            data = sys.stdin.buffer.read() if file == stdin else read_bytes(file)
            text = decode(data, name)
            if file.suffix == ".md":
                formatted, wrong = format_blocks(Source(name, text))
                diagnostics += wrong
            else:
                formatted = format_source(Source(name, text))
        except DiagnosticError as error:
            diagnostics += error.diagnostics
            continue
        same = formatted.encode() == data
        changed += not same
        if diff:
            sys.stdout.write(_difference(name, data.decode(), formatted))
        elif check:
            if not same:
                print(f"{name} would change", file=sys.stderr)
        elif file == stdin:
            sys.stdout.write(formatted)
        elif not same:
            try:
                # A link stays one.
                write_text(file.resolve(), formatted)
            except DiagnosticError as error:
                diagnostics += error.diagnostics
    report(diagnostics)
    if files != [stdin]:
        would = "would change" if check or diff else "changed"
        print(f"{several(len(files), 'file')}, {changed} {would}", file=sys.stderr)
    return 1 if diagnostics or ((check or diff) and changed) else 0


def _difference(name: str, before: str, after: str) -> str:
    """A unified diff, in which a line ends at a line feed alone."""
    lines = [re.findall(r"[^\n]*\n|[^\n]+", text) for text in (before, after)]
    changes = difflib.unified_diff(*lines, name, f"{name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in changes)
