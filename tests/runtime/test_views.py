"""Test-time augmentation: where what is found in a view lies in the image, and how views become one result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE, voc_data, voc_folder
from found import detected
from small_detectors import small_detector

import detc
from detc.cli.evaluate import evaluate as eval_command
from detc.cli.predict import predict as predict_command
from detc.compiler.graph import Value
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import save_weights
from detc.runtime.data.dataset import build_dataset
from detc.runtime.data.masks import bitmap
from detc.runtime.data.preprocess import Detections, Placement, Preprocess
from detc.runtime.data.proposals import Proposals
from detc.runtime.data.settings import Views, data_settings
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.data.voc import read_voc
from detc.runtime.evaluate import EvaluationImages, coco_metrics, detect
from detc.runtime.predict import Predictor
from detc.runtime.views import Augmentation, augmentation_of

ONCE = Preprocess(Resize((64, 64)), Normalize(**NORMALIZE.fields), 32)
EVERY = Augmentation(Views(((64, 64), (128, 128), (32, 32))), iou=0.5, keep=100)


def finder(image: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that finds the bounding box of all that is bright, as a disc, and says of its left half that the object
    is there."""
    rows, columns = np.where(image[0].mean(0) > 0)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    masks = np.zeros((1, 1, 28, 28), np.float32)
    masks[..., :14] = 1
    found = {"boxes": np.asarray([[box]], np.float32), "scores": np.asarray([[0.9]], np.float32)}
    return {**found, "classes": np.asarray([[1]]), "masks": masks}


def bright(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (333, 77), (40, 200)])
def test_boxes_come_back_from_where_the_image_went(mirrored, size):
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, 1, (20, 2, 2)), axis=1) * size
    boxes = corners.reshape(20, 4).astype(np.float32)
    (_, (placement,)) = dataclasses.replace(ONCE, mirrored=mirrored)([np.zeros((size[1], size[0], 3), np.uint8)])
    assert placement.back(placement.layer.place.boxes(boxes)) == pytest.approx(boxes, abs=1e-3)


def test_a_mirrored_view_has_the_pixels_where_its_placement_says():
    image = bright(64, 48, (10, 20, 17, 40))
    batch, (placement,) = dataclasses.replace(ONCE, mirrored=True)([image])
    assert placement == Placement((64, 48), (64, 48), mirrored=True)
    rows, columns = np.where(batch[0, 0] > 0)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen == [47, 20, 54, 40]
    assert placement.layer.place.boxes(np.asarray([[10.0, 20, 17, 40]])).tolist() == [seen]
    assert placement.back(np.asarray([seen])).tolist() == [[10, 20, 17, 40]]


@pytest.mark.parametrize("flip", [True, False])
def test_what_is_exact_in_one_view_is_so_in_all(flip):
    image = bright(64, 64, (6, 10, 22, 48))
    augmentation = dataclasses.replace(EVERY, views=dataclasses.replace(EVERY.views, flip=flip))
    plain = Predictor(finder, ONCE, CLASSES).find(image)
    merged = Predictor(finder, ONCE, CLASSES, augmentation).find(image)
    assert plain.boxes.tolist() == merged.boxes.tolist() == [[6, 10, 22, 48]]
    assert merged.names == ["disc"]
    assert merged.scores.tolist() == plain.scores.tolist()


