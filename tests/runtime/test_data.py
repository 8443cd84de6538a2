"""Reading annotations: what is read, what is refused, what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, coco_file, draw, voc_data, voc_folder, voc_xml

import detc
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.dsl.source import Source, Span
from detc.runtime.data.coco import read_coco, read_lvis
from detc.runtime.data.dataset import AnnotatedImage, build_dataset
from detc.runtime.data.images import read_image
from detc.runtime.data.loading import EpochBatches, repetitions, training_loader
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
        batches = EpochBatches([True] * len(dataset.images), 4, seed)
        batches.set_epoch(number)
        return list(training_loader(dataset.images, settings, batches, 32, workers, 1))

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
    (batch,) = training_loader(dataset.images, settings, EpochBatches([True] * 4, 4, 0), 64, 0, 1)
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
    batches = EpochBatches(wide, 4, seed=3)
    batches.set_epoch(2)
    drawn = [[index for _, _, index in batch] for batch in batches]
    assert sorted(index for batch in drawn for index in batch) == list(range(12))
    assert [len(batch) for batch in drawn] == [4, 4, 4]
    assert sum(len({wide[index] for index in batch}) == 1 for batch in drawn) >= 2
    resumed = EpochBatches(wide, 4, seed=3)
    resumed.start_at(2, 2)
    assert list(resumed) == list(batches)[2:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == 3


def test_an_epoch_may_be_longer_than_the_data():
    drawn = [index for batch in EpochBatches([True] * 5, 4, 0, length=12) for _, _, index in batch]
    assert len(drawn) == 12
    assert all(drawn.count(index) >= 2 for index in range(5))


# ---- masks


def with_masks(root: Path, count: int, **changes):
    """The training data of drawn images in COCO's form, read with masks, and the settings."""
    coco_file(root, count, **changes)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images", "proposals": None}),)
    settings = data_settings(voc_data(train=source, val=source, test=source))
    return *read_split(settings, "train", root, strict=False, masks=True), settings


def test_batches_have_each_object_s_pixels_in_its_window(tmp_path):
    dataset, warnings, settings = with_masks(tmp_path, 8)
    assert not warnings
    for batch in training_loader(dataset.images, settings, EpochBatches([True] * 8, 4, 0), 32, 0, 1):
        pixels, windows = batch.inputs["truth_masks"].numpy(), batch.inputs["truth_windows"].numpy()
        assert windows.shape == (4, 2, 5)
        for row, labels in enumerate(batch.inputs["truth_labels"].tolist()):
            for column, label in enumerate(labels):
                offset, x, y, width, height = windows[row, column].tolist()
                if label < 0:
                    assert (x, y, width, height) == (0, 0, 0, 0)
                    continue
                assert batch.inputs["truth_boxes"][row, column].tolist() == [x, y, x + width, y + height]
                mask = pixels[offset : offset + width * height].reshape(height, width).astype(bool)
                share = 1.0 if CLASSES[label] == "square" else np.pi / 4
                assert mask.mean() == pytest.approx(share, abs=0.04)
                drawn = batch.inputs["image"][row, :, y : y + height, x : x + width].numpy()
                colourful = np.ptp(drawn, axis=0) > 1.0
                assert (mask & colourful).sum() / (mask | colourful).sum() > 0.7


def test_masks_are_neither_read_nor_batched_where_nobody_wants_them(tmp_path):
    dataset, _ = read_coco_set(coco_file(tmp_path, 2))
    assert [image.masks for image in dataset.images] == [None, None]
    assert dataset.images[0].trained()[2] is None


def annotation(number: int, x: int = 5, **changes):
    """A square of 20 pixels with its mask, in the first image."""
    square = {"id": number, "image_id": 100, "category_id": 3, "bbox": [x, 5, 20, 20], "area": 400, "iscrowd": 0}
    return {**square, "segmentation": [[x, 5, x + 20, 5, x + 20, 25, x, 25]], **changes}


def test_objects_with_a_bad_mask_are_counted_and_not_trained_on(tmp_path):
    annotations = [
        annotation(1),
        annotation(2, x=30, segmentation=[[1, 2, 3]]),
        annotation(3, x=35, segmentation=[[1, 2, 3, 4]]),
        annotation(4, x=40, segmentation={"size": [9, 9], "counts": [81]}),
        annotation(5, x=45, segmentation=[[1, 2, float("nan"), 4, 5, 6]]),
        annotation(6, x=50, segmentation=[]),
        annotation(7, x=55, segmentation=[], iscrowd=1),
    ]
    dataset, warnings, _ = with_masks(tmp_path, 1, annotations=annotations)
    boxes, labels, masks = dataset.images[0].trained()
    assert boxes.tolist() == [[5, 5, 25, 25]]
    assert len(labels) == len(masks) == 1
    said = [d.summary for d in warnings if d.kind.slug == "bad-mask"]
    assert len(said) == 5
    assert all(summary.endswith(": 1") for summary in said)
    assert len(dataset.images[0].boxes) == 7
    without, _ = read_coco_set(tmp_path)
    assert len(without.images[0].trained()[0]) == 6


