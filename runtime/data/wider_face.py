"""Reading WIDER FACE as downloaded: WIDER_train/images/ and wider_face_split/wider_face_train_bbx_gt.txt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE
from detc.runtime.data.images import SUFFIXES
from detc.runtime.data.raw import Fault, Findings, RawImage, RawObject, RawSource, fail, image_path, must_be_there

FACE = "face"
LARGEST_FILE = 1 << 30
# x, y, width, height; then blur, expression, illumination, invalid, occlusion and pose.
_NUMBERS, _INVALID = 10, 7


def read_wider_face(folder: Path, split: str, smallest: float = 1, findings: Findings | None = None) -> RawSource:
    """The images and faces of a split of WIDER FACE, whose folders as downloaded lie in `folder`.

    Faces marked as invalid, and those with a side of less than `smallest` pixels, are marked as ignored. Images of
    which the file says that they have 0 faces, and then one of zeros, have none. All faulty entries are reported at
    once, or kept in `findings`, where it keeps going, and left out.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, path-outside.
    """
    listing, place = (
        folder / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt",
        folder / f"WIDER_{split}" / "images",
    )
    must_be_there(files=[listing], folders=[place])
    if listing.stat().st_size > LARGEST_FILE:
        fail(ANNOTATION_UNREADABLE, listing, "the file is larger than 1 GiB")
    try:
        lines = listing.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        fail(ANNOTATION_UNREADABLE, listing, f"not text ({error})")
    findings = findings or Findings()
    images = []
    for name, rows in _entries(lines):
        try:
            if name is None:
                raise Fault(ANNOTATION_UNREADABLE, "lines before the name of an image", f"line 1 ({rows[0]})")
            path = image_path(place, name)
            findings.listed.add(path)
            images.append(RawImage(path, None, _faces(name, rows, smallest)))
        except Fault as fault:
            findings.add(fault.kind, f"{listing}: {fault.what}", fault.where)
    findings.settle()
    return RawSource(str(listing), images, {FACE: 1}, folder=place, fixed=True)


def _entries(lines: list[str]) -> Iterator[tuple[str | None, list[str]]]:
    """The name of each image with the lines below it; None with what comes before the first name."""
    name: str | None = None
    rows: list[str] = []
    for line in (line.strip() for line in lines):
        if Path(line).suffix.lower() in SUFFIXES:
            if name is not None or rows:
                yield name, rows
            name, rows = line, []
        elif line:
            rows.append(line)
    if name is not None or rows:
        yield name, rows


def _faces(name: str, rows: list[str], smallest: float) -> list[RawObject]:
    faces = [_numbers(name, row) for row in rows[1:]]
    if rows[:1] == ["0"] and not any(any(face) for face in faces[:1]):
        faces = faces[1:]
    if not rows or rows[0] != str(len(faces)):
        raise Fault(ANNOTATION_UNREADABLE, "images with another number of faces than the file says", name)
    return [_face(face, smallest) for face in faces]


def _numbers(name: str, row: str) -> list[float]:
    try:
        numbers = [float(word) for word in row.split()]
    except ValueError:
        numbers = []
    if len(numbers) != _NUMBERS or not all(math.isfinite(number) for number in numbers):
        what = "images with a face that is not x, y, width, height and six marks"
        raise Fault(ANNOTATION_UNREADABLE, what, f"{name} ({row})")
    return numbers


def _face(numbers: list[float], smallest: float) -> RawObject:
    x, y, width, height = numbers[:4]
    ignored = bool(numbers[_INVALID]) or min(width, height) < smallest
    return RawObject(FACE, (x, y, x + width, y + height), None, ignored)
