"""Cityscapes and WIDER FACE, read as downloaded; and what all forms have in common."""

from __future__ import annotations

import random

import numpy as np
import pytest
from downloaded import (
    CAR,
    CARAVAN,
    DESCRIPTION,
    FACES,
    LABELS,
    cityscapes,
    cityscapes_image,
    slugs,
    street,
    text,
    wider_face,
    write_image,
    yolo,
)
from drawn import voc_data
from PIL import Image

import detc
from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.cityscapes import NUMBERS, read_cityscapes
from detc.runtime.data.dataset import build_dataset
from detc.runtime.data.masks import bitmap, run_lengths
from detc.runtime.data.raw import Findings
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import Cityscapes, WiderFace, Yolo, data_settings
from detc.runtime.data.wider_face import read_wider_face
from detc.runtime.data.yolo import read_yolo

CITY = tuple(NUMBERS)


# ---- Cityscapes


def test_cityscapes_instances_are_what_can_be_seen_of_them(tmp_path):
    raw = read_cityscapes(cityscapes(tmp_path, train=2), "train", masks=True)
    dataset, warnings = build_dataset([raw], CITY, strict=True)
    assert not [w for w in warnings if w.kind.slug != "unused-class"]
    image = dataset.images[0]
    assert image.path == tmp_path / "leftImg8bit/train/traintown/traintown_000000_000019_leftImg8bit.png"
    pixels = street()
    found = {}
    for row, label in enumerate(image.labels):
        mask = image.masks[row]
        found[dataset.classes[label], bool(image.ignored[row])] = image.boxes[row].tolist()
        drawn = bitmap(run_lengths(mask, image.size))
        assert image.areas[row] == drawn.sum()
        x1, y1, x2, y2 = image.boxes[row].astype(int)
        rows, columns = np.nonzero(drawn)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
    # The second car hides the lower right part of the first.
    assert found == {("car", False): [20, 10, 45, 25], ("person", True): [0, 30, 12, 40]}
    assert image.boxes.tolist()[1] == [10, 5, 30, 20]
    assert image.areas.tolist() == [120, 15 * 20 - 10 * 10, 15 * 25]
    assert (bitmap(run_lengths(image.unlabelled, image.size)) == (pixels == 3)).all()
    assert dataset.category_ids[dataset.classes.index("bicycle")] == 33


def test_cityscapes_masks_are_read_where_they_are_needed(tmp_path):
    raw = read_cityscapes(cityscapes(tmp_path, val=1), "val")
    assert {item.mask for item in raw.images[0].objects} == {None}
    assert raw.images[0].unlabelled is None
    assert [item.box for item in raw.images[0].objects][1] == (10, 5, 30, 20)


def test_a_stretch_over_two_columns_has_the_box_of_both(tmp_path):
    pixels = np.full((8, 6), 7)
    pixels[6:, 2] = pixels[:2, 3] = CAR * 1000  # one stretch down the columns
    pixels[3, 5] = CARAVAN * 1000
    cityscapes_image(tmp_path, "train", "aachen_000000_000019", pixels)
    (image,) = read_cityscapes(tmp_path, "train", masks=True).images
    (car,) = image.objects
    assert car.box == (2, 0, 4, 8)
    assert (bitmap(run_lengths(car.mask, (6, 8))) == (pixels == CAR * 1000)).all()
    assert not bitmap(
        run_lengths(image.unlabelled, (6, 8))
    ).any()  # as officially, an instance of a caravan is not void


def test_faulty_cityscapes_files_are_all_named(tmp_path):
    cityscapes(tmp_path, train=4)
    truth = tmp_path / "gtFine/train/traintown"
    files = sorted(truth.iterdir())
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(files[0])
    Image.fromarray(np.zeros((3000, 3000), np.uint16)).save(files[3])
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(files[1])
    files[2].write_bytes(files[2].read_bytes()[:-30])
    with pytest.raises(DiagnosticError) as error:
        read_cityscapes(tmp_path, "train")
    assert slugs(error) == ["annotation-unreadable"] * 4
    for word in ("40000", "RGB", "cut off", "too many", *(file.name for file in files)):
        assert word in text(error)
    with pytest.raises(DiagnosticError) as error:
        read_cityscapes(tmp_path, "val")
    assert slugs(error) == ["data-missing"]


