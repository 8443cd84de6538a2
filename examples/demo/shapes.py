"""Draws a data set of shapes on cluttered backgrounds, in COCO's form.

    python examples/demo/shapes.py FOLDER [TRAIN VAL TEST]

FOLDER gets the folders train, val and test with so many pictures (600, 80 and 160 if not given), and
annotations/{train,val,test}.json. The three are drawn from seeds of their own, so that no picture of one is in another.
Five kinds of shape vary in size, angle, colour and texture, hide each other, and lie on backgrounds of noise, gradients
and stray lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

Image = np.ndarray
Points = np.ndarray

SIZE = 192
PICTURES = {"train": 600, "val": 80, "test": 160}
# What is left of a shape under others for it to be asked for.
VISIBLE = 0.4


def regular(corners: int) -> Callable[[np.random.Generator], Points]:
    """The outline of a regular polygon of radius 1."""

    def outline(_: np.random.Generator) -> Points:
        angles = np.arange(corners) * 2 * np.pi / corners
        return np.stack((np.cos(angles), np.sin(angles)), axis=1)

    return outline


def star(draw: np.random.Generator) -> Points:
    """Five points of radius 1 and five, nearer, between them."""
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, draw.uniform(0.38, 0.5), 1.0)
    return np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)


def cross(draw: np.random.Generator) -> Points:
    """Two bars of equal length across each other."""
    half = draw.uniform(0.2, 0.32)
    corner = [(1, -half), (1, half), (half, half), (half, 1), (-half, 1), (-half, half)]
    return np.array([*corner, *((-x, -y) for x, y in corner)])


OUTLINES: dict[str, Callable[[np.random.Generator], Points]] = {
    "disc": regular(48),
    "triangle": regular(3),
    "square": regular(4),
    "star": star,
    "cross": cross,
}
CLASSES = list(OUTLINES)


def noise(draw: np.random.Generator, strength: float) -> Image:
    """Smooth random colours at several scales, about 0."""
    total = np.zeros((SIZE, SIZE, 3), np.float32)
    for cells in (3, 8, 24, 96):
        coarse = draw.normal(0, strength / np.sqrt(cells), (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return total


def background(draw: np.random.Generator) -> Image:
    """Noise around two colours that pass into each other, with stray lines."""
    ramp = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    picture = (1 - ramp) * draw.uniform(40, 215, 3) + ramp * draw.uniform(40, 215, 3) + noise(draw, 40)
    picture = np.ascontiguousarray(np.rot90(picture, draw.integers(4)).astype(np.float32))
    for _ in range(draw.integers(2, 9)):
        ends = draw.integers(0, SIZE, 4).tolist()
        cv2.line(picture, ends[:2], ends[2:], draw.uniform(0, 255, 3).tolist(), int(draw.integers(1, 5)), cv2.LINE_AA)
    return picture


def colour(draw: np.random.Generator, behind: Image) -> Points:
    """A colour that differs from the mean of what it covers enough for a person to see."""
    while True:
        found = draw.uniform(20, 235, 3)
        if np.abs(found - behind.mean(axis=0)).max() > 60:
            return found


def picture(draw: np.random.Generator) -> tuple[Image, list[tuple[int, list[int], int]]]:
    """A picture and its objects: class, box (x, y, width, height) of what is seen, and how many pixels are seen."""
    image = background(draw)
    shapes: list[tuple[int, Image]] = []
    for _ in range(draw.integers(1, 7)):
        kind = int(draw.integers(len(CLASSES)))
        radius = np.exp(draw.uniform(np.log(13), np.log(52)))
        turn = draw.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        centre = draw.uniform(0.6 * radius, SIZE - 0.6 * radius, 2)
        stretch = np.array([1.0, draw.uniform(0.75, 1.0)])
        outline = OUTLINES[CLASSES[kind]](draw) * radius * stretch @ rotation.T + centre
        mask = np.zeros((SIZE, SIZE), np.uint8)
        # Corners in sixteenths of a pixel.
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        fill = colour(draw, image[mask > 0]) + noise(draw, draw.uniform(3, 30))
        weight = (mask / 255 * draw.uniform(0.8, 1.0)).astype(np.float32)[:, :, None]
        image = image * (1 - weight) + fill * weight
        shapes.append((kind, mask > 127))
    image = cv2.GaussianBlur(image, (0, 0), draw.uniform(0.3, 1.1)) + draw.normal(0, draw.uniform(1, 9), image.shape)
    covered = np.zeros((SIZE, SIZE), bool)
    objects: list[tuple[int, list[int], int]] = []
    for kind, mask in reversed(shapes):
        seen = mask & ~covered
        covered |= mask
        if seen.sum() >= max(VISIBLE * mask.sum(), 40):
            ys, xs = np.nonzero(seen)
            box = [int(v) for v in (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)]
            objects.append((kind, box, int(seen.sum())))
    return np.clip(image, 0, 255).astype(np.uint8), objects


def make(folder: Path, counts: Iterable[int] = PICTURES.values()) -> None:
    """Draws so many pictures of each split into a folder and writes their annotations."""
    for number, (split, count) in enumerate(zip(PICTURES, counts, strict=True)):
        draw = np.random.default_rng(number)
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(count):
            image, objects = picture(draw)
            name = f"{index:04}.jpg"
            cv2.imwrite(str(folder / split / name), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            images.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
            annotations += [
                {"image_id": index, "category_id": kind + 1, "bbox": box, "area": area, "iscrowd": 0}
                for kind, box, area in objects
            ]
        for identity, annotation in enumerate(annotations, 1):
            annotation["id"] = identity
        categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(CLASSES)]
        (folder / "annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / "annotations" / f"{split}.json").write_text(text)
        print(f"{split}: {count} pictures, {len(annotations)} shapes")


if __name__ == "__main__":
    make(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]] or PICTURES.values())
