"""Data without a spec: known by what lies there, read once, and compared with the images that lie there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from downloaded import DESCRIPTION, FACES, LABELS, cityscapes, wider_face, write_image, yolo
from drawn import coco_file, spec_file, voc_folder

import detc
from detc.runtime.data.check import look_at_path, look_at_spec, report
from detc.runtime.data.recognise import recognise
from detc.runtime.data.settings import Cityscapes, Coco, WiderFace, Yolo, data_settings


def recognised(path: Path) -> list[tuple[str, object]]:
    return [(part.name, part.source) for part in recognise(path)]


def test_the_forms_are_recognised_by_what_lies_there(tmp_path):
    city, face, pets = (str(tmp_path / name) for name in ("city", "face", "pets"))
    cityscapes(tmp_path / "city", train=1, val=1, test=1)
    wider_face(tmp_path / "face", "train", FACES)
    yolo(tmp_path / "pets", DESCRIPTION, LABELS)
    assert recognised(tmp_path / "city") == [("train", Cityscapes("train", city)), ("val", Cityscapes("val", city))]
    assert recognised(tmp_path / "face") == [("train", WiderFace("train", face))]
    described = [(name, Yolo(name, pets, "data.yaml")) for name in ("train", "val")]
    assert recognised(tmp_path / "pets") == recognised(tmp_path / "pets/data.yaml") == described
    (tmp_path / "pets/data.yaml").unlink()
    folders = [("train", Yolo("images/train", pets, None)), ("val", Yolo("images/val", pets, None))]
    assert recognised(tmp_path / "pets") == folders
    yolo(tmp_path / "split", None, {"train/images/a.jpg": "0 0.5 0.5 0.5 0.5", "valid/images/b.jpg": ""})
    found = [(part.name, part.source.images, part.evaluated) for part in recognise(tmp_path / "split")]
    assert found[0] == ("train", "train/images", False)


def test_a_check_without_a_spec_counts_what_is_there(tmp_path):
    yolo(tmp_path / "pets", DESCRIPTION, {**LABELS, "images/train/z.jpg": "5 0.5 0.5 0.5 0.5"})
    train, _ = report(look_at_path(tmp_path / "pets")).parts
    assert [(c.name, c.objects) for c in train.classes] == [("cat", 1), ("dog", 2)]
    wrong = {(f.diagnostic.kind.slug, f.count, f.then) for f in train.findings if f.is_error}
    assert wrong == {("classes-mismatch", 1, "training stops")}
    (tmp_path / "pets/data.yaml").unlink()
    train, _ = report(look_at_path(tmp_path / "pets")).parts
    assert [c.name for c in train.classes] == ["0", "1", "5"]
    cityscapes(tmp_path / "city", val=1)
    (part,) = report(look_at_path(tmp_path / "city")).parts
    assert (part.images, part.ignored, len(part.classes)) == (1, 1, 8)
    assert [f.diagnostic.kind.slug for f in part.findings] == ["unused-class"]
    wider_face(tmp_path / "face", "val", FACES)
    (part,) = report(look_at_path(tmp_path / "face")).parts
    assert (part.images, part.empty, part.ignored) == (3, 1, 1)


def unlisted(path: Path) -> list[tuple[str, int, tuple[str, ...], str]]:
    parts = report(look_at_path(path)).parts
    kind = "image-unlisted"
    return [(p.name, f.count, f.where, f.then) for p in parts for f in p.findings if f.diagnostic.kind.slug == kind]


def test_images_that_nothing_lists_are_named(tmp_path):
    cityscapes(tmp_path / "city", train=1)
    write_image(tmp_path / "city/leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    name = "ulm/ulm_000000_000019_leftImg8bit.png"
    assert unlisted(tmp_path / "city") == [("train", 1, (name,), "not used")]
    voc_folder(tmp_path / "voc", {"train": 2, "val": 2})
    assert unlisted(tmp_path / "voc") == []
    write_image(tmp_path / "voc/JPEGImages/new.jpg")
    (tmp_path / "voc/Annotations/img_000.xml").unlink()  # a fault of its own, and of an image that a list names
    assert unlisted(tmp_path / "voc") == [("train", 1, ("new.jpg",), "not used")]
    # One part alone says nothing of the others.
    parts = report(look_at_path(tmp_path / "voc", "train")).parts
    assert "image-unlisted" not in {f.diagnostic.kind.slug for part in parts for f in part.findings}
    coco_file(tmp_path / "coco", 3)
    write_image(tmp_path / "coco/images/more/new.jpg")
    assert unlisted(tmp_path / "coco") == [("annotations", 1, ("more/new.jpg",), "not used")]


def test_images_that_no_part_of_a_spec_lists_are_named_once(tmp_path):
    root = voc_folder(tmp_path / "pets", {"train": 2, "val": 1, "test": 1})
    write_image(root / "JPEGImages/new.jpg")
    detector = detc.load(spec_file(tmp_path))
    for split, expected in ((None, ["train"]), ("train", [])):
        parts = report(look_at_spec(detector, data_settings(detector.data), split=split)).parts
        found = [part.name for part in parts for f in part.findings if f.diagnostic.kind.slug == "image-unlisted"]
        assert found == expected


def test_a_file_of_annotations_is_parsed_once(tmp_path, monkeypatch):
    coco_file(tmp_path, 3)
    sizes = []
    loads = json.loads

    def counted(content, *arguments, **options):
        sizes.append(len(content))
        return loads(content, *arguments, **options)

    monkeypatch.setattr(json, "loads", counted)
    (part,) = report(look_at_path(tmp_path)).parts
    assert part.images == 3
    length = (tmp_path / "annotations.json").stat().st_size
    assert [size for size in sizes if size > 40] == [length]


@pytest.mark.parametrize("other", ["ä.png", 'quo"ted.png', "../../x.png", "\ud800.png", ""])
def test_image_folders_are_found_by_names_as_json_has_them(tmp_path, other):
    coco_file(tmp_path, 1)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["images"].insert(0, {"id": 1, "file_name": other, "width": 96, "height": 64})
    (tmp_path / "annotations.json").unlink()
    folder = tmp_path / "Anno" / "segmentation"
    folder.mkdir(parents=True)
    (folder / "list.json").write_text(json.dumps(content))
    (part,) = recognise(tmp_path)
    assert part.source == Coco(str(folder / "list.json"), str(tmp_path / "images"))


def test_parts_whose_images_have_the_same_names_keep_to_the_folders_named_like_them(tmp_path):
    for part in ("train", "val", "test"):
        root = coco_file(tmp_path / part, 1)
        (root / "images/0.png").rename(root / "0.png")
        (root / "images").rmdir()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (root / "annotations.json").rename(tmp_path / f"annotations/{part}.json")
    found = {part.name: part.source.images for part in recognise(tmp_path)}
    assert found == {part: str(tmp_path.resolve() / part) for part in ("train", "val", "test")}