def test_the_engine_sees_each_size_and_its_mirror_image():
    seen = []

    def engine(image: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(image.shape[2:])
        return finder(image)

    Predictor(engine, ONCE, CLASSES, EVERY).find(bright(64, 64, (6, 10, 22, 48)))
    assert seen == [(64, 64), (64, 64), (128, 128), (128, 128), (32, 32), (32, 32)]
    seen.clear()
    Predictor(engine, ONCE, CLASSES, Augmentation(Views(), 0.5, 100)).find(bright(64, 32, (6, 10, 22, 30)))
    assert seen == [(32, 64), (32, 64)]


def test_a_mask_of_a_mirrored_view_is_mirrored_back():
    """The engine says so of the left half of what it sees: of the image, that is the right half."""
    image = bright(64, 64, (8, 8, 40, 40))
    once = dataclasses.replace(ONCE, mirrored=True)
    (found,) = Preprocess.detections(finder(once([image])[0]), once([image])[1])
    pixels = bitmap(found.masks[0])
    assert pixels[10:38, 26:38].all()
    assert not pixels[:, :23].any()
    merged = EVERY.merged([found])
    assert merged.masks == found.masks


def test_views_are_merged_by_one_more_suppression_within_each_class():
    near, far, other = [10.0, 10, 50, 50], [200.0, 10, 240, 50], [12.0, 10, 52, 50]
    first = detected((0, 0.6, near), (1, 0.5, near))
    second = detected((0, 0.8, other), (1, 0.3, far))
    merged = Augmentation(Views(), 0.5, 100).merged([first, second])
    assert [(int(c), round(float(s), 3)) for c, s in zip(merged.classes, merged.scores, strict=True)] == [
        (0, 0.8),  # of two boxes on one object the better, from whichever view
        (1, 0.5),  # another class in the same place
        (1, 0.3),  # what one view alone has found
    ]
    assert merged.boxes.tolist() == [other, near, far]
    assert merged.masks is None
    # IoU of near and other is 38 / 42: they are two objects where that is not too much.
    assert len(Augmentation(Views(), 0.95, 100).merged([first, second]).boxes) == 4
    assert Augmentation(Views(), 0.5, 2).merged([first, second]).boxes.tolist() == [other, near]
    nothing = detected()
    assert len(Augmentation(Views(), 0.5, 2).merged([nothing, nothing]).boxes) == 0


def test_the_masks_that_stay_are_those_of_the_boxes_that_stay():
    def masked(detections: Detections, *names: str) -> Detections:
        return dataclasses.replace(detections, masks=tuple({"counts": name} for name in names))

    first = masked(detected((0, 0.6, [10, 10, 50, 50]), (0, 0.5, [90, 10, 130, 50])), "a", "b")
    second = masked(detected((0, 0.8, [10, 10, 50, 50])), "c")
    merged = Augmentation(Views(), 0.5, 100).merged([first, second])
    assert merged.masks == ({"counts": "c"}, {"counts": "b"})


# ---- evaluations


def test_an_evaluation_merges_the_views_of_each_image(tmp_path):
    """An engine that finds what is annotated, wherever the view has it: AP is 1, and no box is there twice."""
    dataset, _ = build_dataset([read_voc(voc_folder(tmp_path / "voc", {"test": 4}), "test")], CLASSES, strict=True)
    once = Preprocess(Resize((96, 64)), Normalize(**NORMALIZE.fields), 32)
    augmentation = Augmentation(Views(((96, 64), (192, 128))), 0.5, 100)
    images = EvaluationImages(dataset, *augmentation.of(once))
    items = [images[index] for index in range(len(images))]
    assert [item[2][0].number for item in items] == [image.number for image in dataset.images for _ in range(4)]
    seen = iter(items)

    def engine(image: np.ndarray) -> dict[str, np.ndarray]:
        _, (placement,), (item,) = next(seen)
        boxes = placement.layer.place.boxes(item.boxes)[None].astype(np.float32)
        return {"boxes": boxes, "scores": np.full((1, len(item.boxes)), 0.9), "classes": item.labels[None]}

    made = {image.number: found for image, found in detect(engine, items, 4, augmentation.merged)}
    assert coco_metrics(dataset, made).metrics["AP"] == pytest.approx(1)
    assert [len(made[image.number].boxes) for image in dataset.images] == [len(i.boxes) for i in dataset.images]


def test_proposals_are_mirrored_with_their_image(tmp_path):
    dataset, _ = build_dataset([read_voc(voc_folder(tmp_path / "voc", {"test": 1}), "test")], CLASSES, strict=True)
    given = Proposals(np.asarray([[10, 5, 30, 25]], np.float32), np.asarray([0.5], np.float32))
    dataset = dataclasses.replace(dataset, images=(dataclasses.replace(dataset.images[0], proposals=given),))
    once = Preprocess(Resize((96, 64)), Normalize(**NORMALIZE.fields), 32)
    plain, mirrored = (EvaluationImages(dataset, *Augmentation(Views(), 0.5, 9).of(once))[i][0] for i in range(2))
    assert plain["proposals"][0, 0].tolist() == [10, 5, 30, 25]
    assert mirrored["proposals"][0, 0].tolist() == [66, 5, 86, 25]


# ---- settings

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors, Detection from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, Views from "lib/data.det"

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..4)
    head     = RetinaHead(stacked = 1, channels = 16, detection = Detection(score = 0.0, iou = 0.4, keep = 7),
                          anchors = Anchors(octave_scale = 2.0, octaves = 2, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", resize = Resize([96, 64]))
}
detector looking_twice = tiny with { data.test_views = Views(sizes = [[96, 64], [192, 128]], flip = false) }
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "tiny.det").write_text(SPEC)
    voc_folder(tmp_path / "data", {"train": 1, "val": 1, "test": 3})
    for name in ("tiny", "looking_twice"):
        detector = detc.load(tmp_path / "tiny.det", name)
        save_weights(tmp_path / "w.safetensors", detector.module("predict").state_dict(), detector)
    return tmp_path / "tiny.det"


