"""detc diff"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
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
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> int:
    """Compare two detectors: settings, components, weights and wiring. The exit status is 1 where they differ.

    Example: detc diff specs/retinanet.det:retinanet_r50_fpn_1x mine.det
    """
    choice("--format", output_format, ("text", "json"))
    import detc
    from detc.compiler.diff import differences

    a, b = (detc.load(*split_spec(spec)) for spec in (first, second))
    found = differences(a.elaborated, b.elaborated)
    if output_format == "json":
        typer.echo(json.dumps({"same": not found.changes, "loads": found.loads, **asdict(found)}, indent=2))
    else:
        _print(found, a.name, b.name)
    return 1 if found.changes else 0


# As many changed weights of a component are listed; of more, only how many there are below each label.
_WEIGHTS = 6


def _print(found: Difference, first: str, second: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    if not found.changes:
        console.print(f"{first} and {second} are the same")
        return
    console.print(f"{first} \u2192 {second}", style="bold")
    grouped: dict[str, list[Change]] = {}
    for change in found.changes:
        grouped.setdefault(change.component, []).append(change)
    for component, changes in grouped.items():
        console.print(f"\n{component or 'around the components'}", style="bold")
        for sign, text in _lines(changes):
            console.print(Text(f"  {sign} ", {"+": "green", "-": "red"}.get(sign, "yellow")), text, sep="")
    if found.loads:
        console.print("\na checkpoint of the first loads into the second")
    else:
        counts = f"{len(found.missing)} keys missing, {len(found.extra)} extra, {len(found.reshaped)} reshaped"
        console.print(f"\na checkpoint of the first does not load into the second: {counts}")


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
