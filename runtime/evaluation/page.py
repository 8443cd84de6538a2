"""The report of an evaluation as one page of HTML that needs nothing else: no script, no file, no address."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from detc.runtime.evaluate import Evaluation
from detc.runtime.evaluation.analysis import Analysis, ClassAnalysis
from detc.runtime.evaluation.curves import RECALLS
from detc.runtime.evaluation.errors import KINDS, MEANINGS

# More than this many are too small to read, and LVIS has 1203. The tables beside the page have all.
MOST_CURVES, MOST_CONFUSED, LONGEST_NAME = 60, 24, 20

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --pale: #656d76; --frame: #d0d7de; --fill: #f6f8fa;
  --good: #1f6fd0; --bad: #d1570c }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --pale: #9198a1; --frame: #3d444d;
  --fill: #161b22; --good: #4493f8; --bad: #f0883e } }
body { font: 14px/1.5 Helvetica, Arial, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 0 auto; padding: 16px 24px 48px }
h1 { font-size: 20px; margin: 8px 0 0; overflow-wrap: anywhere } h2 { font-size: 16px; margin: 36px 0 4px }
p { margin: 4px 0 12px; color: var(--pale); max-width: 75ch }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--frame); white-space: nowrap }
th { color: var(--pale); font-weight: normal } th:first-child, td:first-child { text-align: left }
td.words { text-align: left; color: var(--pale) }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 10px }
svg text { font: 11px Helvetica, Arial, sans-serif; fill: var(--ink) } svg .pale { fill: var(--pale) }
svg .frame { fill: var(--fill); stroke: var(--frame) } svg .grid { stroke: var(--frame) }
svg .good { fill: var(--good) } svg .bad { fill: var(--bad) }
svg .line { fill: none; stroke: var(--good); stroke-width: 1.8 }
"""


def to_page(title: str, evaluation: Evaluation, *analyses: Analysis) -> str:
    """The page, of an evaluation and what is behind its AP50 of boxes and, where it has those, of masks."""
    sections = [_metrics(evaluation)]
    for analysis in analyses:
        sections += [
            _errors(analysis),
            _classes(evaluation, analysis),
            _curves(analysis),
            _confusion(analysis),
            _sizes(evaluation, analysis),
        ]
    classes = analyses[0].classes
    objects = sum(row.objects for row in classes)
    what = "boxes and, further down, of masks" if any(analysis.masks for analysis in analyses) else "boxes"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Whatever a name may hold, nothing is loaded and nothing runs.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{evaluation.images} images, {objects} objects to find in {len(classes)} "
        f"classes. Metrics are COCO's, computed by pycocotools; everything below them is of {what} at IoU 0.5, matched "
        "as for AP50.</p>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def readable_text(value: object) -> str:
    """Text that every file and page can hold: controls, and halves of pairs, are replaced."""
    plain = str(value).encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c == " " else "\ufffd" for c in plain)


def _text(value: object) -> str:
    return escape(readable_text(value))


def _short(name: str) -> str:
    whole = readable_text(name)
    return escape(whole if len(whole) <= LONGEST_NAME else whole[: LONGEST_NAME - 1] + "\u2026")


