"""Reading Cityscapes' instances as downloaded: leftImg8bit/ and gtFine/.

Of the files in gtFine/, the truth is *_gtFine_instanceIds.png, which the official evaluation reads too. Polygons are
not read: a later one lies before an earlier one, so that none of them says what can be seen of its object.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_masks

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DATA_MISSING
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import ImageProblem, header_sizes
from detc.runtime.data.masks import Bitmap, Size
from detc.runtime.data.raw import Fault, Findings, RawImage, RawObject, RawSource, must_be_there

# The labels that have instances and are evaluated, by number (Cordts et al., CVPR 2016, and its labels.py).
NUMBERS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
# The labels that no evaluation looks at: unlabelled pixels, the car itself, parking places, trailers and so on.
UNLABELLED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
# A pixel is its label's number, or that times 1000 plus the instance's; labels are 0 to 33.
PER_LABEL, LABELS = 1000, 34
# Four times those of Cityscapes.
MOST_PIXELS = 1 << 23
_SUFFIX = "_gtFine_instanceIds.png"
_NAMES = {number: name for name, number in NUMBERS.items()}


def read_cityscapes(folder: Path, split: str, masks: bool = False, findings: Findings | None = None) -> RawSource:
    """The images and instances of a split of Cityscapes, whose folders leftImg8bit and gtFine lie in `folder`.

    Pixels of a class that belong to no instance are a group: one object of the class, marked as ignored. With `masks`,
    masks are read, and the pixels that nobody labelled. All faulty files are reported at once, or kept in `findings`,
    where it keeps going, and their images left out.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable.
    """
    images, truth = folder / "leftImg8bit" / split, folder / "gtFine" / split
    must_be_there(folders=[images, truth])
    files = sorted(truth.glob(f"*/*{_SUFFIX}"))
    if not files:
        hint = "they are in gtFine_trainvaltest.zip"
        raise DiagnosticError(DATA_MISSING.at(None, f"{truth} has no CITY/*{_SUFFIX}", detail=hint))

    findings = findings or Findings()

    def read(file: Path) -> RawImage | Fault:
        place = images / file.parent.name / f"{file.name.removesuffix(_SUFFIX)}_leftImg8bit.png"
        findings.listed.add(place)
        try:
            return _image(file, place, masks)
        except Fault as fault:
            return fault

    pool = ThreadPoolExecutor(8)
    read_images = []
    try:
        for done in pool.map(read, files):
            if isinstance(done, Fault):
                findings.add(done.kind, f"{truth}: {done.what}", done.where)
            else:
                read_images.append(done)
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all images
    findings.settle()
    return RawSource(str(truth), read_images, dict(NUMBERS), masks, folder=images, fixed=True)


def _image(file: Path, place: Path, masks: bool) -> RawImage:
    pixels = _pixels(file)
    size = (pixels.shape[1], pixels.shape[0])
    column = pixels.ravel(order="F")
    objects = []
    for number, runs in _runs_by_number(column).items():
        label = number // PER_LABEL if number >= PER_LABEL else number
        if not 0 <= label < LABELS:
            what = "instance images with a number that is none of Cityscapes'"
            raise Fault(ANNOTATION_UNREADABLE, what, f"{file.name} ({number})")
        if label in _NAMES:
            mask = runs.mask(size) if masks else None
            objects.append(RawObject(_NAMES[label], runs.box(size[1]), runs.area, number < PER_LABEL, mask))
    unlabelled = None
    if masks:
        unlabelled = _runs_by_number(np.isin(column, UNLABELLED).astype(np.int64)).get(1, _Runs.none()).mask(size)
    return RawImage(place, size, objects, unlabelled=unlabelled)


def _pixels(file: Path) -> np.ndarray:
    """The numbers of the pixels (height, width) of an instance image."""
    try:
        ((width, height),) = header_sizes(file)
        if width * height > MOST_PIXELS:
            raise ImageProblem(f"{width} x {height} pixels are too many")
        with Image.open(file) as image:
            if image.mode not in ("I;16", "I", "L"):
                raise ImageProblem(f"no single channel of numbers, but {image.mode}")
            return np.asarray(image)
    except ImageProblem as problem:
        raise Fault(ANNOTATION_UNREADABLE, f"instance images unreadable ({problem})", file.name) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise Fault(ANNOTATION_UNREADABLE, "instance images that cannot be decoded", file.name) from None


@dataclass(frozen=True)
class _Runs:
    """Pixels as stretches down the columns, from the left: where each starts, and where it ends."""

    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def none(cls) -> _Runs:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def area(self) -> float:
        return float((self.ends - self.starts).sum())

    def box(self, height: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 around them."""
        left, right = self.starts // height, (self.ends - 1) // height
        # A stretch from one column into the next has the last row of the one and the first of the other.
        across = left < right
        top = np.where(across, 0, self.starts % height)
        bottom = np.where(across, height, (self.ends - 1) % height + 1)
        return float(left.min()), float(top.min()), float(right.max() + 1), float(bottom.max())

    def mask(self, size: Size) -> Bitmap:
        width, height = size
        edges = np.column_stack([self.starts, self.ends]).ravel()
        counts = np.diff(edges, prepend=0, append=width * height).tolist()
        runs = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return Bitmap(size, runs["counts"])


def _runs_by_number(column: np.ndarray) -> dict[int, _Runs]:
    """The stretches of each number in `column`, in the order of the numbers."""
    starts = np.concatenate([[0], np.flatnonzero(column[1:] != column[:-1]) + 1])
    ends = np.append(starts[1:], len(column))
    numbers = column[starts]
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    places = np.split(order, first[1:])
    return {int(number): _Runs(starts[rows], ends[rows]) for number, rows in zip(found, places, strict=True)}
