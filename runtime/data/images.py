"""Reading image files."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from detc.dsl.catalogue.data import IMAGE_UNREADABLE, SIZE_DISAGREES, WORKER_LOST
from detc.dsl.diagnostics import Diagnostic, DiagnosticError

T = TypeVar("T")

# How torch says that one of a loader's processes is gone.
_LOST_WORKER = "DataLoader worker"

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MOST_PIXELS = 200_000_000
_ORIENTATION = 0x0112
_TAIL = 1 << 16
_JPEG_SCAN, _JPEG_END, _PNG_END = b"\xff\xda", b"\xff\xd9", b"IEND"


class ImageProblem(Exception):
    """Why a file cannot be used as an image, in words."""


@dataclass(frozen=True)
class Unreadable:
    """What a loader's process hands over in place of a batch, since torch cannot carry a DiagnosticError across."""

    diagnostics: tuple[Diagnostic, ...]


def readable(batch: T | Unreadable) -> T:
    """The batch of a loader. Raises DiagnosticError with what its process could not read."""
    if isinstance(batch, Unreadable):
        raise DiagnosticError(batch.diagnostics)
    return batch


@contextmanager
def watched_workers() -> Iterator[None]:
    """Says so where a process that loads images ends before its time.

    Raises:
        DiagnosticError: worker-lost.
    """
    try:
        yield
    except RuntimeError as error:
        if _LOST_WORKER not in str(error):
            raise
        hint = "what kills them is mostly the lack of memory: fewer --workers need less"
        raise DiagnosticError(WORKER_LOST.at(None, "a process that loads images was killed", detail=hint)) from None


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image of a file as (height, width, 3) uint8 in blue, green, red.

    `size` is the (width, height) that the image's annotation states: pixels are then taken as they lie in the file, and
    turned as the camera's orientation mark says only where that is what makes them agree. Without it they are turned.

    Raises:
        DiagnosticError: image-unreadable where the file is missing, cut off, too large or no image; size-disagrees.
    """
    try:
        content = path.read_bytes()
        check_whole(content[:8], content[-_TAIL:])
        if size is None:
            header_sizes(path)
        image = _decode(content, turned=size is None)
        if size is not None and (image.shape[1], image.shape[0]) != size:
            image = _decode(content, turned=True)
    except (OSError, ImageProblem) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise DiagnosticError(IMAGE_UNREADABLE.at(None, f"{path}: {reason}")) from None
    found = (image.shape[1], image.shape[0])
    if size is not None and found != size:
        text = f"{path}: the image is {found[0]} x {found[1]}, its annotation says {size[0]} x {size[1]}"
        raise DiagnosticError(SIZE_DISAGREES.at(None, text))
    return image


def check_whole(start: bytes, tail: bytes) -> None:
    """Raises ImageProblem if a JPEG or PNG file lacks its end, which decoders would fill in with grey.

    `start` is the first bytes of the file, `tail` the last ones, at least 64 KiB where there are as many. An end marker
    must follow the last scan: an earlier one may belong to a thumbnail.
    """
    if not start:
        raise ImageProblem("the file is empty")
    jpeg_cut = start.startswith(b"\xff\xd8") and tail.rfind(_JPEG_END) <= tail.rfind(_JPEG_SCAN)
    png_cut = start.startswith(b"\x89PNG") and _PNG_END not in tail[-64:]
    if jpeg_cut or png_cut:
        raise ImageProblem("the file is cut off")


def is_file(path: Path) -> bool:
    """Whether a file is there; not where its name is no name that a file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there; not where its name is no name that a folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def image_files(folder: Path) -> Iterator[Path]:
    """The image files in a folder, in the order of their names; hidden ones, such as macOS makes, left out."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield path


def images_below(folder: Path) -> Iterator[Path]:
    """As `image_files`, and those in the folders in it."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        yield from image_files(Path(place))


def header_sizes(path: Path) -> tuple[tuple[int, int], ...]:
    """The (width, height) of an image file, as a camera's mark turns it and then as stored, without decoding pixels.

    Raises:
        ImageProblem: no image, too large, or cut off.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(max(0, path.stat().st_size - _TAIL))
            check_whole(start, file.read())
            file.seek(0)
            with Image.open(file) as image:
                width, height = image.size
                # Asking a PNG for its mark would decode it.
                turned = image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ImageProblem("not an image that can be read") from error
    except OSError as error:
        raise ImageProblem(error.strerror or "not an image that can be read") from error
    if width * height > MOST_PIXELS:
        raise ImageProblem(f"{width} x {height} pixels are too many")
    return ((height, width), (width, height)) if turned else ((width, height),)


@dataclass(frozen=True)
class Decoded:
    """A hash of the content of a file that decodes to an image, and whether a part of it is broken."""

    digest: bytes
    damaged: bool


def decoded(path: Path, size: tuple[int, int]) -> Decoded:
    """What decoding all of an image file shows, whose (width, height) is `size`.

    OpenCV, which training reads with, fills what it cannot decode; Pillow does not, and is asked as well.

    Raises:
        ImageProblem: OpenCV cannot decode it, or not to that size.
    """
    try:
        content = path.read_bytes()
        read_image(path, size)
    except OSError as error:
        raise ImageProblem(error.strerror or "not an image that can be read") from error
    except DiagnosticError as error:
        raise ImageProblem(error.diagnostics[0].summary.removeprefix(f"{path}: ")) from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
        damaged = False
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        damaged = True
    return Decoded(hashlib.blake2b(content, digest_size=16).digest(), damaged)


def _decode(content: bytes, turned: bool) -> np.ndarray:
    flags = cv2.IMREAD_COLOR if turned else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise ImageProblem("not an image that OpenCV can read") from error
    if image is None:
        raise ImageProblem("not an image that OpenCV can read")
    return image
