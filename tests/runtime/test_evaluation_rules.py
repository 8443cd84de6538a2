"""Pascal VOC's average precision, worked out by hand, and LVIS's by how often a class is seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from drawn import CLASSES, coco_file, voc_folder
from found import Box, annotated, detected

from detc.runtime.data.coco import read_coco, read_lvis
from detc.runtime.data.dataset import Dataset, build_dataset
from detc.runtime.data.settings import Coco, Lvis, Voc
from detc.runtime.data.voc import read_voc
from detc.runtime.evaluate import by_their_own_rules, coco_metrics
from detc.runtime.evaluation.voc import VocFigures, voc_figures, voc_mean

FAR: Box = [400, 400, 440, 440]
PLACES: list[Box] = [[20 + 45 * i, 10, 50 + 45 * i, 60] for i in range(10)]


def figures(image, *boxes) -> VocFigures:
    return voc_figures(Dataset(("a",), (1,), (image,)), {1: detected(*boxes)})[0]


def test_voc_ap_worked_out_by_hand():
    """Right, wrong, on a difficult object, right, again on the same: 1, 1/2, 2/3, 2/4 of those that count are right."""
    image = annotated(1, [(0, PLACES[i]) for i in range(4)], ignored=(3,))
    boxes = (
        (0, 0.9, PLACES[0]),
        (0, 0.8, FAR),
        (0, 0.7, PLACES[3]),
        (0, 0.6, PLACES[1]),
        (0, 0.5, PLACES[1]),
    )
    found = figures(image, *boxes)
    assert found.area == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert found.points == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # recall 0 to 0.3 at 1, 0.4 to 0.6 at 2/3
    # The order in which an engine gives them does not matter.
    assert figures(image, *reversed(boxes)) == found


def test_voc_counts_a_recall_of_exactly_a_tenth():
    image = annotated(1, [(0, place) for place in PLACES])
    found = figures(image, *((0, 0.9 - i / 10, PLACES[i]) for i in range(3)))
    assert found.area == pytest.approx(0.3)
    assert found.points == pytest.approx(4 / 11)


def test_voc_takes_the_object_of_most_overlap_even_if_it_was_found_before():
    """COCO lets the second box have the other object, of which it covers enough; VOC counts it as wrong."""
    image = annotated(1, [(0, [0, 0, 100, 100]), (0, [30, 0, 130, 100])])
    dataset, found = (
        Dataset(("a",), (1,), (image,)),
        {1: detected((0, 0.9, [0, 0, 100, 100]), (0, 0.8, [10, 0, 110, 100]))},
    )
    assert coco_metrics(dataset, found).metrics["AP50"] == pytest.approx(1)
    assert voc_figures(dataset, found)[0].area == pytest.approx(0.5)


def test_voc_wants_an_iou_of_at_least_half():
    image = annotated(1, [(0, [0, 0, 10, 10])])
    assert figures(image, (0, 0.9, [0, 0, 10, 5])).area == 1
    assert figures(image, (0, 0.9, [0, 0, 10, 4.9])).area == 0


def test_voc_has_no_figure_for_a_class_without_objects_that_count():
    image = annotated(1, [(0, PLACES[0]), (1, PLACES[1])], ignored=(1,))
    dataset = Dataset(("a", "b", "c"), (1, 2, 3), (image, annotated(2, [])))
    found = voc_figures(dataset, {1: detected((0, 0.5, PLACES[0])), 2: detected((1, 0.9, FAR))})
    assert found[0].area == 1
    assert all(math.isnan(f.area) and math.isnan(f.points) for f in found[1:])
    assert voc_mean([f.area for f in found]) == 1
    assert math.isnan(voc_mean([math.nan]))


def test_an_object_that_nothing_was_found_of_lowers_the_figure():
    dataset = Dataset(("a",), (1,), (annotated(1, [(0, PLACES[0])]), annotated(2, [(0, PLACES[0])])))
    assert voc_figures(dataset, {1: detected((0, 0.5, PLACES[0]))})[0].area == 0.5
    assert voc_figures(dataset, {})[0] == VocFigures(0, 0)


def test_vocs_figures_are_there_for_voc_data_alone(tmp_path: Path):
    voc_folder(tmp_path / "voc", {"test": 4})
    dataset, _ = build_dataset([read_voc(tmp_path / "voc", "test")], CLASSES, strict=True)
    made = {
        i.number: detected(*((int(n), 0.9, box) for n, box in zip(i.labels, i.boxes.tolist(), strict=True)))
        for i in dataset.images
    }
    plain = coco_metrics(dataset, made)
    evaluation = by_their_own_rules(plain, [Voc("test", "voc")], dataset, made)
    assert evaluation.metrics["VOC_AP50"] == evaluation.metrics["VOC07_AP50"] == 1
    assert [row["VOC07_AP50"] for row in evaluation.as_json()["classes"]] == [1, 1]
    assert by_their_own_rules(plain, [Voc("test"), Coco("a", "b")], dataset, made) == plain
    assert "VOC_AP50" not in plain.as_json()["classes"][0]


# ---- LVIS


def lvis(root: Path, **fields: list) -> Path:
    """A file of two classes, disc and square, whose categories have these fields."""
    coco_file(root, 6)
    content = json.loads((root / "annotations.json").read_text())
    for index, category in enumerate(content["categories"]):
        category.update({name: values[index] for name, values in fields.items()})
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    (root / "annotations.json").write_text(json.dumps(content))
    return root / "annotations.json"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"frequency": ["r", "f"]}, {"disc": "rare", "square": "frequent"}),
        ({"image_count": [10, 11]}, {"disc": "rare", "square": "common"}),
        ({"image_count": [100, 101]}, {"disc": "common", "square": "frequent"}),
        ({"frequency": ["c", "c"], "image_count": [1, 1000]}, {"disc": "common", "square": "common"}),
        ({"image_count": [0, 5]}, {"square": "rare"}),
        ({}, {}),
    ],
)
def test_frequencies_are_as_stated_or_counted(tmp_path, fields, expected):
    raw = read_lvis(lvis(tmp_path, **fields), tmp_path / "images")
    assert raw.frequencies == expected
    dataset, _ = build_dataset([raw], CLASSES, strict=True)
    assert dataset.frequencies == (tuple(expected.get(name, "") for name in CLASSES) if expected else ())


def test_lvis_has_a_figure_for_each_frequency(tmp_path):
    path = lvis(tmp_path, frequency=["f", "r"])
    dataset, _ = build_dataset([read_lvis(path, tmp_path / "images")], CLASSES, strict=True)
    made = {
        i.number: detected(
            *((int(n), 0.9, box) for n, box in zip(i.labels, i.boxes.tolist(), strict=True) if CLASSES[n] == "square")
        )
        for i in dataset.images
    }
    plain = coco_metrics(dataset, made)
    evaluation = by_their_own_rules(plain, [Lvis("annotations.json", "images")], dataset, made)
    assert evaluation.metrics["APr"] == pytest.approx(1)
    assert evaluation.metrics["APf"] == 0
    assert math.isnan(evaluation.metrics["APc"])
    assert [row["frequency"] for row in evaluation.as_json()["classes"]] == ["rare", "frequent"]
    assert by_their_own_rules(plain, [Coco("annotations.json", "images")], dataset, made) == plain


def test_lvis_without_frequencies_has_coco_s_figures(tmp_path):
    path = lvis(tmp_path)
    dataset, _ = build_dataset([read_coco(path, tmp_path / "images")], CLASSES, strict=True)
    plain = coco_metrics(dataset, {})
    assert by_their_own_rules(plain, [Lvis("annotations.json", "images")], dataset, {}) == plain
