"""detc doctor"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from detc.cli.common import choice, colour

MARKS = {"fine": "ok", "absent": "--", "wrong": "!!"}
COLOURS = {"fine": typer.colors.GREEN, "absent": typer.colors.YELLOW, "wrong": typer.colors.RED}


def doctor(
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Compile and run a tiny detector on every target.")
    ] = True,
) -> None:
    """Look at what detc needs and finds here: packages, devices, compilers; and what installs what is missing.

    Exits with 1 where something is missing that detc cannot do without.

    Example: detc doctor --format json
    """
    choice("--format", form, ("text", "json"))
    from detc.runtime.doctor import examine

    found = []
    section = ""
    for finding in examine(self_test):
        found.append(finding)
        if form == "json":
            continue
        if finding.section != section:
            typer.echo(("\n" if section else "") + finding.section)
            section = finding.section
        mark = MARKS[finding.state]
        if colour(sys.stdout):
            mark = typer.style(mark, fg=COLOURS[finding.state])
        typer.echo(f"  {mark} {finding.name:<22} {finding.text}")
        if finding.remedy:
            typer.echo(f"     {'':<22} {finding.remedy}")
    wrong = sum(finding.state == "wrong" for finding in found)
    if form == "json":
        typer.echo(json.dumps({"fine": not wrong, "findings": [finding.as_json() for finding in found]}, indent=1))
    else:
        typer.echo(f"\n{wrong} things are wrong" if wrong else "\neverything that detc needs is here")
    if wrong:
        raise typer.Exit(1)
