"""detc diff"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import choice, split_spec
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.compiler.diff import Change, Difference


def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="The first spec, SPEC or SPEC:NAME.", autocompletion=detectors)
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The second spec, SPEC or SPEC:NAME.", autocompletion=detectors)
    ],
    output_format: Annotated[
        str, typer.Option("--format", help="text, json, or markdown for a pull request; the last two list all keys.")
    ] = "text",
    output: Annotated[
        Path | None, typer.Option(help="Draw what differs too, as FILE.svg or, with the keys, as FILE.html.")
    ] = None,
    breaking: Annotated[
        bool, typer.Option("--breaking", help="Exit with 1 only where a checkpoint of A would not load into B.")
    ] = False,
) -> int:
    """Compare two detectors: settings, components, weights and wiring. The exit status is 1 where they differ.

    Example: detc diff specs/retinanet.det:retinanet_r50_fpn_1x mine.det
    """
    choice("--format", output_format, ("text", "json", "markdown"))
    if output is not None:
        choice("the ending of --output", output.suffix, (".svg", ".html"))
    import detc
    from detc.compiler.diff import differences

    a, b = (detc.load(*split_spec(spec)) for spec in (first, second))
    found = differences(a.elaborated, b.elaborated)
    if output is not None:
        from detc.compiler.draw import diff_to_html, diff_to_svg
        from detc.runtime.files import write_text

        drawn = diff_to_svg(a.graph, b.graph)
        if output.suffix == ".html":
            drawn = diff_to_html(a.graph, b.graph, found, _plain(found))
        write_text(output, drawn)
    if output_format == "json":
        typer.echo(json.dumps({"same": not found.changes, "loads": found.loads, **asdict(found)}, indent=2))
    elif output_format == "markdown":
        typer.echo(_markdown(found, a.name, b.name))
    else:
        _print(found, a.name, b.name)
    return 1 if (not found.loads if breaking else found.changes) else 0


# As many changed weights of a component are listed; of more, only how many there are below each label.
_WEIGHTS = 6

# As many keys are listed in Markdown: a pull request takes no more than 65536 characters.
_KEYS = 200


def _print(found: Difference, first: str, second: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    if not found.changes:
        console.print(f"{first} and {second} are the same")
        return
    console.print(f"{first} \u2192 {second}", style="bold")
    for component, changes in _grouped(found).items():
        console.print(f"\n{component}", style="bold")
        for sign, text in _lines(changes):
            console.print(Text(f"  {sign} ", {"+": "green", "-": "red"}.get(sign, "yellow")), text, sep="")
    if found.loads:
        console.print("\na checkpoint of the first loads into the second")
    else:
        counts = f"{len(found.missing)} keys missing, {len(found.extra)} extra, {len(found.reshaped)} reshaped"
        console.print(f"\na checkpoint of the first does not load into the second: {counts}")


def _markdown(found: Difference, first: str, second: str) -> str:
    """What one pastes into a pull request: whether it breaks, what changes, and, folded, which keys do not load."""
    from detc.compiler.draw.difference import key_lists, loading

    if not found.changes:
        return f"`{first}` and `{second}` are the same."
    verdict = loading(found, f"`{first}`", f"`{second}`")
    parts = [f"### `{first}` \u2192 `{second}`", f"{'' if found.loads else '**'}{verdict}{'' if found.loads else '**'}"]
    parts.append(_fenced("\n".join(_plain(found)), "diff"))
    for what, keys in key_lists(found).items():
        if keys:
            more = [f"and {len(keys) - _KEYS} more"] if len(keys) > _KEYS else []
            listed = _fenced("\n".join([*keys[:_KEYS], *more]))
            parts.append(f"<details><summary>{len(keys)} {what}</summary>\n\n{listed}\n\n</details>")
    return "\n\n".join(parts)


def _fenced(text: str, language: str = "") -> str:
    """A block of code in Markdown, whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _plain(found: Difference) -> Iterator[str]:
    """The changes by component, with a sign before each that Markdown's diffs colour."""
    for component, changes in _grouped(found).items():
        yield f"  {component}"
        for sign, text in _lines(changes):
            yield f"{'!' if sign == '~' else sign} {text}"


def _grouped(found: Difference) -> dict[str, list[Change]]:
    grouped: dict[str, list[Change]] = {}
    for change in found.changes:
        grouped.setdefault(change.component or "around the components", []).append(change)
    return grouped


def _lines(changes: list[Change]) -> Iterator[tuple[str, str]]:
    """A sign and a text for each change, with many weights taken together."""
    listed = [change for change in changes if change.what == "weight" and not change.inside]
    for change in changes:
        if change not in listed or len(listed) <= _WEIGHTS:
            many = f"  \u00d7 {change.count}" if change.count > 1 else ""
            values = " \u2192 ".join(_short(value) for value in (change.before, change.after) if value is not None)
            yield _sign(change), f"{change.what} {change.path}: {values}{many}"
    if len(listed) > _WEIGHTS:
        counts: dict[str, Counter[str]] = {}
        for change in listed:
            counts.setdefault(".".join(change.path.split(".")[:2]), Counter())[_sign(change)] += change.count
        for path, signs in counts.items():
            for sign, verb in (("-", "gone"), ("+", "new"), ("~", "changed")):
                if signs[sign]:
                    yield sign, f"weight {path}: {signs[sign]} {verb}"


def _short(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:88]} ..."


def _sign(change: Change) -> str:
    return "+" if change.before is None else "-" if change.after is None else "~"
