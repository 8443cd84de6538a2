"""Small data sets as Cityscapes, WIDER FACE and YOLO's come, written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detc.dsl.diagnostics import DiagnosticError

FACES = {
    "0--Parade/a.jpg": ["2", "10 20 30 24 0 0 0 0 0 0", "50 5 12 18 2 0 0 1 2 1"],
    "0--Parade/b.jpg": ["0", "0 0 0 0 0 0 0 0 0 0"],
    "1--Handshaking/c.jpg": ["3", "1 1 16 30 0 0 0 0 0 0", "30 30 0 10 2 0 0 0 2 0", "40 40 17 17 0 0 0 0 0 0"],
}
DESCRIPTION = "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
LABELS = {
    "images/train/a.jpg": "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.5\n",
    "images/train/b.png": "1 0.1 0.1 0.5 0.1 0.5 0.9\n",
    "images/train/more/c.jpg": None,
    "images/val/d.jpg": "\n0 1 1 0.25 0.25\n",
}
ROAD, CAR, PERSON, CARAVAN, OUT_OF_ROI = 7, 26, 24, 29, 3


def write_image(path: Path, width: int = 96, height: int = 64, seed: int = 0) -> Path:
    """An image of noise, other for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def cityscapes_image(root: Path, split: str, name: str, pixels: np.ndarray) -> Path:
    """An image of a city ("CITY_000000_000019") whose instance image has these numbers (height, width)."""
    city = name.split("_", maxsplit=1)[0]
    height, width = pixels.shape
    write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", width, height, seed=len(name))
    truth = root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    truth.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint16)).save(truth)
    return truth


def street(width: int = 60, height: int = 40) -> np.ndarray:
    """Road, two cars of which the second hides a part of the first, a group of persons, and pixels outside."""
    pixels = np.full((height, width), ROAD)
    pixels[5:20, 10:30] = CAR * 1000
    pixels[10:25, 20:45] = CAR * 1000 + 1
    pixels[30:40, 0:12] = PERSON
    pixels[:, 55:] = OUT_OF_ROI
    return pixels


def cityscapes(root: Path, **splits: int) -> Path:
    """leftImg8bit/ and gtFine/ with so many streets in each split."""
    for split, count in splits.items():
        for number in range(count):
            cityscapes_image(root, split, f"{split}town_{number:06d}_000019", street())
    return root


def wider_face(root: Path, split: str, entries: Mapping[str, Sequence[str]]) -> Path:
    """WIDER_SPLIT/images and wider_face_split, with these lines below the name of each image."""
    lines = []
    for seed, (name, rows) in enumerate(entries.items()):
        write_image(root / f"WIDER_{split}" / "images" / name, seed=seed)
        lines += [name, *rows]
    listing = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    listing.parent.mkdir(exist_ok=True)
    listing.write_text("".join(f"{line} \n" for line in lines))
    return root


def yolo(root: Path, description: str | None, labels: Mapping[str, str | None]) -> Path:
    """Images at these paths with these label files, or none, beside or in labels/; and data.yaml."""
    for seed, (name, text) in enumerate(labels.items()):
        write_image(root / name, seed=seed)
        if text is not None:
            label = root / Path(*("labels" if part == "images" else part for part in Path(name).parts))
            label.parent.mkdir(parents=True, exist_ok=True)
            label.with_suffix(".txt").write_text(text)
    if description is not None:
        (root / "data.yaml").write_text(description)
    return root


def slugs(error: pytest.ExceptionInfo[DiagnosticError]) -> list[str]:
    return [diagnostic.kind.slug for diagnostic in error.value]


def text(error: pytest.ExceptionInfo[DiagnosticError]) -> str:
    return "\n".join(f"{d.summary} {d.detail} {d.notes}" for d in error.value)
