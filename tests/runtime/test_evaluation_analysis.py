"""Curves, confusions and kinds of errors, of tiny sets whose answer is known, and against pycocotools."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from drawn import outline
from found import Box, annotated, detected

from detc.runtime.data.dataset import Dataset
from detc.runtime.data.masks import Mask, read_mask, run_lengths
from detc.runtime.data.preprocess import Detections
from detc.runtime.evaluate import coco_metrics
from detc.runtime.evaluation.analysis import analyse
from detc.runtime.evaluation.confusion import confusion
from detc.runtime.evaluation.curves import best_working, workings
from detc.runtime.evaluation.errors import KINDS, errors
from detc.runtime.evaluation.matches import match

HERE: Box = [100, 100, 200, 200]
THERE: Box = [300, 100, 400, 200]
BESIDE: Box = [160, 100, 260, 200]  # IoU 0.25 with HERE
FAR: Box = [100, 400, 200, 480]


def dataset(*images, classes: int = 2) -> Dataset:
    names = tuple("abcdefgh"[:classes])
    return Dataset(names, tuple(range(3, 3 + 2 * classes, 2)), images)


def random_set(seed: int, images: int = 12, classes: int = 3):
    """Objects, some set aside, with boxes around them, some of another class, and boxes anywhere."""
    rng = np.random.default_rng(seed)
    truth, found = [], {}
    for number in range(1, images + 1):
        corners = rng.uniform(0, 300, (6, 2))
        boxes = np.concatenate(
            [corners, corners + rng.choice([20, 60, 150], (6, 1)) * rng.uniform(0.8, 1.2, (6, 2))], 1
        )
        labels = rng.integers(0, classes, 6)
        objects = list(zip(labels.tolist(), boxes.tolist(), strict=True))
        truth.append(annotated(number, objects, tuple(np.flatnonzero(rng.random(6) < 0.15))))
        near = np.repeat(boxes, 3, 0) + rng.normal(0, 6, (18, 4))
        said = np.where(rng.random(18) < 0.8, np.repeat(labels, 3), rng.integers(0, classes, 18))
        scores = rng.random(18).round(1)  # with many of the same score
        found[number] = detected(*zip(said.tolist(), scores.tolist(), near.tolist(), strict=True))
    return dataset(*truth, classes=classes + 1), found


@pytest.mark.parametrize("seed", range(4))
def test_curves_are_pycocotools_precision_at_half(seed):
    data, found = random_set(seed)
    analysis, matches = analyse(data, found), match(data, found)
    for label, row in enumerate(analysis.classes):
        if row.objects:
            np.testing.assert_allclose(row.precision, matches.precision[label, 0], atol=1e-12)
        else:
            assert np.isnan(row.precision).all()
    assert math.isnan(analysis.classes[-1].ap50)
    evaluation = coco_metrics(data, found)
    assert analysis.errors.ap50 == pytest.approx(evaluation.metrics["AP50"], abs=1e-12)
    assert [row.ap50 for row in analysis.classes[:-1]] == pytest.approx([c.ap50 for c in evaluation.classes[:-1]])
    assert 0.1 < analysis.errors.ap50 < 0.9


@pytest.mark.parametrize("score", [0.0, 0.35, 0.7, 1.1])
def test_the_confusion_matrix_adds_up(score):
    data, found = random_set(7)
    matches = match(data, found)
    matrix = confusion(matches, score)
    objects = sum(np.bincount(i.labels[~i.ignored], minlength=4) for i in data.images)
    assert matrix.sum(1)[:-1].tolist() == objects.tolist()
    believed = matches.labels[(matches.scores >= score) & ~matches.aside]
    assert matrix.sum(0)[:-1].tolist() == np.bincount(believed, minlength=4).tolist()
    assert np.trace(matrix) == ((matches.objects >= 0) & (matches.scores >= score)).sum()
    assert matrix[-1, -1] == 0
    if score == 0.7:
        assert (matrix[:3, :3] - np.diag(np.diag(matrix)[:3])).sum() > 0
    if score > 1:
        assert matrix[:, -1].sum() == objects.sum()


def test_a_confusion_matrix_counted_by_hand():
    """One right, one taken for b, one missed, one box on nothing, one of low score, one on a crowd."""
    data = dataset(
        annotated(1, [(0, HERE), (0, THERE), (1, FAR), (1, [0, 0, 50, 50])], ignored=(3,)),
    )
    found = {
        1: detected(
            (0, 0.9, HERE), (1, 0.8, THERE), (0, 0.7, [400, 400, 450, 450]), (1, 0.2, FAR), (1, 0.9, [0, 0, 50, 50])
        )
    }
    assert confusion(match(data, found), 0.5).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert confusion(match(data, found), 0.1).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_an_object_is_taken_for_one_class_alone_and_a_right_box_comes_first():
    data = dataset(annotated(1, [(0, HERE)]), annotated(2, [(0, HERE)]), classes=3)
    found = {
        1: detected((1, 0.9, HERE), (2, 0.8, HERE)),
        2: detected((1, 0.9, HERE), (0, 0.6, HERE)),
    }
    matrix = confusion(match(data, found), 0.5)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]


# ---- errors


def counted(data: Dataset, found) -> dict[str, int]:
    return {name: int(n) for name, n in zip(KINDS, errors(match(data, found)).counts.sum(0), strict=True) if n}


def test_a_box_of_the_wrong_class_costs_what_its_object_would_give():
    data = dataset(annotated(1, [(0, HERE), (1, THERE)]))
    found = {1: detected((1, 0.9, HERE), (1, 0.8, THERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"classification": 1}
    assert result.counts[1, 0] == 1
    assert result.ap50 == pytest.approx(0.25)  # a not found; b right at the second place
    assert result.gains["classification"] == pytest.approx(0.75)
    assert sum(result.gains.values()) == pytest.approx(0.75)  # nothing else is wrong
    assert result.wrong == pytest.approx(0.25)  # b at the first place
    assert result.unfound == pytest.approx(0.5)  # a has nothing left


def test_a_box_beside_its_object_costs_what_the_object_would_give():
    data = dataset(annotated(1, [(0, HERE), (0, THERE)]), classes=1)
    found = {1: detected((0, 0.9, BESIDE), (0, 0.8, THERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"localisation": 1}
    assert result.ap50 == pytest.approx(0.5 * 51 / 101)  # recalls 0 to 0.5 at precision 1/2
    assert result.gains["localisation"] == pytest.approx(1 - result.ap50)
    assert result.gains["missed"] == 0


def test_a_box_of_the_wrong_class_beside_an_object_is_wrong_in_both_and_the_object_missed():
    data = dataset(annotated(1, [(0, HERE), (1, THERE)]))
    found = {1: detected((1, 0.9, BESIDE), (1, 0.8, THERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"both": 1, "missed": 1}
    assert result.gains["both"] == pytest.approx(0.25)  # the box goes: AP50 of b from 1/2 to 1
    assert result.gains["missed"] == pytest.approx(0.5)  # nothing of a is left to find
    assert result.gains["classification"] == result.gains["localisation"] == 0


def test_a_second_box_on_a_found_object_is_a_duplicate():
    data = dataset(annotated(1, [(0, HERE), (0, THERE)]), classes=1)
    found = {1: detected((0, 0.9, HERE), (0, 0.8, HERE), (0, 0.7, THERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"duplicate": 1}
    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result.gains["duplicate"] == pytest.approx(1 - result.ap50)


def test_a_box_on_nothing_is_background():
    data = dataset(annotated(1, [(0, HERE)]), annotated(2, []), classes=1)
    found = {1: detected((0, 0.5, HERE), (0, 0.8, FAR)), 2: detected((0, 0.9, HERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"background": 2}
    assert result.ap50 == pytest.approx(1 / 3)
    assert result.gains["background"] == pytest.approx(2 / 3) == pytest.approx(result.wrong)


def test_an_object_without_a_box_is_missed():
    data = dataset(annotated(1, [(0, HERE), (0, THERE)]), classes=1)
    found = {1: detected((0, 0.9, HERE))}
    result = errors(match(data, found))
    assert counted(data, found) == {"missed": 1}
    assert result.ap50 == pytest.approx(51 / 101)
    assert result.gains["missed"] == pytest.approx(50 / 101) == pytest.approx(result.unfound)
    nothing = errors(match(data, {}))
    assert nothing.ap50 == 0 and nothing.gains["missed"] == 1


def test_of_several_boxes_beside_one_object_the_best_is_mended_and_the_others_go():
    data = dataset(annotated(1, [(0, HERE)]), classes=1)
    found = {1: detected((0, 0.9, BESIDE), (0, 0.8, [40, 100, 140, 200]))}
    result = errors(match(data, found))
    assert counted(data, found) == {"localisation": 2}
    assert result.gains["localisation"] == pytest.approx(1)
    # Beside an object that is found already, a box can only go.
    found = {1: detected((0, 0.9, BESIDE), (0, 0.8, HERE))}
    assert errors(match(data, found)).gains["localisation"] == pytest.approx(0.5)


def test_a_kind_is_mended_as_if_the_others_were_not_there():
    """The same object has a better box beside it; giving the second one its class alone finds it all the same."""
    data = dataset(annotated(1, [(0, HERE)]))
    result = errors(match(data, {1: detected((0, 0.9, BESIDE), (1, 0.8, HERE))}))
    assert result.gains["classification"] == pytest.approx(1 / 2)  # right at the second place
    assert result.gains["localisation"] == pytest.approx(1)
    assert result.gains["missed"] == 0


def test_boxes_on_what_is_set_aside_are_no_errors():
    data = dataset(annotated(1, [(0, HERE), (0, THERE)], ignored=(1,)), classes=1)
    found = {1: detected((0, 0.9, THERE), (0, 0.8, HERE), (0, 0.7, THERE))}
    result = errors(match(data, found))
    assert result.ap50 == pytest.approx(1)
    assert result.counts.sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_every_wrong_box_is_of_one_kind_and_mending_never_costs(seed):
    data, found = random_set(seed)
    matches = match(data, found)
    result = errors(matches)
    assert result.counts[:, :-1].sum() == ((matches.objects < 0) & ~matches.aside).sum()
    assert min(result.gains.values()) >= 0
    assert max(result.gains.values()) <= 1 - result.ap50 + 1e-12
    assert result.wrong >= max(result.gains[name] for name in ("both", "duplicate", "background"))


def test_classes_that_lvis_did_not_look_for_are_no_errors():
    judged = dataclasses.replace(annotated(1, [(0, HERE)]), absent=frozenset(), unfinished=frozenset([0]))
    found = {1: detected((0, 0.9, HERE), (1, 0.9, HERE), (0, 0.8, FAR))}
    assert counted(dataset(judged), found) == {}
    assert counted(dataset(annotated(1, [(0, HERE)])), found) == {"classification": 1, "background": 1}


# ---- scores and sizes


def test_the_best_f1_is_where_hand_counting_has_it():
    scores = np.asarray([0.9, 0.8, 0.7, 0.7, 0.2])
    hits = np.asarray([True, False, True, True, False])
    best = best_working(scores, hits, 4)
    assert best.score == 0.7
    assert (best.precision, best.recall) == (3 / 4, 3 / 4)
    assert best.f1 == pytest.approx(3 / 4)
    # Boxes of the same score are believed together.
    assert [w.score for w in workings(scores, hits, 4)] == [0.9, 0.8, 0.7, 0.2]
    assert math.isnan(best_working(scores[:0], hits[:0], 4).f1)
    assert math.isnan(best_working(scores, hits, 0).f1)


def test_of_the_same_f1_the_higher_score_is_taken():
    best = best_working(np.asarray([0.9, 0.5, 0.3]), np.asarray([True, False, True]), 3)
    assert best.score == 0.3
    best = best_working(np.asarray([0.9, 0.5, 0.3, 0.2]), np.asarray([True, False, False, True]), 2)
    assert (best.score, best.f1) == (0.9, pytest.approx(2 / 3))


def test_sizes_are_told_apart():
    small, large = [10.0, 10.0, 30.0, 30.0], [100.0, 100.0, 300.0, 300.0]
    data = dataset(annotated(1, [(0, small), (0, large), (0, [310, 10, 330, 30])]), classes=1)
    analysis = analyse(data, {1: detected((0, 0.9, small), (0, 0.4, large))}, score=0.5)
    by_name = {row.name: row for row in analysis.sizes}
    assert (by_name["small"].objects, by_name["small"].recall) == (2, 0.5)
    assert by_name["small"].ap50 == pytest.approx(51 / 101)
    assert (by_name["large"].objects, by_name["large"].recall) == (1, 0)
    assert by_name["large"].ap50 == pytest.approx(1)
    assert by_name["medium"].objects == 0 and math.isnan(by_name["medium"].ap50)
    assert analyse(data, {1: detected((0, 0.9, small), (0, 0.4, large))}).score == pytest.approx(0.4)


def test_nothing_found_is_analysed_too():
    analysis = analyse(dataset(annotated(1, [(0, HERE)])), {})
    assert analysis.errors.ap50 == 0
    assert analysis.matrix.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert analysis.at_score.recall == 0 and math.isnan(analysis.at_score.precision)
    assert analysis.as_json()["classes"][0]["best_F1"]["score"] is None


# ---- masks

SIZE = (500, 500)


def square(box: Box) -> Mask:
    return read_mask([outline("square", *box)], SIZE)


def with_masks(data: Dataset, found: dict[int, Detections]) -> tuple[Dataset, dict[int, Detections]]:
    """The same with masks that fill their boxes, found ones a little less: nine tenths of the width."""
    images = [dataclasses.replace(i, masks=tuple(square(box) for box in i.boxes.tolist())) for i in data.images]
    masked = {}
    for number, detections in found.items():
        boxes = np.clip(detections.boxes, 0, 499)
        boxes[:, 2] -= 0.1 * (boxes[:, 2] - boxes[:, 0])
        runs = tuple(run_lengths(square(box), SIZE) for box in boxes.tolist())
        masked[number] = dataclasses.replace(detections, masks=runs)
    return dataclasses.replace(data, images=tuple(images)), masked


@pytest.mark.parametrize("seed", range(2))
def test_masks_are_analysed_as_pycocotools_measures_them(seed):
    data, found = with_masks(*random_set(seed))
    boxes, masks = analyse(data, found), analyse(data, found, masks=True)
    metrics = coco_metrics(data, found).metrics
    assert masks.errors.ap50 == pytest.approx(metrics["mask_AP50"], abs=1e-12)
    assert boxes.errors.ap50 == pytest.approx(metrics["AP50"], abs=1e-12)
    assert masks.errors.ap50 != boxes.errors.ap50
    matches = match(data, found, "segm")
    for label, row in enumerate(masks.classes):
        if row.objects:
            np.testing.assert_allclose(row.precision, matches.precision[label, 0], atol=1e-12)
    assert (masks.matrix.sum(1)[:-1] == boxes.matrix.sum(1)[:-1]).all()
    assert masks.as_json()["of"] == "masks"


def test_a_mask_may_be_wrong_where_its_box_is_right():
    """Of the first object the mask is found, of the second a third of it; the third has no usable mask."""
    image = annotated(1, [(0, HERE), (0, THERE), (1, FAR)])
    image = dataclasses.replace(image, masks=(square(HERE), square(THERE), None))
    found = detected((0, 0.9, HERE), (0, 0.8, THERE), (1, 0.7, FAR))
    x1, y1, x2, y2 = THERE
    third = square([x1, y1, x1 + (x2 - x1) / 3, y2])
    runs = tuple(run_lengths(mask, SIZE) for mask in (square(HERE), third, square(FAR)))
    found = {1: dataclasses.replace(found, masks=runs)}
    boxes, masks = analyse(dataset(image), found, 0.5), analyse(dataset(image), found, 0.5, masks=True)
    assert dict(zip(KINDS, boxes.errors.counts.sum(0), strict=True)) == dict.fromkeys(KINDS, 0)
    wrong = dict(zip(KINDS, masks.errors.counts.sum(0), strict=True))
    assert wrong["localisation"] == 1
    assert [row.objects for row in boxes.classes] == [2, 1]
    assert [row.objects for row in masks.classes] == [2, 0]
    assert boxes.matrix.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert masks.matrix[0].tolist() == [1, 0, 1]
