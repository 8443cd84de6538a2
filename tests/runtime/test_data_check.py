"""`detc data check`: every fault is found in one run, counted, and with what follows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import coco_file, spec_file, voc_folder, voc_xml

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.check import DataReport, look_at_path, report
from detc.runtime.data.recognise import recognise
from detc.runtime.data.settings import Coco, Lvis, Voc
from detc.runtime.data.view import as_annotated, write_page


def detc(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def findings(found: DataReport) -> dict[tuple[str, str], tuple[int, str]]:
    (part,) = found.parts
    return {(f.diagnostic.kind.slug, f.what): (f.count, f.then) for f in part.findings}


def break_inside(path: Path) -> None:
    """Makes it a JPEG (whatever its name) with a broken middle, which OpenCV fills and Pillow refuses."""
    content = bytearray(cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes())
    content[len(content) // 2 : len(content) // 2 + 2] = b"\xff\xda"
    path.write_bytes(content)


def break_wholly(path: Path) -> None:
    """Breaks pixels of a PNG, whose checksum then fails, and nothing of its beginning and end."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def faulty_set(root: Path) -> Path:
    """annotations.json and images/ with one of each fault, or two."""
    coco_file(root, 16)
    content = json.loads((root / "annotations.json").read_text())
    folder = root / "images"
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-100])
    (folder / "2.png").write_bytes(b"")
    cv2.imwrite(str(folder / "3.png"), np.zeros((32, 48, 3), np.uint8))
    break_inside(folder / "4.png")
    break_wholly(folder / "5.png")
    (folder / "6.png").write_bytes((folder / "7.png").read_bytes())
    sized = {"width": 96, "height": 64}
    content["images"] += [
        {"id": 200, "file_name": "8.png", **sized},
        {"id": 109, "file_name": "again.png", **sized},
        {"id": 201, "file_name": "unsized.png"},
        {"id": 202, "file_name": "../secret.png", **sized},
    ]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in (110, 111)]
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    boxes = {
        "bad": "x",
        "inverted": [9, 9, -4, 5],
        "flat": [9, 9, 0, 5],
        "outside": [200, 9, 5, 5],
        "over": [-9, 9, 30, 9],
    }
    content["annotations"] += [
        *({"image_id": 112, "category_id": 3, "bbox": box, "segmentation": square} for box in boxes.values()),
        *[{"image_id": 113, "category_id": 3, "bbox": [1, 1, 9, 9], "segmentation": square}] * 2,
        {"image_id": 114, "category_id": 3, "bbox": [1, 1, 9, 9], "segmentation": [[10, 10, 30, 10, 30]]},
        {"image_id": 115, "category_id": 3, "bbox": [1, 1, 9, 9]},
        {"id": 7001, "image_id": 999, "category_id": 3, "bbox": [1, 1, 9, 9]},
        {"id": 7002, "image_id": 115, "category_id": 99, "bbox": [1, 1, 9, 9]},
        {"id": 7003, "image_id": 201, "category_id": 3, "bbox": [1, 1, 9, 9]},
    ]
    content["categories"] += [{"id": 9, "name": "star"}, {"id": 10, "name": "star"}]
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_one_run_finds_every_fault(tmp_path):
    file = faulty_set(tmp_path) / "annotations.json"
    found = findings(report(look_at_path(file, decode=True)))
    stops = "training stops"
    assert found == {
        ("duplicate-id", f"{file}: categories of the same id or name as another"): (1, stops),
        ("duplicate-id", f"{file}: images of the same id as another"): (1, stops),
        ("annotation-unreadable", f'{file}: entries that lack "width" or have another type there'): (1, stops),
        ("path-outside", f"{file}: images named outside {tmp_path / 'images'}"): (1, stops),
        ("annotation-unreadable", f"{file}: annotations whose image_id is not declared"): (1, stops),
        ("annotation-unreadable", f"{file}: annotations whose category_id is not declared"): (1, stops),
        ("image-unreadable", "images that cannot be decoded (not an image that OpenCV can read)"): (1, stops),
        ("image-left-out", "images missing"): (1, "left out"),
        ("image-left-out", "images unreadable (the file is cut off)"): (1, "left out"),
        ("image-left-out", "images unreadable (the file is empty)"): (1, "left out"),
        ("image-left-out", "images of another size than their annotation says"): (1, "left out"),
        ("image-damaged", "images damaged inside"): (1, "trained and evaluated on as they are"),
        ("duplicate", "images with the same content as another"): (1, "used as if they were two"),
        ("duplicate", "images listed twice"): (1, "used once"),
        ("duplicate", "boxes equal to another of their class"): (1, "trained on once"),
        ("bad-box", "boxes with a corner that is not a finite number"): (1, "left out"),
        ("bad-box", "boxes whose right or lower side comes before the other"): (1, "left out"),
        ("bad-box", "boxes without an area"): (1, "left out"),
        ("bad-box", "boxes wholly outside their image"): (1, "left out"),
        ("bad-box", "boxes that reach over the border by more than a pixel"): (1, "cut there for training"),
        ("bad-mask", "objects with a polygon of an odd number of coordinates"): (
            1,
            "neither trained on nor counted in the figures of masks",
        ),
        ("bad-mask", "objects without a mask"): (1, "neither trained on nor counted in the figures of masks"),
        ("unused-class", "classes without an object here"): (1, ""),
        ("image-empty", "images without an object"): (2, "not trained on"),
        ("ids-with-gaps", f"{file}: categories whose ids are not 1 to 3"): (3, "matched by name"),
    }


