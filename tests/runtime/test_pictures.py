"""Pictures show what they should, where they should."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.masks import read_mask, run_lengths
from detc.runtime.data.preprocess import Detections
from detc.runtime.pictures import (
    TINT,
    class_colour,
    contact_sheet,
    draw_detections,
    draw_truth,
    write_curves,
    write_picture,
)

GREY = np.full((120, 200, 3), 90, np.uint8)


def detections(*boxes: list[float]) -> Detections:
    count = len(boxes)
    return Detections(np.asarray(boxes, np.float32), np.linspace(0.9, 0.5, count), np.arange(count))


def test_boxes_are_drawn_on_their_border_in_the_colour_of_their_class():
    picture = draw_detections(GREY, detections([20, 50, 80, 110], [120, 40, 190, 100]), ["a", "b"])
    assert (GREY == 90).all()
    assert tuple(picture[80, 20]) == class_colour(0)
    assert tuple(picture[80, 79]) == class_colour(0)
    assert tuple(picture[70, 120]) == class_colour(1)
    assert (picture[80, 40] == 90).all()
    assert class_colour(0) != class_colour(1)


def test_masks_are_mixed_into_the_image_in_the_colour_of_their_class():
    square = read_mask([[20, 50, 80, 50, 80, 110, 20, 110]], (200, 120))
    found = Detections(
        np.asarray([[20, 50, 80, 110]]), np.asarray([0.9]), np.asarray([1]), (run_lengths(square, (200, 120)),)
    )
    truth = draw_truth(GREY, found.boxes, found.classes, [square])
    for picture in (draw_detections(GREY, found, ["a", "b"]), truth):
        mixed = np.asarray(class_colour(1)) * TINT + 90 * (1 - TINT)
        assert np.abs(picture[80, 50] - mixed).max() <= 1
        assert (picture[80, 90] == 90).all()
    assert (draw_truth(GREY, found.boxes, found.classes, [None])[80, 50] == 90).all()
    assert (GREY == 90).all()


def test_boxes_at_the_border_and_names_that_are_not_ascii_can_be_drawn():
    picture = draw_detections(GREY, detections([0, 0, 200, 120]), ["Thrombozyt \u00e4"])
    assert picture.shape == GREY.shape
    assert tuple(picture[60, 0]) == class_colour(0)


def test_truth_is_drawn_without_text():
    picture = draw_truth(GREY, np.asarray([[20.0, 50.0, 80.0, 110.0]]), np.asarray([1]))
    changed = (picture != GREY).any(2)
    assert changed[50:110, 20:80].any()
    assert not changed[:48].any()


def test_a_contact_sheet_holds_every_image_at_one_width():
    red = np.zeros((50, 100, 3), np.uint8)
    red[...] = (0, 0, 255)
    sheet = contact_sheet([[red, GREY], [GREY, red]], width=80, titles=("one", "two"))
    assert sheet.shape[1] == 2 * 80 + 3 * 6
    assert tuple(sheet[28 + 6 + 20, 6 + 40]) == (0, 0, 255)
    assert tuple(sheet[28 + 6 + 20, 6 + 80 + 6 + 40]) == (90, 90, 90)


def test_pictures_are_written_whole_and_unknown_formats_or_folders_are_refused(tmp_path):
    write_picture(tmp_path / "new" / "a.png", GREY)
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "a.png")), GREY)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiagnosticError) as error:
        write_picture(tmp_path / "file" / "a.png", GREY)
    assert error.value.diagnostics[0].kind.slug == "cannot-write"


def test_curves_are_drawn_even_with_gaps_and_without_an_evaluation(tmp_path):
    losses = {"loss": [(0.5, 2.0), (1.0, float("nan")), (1.5, 1.0)]}
    write_curves(tmp_path / "curves.png", "run", losses, {})
    drawn = cv2.imread(str(tmp_path / "curves.png"))
    assert drawn.shape[1] > 600
    assert (drawn < 200).any()