def test_the_spec_and_the_command_line_say_how_often_an_image_is_seen(spec):
    plain, twice = detc.load(spec, "tiny"), detc.load(spec, "looking_twice")
    once, more = (data_settings(detector.data) for detector in (plain, twice))
    assert once.test_views is None
    assert augmentation_of(plain.graph, once, None) is None
    assert augmentation_of(plain.graph, once, True) == Augmentation(Views(), 0.4, 7)
    declared = augmentation_of(twice.graph, more, None)
    assert declared == augmentation_of(twice.graph, more, True)
    assert [(view.resize.size, view.mirrored) for view in declared.of(ONCE)] == [((96, 64), False), ((192, 128), False)]
    assert augmentation_of(twice.graph, more, False) is None


def test_detectors_with_masks_and_two_stages_say_how_their_boxes_are_merged(tmp_path):
    settings = data_settings(voc_data())
    for name in ("mask_rcnn", "cascade", "faster_rcnn"):
        assert augmentation_of(small_detector(tmp_path, name).graph, settings, True) == Augmentation(Views(), 0.5, 100)


def test_boxes_that_no_suppression_chose_are_not_merged(spec):
    graph = detc.load(spec, "tiny").graph
    other = graph.replaced(views={**graph.views, "predict": {"boxes": Value("image")}})
    settings = data_settings(voc_data())
    with pytest.raises(DiagnosticError) as error:
        augmentation_of(other, settings, True)
    assert error.value.diagnostics[0].kind.slug == "views-not-merged"
    assert augmentation_of(other, settings, None) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": (), "flip": False},
        {"sizes": ((64, 64),), "flip": False},
        {"sizes": ((64, 64), (64, 64)), "flip": True},
        {"sizes": ((64, 0),), "flip": True},
        {"sizes": (64, 64), "flip": True},
        {"sizes": ((64, 64.5),), "flip": True},
        {"sizes": 3, "flip": True},
    ],
)
def test_views_that_are_none_are_refused(fields):
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(test_views=Record("Views", fields)))
    assert error.value.diagnostics[0].kind.slug == "bad-setting"


def test_eval_and_predict_look_as_often_as_they_are_told(spec, tmp_path, capsys):
    def views(name: str, **options) -> int:
        folder = tmp_path / f"{name}-{options.get('tta')}"
        eval_command(f"{spec}:{name}", tmp_path / "w.safetensors", output=folder, workers=0, **options)
        return json.loads((folder / "metrics.json").read_text())["views"]

    assert [views("tiny"), views("tiny", tta=True)] == [1, 2]
    assert "3 images of test in 2 views each" in capsys.readouterr().out
    assert [views("looking_twice"), views("looking_twice", tta=False)] == [2, 1]
    cv2.imwrite(str(tmp_path / "a.png"), bright(96, 64, (8, 8, 40, 40)))
    found = {}
    for tta in (False, True):
        folder = tmp_path / f"found-{tta}"
        predict_command(f"{spec}:tiny", [str(tmp_path / "a.png")], folder, tmp_path / "w.safetensors", 0.0, tta)
        found[tta] = json.loads((folder / "predictions.json").read_text())["annotations"]
    assert found[True] != found[False]
    assert len(found[True]) == 7
    model = detc.load(spec, "tiny").predictor(tmp_path / "w.safetensors", tta=True)
    assert model([tmp_path / "a.png"])[0].scores[0] == pytest.approx(found[True][0]["score"], abs=1e-6)
