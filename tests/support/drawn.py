"""Drawn images with annotations, for tests: coloured squares and discs on grey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detc.compiler.values import Record

CLASSES = ("square", "disc")
NORMALIZE = Record("Normalize", {"mean": (120.0, 120.0, 120.0), "std": (60.0, 60.0, 60.0), "order": "rgb"})

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc from "lib/data.det"
import schedule_1x from "lib/schedules.det"

detector mine : SingleStage {
    backbone = ResNet(18)
    neck = FPN(64, levels = 3..7, extra = "input")
    head = RetinaHead()
    data = voc(CLASSES, root = "pets")
    schedule = schedule_1x
}
"""


def draw(seed: int, width: int = 96, height: int = 64) -> tuple[np.ndarray, list[tuple[str, list[int]]]]:
    """An image and its one or two objects as (class, [x1, y1, x2, y2])."""
    rng = np.random.default_rng(seed)
    image = rng.normal(128, 8, (height, width, 3)).clip(0, 255).astype(np.uint8)
    objects = []
    for half in range(1 + seed % 2):
        side = int(rng.integers(16, 30))
        x = half * width // 2 + int(rng.integers(0, width // 2 - side))
        y = int(rng.integers(0, height - side))
        name = CLASSES[int(rng.integers(2))]
        if name == "square":
            cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), (40, 40, 220), cv2.FILLED)
        else:
            cv2.circle(image, (x + side // 2, y + side // 2), side // 2 - 1, (220, 60, 40), cv2.FILLED)
        objects.append((name, [x, y, x + side, y + side]))
    return image, objects


def voc_folder(root: Path, counts: dict[str, int]) -> Path:
    """A folder in VOC's layout with drawn images, so many in each split."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    seed = 0
    for split, count in counts.items():
        names = []
        for _ in range(count):
            image, objects = draw(seed)
            name = f"img_{seed:03d}"
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml((96, 64), objects))
            names.append(name)
            seed += 1
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def voc_xml(size: tuple[int, int], objects: list[tuple[str, list[int]]]) -> str:
    """An annotation; boxes are given as x1, y1, x2, y2 from 0 and written as VOC counts, from 1."""
    items = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{items}</annotation>"


def outline(name: str, x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The polygon, as x, y, x, y, ..., of a square, or of the ellipse in a box."""
    if name == "square":
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = (x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(angles)
    y = (y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(angles)
    return np.stack([x, y], 1).round(2).ravel().tolist()


def coco_file(root: Path, count: int, **changes: Any) -> Path:
    """annotations.json and images/ with drawn images; category ids disc 7, square 3. `changes` replace lists."""
    (root / "images").mkdir(parents=True)
    ids = {"disc": 7, "square": 3}
    images, annotations = [], []
    for seed in range(count):
        image, objects = draw(seed)
        cv2.imwrite(str(root / "images" / f"{seed}.png"), image)
        images.append({"id": 100 + seed, "file_name": f"{seed}.png", "width": 96, "height": 64})
        for name, (x1, y1, x2, y2) in objects:
            entry = {"image_id": 100 + seed, "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            entry["segmentation"] = [outline(name, x1, y1, x2, y2)]
            annotations.append({"id": len(annotations) + 1, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, **entry})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories, **changes}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def voc_data(**changes: Any) -> Record:
    """A Data record for `voc_folder`, with `changes` to its fields."""

    def source(split: str) -> tuple[Record, ...]:
        return (Record("Voc", {"split": split, "folder": ""}),)

    fields = {
        "classes": CLASSES,
        "root": "data",
        "train": source("train"),
        "val": source("val"),
        "test": source("test"),
        "augment": (
            Record("Resize", {"size": (96, 64), "keep_ratio": True}),
            Record("RandomFlip", {"probability": 0.5, "direction": "horizontal"}),
        ),
        "resize": Record("Resize", {"size": (96, 64), "keep_ratio": True}),
        "normalize": NORMALIZE,
        "canvas": None,
        "pad": 32,
        "batch": 4,
        "keep_empty": False,
        **changes,
    }
    return Record("Data", fields)


def spec_file(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """A spec of a small detector on data in VOC's layout in the folder pets beside it."""
    path = folder / "mine.det"
    path.write_text(SPEC.replace("CLASSES", json.dumps(classes)))
    return path