def _figure(value: float, places: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"


def _of(analysis: Analysis) -> str:
    """What follows a heading, where there are two of its kind."""
    return " of masks" if analysis.masks else ""


def _section(title: str, about: str, *content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n<p>{about}</p>\n" + "\n".join(content) + "\n</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = None) -> str:
    """A table of cells that are HTML; of the column `words` they are explanations."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = (f'<td class="words">{cell}</td>' if i == words else f"<td>{cell}</td>" for i, cell in enumerate(row))
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{label}">\n' + "\n".join(parts) + "\n</svg>"
    )


def _metrics(evaluation: Evaluation) -> str:
    kinds = {"boxes": [name for name in evaluation.metrics if not name.startswith("mask_")]}
    if evaluation.has_masks:
        kinds["masks"] = [name for name in evaluation.metrics if name.startswith("mask_")]
    tables = [
        _table(
            [kind, *(name.removeprefix("mask_") for name in names)],
            [["", *(_figure(evaluation.metrics[name]) for name in names)]],
        )
        for kind, names in kinds.items()
    ]
    return _section("Metrics", "From 0 to 1; a dash where the data has no such object.", *tables)


def _errors(analysis: Analysis) -> str:
    errors = analysis.errors
    rows = [(name, int(n), errors.gains[name]) for name, n in zip(KINDS, errors.counts.sum(0), strict=True)]
    longest = max((gain for _, _, gain in rows if not math.isnan(gain)), default=0) or 1
    parts = []
    for place, (name, _, gain) in enumerate(rows):
        y = 8 + 26 * place
        width = 0 if math.isnan(gain) else 380 * gain / longest
        parts.append(f'<text x="100" y="{y + 13}" text-anchor="end">{name}</text>')
        parts.append(f'<rect class="bad" x="110" y="{y}" width="{width:.1f}" height="18" rx="2"/>')
        parts.append(f'<text class="pale" x="{116 + width:.1f}" y="{y + 13}">{_figure(gain)}</text>')
    about = (
        f"How much AP50, now {_figure(errors.ap50)}, would gain if one kind of error alone were mended, in the manner "
        "of TIDE (Bolya et al., ECCV 2020). The gains do not add up to what is lacking. Boxes of every score count, "
        "also of very low ones."
    )
    lines = [[name, MEANINGS[name], str(count), _figure(gain)] for name, count, gain in rows]
    lines.append(["all wrong boxes", "left out together", "", _figure(errors.wrong)])
    lines.append(["all objects not found", "left out together", "", _figure(errors.unfound)])
    table = _table(["error", "", "count", "AP50 gained"], lines, words=1)
    return _section(
        "Errors" + _of(analysis),
        about,
        _svg(560, 8 + 26 * len(rows), "AP50 gained by mending each kind", parts),
        table,
    )


def _classes(evaluation: Evaluation, analysis: Analysis) -> str:
    head = ["class", "objects", "AP", "AP50"]
    if evaluation.has_masks and not analysis.masks:
        head.append("mask AP")
    own = () if analysis.masks else evaluation.own_metrics
    head += [name.replace("_", " ") for name in own]
    head += ["best F1", "from score", "precision", "recall"]
    rows = []
    for figures, row in zip(evaluation.classes, analysis.classes, strict=True):
        values = [figures.mask_ap if analysis.masks else figures.ap, row.ap50]
        values += [figures.mask_ap] if evaluation.has_masks and not analysis.masks else []
        values += [evaluation.own_figures(figures)[name] for name in own]
        values += [row.best.f1, row.best.score, row.best.precision, row.best.recall]
        rows.append([_text(row.name), str(row.objects), *map(_figure, values)])
    wrong = [[_text(row.name), *(str(row.errors[name]) for name in KINDS)] for row in analysis.classes]
    about = "The score from which F1 is best was chosen on these very images, so F1 there is a little too good."
    claims = "Errors count for the class that a box claims, missed objects for their own."
    return _section(
        "Classes" + _of(analysis), about, _table(head, rows), f"<p>{claims}</p>", _table(["class", *KINDS], wrong)
    )


def _curves(analysis: Analysis) -> str:
    known = [row for row in analysis.classes if row.objects]
    shown = sorted(known, key=lambda row: -row.objects)[:MOST_CURVES] if len(known) > MOST_CURVES else known
    about = (
        "Precision over recall, read off as COCO's AP50 does; the dot is where F1 is best. "
        + _of_many(len(shown), len(known), "with the most objects", f"{analysis.prefix}curves.csv")
    ).strip()
    return _section(
        "Precision and recall" + _of(analysis),
        about,
        '<div class="curves">' + "\n".join(_curve(r) for r in shown) + "</div>",
    )


def _of_many(shown: int, there: int, which: str, file: str) -> str:
    return f"Of {there} classes the {shown} {which} are shown; {file} has all." if shown < there else ""


def _curve(row: ClassAnalysis) -> str:
    left, top, side, height = 28, 24, 164, 120

    def place(recall: float, precision: float) -> tuple[float, float]:
        return left + side * recall, top + height * (1 - precision)

    points = [place(r, p) for r, p in zip(RECALLS.tolist(), row.precision.tolist(), strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [
        f'<text x="{left}" y="14"><title>{_text(row.name)}</title>{_short(row.name)}</text>',
        f'<text class="pale" x="{left + side}" y="14" text-anchor="end">{_figure(row.ap50)}</text>',
        f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{height}"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = place(share, share)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="pale" x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
        parts.append(f'<text class="pale" x="{x:.1f}" y="{top + height + 14}" text-anchor="middle">{share:g}</text>')
    parts.append(f'<polyline class="line" points="{line}"/>')
    if not math.isnan(row.best.f1):
        x, y = place(row.best.recall, row.best.precision)
        about = f"F1 {row.best.f1:.3f} from score {row.best.score:.3f}"
        parts.append(f'<circle class="bad" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{about}</title></circle>')
    return _svg(200, top + height + 20, f"precision and recall of {_text(row.name)}", parts)


def _confusion(analysis: Analysis) -> str:
    matrix, classes = analysis.matrix, len(analysis.classes)
    inner = matrix[:classes, :classes] - np.diag(np.diag(matrix)[:classes])
    order = np.argsort(-(inner.sum(0) + inner.sum(1)), kind="stable")[:MOST_CONFUSED]
    shown = [*sorted(order.tolist()), classes]
    names = [*(row.name for row in analysis.classes), "background"]
    cell, left, top = 40, 150, 120
    parts = [
        f'<text class="pale" x="{left}" y="12">said to be</text>',
        f'<text class="pale" x="0" y="{top - 8}">what it is</text>',
    ]
    for column, number in enumerate(shown):
        x, y = left + cell * (column + 0.5), top - 6
        name = f"<title>{_text(names[number])}</title>{_short(names[number])}"
        parts.append(f'<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">{name}</text>')
    for place, number in enumerate(shown):
        y = top + cell * place
        name = f"<title>{_text(names[number])}</title>{_short(names[number])}"
        parts.append(f'<text x="{left - 8}" y="{y + cell / 2 + 4}" text-anchor="end">{name}</text>')
        total = max(1, int(matrix[number].sum()))
        for column, other in enumerate(shown):
            parts.append(_cell(left + cell * column, y, cell, int(matrix[number, other]), total, number == other))
    working = analysis.at_score
    about = (
        f"Boxes with a score of at least {analysis.score:.3f}"
        + (", where F1 of all classes together is best" if analysis.chosen else "")
        + f": precision {_figure(working.precision)}, recall {_figure(working.recall)}, F1 {_figure(working.f1)}. Rows "
        "are objects, the darker the larger the part of their row; the last column has those that were not found, the "
        "last row boxes where nothing is. "
        + _of_many(len(shown) - 1, classes, "most confused with others", f"{analysis.prefix}confusion.csv")
    ).strip()
    size = (left + cell * len(shown) + 90, top + cell * len(shown) + 4)
    return _section(
        "Confusion" + _of(analysis), about, '<div class="wide">' + _svg(*size, "confusion matrix", parts) + "</div>"
    )


def _cell(x: float, y: float, cell: float, count: int, total: int, right: bool) -> str:
    share = count / total
    kind = "good" if right else "bad"
    tint = (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{cell}" height="{cell}" opacity="{0.1 + 0.6 * share:.2f}"/>'
        if count
        else ""
    )
    number = (
        f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">{count}'
        f"<title>{share:.1%} of the row</title></text>"
        if count
        else ""
    )
    return f'<rect class="frame" x="{x}" y="{y}" width="{cell}" height="{cell}"/>{tint}{number}'


def _sizes(evaluation: Evaluation, analysis: Analysis) -> str:
    keys = [(f"{analysis.prefix}AP{size}", f"{analysis.prefix}AR{size}") for size in "sml"]
    head = ["size", "objects", "AP", "AP50", "AR", "found"]
    rows = []
    parts = []
    for place, (row, (ap, ar)) in enumerate(zip(analysis.sizes, keys, strict=True)):
        values = (evaluation.metrics[ap], row.ap50, evaluation.metrics[ar], row.recall)
        rows.append([row.name, str(row.objects), *map(_figure, values)])
        y = 8 + 44 * place
        parts.append(f'<text x="60" y="{y + 22}" text-anchor="end">{row.name}</text>')
        for line, (value, kind, what) in enumerate(((row.ap50, "good", "AP50"), (row.recall, "bad", "found"))):
            width = 0 if math.isnan(value) else 380 * value
            parts.append(
                f'<rect class="{kind}" x="70" y="{y + 18 * line}" width="{width:.1f}" height="14" rx="2"/>'
                f'<text class="pale" x="{76 + width:.1f}" y="{y + 11 + 18 * line}">{what} {_figure(value)}</text>'
            )
    about = (
        "Small objects are of less than 32 by 32 pixels, large ones of 96 by 96 or more. Found are those with a box of "
        f"score {analysis.score:.3f} or more."
    )
    return _section(
        "Sizes" + _of(analysis),
        about,
        _svg(560, 8 + 44 * len(rows), "AP50 and objects found by size", parts),
        _table(head, rows),
    )