def test_faults_are_named_and_errors_come_first(tmp_path):
    (part,) = report(look_at_path(faulty_set(tmp_path), decode=True)).parts
    where = {finding.what: finding.where for finding in part.findings}
    assert where["images damaged inside"] == (str(tmp_path / "images/4.png"),)
    assert where["images with the same content as another"] == ("7.png as 6.png",)
    assert where["images without an object"] == ("10.png", "11.png")
    assert where[f"{tmp_path / 'annotations.json'}: annotations whose image_id is not declared"] == (
        "annotation 7001 (999)",
    )
    errors = [finding.is_error for finding in part.findings]
    assert errors == sorted(errors, reverse=True)


def test_what_only_decoding_finds_is_not_found_without(tmp_path):
    found = findings(report(look_at_path(faulty_set(tmp_path))))
    assert {"image-damaged", "image-unreadable"}.isdisjoint(slug for slug, _ in found)
    assert ("duplicate", "images with the same content as another") not in found


def test_the_summary_counts_what_was_drawn(tmp_path):
    annotations = [
        {"image_id": 100, "category_id": 3, "bbox": [0, 0, 90, 60], "area": 96 * 96, "iscrowd": 0},
        {"image_id": 100, "category_id": 3, "bbox": [0, 0, 32, 32], "area": 32 * 32, "iscrowd": 0},
        {"image_id": 101, "category_id": 7, "bbox": [0, 0, 32, 31], "area": 32 * 31, "iscrowd": 0},
        {"image_id": 101, "category_id": 7, "bbox": [0, 0, 60, 60], "area": 3600, "iscrowd": 1},
    ]
    (part,) = report(look_at_path(coco_file(tmp_path, 3, annotations=annotations))).parts
    assert (part.images, part.empty, part.ignored) == (3, 1, 1)
    counts = {c.name: (c.images, c.objects, c.small, c.medium, c.large) for c in part.classes}
    assert counts == {"square": (1, 2, 0, 1, 1), "disc": (1, 1, 1, 0, 0)}


