"""Artifacts of detectors with data: pictures of any size and number in, boxes in their pixels out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn import draw
from PIL import Image
from small_detectors import find_many

import detc
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import artifact as artifacts
from detc.runtime.agreement import Judge, match
from detc.runtime.artifact import Artifact, split
from detc.runtime.data.images import read_image
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.export import export
from detc.runtime.low_precision import TOLERANCES, alike, compare_rounded
from detc.runtime.predict import FxEngine
from detc.runtime.remembered import remembered

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
    data     = voc(["cat", "dog", "fish"], root = "pets")
}
"""
STAGES = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RPNHead, Proposals from "lib/proposals.det"
import RegionHead, RegionBoxes from "lib/regions.det"
import TwoStage from "lib/models.det"
import voc from "lib/data.det"

detector two : TwoStage {
    backbone  = ResNet(18, channels = 8)
    neck      = FPN(16)
    rpn       = RPNHead(channels = 16)
    head      = RegionHead(box = RegionBoxes(features = 32))
    data      = voc(["cat", "dog", "fish"], root = "pets")
    proposals = Proposals(before = 60, keep = 50)
}
"""
LYING, STANDING = (64, 96), (96, 64)
NORMALIZE = Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> detc.Detector:
    path = tmp_path_factory.mktemp("spec") / "tiny.det"
    path.write_text(SPEC)
    return detc.load(path)


@pytest.fixture(scope="module")
def module(tiny: detc.Detector) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    module = tiny.module("predict")
    find_many(module, 10)
    return module


@pytest.fixture(scope="module")
def llvm(tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Machine code for one image and for three, lying."""
    path = tmp_path_factory.mktemp("llvm") / "tiny.detc"
    export(tiny, module, path, target="llvm", sizes=[LYING], batches=[3, 1])
    return path


