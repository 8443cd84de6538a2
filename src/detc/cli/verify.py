"""detc verify"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.runtime.verify import Check, Verification


def verify(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="PATH[:NAME]|ARTIFACT",
            help="A spec, one of its detectors, or a folder; or an exported artifact.",
            autocompletion=detectors,
        ),
    ],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE|FOLDER]...", help="More references.")] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(metavar="FILE|FOLDER...", help="Figures, or a folder of them; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of an artifact: the weights that it was exported with.")
    ] = None,
    made_of: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC[:NAME]", help="Of an artifact: its spec, if not the one that it carries."),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json")] = "text",
    import_root: Annotated[list[Path] | None, typer.Option(help="A folder that specs may import from.")] = None,
) -> int:
    """Compare detectors with figures of another implementation, or an artifact with torch.fx.

    Detectors and figures are matched by `reported { config = ... }`, and compared in layout, values, detections, losses
    and gradients. An artifact is compared part by part, and where it does not agree, the first wrong value is named.
    Exits with 1 where anything does not agree.

    Example: detc verify specs/retinanet.det --reference reference/
    """
    from rich.console import Console

    from detc.cli.common import choice, report, split_spec
    from detc.runtime.verify import verify as compare

    choice("--format", output_format, ("text", "json"))
    if spec.endswith(".detc"):
        return _artifact(Path(spec), weights, made_of, tuple(import_root or ()), output_format)
    if weights is not None or made_of is not None:
        raise typer.BadParameter("--weights and --spec are for an artifact, FILE.detc")
    if not reference:
        raise typer.BadParameter("nothing to compare with: --reference FILE or FOLDER")
    path, name = (Path(spec), None) if Path(spec).is_dir() else split_spec(spec)
    with Console(stderr=True).status("reading") as status:
        found = compare(
            path,
            name,
            [*reference, *(more or ())],
            tuple(import_root or ()),
            lambda detector: status.update(f"comparing {detector}"),
        )
    if output_format == "json":
        print(json.dumps(_json(found), indent=2))
    else:
        _table(found)
    report(found.diagnostics)
    return 0 if found.agrees else 1


def _artifact(
    path: Path, weights: Path | None, made_of: str | None, roots: tuple[Path, ...], output_format: str
) -> int:
    from rich.console import Console

    from detc.cli.common import report, split_spec
    from detc.dsl.render import to_json

    if weights is None:
        raise typer.BadParameter(f"{path} is compared with what it was made of: --weights FILE")
    with Console(stderr=True).status("loading torch") as status:
        from detc.runtime.verify_artifact import verify_artifact

        spec = None if made_of is None else split_spec(made_of)
        verification, wrong = verify_artifact(path, weights, spec, roots, status.update)
    if output_format == "json":
        print(json.dumps(asdict(verification) | {"diagnostics": [to_json(each) for each in wrong]}, indent=2))
    else:
        print(f"{path}: {verification}")
    report(wrong)
    return 1 if wrong else 0


def _json(found: Verification) -> dict[str, Any]:
    from detc.dsl.render import to_json

    return {
        "agrees": found.agrees,
        "detectors": [
            {
                "spec": str(detector.spec),
                "detector": detector.detector,
                "config": detector.config,
                "agrees": detector.agrees,
                "checks": [
                    {
                        "kind": check.kind,
                        "reference": str(check.reference),
                        "agrees": check.agrees,
                        "compared": check.compared,
                        "differing": check.differing,
                        "first": check.first or None,
                    }
                    for check in detector.checks
                ],
            }
            for detector in found.detectors
        ],
        "without_reference": found.alone,
        "unmatched_references": [str(one.path) for one in found.unmatched],
        "diagnostics": [to_json(diagnostic) for diagnostic in found.diagnostics],
    }


def _table(found: Verification) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from detc.runtime.verify import KINDS

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("detector", no_wrap=True)
    for kind in KINDS:
        table.add_column(kind, justify="right", no_wrap=True)
    for detector in found.detectors:
        cells = [_cell([check for check in detector.checks if check.kind == kind]) for kind in KINDS]
        table.add_row(detector.detector, *cells)
    console.print(table)
    for detector in found.detectors:
        for check in detector.checks:
            if not check.agrees:
                console.print(f"[red]{detector.detector}, {check.kind}:[/red] {escape(check.first)}")
    agreeing = sum(detector.agrees for detector in found.detectors)
    told = [f"{agreeing} of {len(found.detectors)} agree"]
    if found.alone:
        told.append(f"{len(found.alone)} without figures")
    if found.unmatched:
        told.append(f"{len(found.unmatched)} files of figures for other detectors")
    console.print("; ".join(told))


def _cell(checks: list[Check]) -> str:
    if not checks:
        return "-"
    compared, differing = sum(check.compared for check in checks), sum(check.differing for check in checks)
    return f"[red]{differing} of {compared} differ[/red]" if differing else f"[green]{compared} agree[/green]"
