"""Masks of objects: read, moved with their image, packed, pasted."""

from __future__ import annotations

import math
import tracemalloc

import cv2
import numpy as np
import pytest
from drawn import outline
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pycocotools import mask as coco_masks

from detc.runtime.data.affine import Affine
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.masks import (
    Bitmap,
    MaskProblem,
    MaskWindow,
    Polygons,
    as_json,
    bitmap,
    draw_mask,
    mask_areas,
    no_pixel,
    pack_masks,
    paste_masks,
    read_mask,
    run_lengths,
    whole_image,
)
from detc.runtime.data.samples import Sample
from detc.runtime.data.transforms import ChoiceResize, RandomCrop, RandomFlip, RandomResize, RangeResize, Resize

SIZE = (100, 60)
STAR = [
    50.0,
    5.0,
    58.3,
    22.1,
    90.5,
    25.0,
    62.7,
    35.4,
    70.2,
    55.9,
    50.1,
    42.3,
    28.4,
    56.0,
    37.2,
    34.8,
    9.7,
    24.2,
    41.9,
    21.6,
]
HOLED = [[10, 10, 60, 10, 60, 50, 10, 50], [70, 20, 90, 20, 80, 45]]


def whole(window: MaskWindow, size: tuple[int, int]) -> np.ndarray:
    """A window's mask in an image of `size`."""
    pixels = np.zeros((size[1], size[0]), bool)
    height, width = window.pixels.shape
    pixels[window.y : window.y + height, window.x : window.x + width] = window.pixels
    return pixels


