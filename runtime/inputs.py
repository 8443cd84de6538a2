"""What a predictor is given: pictures of a Python program, and the files that a command line names."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from detc.dsl.catalogue.running import BAD_PICTURE, NO_IMAGES
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import MOST_PIXELS, SUFFIXES, is_file, read_image
from detc.runtime.videos import VIDEO_SUFFIXES

T = TypeVar("T")
R = TypeVar("R")

# A file, pixels (H, W, 3) uint8, or a picture of Pillow.
Picture = str | os.PathLike[str] | np.ndarray | Image.Image
Order = Literal["bgr", "rgb"]

# Pillow's modes of at most eight bits a channel; of more it would cut values off.
_EIGHT_BITS = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
# Pictures that are read while another is worked on.
_AHEAD = 2


def picture_pixels(picture: Picture, order: Order = "bgr") -> np.ndarray:
    """A picture as (H, W, 3) uint8 in blue, green, red.

    Files and Pillow's pictures are turned as their camera's mark says. `order` is that of the channels of arrays.

    Raises:
        DiagnosticError: image-unreadable for a file, bad-picture for anything else that is no picture.
    """
    if order not in ("bgr", "rgb"):
        raise ValueError(f'order is "bgr" or "rgb", and not {order!r}')
    if isinstance(picture, np.ndarray):
        shape = "x".join(map(str, picture.shape))
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            hint = "give (height, width, 3) uint8, values from 0 to 255"
            raise DiagnosticError(BAD_PICTURE.at(None, f"an array {picture.dtype} {shape}".rstrip(), detail=hint))
        return picture if order == "bgr" else np.ascontiguousarray(picture[..., ::-1])
    if isinstance(picture, Image.Image):
        return _pillow_pixels(picture)
    if isinstance(picture, str | os.PathLike):
        return read_image(Path(picture))
    hint = "give a path, an array (height, width, 3) uint8, or a picture of Pillow"
    raise DiagnosticError(BAD_PICTURE.at(None, f"a {type(picture).__name__}", detail=hint))


def _pillow_pixels(picture: Image.Image) -> np.ndarray:
    width, height = picture.size
    if not 0 < width * height <= MOST_PIXELS or picture.mode not in _EIGHT_BITS:
        raise DiagnosticError(BAD_PICTURE.at(None, f"a picture of {width} x {height} pixels in mode {picture.mode}"))
    try:
        pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # it is only now that Pillow decodes it
        raise DiagnosticError(BAD_PICTURE.at(None, f"a picture that Pillow cannot decode: {error}")) from None
    return np.ascontiguousarray(pixels[..., ::-1])


def several(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Pictures one by one, where one may be given as it is."""
    if isinstance(pictures, np.ndarray):
        return pictures if pictures.ndim == 4 else [pictures]
    return [pictures] if isinstance(pictures, str | os.PathLike | Image.Image) else pictures


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """The items in order, so many at a time, and at the end fewer."""
    items = iter(items)
    while batch := list(islice(items, count)):
        yield batch


def read_ahead(
    items: Iterable[T], read: Callable[[T], R], most: int = _AHEAD
) -> Generator[tuple[T, Callable[[], R]], None, None]:
    """The items with what reads them, in order; a thread reads the next ones, at most so many, while one is worked on.

    Calling the second of a pair gives what `read` returned for the first, or raises what it raised.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(1)
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > most:
                done, future = waiting.popleft()
                yield done, future.result
        for done, future in waiting:
            yield done, future.result
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    # Whoever takes several at a time may not have asked for the last ones yet.
    pool.shutdown()


def media_files(arguments: Sequence[str], recursive: bool = False) -> list[Path]:
    """The images and videos that files, folders and patterns name, each once, in order.

    A file that is named is taken whatever its ending; of folders, and with `recursive` of those below them, and of
    patterns such as photographs/**/*.jpg, the files that end as images or videos do. Links to folders are not followed.

    Raises:
        DiagnosticError: no-images, for every argument that names none.
    """
    found: dict[Path, None] = {}
    problems = []
    for argument in arguments:
        path = Path(argument)
        reason = ""
        if is_file(path):
            matches = [path]
        elif os.path.isdir(argument):  # noqa: PTH112  (a name that no file can have is no folder)
            try:
                matches = list(_below(path, recursive))
                reason = f"the folder has no images or videos{'' if recursive else '; --recursive looks further down'}"
            except OSError as error:
                matches, reason = [], f"{error.filename}: {error.strerror}"
        else:
            matches = _matching(path)
            reason = "no such file or folder, and no pattern that matches an image or video"
        if not matches:
            kinds = ", ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
            problems.append(NO_IMAGES.at(None, f"{argument}: {reason}", detail=f"images and videos end in {kinds}"))
        found.update(dict.fromkeys(matches))
    if problems:
        raise DiagnosticError(problems)
    return list(found)


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _below(folder: Path, recursive: bool) -> Iterator[Path]:
    """The images and videos of a folder, by name, and then those of its folders. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(folders) if recursive else []
        yield from (path for name in sorted(names) if _is_medium(path := Path(root, name)))


def _matching(pattern: Path) -> list[Path]:
    """The images and videos that a pattern such as photographs/**/*.jpg matches."""
    base = Path(pattern.anchor)
    try:
        found = [*base.glob(str(pattern.relative_to(base)))]
    except (ValueError, IndexError, OSError):  # a pattern that pathlib does not take, or a folder that it cannot read
        found = []
    return sorted(filter(_is_medium, found))


def _is_medium(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES and is_file(path)
