"""Videos: their frames one by one, and a video of annotated frames."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detc.dsl.catalogue.running import CANNOT_WRITE, VIDEO_ENDS_EARLY, VIDEO_UNREADABLE
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.images import MOST_PIXELS
from detc.runtime.files import whole

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm"})
# Where a file does not say how many frames a second it has, or says what cannot be.
USUAL_RATE, FASTEST_RATE = 25.0, 1000.0
# OpenCV writes no slower videos.
_SLOWEST_RATE = 0.1
# A container's length is that of its longest track, and often rounded: so much may be missing of the pictures.
_MISSING_SECONDS = 0.5
# The first bytes of Matroska and WebM; what stands at byte 4 of the first box of MP4 and QuickTime.
_MATROSKA = b"\x1aE\xdf\xa3"
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


@dataclass(frozen=True)
class Frame:
    """A frame (H, W, 3) uint8 in blue, green, red; its number from 0, and its time in seconds from the start."""

    number: int
    time: float
    pixels: np.ndarray


class Video:
    """A video file that is read frame by frame, once.

    `size` is its (width, height), `rate` its frames in a second, `length` how many frames it says it has, 0 where it
    does not say. `problem` is, after its frames, what was wrong with them.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises DiagnosticError video-unreadable."""
        self.path = path
        self.problem: Diagnostic | None = None
        try:
            with path.open("rb") as file:
                start = file.read(12)
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from None
        # Whatever else it is, such as a list of files, FFmpeg would read what it names.
        avi = start[:4] == b"RIFF" and start[8:] == b"AVI "
        if not (avi or start.startswith(_MATROSKA) or start[4:8] in _FIRST_BOXES):
            raise self._unreadable("it is no MP4, QuickTime, AVI, Matroska or WebM")
        # FFmpeg reports on the standard error stream what is said here; it reads this once.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        with _silent_opencv():
            self._capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise self._unreadable("it is damaged, cut off, or in a coding that OpenCV cannot read")
        self.size = (self._whole(cv2.CAP_PROP_FRAME_WIDTH), self._whole(cv2.CAP_PROP_FRAME_HEIGHT))
        if not 0 < self.size[0] * self.size[1] <= MOST_PIXELS:
            self.close()
            raise self._unreadable(f"frames of {self.size[0]} x {self.size[1]} pixels")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= FASTEST_RATE else USUAL_RATE
        self.length = self._whole(cv2.CAP_PROP_FRAME_COUNT)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._capture.release()

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Every so-maniest frame, the first one first. Those between are not converted.

        Ends before a frame of another size, and where the file does: `problem` says so.
        """
        number, time = 0, 0.0
        while self._capture.grab():
            stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            time = stated if math.isfinite(stated) and stated >= 0 else number / self.rate
            if number % every == 0:
                decoded, pixels = self._capture.retrieve()
                if not decoded:
                    break
                size = (pixels.shape[1], pixels.shape[0])
                if size != self.size:
                    sizes = [f"{width} x {height}" for width, height in (size, self.size)]
                    summary = f"{self.path}: frame {number} is {sizes[0]} pixels, and those before it {sizes[1]}"
                    self.problem = VIDEO_UNREADABLE.at(None, summary)
                    return
                yield Frame(number, time, pixels)
            number += 1
        if number == 0:
            (self.problem,) = self._unreadable("it has no frame that can be read")
        elif self.length / self.rate - (time + 1 / self.rate) > max(_MISSING_SECONDS, 2 / self.rate):
            summary = f"{self.path}: it ends after {number} of about {self.length} frames"
            self.problem = VIDEO_ENDS_EARLY.at(None, summary)

    def _whole(self, property: int) -> int:
        value = self._capture.get(property)
        return int(value) if math.isfinite(value) and value > 0 else 0

    def _unreadable(self, why: str) -> DiagnosticError:
        return DiagnosticError(VIDEO_UNREADABLE.at(None, f"{self.path}: {why}"))


@contextmanager
def writing_video(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """What writes frames (H, W, 3) of `size` (width, height), in blue, green, red, as an MP4 file of MPEG-4 video.

    Of an odd width or height the last pixel is left out, which MPEG-4 cannot have. The file is there when all is
    written, and not if anything fails; but Ctrl-C, or a caller who wants no more, leaves a video of the frames so far.

    Raises:
        DiagnosticError: cannot-write.
    """
    stopped: BaseException | None = None
    with whole(path) as temporary:
        coding = cv2.VideoWriter.fourcc(*"mp4v")
        with _silent_opencv():
            writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, coding, max(rate, _SLOWEST_RATE), size)
        if not writer.isOpened():
            summary = f"{path}: OpenCV cannot write a video of {size[0]} x {size[1]} pixels here"
            raise DiagnosticError(CANNOT_WRITE.at(None, summary))
        count = 0

        def write(pixels: np.ndarray) -> None:
            nonlocal count
            writer.write(pixels)
            count += 1

        try:
            yield write
        except (KeyboardInterrupt, GeneratorExit) as error:
            stopped = error
        finally:
            writer.release()
        # OpenCV says nothing where the disk is full.
        with Video(temporary) as written:
            if written.length < count:
                raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: not all of the video could be written"))
    if stopped is not None:
        raise stopped


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Leaves out what OpenCV itself says of a failure."""
    logging: Any = cv2.utils.logging
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