def test_a_city_image_that_is_missing_or_of_another_size_stops_an_evaluation(tmp_path):
    cityscapes(tmp_path, val=3)
    images = sorted((tmp_path / "leftImg8bit/val/valtown").iterdir())
    images[0].unlink()
    write_image(images[1], 30, 20)
    raw = read_cityscapes(tmp_path, "val")
    with pytest.raises(DiagnosticError) as error:
        build_dataset([raw], CITY, strict=True)
    assert slugs(error) == ["image-missing", "size-disagrees"]
    dataset, _ = build_dataset([raw], CITY, strict=False)
    assert len(dataset.images) == 1


# ---- WIDER FACE


def test_wider_face_ignores_what_is_invalid_or_small(tmp_path):
    raw = read_wider_face(wider_face(tmp_path, "train", FACES), "train", smallest=17)
    dataset, warnings = build_dataset([raw], ("face",), strict=True)
    first, empty, last = dataset.images
    assert first.path == tmp_path / "WIDER_train/images/0--Parade/a.jpg"
    assert first.boxes.tolist() == [[10, 20, 40, 44], [50, 5, 62, 23]]
    assert first.ignored.tolist() == [False, True]
    assert len(empty.boxes) == 0
    assert last.boxes.tolist() == [[1, 1, 17, 31], [40, 40, 57, 57]]
    assert last.ignored.tolist() == [True, False]
    assert [(w.kind.slug, w.summary) for w in warnings] == [("bad-box", "boxes without an area, left out: 1")]
    # Without a limit, only what is marked as invalid is ignored.
    dataset, _ = build_dataset([read_wider_face(tmp_path, "train")], ("face",), strict=True)
    assert [image.ignored.tolist() for image in dataset.images] == [[False, True], [], [False, False]]


@pytest.mark.parametrize(
    ("name", "rows", "slug", "word"),
    [
        ("0--Parade/x.jpg", ["2", "1 1 9 9 0 0 0 0 0 0"], "annotation-unreadable", "another number of faces"),
        ("0--Parade/x.jpg", [], "annotation-unreadable", "another number of faces"),
        ("0--Parade/x.jpg", ["many", "1 1 9 9 0 0 0 0 0 0"], "annotation-unreadable", "another number of faces"),
        ("0--Parade/x.jpg", ["1", "1 1 9 9"], "annotation-unreadable", "six marks"),
        ("0--Parade/x.jpg", ["1", "1 1 nan 9 0 0 0 0 0 0"], "annotation-unreadable", "six marks"),
        ("0--Parade/x.jpg", ["0", "1 1 9 9 0 0 0 0 0 0"], "annotation-unreadable", "another number of faces"),
        ("../../x.jpg", ["1", "1 1 9 9 0 0 0 0 0 0"], "path-outside", "outside"),
    ],
)
def test_a_faulty_entry_of_wider_face_leaves_the_others(tmp_path, name, rows, slug, word):
    wider_face(tmp_path / "data", "val", FACES)
    listing = tmp_path / "data/wider_face_split/wider_face_val_bbx_gt.txt"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join([*lines[:4], name, *rows, *lines[4:]]))
    with pytest.raises(DiagnosticError) as error:
        read_wider_face(tmp_path / "data", "val")
    assert slugs(error) == [slug]
    assert word in text(error)
    assert ": 1 " in text(error)
    assert name in text(error)


