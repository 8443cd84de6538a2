"""Transforms: image and boxes must stay together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detc.runtime.data.preprocess import Placement, Preprocess
from detc.runtime.data.samples import Sample
from detc.runtime.data.transforms import (
    ChoiceResize,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RangeCrop,
    RangeResize,
    Resize,
)


def marked(width: int = 100, height: int = 60) -> Sample:
    """A black image with two white rectangles, which are its objects."""
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.asarray([[10, 10, 30, 40], [60, 20, 90, 50]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 255
    return Sample(image, boxes, np.asarray([0, 1]))


def white_inside(sample: Sample) -> None:
    """Every box is white inside and what is outside of all boxes is black, a pixel of blur aside."""
    rest = sample.image.copy()
    for x1, y1, x2, y2 in sample.boxes:
        inside = sample.image[int(y1) + 2 : max(0, int(y2) - 2), int(x1) + 2 : max(0, int(x2) - 2)]
        assert inside.size == 0 or inside.min() > 200
        rest[max(0, int(y1) - 2) : int(y2) + 3, max(0, int(x1) - 2) : int(x2) + 3] = 0
    assert rest.max() < 60


ALL = [
    Resize((200, 120)),
    Resize((50, 90), keep_ratio=False),
    RandomResize((100, 60), (0.5, 2.0)),
    ChoiceResize(((50, 30), (150, 90))),
    RangeResize((60, 30), (160, 90)),
    RandomCrop((50, 40)),
    RangeCrop((40, 30), (90, 60)),
    RandomFlip(0.5),
    RandomFlip(0.5, "vertical"),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_boxes_stay_on_their_objects(transform):
    for seed in range(20):
        sample = transform(marked(), np.random.default_rng(seed))
        assert len(sample.labels) == len(sample.boxes) >= 1
        assert sample.boxes.dtype == np.float32
        white_inside(sample)


@pytest.mark.parametrize(
    ("size", "image", "expected"),
    [
        ((1333, 800), (640, 480), (1067, 800)),
        ((1333, 800), (480, 640), (800, 1067)),
        ((1333, 800), (1000, 200), (1333, 267)),
        ((640, 640), (640, 480), (640, 480)),
    ],
)
def test_resize_keeps_the_ratio_within_both_sides(size, image, expected):
    sample = Sample(np.zeros((image[1], image[0], 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert Resize(size)(sample, np.random.default_rng(0)).size == expected


def test_flips_are_their_own_inverse_and_as_frequent_as_said():
    for direction in ("horizontal", "vertical"):
        flip = RandomFlip(1.0, direction)
        once = flip(marked(), np.random.default_rng(0))
        assert not np.array_equal(once.boxes, marked().boxes)
        assert np.array_equal(flip(once, np.random.default_rng(0)).boxes, marked().boxes)
    flipped = sum(
        not np.array_equal(RandomFlip(0.25)(marked(), np.random.default_rng(s)).boxes, marked().boxes)
        for s in range(400)
    )
    assert 70 < flipped < 130


def test_a_crop_keeps_an_object_however_rare():
    image = np.zeros((2000, 2000, 3), np.uint8)
    one = Sample(image, np.asarray([[1500, 900, 1520, 930]], np.float32), np.asarray([0]))
    for seed in range(30):
        cropped = RandomCrop((100, 100))(one, np.random.default_rng(seed))
        assert cropped.size == (100, 100)
        assert len(cropped.boxes) == 1


def test_a_crop_larger_than_the_image_leaves_it():
    assert np.array_equal(RandomCrop((640, 640))(marked(), np.random.default_rng(1)).image, marked().image)


def test_a_crop_within_a_range_covers_it_and_no_more_than_the_image():
    rng = np.random.default_rng(0)
    sizes = [RangeCrop((20, 50), (40, 400))(marked(), rng).size for _ in range(300)]
    assert {width for width, _ in sizes} == set(range(20, 41))
    assert {height for _, height in sizes} == set(range(50, 61))
    assert RangeCrop((200, 200), (300, 300))(marked(), rng).size == (100, 60)


def test_random_sizes_cover_their_range():
    rng = np.random.default_rng(0)
    widths = {RandomResize((100, 60), (0.8, 1.2))(marked(), rng).size[0] for _ in range(200)}
    assert min(widths) in range(80, 84)
    assert max(widths) in range(117, 121)
    assert {ChoiceResize(((50, 30), (150, 90)))(marked(), rng).size for _ in range(50)} == {(50, 30), (150, 90)}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalize_subtracts_and_divides_in_its_order(order):
    image = np.zeros((2, 2, 3), np.uint8)
    image[...] = (10, 20, 30)  # blue, green, red
    into = np.zeros((3, 4, 4), np.float32)
    Normalize((1.0, 2.0, 3.0), (1.0, 2.0, 4.0), order)(image, into)
    expected = [29, 9, 1.75] if order == "rgb" else [9, 9, 6.75]
    assert into[:, 0, 0].tolist() == pytest.approx(expected)
    assert (into[:, 2:] == 0).all()
    assert (into[:, :, 2:] == 0).all()


NORMALIZE = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_preprocess_maps_boxes_back_to_pixels_of_the_image():
    preprocess = Preprocess(Resize((64, 64)), NORMALIZE, 32)
    batch, placements = preprocess([np.zeros((100, 200, 3), np.uint8), np.zeros((50, 40, 3), np.uint8)])
    assert batch.shape == (2, 3, 64, 64)
    assert placements == [Placement((200, 100), (64, 32)), Placement((40, 50), (51, 64))]
    outputs = {
        "boxes": np.asarray([[[16, 8, 32, 16], [0, 0, 70, 70], [1, 1, 2, 2]]] * 2, np.float32),
        "scores": np.asarray([[0.9, 0.5, 0.0]] * 2, np.float32),
        "classes": np.asarray([[1, 0, -1]] * 2),
    }
    first, second = Preprocess.detections(outputs, placements)
    assert first.boxes.tolist() == [[50, 25, 100, 50], [0, 0, 200, 100]]
    assert first.classes.tolist() == [1, 0]
    assert second.boxes[1].tolist() == [0, 0, 40, 50]
    assert first.above(0.6).scores.tolist() == pytest.approx([0.9])


def test_preprocess_for_a_fixed_size_fits_every_image_inside():
    preprocess = Preprocess(Resize((64, 64)), NORMALIZE, 32, fixed=(96, 64))
    for shape in ((10, 300), (300, 10), (64, 96), (1, 1)):
        image = np.full((*shape, 3), 255, np.uint8)
        batch, (placement,) = preprocess([image])
        assert batch.shape == (1, 3, 64, 96)
        width, height = placement.scaled
        assert batch[0, :, :height, :width].min() == 255
        assert width == 96 or height == 64


def test_resizing_agrees_with_opencv_at_the_same_size():
    image = np.random.default_rng(0).integers(0, 255, (60, 100, 3), np.uint8)
    batch, _ = Preprocess(Resize((50, 30)), NORMALIZE, 1)([image])
    expected = cv2.resize(image, (50, 30), interpolation=cv2.INTER_LINEAR)[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(batch[0], expected)