@pytest.fixture(scope="module")
def onnx(tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX models for one image and for three, lying and standing."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.detc"
    variants = export(tiny, module, path, target="onnx", sizes=[LYING, STANDING], batches=[1, 3])
    assert [variant.name for variant in variants] == ["1x64x96", "3x64x96", "1x96x64", "3x96x64"]
    assert {variant.verification.status for variant in variants} == {"passed"}
    return path


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


both = pytest.mark.parametrize("path", ["llvm", "onnx"], indirect=True)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth spots, and a little noise."""
    rng = np.random.default_rng(seed)
    spots = rng.integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), np.uint8)
    smooth = cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, 3)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def by_torch(module: torch.fx.GraphModule, image: np.ndarray, size: tuple[int, int]) -> Detections:
    """What the torch.fx module finds, with Python before and after it."""
    batch, placements = Preprocess(Resize(size[::-1]), NORMALIZE, 1, fixed=size[::-1])([image])
    (found,) = Preprocess.detections(FxEngine(module)(batch), placements)
    return found


def agree(one: Detections, other: Detections) -> tuple[int, int]:
    pair = [{"boxes": each.boxes, "scores": each.scores, "classes": each.classes} for each in (one, other)]
    return match(*pair)


def same(one: Detections, other: Detections) -> None:
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


SIZES = [(96, 64), (192, 128), (20, 10), (1200, 700), (90, 400), (333, 77), (1, 40), (40, 1), (95, 63), (1, 1)]


@both
@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_have_the_boxes_of_the_fx_module(
    path: Path, module: torch.fx.GraphModule, size: tuple[int, int]
) -> None:
    image = picture(*size)
    artifact = Artifact.load(path)
    (found,) = artifact(image)
    expected = by_torch(module, image, artifact._size_for(image))
    matched, count = agree(expected, found)
    assert count > 5
    assert matched >= 0.98 * count
    assert found.boxes.min() >= 0 and (found.boxes[:, 2:].max(0) <= size).all()


@both
def test_an_image_does_not_depend_on_those_beside_it(path: Path) -> None:
    artifact = Artifact.load(path)
    mine = picture(120, 80)
    alone = [picture(120, 80, seed) for seed in (1, 2)]
    larger = [picture(300, 200, 3), picture(96, 64, 4)]
    entry = next(entry for entry in artifact.entries if (entry.batch, entry.height) == (3, 64))
    looks = []
    for others in (alone, larger, larger[::-1]):
        found: list[dict[str, np.ndarray]] = [{}, {}, {}]
        artifact._detect(entry, [mine, *others], [0, 1, 2], found)
        looks.append(found[0])
    for look in looks[1:]:
        for name, value in look.items():
            np.testing.assert_array_equal(value, looks[0][name])


@both
def test_any_number_of_images_is_looked_at_in_order(path: Path) -> None:
    artifact = Artifact.load(path)
    images = [picture(*size, seed) for seed, size in enumerate(SIZES[:8])]
    one_by_one = [artifact(image)[0] for image in images]
    together = artifact(images)
    assert len(together) == 8
    for one, other in zip(one_by_one, together, strict=True):
        matched, count = agree(one, other)
        assert matched >= 0.98 * count
    assert artifact([]) == []
    # The memory that pixels are packed into is used again: earlier results are not changed by later images.
    same(artifact(images[0])[0], one_by_one[0])


@pytest.mark.parametrize(
    ("count", "batches", "expected"),
    [
        (6, [1, 4], [(4, 4), (1, 1), (1, 1)]),
        (9, [1, 2, 4], [(4, 4), (4, 4), (1, 1)]),
        (5, [4], [(4, 4), (4, 1)]),
        (3, [2, 8], [(2, 2), (2, 1)]),
        (0, [1, 4], []),
    ],
)
def test_images_are_split_over_batches(count: int, batches: list[int], expected: list[tuple[int, int]]) -> None:
    assert split(count, batches) == expected


def test_an_image_goes_to_the_size_that_keeps_most_of_its_scale(onnx: Path) -> None:
    artifact = Artifact.load(onnx)
    assert artifact.image_sizes == [LYING, STANDING]
    assert artifact.batches == [1, 3]
    for size, expected in {(200, 100): LYING, (100, 200): STANDING, (30, 20): LYING, (1, 500): STANDING}.items():
        assert artifact._size_for(picture(*size)) == expected
    assert artifact._size_for(picture(50, 50)) in (LYING, STANDING)


def test_images_too_unlike_to_lie_together_are_looked_at_one_by_one(
    onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.load(onnx)
    images = [picture(96, 64), picture(500, 40, 1), picture(90, 60, 2)]
    together = artifact.detect(images)
    monkeypatch.setattr(artifacts, "MOST_PIXELS", 3 * 64 * 499)
    for one, other in zip(together, artifact.detect(images), strict=True):
        np.testing.assert_array_equal(one["boxes"], other["boxes"])
    assert artifact._space.size < 3 * 3 * 64 * 500 * 2


@both
def test_weights_are_in_it_once(path: Path, tiny: detc.Detector) -> None:
    weights = sum(4 * int(np.prod(weight.shape)) for weight in tiny.graph.weights.values())
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        entries = json.loads(archive.read("manifest.json"))["entries"]
    assert len(entries) == len(sizes) - 2 >= 2
    assert 0.9 * weights < sizes["weights.safetensors"] < 1.4 * weights
    assert all(size < (200_000 if name.endswith(".onnx") else 2e6) for name, size in sizes.items() if "-" in name)


def test_engines_agree_and_say_what_they_are(onnx: Path) -> None:
    images = [picture(96, 64), picture(200, 90, 1)]
    ours, other = (Artifact.load(onnx, engine) for engine in ("onnxruntime", "openvino"))
    assert ours.described.startswith("ONNX Runtime ") and other.described.startswith("OpenVINO ")
    # Of the detector's own size, where nothing is scaled; the other may be a grey level off.
    matched, count = agree(ours(images)[0], other(images)[0])
    assert matched >= 0.98 * count > 5


def test_the_fastest_engine_is_measured_once(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DETC_NO_CACHE", raising=False)
    slow: list[str] = []

    def clock() -> float:
        clock.now += 1.0 + 9.0 * (bool(slow) and clock.turn % 4 == 1)  # the second reading of the first engine's run
        clock.turn += 1
        return clock.now

    clock.now, clock.turn = 0.0, 0
    monkeypatch.setattr(artifacts.time, "perf_counter", clock)
    slow.append("onnxruntime")
    assert Artifact.load(onnx, "fastest").engine == "openvino"
    (kept,) = tmp_path.glob("detc/engines/*.json")
    measured = json.loads(kept.read_text())
    assert measured == {"onnxruntime": 10.0, "openvino": 1.0}
    turns = clock.turn
    assert Artifact.load(onnx, "fastest").engine == "openvino"
    assert clock.turn == turns, "it is not measured again"
    kept.write_text("no json")
    slow.clear()
    assert Artifact.load(onnx, "fastest").engine == "onnxruntime"
    assert clock.turn > turns


def test_what_cannot_be_remembered_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for name, value in (("XDG_CACHE_HOME", str(tmp_path / "file")), ("DETC_NO_CACHE", "1")):
        monkeypatch.setenv(name, value)
        calls: list[int] = []
        for _ in range(2):
            assert remembered("x", {"a": 1}, lambda calls=calls: calls.append(1) or {"b": 2.0}) == {"b": 2.0}
        assert len(calls) == 2


@both
def test_an_engine_that_does_not_run_it(path: Path) -> None:
    wrong = "onnxruntime" if "llvm" in str(path) else "tvm"
    with pytest.raises(DiagnosticError, match=f"no-engine.*{wrong} does not run it"):
        Artifact.load(path, wrong)


def test_an_engine_that_is_not_installed(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "installed", lambda engine: engine != "openvino")
    with pytest.raises(DiagnosticError) as raised:
        Artifact.load(onnx, "openvino")
    assert raised.value.diagnostics[0].detail == "pip install 'detc[openvino]'"
    assert Artifact.load(onnx, "fastest").engine == "onnxruntime"


# ---- fewer digits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_network_of_fewer_digits_finds_the_same_objects(
    tiny: detc.Detector, module: torch.fx.GraphModule, onnx: Path, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "low.detc"
    (variant,) = export(tiny, module, path, target="onnx", sizes=[LYING], precision=precision)
    report = variant.verification
    assert report.status == "passed"
    # The error is that of rounding: not that of single precision, and no larger than a tolerance says.
    assert 1e-5 < report.head_error <= TOLERANCES[precision].head
    assert report.matched >= 0.9 * report.stable - report.stable**0.5 > 20
    low, full = Artifact.load(path), Artifact.load(onnx)
    assert low.manifest["precision"] == precision
    assert low.engine == ("openvino" if precision == "bfloat16" else "onnxruntime")
    if precision == "float16":
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(onnx) as whole:
            sizes = [each.getinfo("weights.safetensors").file_size for each in (archive, whole)]
        assert sizes[0] < 0.6 * sizes[1]
    image = picture(96, 64)
    outputs = [{"boxes": f.boxes, "scores": f.scores, "classes": f.classes} for f in (full(image)[0], low(image)[0])]
    assert alike(*outputs, TOLERANCES[precision]) >= 0.8 * len(outputs[0]["scores"]) > 5


def test_kernels_of_two_stages_of_fewer_digits(tiny: detc.Detector, tmp_path: Path) -> None:
    """Parts hand rounded features on, which are given to each as the kernels have them.

    In a process of its own: in one that had run OpenVINO, compiling these kernels crashed now and then.
    """
    (tmp_path / "two.det").write_text(STAGES)
    path = tmp_path / "low.detc"
    words = ["--random-weights", "--target", "llvm", "--precision", "bf16", "--size", "64x96", "--output", str(path)]
    done = subprocess.run([sys.executable, "-m", "detc", "export", str(tmp_path / "two.det"), *words], check=False)
    assert done.returncode == 0
    artifact = Artifact.load(path)
    (entry,) = artifact.manifest["entries"]
    assert entry["verification"]["status"] == "passed"
    assert entry["verification"]["head_error"] > 1e-5
    assert artifact.manifest["precision"] == "bfloat16"


def test_what_is_off_by_more_than_rounding_is_noticed(tiny: detc.Detector, module: torch.fx.GraphModule) -> None:
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    judge = Judge(tiny.graph.view("predict"), state)

    class Off:
        def __init__(self, error: float, shift: float) -> None:
            self.error, self.shift = error, shift

        def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = judge.outputs(judge.along(self, inputs)[0])
            return {**found, "boxes": found["boxes"] + np.float32(self.shift)}

        def part(self, index: int, given: list[np.ndarray]) -> list[np.ndarray]:
            return [result * np.float32(1 + self.error) for result in judge.part(index, given)]

    for error, shift, status in (
        (0.0, 0.0, "passed"),
        (0.01, 0.0, "passed"),
        (0.05, 0.0, "failed"),
        (0.01, 0.5, "failed"),
    ):
        assert compare_rounded(judge, Off(error, shift), (1, 3, *LYING), "float16").status == status, (error, shift)


BOX = np.array([[0, 0, 10, 10]], np.float32)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, 1),
        ({"boxes": BOX + np.float32(0.2)}, 1),
        ({"boxes": BOX + np.float32(2)}, 0),
        ({"scores": np.array([0.515], "f4")}, 1),
        ({"scores": np.array([0.56], "f4")}, 0),
        ({"classes": np.array([2])}, 0),
        ({"scores": np.array([0], "f4"), "classes": np.array([-1])}, 0),
    ],
)
def test_objects_are_alike(change: dict[str, np.ndarray], found: int) -> None:
    one = {"boxes": BOX, "scores": np.array([0.5], "f4"), "classes": np.array([1])}
    assert alike(one, {**one, **change}, TOLERANCES["float16"]) == found


# ---- pictures that are not as others ---------------------------------------------------------------------------------


def test_files_with_grey_sixteen_bit_and_transparent_pixels(onnx: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(onnx)
    image = picture(120, 80)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    alike = {
        "grey.png": (grey, np.repeat(grey[..., None], 3, axis=2)),
        "deep.png": (image.astype(np.uint16) * 257, image),
        "clear.png": (np.dstack([image, np.zeros((80, 120), np.uint8)]), image),
    }
    for name, (stored, meant) in alike.items():
        assert cv2.imwrite(str(tmp_path / name), stored)
        np.testing.assert_array_equal(read_image(tmp_path / name), meant)
        same(artifact(tmp_path / name)[0], artifact(meant)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((80, 120), np.uint8),
        np.zeros((80, 120, 4), np.uint8),
        np.zeros((80, 120, 3), np.uint16),
        np.zeros((80, 120, 3), np.float32),
        np.full((80, 120, 3), np.nan, np.float32),
        np.zeros((0, 120, 3), np.uint8),
        np.zeros((80, 0, 3), np.uint8),
        Image.fromarray(np.zeros((8, 8), np.uint16)),
    ],
    ids=["grey", "alpha", "sixteen bits", "floats", "no numbers", "no rows", "no columns", "deep picture"],
)
def test_arrays_that_are_no_pictures(onnx: Path, wrong: object) -> None:
    with pytest.raises(DiagnosticError, match="bad-picture"):
        Artifact.load(onnx)(wrong)


@pytest.mark.parametrize(
    ("pixels", "sizes"),
    [
        ((1, 8, 9, 3), [[9, 9]]),
        ((1, 8, 9, 3), [[0, 9]]),
        ((1, 8, 9, 3), [[8, 9], [8, 9]]),
        ((1, 0, 9, 3), [[0, 9]]),
        ((1, 8, 9, 4), [[8, 9]]),
        ((4, 8, 9, 3), [[8, 9]] * 4),
    ],
)
def test_arrays_that_it_does_not_take(onnx: Path, pixels: tuple[int, ...], sizes: list[list[int]]) -> None:
    with pytest.raises(DiagnosticError, match="wrong-artifact-input"):
        Artifact.load(onnx).run(pixels=np.zeros(pixels, np.uint8), sizes=np.asarray(sizes))


def test_arrays_as_the_manifest_has_them(onnx: Path) -> None:
    artifact = Artifact.load(onnx)
    image = picture(96, 64)
    found = artifact.run(pixels=image[None].repeat(2, 0), sizes=np.array([[64, 96]] * 2))
    assert found["boxes"].shape[0] == 2
    np.testing.assert_array_equal(found["boxes"][0], found["boxes"][1])
    with pytest.raises(DiagnosticError, match=r"takes pixels uint8 1xhxwx3, sizes int64 1x2 or .* and not nothing"):
        artifact.run()


def test_an_image_in_which_there_is_nothing(tiny: detc.Detector, tmp_path: Path) -> None:
    """A detector that is sure of nothing: no boxes, and none that are half there."""
    with torch.no_grad():
        silent = tiny.module("predict")
        for key, value in silent.state_dict().items():
            if key.endswith("retina_cls.bias"):
                value.fill_(-50.0)
    export(tiny, silent, tmp_path / "silent.detc", target="onnx", sizes=[LYING])
    (found,) = Artifact.load(tmp_path / "silent.detc")(picture(120, 80))
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.names == []


def test_more_objects_than_there_is_room_for(onnx: Path, module: torch.fx.GraphModule) -> None:
    """The detector keeps a hundred, the best of all."""
    artifact = Artifact.load(onnx)
    image = picture(900, 600)
    (found,) = artifact(image)
    assert len(found.boxes) == artifact.entries[0].outputs[0]["shape"][1] == 100
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores[0] == pytest.approx(by_torch(module, image, LYING).scores[0], abs=1e-4)


# ---- where it is written ---------------------------------------------------------------------------------------------


def exporting(tiny: detc.Detector, *words: object, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "detc", "export", tiny.path, "--target", "onnx", "--random-weights", *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, preexec_fn=limited)


def test_a_disk_that_is_full_leaves_what_was_there(tiny: detc.Detector, tmp_path: Path) -> None:
    output = tmp_path / "tiny.detc"
    output.write_text("the last export")
    done = exporting(tiny, "--size", "64x96", "--output", output, limit=200_000)
    assert done.returncode == 1
    assert "cannot-write" in done.stderr and "Traceback" not in done.stderr
    assert output.read_text() == "the last export"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.detc"]


def test_a_folder_that_takes_no_files(tiny: detc.Detector, module: torch.fx.GraphModule, monkeypatch) -> None:
    with pytest.raises(DiagnosticError, match="cannot-write"):
        export(tiny, module, Path("/proc/tiny.detc"), target="onnx", sizes=[LYING])
    monkeypatch.setattr(os, "access", lambda *_: False)
    steps: list[str] = []
    with pytest.raises(DiagnosticError, match=r"cannot-write.*takes no files of yours"):
        export(tiny, module, Path("/tmp/tiny.detc"), target="onnx", sizes=[LYING], step=steps.append)
    assert steps == []


def test_two_exports_to_one_place_are_both_whole(onnx: Path, tmp_path: Path) -> None:
    """The last one stays; whoever reads meanwhile sees one or the other."""
    output = tmp_path / "tiny.detc"
    manifest, members = artifacts.read(onnx)
    described = [{**manifest, "detector": name} for name in ("first", "second")]
    artifacts.write(output, described[0], members)
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(artifacts.write, output, described[turn % 2], members) for turn in range(20)]
        while not all(each.done() for each in writing):
            assert artifacts.read(output)[0]["detector"] in ("first", "second")
    artifacts.write(output, described[1], members)
    assert Artifact.load(output).name == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.detc"]


def test_the_command_takes_sizes_and_batches_and_says_what_it_cost(tiny: detc.Detector, tmp_path: Path) -> None:
    output = tmp_path / "tiny.detc"
    words = ("--size", "64x96", "--size", "96x64", "--batch", 1, "--batch", 2, "--output", output)
    done = exporting(tiny, *words)
    assert done.returncode == 0, done.stderr
    first, *variants = done.stdout.splitlines()
    assert f"{output.stat().st_size / 1e6:.1f} MB, in " in first and "MB of memory" in first
    assert [line.partition(",")[0] for line in variants] == [
        "1 x 3 x 64 x 96",
        "2 x 3 x 64 x 96",
        "1 x 3 x 96 x 64",
        "2 x 3 x 96 x 64",
    ]
    cv2.imwrite(str(tmp_path / "a.png"), draw(0, 90, 120)[0])
    words = [str(output), str(tmp_path / "a.png"), "--output", str(tmp_path / "found"), "--engine", "onnxruntime"]
    done = subprocess.run(
        [sys.executable, "-m", "detc", "predict", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("running under ONNX Runtime ")
    wrong = subprocess.run(
        [sys.executable, "-m", "detc", "predict", *words[:-1], "tvm"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1 and "no-engine" in wrong.stderr
