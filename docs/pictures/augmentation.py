"""Draws docs/pictures/augmentation.jpg: what each transform does to drawn images, with boxes and masks.

python docs/pictures/augmentation.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detc.runtime.data.augment import Augmentation
from detc.runtime.data.distort import MinIoURandomCrop, PhotometricDistortion, RandomAffine
from detc.runtime.data.layers import draw_masks
from detc.runtime.data.masks import read_mask
from detc.runtime.data.mixing import CopyPaste, MixUp, Mosaic
from detc.runtime.data.samples import Sample
from detc.runtime.data.transforms import Expand, Pad, RandomCrop, RandomFlip
from detc.runtime.pictures import contact_sheet, draw_truth, write_picture

SIZE = (240, 180)
SHOWN = {
    "as annotated": [],
    "RandomFlip": [RandomFlip(1.0)],
    "RandomCrop": [RandomCrop((150, 120))],
    "MinIoURandomCrop": [MinIoURandomCrop()],
    "Pad": [Pad((300, 225))],
    "Expand": [Expand((1.5, 2.0), probability=1.0)],
    "PhotometricDistortion": [PhotometricDistortion()],
    "RandomAffine": [RandomAffine(rotation=20.0, scaling=(0.8, 1.1))],
    "Mosaic": [Mosaic(SIZE)],
    "Mosaic, RandomAffine": [Mosaic(SIZE), RandomAffine(scaling=(0.7, 1.0), border=(-120, -90))],
    "MixUp": [MixUp(SIZE)],
    "CopyPaste": [CopyPaste()],
}
# Some draw nothing, or all of an image, with the seed of the others.
SEEDS = {"PhotometricDistortion": 8}
COLUMNS, WIDTH = 4, 240


def drawn(number: int) -> Sample:
    """An image with three objects, one a triangle, one a disc, one a square, with masks."""
    rng = np.random.default_rng(number)
    width, height = SIZE
    ramps = np.linspace(0, 1, width)[None, :, None] * 60 + np.linspace(0, 1, height)[:, None, None] * 40
    image = (ramps + rng.uniform(70, 150, 3)).clip(0, 255).astype(np.uint8)
    boxes, masks = [], []
    for kind in range(3):
        x, y, side = *rng.integers((0, 0), (width - 75, height - 75)), int(rng.integers(45, 75))
        turns = (np.arange((3, 40, 4)[kind]) + 0.5) / (3, 40, 4)[kind] * 2 * np.pi
        corners = (np.stack([np.sin(turns), np.cos(turns)], 1) + 1) / 2 * side + (x, y)
        cv2.fillPoly(image, [corners.round().astype(np.int32)], rng.integers(0, 255, 3).tolist(), cv2.LINE_AA)
        boxes.append([*corners.min(0), *corners.max(0)])
        masks.append(read_mask([corners.ravel().tolist()], SIZE))
    return Sample.annotated(image, np.asarray(boxes, np.float32), np.arange(3), tuple(masks))


def main() -> None:
    pictures = []
    for name, transforms in SHOWN.items():
        sample = Augmentation(transforms, drawn, 30)(3, np.random.default_rng(SEEDS.get(name, 5)))
        masks = draw_masks(sample.masks or (), sample.layers, sample.size)
        picture = draw_truth(sample.image, sample.boxes, sample.labels, masks)
        height = round(picture.shape[0] * WIDTH / picture.shape[1])
        picture = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        titled = cv2.copyMakeBorder(picture, 24, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3)
        cv2.putText(titled, name, (0, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40,) * 3, 1, cv2.LINE_AA)
        pictures.append(titled)
    rows = [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]
    write_picture(Path(__file__).with_suffix(".jpg"), contact_sheet(rows, WIDTH))


if __name__ == "__main__":
    main()
