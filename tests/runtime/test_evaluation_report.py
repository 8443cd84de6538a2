"""The page, the JSON and the tables that an evaluation writes."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from found import Box, annotated, detected

from detc.cli.evaluate import evaluate as eval_command
from detc.runtime.data.dataset import Dataset
from detc.runtime.data.masks import read_mask, run_lengths
from detc.runtime.evaluate import Evaluation, coco_metrics
from detc.runtime.evaluation.analysis import Analysis, analyse
from detc.runtime.evaluation.page import MOST_CONFUSED, MOST_CURVES, to_page
from detc.runtime.evaluation.report import write_report

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</title></style></svg><a href='//evil.example'>&amp;",
    'new\nline, "quoted", \x00 \x1b[31m \ud800 half',
    "x" * 300,
    "\u732b \U0001f408",
)
SHAPES = {"rect", "line", "polyline"}
PLACES: list[Box] = [[20 + 60 * i, 10, 60 + 60 * i, 70] for i in range(6)]


class Page(HTMLParser):
    """Checks that elements close in order, and keeps the elements with their attributes and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def evaluated(names: tuple[str, ...]) -> tuple[Evaluation, Analysis]:
    """One object of each class; the first is found right, the second taken for the first, others are missed."""
    images = [annotated(n, [(n - 1, PLACES[0])]) for n in range(1, len(names) + 1)]
    dataset = Dataset(names, tuple(range(1, len(names) + 1)), tuple(images))
    found = {1: detected((0, 0.9, PLACES[0])), 2: detected((0, 0.8, PLACES[0]))}
    return coco_metrics(dataset, found), analyse(dataset, found, 0.5)


def test_the_page_is_whole_and_needs_nothing_else():
    text = to_page("tiny on test", *evaluated(("cat", "dog", "none")))
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "a", "base", "form"}
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text and "@import" not in text
    assert sum(tag == "svg" for tag, _ in page.elements) == 3 + 3
    assert {"cat", "dog", "tiny on test", "classification", "duplicate"} <= set(page.words)
    for tag, attributes in page.elements:
        for name in ("x", "y", "width", "height", "cx", "cy"):
            if tag in {"rect", "circle", "text", "svg"} and name in attributes:
                assert math.isfinite(float(attributes[name]))
        assert not any(name.startswith("on") for name in attributes)


def test_hostile_class_names_are_text_and_nothing_else(tmp_path):
    evaluation, analysis = evaluated(HOSTILE)
    write_report(tmp_path, "<b>title</b> \ud800", evaluation, analysis)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    plain = Page(to_page("t", *evaluated(tuple("abcdef"))))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in page.elements] == [sorted(a) for _, a in plain.elements]
    assert HOSTILE[0] in page.words and HOSTILE[1] in page.words and HOSTILE[2] in page.words
    assert not set("\0\x1b") & set("".join(page.words))
    rows = list(csv.DictReader((tmp_path / "classes.csv").open(encoding="utf-8", newline="")))
    assert [row["class"] for row in rows][:3] == list(HOSTILE[:3])
    assert len(rows) == len(HOSTILE)
    content = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [row["name"] for row in content["analysis"]["classes"]] == list(HOSTILE)


