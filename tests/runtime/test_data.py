"""Reading annotations: what is read, what is refused, what is counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, coco_file, draw, voc_data, voc_folder, voc_xml

from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.source import Source, Span
from detc.runtime.data.coco import read_coco
from detc.runtime.data.dataset import build_dataset
from detc.runtime.data.images import read_image
from detc.runtime.data.loading import EpochBatches, training_loader
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import data_root, data_settings
from detc.runtime.data.voc import read_voc


def slugs(error: pytest.ExceptionInfo[DiagnosticError]) -> list[str]:
    return [diagnostic.kind.slug for diagnostic in error.value]


def read_coco_set(root: Path, strict: bool = False, classes: tuple[str, ...] = CLASSES):
    return build_dataset([read_coco(root / "annotations.json", root / "images")], classes, strict)


def test_voc_boxes_cover_the_drawn_pixels(tmp_path):
    root = voc_folder(tmp_path / "voc", {"train": 4})
    dataset, warnings = build_dataset([read_voc(root, "train")], CLASSES, strict=True)
    assert not warnings
    for seed, image in enumerate(dataset.images):
        _, objects = draw(seed)
        assert image.boxes.tolist() == [box for _, box in objects]
        assert [CLASSES[label] for label in image.labels] == [name for name, _ in objects]
        assert image.size == (96, 64)


def test_coco_matches_categories_by_name_whatever_their_ids_and_order(tmp_path):
    dataset, warnings = read_coco_set(coco_file(tmp_path, 4))
    assert not warnings
    assert dataset.category_ids == (3, 7)
    assert [image.number for image in dataset.images] == [100, 101, 102, 103]
    for seed, image in enumerate(dataset.images):
        assert [CLASSES[label] for label in image.labels] == [name for name, _ in draw(seed)[1]]


def test_difficult_and_crowd_objects_are_not_trained_on(tmp_path):
    crowd = {"id": 1, "image_id": 100, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 1}
    one = {**crowd, "id": 2, "bbox": [30, 30, 10, 10], "iscrowd": 0}
    dataset, _ = read_coco_set(coco_file(tmp_path, 1, annotations=[crowd, one]))
    image = dataset.images[0]
    assert image.ignored.tolist() == [True, False]
    assert image.trained()[0].tolist() == [[30, 30, 40, 40]]

    root = voc_folder(tmp_path / "voc", {"train": 1})
    xml = root / "Annotations" / "img_000.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1"))
    assert [item.ignored for item in read_voc(root, "train").images[0].objects] == [True]


def test_bad_boxes_are_counted_and_left_out_or_cut(tmp_path):
    boxes = [[5, 5, 0, 9], [5, 5, -4, 9], [float("nan"), 1, 2, 3], [200, 5, 9, 9], [-10, 5, 30, 20], [5, 5, 9, 9], "x"]
    annotations = [{"id": i, "image_id": 100, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)]
    dataset, warnings = read_coco_set(coco_file(tmp_path, 1, annotations=annotations))
    image = dataset.images[0]
    assert image.boxes.tolist() == [[-10, 5, 20, 25], [5, 5, 14, 14]]
    assert image.trained()[0].tolist() == [[0, 5, 20, 25], [5, 5, 14, 14]]
    said = [diagnostic.summary for diagnostic in warnings if diagnostic.kind.slug == "bad-box"]
    assert sorted(int(summary.split()[-1]) for summary in said) == [1, 1, 1, 1, 2]
    assert all(diagnostic.severity == "warning" for diagnostic in warnings)


def test_equal_boxes_are_trained_on_once_and_evaluated_twice(tmp_path):
    annotations = [{"id": i, "image_id": 100, "category_id": 3, "bbox": [5, 5, 9, 9]} for i in (1, 2)]
    dataset, warnings = read_coco_set(coco_file(tmp_path, 1, annotations=annotations))
    assert len(dataset.images[0].boxes) == 2
    assert len(dataset.images[0].trained()[0]) == 1
    assert "duplicate" in [diagnostic.kind.slug for diagnostic in warnings]


def test_misspelt_classes_show_both_lists(tmp_path):
    with pytest.raises(DiagnosticError) as error:
        read_coco_set(coco_file(tmp_path, 2), classes=("Square", "disc"))
    (diagnostic,) = error.value
    assert diagnostic.kind.slug == "classes-mismatch"
    assert 'did you mean "square"?' in diagnostic.detail
    assert "Square, disc" in diagnostic.notes[0]
    assert "disc, square" in diagnostic.notes[1]


def test_classes_the_spec_does_not_list_are_left_out_with_a_count(tmp_path):
    dataset, warnings = read_coco_set(coco_file(tmp_path, 6), classes=("disc",))
    drawn = [name for seed in range(6) for name, _ in draw(seed)[1]]
    assert dataset.counts() == [drawn.count("disc")]
    (diagnostic,) = [d for d in warnings if d.kind.slug == "unused-class"]
    assert diagnostic.summary.startswith('objects of class "square"')
    assert diagnostic.summary.endswith(f": {drawn.count('square')}")


def test_voc_class_without_an_object_is_a_warning_only_if_no_name_is_unknown(tmp_path):
    root = voc_folder(tmp_path / "voc", {"train": 6})
    _, warnings = build_dataset([read_voc(root, "train")], (*CLASSES, "star"), strict=False)
    assert [d.kind.slug for d in warnings] == ["unused-class"]
    with pytest.raises(DiagnosticError) as error:
        build_dataset([read_voc(root, "train")], ("squares", "disc"), strict=False)
    assert slugs(error) == ["classes-mismatch"]


def damage_images(folder: Path) -> None:
    """Removes 0, cuts off 1, empties 2, resizes 3; leaves the rest."""
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-100])
    (folder / "2.png").write_bytes(b"")
    cv2.imwrite(str(folder / "3.png"), np.zeros((32, 48, 3), np.uint8))


def test_unusable_images_are_left_out_of_training_and_stop_an_evaluation(tmp_path):
    root = coco_file(tmp_path, 6)
    damage_images(root / "images")
    dataset, warnings = read_coco_set(root)
    assert [image.number for image in dataset.images] == [104, 105]
    assert [d.kind.slug for d in warnings] == ["image-left-out"] * 4
    with pytest.raises(DiagnosticError) as error:
        read_coco_set(root, strict=True)
    assert set(slugs(error)) == {"image-missing", "image-unreadable", "size-disagrees"}
    assert "1.png" in str(error.value.diagnostics[1].detail)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_refused_instead_of_filled_with_grey(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    image, _ = draw(0)
    cv2.imwrite(str(path), image)
    assert read_image(path).shape == (64, 96, 3)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DiagnosticError) as error:
        read_image(path)
    assert slugs(error) == ["image-unreadable"]
    assert "cut off" in error.value.diagnostics[0].summary


def test_a_photograph_marked_as_rotated_is_turned_where_its_annotation_is(tmp_path):
    from PIL import Image

    path = tmp_path / "rotated.jpg"
    mark = Image.Exif()
    mark[0x0112] = 6
    Image.fromarray(draw(0)[0]).save(path, exif=mark)
    assert read_image(path, (96, 64)).shape == (64, 96, 3)
    assert read_image(path, (64, 96)).shape == (96, 64, 3)
    assert read_image(path).shape == (96, 64, 3)
    with pytest.raises(DiagnosticError) as error:
        read_image(path, (50, 50))
    assert slugs(error) == ["size-disagrees"]


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        ("{", "annotation-unreadable"),
        ("[" * 100_000, "annotation-unreadable"),
        ("[]", "annotation-unreadable"),
        ('{"images": [], "annotations": []}', "annotation-unreadable"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "annotation-unreadable"),
        ('{"images": [], "annotations": [], "categories": []}', "classes-mismatch"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "duplicate-id",
        ),
    ],
)
def test_coco_files_that_are_none(tmp_path, content, slug):
    root = coco_file(tmp_path, 1)
    (root / "annotations.json").write_text(content)
    with pytest.raises(DiagnosticError) as error:
        read_coco_set(root)
    assert slugs(error) == [slug]


def test_coco_file_names_may_not_leave_the_image_folder(tmp_path):
    root = coco_file(tmp_path, 1, images=[{"id": 100, "file_name": "../secret.png", "width": 9, "height": 9}])
    with pytest.raises(DiagnosticError) as error:
        read_coco_set(root)
    assert slugs(error) == ["path-outside"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<annotation><object>",
        '<!DOCTYPE a [<!ENTITY b "boom">]><annotation>&b;</annotation>',
        "<annotation><object><bndbox/></object></annotation>",
    ],
)
def test_voc_files_that_are_none(tmp_path, content):
    root = voc_folder(tmp_path / "voc", {"train": 1})
    (root / "Annotations" / "img_000.xml").write_text(content)
    with pytest.raises(DiagnosticError) as error:
        read_voc(root, "train")
    assert slugs(error) == ["annotation-unreadable"]


def test_voc_image_listed_twice_is_used_once(tmp_path):
    root = voc_folder(tmp_path / "voc", {"train": 2})
    listing = root / "ImageSets" / "Main" / "train.txt"
    listing.write_text(listing.read_text() + "img_000 1\n")
    dataset, warnings = build_dataset([read_voc(root, "train")], CLASSES, strict=True)
    assert len(dataset.images) == 2
    assert [d.kind.slug for d in warnings] == ["duplicate"]


def test_missing_folders_and_splits_are_named(tmp_path):
    settings = data_settings(voc_data())
    with pytest.raises(DiagnosticError) as error:
        read_split(settings, "train", tmp_path / "nowhere", strict=False)
    assert slugs(error) == ["data-missing"]
    voc_folder(tmp_path / "data", {"train": 1})
    with pytest.raises(DiagnosticError) as error:
        read_split(settings, "val", tmp_path / "data", strict=False)
    assert slugs(error) == ["data-missing"]
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(test=())), "test", tmp_path / "data", strict=False)
    assert slugs(error) == ["no-split"]


def test_an_image_set_without_objects_says_so(tmp_path):
    root = voc_folder(tmp_path / "voc", {"train": 1})
    (root / "Annotations" / "img_000.xml").write_text(voc_xml((96, 64), []))
    with pytest.raises(DiagnosticError) as error:
        build_dataset([read_voc(root, "train")], CLASSES, strict=False)
    assert slugs(error)[0] in ("no-objects", "classes-mismatch")


def test_roots_are_relative_to_the_spec_and_overridden_by_the_command_line():
    settings = data_settings(voc_data(root="sets/voc"))
    assert data_root(settings, Path("/specs/mine.det"), None) == Path("/specs/sets/voc")
    assert data_root(settings, Path("/specs/mine.det"), Path("elsewhere")) == Path("elsewhere")


def test_bad_settings_point_at_the_spec():
    text = "RandomFlip(probability = 50.0)"
    span = Span(Source("mine.det", text), 11, len(text) - 1)
    flip = Record("RandomFlip", {"probability": 50.0, "direction": "horizontal"}, spans={"probability": span})
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(augment=(flip,)))
    (diagnostic,) = error.value
    assert diagnostic.kind.slug == "bad-setting"
    assert diagnostic.labels[0].span == span


def test_records_of_other_kinds_are_refused_with_a_suggestion():
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(augment=(Record("RandomFlips", {}),)))
    (diagnostic,) = error.value
    assert diagnostic.kind.slug == "unknown-record"
    assert 'did you mean "RandomFlip"?' in diagnostic.detail


def test_batches_are_the_same_whatever_the_number_of_workers(tmp_path):
    voc_folder(tmp_path / "data", {"train": 10, "val": 1, "test": 1})
    crop = Record("RandomCrop", {"size": (64, 48)})
    jitter = Record("RandomResize", {"size": (96, 64), "ratio": (0.8, 1.2), "keep_ratio": True})
    settings = data_settings(voc_data(augment=(jitter, crop)))
    dataset, _ = read_split(settings, "train", tmp_path / "data", strict=True)

    def epoch(workers: int, seed: int, number: int):
        batches = EpochBatches([True] * len(dataset.images), 4, seed, epoch=number)
        return list(training_loader(dataset.images, settings, batches, 32, workers))

    alone, together = epoch(0, 5, 1), epoch(2, 5, 1)
    assert [b.files for b in alone] == [b.files for b in together]
    for one, other in zip(alone, together, strict=True):
        assert (one.inputs["image"] == other.inputs["image"]).all()
        assert (one.inputs["truth_boxes"] == other.inputs["truth_boxes"]).all()
    assert sorted(name for b in alone for name in b.files) == sorted(i.path.name for i in dataset.images)
    assert [b.files for b in alone] != [b.files for b in epoch(0, 5, 2)]
    assert [b.files for b in alone] != [b.files for b in epoch(0, 6, 1)]


def test_batches_are_padded_to_the_multiple_and_rows_filled_with_minus_one(tmp_path):
    voc_folder(tmp_path / "data", {"train": 4, "val": 1, "test": 1})
    settings = data_settings(voc_data(augment=(), canvas=(100, 70)))
    dataset, _ = read_split(settings, "train", tmp_path / "data", strict=True)
    (batch,) = training_loader(dataset.images, settings, EpochBatches([True] * 4, 4, 0), 64, 0)
    assert batch.inputs["image"].shape == (4, 3, 128, 128)
    assert (batch.inputs["image"][:, :, 64:] == 0).all()
    assert (batch.inputs["image"][:, :, :, 96:] == 0).all()
    assert batch.inputs["truth_labels"].shape == (4, 2)
    for boxes, labels, name in zip(batch.inputs["truth_boxes"], batch.inputs["truth_labels"], batch.files, strict=True):
        objects = draw(int(name[4:7]))[1]
        assert boxes[: len(objects)].tolist() == [box for _, box in objects]
        assert labels.tolist() == [CLASSES.index(n) for n, _ in objects] + [-1] * (2 - len(objects))


def test_epoch_batches_group_by_orientation_use_every_image_and_skip_when_resuming():
    wide = [True] * 7 + [False] * 5
    batches = EpochBatches(wide, 4, seed=3, epoch=2)
    drawn = [[index for _, _, index in batch] for batch in batches]
    assert sorted(index for batch in drawn for index in batch) == list(range(12))
    assert [len(batch) for batch in drawn] == [4, 4, 4]
    assert sum(len({wide[index] for index in batch}) == 1 for batch in drawn) >= 2
    resumed = EpochBatches(wide, 4, seed=3, epoch=2, skip=2)
    assert list(resumed) == list(batches)[2:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == 3


def test_an_epoch_may_be_longer_than_the_data():
    drawn = [index for batch in EpochBatches([True] * 5, 4, 0, length=12) for _, _, index in batch]
    assert len(drawn) == 12
    assert all(drawn.count(index) >= 2 for index in range(5))
