"""`detc data view`: the page holds what it should, and nothing of a stranger's that runs."""

from __future__ import annotations

import base64
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, coco_file, spec_file, voc_data, voc_folder

from detc.compiler.values import Record
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.check import look_at_path
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.loading import epoch_batches, trained_images, training_loader
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import data_settings
from detc.runtime.data.view import annotated, as_annotated, as_trained, draws, picture, spread, write_page
from detc.runtime.pictures import TINT, class_colour


class Page(HTMLParser):
    """What a browser would make of a page: figures with their images and captions, options, and all elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.figures: list[dict[str, str]] = []
        self.options: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.title = ""
        self._inside: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag == "figure":
            self.figures.append({"name": given["data-name"], "classes": given["data-classes"], "caption": ""})
        elif tag == "img":
            self.figures[-1]["src"] = given["src"]
        elif tag == "option":
            self.options.append((given["value"], ""))
        if tag not in ("img", "meta", "input"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "option" in self._inside:
            self.options[-1] = (self.options[-1][0], self.options[-1][1] + data)
        elif "figcaption" in self._inside or "p" in self._inside:
            self.figures[-1]["caption"] += data
        elif "title" in self._inside:
            self.title += data

    def pixels(self, index: int) -> np.ndarray:
        start, content = self.figures[index]["src"].split(",")
        assert start == "data:image/jpeg;base64"
        return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)


def page_of(root: Path, count: int = 100) -> Page:
    (look,) = look_at_path(root)
    write_page(root / "page.html", "mine", look.dataset.classes, as_annotated(annotated(look.dataset, count)))
    return Page(root / "page.html")


def test_the_page_shows_images_with_boxes_masks_sizes_and_classes(tmp_path):
    annotations = [
        {
            "image_id": 100,
            "category_id": 3,
            "bbox": [40, 30, 40, 30],
            "segmentation": [[40, 30, 80, 30, 80, 60, 40, 60]],
        },
        {"image_id": 100, "category_id": 7, "bbox": [1, 40, 20, 20], "segmentation": []},
    ]
    coco_file(tmp_path, 2, annotations=annotations)
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.full((64, 96, 3), 90, np.uint8))
    page = page_of(tmp_path)
    assert [figure["name"] for figure in page.figures] == ["0.png", "1.png"]
    assert [figure["classes"] for figure in page.figures] == ["0 1", "none"]
    assert page.figures[0]["caption"] == "0.png 96 x 64; 1 square, 1 disc"
    assert page.figures[1]["caption"] == "1.png 96 x 64; no objects"
    assert page.options == [("", "all"), ("0", "square"), ("1", "disc"), ("none", "without objects")]
    pixels = page.pixels(0)
    assert pixels.shape == (64, 96, 3)
    tinted = np.multiply(class_colour(0), TINT) + 90 * (1 - TINT)
    assert np.abs(pixels[50, 65] - tinted).max() < 12
    assert np.abs(pixels[50, 30].astype(int) - 90).max() < 12


def test_the_page_needs_no_other_file(tmp_path):
    page = page_of(coco_file(tmp_path, 2))
    for tag, given in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        assert not {"href", "srcset", "action"} & given.keys()
        assert given.get("src", "data:").startswith("data:")
    policy = [given["content"] for tag, given in page.elements if "http-equiv" in given]
    assert policy[0].startswith("default-src 'none'")
    assert sum(tag == "script" for tag, _ in page.elements) == 1


def test_hostile_names_are_text(tmp_path):
    name = "\"><script>alert(1)</script>'&\x1b.png"
    evil = "</option><img src=x onerror=alert(1)>@IMAGES@@OPTIONS@"
    coco_file(
        tmp_path,
        1,
        images=[{"id": 100, "file_name": name.replace("/", ""), "width": 96, "height": 64}],
        annotations=[{"image_id": 100, "category_id": 3, "bbox": [1, 1, 20, 20]}],
        categories=[{"id": 3, "name": evil}],
    )
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / name.replace("/", ""))
    page = page_of(tmp_path)
    (figure,) = page.figures
    assert figure["name"] == name.replace("/", "").replace("\x1b", "\\x1b")
    assert figure["caption"].startswith(figure["name"] + " 96 x 64; 1 " + evil)
    assert ("0", evil) in page.options
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert [given for tag, given in page.elements if any(key.startswith("on") for key in given)] == []
    assert sum(tag == "img" for tag, _ in page.elements) == 1


def test_images_are_scaled_down_with_their_boxes_and_masks(tmp_path):
    segmentation = [[400, 100, 1200, 100, 1200, 500, 400, 500]]
    annotation = {"image_id": 100, "category_id": 3, "bbox": [400, 100, 800, 400], "segmentation": segmentation}
    image = {"id": 100, "file_name": "0.png", "width": 1600, "height": 800}
    coco_file(tmp_path, 1, images=[image], annotations=[annotation])
    cv2.imwrite(str(tmp_path / "images" / "0.png"), np.full((800, 1600, 3), 90, np.uint8))
    pixels = page_of(tmp_path).pixels(0)
    assert pixels.shape == (320, 640, 3)
    tinted = np.multiply(class_colour(0), TINT) + 90 * (1 - TINT)
    assert np.abs(pixels[120, 320] - tinted).max() < 12
    for row, column in ((120, 160), (199, 320)):
        assert np.abs(pixels[row, column].astype(int) - class_colour(0)).max() < 60
    for row, column in ((120, 140), (215, 320), (20, 320)):
        assert np.abs(pixels[row, column].astype(int) - 90).max() < 12


def test_images_are_spread_evenly_and_those_that_cannot_be_read_say_so(tmp_path):
    assert spread(10, 3) == [0, 3, 6]
    assert spread(3, 10) == [0, 1, 2]
    root = coco_file(tmp_path, 9)
    broken = bytearray((root / "images" / "3.png").read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    (root / "images" / "3.png").write_bytes(broken)
    page = page_of(root, 3)
    assert [figure["name"] for figure in page.figures] == ["0.png", "3.png", "6.png"]
    assert "src" not in page.figures[1]
    assert "not an image that OpenCV can read" in page.figures[1]["caption"]


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "page.html").write_text("old")

    def broken():
        yield from ()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_page(tmp_path / "page.html", "mine", CLASSES, broken())
    assert (tmp_path / "page.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(DiagnosticError):
        write_page(tmp_path, "mine", CLASSES, iter(()))


def with_masks(root: Path):
    """Drawn images in COCO's form and settings that change them at random."""
    coco_file(root, 7)
    source = (Record("Coco", {"annotations": "annotations.json", "images": "images", "proposals": None}),)
    augment = (
        Record("RandomResize", {"size": (96, 64), "ratio": (0.7, 1.4), "keep_ratio": True}),
        Record("RandomCrop", {"size": (70, 50)}),
        Record("RandomFlip", {"probability": 0.5, "direction": "horizontal"}),
    )
    settings = data_settings(voc_data(train=source, val=source, test=source, augment=augment, batch=3, repeat=2))
    dataset, _ = read_split(settings, "train", root, strict=False, masks=True)
    return trained_images(dataset, settings), settings


