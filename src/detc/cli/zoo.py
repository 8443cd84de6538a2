"""detc zoo"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

# The columns of the table, in this order; other figures follow.
FIGURES = {
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "ar_1000": "AR1000",
    "ap50": "AP50",
    "memory_gb": "memory (GB)",
    "fps": "fps",
}


def zoo(
    words: Annotated[list[str] | None, typer.Argument(help="Show rows that have all these words.")] = None,
    specs: Annotated[Path | None, typer.Option(help="A folder of specs in place of detc's own.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json")] = "text",
) -> None:
    """List the detectors that come with detc and what was published of each.

    Example: detc zoo retinanet x101
    """
    from detc.cli.common import choice

    choice("--format", output_format, ("text", "json"))
    found = [r for r in rows(specs) if all(w.lower() in json.dumps(r).lower() for w in words or ())]
    if output_format == "json":
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("no row has these words", file=sys.stderr)
        raise typer.Exit(1)
    _table(found)


def rows(folder: Path | None) -> list[dict[str, Any]]:
    """Every detector of a folder of specs, detc's own if not given, with what was reported of it."""
    from detc.compiler.evaluate import Evaluator
    from detc.compiler.modules import Loader, shown_path, specs_folder

    loader = Loader()
    found = []
    for file in sorted((folder or specs_folder()).glob("*.det")):
        module = loader.load(file)
        for declaration in module.detectors:
            fields = Evaluator(module).detector(declaration, module).fields
            reported = dict(fields["reported"].value.entries) if "reported" in fields else {}
            found.append(
                {
                    "spec": shown_path(file),
                    "detector": declaration.name,
                    "system": module.file.doc,
                    "config": reported.pop("config", None),
                    "checkpoint": reported.pop("checkpoint", None),
                    "reported": reported,
                }
            )
    return found


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("spec")
    table.add_column("detector", no_wrap=True)
    for title in FIGURES.values():
        table.add_column(title, justify="right")
    table.add_column("checkpoint")
    for row in rows:
        figures = [str(row["reported"].get(key, "")) for key in FIGURES]
        table.add_row(row["spec"], row["detector"], *figures, row["checkpoint"] or "")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
