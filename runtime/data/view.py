"""A page on which to look at annotated images: one file that needs nothing else, and no network."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from detc.dsl.catalogue.running import CANNOT_WRITE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.affine import Affine
from detc.runtime.data.dataset import AnnotatedImage, Dataset
from detc.runtime.data.images import Unreadable, read_image
from detc.runtime.data.layers import Layer, PlacedMask, draw_masks
from detc.runtime.data.raw import shown
from detc.runtime.data.settings import Data
from detc.runtime.files import write_whole
from detc.runtime.pictures import draw_truth

LONGEST_SIDE = 640
# Colour at full resolution, or thin lines would fade.
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass(frozen=True)
class Shown:
    """An image to look at, (H, W, 3) uint8 in blue, green, red, with boxes (G, 4) in its pixels and class numbers (G,).

    `size` is that of its file, (width, height). `masks` lie on `layers`; they are None for objects without
    one. `ignored` (G,) marks crowds and difficult objects. `image` is None where it cannot be read, and `problem` says
    why.
    """

    name: str
    size: tuple[int, int]
    image: np.ndarray | None
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    masks: Sequence[PlacedMask | None] = ()
    layers: Sequence[Layer] = ()
    problem: str = ""


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, evenly spread."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def annotated(dataset: Dataset, count: int) -> list[AnnotatedImage]:
    """At most `count` images of a dataset, evenly spread."""
    return [dataset.images[index] for index in spread(len(dataset.images), count)]


def as_annotated(images: Iterable[AnnotatedImage]) -> Iterator[Shown]:
    """The images as their files and annotations have them."""
    for image in images:
        pixels, problem = None, ""
        try:
            pixels = read_image(image.path, image.size)
        except DiagnosticError as error:
            problem = error.diagnostics[0].summary
        far = np.finfo(np.float32).max
        boxes = image.boxes.clip(-far, far).astype(np.float32)
        masks = [None if mask is None else PlacedMask(mask) for mask in image.masks or ()]
        layers = [Layer.whole(image.size)]
        yield Shown(image.path.name, image.size, pixels, boxes, image.labels, image.ignored, masks, layers, problem)


def draws(
    images: Sequence[AnnotatedImage], settings: Data, seed: int, length: int | None, epoch: int, count: int
) -> list[tuple[int, int, int]]:
    """At most `count` of what a run with this seed draws in an epoch (counted from 0), each image once, evenly spread.

    `images` are those that are trained on, `length` is that of the schedule's epochs.
    """
    from detc.runtime.data.loading import epoch_batches

    first: dict[int, tuple[int, int, int]] = {}
    batches = epoch_batches(images, settings, seed, length)
    batches.set_epoch(epoch)
    every = [draw for batch in batches for draw in batch]
    for draw in sorted(every, key=lambda draw: draw[1]):
        first.setdefault(draw[2], draw)
    drawn = [first[index] for index in sorted(first)]
    return [drawn[index] for index in spread(len(drawn), count)]


def as_trained(
    images: Sequence[AnnotatedImage], settings: Data, seed: int, epochs: int, drawn: Iterable[tuple[int, int, int]]
) -> Iterator[Shown]:
    """The images as training gets them for these draws in a run of so many epochs, before normalisation and padding."""
    from detc.runtime.data.loading import TrainingImages

    training = TrainingImages(images, settings, seed, epochs)
    for draw in drawn:
        image, item = images[draw[2]], training[draw]
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        if isinstance(item, Unreadable):
            yield Shown(image.path.name, image.size, None, *nothing, problem=item.diagnostics[0].summary)
            continue
        sample = item.sample
        ignored = np.zeros(len(sample.labels), bool)
        yield Shown(
            item.file,
            image.size,
            sample.image,
            sample.boxes,
            sample.labels,
            ignored,
            sample.masks or (),
            sample.layers,
        )


def write_page(path: Path, title: str, classes: Sequence[str], images: Iterable[Shown]) -> None:
    """Writes the page, whole or not at all. Raises DiagnosticError cannot-write."""
    template = (Path(__file__).parent / "view.html").read_text("utf-8")
    values = {"TITLE": _text(title), "OPTIONS": "".join(_option(i, name) for i, name in enumerate(classes))}
    # In one pass: a class may be called @TITLE@.
    before, after = (_filled(part, values) for part in template.split("@IMAGES@"))

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as page:
            page.write(before)
            for image in images:
                page.write(_figure(image, classes))
            page.write(after)

    if path.is_dir():
        raise DiagnosticError(CANNOT_WRITE.at(None, f"{path} is a folder"))
    write_whole(path, write)


def picture(image: Shown, classes: Sequence[str], longest: int = LONGEST_SIDE) -> np.ndarray | None:
    """The image scaled down to at most `longest` pixels, with its boxes, names and masks; None if it has none."""
    if image.image is None:
        return None
    height, width = image.image.shape[:2]
    factor = min(1.0, longest / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    scale = size[0] / width, size[1] / height
    small = image.image if factor == 1 else cv2.resize(image.image, size, interpolation=cv2.INTER_AREA)
    layers = [layer.moved(Affine(scale), (0, 0, *size)) for layer in image.layers]
    drawn = iter(draw_masks([mask for mask in image.masks if mask is not None], layers, size))
    masks = [None if mask is None else next(drawn) for mask in image.masks]
    texts = [
        classes[int(label)] + (" (ignored)" if ignored else "")
        for label, ignored in zip(image.labels, image.ignored, strict=True)
    ]
    # Boxes far outside would not fit the numbers that drawing takes.
    boxes = np.clip(Affine(scale).boxes(image.boxes), -1, np.asarray(size * 2, np.float32) + 1)
    return draw_truth(small, boxes, image.labels, masks, texts)


def _figure(image: Shown, classes: Sequence[str]) -> str:
    drawn = picture(image, classes)
    name = _text(image.name)
    counted = Counter(int(label) for label in image.labels)
    numbers = " ".join(str(number) for number in sorted(counted)) or "none"
    objects = ", ".join(f"{count} {_text(classes[number])}" for number, count in sorted(counted.items()))
    if drawn is None:
        content = f'<p class="problem">{_text(image.problem)}</p>'
    else:
        jpeg = cv2.imencode(".jpg", drawn, JPEG)[1].tobytes()
        size = f'width="{drawn.shape[1]}" height="{drawn.shape[0]}"'
        content = f'<img alt="{name}" {size} src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    now = image.image.shape[1::-1] if image.image is not None else image.size
    sizes = f"{image.size[0]} x {image.size[1]}" + (f", here {now[0]} x {now[1]}" if now != image.size else "")
    caption = f"{name} <span>{sizes}; {objects or 'no objects'}</span>"
    return f'<figure data-name="{name}" data-classes="{numbers}">{content}<figcaption>{caption}</figcaption></figure>\n'


def _option(number: int, name: str) -> str:
    return f'<option value="{number}">{_text(name)}</option>'


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub("@([A-Z]+)@", lambda match: values[match[1]], template)


def _text(text: str) -> str:
    return escape(shown(text), quote=True)