def test_run_lengths_are_trained_on_as_polygons_are(tmp_path):
    pixels = np.zeros((64, 96), np.uint8)
    pixels[5:25, 5:25] = 1
    counts = [5 * 64 + 5, *([20, 44] * 19), 20]
    counts.append(96 * 64 - sum(counts))
    annotations = [annotation(1), annotation(2, category_id=7, segmentation={"size": [64, 96], "counts": counts})]
    dataset, warnings, settings = with_masks(tmp_path, 1, annotations=annotations)
    assert not [d for d in warnings if d.kind.slug == "bad-mask"]
    (batch,) = training_loader(dataset.images, settings, EpochBatches([True], 1, 1), 32, 0, 1)
    windows = batch.inputs["truth_windows"][0].tolist()
    assert windows[0][1:] == windows[1][1:]
    assert windows[0][3:] == [20, 20]
    assert batch.inputs["truth_masks"].tolist() == [1] * 800


def test_an_image_without_objects_is_batched_without_a_pixel(tmp_path):
    images = [{"id": 100 + i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in range(2)]
    dataset, _, settings = with_masks(tmp_path, 2, images=images, annotations=[annotation(1)])
    (empty,) = [image for image in dataset.images if not len(image.boxes)]
    (batch,) = training_loader([empty], settings, EpochBatches([True], 1, 0), 32, 0, 1)
    assert batch.inputs["truth_masks"].shape == (0,)
    assert batch.inputs["truth_windows"].tolist() == [[[0, 0, 0, 0, 0]]]
    assert batch.inputs["truth_labels"].tolist() == [[-1]]


def test_sources_without_masks_are_named_before_training(tmp_path):
    voc_folder(tmp_path / "voc", {"train": 2})
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data()), "train", tmp_path / "voc", strict=False, masks=True)
    assert slugs(error) == ["masks-missing"]
    assert "train.txt" in error.value.diagnostics[0].summary
    assert "COCO's form" in error.value.diagnostics[0].detail
    bare = [{k: v for k, v in annotation(1).items() if k != "segmentation"}, annotation(2, x=50, segmentation=[[1, 2]])]
    with pytest.raises(DiagnosticError) as error:
        with_masks(tmp_path / "coco", 1, annotations=bare)
    assert slugs(error) == ["masks-missing"]
    assert "annotations.json" in error.value.diagnostics[0].summary
    assert "without a mask, or with polygons of fewer than three points" in error.value.diagnostics[0].notes[0]


# ---- LVIS, names from the annotations, repetition


def lvis_file(root: Path, names: list[str]) -> Path:
    """Drawn images with an annotation file as LVIS's: images at these places, with what was looked for in them."""
    coco_file(root, len(names))
    content = json.loads((root / "annotations.json").read_text())
    for index, name in enumerate(names):
        entry = content["images"][index]
        entry.update(neg_category_ids=[7], not_exhaustive_category_ids=[3])
        if name.startswith("http"):
            del entry["file_name"]
            entry["coco_url"] = name
        else:
            entry["file_name"] = name
        place = root / "images" / ("/".join(name.split("/")[-2:]) if name.startswith("http") else name[-16:])
        place.parent.mkdir(exist_ok=True)
        (root / "images" / f"{index}.png").rename(place)
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_lvis_images_lie_where_coco_has_them(tmp_path):
    names = [
        "http://images.cocodataset.org/train2017/000000391895.jpg",
        "http://images.cocodataset.org/val2017/000000000042.jpg",
        "000000000009.png",
        "COCO_val2014_000000000025.png",
    ]
    lvis_file(tmp_path, names)
    raw = read_lvis(tmp_path / "annotations.json", tmp_path / "images")
    places = ["train2017/000000391895.jpg", "val2017/000000000042.jpg", "000000000009.png", "000000000025.png"]
    assert [image.path for image in raw.images] == [tmp_path / "images" / place for place in places]
    dataset, _ = build_dataset([raw], CLASSES, strict=True)
    assert {image.absent for image in dataset.images} == {frozenset([1])}
    assert {image.unfinished for image in dataset.images} == {frozenset([0])}


@pytest.mark.parametrize("url", ["http://host/../secret.jpg", "../../secret.jpg", ""])
def test_lvis_addresses_may_not_leave_the_image_folder(tmp_path, url):
    lvis_file(tmp_path, ["a.png"])
    content = json.loads((tmp_path / "annotations.json").read_text())
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = url
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DiagnosticError) as error:
        build_dataset([read_lvis(tmp_path / "annotations.json", tmp_path / "images")], CLASSES, strict=True)
    assert slugs(error) in (["path-outside"], ["image-missing"], ["image-unreadable"])


