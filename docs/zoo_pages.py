"""A page for each file of the zoo: what it says, the figures that were published, and a drawing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import detc
from detc.cli.zoo import FIGURES, rows
from detc.compiler.draw import to_svg
from detc.compiler.modules import Loader, specs_folder


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
        heading = ["detector", *(FIGURES[key] for key in titles), "checkpoint"]
        table = [_line(heading), _line(["---"] * len(heading)), *(_row(row, titles) for row in own)]
        lines = [
            "---\nhide: [toc]\n---",
            f"# {file.stem}",
            own[0]["system"] or "",
            f"`specs/{file.name}`, as `detc graph specs/{file.name}:{drawn.name}` draws it:",
            f"![{drawn.name}]({file.stem}.svg)",
            "\n".join(table),
        ]
        found[f"zoo/{file.stem}.md"] = "\n\n".join(lines) + "\n"
        found[f"zoo/{file.stem}.svg"] = to_svg(drawn.graph)
    return found


def _row(row: dict[str, object], titles: list[str]) -> str:
    reported = row["reported"]
    assert isinstance(reported, dict)
    return _line(
        [f"`{row['detector']}`", *(str(reported.get(key, "")) for key in titles), str(row["checkpoint"] or "")]
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