def test_a_spec_whose_classes_match_nothing_shows_both_lists_and_the_rest(tmp_path):
    root = voc_folder(tmp_path / "pets", {"train": 4, "val": 2, "test": 2})
    (root / "JPEGImages" / "img_004.jpg").unlink()
    done = detc("data", "check", spec_file(tmp_path, ("Square", "disc")), "--split", "val", "--format", "json")
    assert done.returncode == 1, done.stderr
    (part,) = json.loads(done.stdout)["parts"]
    by_slug = {finding["slug"]: finding for finding in part["findings"]}
    assert "the spec's classes: Square, disc" in by_slug["classes-mismatch"]["notes"]
    assert 'did you mean "square"?' in by_slug["classes-mismatch"]["help"]
    assert by_slug["image-missing"]["count"] == 1
    assert by_slug["image-missing"]["then"] == "an evaluation stops"
    assert by_slug["image-missing"]["examples"][0].endswith("img_004.jpg")


def test_training_goes_on_without_an_image_and_an_evaluation_does_not(tmp_path):
    root = voc_folder(tmp_path / "pets", {"train": 4, "val": 2, "test": 2})
    (root / "JPEGImages" / "img_000.jpg").unlink()
    spec = spec_file(tmp_path)
    done = detc("data", "check", spec)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 images missing: left out [image-left-out]" in done.stdout
    (root / "JPEGImages" / "img_007.jpg").unlink()
    done = detc("data", "check", spec)
    assert done.returncode == 1
    assert "1 images missing: an evaluation stops [image-missing]" in done.stdout


def test_images_of_training_in_an_evaluation_are_found_by_name_and_content(tmp_path):
    root = voc_folder(tmp_path, {"train": 3, "val": 2})
    listing = root / "ImageSets" / "Main" / "val.txt"
    listing.write_text(listing.read_text() + "img_000\n")
    (root / "JPEGImages" / "img_003.jpg").write_bytes((root / "JPEGImages" / "img_001.jpg").read_bytes())
    for decode, names in ((False, ("img_000.jpg",)), (True, ("img_000.jpg", "img_003.jpg"))):
        parts = report(look_at_path(tmp_path, decode=decode)).parts
        found = {
            part.name: [f.where for f in part.findings if f.diagnostic.kind.slug == "splits-overlap"] for part in parts
        }
        assert found == {"train": [], "val": [names]}


def test_data_are_recognised_by_their_content(tmp_path):
    coco_file(tmp_path / "coco", 2)
    voc_folder(tmp_path / "voc" / "VOC2007", {"trainval": 1, "test": 1})
    (tmp_path / "voc" / "VOC2007" / "ImageSets" / "Main" / "cat_test.txt").write_text("img_000 1\n")
    lvis = coco_file(
        tmp_path / "lvis",
        1,
        images=[{"id": 100, "file_name": "0.png", "width": 96, "height": 64, "neg_category_ids": [7]}],
    )
    coco = recognise(tmp_path / "coco")
    assert [part.source for part in coco] == [
        Coco(str(tmp_path / "coco/annotations.json"), str(tmp_path / "coco/images"))
    ]
    assert "COCO's JSON" in coco[0].taken_for
    assert [type(part.source) for part in recognise(lvis / "annotations.json")] == [Lvis]
    voc = recognise(tmp_path / "voc")
    assert [part.source for part in voc] == [Voc("test", str(tmp_path / "voc/VOC2007"))]
    assert [part.evaluated for part in voc] == [True]
    for path in (tmp_path, tmp_path / "coco" / "images", tmp_path / "coco" / "images" / "0.png", tmp_path / "nowhere"):
        with pytest.raises(DiagnosticError) as error:
            recognise(path)
        assert [d.kind.slug for d in error.value] == ["data-unrecognised"]


def test_lists_of_two_files_are_compared(tmp_path):
    coco_file(tmp_path, 2)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["categories"] = [{"id": 3, "name": "disc"}, {"id": 7, "name": "ring"}]
    (tmp_path / "val.json").write_text(json.dumps(content))
    _, part = report(look_at_path(tmp_path)).parts
    found = {(f.diagnostic.kind.slug, f.where) for f in part.findings}
    assert ("unused-class", ("ring",)) in found
    assert ("unused-class", ("square",)) in found
    assert ("ids-with-gaps", ("disc (3, not 7)",)) in found


