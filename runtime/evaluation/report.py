"""Writing the report of an evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detc.runtime.evaluate import Evaluation
from detc.runtime.evaluation.analysis import Analysis, plain
from detc.runtime.evaluation.curves import RECALLS
from detc.runtime.evaluation.errors import KINDS
from detc.runtime.evaluation.page import readable_text, to_page
from detc.runtime.files import write_json, write_text


def write_report(folder: Path, title: str, evaluation: Evaluation, *analyses: Analysis) -> list[str]:
    """Writes report.html (one page, for people), report.json (all figures) and CSV tables of the same.

    The analyses are of boxes and, of a detector that finds them, of masks, whose tables begin with "mask_".

    Returns the names of the files.
    Raises:
        DiagnosticError: cannot-write.
    """
    write_text(folder / "report.html", to_page(title, evaluation, *analyses))
    behind = {f"{analysis.prefix}analysis": analysis.as_json() for analysis in analyses}
    write_json(folder / "report.json", {"title": title, **evaluation.as_json(), **behind})
    names = ["report.html", "report.json"]
    for analysis in analyses:
        for name, rows in _tables(evaluation, analysis).items():
            write_text(folder / f"{analysis.prefix}{name}", _csv(rows))
            names.append(f"{analysis.prefix}{name}")
    return names


def _tables(evaluation: Evaluation, analysis: Analysis) -> dict[str, Iterable[Sequence[Any]]]:
    classes, errors = analysis.classes, analysis.errors
    names = [*(row.name for row in classes), "background"]
    best = ("best_F1", "score", "precision", "recall")
    return {
        "classes.csv": [
            ("class", "objects", "boxes", "AP", "AP50", *best, *KINDS),
            *(
                (
                    *(row.name, row.objects, row.boxes, figures.mask_ap if analysis.masks else figures.ap, row.ap50),
                    *(row.best.f1, row.best.score, row.best.precision, row.best.recall),
                    *(row.errors[kind] for kind in KINDS),
                )
                for figures, row in zip(evaluation.classes, classes, strict=True)
            ),
        ],
        "curves.csv": [
            ("class", "recall", "precision"),
            *(
                (row.name, *point)
                for row in classes
                if row.objects
                for point in zip(RECALLS, row.precision, strict=True)
            ),
        ],
        "confusion.csv": [
            ("is / said to be", *names),
            *((name, *counts) for name, counts in zip(names, analysis.matrix.tolist(), strict=True)),
        ],
        "errors.csv": [
            ("error", "count", "AP50_gained"),
            *((kind, int(n), errors.gains[kind]) for kind, n in zip(KINDS, errors.counts.sum(0), strict=True)),
        ],
        "sizes.csv": [
            ("size", "objects", "AP50", "found"),
            *((row.name, row.objects, row.ap50, row.recall) for row in analysis.sizes),
        ],
    }


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; a figure that there is none of is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([readable_text(v) if isinstance(v, str) else "" if (p := plain(v)) is None else p for v in row])
    return text.getvalue()
