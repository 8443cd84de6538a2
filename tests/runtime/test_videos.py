"""Videos: frame by frame, whole or cut off, and what predicting on them leaves."""

from __future__ import annotations

import json
import os
import struct
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.inputs import media_files
from detc.runtime.predict import Predictor
from detc.runtime.predictions import count_looks, write_predictions
from detc.runtime.videos import Video, writing_video

WIDTH, HEIGHT = 96, 64


def finder(image: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that finds the bounding box of all that is bright, as a disc."""
    rows, columns = np.where(image[0].mean(0) > 0.5)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return {
        "boxes": np.asarray([[box]], np.float32),
        "scores": np.asarray([[0.9]], np.float32),
        "classes": np.asarray([[1]]),
    }


PREDICTOR = Predictor(finder, Preprocess(Resize((WIDTH, HEIGHT)), Normalize(**NORMALIZE.fields), 32), CLASSES)


def frame(number: int) -> np.ndarray:
    """A white square that moves two pixels a frame to the right."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[16:48, 2 * number : 2 * number + 32] = 255
    return image


def video(path: Path, count: int = 12, rate: float = 10.0, coding: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*coding), rate, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(frame(number))
    writer.release()
    return path


def frames(path: Path, every: int = 1) -> tuple[list[int], Diagnostic | None]:
    with Video(path) as opened:
        return [one.number for one in opened.frames(every)], opened.problem


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- reading


@pytest.mark.parametrize(
    ("name", "coding"), [("a.mp4", "mp4v"), ("a.mov", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.webm", "VP80")]
)
def test_frames_come_in_order_with_their_times(tmp_path, name, coding):
    with Video(video(tmp_path / name, coding=coding)) as opened:
        assert (opened.size, opened.rate, opened.length) == ((WIDTH, HEIGHT), 10, 12)
        seen = list(opened.frames())
        assert opened.problem is None
    assert [one.number for one in seen] == list(range(12))
    assert [one.time for one in seen] == pytest.approx([i / 10 for i in range(12)], abs=2e-3)
    for one in seen:
        left = np.flatnonzero(one.pixels[32, :, 0] > 128)[0]
        assert left == pytest.approx(2 * one.number, abs=1)


def test_every_third_frame(tmp_path):
    path = video(tmp_path / "a.avi")
    assert frames(path, 3) == ([0, 3, 6, 9], None)
    assert frames(path, 100) == ([0], None)
    assert count_looks([path, path], 5) == 6


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_video_that_was_cut_off_gives_the_frames_it_has_and_a_warning(tmp_path, name):
    path = video(tmp_path / name, count=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers, problem = frames(path)
    assert 5 < len(numbers) < 35
    assert problem is not None and problem.kind.slug == "video-ends-early" and problem.severity == "warning"
    assert f"{len(numbers)} of about 40" in problem.summary


def chunk(tag: bytes, content: bytes) -> bytes:
    return tag + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def avi(images: list[bytes]) -> bytes:
    """An AVI file with these frames."""
    head = struct.pack("<14I", 100_000, 0, 0, 0, len(images), 0, 1, 0, WIDTH, HEIGHT, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<IHH8I4H", 0, 0, 0, 0, 1, 10, 0, len(images), 0, 0, 0, 0, 0, WIDTH, HEIGHT)
    layout = struct.pack("<IIIHH4s5I", 40, WIDTH, HEIGHT, 1, 24, b"MJPG", WIDTH * HEIGHT * 3, 0, 0, 0, 0)
    inner = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", layout))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", head) + inner)
    return chunk(b"RIFF", b"AVI " + header + chunk(b"LIST", b"movi" + b"".join(chunk(b"00dc", one) for one in images)))


def jpeg(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 99, np.uint8))[1].tobytes()


def test_a_video_without_a_frame_is_unreadable(tmp_path):
    for number, images in enumerate(([], [b"no picture"] * 3)):
        path = tmp_path / f"{number}.avi"
        path.write_bytes(avi(images))
        numbers, problem = frames(path)
        assert numbers == []
        assert problem is not None and problem.kind.slug == "video-unreadable" and problem.severity == "error"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", os.urandom(4000), b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", b"ffconcat version 1.0\nfile 'a.avi'\n"],
    ids=["empty", "text", "noise", "playlist", "list of files"],
)
def test_what_is_no_video_is_not_opened(tmp_path, content, capfd):
    video(tmp_path / "a.avi", 2)
    path = tmp_path / "b.avi"
    path.write_bytes(content)
    with pytest.raises(DiagnosticError) as error:
        Video(path)
    assert error.value.diagnostics[0].kind.slug == "video-unreadable"
    assert capfd.readouterr().err == ""


def test_an_mp4_file_without_its_index_is_unreadable(tmp_path):
    path = video(tmp_path / "a.mp4", coding="mp4v")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DiagnosticError, match="damaged, cut off"):
        Video(path)


def test_frames_too_large_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(avi([jpeg(15_000, 15_000)]))
    with pytest.raises(DiagnosticError, match="15000 x 15000 pixels"):
        Video(path)


