"""A page for each file of the zoo: what it says, the figures that were published, its exports, and a drawing."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import detc
from detc.cli.zoo import FIGURES, rows
from detc.compiler.draw import to_svg
from detc.compiler.modules import Loader, specs_folder

# Made by bench/coverage.py.
_COVERAGE = Path(__file__).parents[1] / "bench" / "results" / "coverage.csv"
_TARGETS = ("onnx", "llvm", "cuda")


@cache
def coverage() -> dict[str, dict[str, str]]:
    """How each detector, as spec.det:name, goes to each target: ran, built, lowered, or the diagnostic."""
    with _COVERAGE.open(encoding="utf-8", newline="") as file:
        return {f"{row['spec']}:{row['detector']}": {t: row[t] for t in _TARGETS} for row in csv.DictReader(file)}


@cache
def zoo_pages() -> dict[str, str]:
    """Markdown and SVG by path in the documentation: zoo/fpg.md, zoo/fpg.svg."""
    found: dict[str, str] = {}
    listed = rows(None)
    for file in sorted(specs_folder().glob("*.det")):
        own = [row for row in listed if Path(row["spec"]).name == file.name]
        titles = [key for key in FIGURES if any(key in row["reported"] for row in own)]
        default = Loader().load(file).file.default
        drawn = detc.load(file, own[0]["detector"] if default is None else default.name)
        heading = ["detector", *(FIGURES[key] for key in titles), *_TARGETS, "checkpoint"]
        table = [_line(heading), _line(["---"] * len(heading)), *(_row(row, titles, file.name) for row in own)]
        lines = [
            "---\nhide: [toc]\n---",
            f"# {file.stem}",
            own[0]["system"] or "",
            f"`specs/{file.name}`, as `detc graph specs/{file.name}:{drawn.name}` draws it:",
            f"![{drawn.name}]({file.stem}.svg)",
            "\n".join(table),
            "[Exports](../optimisation.md#what-has-been-exported): `ran` was compiled and run, `built` compiled to "
            "machine code, `lowered` made into the loops that are compiled.",
        ]
        found[f"zoo/{file.stem}.md"] = "\n\n".join(lines) + "\n"
        found[f"zoo/{file.stem}.svg"] = to_svg(drawn.graph)
    return found


def _row(row: dict[str, object], titles: list[str], file: str) -> str:
    reported = row["reported"]
    assert isinstance(reported, dict)
    exports = coverage().get(f"{file}:{row['detector']}", {})
    return _line(
        [
            f"`{row['detector']}`",
            *(str(reported.get(key, "")) for key in titles),
            *(exports.get(target, "") for target in _TARGETS),
            str(row["checkpoint"] or ""),
        ]
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