@pytest.mark.parametrize("epoch", [0, 2])
def test_augmented_images_are_those_that_the_loader_gives(tmp_path, epoch):
    images, settings = with_masks(tmp_path)
    drawn = draws(images, settings, 5, None, epoch, 100)
    assert [index for _, _, index in drawn] == list(range(7))
    seen = list(as_trained(images, settings, 5, 3, drawn))
    given: dict[str, list[dict[str, np.ndarray]]] = {}
    batches = epoch_batches(images, settings, 5, None)
    batches.set_epoch(epoch)
    for batch in training_loader(images, settings, batches, 32, 0, 3):
        rows = {name: tensor.numpy() for name, tensor in batch.inputs.items() if name != "truth_masks"}
        for row, file in enumerate(batch.files):
            one = {name: array[row] for name, array in rows.items()} | {"all": batch.inputs["truth_masks"].numpy()}
            given.setdefault(file, []).append(one)
    matched = 0
    for image in seen:
        height, width = image.image.shape[:2]
        count = len(image.labels)
        for one in given[image.name]:
            pixels = one["image"][::-1, :height, :width].transpose(1, 2, 0) * 60 + 120
            if np.abs(pixels - image.image).max() < 0.01:
                matched += 1
                assert (one["image"][:, height:] == 0).all()
                assert np.array_equal(one["truth_boxes"][:count], image.boxes)
                assert one["truth_labels"].tolist()[:count] == image.labels.tolist()
                assert (one["truth_labels"][count:] == -1).all()
                seen_masks = draw_masks(image.masks, image.layers, (width, height))
                for window, (start, x, y, w, h) in zip(seen_masks, one["truth_windows"], strict=False):
                    assert (window.x, window.y) == (x, y)
                    assert np.array_equal(window.pixels.ravel(), one["all"][start : start + w * h])
                break
    assert matched == 7
    other = list(as_trained(images, settings, 6, 3, draws(images, settings, 6, None, epoch, 100)))
    assert any(a.image.shape != b.image.shape or (a.image != b.image).any() for a, b in zip(seen, other, strict=True))


def test_masks_of_augmented_images_are_drawn_where_their_pixels_went(tmp_path):
    images, settings = with_masks(tmp_path)
    for shown in as_trained(images, settings, 1, 3, draws(images, settings, 1, None, 0, 100)):
        plain = np.full_like(shown.image, 90)
        object.__setattr__(shown, "image", plain)
        object.__setattr__(shown, "boxes", np.full_like(shown.boxes, -50))
        drawn = (picture(shown, CLASSES) != 90).any(2)
        covered = np.zeros(drawn.shape, bool)
        for window in draw_masks(shown.masks, shown.layers, (plain.shape[1], plain.shape[0])):
            height, width = window.pixels.shape
            covered[window.y : window.y + height, window.x : window.x + width] |= window.pixels.astype(bool)
        assert covered.any()
        assert drawn[covered].all()


def test_the_command_writes_pages_of_folders_and_of_specs(tmp_path):
    voc_folder(tmp_path / "pets", {"train": 4, "val": 2, "test": 1})
    spec = spec_file(tmp_path)

    def view(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "detc", "data", "view", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    page = tmp_path / "out" / "page.html"
    done = view(tmp_path / "pets", "--split", "val", "--output", page, "--count", "1")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 images of val" in done.stdout
    assert [figure["name"] for figure in Page(page).figures] == ["img_004.jpg"]
    done = view(spec, "--augmented", "--output", page)
    assert done.returncode == 0, done.stderr
    shown = Page(page)
    assert len(shown.figures) == 4
    assert "as in epoch 1 with seed 0" in shown.title
    assert "96 x 64, here 900 x 600" in shown.figures[0]["caption"]
    assert view(tmp_path / "pets", "--augmented").returncode == 2
    assert view(spec, "--augmented", "--split", "val").returncode == 2
