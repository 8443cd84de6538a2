"""Predicting on files: which are taken, what is written, in whose pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE
from pycocotools import mask as coco_masks

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.masks import bitmap
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.inputs import media_files
from detc.runtime.predict import Predictor
from detc.runtime.predictions import write_predictions


def finder(image: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that finds the bounding box of all that is bright, as a disc, and a box larger than the image."""
    rows, columns = np.where(image[0].mean(0) > 0.5)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return {
        "boxes": np.asarray([[box, [-50, -50, 5000, 5000], [0, 0, 0, 0]]], np.float32),
        "scores": np.asarray([[0.9, 0.1, 0.0]], np.float32),
        "classes": np.asarray([[1, 0, -1]]),
    }


PREDICTOR = Predictor(finder, Preprocess(Resize((64, 64)), Normalize(**NORMALIZE.fields), 32), CLASSES)


def bright_square(path: Path, width: int, height: int, box: tuple[int, int, int, int]) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    cv2.imwrite(str(path), image)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (256, 128), (40, 200), (333, 77)])
def test_boxes_are_in_pixels_of_the_image_and_within_it(tmp_path, width, height):
    box = (width // 4, height // 4, width * 3 // 4, height // 2)
    bright_square(tmp_path / "a.png", width, height, box)
    (look,) = write_predictions(PREDICTOR, [tmp_path / "a.png"], tmp_path / "out", 0.3)
    found = look.found
    pixel = max(width, height) / 64 + 1
    assert np.abs(found.boxes[0] - np.asarray(box)).max() <= pixel
    assert found.boxes[1].tolist() == [0, 0, width, height]
    assert len(found.boxes) == 2


def test_predictions_are_coco_json_and_pictures_draw_what_is_above_the_score(tmp_path):
    bright_square(tmp_path / "a.png", 128, 128, (32, 32, 64, 96))
    list(write_predictions(PREDICTOR, [tmp_path / "a.png"], tmp_path / "out", 0.3))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    first, second = content["annotations"]
    assert first["category_id"] == 2
    assert first["bbox"] == pytest.approx([32, 32, 32, 64], abs=2)
    assert second["score"] == pytest.approx(0.1)
    picture = cv2.imread(str(tmp_path / "out" / content["images"][0]["picture"]))
    assert picture.shape == (128, 128, 3)
    assert (picture[127, 0] == 0).all()


def test_files_folders_and_patterns_are_taken_once(tmp_path):
    for name in ("a.png", "b.JPG", "v.mp4", "deep/c.png", "deep/er/d.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    a, b, v, c, d = (tmp_path / name for name in ("a.png", "b.JPG", "v.mp4", "deep/c.png", "deep/er/d.webm"))
    assert media_files([str(tmp_path)]) == [a, b, v]
    assert media_files([str(tmp_path)], recursive=True) == [a, b, v, c, d]
    assert media_files([str(a), str(tmp_path)]) == [a, b, v]
    assert media_files([str(tmp_path / "**" / "*.png")]) == [a, c]
    assert media_files([str(tmp_path / "notes.txt")]) == [tmp_path / "notes.txt"]
    with pytest.raises(DiagnosticError) as error:
        media_files(
            [str(tmp_path / "nothing"), str(tmp_path / "*.gif"), str(a), "x" * 5000, "a\0b", str(tmp_path / "[")]
        )
    assert [diagnostic.kind.slug for diagnostic in error.value] == ["no-images"] * 5


def test_links_that_go_round_are_not_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "round").symlink_to(tmp_path)
    assert media_files([str(tmp_path)], recursive=True) == [tmp_path / "a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(top: object, onerror: Callable[[OSError], None]) -> Iterator[object]:
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "secret")))
        yield from ()

    monkeypatch.setattr("detc.runtime.inputs.os.walk", refuse)
    with pytest.raises(DiagnosticError, match="secret: Permission denied"):
        media_files([str(tmp_path)], recursive=True)


def test_pictures_replace_none_of_the_files_that_are_looked_at(tmp_path):
    bright_square(tmp_path / "a.png", 64, 64, (8, 8, 40, 40))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(DiagnosticError) as error:
        list(write_predictions(PREDICTOR, [tmp_path / "a.png"], tmp_path / "deep" / "..", 0.3))
    assert error.value.diagnostics[0].kind.slug == "bad-option"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}
    assert (tmp_path / "a.png").read_bytes() == before


def test_images_with_the_same_name_keep_their_own_pictures(tmp_path):
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "a.jpg")
        bright_square(paths[-1], 64, 64, (8, 8, 40, 40))
    list(write_predictions(PREDICTOR, paths, tmp_path / "out", 0.3))
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"a.jpg", "a-2.jpg"}


def test_a_truncated_image_is_named_after_the_others_are_done(tmp_path):
    path, whole = tmp_path / "cut.png", tmp_path / "whole.png"
    for each in (path, whole):
        bright_square(each, 64, 64, (8, 8, 40, 40))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DiagnosticError) as error:
        list(write_predictions(PREDICTOR, [path, whole], tmp_path / "out", 0.3))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [str(whole)]
    assert error.value.diagnostics[0].kind.slug == "image-unreadable"
    assert "cut.png" in error.value.diagnostics[0].summary


def masking_finder(image: np.ndarray) -> dict[str, np.ndarray]:
    """What `finder` finds, of which the upper half is the object."""
    masks = np.zeros((1, 3, 28, 28), np.float32)
    masks[:, :, :14] = 1
    return {**finder(image), "masks": masks}


def test_masks_are_written_as_run_lengths_and_drawn(tmp_path):
    bright_square(tmp_path / "a.png", 128, 128, (32, 32, 96, 96))
    predictor = Predictor(masking_finder, PREDICTOR.preprocess, CLASSES)
    (look,) = write_predictions(predictor, [tmp_path / "a.png"], tmp_path / "out", 0.3)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    first, second = content["annotations"]
    pixels = coco_masks.decode(first["segmentation"]).astype(bool)
    assert pixels.shape == (128, 128)
    assert pixels[34:62, 34:94].all()
    assert not pixels[66:].any()
    assert first["area"] == pixels.sum()
    assert second["area"] == 128 * 64 - 4  # beyond the outermost cells is nothing, which costs the corners
    assert np.array_equal(pixels, bitmap(look.found.masks[0]))
    picture = cv2.imread(str(tmp_path / "out" / content["images"][0]["picture"]))
    assert tuple(picture[55, 70]) != (255, 255, 255)
    assert tuple(picture[80, 70]) == (255, 255, 255)


def test_results_without_classes_are_objects(tmp_path):
    def proposer(image: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value for name, value in finder(image).items() if name != "classes"}

    bright_square(tmp_path / "a.png", 128, 128, (32, 32, 64, 96))
    predictor = Predictor(proposer, PREDICTOR.preprocess, ("object",))
    list(write_predictions(predictor, [tmp_path / "a.png"], tmp_path / "out", 0.3))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    assert [a["category_id"] for a in content["annotations"]] == [1, 1]