def inside(coordinates: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are in a polygon (P, 2): drawn without pycocotools."""
    centres = np.stack(np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5), -1).reshape(-1, 2)
    return Outline(coordinates, closed=False).contains_points(centres).reshape(size[1], size[0])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def uncompressed(pixels: np.ndarray) -> dict:
    """Run lengths as a list, counted here."""
    flat = pixels.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"size": [*pixels.shape], "counts": counts if flat[0] == 0 else [0, *counts]}


# ---- reading


@pytest.mark.parametrize("polygons", [[STAR], HOLED, [[0, 0, 100, 0, 100, 60, 0, 60]], [STAR, [1, 2, 3, 4]]])
def test_polygons_cover_the_pixels_that_pycocotools_says(polygons):
    mask = read_mask(polygons, SIZE)
    usable = [part for part in polygons if len(part) >= 6]
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(usable, 60, 100))).astype(bool)
    assert np.array_equal(bitmap(run_lengths(mask, SIZE)), expected)
    # Pixels whose edge lies at a rounded fifth of a pixel may fall on either side in a window.
    assert (whole(draw_mask(mask, Affine(), SIZE), SIZE) ^ expected).sum() <= 4


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_run_lengths_as_list_and_string_cover_the_same_pixels(seed, share, width, height):
    pixels = np.random.default_rng(seed).random((height, width)) < share
    listed = uncompressed(pixels)
    string = coco_masks.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    if not pixels.any():
        for counts in (listed["counts"], string):
            with pytest.raises(MaskProblem, match="covers nothing"):
                read_mask({"size": [height, width], "counts": counts}, (width, height))
        return
    one = read_mask(listed, (width, height))
    other = read_mask({"size": [height, width], "counts": string}, (width, height))
    assert one == other == Bitmap((width, height), string.encode())
    assert np.array_equal(bitmap(run_lengths(one, (width, height))), pixels)


def test_long_run_lengths_of_a_large_image_are_read():
    pixels = np.zeros((4000, 3000), np.uint8, order="F")
    pixels[1000:1003, 2000:2900] = 1
    runs = coco_masks.encode(pixels)
    assert read_mask(as_json(runs), (3000, 4000)) == Bitmap((3000, 4000), runs["counts"])


FULL = {"size": [60, 100], "counts": [10, 20, 5970]}


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "without a mask"),
        ([], "without a mask"),
        (7, "neither polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd number"),
        ([[1, 2, 3, 4]], "fewer than three"),
        ([[]], "fewer than three"),
        ([[1, 2, 30, 4, 20, float("nan")]], "not a finite number"),
        ([[1, 2, 30, 4, 20, float("inf")]], "not a finite number"),
        ([[1, 2, 30, 4, 20, 10**400]], "not a finite number"),
        ([[1, 2, 30, 4, 20, "x"]], "no list of numbers"),
        ([[1, 2, 30, 4, 20, None]], "no list of numbers"),
        ([7], "no list of numbers"),
        ([[1, 2, 30, 4, 20, 1e9]], "far outside"),
        ([[110, 5, 130, 5, 120, 40]], "covers nothing"),
        ([[5, 5, 25, 25, 45, 45]], "covers nothing"),
        ({**FULL, "size": [100, 60]}, "another size"),
        ({"counts": [6000]}, "another size"),
        ({**FULL, "counts": [10, 20]}, "do not add up"),
        ({**FULL, "counts": [10, -20, 6010]}, "do not add up"),
        ({**FULL, "counts": [10**30, 1]}, "do not add up"),
        ({**FULL, "counts": [6000]}, "covers nothing"),
        ({**FULL, "counts": [6000, 0]}, "covers nothing"),
        ({**FULL, "counts": []}, "do not add up"),
        ({**FULL, "counts": [1.5, 2]}, "neither a list"),
        ({**FULL, "counts": None}, "neither a list"),
        ({**FULL, "counts": ""}, "damaged"),
        ({**FULL, "counts": "o"}, "damaged"),
        ({**FULL, "counts": "1\n"}, "damaged"),
        ({**FULL, "counts": "\u00e4\u00f6"}, "damaged"),
        ({**FULL, "counts": "oooooooooooo0"}, "damaged"),
        ({**FULL, "counts": "1234"}, "do not add up"),
    ],
)
def test_what_is_no_mask_is_refused_and_named(segmentation, said):
    with pytest.raises(MaskProblem, match=said):
        read_mask(segmentation, SIZE)


@given(st.text(alphabet=[chr(c) for c in range(40, 130)], max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_string_of_run_lengths_reaches_pycocotools_unless_it_fits(text):
    try:
        mask = read_mask({"size": [6, 5], "counts": text}, (5, 6))
    except MaskProblem:
        return
    assert 0 < bitmap(run_lengths(mask, (5, 6))).sum() <= 30


# ---- moving


def drawn(seed: int) -> tuple[Sample, np.ndarray]:
    """A star in an image, its box and mask as polygon and as bitmap, and its corners."""
    corners = np.asarray(STAR).reshape(-1, 2) * np.random.default_rng(seed).uniform(0.5, 1)
    x1, y1, x2, y2 = *corners.min(0), *corners.max(0)
    polygon = Polygons((corners,))
    pixels = read_mask(uncompressed(inside(corners, SIZE)), SIZE)
    boxes = np.asarray([[x1, y1, x2, y2]] * 2, np.float32)
    image = np.repeat(inside(corners, SIZE)[..., None], 3, 2).astype(np.uint8) * 255
    return Sample.annotated(image, boxes, np.asarray([0, 1]), (polygon, pixels)), corners


TRANSFORMS = [
    [Resize((200, 120))],
    [Resize((60, 90), keep_ratio=False)],
    [RandomResize(SIZE, (0.5, 2.0))],
    [ChoiceResize(((250, 150), (300, 180)))],
    [RangeResize((60, 30), (160, 90))],
    [RandomFlip(1.0)],
    [RandomFlip(1.0, "vertical")],
    [RandomCrop((70, 50))],
    [
        RandomFlip(1.0),
        RandomResize(SIZE, (0.7, 2.0)),
        RandomCrop((90, 60)),
        RandomFlip(1.0, "vertical"),
        RandomCrop((80, 56)),
    ],
]


@pytest.mark.parametrize("chain", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_masks_stay_on_their_objects(chain, seed):
    sample, _ = drawn(seed)
    rng = np.random.default_rng(seed)
    for transform in chain:
        sample = transform(sample, rng)
    white = sample.image[..., 0] > 127
    assert white.sum() > 40
    # The image shows the pixels of the drawing, scaled; a polygon is drawn anew: their edges lie within a drawn pixel.
    reach = math.ceil(max(map(abs, sample.layers[0].place.scale))) + 1
    near = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    least, most = (f(white.astype(np.uint8), near).astype(bool) for f in (cv2.erode, cv2.dilate))
    polygon, pixels = (whole(window, sample.size) for window in draw_masks(sample.masks, sample.layers, sample.size))
    for found in (polygon, pixels):
        assert not (least & ~found).any()
        assert (found & ~most).sum() < 0.02 * white.sum()  # the drawing loses the tips of thin rays
    assert iou(pixels, white) > 0.9
    assert abs(int(polygon.sum()) - int(white.sum())) < 0.1 * white.sum()


@pytest.mark.parametrize("seed", range(6))
def test_a_moved_polygon_covers_what_its_moved_corners_enclose(seed):
    sample, corners = drawn(seed)
    rng = np.random.default_rng(seed)
    for transform in (RandomFlip(1.0), RandomResize(SIZE, (1.5, 2.5)), RandomCrop((120, 80))):
        before = sample.size
        sample = transform(sample, rng)
        if isinstance(transform, RandomFlip):
            corners = np.stack([before[0] - corners[:, 0], corners[:, 1]], 1)
        elif isinstance(transform, RandomResize):
            corners = corners * np.divide(sample.size, before)
        else:
            corners = corners + sample.layers[0].place.shift - _shift_before(seed)
    expected = inside(corners, sample.size)
    found = whole(draw_masks(sample.masks, sample.layers, sample.size)[0], sample.size)
    outline_length = np.linalg.norm(corners - np.roll(corners, 1, 0), axis=1).sum()
    assert (expected ^ found).sum() < 0.25 * outline_length
    assert abs(int(expected.sum()) - int(found.sum())) < 0.1 * outline_length


def _shift_before(seed: int) -> np.ndarray:
    """The shift that the first two transforms made."""
    sample, _ = drawn(seed)
    rng = np.random.default_rng(seed)
    for transform in (RandomFlip(1.0), RandomResize(SIZE, (1.5, 2.5))):
        sample = transform(sample, rng)
    return np.asarray(sample.layers[0].place.shift)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_two_flips_are_none_and_one_mirrors_every_pixel(direction):
    sample, _ = drawn(0)
    flip = RandomFlip(1.0, direction)
    once = flip(sample, np.random.default_rng(0))
    twice = flip(once, np.random.default_rng(0))
    axis = 1 if direction == "horizontal" else 0
    assert twice.layers[0].place == Affine()
    plain, mirrored, back = (
        [whole(window, SIZE) for window in draw_masks(s.masks, s.layers, SIZE)] for s in (sample, once, twice)
    )
    assert np.array_equal(np.flip(plain[1], axis), mirrored[1])
    assert all(np.array_equal(a, b) for a, b in zip(plain, back, strict=True))
    assert iou(np.flip(plain[0], axis), mirrored[0]) > 0.97


def test_masks_go_with_the_objects_that_a_crop_loses():
    image = np.zeros((100, 400, 3), np.uint8)
    boxes = np.asarray([[10, 10, 30, 30], [350, 10, 390, 60]], np.float32)
    masks = tuple(read_mask([outline("square", *box)], (400, 100)) for box in boxes.tolist())
    for seed in range(20):
        cropped = RandomCrop((100, 100))(
            Sample.annotated(image, boxes, np.asarray([0, 1]), masks), np.random.default_rng(seed)
        )
        assert [[m is placed.mask for m in masks].index(True) for placed in cropped.masks] == cropped.labels.tolist()
        windows = draw_masks(cropped.masks, cropped.layers, cropped.size)
        for window, (x1, y1, x2, y2) in zip(windows, cropped.boxes.tolist(), strict=True):
            assert (window.x, window.y) == (x1, y1)
            assert window.pixels.shape == (y2 - y1, x2 - x1)
            assert window.pixels.all()


def test_windows_lie_in_the_image_and_lose_no_pixel():
    rng = np.random.default_rng(0)
    for _ in range(300):
        corners = rng.uniform(-30, 130, (int(rng.integers(3, 9)), 2))
        size = (int(rng.integers(1, 100)), int(rng.integers(1, 100)))
        window = draw_mask(Polygons((corners,)), Affine(), size)
        height, width = window.pixels.shape
        assert width >= 1
        assert height >= 1
        assert window.x >= 0
        assert window.y >= 0
        assert window.x + width <= size[0]
        assert window.y + height <= size[1]
        everywhere = coco_masks.decode(coco_masks.frPyObjects([corners.ravel().tolist()], size[1], size[0])[0])
        assert np.array_equal(whole(window, size), everywhere.astype(bool))


# ---- packing


def test_packed_masks_are_found_again():
    rng = np.random.default_rng(1)
    images = [
        [
            MaskWindow(
                int(rng.integers(50)), int(rng.integers(50)), rng.integers(0, 2, rng.integers(1, 9, 2)).astype(np.uint8)
            )
            for _ in range(count)
        ]
        for count in (3, 0, 5)
    ]
    pixels, windows = pack_masks(images, 6)
    assert pixels.dtype == np.uint8
    assert windows.dtype == np.int64
    assert windows.shape == (3, 6, 5)
    for row, masks in enumerate(images):
        assert (windows[row, len(masks) :] == 0).all()
        for (offset, x, y, width, height), mask in zip(windows[row], masks, strict=False):
            assert (x, y) == (mask.x, mask.y)
            assert np.array_equal(pixels[offset : offset + width * height].reshape(height, width), mask.pixels)
    assert len(pixels) == sum(mask.pixels.size for masks in images for mask in masks)


def test_a_batch_without_objects_has_no_pixels():
    pixels, windows = pack_masks([[], []], 1)
    assert pixels.shape == (0,)
    assert pixels.dtype == np.uint8
    assert windows.tolist() == [[[0] * 5], [[0] * 5]]


def test_two_thousand_objects_cost_their_own_areas():
    size = (1333, 800)
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (1280, 750), (2000, 2))
    masks = [read_mask([outline("disc", x, y, x + 40, y + 40)], size) for x, y in corners]
    tracemalloc.start()
    pixels, windows = pack_masks([[draw_mask(mask, Affine(), size) for mask in masks]], 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert windows.shape == (1, 2000, 5)
    assert len(pixels) <= 2000 * 42 * 42
    assert peak < 20 << 20


# ---- pasting


def test_a_pasted_ellipse_is_the_ellipse():
    size = (320, 240)
    for x1, y1, x2, y2 in ((40.3, 30.7, 200.2, 210.9), (0.0, 0.0, 319.5, 100.0), (100.5, 100.5, 131.0, 240.0)):
        across, down = (np.arange(28) + 0.5) / 14 - 1, (np.arange(28) + 0.5) / 14 - 1
        softness = 8.0
        cells = 1 / (1 + np.exp(-softness * (1 - np.hypot(across[None], down[:, None]))))
        (runs,) = paste_masks(cells[None].astype(np.float32), np.asarray([[x1, y1, x2, y2]], np.float32), size)
        truth = inside(np.reshape(outline("disc", x1, y1, x2, y2), (-1, 2)), size)
        assert iou(bitmap(runs), truth) > 0.95


def test_pasting_is_bilinear_between_the_centres_of_cells():
    """Against a loop over pixels."""
    rng = np.random.default_rng(3)
    size = (30, 20)
    boxes = np.asarray(
        [[3.3, 2.1, 20.8, 17.6], [0.0, 0.0, 30.0, 20.0], [10.2, 5.5, 12.9, 6.4], [25.0, 1.0, 30.0, 20.0]]
    )
    cells = rng.random((4, 5, 7)).astype(np.float32)
    for runs, cell, (x1, y1, x2, y2) in zip(paste_masks(cells, boxes, size), cells, boxes, strict=True):
        padded = np.pad(cell.astype(np.float64), 1)
        expected = np.zeros((20, 30), bool)
        for y in range(20):
            for x in range(30):
                u, v = (x + 0.5 - x1) / (x2 - x1) * 7 + 0.5, (y + 0.5 - y1) / (y2 - y1) * 5 + 0.5
                if 0 <= u < 8 and 0 <= v < 6:
                    i, j = int(v), int(u)
                    a, b = v - i, u - j
                    rows = padded[i] * (1 - a) + padded[i + 1] * a
                    expected[y, x] = rows[j] * (1 - b) + rows[j + 1] * b >= 0.5
        assert np.array_equal(bitmap(runs), expected)


def test_pasting_agrees_with_torch_grid_sampling():
    import torch

    rng = np.random.default_rng(4)
    coarse = rng.random((6, 4, 4)).astype(np.float32)
    cells = np.stack([cv2.resize(c, (28, 28), interpolation=cv2.INTER_CUBIC) for c in coarse])
    corners = rng.uniform((0, 0), (60, 30), (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 39, (6, 2))], 1)
    x, y = torch.arange(100) + 0.5, torch.arange(70) + 0.5
    for runs, cell, box in zip(paste_masks(cells, boxes, (100, 70)), cells, boxes, strict=True):
        u = (x - box[0]) / (box[2] - box[0]) * 2 - 1
        v = (y - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)[None].float()
        value = torch.nn.functional.grid_sample(torch.from_numpy(cell)[None, None], grid, align_corners=False)[0, 0]
        certain = (value - 0.5).abs() > 1e-4
        assert (torch.from_numpy(bitmap(runs)) == (value >= 0.5))[certain].all()


def test_pasting_into_an_empty_box_or_nothing_gives_no_pixel():
    (runs,) = paste_masks(np.ones((1, 28, 28), np.float32), np.asarray([[5.0, 5.0, 5.0, 9.0]]), (20, 20))
    assert not bitmap(runs).any()
    assert list(paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4)), (20, 20))) == []


def test_areas_are_counted():
    assert mask_areas([whole_image((20, 10)), no_pixel((20, 10))]) == [200, 0]
    assert mask_areas([]) == []
    assert mask_areas([whole_image((20, 10))] * 300) == [200] * 300