def test_wider_face_has_no_masks_and_one_class(tmp_path):
    wider_face(tmp_path, "train", FACES)
    source = (Record("WiderFace", {"split": "train", "folder": "", "smallest": 17.0}),)
    settings = data_settings(voc_data(classes=("face",), train=source))
    assert settings.train == (WiderFace("train", "", 17.0),)
    assert len(read_split(settings, "train", tmp_path, strict=False)[0].images) == 3
    with pytest.raises(DiagnosticError) as error:
        read_split(settings, "train", tmp_path, strict=False, masks=True)
    assert slugs(error) == ["masks-missing"]
    with pytest.raises(DiagnosticError) as error:
        read_split(data_settings(voc_data(classes=("Face",), train=source)), "train", tmp_path, strict=False)
    assert slugs(error) == ["classes-mismatch"]
    assert 'did you mean "face"?' in text(error)


# ---- all of them

SPEC = """
import retinanet_r50_fpn_1x from "retinanet.det"
import cityscapes_instance, wider_face, yolo, Yolo from "lib/data.det"

detector city  = retinanet_r50_fpn_1x with { data = cityscapes_instance(root = "city") }
detector face  = retinanet_r50_fpn_1x with { data = wider_face(root = "face") }
detector pets  = retinanet_r50_fpn_1x with { data = yolo(["cat", "dog"], root = "pets") }
detector plain = retinanet_r50_fpn_1x with {
    data = yolo(["cat", "dog"], root = "pets", file = none)
    data.train = [Yolo("images/train", file = none)]
}
"""


def test_specs_name_these_forms(tmp_path):
    (tmp_path / "mine.det").write_text(SPEC)
    cityscapes(tmp_path / "city", train=1, val=2)
    wider_face(tmp_path / "face", "train", FACES)
    yolo(tmp_path / "pets", DESCRIPTION, LABELS)
    found = {}
    for name in ("city", "face", "pets", "plain"):
        settings = data_settings(detc.load(tmp_path / "mine.det", name).data)
        dataset, _ = read_split(settings, "train", tmp_path / settings.root, strict=False)
        found[name] = (type(settings.train[0]), len(dataset.images), dataset.counts()[:3])
    assert found == {
        "city": (Cityscapes, 1, [1, 0, 2]),
        "face": (WiderFace, 3, [4]),
        "pets": (Yolo, 3, [1, 2]),
        "plain": (Yolo, 3, [1, 2]),
    }


PIECES = [
    b"nan",
    b"1e999",
    b"\x00",
    b"\xff",
    b"[",
    b"{",
    b"&a ",
    b"*a",
    b"9" * 5000,
    b"../",
    b"!!int ",
    b"? ",
    b"<<: ",
    b"\n",
]


@pytest.mark.parametrize("file", ["city", "face", "description", "labels"])
def test_no_damage_to_a_file_gives_more_than_diagnostics(tmp_path, file):
    cityscapes(tmp_path, train=1)
    wider_face(tmp_path, "train", FACES)
    yolo(tmp_path, DESCRIPTION, LABELS)
    path, read = {
        "city": (next((tmp_path / "gtFine").rglob("*.png")), lambda: read_cityscapes(tmp_path, "train", masks=True)),
        "face": (next((tmp_path / "wider_face_split").iterdir()), lambda: read_wider_face(tmp_path, "train")),
        "description": (tmp_path / "data.yaml", lambda: read_yolo(tmp_path, "train", masks=True)),
        "labels": (tmp_path / "labels/train/a.txt", lambda: read_yolo(tmp_path, "train", masks=True)),
    }[file]
    content = path.read_bytes()
    rng = random.Random(file)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(content)
        place = rng.randrange(len(damaged))
        damaged[place : place + rng.choice([0, 1, 10])] = rng.choice(PIECES)
        path.write_bytes(damaged)
        try:
            raw = read()
            if raw.images:
                build_dataset([raw], [*(raw.names or {"x": 1})], strict=False, findings=Findings(keep_going=True))
            outcomes.add("read")
        except DiagnosticError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"} or file == "city"