def test_a_number_of_classes_takes_the_names_of_the_annotations_by_id(tmp_path):
    coco_file(tmp_path, 6)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images"}),)
    settings = data_settings(voc_data(classes=2, train=source))
    dataset, _ = read_split(settings, "train", tmp_path, strict=False)
    assert dataset.classes == ("square", "disc")  # of ids 3 and 7
    assert dataset.category_ids == (3, 7)
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(classes=1230, train=source)), "train", tmp_path, strict=False)
    assert slugs(error) == ["classes-mismatch"]
    assert "1230 classes" in error.value.diagnostics[0].summary
    assert "declares 2" in error.value.diagnostics[0].summary
    voc_folder(tmp_path / "voc", {"train": 2})
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(classes=2)), "train", tmp_path / "voc", strict=False)
    assert slugs(error) == ["classes-mismatch"]


@pytest.mark.parametrize("classes", [0, -3, 1.5, (), (1, 2), ("a", "a")])
def test_what_is_neither_names_nor_a_number_of_classes_is_refused(classes):
    with pytest.raises(DiagnosticError) as error:
        data_settings(voc_data(classes=classes))
    assert slugs(error) == ["bad-setting"]


def labelled(*labels: int) -> AnnotatedImage:
    boxes = np.asarray([[10 * i, 0, 10 * i + 8, 8] for i in range(len(labels))], np.float64).reshape(-1, 4)
    areas, ignored = np.full(len(labels), 64.0), np.zeros(len(labels), bool)
    return AnnotatedImage(1, Path("a.jpg"), (500, 500), boxes, np.asarray(labels, np.int64), areas, ignored)


def test_images_of_rare_classes_are_repeated_by_the_root_of_their_rarity():
    # Of ten images, ten show class 0, two class 1, one class 2; class 3 is twice in one image, which counts once.
    images = [labelled(0, 1), labelled(0, 1, 2), labelled(0, 3, 3), *[labelled(0)] * 7]
    # sqrt(0.9 / 0.2) = 2.1, sqrt(0.9 / 0.1) = 3
    assert repetitions(images, 0.9).tolist() == [3, 3, 3, *[1] * 7]
    assert repetitions(images, 0.15).tolist() == [1, 2, 2, *[1] * 7]
    assert repetitions(images, None).tolist() == [1] * 10
    assert repetitions([*images, labelled()], 0.9).tolist()[-1] == 1


def test_an_epoch_takes_images_as_often_as_it_should_in_an_order_of_its_own():
    batches = EpochBatches([True] * 4, 2, seed=1, repetitions=np.asarray([1, 3, 1, 2]), repeat=2)
    drawn = [draw for batch in batches for draw in batch]
    assert len(batches) == 7
    assert sorted(index for _, _, index in drawn) == [0] * 2 + [1] * 6 + [2] * 2 + [3] * 4
    assert len({place for _, place, _ in drawn}) == 14
    assert list(batches) == list(EpochBatches([True] * 4, 2, 1, repetitions=np.asarray([1, 3, 1, 2]), repeat=2))
    other = EpochBatches([True] * 4, 2, seed=1, repetitions=np.asarray([1, 3, 1, 2]), repeat=2)
    other.set_epoch(1)
    assert [index for batch in other for _, _, index in batch] != [index for _, _, index in drawn]


PUBLISHED = """
import retinanet_r50_fpn_1x from "retinanet.det"
import coco_detection, cityscapes_instance, deepfashion, lvis_v05, voc0712_detection from "lib/data.det"

detector person  = retinanet_r50_fpn_1x with { data = coco_detection(classes = ["person"], train_proposals = "p.npz") }
detector city    = retinanet_r50_fpn_1x with { data = cityscapes_instance() }
detector fashion = retinanet_r50_fpn_1x with { data = deepfashion() }
detector voc     = retinanet_r50_fpn_1x with { data = voc0712_detection() }
"""


def test_the_published_data_is_what_the_reference_trains_on(tmp_path):
    (tmp_path / "rows.det").write_text(PUBLISHED)
    person, city, fashion, voc = (
        data_settings(detc.load(tmp_path / "rows.det", name).data) for name in ("person", "city", "fashion", "voc")
    )
    assert person.classes == ("person",)
    assert person.train[0].proposals == "p.npz"
    assert (len(city.classes), city.repeat, city.batch, city.augment[0].largest) == (8, 8, 1, (2048, 1024))
    assert (len(fashion.classes), fashion.resize.size) == (15, (750, 1101))
    assert (voc.repeat, voc.oversample) == (3, None)