def test_tables_and_json_have_the_figures(tmp_path):
    evaluation, analysis = evaluated(("cat", "dog", "none"))
    names = write_report(tmp_path / "new", "tiny", evaluation, analysis)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)

    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((tmp_path / "new" / name).open(newline="")))

    content = json.loads((tmp_path / "new" / "report.json").read_text())
    assert content["metrics"]["AP50"] == pytest.approx(1 / 3, abs=1e-5) == content["analysis"]["AP50"]
    assert content["analysis"]["confusion"]["counts"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert [list(row.values()) for row in table("confusion.csv")] == [
        ["cat", "1", "0", "0", "0"],
        ["dog", "1", "0", "0", "0"],
        ["none", "0", "0", "0", "1"],
        ["background", "0", "0", "0", "0"],
    ]
    errors = {row["error"]: (int(row["count"]), float(row["AP50_gained"])) for row in table("errors.csv")}
    assert errors["classification"] == (1, pytest.approx(1 / 3, abs=1e-5))
    assert errors["missed"] == (1, pytest.approx(1 / 3, abs=1e-5))
    classes = table("classes.csv")
    assert (classes[0]["best_F1"], classes[0]["score"], classes[0]["classification"]) == ("1.0", "0.9", "1")
    assert classes[1]["best_F1"] == ""
    curve = [float(row["precision"]) for row in table("curves.csv") if row["class"] == "cat"]
    assert curve == [1.0] * 101
    assert sum(int(row["objects"]) for row in table("sizes.csv")) == 3


def test_what_there_is_no_figure_for_is_a_dash_and_never_nan(tmp_path):
    dataset = Dataset(("a", "b"), (1, 2), (annotated(1, [(0, PLACES[0])]),))
    evaluation, analysis = coco_metrics(dataset, {}), analyse(dataset, {})
    write_report(tmp_path, "nothing found", evaluation, analysis)
    for path in tmp_path.iterdir():
        assert "nan" not in path.read_text().lower()
    assert "-" in Page((tmp_path / "report.html").read_text()).words


def test_many_classes_leave_the_page_readable_and_the_tables_whole(tmp_path):
    names = tuple(f"class {n}" for n in range(130))
    evaluation, analysis = evaluated(names)
    write_report(tmp_path, "many", evaluation, analysis)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert len(text) < 1_000_000
    assert sum(tag == "polyline" for tag, _ in page.elements) == MOST_CURVES
    assert f"Of 130 classes the {MOST_CONFUSED} most confused with others are shown" in text
    rows = list(csv.reader((tmp_path / "confusion.csv").open(newline="")))
    assert (len(rows), len(rows[0])) == (132, 132)
    # Those that were confused are among those shown.
    assert text.count("class 1</title>") >= 2


def test_masks_and_voc_have_their_columns_and_masks_their_sections(tmp_path):
    image = dataclasses.replace(
        annotated(1, [(0, PLACES[0])]), masks=(read_mask([[20, 10, 60, 10, 60, 70, 20, 70]], (500, 500)),)
    )
    dataset = Dataset(("a",), (1,), (image,))
    half = read_mask([[20, 10, 60, 10, 60, 30, 20, 30]], (500, 500))
    found = dataclasses.replace(detected((0, 0.9, PLACES[0])), masks=(run_lengths(half, (500, 500)),))
    evaluation = coco_metrics(dataset, {1: found})
    boxes, masks = (analyse(dataset, {1: found}, masks=kind) for kind in (False, True))
    page = Page(to_page("t", evaluation, boxes))
    assert "mask AP" in page.words and "VOC AP50" not in page.words and "Errors of masks" not in page.words
    names = write_report(tmp_path, "t", evaluation, boxes, masks)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    tables = {"classes", "curves", "confusion", "errors", "sizes"}
    assert {"report.html", "report.json", *(f"{p}{t}.csv" for p in ("", "mask_") for t in tables)} == set(names)
    page = Page((tmp_path / "report.html").read_text())
    for heading in ("Errors", "Classes", "Precision and recall", "Confusion", "Sizes"):
        assert heading in page.words and f"{heading} of masks" in page.words
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["analysis"]["AP50"], content["mask_analysis"]["AP50"]) == (1, 0)
    rows = list(csv.DictReader((tmp_path / "mask_errors.csv").open(newline="")))
    assert {row["error"]: row["count"] for row in rows}["localisation"] == "1"
    plain = coco_metrics(Dataset(("a",), (1,), (annotated(1, [(0, PLACES[0])]),)), {1: detected((0, 0.9, PLACES[0]))})
    voc = dataclasses.replace(plain, metrics=plain.metrics | {"VOC_AP50": 1.0, "VOC07_AP50": np.nan})
    assert "VOC07 AP50" in Page(to_page("t", voc, boxes)).words


def test_a_detector_that_tells_no_classes_apart_has_no_report(tmp_path):
    spec = Path(__file__).parents[2] / "specs" / "rpn.det"
    with pytest.raises(typer.BadParameter, match="proposals without any"):
        eval_command(f"{spec}:rpn_r50_fpn_1x", tmp_path / "weights", report=tmp_path / "report")
