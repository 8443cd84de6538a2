"""Cityscapes' AP of instances, worked out by hand; the rules are those of cityscapesScripts 2.3.0."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from downloaded import CAR, PERSON, ROAD, cityscapes_image, wider_face
from pycocotools import mask as coco_masks

from detc.runtime.data.cityscapes import NUMBERS, read_cityscapes
from detc.runtime.data.dataset import Dataset, build_dataset
from detc.runtime.data.preprocess import Detections
from detc.runtime.data.settings import Cityscapes, Coco, WiderFace
from detc.runtime.data.wider_face import read_wider_face
from detc.runtime.evaluate import by_their_own_rules, coco_metrics
from detc.runtime.evaluation.cityscapes import CityscapesFigures, cityscapes_figures, cityscapes_mean

CLASSES = tuple(NUMBERS)
CAR_LABEL, PERSON_LABEL, BUS_LABEL = (CLASSES.index(name) for name in ("car", "person", "bus"))
SIZE = 100
Window = tuple[int, int, int, int]
FIRST, SECOND, SMALL, GROUP, VOID = (0, 0, 20, 20), (30, 0, 50, 20), (60, 0, 69, 9), (0, 50, 30, 80), (50, 50, 100, 100)


def window(box: Window) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def one_street(root: Path, void: int = 0) -> Dataset:
    """Two cars of 400 pixels, one of 81, a group of cars, pixels without a label, and a person of 400."""
    pixels = np.full((SIZE, SIZE), ROAD)
    numbers = {FIRST: CAR * 1000, SECOND: CAR * 1000 + 1, SMALL: CAR * 1000 + 2, GROUP: CAR, VOID: void}
    for box, number in {**numbers, (75, 0, 95, 20): PERSON * 1000}.items():
        pixels[window(box)] = number
    cityscapes_image(root, "val", "ulm_000000_000019", pixels)
    return build_dataset([read_cityscapes(root, "val", masks=True)], CLASSES, strict=True)[0]


def found(*masks: tuple[int, float, Window]) -> dict[int, Detections]:
    """Masks as (class, score, window), in the only image."""
    encoded = []
    for _, _, box in masks:
        pixels = np.zeros((SIZE, SIZE), np.uint8, order="F")
        pixels[window(box)] = 1
        encoded.append(coco_masks.encode(pixels))
    boxes = np.asarray([box for _, _, box in masks], np.float32).reshape(-1, 4)
    scores, labels = ([mask[place] for mask in masks] for place in (1, 0))
    return {1: Detections(boxes, np.asarray(scores, np.float32), np.asarray(labels, np.int64), tuple(encoded))}


def car(dataset: Dataset, *masks: tuple[float, Window]) -> CityscapesFigures:
    made = found(*((CAR_LABEL, score, box) for score, box in masks))
    return cityscapes_figures(dataset, made)[CAR_LABEL]


def test_ap_worked_out_by_hand(tmp_path):
    dataset = one_street(tmp_path)
    figures = car(
        dataset,
        (0.99, SMALL),  # too small to count: neither right nor wrong
        (0.95, (5, 55, 15, 65)),  # within the group: not judged
        (0.9, FIRST),  # right
        (0.88, (44, 60, 54, 70)),  # 40 of 100 pixels without a label: wrong
        (0.85, (0, 0, 12, 20)),  # 0.6 of the first: wrong, since that is found
        (0.8, (30, 0, 45, 20)),  # 0.75 of the second: right below that
    )
    # Precision over recall: 1 at 1/2, then 1/3 at 1/2, then 1/2 at 1; straight lines between, and 1 at 0.
    below = 1 / 2 * (1 / 2 + 1 / 3) / 2 + 1 / 2
    assert figures.ap50 == pytest.approx(below)
    assert figures.ap == pytest.approx((5 * below + 5 * 1 / 2) / 10)


def test_the_share_without_a_label_is_compared_with_the_threshold(tmp_path):
    dataset = one_street(tmp_path)
    # 60 of 100 pixels without a label, more than 0.5 and 0.55, and not more than 0.6: wrong from there on.
    figures = car(dataset, (0.9, FIRST), (0.8, (46, 60, 56, 70)), (0.7, SECOND))
    with_it = 1 / 2 * (2 / 3 + 1 / 2) / 2 + 1 / 2
    assert figures.ap50 == 1
    assert figures.ap == pytest.approx((2 * 1 + 8 * with_it) / 10)
    # Where those pixels are road, it is wrong everywhere.
    assert car(one_street(tmp_path / "road", ROAD), (0.9, FIRST), (0.8, (46, 60, 56, 70)), (0.7, SECOND)).ap50 < 1


def test_a_mask_of_another_class_says_nothing(tmp_path):
    dataset = one_street(tmp_path)
    made = found((CAR_LABEL, 0.9, FIRST), (PERSON_LABEL, 0.8, SECOND), (BUS_LABEL, 0.7, FIRST))
    figures = cityscapes_figures(dataset, made)
    assert figures[CAR_LABEL].ap50 == 1 / 2
    assert figures[PERSON_LABEL] == CityscapesFigures(0, 0)
    assert math.isnan(figures[BUS_LABEL].ap)
    assert cityscapes_mean([f.ap50 for f in figures]) == 1 / 4
    assert cityscapes_figures(dataset, {})[CAR_LABEL] == CityscapesFigures(0, 0)
    # Nothing but what is not judged.
    assert car(dataset, (0.9, SMALL), (0.8, (5, 55, 15, 65))) == CityscapesFigures(0, 0)


def test_equal_scores_make_one_point_of_the_curve(tmp_path):
    """The order in which an engine gives them does not matter, as it would if each were a point."""
    dataset = one_street(tmp_path)
    masks = ((0.5, FIRST), (0.5, (46, 20, 56, 30)), (0.5, SECOND))
    # One point: recall 1 at precision 2/3.
    assert car(dataset, *masks).ap50 == car(dataset, *reversed(masks)).ap50 == pytest.approx((2 / 3 + 1) / 2)


def test_an_evaluation_on_cityscapes_has_its_figures(tmp_path):
    dataset = one_street(tmp_path)
    made = found((CAR_LABEL, 0.9, FIRST), (PERSON_LABEL, 0.8, (75, 0, 95, 20)))
    plain = coco_metrics(dataset, made)
    evaluation = by_their_own_rules(plain, [Cityscapes("val")], dataset, made)
    assert evaluation.metrics["Cityscapes_AP50"] == 3 / 4
    assert evaluation.metrics["mask_AP50"] == plain.metrics["mask_AP50"]
    rows = {row["name"]: row for row in evaluation.as_json()["classes"]}
    assert (rows["person"]["Cityscapes_AP"], rows["car"]["Cityscapes_AP50"]) == (1, 0.5)
    assert rows["bus"]["Cityscapes_AP"] is None
    assert by_their_own_rules(plain, [Cityscapes("val"), Coco("a", "b")], dataset, made) == plain
    without = {1: Detections(made[1].boxes, made[1].scores, made[1].classes)}
    boxes = coco_metrics(dataset, without)
    assert by_their_own_rules(boxes, [Cityscapes("val")], dataset, without) == boxes


def test_wider_face_has_voc_s_figures_without_invalid_faces(tmp_path):
    wider_face(tmp_path, "val", {"a/b.jpg": ["2", "10 10 20 20 0 0 0 0 0 0", "50 10 20 20 0 0 0 1 0 0"]})
    dataset, _ = build_dataset([read_wider_face(tmp_path, "val")], ("face",), strict=True)
    boxes = np.asarray([[50, 10, 70, 30], [10, 10, 30, 30]], np.float32)
    made = {1: Detections(boxes, np.asarray([0.9, 0.8], np.float32), np.zeros(2, np.int64))}
    evaluation = by_their_own_rules(coco_metrics(dataset, made), [WiderFace("val")], dataset, made)
    assert (evaluation.metrics["VOC_AP50"], evaluation.metrics["VOC07_AP50"]) == (1, 1)