def test_voc_files_with_faults_are_all_counted(tmp_path):
    root = voc_folder(tmp_path, {"train": 5})
    (root / "Annotations" / "img_000.xml").unlink()
    (root / "Annotations" / "img_001.xml").write_text("<annotation>")
    (root / "Annotations" / "img_002.xml").write_text(voc_xml((96, 64), [("", [1, 1, 9, 9])]))
    listing = root / "ImageSets" / "Main" / "train.txt"
    listing.write_text(listing.read_text() + "../../etc/passwd\n")
    found = report(look_at_path(root))
    assert found.failed
    assert {
        (slug, what.removeprefix(f"{listing}: ")): count for (slug, what), (count, _) in findings(found).items()
    } == {
        ("data-missing", "annotation files missing"): 1,
        ("annotation-unreadable", "annotation files that are not XML that can be read"): 1,
        ("annotation-unreadable", "annotation files with an object without a name"): 1,
        ("path-outside", "images named outside JPEGImages"): 1,
    }
    assert found.parts[0].images == 2


def one(**changes: object) -> dict[str, list[dict[str, object]]]:
    return {"annotations": [{"image_id": 100, "category_id": 3, "bbox": [1, 1, 20, 20], **changes}]}


def image(**changes: object) -> dict[str, list[dict[str, object]]]:
    return {"images": [{"id": 100, "file_name": "0.png", "width": 96, "height": 64, **changes}]}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        (one(bbox=[1e308, 1, 1e308, 5]), "bad-box"),
        (one(bbox=[10**400, 1, 2, 3]), "bad-box"),
        (one(bbox=[-1e300, -1e300, 2e300, 2e300]), "bad-box"),
        (one(area=10**400), None),
        (one(iscrowd=1), "no-objects"),
        (one(category_id=[3]), "annotation-unreadable"),
        ({"categories": []}, "annotation-unreadable"),
        ({"images": []}, "no-objects"),
        (image(id=10**30), "annotation-unreadable"),
        (image(id=[100]), "annotation-unreadable"),
        (image(file_name=""), "image-left-out"),
        (image(file_name="a" * 5000), "image-left-out"),
        (image(file_name="a\0b"), "path-outside"),
        (image(width=-96), "image-left-out"),
    ],
)
def test_nonsense_is_a_finding_and_never_a_traceback(tmp_path, changes, slug):
    found = report(look_at_path(coco_file(tmp_path, 2, **changes), decode=True))
    json.dumps([part.as_json() for part in found.parts])
    slugs = {found_slug for found_slug, _ in findings(found)}
    assert slug in slugs or slug is None
    for look in look_at_path(tmp_path):
        write_page(tmp_path / "page.html", "", look.dataset.classes, as_annotated(look.dataset.images))