def test_frames_of_another_size_end_a_video(tmp_path, monkeypatch):
    """Of the OpenCVs that detc runs with some scale such frames, and others hand them over."""
    with Video(video(tmp_path / "a.avi")) as opened:
        capture = opened._capture
        large = np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)

        class Growing:
            seen = 0
            get, grab, release = capture.get, capture.grab, capture.release

            def retrieve(self) -> tuple[bool, np.ndarray]:
                self.seen += 1
                return capture.retrieve() if self.seen < 5 else (True, large)

        monkeypatch.setattr(opened, "_capture", Growing())
        assert len(list(opened.frames())) == 4
        assert opened.problem is not None and opened.problem.kind.slug == "video-unreadable"
        assert "frame 4 is 192 x 128 pixels, and those before it 96 x 64" in opened.problem.summary


# ---- writing


def test_a_video_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), writing_video(tmp_path / "a.mp4", 10, (WIDTH, HEIGHT)) as write:
        write(frame(0))
        raise RuntimeError
    assert listed(tmp_path) == set()
    with pytest.raises(DiagnosticError) as error, writing_video(tmp_path / "a.mp4", 10, (1, 1)):
        pass
    assert error.value.diagnostics[0].kind.slug == "cannot-write"
    # Frames that OpenCV leaves out without a word.
    with pytest.raises(DiagnosticError) as error, writing_video(tmp_path / "a.mp4", 10, (WIDTH, HEIGHT)) as write:
        write(frame(0))
        write(np.zeros((HEIGHT * 2, WIDTH, 3), np.uint8))
    assert "not all of the video" in error.value.diagnostics[0].summary
    assert listed(tmp_path) == set()


# ---- predicting


def test_predictions_on_a_video_have_its_frames_and_times(tmp_path):
    path = video(tmp_path / "a.avi")
    looks = list(write_predictions(PREDICTOR, [path], tmp_path / "out", 0.3))
    assert [look.frame for look in looks] == list(range(12))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (described,) = content["videos"]
    assert described == {
        "id": 1,
        "file_name": str(path),
        "width": WIDTH,
        "height": HEIGHT,
        "frame_rate": 10,
        "picture": "a.mp4",
    }
    assert [(i["id"], i["video_id"], i["frame_id"], i["time"]) for i in content["images"]] == [
        (n + 1, 1, n, pytest.approx(n / 10)) for n in range(12)
    ]
    for annotation in content["annotations"]:
        assert annotation["bbox"] == pytest.approx([2 * (annotation["image_id"] - 1), 16, 32, 32], abs=2)
    with Video(tmp_path / "out" / "a.mp4") as written:
        assert (written.size, written.rate, written.length) == ((WIDTH, HEIGHT), 10, 12)
        last = list(written.frames())[-1]
    assert listed(tmp_path / "out") == {"a.mp4", "predictions.json"}
    # The box is drawn in the colour of its class.
    edge = last.pixels[32, 22].astype(int)
    assert edge.max() - edge.min() > 60


def test_every_third_frame_makes_a_video_that_lasts_as_long(tmp_path):
    list(write_predictions(PREDICTOR, [video(tmp_path / "a.avi")], tmp_path / "out", 0.3, every=3))
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["frame_id"] for image in content["images"]] == [0, 3, 6, 9]
    with Video(tmp_path / "out" / "a.mp4") as written:
        assert written.length / written.rate == pytest.approx(1.2, rel=0.01)


def test_images_and_videos_of_one_name_and_a_broken_one(tmp_path):
    video(tmp_path / "a.avi", 2)
    video(tmp_path / "a.mkv", 3, coding="mp4v")
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    cut = video(tmp_path / "cut.avi", 40)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    warnings: list[Diagnostic] = []
    with pytest.raises(DiagnosticError) as error:
        list(write_predictions(PREDICTOR, media_files([str(tmp_path)]), tmp_path / "out", 0.3, tell=warnings.extend))
    assert [diagnostic.kind.slug for diagnostic in error.value] == ["video-unreadable"]
    assert "broken.mp4" in error.value.diagnostics[0].summary
    assert [diagnostic.kind.slug for diagnostic in warnings] == ["video-ends-early"]
    assert listed(tmp_path / "out") == {"a.png", "a.mp4", "a-2.mp4", "cut.mp4", "predictions.json"}
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(one["file_name"]).name for one in content["videos"]] == ["a.avi", "a.mkv", "cut.avi"]
    assert len({image["id"] for image in content["images"]}) == len(content["images"])


def test_what_is_done_is_kept_when_it_is_interrupted(tmp_path):
    calls = 0

    def engine(image: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return finder(image)

    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    paths = [tmp_path / "a.png", video(tmp_path / "b.avi")]
    predictor = Predictor(engine, PREDICTOR.preprocess, CLASSES)
    with pytest.raises(KeyboardInterrupt):
        list(write_predictions(predictor, paths, tmp_path / "out", 0.3))
    check_four_frames(tmp_path / "out")


def test_what_is_done_is_kept_when_the_caller_wants_no_more(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), frame(0))
    paths = [tmp_path / "a.png", video(tmp_path / "b.avi")]
    with closing(write_predictions(PREDICTOR, paths, tmp_path / "out", 0.3)) as looks:
        for _ in range(5):
            next(looks)
    check_four_frames(tmp_path / "out")


def check_four_frames(folder: Path) -> None:
    """A picture and a video of four frames, and predictions.json of the five."""
    assert listed(folder) == {"a.png", "b.mp4", "predictions.json"}
    content = json.loads((folder / "predictions.json").read_text())
    assert len(content["images"]) == 5
    assert len(content["annotations"]) == 5
    assert frames(folder / "b.mp4") == ([0, 1, 2, 3], None)
