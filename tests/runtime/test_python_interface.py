"""Training, evaluating and predicting from Python, and what a predictor takes as a picture."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import CLASSES, NORMALIZE, voc_folder
from PIL import Image

import detc
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import save_weights
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.inputs import read_ahead
from detc.runtime.predict import Predictor

ROOT = Path(__file__).parents[2]
SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors, Detection from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, RandomFlip from "lib/data.det"
import Schedule, SGD, StepDecay from "lib/schedules.det"

detector mine : SingleStage {
    backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = -1, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16, detection = Detection(score = 0.0),
                          anchors = Anchors(octave_scale = 2.0, octaves = 2, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", augment = [Resize([96, 64]), RandomFlip()],
                   resize = Resize([96, 64]), batch = 4)
    schedule = Schedule(epochs = 1, optimizer = SGD(0.02), decay = StepDecay([2]), batch = 4)
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec, its data in path/to/pets, and street.jpg."""
    (tmp_path / "mine.det").write_text(SPEC)
    voc_folder(tmp_path / "path/to/pets", {"train": 4, "val": 2, "test": 2})
    (tmp_path / "street.jpg").write_bytes((tmp_path / "path/to/pets/JPEGImages/img_000.jpg").read_bytes())
    return tmp_path


def test_the_readmes_lines_train_evaluate_and_predict(folder):
    script = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ap, *found = done.stdout.splitlines()
    assert 0 <= float(ap) <= 1
    assert "'square'" in found[0] or "'disc'" in found[0]


def test_importing_detc_brings_neither_torch_nor_numpy():
    script = "import sys, detc; print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_predictor_finds_what_the_module_does(folder):
    detector = detc.load(folder / "mine.det")
    module = detector.module("predict")
    save_weights(folder / "w.safetensors", module.state_dict(), detector)
    model = detector.predictor(str(folder / "w.safetensors"))
    (found,) = model(folder / "street.jpg")
    assert found.boxes.shape == (len(found.names), 4)
    assert [*found.names] == [CLASSES[number] for number in found.classes]
    batch, _ = model.preprocess([cv2.imread(str(folder / "street.jpg"))])
    outputs = model.engine(batch)
    assert found.scores.tolist() == outputs["scores"][0][outputs["scores"][0] > 0].tolist()


def seeing(image: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that finds one box, whose score tells the first pixel's red, green and blue value."""
    red, green, blue = image[0, :, 0, 0] * 60 + 120
    score = (round(float(red)) * 65536 + round(float(green)) * 256 + round(float(blue))) / 2**24
    return {
        "boxes": np.asarray([[[0, 0, 8, 8]]], np.float32),
        "scores": np.asarray([[score]]),
        "classes": np.asarray([[1]]),
    }


PREDICTOR = Predictor(seeing, Preprocess(Resize((16, 16)), Normalize(**NORMALIZE.fields), 16), CLASSES)
BLUISH = np.full((16, 16, 3), (200, 30, 10), np.uint8)  # blue, green, red


def test_paths_arrays_and_pillows_pictures_are_seen_alike(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), BLUISH)
    rgb = np.ascontiguousarray(BLUISH[..., ::-1])
    pictures = [str(tmp_path / "a.png"), tmp_path / "a.png", BLUISH, Image.fromarray(rgb)]
    expected = (10 * 65536 + 30 * 256 + 200) / 2**24
    assert [found.scores.tolist() for found in PREDICTOR(pictures)] == [[expected]] * 4
    assert PREDICTOR(rgb, order="rgb")[0].scores.tolist() == [expected]
    assert PREDICTOR(rgb)[0].scores.tolist() != [expected]
    for alone in pictures:
        (found,) = PREDICTOR(alone)
        assert found.names == ["disc"]
        assert found.above(0.9).names == []
    assert len(PREDICTOR(np.stack([BLUISH, BLUISH]))) == 2
    grey = Image.fromarray(np.full((16, 16), 7, np.uint8))
    assert PREDICTOR(grey)[0].scores.tolist() == [(7 * 65536 + 7 * 256 + 7) / 2**24]


def test_pillows_pictures_are_turned_as_the_camera_says():
    lying = Image.new("RGB", (32, 16), (10, 30, 200))
    lying.getexif()[0x0112] = 6
    (found,) = Predictor(
        lambda image: {**seeing(image), "boxes": np.full((1, 1, 4), [0, 0, 99, 99], np.float32)},
        PREDICTOR.preprocess,
        CLASSES,
    )(lying)
    assert found.boxes.tolist() == [[0, 0, 16, 32]]


@pytest.mark.parametrize(
    "picture",
    [
        BLUISH.astype(np.float32),
        BLUISH[..., 0],
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
        np.uint8(3) * np.ones((), np.uint8),
        Image.fromarray(np.zeros((4, 4), np.uint16)),
        3,
        None,
    ],
    ids=["floats", "grey", "alpha", "empty", "number", "sixteen bits", "int", "none"],
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(DiagnosticError) as error:
        PREDICTOR([picture])
    assert error.value.diagnostics[0].kind.slug == "bad-picture"


def test_a_picture_cut_off_is_refused_when_pillow_decodes_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    for picture, slug in ((Image.open(tmp_path / "a.png"), "bad-picture"), (tmp_path / "a.png", "image-unreadable")):
        with pytest.raises(DiagnosticError) as error:
            PREDICTOR([picture])
        assert error.value.diagnostics[0].kind.slug == slug


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="order"):
        PREDICTOR(BLUISH, order="RGB")


def test_a_stream_keeps_no_more_than_a_few_pictures():
    """Pictures are made as they are wanted: not all of them before the first is looked at."""
    made: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for number in range(100):
            made.append(number)
            yield BLUISH

    stream = PREDICTOR.stream(pictures())
    next(stream)
    assert len(made) <= 4
    assert sum(1 for _ in stream) == 99


def test_what_is_read_ahead_comes_in_order_and_fails_in_its_turn():
    def read(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number * 10

    got = []
    for number, result in read_ahead(range(5), read):
        try:
            got.append(result())
        except ValueError as error:
            got.append((number, str(error)))
    assert got == [0, 10, (2, "two"), 30, 40]