def test_ctrl_c_ends_it_at_once(tmp_path):
    root = coco_file(tmp_path, 1)
    content = json.loads((root / "annotations.json").read_text())
    pixels = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8)
    cv2.imwrite(str(root / "images" / "large.png"), pixels)
    for number in range(3000):
        (root / "images" / f"l{number}.png").hardlink_to(root / "images" / "large.png")
        content["images"].append({"id": number + 1000, "file_name": f"l{number}.png", "width": 3000, "height": 3000})
    (root / "annotations.json").write_text(json.dumps(content))
    code = (
        "import os, signal, sys, threading, detc.runtime.data.check\n"
        "threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        f"sys.argv = ['detc', 'data', 'check', {str(root)!r}, '--decode']\n"
        "from detc.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_strangers_do_not_reach_the_terminal_raw(tmp_path):
    evil = "\x1b[2J[bold]\ud800.png"
    images = [
        {"id": 100, "file_name": "0.png", "width": 96, "height": 64},
        {"id": 101, "file_name": evil, "width": 96, "height": 64},
    ]
    annotations = [{"image_id": 100, "category_id": 3, "bbox": [1, 1, 20, 20]}]
    categories = [{"id": 3, "name": "\x1b]0;square\x07"}]
    root = coco_file(tmp_path, 1, images=images, annotations=annotations, categories=categories)
    for form in ("text", "json"):
        done = detc("data", "check", root, "--format", form)
        assert done.returncode == 0, done.stderr
        assert "\x1b[2J" not in done.stdout
        assert "\x1b]0" not in done.stdout
        assert "[bold]" in done.stdout


def test_wrong_command_lines_exit_with_2(tmp_path):
    assert detc("data", "check", tmp_path, "--format", "xml").returncode == 2
    assert detc("data", "check", tmp_path, "--data", tmp_path).returncode == 2
    assert detc("data", "look", tmp_path).returncode == 2


MASKS = """
import mask_rcnn_r50_fpn_1x from "mask_rcnn.det"
import Data, Coco from "lib/data.det"

detector mine = mask_rcnn_r50_fpn_1x with {
    data = Data(
        classes = CLASSES, root = ".", train = [Coco("annotations.json", "images")], val = [Coco("val.json", "images")]
    )
}
"""


def parts_of(spec: Path) -> tuple[int, dict[str, dict[str, tuple[str, int]]]]:
    """The exit status, and of each part the findings by their slugs."""
    done = detc("data", "check", spec, "--format", "json")
    found = json.loads(done.stdout)
    assert found["failed"] == bool(done.returncode)
    parts = found["parts"]
    return done.returncode, {p["part"]: {f["slug"]: (f["then"], f["count"]) for f in p["findings"]} for p in parts}


def test_masks_are_checked_where_the_detector_needs_them(tmp_path):
    coco_file(tmp_path, 4)
    content = json.loads((tmp_path / "annotations.json").read_text())
    (tmp_path / "val.json").write_text(json.dumps(content))
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    spec = tmp_path / "mine.det"
    spec.write_text(MASKS.replace("CLASSES", '["disc", "square"]'))
    status, parts = parts_of(spec)
    assert status == 0
    assert parts["train"]["bad-mask"] == ("neither trained on nor counted in the figures of masks", 1)
    assert "bad-mask" not in parts["val"]
    for item in content["annotations"]:
        del item["segmentation"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    status, parts = parts_of(spec)
    assert status == 1
    assert parts["val"]["masks-missing"] == ("an evaluation stops", 1)
    assert "masks-missing" not in parts["train"]


def test_classes_by_number_must_be_the_same_in_training_and_validation(tmp_path):
    coco_file(tmp_path, 4)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["categories"][0]["name"] = "ring"
    (tmp_path / "val.json").write_text(json.dumps(content))
    spec = tmp_path / "mine.det"
    spec.write_text(MASKS.replace("CLASSES", "2"))
    status, parts = parts_of(spec)
    assert status == 1
    assert parts["val"]["classes-mismatch"] == ("an evaluation stops", 1)
    assert "classes-mismatch" not in parts["train"]
    spec.write_text(MASKS.replace("CLASSES", "3"))
    status, parts = parts_of(spec)
    assert parts["train"]["classes-mismatch"] == ("training stops", 1)


def test_what_stops_the_check_itself_is_json_too(tmp_path):
    for spec, slug in ((tmp_path / "nothing", "data-unrecognised"), (spec_file(tmp_path), "data-missing")):
        done = detc("data", "check", spec, "--format", "json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["failed"]) == (1, True)
        assert [diagnostic["slug"] for diagnostic in found["diagnostics"]] == [slug]
        assert f"[{slug}]" in detc("data", "check", spec).stderr
