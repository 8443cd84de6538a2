"""detc data"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detc.cli.common import choice, split_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from detc.runtime.data.check import Finding, PartReport

data = typer.Typer(help="Look at data before a detector does.", no_args_is_help=True, rich_markup_mode=None)

SPEC = "The spec, SPEC or SPEC:NAME; or data without one: a folder or annotation file in COCO's, LVIS's or VOC's form."
MOST_CLASSES = 100


@data.command("check")
def check(
    spec: Annotated[str, typer.Argument(help=SPEC, metavar="SPEC|PATH")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; all, if not given.")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode all images; otherwise their ends are read.")] = False,
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Report what is wrong with data, and what training and evaluation do about it.

    Exits with 1 where one of them would stop. Example: detc data check mine.det --data pets --decode
    """
    choice("--format", form, ("text", "json"))
    if split is not None:
        choice("--split", split, ("train", "val", "test"))
    from detc.runtime.data.check import look_at_path, look_at_spec, report

    with _progress(form == "text") as watch:
        path, _ = split_spec(spec)
        if path.suffix == ".det":
            looks = look_at_spec(*_settings(spec), data, split, decode, watch)
        else:
            _no_data_root(data)
            looks = look_at_path(Path(spec), split, decode, watch)
        found = report(looks)
    if form == "json":
        parts = [part.as_json() for part in found.parts]
        typer.echo(json.dumps({"failed": found.failed, "parts": parts}, indent=1))
    else:
        for part in found.parts:
            _print(part)
    if found.failed:
        raise typer.Exit(1)


def _settings(spec: str) -> tuple[Any, Any]:
    import detc
    from detc.runtime.predict import data_of

    detector = detc.load(*split_spec(spec))
    return detector, data_of(detector)


def _no_data_root(data: Path | None) -> None:
    if data is not None:
        raise typer.BadParameter("--data replaces the root of a spec's data; without a spec, give the folder itself")


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str], Callable[[Iterable[Any], int], Iterable[Any]]]]:
    """Bars on the terminal, if there is one; the function gives the bar of a name."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not (shown and sys.stderr.isatty())) as bars:
        yield lambda name: lambda things, count: bars.track(things, total=count, description=name)


def _print(part: PartReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=True)
    objects = sum(count.objects for count in part.classes)
    crowds = f" and {part.ignored} crowds or difficult ones" if part.ignored else ""
    without = f", {part.empty} of them without" if part.empty else ""
    line = f": {part.images} images that can be used{without}, {objects} objects{crowds}"
    console.print(Text(part.name, style="bold") + Text(line, style="not bold"))
    if part.taken_for:
        console.print(Text(f"taken for {part.taken_for}"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("class", "images", "objects", "small", "medium", "large")
    for name in columns:
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in part.classes[:MOST_CLASSES]:
        counts = (row.images, row.objects, row.small, row.medium, row.large)
        table.add_row(Text(_shown(row.name)), *map(str, counts))
    if part.classes:
        console.print(table)
    if len(part.classes) > MOST_CLASSES:
        console.print(f"and {len(part.classes) - MOST_CLASSES} more classes, which --format json lists")
    for finding in part.findings:
        _print_finding(console, finding)
    if not part.findings:
        console.print("nothing is wrong")
    console.print()


def _print_finding(console: Console, finding: Finding) -> None:
    from rich.text import Text

    severity, kind = finding.diagnostic.severity, finding.diagnostic.kind
    head = Text(f"{severity}[{kind.code}]", style="bold red" if severity == "error" else "bold yellow")
    count = f"{finding.count} " if finding.where else ""
    then = f": {finding.then}" if finding.then else ""
    console.print(head + Text(f" {count}{finding.what}{then} [{kind.slug}]", style="not bold default"))
    if finding.where:
        console.print(Text(f"  such as {', '.join(finding.where)}"))
    elif finding.diagnostic.detail:
        console.print(Text(f"  help: {_shown(finding.diagnostic.detail)}"))
    for note in finding.diagnostic.notes:
        console.print(Text(f"  note: {_shown(note)}"))


def _shown(text: str) -> str:
    from detc.runtime.data.dataset import shown

    return shown(text)
