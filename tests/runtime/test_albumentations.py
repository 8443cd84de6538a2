"""Albumentations' transforms by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from drawn import coco_file, outline, voc_data

import detc
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.external import Albumentations, _composed
from detc.runtime.data.images import Unreadable
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.loading import TrainingImages, epoch_batches, trained_images, training_loader
from detc.runtime.data.masks import read_mask
from detc.runtime.data.reading import read_split
from detc.runtime.data.samples import Sample
from detc.runtime.data.settings import data_settings


def record(name: str, *parameters: tuple[str, object]) -> Record:
    return Record("Albumentations", {"name": name, "parameters": parameters})


def squares() -> Sample:
    """Two squares of their own greys on black, with masks."""
    image = np.zeros((60, 100, 3), np.uint8)
    boxes = [[10, 10, 30, 30], [60, 20, 90, 50]]
    for (x1, y1, x2, y2), grey in zip(boxes, (100, 200), strict=True):
        image[y1:y2, x1:x2] = grey
    masks = tuple(read_mask([outline("square", *box)], (100, 60)) for box in boxes)
    return Sample.annotated(image, np.asarray(boxes, np.float32), np.asarray([0, 1]), masks)


def test_what_moves_pixels_moves_boxes_and_masks():
    transposed = Albumentations("Transpose", (("p", 1.0),))(squares(), np.random.default_rng(0))
    assert transposed.size == (60, 100)
    assert transposed.boxes.tolist() == [pytest.approx([10, 10, 30, 30]), pytest.approx([20, 60, 50, 90])]
    crop = (("x_min", 50), ("y_min", 0), ("x_max", 80), ("y_max", 40), ("p", 1.0))
    cropped = Albumentations("Crop", crop)(squares(), np.random.default_rng(0))
    assert cropped.boxes.tolist() == [pytest.approx([10, 20, 30, 40])]
    assert cropped.labels.tolist() == [1]
    for sample, greys in ((transposed, (100, 200)), (cropped, (200,))):
        for window, grey in zip(draw_masks(sample.masks, sample.layers, sample.size), greys, strict=True):
            height, width = window.pixels.shape
            drawn = np.zeros(sample.image.shape[:2], bool)
            drawn[window.y : window.y + height, window.x : window.x + width] = window.pixels
            assert np.array_equal(drawn, sample.image[..., 0] == grey)


def test_what_changes_colours_leaves_boxes_and_masks_as_they_are():
    given = squares()
    given.image[..., 2] = 255  # red
    sample = Albumentations("ToGray", (("p", 1.0),))(given, np.random.default_rng(0))
    assert sample.boxes is given.boxes
    assert sample.masks is given.masks
    assert abs(int(sample.image[0, 0, 0]) - 76) <= 1  # of pure red, in the order that the library takes
    empty = Sample.annotated(given.image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert Albumentations("HorizontalFlip", (("p", 1.0),))(empty, np.random.default_rng(0)).boxes.shape == (0, 4)


def test_the_generator_decides():
    noise = Albumentations("GaussNoise", (("p", 1.0),))
    one, same, other = (noise(squares(), np.random.default_rng(seed)).image for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def loaded(tmp_path, *augment: Record):
    root = coco_file(tmp_path / "data", 6)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images"}),)
    settings = data_settings(voc_data(train=source, val=source, test=source, batch=3, augment=augment))
    dataset, _ = read_split(settings, "train", root, strict=False, masks=True)
    return trained_images(dataset, settings), settings


def test_batches_are_the_same_whatever_the_number_of_workers(tmp_path):
    every = [
        record("ElasticTransform", ("p", 1.0)),
        record("CoarseDropout", ("p", 1.0)),
        record("RandomBrightnessContrast"),
        record("Spatter", ("p", 1.0)),
        record("Affine", ("rotate", (-20, 20)), ("p", 1.0)),
    ]
    images, settings = loaded(tmp_path, *every)

    def epoch(workers: int) -> list[dict[str, np.ndarray]]:
        batches = epoch_batches(images, settings, 3, None)
        loader = training_loader(images, settings, batches, 32, workers, 1)
        return [{name: tensor.numpy() for name, tensor in batch.inputs.items()} for batch in loader]

    alone = epoch(0)
    for workers in (1, 2):
        for one, other in zip(alone, epoch(workers), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("CLAH", (), 'did you mean "CLAHE"?'),
        ("os", (), "none of the transforms"),
        ("Compose", (), "none of the transforms"),
        ("BasicTransform", (), "none of the transforms"),
        ("DualTransform", (), "none of the transforms"),
        ("core.composition.Compose", (), "is not there"),
        ("__builtins__", (), "none of the transforms"),
        ("Lambda", (), "none of the transforms"),
        ("TextImage", (("font_path", "/etc/passwd"),), "none of the transforms"),
        ("HistogramMatching", (("reference_images", ("/etc/passwd",)),), "none of the transforms"),
        ("Normalize", (), "none of the transforms"),
        ("CenterCrop3D", (), "none of the transforms"),
        ("Blur", (("blur", 3),), 'no parameter "blur"'),
        ("Blur", (("blur_limit", "x"),), "refuses them"),
        ("Blur", (("blur_limit", -3),), "refuses them"),
        ("CLAHE", (("p", 7.0),), "refuses them"),
        ("Crop", (("x_min", 9), ("x_max", 5)), "refuses them"),
        ("Blur", (("p", 0.5), ("p", 0.6)), "each once"),
        ("Blur", ("p", 0.5), '["name", value]'),
        ("Blur", (("p",),), '["name", value]'),
        ("Blur", (("p", Record("Pad", {})),), '["name", value]'),
        ("Blur", 5, '["name", value]'),
    ],
)
def test_what_the_library_does_not_take_is_refused(name, parameters, said):
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(augment=(Record("Albumentations", {"name": name, "parameters": parameters}),)))
    (diagnostic,) = error.value
    assert diagnostic.kind.slug == "bad-setting"
    assert said in diagnostic.summary
    assert "\n" not in diagnostic.summary


def test_an_image_that_does_not_suit_is_named(tmp_path):
    images, settings = loaded(tmp_path, record("CenterCrop", ("height", 500), ("width", 500), ("p", 1.0)))
    item = TrainingImages(images, settings, 0, 1)[0, 0, 0]
    assert isinstance(item, Unreadable)
    assert [diagnostic.kind.slug for diagnostic in item.diagnostics] == ["augmentation-failed"]
    assert "CenterCrop" in item.diagnostics[0].summary


def test_without_the_library_the_command_is_named(monkeypatch, tmp_path):
    _composed.cache_clear()
    monkeypatch.setitem(sys.modules, "albumentations", None)
    spec = tmp_path / "mine.det"
    spec.write_text(
        """
import retinanet_r50_fpn_1x from "retinanet.det"
import Albumentations from "lib/data.det"

detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Albumentations("CLAHE", [["p", 0.5]])]
}
"""
    )
    with pytest.raises(DiagnosticError) as error:
        data_settings(detc.load(spec, "mine").data)
    (diagnostic,) = error.value
    assert "pip install detc[albumentations]" in diagnostic.summary
    span = diagnostic.labels[0].span
    assert span.source.text[span.start : span.end] == '"CLAHE"'


def test_specs_name_it(tmp_path):
    spec = tmp_path / "mine.det"
    spec.write_text(
        """
import retinanet_r50_fpn_1x from "retinanet.det"
import Albumentations from "lib/data.det"

detector mine = retinanet_r50_fpn_1x with {
    data.augment = [Albumentations("CLAHE", [["clip_limit", [1, 3]], ["p", 0.5]]), Albumentations("D4")]
}
"""
    )
    augment = data_settings(detc.load(spec, "mine").data).augment
    assert augment == (Albumentations("CLAHE", (("clip_limit", (1, 3)), ("p", 0.5))), Albumentations("D4"))
