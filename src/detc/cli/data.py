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
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from detc.runtime.data.check import Finding, PartReport

data = typer.Typer(help="Look at data before a detector does.", no_args_is_help=True, rich_markup_mode=None)

SPEC = "The spec, SPEC or SPEC:NAME; or data without one: a folder or file in a form of docs/data.md, as downloaded."
MOST_CLASSES = 100


@data.command("check")
def check(
    spec: Annotated[str, typer.Argument(help=SPEC, metavar="SPEC|PATH", autocompletion=detectors)],
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
    from detc.dsl.diagnostics import DiagnosticError
    from detc.dsl.render import to_json
    from detc.runtime.data.check import look_at_path, look_at_spec, report

    is_spec = split_spec(spec)[0].suffix == ".det"
    if not is_spec:
        _no_data_root(data)
    try:
        with _progress(form == "text") as watch:
            if is_spec:
                looks = look_at_spec(*_settings(spec), data, split, decode, watch)
            else:
                looks = look_at_path(Path(spec), split, decode, watch)
            found = report(looks)
    except DiagnosticError as error:  # nothing could be looked at
        if form == "text":
            raise
        wrong = [to_json(diagnostic) for diagnostic in error]
        typer.echo(json.dumps({"failed": True, "diagnostics": wrong, "parts": []}, indent=1))
        raise typer.Exit(1) from None
    if form == "json":
        parts = [part.as_json() for part in found.parts]
        typer.echo(json.dumps({"failed": found.failed, "diagnostics": [], "parts": parts}, indent=1))
    else:
        for part in found.parts:
            _print(part)
    if found.failed:
        raise typer.Exit(1)


@data.command("view")
def view(
    spec: Annotated[str, typer.Argument(help=SPEC, metavar="SPEC|PATH", autocompletion=detectors)],
    data: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the spec's.")] = None,
    output: Annotated[Path, typer.Option(help="The page.")] = Path("data.html"),
    count: Annotated[int, typer.Option(min=1, help="At most so many images, evenly spread.")] = 100,
    split: Annotated[str | None, typer.Option(help="train, val or test; training's, if not given.")] = None,
    augmented: Annotated[bool, typer.Option("--augmented", help="Images as training gets them.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of --augmented: the seed of the run.")] = 0,
    epoch: Annotated[int, typer.Option(min=1, help="Of --augmented: the epoch of the run, from 1.")] = 1,
) -> None:
    """Write a page to look at images with their boxes and masks: one file, with a filter by class and file.

    Example: detc data view mine.det --data pets --augmented --output pets.html
    """
    if split is not None:
        choice("--split", split, ("train", "val", "test"))
    path, _ = split_spec(spec)
    is_spec = path.suffix == ".det"
    if augmented and (not is_spec or split not in (None, "train")):
        raise typer.BadParameter("--augmented shows the training images of a spec")
    from detc.dsl.catalogue.data import NO_OBJECTS
    from detc.dsl.diagnostics import DiagnosticError
    from detc.runtime.data import view as page
    from detc.runtime.data.check import look_at_parts, look_at_spec
    from detc.runtime.data.recognise import recognise

    with _progress(True) as watch:
        if is_spec:
            detector, settings = _settings(spec)
            (look,) = look_at_spec(detector, settings, data, split or "train", False, watch)
        else:
            _no_data_root(data)
            parts = sorted(recognise(Path(spec), split), key=lambda part: part.evaluated)
            (look,) = look_at_parts(parts[:1], False, watch)
        if not look.dataset.images:
            nothing = NO_OBJECTS.at(None, f"{look.name}: no image can be used")
            raise DiagnosticError([nothing, *look.findings.errors, *look.findings.diagnostics()])
        if augmented:
            from detc.runtime.data.loading import trained_images
            from detc.runtime.training.schedule import schedule_settings

            schedule = schedule_settings(detector.schedule) if detector.schedule is not None else None
            length = schedule.epoch_images if schedule else None
            epochs = schedule.epochs if schedule else epoch + settings.last_epochs
            images = trained_images(look.dataset, settings)
            if not images:
                raise DiagnosticError(NO_OBJECTS.at(None, "no training image has an object that covers a pixel"))
            drawn = page.draws(images, settings, seed, length, epoch - 1, count)
            number, pictures = len(drawn), page.as_trained(images, settings, seed, epochs, drawn)
        else:
            chosen = page.annotated(look.dataset, count)
            number, pictures = len(chosen), page.as_annotated(chosen)
        title = f"{spec}: {look.name}" + (f", as in epoch {epoch} with seed {seed}" if augmented else "")
        page.write_page(output, title, look.dataset.classes, watch("drawing")(pictures, number))
    typer.echo(f"{number} of {len(look.dataset.images)} images of {look.name} are in {output}")
    if look.findings.errors or look.findings.found:
        typer.echo(f"something is wrong with the data; detc data check {spec} says what", err=True)


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
    crowds = f" and {part.ignored} that are ignored (crowds, difficult or invalid ones)" if part.ignored else ""
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
    from detc.runtime.data.raw import shown

    return shown(text)
