"""The text form of YOLO, as the tools that write it lay it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from downloaded import DESCRIPTION, LABELS, slugs, text, yolo
from drawn import voc_data
from PIL import Image

from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.dataset import Dataset, build_dataset
from detc.runtime.data.images import read_image
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import Yolo, data_settings
from detc.runtime.data.yolo import read_yolo


def read_pets(root: Path, images: str = "train", masks: bool = False, **options: object) -> Dataset:
    raw = read_yolo(root, images, masks=masks, **options)
    return build_dataset([raw], ("dog", "cat"), strict=True)[0]


def test_yolo_s_shares_become_pixels(tmp_path):
    dataset = read_pets(yolo(tmp_path, DESCRIPTION, LABELS), masks=True)
    assert [image.path.relative_to(tmp_path).as_posix() for image in dataset.images] == [*LABELS][:3]
    boxes, polygon, none = dataset.images
    assert boxes.size == (96, 64)
    assert boxes.boxes.tolist() == [[36, 16, 60, 48], [0, 0, 48, 32]]
    # By name: the spec's order is another than the file's.
    assert [dataset.classes[label] for label in boxes.labels] == ["cat", "dog"]
    assert dataset.category_ids == (2, 1)
    assert boxes.areas.tolist() == [24 * 32, 48 * 32]
    np.testing.assert_allclose(polygon.boxes, [[9.6, 6.4, 48, 57.6]])
    np.testing.assert_allclose(polygon.areas, [38.4 * 51.2 / 2])
    np.testing.assert_allclose(polygon.masks[0].parts[0], [[9.6, 6.4], [48, 6.4], [48, 57.6]])
    assert len(none.boxes) == 0
    assert boxes.masks == (None, None)
    (image,) = read_pets(tmp_path, "val").images
    assert image.boxes.tolist() == [[84, 56, 108, 72]]  # cut at the border in training
    assert image.trained()[0].tolist() == [[84, 56, 96, 64]]


@pytest.mark.parametrize(
    ("description", "images", "labels"),
    [
        ("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']", "train", "train/images/a.jpg"),  # Roboflow
        ("train: [images/one, images/two]\nnames: [cat, dog]", "train", "images/two/a.jpg"),
        ("path: pets\ntrain: images\nnames: [cat, dog]", "train", "pets/images/a.jpg"),
        ("train: list.txt\nnames: [cat, dog]", "train", "images/a.jpg"),
        ("names: [cat, dog]", "images/train", "images/train/a.jpg"),
        ("names: [cat, dog]", "photos", "photos/a.jpg"),  # labels beside the images, as darknet has them
    ],
)
def test_the_layouts_that_tools_write(tmp_path, description, images, labels):
    yolo(tmp_path, description, {labels: "1 0.5 0.5 0.5 0.5"})
    (tmp_path / "images/one").mkdir(parents=True, exist_ok=True)
    (tmp_path / "list.txt").write_text("./images/a.jpg\n")
    (image,) = read_pets(tmp_path, images).images
    assert image.path == tmp_path / labels
    assert image.boxes.tolist() == [[24, 16, 72, 48]]


def test_class_names_may_lie_in_a_text_or_in_the_spec_alone(tmp_path):
    yolo(tmp_path, None, {"images/a.jpg": "1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.25 0.25"})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels/classes.txt").write_text("cat\ndog\n")
    by_text = read_pets(tmp_path, "images", file="classes.txt")
    assert by_text.images[0].labels.tolist() == [0, 1]
    for file in (tmp_path / "classes.txt", tmp_path / "labels/classes.txt"):
        file.unlink()
    source = (Record("Yolo", {"images": "images", "folder": "", "file": None}),)
    settings = data_settings(voc_data(classes=("cat", "dog"), train=source))
    assert settings.train == (Yolo("images", "", None),)
    dataset, _ = read_split(settings, "train", tmp_path, strict=True)
    assert dataset.images[0].labels.tolist() == [1, 0]
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(classes=("cat",), train=source)), "train", tmp_path, strict=True)
    assert slugs(error) == ["classes-mismatch"]
    assert "a.txt:1 (class 1)" in text(error)


@pytest.mark.parametrize("file", ["classes.txt", "labels/classes.txt", "data.yaml"])
def test_classes_in_another_order_than_the_file_s_are_an_error_where_the_spec_numbers_them(tmp_path, file):
    yolo(tmp_path, None, {"images/a.jpg": "1 0.5 0.5 0.5 0.5"})
    (tmp_path / file).write_text("names: [dog, cat]" if file == "data.yaml" else "dog\ncat\n")
    with pytest.raises(DiagnosticError) as error:
        read_yolo(tmp_path, "images", None, ("cat", "dog"))
    assert slugs(error) == ["classes-mismatch"]
    for word in (f'file = "{file}"', "the spec's classes: cat, dog", "the file's: dog, cat"):
        assert word in text(error)
    assert read_yolo(tmp_path, "images", None, ("dog", "cat")).images[0].objects[0].name == "cat"
    assert read_yolo(tmp_path, "images", file, ("cat", "dog")).images[0].objects[0].name == "cat"


def test_class_names_are_text_whatever_yaml_makes_of_them(tmp_path):
    names = "names:\n  0: no\n  1: 1.10\n  7: '007'\n"
    raw = read_yolo(yolo(tmp_path, "train: images\n" + names, {"images/a.jpg": "7 0.5 0.5 0.5 0.5"}), "train")
    assert raw.names == {"no": 1, "1.10": 2, "007": 8}
    assert raw.images[0].objects[0].name == "007"


def test_keypoints_after_a_box_are_left_aside(tmp_path):
    description = "train: images\nkpt_shape: [2, 3]\nnames: [dog, cat]"
    raw = read_yolo(yolo(tmp_path, description, {"images/a.jpg": "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1"}), "train")
    assert raw.images[0].objects[0].box == (0.25, 0.25, 0.75, 0.75)


@pytest.mark.parametrize(
    ("row", "slug", "word"),
    [
        ("2 0.5 0.5 0.5 0.5", "classes-mismatch", "classes 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "annotation-unreadable", "whole number"),
        ("0.5 0.5 0.5 0.5 0.5", "annotation-unreadable", "whole number"),
        ("nan 0.5 0.5 0.5 0.5", "annotation-unreadable", "whole number"),
        ("cat 0.5 0.5 0.5 0.5", "annotation-unreadable", "not numbers"),
        ("0 48 32 10 10", "annotation-unreadable", "outside 0 to 1"),
        ("0 0.5 nan 0.5 0.5", "annotation-unreadable", "outside 0 to 1"),
        ("0 0.5 0.5 0.5", "annotation-unreadable", "neither"),
        ("0 0.5 0.5 0.5 0.5 0.9", "annotation-unreadable", "neither"),  # a prediction, with its score
        ("0 0.1 0.1 0.5 0.1 0.5 0.9 0.2", "annotation-unreadable", "neither"),
        ("0", "annotation-unreadable", "neither"),
    ],
)
def test_faulty_rows_are_named_by_file_and_line(tmp_path, row, slug, word):
    yolo(tmp_path, DESCRIPTION, {**LABELS, "images/train/z.jpg": f"0 0.5 0.5 0.5 0.5\n{row}\n"})
    with pytest.raises(DiagnosticError) as error:
        read_pets(tmp_path)
    assert slugs(error) == [slug]
    assert word in text(error)
    assert "z.txt:2" in text(error)


def test_labels_without_an_image_are_images_that_are_missing(tmp_path):
    yolo(tmp_path, DESCRIPTION, LABELS)
    (tmp_path / "images/train/a.jpg").unlink()
    (tmp_path / "images/train/._b.png").write_bytes(b"of a Macintosh")
    with pytest.raises(DiagnosticError) as error:
        read_pets(tmp_path)
    assert slugs(error) == ["image-missing"]
    assert "a.jpg" in text(error)


@pytest.mark.parametrize(
    ("description", "slug", "word"),
    [
        ("train: /etc\nnames: [cat, dog]", "path-outside", "/etc"),
        ("train: ../../etc\nnames: [cat, dog]", "path-outside", "../../etc"),
        ("train: outside.txt\nnames: [cat, dog]", "path-outside", "/etc/passwd.jpg"),
        ("train: nowhere\nnames: [cat, dog]", "data-missing", "nowhere is not there"),
        ("train: {a: b}\nnames: [cat, dog]", "annotation-unreadable", "neither a path"),
        ("train: images\nnames: [cat, cat]", "duplicate-id", "cat"),
        ("train: images\nnc: 3\nnames: [cat, dog]", "classes-mismatch", "nc: 3"),
        ("train: images\nnames: [cat, [dog]]", "annotation-unreadable", '"names"'),
        ("train: images\nnames: {x: cat}", "annotation-unreadable", "not the number"),
        ("train: images\nnames: {? [a] : cat}", "annotation-unreadable", "not YAML"),
        ("train: images\nnames: []", "annotation-unreadable", "no class names"),
        ("train: images", "annotation-unreadable", '"names"'),
        ("- a\n- b", "annotation-unreadable", "not a mapping"),
        ("names: [cat", "annotation-unreadable", "not YAML"),
        ("names: !!python/object/apply:os.abort [echo]", "data-missing", "train is not there"),
        ("names: &a [*a]", "annotation-unreadable", "not YAML"),
        ("[" * 3000, "annotation-unreadable", "not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]", "annotation-unreadable", '"names"'),
    ],
)
def test_a_stranger_s_yaml_is_no_danger(tmp_path, description, slug, word):
    root = yolo(tmp_path / "data", description, {"images/a.jpg": "1 0.5 0.5 0.5 0.5"})
    (root / "outside.txt").write_text("./images/a.jpg\n/etc/passwd.jpg\n../../../etc/passwd.jpg\n")
    with pytest.raises(DiagnosticError) as error:
        read_yolo(root, "train")
    assert slugs(error) == [slug]
    assert word in text(error)


def test_misspelt_classes_show_both_lists(tmp_path):
    yolo(tmp_path, DESCRIPTION, LABELS)
    with pytest.raises(DiagnosticError) as error:
        build_dataset([read_yolo(tmp_path, "train")], ("cat", "dgo"), strict=False)
    assert slugs(error) == ["classes-mismatch"]
    assert "the spec's classes: cat, dgo" in text(error)
    assert "the annotations': cat, dog" in text(error)
    assert 'did you mean "dog"?' in text(error)


def test_a_picture_that_a_camera_turned_is_labelled_as_it_is_seen(tmp_path):
    yolo(tmp_path, "train: images\nnames: [dog, cat]", {"images/a.jpg": "0 0.5 0.5 0.5 0.25"})
    path = tmp_path / "images/a.jpg"
    with Image.open(path) as image:
        mark = Image.Exif()
        mark[0x0112] = 6
        image.save(path, exif=mark)
    (image,) = read_pets(tmp_path).images
    assert image.size == (64, 96)
    assert image.boxes.tolist() == [[16, 36, 48, 60]]
    assert read_image(image.path, image.size).shape == (96, 64, 3)
