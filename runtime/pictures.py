"""Pictures for people: boxes and masks on images, sheets of images, training curves."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.masks import Mask, MaskWindow, bitmap, run_lengths
from detc.runtime.data.preprocess import Detections
from detc.runtime.files import write_whole

GOLDEN_RATIO = 0.618034
# How much of a mask's colour covers the image.
TINT = 0.45


def class_colour(number: int) -> tuple[int, int, int]:
    """The colour (blue, green, red) of a class; neighbours differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.85, 0.95)
    return int(blue * 255), int(green * 255), int(red * 255)


def draw_detections(image: np.ndarray, found: Detections, classes: Sequence[str]) -> np.ndarray:
    """A copy of an image (H, W, 3), blue, green, red, with masks, boxes, class names and scores; the best on top."""
    picture = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 300))
    if found.masks is not None:
        for runs, number in reversed(list(zip(found.masks, found.classes, strict=True))):
            _tint(picture, bitmap(runs), class_colour(int(number)))
    for box, score, number in reversed(list(zip(found.boxes, found.scores, found.classes, strict=True))):
        colour = class_colour(int(number))
        _rectangle(picture, box, colour, thickness)
        _label(picture, f"{classes[int(number)]} {score:.2f}", box, colour, thickness)
    return picture


def draw_truth(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: Sequence[Mask | MaskWindow | None] | None = None,
    texts: Sequence[str] | None = None,
) -> np.ndarray:
    """A copy of an image with annotated boxes (G, 4), and masks where there are any, coloured by class.

    `texts` are written at the boxes.
    """
    picture = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 300))
    for mask, number in zip(masks or (), labels, strict=False):
        if isinstance(mask, MaskWindow):
            height, width = mask.pixels.shape
            window = picture[mask.y : mask.y + height, mask.x : mask.x + width]
            _tint(window, mask.pixels.astype(bool), class_colour(int(number)))
        elif mask is not None:
            pixels = bitmap(run_lengths(mask, (image.shape[1], image.shape[0])))
            _tint(picture, pixels, class_colour(int(number)))
    for box, number in zip(boxes, labels, strict=True):
        _rectangle(picture, box, class_colour(int(number)), thickness)
    for text, box, number in zip(texts or (), boxes, labels, strict=False):
        _label(picture, text, box, class_colour(int(number)), thickness)
    return picture


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], width: int = 480, titles: Sequence[str] = ()) -> np.ndarray:
    """Images in rows, each scaled to `width` pixels, with a title above each column."""
    gap, head = 6, 28 if titles else 0
    scaled = [[_to_width(image, width) for image in row] for row in rows]
    heights = [max(image.shape[0] for image in row) for row in scaled]
    columns = max(len(row) for row in scaled)
    sheet = np.full((head + sum(heights) + gap * (len(rows) + 1), columns * (width + gap) + gap, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        place = (gap + column * (width + gap), head - 8)
        cv2.putText(sheet, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    top = head + gap
    for row, height in zip(scaled, heights, strict=True):
        for column, image in enumerate(row):
            left = gap + column * (width + gap)
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        top += height + gap
    return sheet


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes an image (H, W, 3), blue, green, red, in the format of its suffix. Raises DiagnosticError cannot-write."""
    encoded, content = cv2.imencode(path.suffix, image)
    if not encoded:
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: OpenCV cannot write this format"))
    write_whole(path, lambda temporary: temporary.write_bytes(content.tobytes()))


def write_curves(
    path: Path,
    title: str,
    losses: Mapping[str, Sequence[tuple[float, float]]],
    metrics: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Draws a run's curves: losses on the left, metrics of the evaluations on the right, over epochs.

    Each curve is a list of (epoch, value). Raises DiagnosticError cannot-write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for axes, curves, label in ((left, losses, "training loss"), (right, metrics, "on the validation images")):
        for name, points in curves.items():
            known = [(x, y) for x, y in points if math.isfinite(y)]
            axes.plot([x for x, _ in known], [y for _, y in known], label=name, marker="." if axes is right else None)
        axes.set_xlabel("epoch")
        axes.set_title(label, fontsize=10)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize=8)
    right.set_ylim(0, 1)
    left.set_ylim(bottom=0)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110))


def _tint(picture: np.ndarray, pixels: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Mixes a colour into the pixels (H, W) of a mask."""
    picture[pixels] = (picture[pixels] * (1 - TINT) + np.multiply(colour, TINT)).astype(np.uint8)


def _rectangle(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, thickness)


def _label(picture: np.ndarray, text: str, box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    scale = 0.35 + 0.12 * thickness
    plain = text.encode("ascii", "replace").decode()
    (width, height), base = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = min(max(0, round(float(box[0]))), max(0, picture.shape[1] - width))
    top = max(height + base, round(float(box[1])))
    cv2.rectangle(picture, (left, top - height - base), (left + width, top), colour, cv2.FILLED)
    dark = sum(colour) > 380
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(picture, plain, (left, top - base // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def _to_width(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
