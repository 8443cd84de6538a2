"""The example in C++ finds what Python finds, and says what is wrong with a file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn import draw
from small_detectors import find_many

import detc
from detc.runtime.export import export

EXAMPLE = Path(__file__).parents[2] / "examples/cpp"
TOOLS = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(TOOLS), reason=f"building the example needs {' and '.join(TOOLS)}")

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc from "lib/data.det"

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16)
    data     = voc(["cat", "dog \\"é\\"", "fish"], root = "pets")
}
"""
Detect = Callable[..., subprocess.CompletedProcess[str]]


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def detect(tmp_path_factory: pytest.TempPathFactory) -> Detect:
    build = tmp_path_factory.mktemp("cpp")
    flags = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    subprocess.run(
        ["cmake", "-S", EXAMPLE, "-B", build, flags, f"-DTVM_FFI={folder_of('tvm_ffi')}"],
        check=True,
        capture_output=True,
    )
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [build / "detect", *map(str, words)]
        environment = {**os.environ, "TVM_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)

    return run


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An llvm artifact with weights that find many objects."""
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "tiny.det").write_text(SPEC)
    detector = detc.load(folder / "tiny.det")
    torch.manual_seed(0)
    module = detector.module("predict")
    find_many(module)
    export(detector, module, folder / "tiny.detc", target="llvm", sizes=[(64, 96)])
    return folder / "tiny.detc"


def rows(said: str) -> tuple[list[str], np.ndarray]:
    """The names, and score and box (N, 5), that the program printed."""
    lines = [line.split("\t") for line in said.splitlines()]
    return [name for name, *_ in lines], np.asarray([[float(v) for v in values] for _, *values in lines])


@pytest.mark.parametrize("size", [(96, 64), (150, 80), (70, 90), (333, 177)])
def test_it_finds_what_python_finds(detect: Detect, artifact: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """To the last digit: pixels of any size go into the same kernels."""
    image, _ = draw(3, *size)
    cv2.imwrite(str(tmp_path / "image.ppm"), image)
    done = detect(artifact, tmp_path / "image.ppm", folder_of("tvm") / "lib", 0.2)
    assert done.returncode == 0, done.stderr
    (found,) = detc.Artifact.load(artifact)(image)
    shown = found.above(0.2)
    names, values = rows(done.stdout)
    assert len(names) > 20
    assert names == shown.names
    np.testing.assert_allclose(values[:, 0], shown.scores, atol=1e-6)
    np.testing.assert_allclose(values[:, 1:], shown.boxes, atol=1e-3)
    assert values[:, 3].max() <= size[0] and values[:, 4].max() <= size[1]


def test_files_that_are_wrong_are_said_to_be(detect: Detect, artifact: Path, tmp_path: Path) -> None:
    image, _ = draw(3)
    picture = tmp_path / "image.ppm"
    cv2.imwrite(str(picture), image)
    lib = folder_of("tvm") / "lib"
    (tmp_path / "half.detc").write_bytes(artifact.read_bytes()[:5000])
    (tmp_path / "half.ppm").write_bytes(picture.read_bytes()[:500])
    for words, message in (
        ((tmp_path / "half.detc", picture, lib), "cut short"),
        ((tmp_path / "none.detc", picture, lib), "cannot be read"),
        ((artifact, tmp_path / "half.ppm", lib), "cut short"),
        ((artifact, artifact, lib), "no binary PPM"),
        ((artifact, picture, tmp_path), "libtvm_runtime.so"),
    ):
        done = detect(*words)
        assert done.returncode == 1
        assert message in done.stderr
    assert detect(artifact).returncode == 2
