"""COCO's metrics of detections whose figures are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE, coco_file, outline, voc_folder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.coco import read_coco
from detc.runtime.data.dataset import AnnotatedImage, Dataset, build_dataset
from detc.runtime.data.masks import Mask, as_json, bitmap, paste_masks, read_mask, run_lengths
from detc.runtime.data.preprocess import Detections, Placement, Preprocess
from detc.runtime.data.proposals import read_proposals
from detc.runtime.data.results import coco_results, coco_truth
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.data.voc import read_voc
from detc.runtime.evaluate import (
    MASK_METRICS,
    METRICS,
    PROPOSAL_METRICS,
    EvaluationImages,
    Measured,
    coco_metrics,
    deciding_metric,
    detect,
    evaluation_batches,
    evaluation_of,
    proposal_metrics,
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


# ---- masks


def disc(box: list[float], size: tuple[int, int] = (500, 500)) -> Mask:
    return read_mask([outline("disc", *box)], size)


def with_masks(item: AnnotatedImage, masks: list[Mask | None]) -> AnnotatedImage:
    return dataclasses.replace(item, masks=tuple(masks))


MASKED = Dataset(
    ("a", "b"), (5, 9), tuple(with_masks(item, [disc(box) for box in item.boxes]) for item in DATASET.images)
)


def masked(detections: Detections, masks: list[Mask]) -> Detections:
    return dataclasses.replace(detections, masks=tuple(run_lengths(mask, (500, 500)) for mask in masks))


def test_perfect_masks_have_mask_ap_1_and_squares_for_discs_do_not():
    exact = {n: masked(d, [disc(box) for box in d.boxes]) for n, d in perfect().items()}
    evaluation = coco_metrics(MASKED, exact)
    assert list(evaluation.metrics) == [*METRICS, *MASK_METRICS]
    assert evaluation.metrics["mask_AP"] == pytest.approx(1)
    assert [c.mask_ap for c in evaluation.classes] == [pytest.approx(1)] * 2
    square = {
        n: masked(d, [read_mask([outline("square", *box)], (500, 500)) for box in d.boxes.tolist()])
        for n, d in exact.items()
    }
    evaluation = coco_metrics(MASKED, square)
    # A disc covers pi / 4 = 0.785 of its square: right at the thresholds up to 0.75, six of ten.
    assert evaluation.metrics["AP"] == pytest.approx(1)
    assert evaluation.metrics["mask_AP"] == pytest.approx(0.6)
    assert evaluation.metrics["mask_AP75"] == pytest.approx(1)
    assert evaluation.as_json()["classes"][0]["mask_AP"] == pytest.approx(0.6)


def test_objects_without_a_usable_mask_count_for_boxes_alone():
    (first, second) = MASKED.images
    dataset = Dataset(("a", "b"), (5, 9), (with_masks(first, [first.masks[0], None, first.masks[2]]), second))
    made = {n: masked(d, [disc(box) for box in d.boxes]) for n, d in perfect().items()}
    missed = dict(made)
    missed[1] = masked(found([BOXES[0], BOXES[2]], [0.9, 0.9], [0, 1]), [disc(BOXES[0]), disc(BOXES[2])])
    evaluation = coco_metrics(dataset, missed)
    assert evaluation.metrics["mask_AP"] == pytest.approx(1)
    assert evaluation.metrics["AP"] < 0.8


def test_mask_figures_are_those_of_the_original_annotation_file(tmp_path):
    root = coco_file(tmp_path, 6)
    raw = read_coco(root / "annotations.json", root / "images", masks=True)
    dataset, _ = build_dataset([raw], CLASSES, strict=True)
    rng = np.random.default_rng(0)
    made = {}
    for item in dataset.images:
        boxes = np.clip(item.boxes + rng.normal(0, 1.5, item.boxes.shape), 0, [96, 64, 96, 64])
        masks = paste_masks(np.ones((len(boxes), 28, 28), np.float32), boxes, item.size)
        scores = rng.random(len(boxes))
        made[item.number] = Detections(boxes.astype(np.float32), scores, item.labels, tuple(masks))
    measured = Measured(coco_metrics(dataset, made), dataset, made)
    names = write_evaluation(tmp_path / "out", measured)
    assert names == ["metrics.json", "truth.json", "results.json"]
    for truth_file in (root / "annotations.json", tmp_path / "out" / "truth.json"):
        truth = COCO(str(truth_file))
        for kind, metric in (("bbox", "AP"), ("segm", "mask_AP")):
            run = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
            assert run.stats[0] == pytest.approx(measured.evaluation.metrics[metric], abs=1e-9)
            assert run.stats[8] == pytest.approx(measured.evaluation.metrics[metric.replace("AP", "AR100")], abs=1e-9)
    assert 0.1 < measured.evaluation.metrics["mask_AP"] < measured.evaluation.metrics["AP"]


def test_figures_by_size_and_of_recall_are_those_that_pycocotools_prints():
    rng = np.random.default_rng(5)
    images = []
    for number in range(1, 9):
        corners = rng.uniform(0, 300, (5, 2))
        sides = rng.choice([12, 60, 150], (5, 1)) * rng.uniform(0.8, 1.2, (5, 2))
        boxes = np.concatenate([corners, corners + sides], 1)
        images.append(image(number, boxes.tolist(), rng.integers(0, 2, 5).tolist(), (rng.random(5) < 0.2).tolist()))
    dataset = Dataset(("a", "b"), (5, 9), tuple(images))
    made = {
        i.number: found(
            (np.repeat(i.boxes, 3, 0) + rng.normal(0, 6, (15, 4))).tolist(),
            rng.random(15).tolist(),
            np.repeat(i.labels, 3).tolist(),
        )
        for i in images
    }
    truth = COCO()
    truth.dataset = coco_truth(dataset, as_json)
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(coco_results(dataset, made)), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert list(coco_metrics(dataset, made).metrics.values()) == pytest.approx(run.stats.tolist(), abs=1e-12)


@pytest.mark.parametrize("size", [(500, 500), (333, 250)])
def test_masks_reach_the_right_pixels_of_the_image(size):
    """An engine that sees every image scaled, and says of the right half of every box that the object is there."""
    width, height = size
    placement = Placement(size, (width // 2, height // 2))
    box = [40.0, 30.0, 120.0, 90.0]
    cells = np.zeros((1, 2, 28, 28), np.float32)
    cells[:, :, :, 14:] = 1
    outputs = {
        "boxes": np.asarray([[box, [0, 0, 0, 0]]], np.float32),
        "scores": np.asarray([[0.9, 0.0]], np.float32),
        "classes": np.asarray([[1, -1]]),
        "masks": cells,
    }
    (detections,) = Preprocess.detections(outputs, [placement])
    assert len(detections.masks) == 1
    pixels = bitmap(detections.masks[0])
    assert pixels.shape == (height, width)
    x1, y1, x2, y2 = detections.boxes[0]
    assert pixels[
        round(float(y1)) + 1 : round(float(y2)) - 1, round(float(x1 + x2) / 2) + 1 : round(float(x2)) - 1
    ].all()
    assert pixels.sum() == pytest.approx((x2 - x1) * (y2 - y1) / 2, rel=0.03)
    assert detections.above(0.95).masks == ()


# ---- proposals


def test_the_recall_of_proposals_counted_by_hand():
    """Two objects in the first image, one in the second, whatever their class."""
    dataset = Dataset(("a", "b"), (5, 9), (image(1, BOXES[:2], [0, 1]), image(2, BOXES[:1], [1])))
    far = [[400 + i % 50, 400 + i // 50, 420 + i % 50, 420 + i // 50] for i in range(1, 700)]
    x1, y1, x2, y2 = BOXES[1]
    half = [x1, y1, x2, y1 + (y2 - y1) * 0.62]  # finds its object at IoU 0.50, 0.55 and 0.60
    # Of the first image the first object is the best box, the second one is at place 200, and exactly so at 600.
    boxes = [BOXES[0], *far[:198], half, *far[198:598], BOXES[1]]
    scores = np.linspace(1, 0.1, len(boxes))
    made = {1: found(boxes, scores.tolist(), [0] * len(boxes)), 2: found(far[:3], [0.3, 0.2, 0.1], [0] * 3)}
    evaluation = proposal_metrics(dataset, made)
    assert tuple(evaluation.metrics) == PROPOSAL_METRICS
    assert evaluation.metrics["AR100"] == pytest.approx(1 / 3)
    assert evaluation.metrics["AR300"] == pytest.approx((1 + 0.3) / 3)
    assert evaluation.metrics["AR1000"] == pytest.approx(2 / 3)
    assert math.isnan(evaluation.metrics["ARs"])
    assert evaluation.metrics["ARm"] == pytest.approx(2 / 3)
    assert evaluation.classes == ()
    assert deciding_metric(tells_classes=False) == "AR1000"


def test_what_tells_no_classes_apart_is_measured_and_written_as_proposals(tmp_path):
    outputs = {
        "boxes": np.asarray([[BOXES[0], BOXES[1], [0, 0, 0, 0]]], np.float32),
        "scores": np.asarray([[0.9, 0.4, 0.0]], np.float32),
    }
    (detections,) = Preprocess.detections(outputs, [Placement((500, 500), (500, 500))])
    assert detections.classes.tolist() == [0, 0]
    made = {1: detections, 2: detections}
    names = write_evaluation(
        tmp_path, Measured(evaluation_of(DATASET, made, False, []), DATASET, made, tells_classes=False)
    )
    assert names == ["metrics.json", "truth.json", "results.json", "proposals.npz"]
    sizes = {i.number: i.size for i in DATASET.images}
    for name in ("results.json", "proposals.npz"):
        again = read_proposals(tmp_path / name, sizes, 10)
        assert again[2].boxes.tolist() == detections.boxes.tolist()
        assert again[2].scores.tolist() == pytest.approx(detections.scores.tolist())
    assert write_evaluation(tmp_path / "more", Measured(None, DATASET, made, tells_classes=False)) == ["proposals.npz"]


# ---- LVIS


def test_lvis_counts_a_class_only_where_somebody_looked_for_it():
    def judged(item: AnnotatedImage, absent: list[int], unfinished: list[int]) -> AnnotatedImage:
        return dataclasses.replace(item, absent=frozenset(absent), unfinished=frozenset(unfinished))

    first, second = image(1, BOXES[:1], [0]), image(2, BOXES[:1], [1])
    strange = [300, 300, 400, 400]
    made = {
        1: found([strange, BOXES[0]], [0.95, 0.9], [0, 0]),
        2: found([strange, BOXES[0], BOXES[0]], [0.95, 0.9, 0.9], [0, 0, 1]),
    }

    def ap(one: AnnotatedImage, two: AnnotatedImage) -> float:
        return coco_metrics(Dataset(("a", "b"), (5, 9), (one, two)), made).classes[0].ap

    assert ap(first, second) == pytest.approx(1 / 3, abs=0.01)  # three wrong boxes, two of them before the right one
    # Nobody looked for class 0 in the second image.
    assert ap(judged(first, [], []), judged(second, [], [])) == pytest.approx(1 / 2, abs=0.01)
    # It is certainly not there.
    assert ap(judged(first, [], []), judged(second, [0], [])) == pytest.approx(1 / 3, abs=0.01)
    # The first image may show more of class 0 than is annotated.
    assert ap(judged(first, [], [0]), judged(second, [], [])) == pytest.approx(1)
