"""Writing what was found in files: pictures with boxes, videos of them, and COCO JSON."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from detc.dsl.catalogue.running import BAD_OPTION
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.images import read_image
from detc.runtime.data.masks import as_json, mask_areas
from detc.runtime.data.preprocess import Detections
from detc.runtime.files import write_json
from detc.runtime.inputs import batched, is_video, read_ahead
from detc.runtime.pictures import draw_detections, write_picture
from detc.runtime.predict import Finder, Found
from detc.runtime.videos import Video, writing_video


@dataclass(frozen=True)
class Look:
    """What was found in a file, or in one frame of a video, whose number is `frame`."""

    path: Path
    found: Found
    frame: int | None = None


def write_predictions(
    predictor: Finder,
    paths: Sequence[Path],
    output: Path,
    score: float,
    every: int = 1,
    tell: Callable[[Iterable[Diagnostic]], None] = lambda warnings: None,
) -> Generator[Look, None, None]:
    """Looks at each file and writes a picture with the boxes of at least `score`; at the end, predictions.json.

    Of videos it is looked at every so-maniest frame, and those make a video, at so much slower a rate that it lasts as
    long. Pictures and videos have the names of their files; where two have the same name, a number is added.

    predictions.json has all boxes in COCO's form: "images", "categories" (ids from 1), and "annotations" with "score",
    and with run lengths as "segmentation" where the detector finds masks. Each frame is an image, with its "video_id",
    "frame_id" from 0 and "time" in seconds; "videos" has their files.

    A file that cannot be read does not stop the others. What stops it early, Ctrl-C or the caller's closing this
    iterator, leaves what is done: the pictures, a video of the frames so far, and predictions.json of both. Warnings
    about videos go to `tell`.

    Raises:
        DiagnosticError: bad-option where a picture would stand among the files; cannot-write; image-unreadable and
            video-unreadable for every such file, after all others are done and written.
    """
    if any(path.parent.resolve() == output.resolve() for path in paths):
        summary = f"--output {output}: files that are predicted on are there, and pictures would replace them"
        raise DiagnosticError(BAD_OPTION.at(None, summary, detail="give another folder"))
    found = _Predictions(predictor, output, score)
    problems: list[Diagnostic] = []
    waiting: list[tuple[Path, np.ndarray]] = []

    def looked() -> Iterator[Look]:
        """Those that wait, looked at together."""
        together = [*waiting]
        waiting.clear()
        yield from found.in_images(together)

    try:
        for path, read in read_ahead(paths, _pixels, 2 * predictor.together):
            try:
                pixels = read()
                video = Video(path) if pixels is None else None
            except DiagnosticError as error:
                problems.extend(error)
                continue
            if pixels is not None:
                waiting.append((path, pixels))
            if video is not None or len(waiting) == predictor.together:
                yield from looked()
            if video is not None:
                with video:
                    yield from found.in_video(video, every)
                if video.problem is not None and video.problem.severity == "warning":
                    tell([video.problem])
                elif video.problem is not None:
                    problems.append(video.problem)
        yield from looked()
    finally:
        found.write()
    if problems:
        raise DiagnosticError(problems)


def count_looks(paths: Sequence[Path], every: int = 1) -> int:
    """About how often `write_predictions` looks at these files."""
    return sum(_count_frames(path, every) if is_video(path) else 1 for path in paths)


def _count_frames(path: Path, every: int) -> int:
    try:
        with Video(path) as video:
            return -(-video.length // every)
    except DiagnosticError:  # it is said when the video's turn comes
        return 0


def _pixels(path: Path) -> np.ndarray | None:
    return None if is_video(path) else read_image(path)


@dataclass
class _Predictions:
    """What was found so far, as predictions.json has it."""

    predictor: Finder
    output: Path
    score: float
    videos: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def in_images(self, images: Sequence[tuple[Path, np.ndarray]]) -> Iterator[Look]:
        for (path, pixels), found in zip(images, self.predictor.find_all([p for _, p in images]), strict=True):
            suffix = path.suffix.lower()
            name = self._free_name(path, suffix if suffix in (".png", ".webp", ".bmp") else ".jpg")
            write_picture(self.output / name, self._drawn(pixels, found))
            self._add(found, pixels, file_name=str(path), picture=name)
            yield Look(path, found)

    def in_video(self, video: Video, every: int) -> Iterator[Look]:
        name = self._free_name(video.path, ".mp4")
        entry = {
            "id": len(self.videos) + 1,
            "file_name": str(video.path),
            "width": video.size[0],
            "height": video.size[1],
            "frame_rate": video.rate,
            "picture": name,
        }
        frames = video.frames(every)
        with ExitStack() as stack:
            # Closed before the video is: its thread reads there.
            together = self.predictor.together
            ahead = stack.enter_context(closing(read_ahead(count(), lambda _: next(frames, None), 2 * together)))
            write = None
            for reads in batched((read for _, read in ahead), together):
                seen = [frame for read in reads if (frame := read()) is not None]
                for frame, found in zip(seen, self.predictor.find_all([each.pixels for each in seen]), strict=True):
                    if write is None:
                        write = stack.enter_context(writing_video(self.output / name, video.rate / every, video.size))
                        self.videos.append(entry)
                    write(self._drawn(frame.pixels, found))
                    where = {"video_id": entry["id"], "frame_id": frame.number, "time": round(frame.time, 3)}
                    self._add(found, frame.pixels, file_name=str(video.path), **where)
                    yield Look(video.path, found, frame.number)
                if len(seen) < len(reads):
                    break

    def write(self) -> None:
        categories = [{"id": i, "name": name} for i, name in enumerate(self.predictor.classes, start=1)]
        content = {"images": self.images, "categories": categories, "annotations": self.annotations}
        write_json(self.output / "predictions.json", {**({"videos": self.videos} if self.videos else {}), **content})

    def _drawn(self, pixels: np.ndarray, found: Found) -> np.ndarray:
        return draw_detections(pixels, found.above(self.score), self.predictor.classes)

    def _add(self, found: Found, pixels: np.ndarray, **fields: Any) -> None:
        number = len(self.images) + 1
        self.images.append({"id": number, "width": pixels.shape[1], "height": pixels.shape[0], **fields})
        self.annotations.extend(_annotations(found, number, len(self.annotations)))

    def _free_name(self, path: Path, suffix: str) -> str:
        name, number = path.stem + suffix, 1
        while name.lower() in self.used:
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        self.used.add(name.lower())
        return name


def _annotations(found: Detections, image: int, count: int) -> Iterator[dict[str, Any]]:
    """What was found in an image, as COCO's annotations with a score; `count` others have been written."""
    areas = mask_areas(found.masks) if found.masks is not None else None
    for row, (box, score, label) in enumerate(zip(found.boxes.tolist(), found.scores, found.classes, strict=True)):
        x1, y1, x2, y2 = box
        annotation = {
            "id": count + row + 1,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": areas[row] if areas is not None else round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            annotation["segmentation"] = as_json(found.masks[row])
        yield annotation
