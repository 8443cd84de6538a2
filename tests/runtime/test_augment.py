"""Transforms that join images, turn them, put them into larger ones or change their colours."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import coco_file, outline, voc_data, voc_folder

import detc
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.affine import Affine
from detc.runtime.data.augment import Augmentation, OneOf
from detc.runtime.data.distort import MinIoURandomCrop, PhotometricDistortion, RandomAffine
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.loading import TrainingImages, epoch_batches, trained_images, training_loader
from detc.runtime.data.masks import Mask, read_mask
from detc.runtime.data.mixing import CopyPaste, MixUp, Mosaic
from detc.runtime.data.reading import read_split
from detc.runtime.data.samples import Sample
from detc.runtime.data.settings import Data, data_settings
from detc.runtime.data.transforms import Expand, Pad, RandomCrop, RandomFlip, Resize, cut_out

SIZE = (120, 90)
WHITE = (255.0, 255.0, 255.0)
BLACK = (0.0, 0.0, 0.0)


def bitmap_of(pixels: np.ndarray) -> Mask:
    """A mask as run lengths, counted here."""
    flat = pixels.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    segmentation = {"size": [*pixels.shape], "counts": counts if flat[0] == 0 else [0, *counts]}
    return read_mask(segmentation, (pixels.shape[1], pixels.shape[0]))


def ellipse(seed: int, size: tuple[int, int] = SIZE) -> Sample:
    """A white ellipse on black: twice the same object, its mask as a polygon and as a bitmap."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(30, 50, 2).tolist()
    x, y = int(rng.integers(0, size[0] - width)), int(rng.integers(0, size[1] - height))
    corners = outline("disc", x, y, x + width, y + height)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    across, down = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    inside = ((across - x - width / 2) / width * 2) ** 2 + ((down - y - height / 2) / height * 2) ** 2 <= 1
    image[inside] = 255
    boxes = np.asarray([[x, y, x + width, y + height]] * 2, np.float32)
    return Sample.annotated(image, boxes, np.asarray([0, 1]), (read_mask([corners], size), bitmap_of(inside)))


