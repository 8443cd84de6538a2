"""Command lines of detc: whether the program would take them."""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from detc.cli import application


@cache
def program() -> Any:
    """detc's command line with all of its commands."""
    import typer

    return typer.main.get_command(application([]))


def refused(line: str) -> str | None:
    """Why detc would not take this command line, as `detc check specs/ --format json`; None where it would."""
    words = shlex.split(line, comments=True)
    assert words[0] == "detc", line
    command, words, context = program(), words[1:], None
    try:
        while True:
            context = command.make_context(command.name, list(words), parent=context)
            rest = [*context._protected_args, *context.args]
            if not hasattr(command, "commands") or not rest:
                return None
            _, command, words = command.resolve_command(context, rest)
    except Exception as error:
        if hasattr(error, "format_message"):
            return str(error.format_message())
        if type(error).__name__ == "Exit":  # --help, --version
            return None
        raise
