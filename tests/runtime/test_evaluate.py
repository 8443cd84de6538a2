"""COCO's metrics of detections whose figures are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE, coco_file, voc_folder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.coco import read_coco
from detc.runtime.data.dataset import AnnotatedImage, Dataset, build_dataset
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.data.voc import read_voc
from detc.runtime.evaluate import (
    EvaluationImages,
    Measured,
    coco_metrics,
    detect,
    evaluation_batches,
    write_evaluation,
)


def image(
    number: int, boxes: list[list[float]], labels: list[int], ignored: list[bool] | None = None
) -> AnnotatedImage:
    array = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    marks = np.asarray(ignored if ignored is not None else [False] * len(boxes), bool)
    return AnnotatedImage(number, Path(f"{number}.jpg"), (500, 500), array, np.asarray(labels, np.int64), areas, marks)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores), np.asarray(labels, np.int64))


BOXES = [[10, 10, 60, 60], [100, 100, 150, 160], [200, 10, 320, 200]]
DATASET = Dataset(("a", "b"), (5, 9), (image(1, BOXES, [0, 1, 1]), image(2, BOXES[:1], [0])))


def perfect() -> dict[int, Detections]:
    return {i.number: found(i.boxes.tolist(), [0.9] * len(i.boxes), i.labels.tolist()) for i in DATASET.images}


def test_perfect_detections_have_ap_1():
    evaluation = coco_metrics(DATASET, perfect())
    assert evaluation.metrics["AP"] == pytest.approx(1)
    assert evaluation.metrics["AR100"] == pytest.approx(1)
    assert math.isnan(evaluation.metrics["APs"])
    assert [(c.name, c.objects, round(c.ap, 6)) for c in evaluation.classes] == [("a", 2, 1.0), ("b", 2, 1.0)]


def test_wrong_classes_missed_images_and_shifted_boxes_cost_what_they_should():
    swapped = perfect()
    swapped[1] = found(BOXES, [0.9] * 3, [1, 0, 0])
    assert coco_metrics(DATASET, swapped).classes[1].ap50 == 0
    missed = {1: perfect()[1]}
    assert coco_metrics(DATASET, missed).classes[0].ap50 == pytest.approx(0.505, abs=0.01)
    shifted = {n: Detections(d.boxes + np.float32(8), d.scores, d.classes) for n, d in perfect().items()}
    evaluation = coco_metrics(DATASET, shifted)
    assert evaluation.metrics["AP50"] == pytest.approx(1)
    assert evaluation.metrics["AP75"] < 0.6


def test_nothing_found_has_ap_0():
    evaluation = coco_metrics(DATASET, {})
    assert evaluation.metrics["AP"] == 0
    assert [c.ap50 for c in evaluation.classes] == [0, 0]


def test_ignored_objects_neither_help_nor_hurt():
    dataset = Dataset(("a",), (1,), (image(1, BOXES, [0, 0, 0], [False, True, False]),))
    for boxes in (BOXES, [BOXES[0], BOXES[2]]):
        evaluation = coco_metrics(dataset, {1: found(boxes, [0.9] * len(boxes), [0] * len(boxes))})
        assert evaluation.metrics["AP"] == pytest.approx(1)


def test_a_class_without_objects_has_no_figure_and_does_not_lower_the_mean():
    dataset = Dataset(("a", "b", "none"), (5, 9, 11), DATASET.images)
    evaluation = coco_metrics(dataset, perfect())
    assert math.isnan(evaluation.classes[2].ap)
    assert evaluation.metrics["AP"] == pytest.approx(1)
    assert evaluation.as_json()["classes"][2]["AP"] is None


def test_figures_are_those_of_the_original_annotation_file(tmp_path):
    root = coco_file(tmp_path, 6)
    dataset, _ = build_dataset([read_coco(root / "annotations.json", root / "images")], CLASSES, strict=True)
    rng = np.random.default_rng(0)
    made = {}
    for item in dataset.images:
        boxes = np.concatenate([item.boxes + rng.normal(0, 2, item.boxes.shape), [[1, 1, 20, 20]]])
        made[item.number] = found(boxes.tolist(), rng.random(len(boxes)).tolist(), [*item.labels.tolist(), 0])
    measured = Measured(coco_metrics(dataset, made), dataset, made)
    write_evaluation(tmp_path / "out", measured)
    for truth_file in (root / "annotations.json", tmp_path / "out" / "truth.json"):
        truth = COCO(str(truth_file))
        run = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        assert run.stats[0] == pytest.approx(measured.evaluation.metrics["AP"], abs=1e-3)
    assert 0.1 < measured.evaluation.metrics["AP"] < 0.95
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_while_it_is_needed_is_named(tmp_path, workers):
    root = voc_folder(tmp_path / "voc", {"test": 3})
    dataset, _ = build_dataset([read_voc(root, "test")], CLASSES, strict=True)
    dataset.images[1].path.unlink()
    images = EvaluationImages(dataset, Preprocess(Resize((48, 32)), Normalize(**NORMALIZE.fields), 32))
    nothing = {"boxes": np.zeros((1, 1, 4)), "scores": np.zeros((1, 1)), "classes": np.full((1, 1), -1)}
    with pytest.raises(DiagnosticError) as error:
        list(detect(lambda image: nothing, evaluation_batches(images, workers)))
    assert "img_001.jpg: No such file" in error.value.diagnostics[0].summary


@pytest.mark.parametrize("workers", [0, 1])
def test_detections_reach_the_right_image_in_its_own_pixels(tmp_path, workers):
    root = voc_folder(tmp_path / "voc", {"test": 5})
    dataset, _ = build_dataset([read_voc(root, "test")], CLASSES, strict=True)
    preprocess = Preprocess(Resize((48, 32)), Normalize(**NORMALIZE.fields), 32)
    truth = iter(dataset.images)

    def engine(image: np.ndarray) -> dict[str, np.ndarray]:
        assert image.shape == (1, 3, 32, 64)
        item = next(truth)
        rows = len(item.boxes)
        return {
            "boxes": np.concatenate([item.boxes / 2, np.zeros((3 - rows, 4))])[None],
            "scores": np.asarray([[0.9] * rows + [0.0] * (3 - rows)]),
            "classes": np.asarray([[*item.labels.tolist(), *[-1] * (3 - rows)]]),
        }

    batches = evaluation_batches(EvaluationImages(dataset, preprocess), workers)
    made = {item.number: detections for item, detections in detect(engine, batches)}
    assert coco_metrics(dataset, made).metrics["AP"] == pytest.approx(1)