def square(x: int, y: int, side: int, colour: int, size: tuple[int, int] = SIZE, label: int = 0) -> Sample:
    """A square of one grey on black, with its mask."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[y : y + side, x : x + side] = colour
    corners = outline("square", x, y, x + side, y + side)
    box = np.asarray([[x, y, x + side, y + side]], np.float32)
    return Sample.annotated(image, box, np.asarray([label]), (read_mask([corners], size),))


def drawn(sample: Sample) -> list[np.ndarray]:
    """The masks over the whole image, as booleans."""
    found = []
    for window in draw_masks(sample.masks, sample.layers, sample.size):
        whole = np.zeros((sample.size[1], sample.size[0]), bool)
        height, width = window.pixels.shape
        whole[window.y : window.y + height, window.x : window.x + width] = window.pixels > 0
        found.append(whole)
    return found


def apply(transforms: list, number: int, samples: list[Sample], seed: int) -> Sample:
    return Augmentation(transforms, lambda index: samples[index], len(samples))(number, np.random.default_rng(seed))


# ---- maps


def test_maps_compose_and_invert_as_matrices_do():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (20, 2))
    for _ in range(20):
        one, other = (Affine(*(tuple(pair) for pair in rng.uniform(-2, 2, (3, 2)))) for _ in range(2))
        lines = np.concatenate([points, np.ones((20, 1))], 1)
        assert one.points(points) == pytest.approx(lines @ one.matrix().T)
        assert one.then(other).points(points) == pytest.approx(other.points(one.points(points)))
        assert one.then(one.inverse()).points(points) == pytest.approx(points, abs=1e-6)


def test_a_turned_box_is_the_box_around_its_corners():
    quarter = Affine((0.0, 0.0), (100.0, 0.0), (-1.0, 1.0))  # x, y to 100 - y, x
    assert quarter.boxes(np.asarray([[10.0, 20.0, 30.0, 25.0]])).tolist() == [[75, 10, 80, 30]]


# ---- image, boxes and masks together

GEOMETRIC = [
    [Pad((150, 130), value=BLACK)],
    [Pad(multiple=64, value=BLACK)],
    [Expand((1.0, 2.0), BLACK, 1.0)],
    [MinIoURandomCrop()],
    [RandomAffine(value=BLACK)],
    [RandomAffine(rotation=180.0, shear=20.0, scaling=(0.9, 1.3), translation=0.0, border=(200, 200), value=BLACK)],
    [
        RandomFlip(1.0),
        RandomAffine(value=BLACK),
        RandomCrop((100, 80)),
        Expand((1.0, 2.0), BLACK, 1.0),
        Resize((240, 180)),
    ],
]


@pytest.mark.parametrize("chain", GEOMETRIC, ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_masks_and_boxes_stay_on_their_objects(chain, seed):
    sample = apply(chain, 0, [ellipse(seed)], seed)
    white = sample.image[..., 0] > 127
    if not len(sample.boxes):
        assert white.sum() < 60  # the map took it out of the image
        return
    near = np.ones((5, 5), np.uint8)
    least, most = (f(white.astype(np.uint8), near).astype(bool) for f in (cv2.erode, cv2.dilate))
    for mask, (x1, y1, x2, y2) in zip(drawn(sample), sample.boxes, strict=True):
        assert not (least & ~mask).any()
        assert not (mask & ~most).any()
        rows, columns = np.nonzero(white)
        assert x1 - 1.5 <= columns.min() and columns.max() + 1 <= x2 + 1.5
        assert y1 - 1.5 <= rows.min() and rows.max() + 1 <= y2 + 1.5


@pytest.mark.parametrize("seed", range(5))
def test_joined_images_show_their_objects_where_masks_and_boxes_are(seed):
    samples = [ellipse(10 * seed + number) for number in range(5)]
    chain = [Mosaic(SIZE, value=BLACK), RandomAffine(border=(-60, -45), value=BLACK), Resize((180, 135))]
    sample = apply(chain, 0, samples, seed)
    white = sample.image[..., 0] > 127
    union = np.any(drawn(sample) or [np.zeros_like(white)], axis=0)
    near = np.ones((5, 5), np.uint8)
    assert not (cv2.erode(white.astype(np.uint8), near).astype(bool) & ~union).any()
    assert not (union & ~cv2.dilate(white.astype(np.uint8), near).astype(bool)).any()
    for mask, (x1, y1, x2, y2) in zip(drawn(sample), sample.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert x1 - 1 <= columns.min() and columns.max() + 1 <= x2 + 1
            assert y1 - 1 <= rows.min() and rows.max() + 1 <= y2 + 1


def test_what_a_crop_cut_away_does_not_come_back():
    sample = square(0, 0, 80, 255)
    cropped = cut_out(sample, 10, 20, 40, 30)
    (inside,) = drawn(cropped)
    assert inside.all()
    padded = Pad((100, 100), value=BLACK)(cropped, np.random.default_rng(0))
    (mask,) = drawn(padded)
    assert np.array_equal(mask, padded.image[..., 0] > 0)
    assert mask.sum() == 40 * 30
    assert padded.boxes.tolist() == [[0, 0, 40, 30]]
    turned = Affine((0.0, 0.0), (100.0, 0.0), (-1.0, 1.0))
    (mask,) = drawn(padded.moved(np.rot90(padded.image, -1), turned))
    assert np.array_equal(mask, np.rot90(padded.image, -1)[..., 0] > 0)


# ---- each by hand


def test_padding_fills_right_and_below_with_its_colour():
    sample = Pad((130, 60), 16, (10.0, 20.0, 30.0))(square(5, 5, 20, 255), np.random.default_rng(0))
    assert sample.size == (144, 96)
    assert sample.image[95, 143].tolist() == [30, 20, 10]  # blue, green, red
    assert sample.image[:90, :120].tolist() == square(5, 5, 20, 255).image.tolist()
    exact = square(5, 5, 20, 255)
    assert Pad((120, 90))(exact, np.random.default_rng(0)) is exact


def test_expanding_keeps_the_image_and_covers_its_range():
    sizes = set()
    for seed in range(60):
        sample = Expand((1.5, 3.0), (1.0, 2.0, 3.0), 1.0)(square(5, 7, 20, 255), np.random.default_rng(seed))
        x1, y1, x2, y2 = sample.boxes[0].astype(int)
        assert (x2 - x1, y2 - y1) == (20, 20)
        assert (sample.image[y1:y2, x1:x2] == 255).all()
        assert sample.image.reshape(-1, 3).min(0).tolist() == [0, 0, 0]
        around = np.ones(sample.image.shape[:2], bool)
        around[y1 - 7 : y1 - 7 + 90, x1 - 5 : x1 - 5 + 120] = False
        assert (sample.image[around] == (3, 2, 1)).all()
        sizes.add(sample.size)
    assert min(sizes)[0] < 200 and max(sizes)[0] > 330
    kept = sum(Expand()(square(5, 5, 9, 9), np.random.default_rng(s)).size == SIZE for s in range(200))
    assert 70 < kept < 130


def test_expanding_stays_below_the_size_that_images_may_have():
    huge = Sample(np.zeros((1, 150_000_000, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    width, height = Expand((10.0, 10.0), probability=1.0)(huge, np.random.default_rng(0)).size
    assert width * height <= 200_000_000


def test_a_crop_by_overlap_keeps_what_it_promises():
    boxes = np.asarray([[10, 10, 50, 60], [60, 30, 110, 80]], np.float32)
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    whole, one, both = 0, 0, 0
    for seed in range(200):
        sample = MinIoURandomCrop((0.3,))(Sample(image, boxes, np.asarray([0, 1])), np.random.default_rng(seed))
        if sample.size == SIZE:
            whole += 1
            continue
        width, height = sample.size
        assert width >= 0.3 * 120 - 1 and height >= 0.3 * 90 - 1
        assert 0.45 < height / width < 2.1
        matches = cv2.matchTemplate(image, sample.image, cv2.TM_SQDIFF)
        top, left = np.unravel_index(int(matches.argmin()), matches.shape)
        window = np.asarray([left, top, left + width, top + height])
        assert np.array_equal(image[top : top + height, left : left + width], sample.image)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > window[:2]) & (centres < window[2:])).all(1)
        assert sample.labels.tolist() == np.flatnonzero(inside).tolist()
        expected = np.clip(boxes[inside] - np.tile([left, top], 2), 0, [width, height] * 2)
        assert sample.boxes.tolist() == expected.tolist()
        one, both = one + (inside.sum() == 1), both + (inside.sum() == 2)
    assert 40 < whole < 110  # one draw of three, and a window with an IoU of 0.3 to both is rarely found
    assert one and both


def test_a_turn_by_hand():
    affine = RandomAffine(0.0, 0.0, (2.0, 2.0), 0.0, (30, 20), BLACK)
    sample = affine(square(10, 20, 20, 200), np.random.default_rng(0))
    assert sample.size == (180, 130)
    assert sample.boxes.tolist() == [[20, 40, 60, 80]]
    assert (sample.image[41:79, 21:59] == 200).all()
    assert drawn(sample)[0].sum() == 1600
    assert drawn(sample)[0][40:80, 20:60].all()
    assert sample.image[85:, :].max() == 0


def test_a_mosaic_by_hand():
    samples = [square(10, 20, 30, 50 * (number + 1), label=number) for number in range(4)]
    sizes = iter([0, 1, 2, 3])
    mosaic = Mosaic((120, 90), (1.0, 1.0), (7.0, 8.0, 9.0))(
        samples[next(sizes)], np.random.default_rng(0), lambda: samples[next(sizes)]
    )
    assert mosaic.size == (240, 180)
    assert mosaic.labels.tolist() == [0, 1, 2, 3]
    assert mosaic.boxes.tolist() == [[10, 20, 40, 50], [130, 20, 160, 50], [10, 110, 40, 140], [130, 110, 160, 140]]
    for number, mask in enumerate(drawn(mosaic)):
        assert np.array_equal(mask, (mosaic.image == 50 * (number + 1)).all(2))
    # Small images leave a border; those larger than their part are cut at the edge of the mosaic.
    small = square(0, 0, 30, 200, size=(60, 45))
    cut = Mosaic((120, 90), (0.5, 0.5), (7.0, 8.0, 9.0))(small, np.random.default_rng(0), lambda: small)
    assert cut.image[179, 239].tolist() == [9, 8, 7]
    # Each is twice as large, and they meet at 60, 45: what is left of the squares of the right ones.
    assert cut.boxes.tolist() == [[60, 0, 120, 15], [60, 45, 120, 105]]
    for mask, (x1, y1, x2, y2) in zip(drawn(cut), cut.boxes.astype(int), strict=True):
        assert mask[y1:y2, x1:x2].all()
        assert mask.sum() == (x2 - x1) * (y2 - y1)


def test_mixing_up_by_hand():
    one, other = square(10, 10, 30, 100), square(60, 40, 20, 200, label=1)
    mixed = MixUp(SIZE, (1.0, 1.0), 0.0)(one, np.random.default_rng(0), lambda: other)
    assert mixed.boxes.tolist() == [[10, 10, 40, 40], [60, 40, 80, 60]]
    assert mixed.image[20, 20].tolist() == [50, 50, 50]
    assert mixed.image[50, 70].tolist() == [100, 100, 100]
    flipped = MixUp(SIZE, (1.0, 1.0), 1.0)(one, np.random.default_rng(0), lambda: other)
    assert flipped.boxes.tolist() == [[10, 10, 40, 40], [40, 40, 60, 60]]
    assert drawn(flipped)[1][40:60, 40:60].all()
    half = MixUp(SIZE, (0.5, 0.5), 0.0)(one, np.random.default_rng(0), lambda: other)
    assert half.size == SIZE
    assert half.boxes[1].tolist() == [30, 20, 40, 30]
    for seed in range(20):  # larger than the image: a window of it
        double = MixUp(SIZE, (2.0, 2.0), 0.0)(one, np.random.default_rng(seed), lambda: other)
        assert double.size == SIZE
        for mask, box in zip(drawn(double)[1:], double.boxes[1:].astype(int), strict=True):
            assert mask[box[1] : box[3], box[0] : box[2]].all()
            assert (double.image[box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2] >= 100).all()
    empty = Sample.annotated(other.image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ())
    assert MixUp()(one, np.random.default_rng(0), lambda: empty) is one


def pasted(below: Sample, above: Sample, **settings) -> Sample:
    """With the object of `above` pasted, which about every other seed does."""
    for seed in range(50):
        found = CopyPaste(**settings)(below, np.random.default_rng(seed), lambda: above)
        if not np.array_equal(found.image, below.image):
            return found
    raise AssertionError("nothing was pasted")


def test_pasting_hides_what_is_below():
    below = square(10, 10, 40, 100)
    found = pasted(below, square(40, 10, 40, 200, label=1))
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[10, 10, 40, 50], [40, 10, 80, 50]]
    for mask, grey in zip(drawn(found), (100, 200), strict=True):
        assert np.array_equal(mask, found.image[..., 0] == grey)
    assert below.image[20, 45].tolist() == [100, 100, 100]  # the sample that was given is as it was
    # A corner hidden: the box stays, the mask has a hole.
    corner = pasted(below, square(40, 40, 30, 200, label=1))
    assert corner.boxes[0].tolist() == [10, 10, 50, 50]
    assert drawn(corner)[0].sum() == 1600 - 100
    # And everything that comes after keeps to it.
    moved = apply([Resize((240, 180)), RandomFlip(1.0)], 0, [corner], 0)
    assert drawn(moved)[0].sum() == 4 * 1500
    assert not (drawn(moved)[0] & drawn(moved)[1]).any()


def test_objects_that_pasting_hides_too_much_go():
    below = square(10, 10, 20, 100)
    over = square(12, 10, 40, 200, label=1)  # two columns of twenty pixels are left
    assert pasted(below, over).labels.tolist() == [1]
    assert pasted(below, over, visible=39).labels.tolist() == [0, 1]
    assert pasted(below, over, shift=18.0).labels.tolist() == [0, 1]
    assert pasted(below, square(5, 5, 40, 200, label=1), visible=0, shift=100.0).labels.tolist() == [1]


def test_pasting_from_a_larger_image_cuts_its_objects_at_the_border():
    below = square(10, 10, 20, 100)
    found = pasted(below, square(100, 60, 80, 200, size=(300, 200), label=1))
    assert found.size == SIZE
    assert found.boxes[1].tolist() == [100, 60, 120, 90]
    assert np.array_equal(drawn(found)[1], found.image[..., 0] == 200)


def colourful() -> Sample:
    image = np.random.default_rng(0).integers(60, 190, (8, 9, 3), np.uint8)
    return Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def test_colours_change_one_by_one():
    image = colourful().image.astype(float)

    def results(**settings) -> list[np.ndarray]:
        none = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
        distort = PhotometricDistortion(**{**none, **settings})
        found = [distort(colourful(), np.random.default_rng(seed)).image.astype(float) for seed in range(24)]
        return [pixels for pixels in found if abs(np.sort(pixels, 2) - np.sort(image, 2)).max() > 1.01]

    assert not results()
    for pixels in results(brightness=30.0):
        shift = np.sort(pixels, 2) - np.sort(image, 2)
        assert np.ptp(shift) == 0 and 1 <= abs(shift[0, 0, 0]) <= 30
    for pixels in results(contrast=(1.2, 1.2)):
        assert abs(np.sort(pixels, 2) - 1.2 * np.sort(image, 2)).max() <= 0.51
    assert len(results(hue=90.0)) > 4
    for pixels in results(hue=90.0):  # turning a hue keeps the least and the greatest of the channels
        assert abs(pixels.max(2) - image.max(2)).max() <= 1
        assert abs(pixels.min(2) - image.min(2)).max() <= 1
    for pixels in results(saturation=(0.5, 0.5)):
        wanted = []
        for blue, green, red in image.reshape(-1, 3):
            hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
            wanted.append(sorted(colorsys.hsv_to_rgb(hue, saturation / 2, value)))
        assert abs(np.sort(pixels, 2).reshape(-1, 3) - wanted).max() <= 1


def test_colours_change_alike_everywhere():
    image = np.random.default_rng(0).integers(0, 256, (100, 20, 3), np.uint8)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for seed in range(10):
        whole, upper, lower = (
            PhotometricDistortion()(Sample(part, *nothing), np.random.default_rng(seed)).image
            for part in (image, image[:41], image[41:])
        )
        assert np.array_equal(whole, np.concatenate([upper, lower]))


def test_channels_are_swapped_and_boxes_stay():
    none = PhotometricDistortion(0.0, (1.0, 1.0), (1.0, 1.0), 0.0)
    sample = square(10, 10, 20, 99)
    seen = set()
    for seed in range(60):
        found = none(Sample(colourful().image, sample.boxes, sample.labels), np.random.default_rng(seed))
        assert found.boxes is sample.boxes
        seen.add(tuple(found.image[0, 0].tolist()))
    assert len(seen) == 6


# ---- composition


def test_one_of_several_lists_is_taken_whole():
    choice = OneOf(((Resize((60, 45)), RandomFlip(1.0)), (Resize((240, 180)),), ()))
    sizes = [apply([choice], 0, [square(10, 10, 20, 255)], seed).size for seed in range(60)]
    assert {sizes.count(size) > 8 for size in ((60, 45), (240, 180), SIZE)} == {True}


def test_images_that_are_joined_have_gone_through_what_comes_before_the_first():
    read = []

    def reading(number: int) -> Sample:
        read.append(number)
        return square(10, 10, 20, 255)

    chain = [RandomFlip(1.0), Mosaic(SIZE, (1.0, 1.0)), OneOf(((Mosaic(SIZE),),)), MixUp(SIZE, (1.0, 1.0), 0.0)]
    sample = Augmentation(chain[:2], reading, 50)(7, np.random.default_rng(0))
    assert read[0] == 7
    assert len(read) == 4
    assert sample.boxes[:, 0].tolist() == [90, 210, 90, 210]  # all of them are mirrored
    read.clear()
    Augmentation(chain, reading, 50)(7, np.random.default_rng(0))
    assert len(read) == 1 + 3 + 3 + 1
    assert len(set(read)) > 4


# ---- settings and loading


def record(name: str, **fields) -> Record:
    return Record(name, fields)


EVERYTHING = (
    record("RandomResize", size=(96, 64), ratio=(0.7, 1.4)),
    record("RandomFlip"),
    record(
        "OneOf", policies=((record("Expand", ratio=(1.0, 2.0)),), (record("Pad", size=(110, 90)), record("RandomFlip")))
    ),
    record("CopyPaste"),
    record("Mosaic", size=(96, 64)),
    record("RandomAffine", border=(-48, -32)),
    record("MixUp", size=(96, 64)),
    record("PhotometricDistortion"),
    record("MinIoURandomCrop"),
    record("Pad", multiple=8),
    record("Resize", size=(128, 96)),
    record("RandomCrop", size=(120, 90)),
)


def read(root: Path, **changes) -> tuple[list, Data]:
    if not root.exists():
        coco_file(root, 9)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images"}),)
    settings = data_settings(voc_data(train=source, val=source, test=source, batch=3, **changes))
    dataset, _ = read_split(settings, "train", root, strict=False)
    return trained_images(dataset, settings), settings


def test_everything_is_reproduced_exactly_whatever_the_number_of_workers(tmp_path):
    images, settings = read(tmp_path / "data", augment=EVERYTHING)

    def epoch(workers: int, number: int = 1, seed: int = 4) -> list[dict[str, np.ndarray]]:
        batches = epoch_batches(images, settings, seed, None)
        batches.set_epoch(number)
        loader = training_loader(images, settings, batches, 32, workers, 9)
        return [{name: tensor.numpy() for name, tensor in batch.inputs.items()} for batch in loader]

    alone = epoch(0)
    assert "truth_masks" in alone[0]
    for workers in (1, 2):
        for one, other in zip(alone, epoch(workers), strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(alone[0]["image"], epoch(0, number=2)[0]["image"])
    assert not np.array_equal(alone[0]["image"], epoch(0, seed=5)[0]["image"])


def test_the_last_epochs_take_their_own_transforms(tmp_path):
    images, settings = read(
        tmp_path / "data",
        augment=(record("Mosaic", size=(96, 64)),),
        last_epochs=2,
        last_augment=(record("Resize", size=(48, 32)),),
    )
    training = TrainingImages(images, settings, 0, 5)
    assert [training[epoch, 0, 0].sample.size for epoch in range(5)] == [(192, 128)] * 3 + [(48, 32)] * 2
    always = TrainingImages(*read(tmp_path / "data", augment=(record("Resize", size=(48, 32)),)), 0, 5)
    assert always[7, 0, 0].sample.size == (48, 32)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("Pad", {"size": (0, 5)}, "sides from 1"),
        ("Pad", {"multiple": 0}, "from 1 to 4096"),
        ("Pad", {"value": (1.0, 2.0)}, "[red, green, blue]"),
        ("Pad", {"value": (1.0, 2.0, float("nan"))}, "[red, green, blue]"),
        ("RangeCrop", {"smallest": (9, 9), "largest": (20, 5)}, "below `smallest`"),
        ("Expand", {"ratio": (0.5, 2.0)}, "from 1 to 10"),
        ("Expand", {"ratio": (3.0, 2.0)}, "[least, greatest]"),
        ("Expand", {"probability": 1.5}, "from 0 to 1"),
        ("MinIoURandomCrop", {"ious": ()}, "from 0 to 1"),
        ("MinIoURandomCrop", {"ious": (1.5,)}, "from 0 to 1"),
        ("MinIoURandomCrop", {"smallest": 0.0}, "from 0.01 to 1"),
        ("RandomAffine", {"rotation": 700.0}, "180 degrees"),
        ("RandomAffine", {"shear": 90.0}, "40 degrees"),
        ("RandomAffine", {"scaling": (0.0, 1.0)}, "from 0.01 to 10"),
        ("RandomAffine", {"scaling": (1.0,)}, "from 0.01 to 10"),
        ("RandomAffine", {"border": (1,)}, "from -16384 to 4096"),
        ("PhotometricDistortion", {"hue": 999.0}, "180 degrees"),
        ("PhotometricDistortion", {"contrast": (-1.0, 1.0)}, "from 0 to 10"),
        ("Mosaic", {"size": (640,)}, "[width, height]"),
        ("Mosaic", {"size": (9000, 640)}, "at most 8192"),
        ("Mosaic", {"center": (0.5, 9.0)}, "from 0 to 2"),
        ("MixUp", {"ratio": (float("inf"), float("inf"))}, "from 0.01 to 10"),
        ("MixUp", {"flip": -1.0}, "from 0 to 1"),
        ("CopyPaste", {"most": 0}, "from 1 to 10000"),
        ("CopyPaste", {"visible": -1}, "from 0"),
        ("OneOf", {"policies": ()}, "at least one list"),
        ("OneOf", {"policies": (record("RandomFlip"),)}, "a list of lists of records"),
        ("OneOf", {"policies": ((5,),)}, "a list of lists of records"),
        ("OneOf", {"policies": 5}, "a list of lists of records"),
        ("OneOf", {"policies": None}, "at least one list"),
    ],
)
def test_impossible_settings_are_refused(name, fields, said):
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(augment=(record(name, **fields),)))
    (diagnostic,) = error.value
    assert diagnostic.kind.slug == "bad-setting"
    assert said in diagnostic.summary


def test_images_with_proposals_are_not_joined():
    source = (Record("Coco", {"annotations": "a.json", "images": "images", "proposals": "p.json"}),)
    for joining in (record("Mosaic"), record("OneOf", policies=((), (record("CopyPaste"),)))):
        with pytest.raises(DiagnosticError, match="cannot go through"):
            data_settings(voc_data(train=source, augment=(joining,)))
    data_settings(voc_data(train=source, augment=(record("RandomAffine"), record("Expand"))))


def test_pasting_asks_for_masks(tmp_path):
    voc_folder(tmp_path / "data", {"train": 3})
    source = (Record("Voc", {"split": "train", "folder": ""}),)
    settings = data_settings(voc_data(train=source, augment=(record("CopyPaste"),)))
    with pytest.raises(DiagnosticError) as error:
        read_split(settings, "train", tmp_path / "data", strict=False)
    assert "masks-missing" in [diagnostic.kind.slug for diagnostic in error.value]
    with pytest.raises(DiagnosticError, match="by their masks"):  # pages on data go on after such an error
        CopyPaste()(colourful(), np.random.default_rng(0), colourful)


def test_specs_name_every_transform(tmp_path):
    spec = tmp_path / "mine.det"
    spec.write_text(
        """
import retinanet_r50_fpn_1x from "retinanet.det"
import RandomFlip, MinIoURandomCrop, RandomAffine, Pad, Expand, PhotometricDistortion from "lib/data.det"
import Mosaic, MixUp, CopyPaste, OneOf from "lib/data.det"

detector mine = retinanet_r50_fpn_1x with {
    data.augment = [
        OneOf([[RandomFlip()], [Expand(), MinIoURandomCrop()]]), CopyPaste(), Mosaic(),
        RandomAffine(border = [-320, -320]), MixUp(), PhotometricDistortion(), Pad(multiple = 32)
    ]
    data.last_augment = [Pad([640, 640])]
    data.last_epochs = 2
}
"""
    )
    settings = data_settings(detc.load(spec, "mine").data)
    wanted = (
        OneOf(((RandomFlip(),), (Expand(), MinIoURandomCrop()))),
        CopyPaste(),
        Mosaic(),
        RandomAffine(border=(-320, -320)),
        MixUp(),
        PhotometricDistortion(),
        Pad(multiple=32),
    )
    assert settings.augment == wanted  # the records' defaults are those of the classes
    assert settings.last_augment == (Pad((640, 640)),)
    assert settings.last_epochs == 2
