"""detc explain"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from detc.cli.completion import diagnostics_and_specs


def explain(
    subject: Annotated[
        str,
        typer.Argument(
            help="A diagnostic's code or slug, or a spec: SPEC or SPEC:NAME.", autocompletion=diagnostics_and_specs
        ),
    ],
    path: Annotated[
        str | None, typer.Argument(help="With a spec: the path of a value, such as backbone.depth.")
    ] = None,
) -> None:
    """Explain a diagnostic, or who set a value of a detector.

    Examples: detc explain E0303     detc explain specs/retinanet.det backbone.depth
    """
    if path is None:
        _diagnostic(subject)
    else:
        _value(subject, path)


def _diagnostic(subject: str) -> None:
    from detc.dsl.diagnostics import suggest
    from detc.dsl.explain import all_kinds, to_terminal

    kinds = all_kinds()
    known = {kind.code: kind for kind in kinds} | {kind.slug: kind for kind in kinds}
    kind = known.get(subject.upper() if re.fullmatch(r"[eE]\d+", subject) else subject)
    if kind is None:
        hint = suggest(subject, known)
        raise typer.BadParameter(
            f"{subject} is no code or slug of a diagnostic; {hint or 'to explain a value, give its path too'}"
        )
    typer.echo(to_terminal(kind))


def _value(subject: str, path: str) -> None:
    from detc.cli.common import split_spec
    from detc.compiler.modules import Loader, choose
    from detc.compiler.provenance import explain as origins

    file, name = split_spec(subject)
    module = Loader().load(file)
    name = choose(module, name)
    for index, origin in enumerate(origins(module, name, path)):
        lead = f"{name}: {path} = {origin.value}" if index == 0 else f"  before that: {origin.value}"
        how = {"set": "set at", "default": "the default, at", "derived": "derived at"}[origin.how]
        typer.echo(f"{lead}\n    {how} {origin.span}: {' '.join(origin.span.text.split())[:100]}")
