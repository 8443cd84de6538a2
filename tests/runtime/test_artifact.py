"""Artifacts: exported from a spec, checked, loaded and run."""

import csv
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from drawn import draw
from small_detectors import find_many
from small_graphs import Small

import detc
from detc.compiler.emit.onnx import model as onnx_model
from detc.compiler.emit.onnx.lowerings import LOWERINGS as ONNX
from detc.compiler.emit.tvm.lowerings import LOWERINGS as TVM
from detc.compiler.graph import Value
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import agreement, artifact
from detc.runtime.agreement import Measure, head_error, image_like, match
from detc.runtime.artifact import Artifact
from detc.runtime.data.masks import bitmap
from detc.runtime.data.preprocess import Preprocess
from detc.runtime.data.transforms import Normalize, Resize
from detc.runtime.export import export
from detc.runtime.judge import Judge
from detc.runtime.predict import as_arrays

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, imagenet_rgb from "lib/data.det"

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16)
    data     = voc(["cat", "dog", "fish"], root = "pets")
}

detector plain : SingleStage {
    classes  = ["cat", "dog", "fish"]
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16)
}
"""
SIZE = (64, 96)
KERNELS = "kernels-2x64x96.so"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> detc.Detector:
    path = tmp_path_factory.mktemp("spec") / "tiny.det"
    path.write_text(SPEC)
    return detc.load(path, "tiny")


@pytest.fixture(scope="module")
def module(tiny: detc.Detector) -> torch.fx.GraphModule:
    """The predict module with weights that find many objects."""
    torch.manual_seed(0)
    module = tiny.module("predict")
    find_many(module)
    return module


@pytest.fixture(scope="module")
def exported(tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An llvm artifact for two images."""
    path = tmp_path_factory.mktemp("artifact") / "tiny.detc"
    (variant,) = export(tiny, module, path, target="llvm", sizes=[SIZE], batches=[2])
    verification = variant.verification
    assert verification.status == "passed"
    assert verification.detections > 20
    assert verification.made_up == verification.made_up_matched > 20
    return path


@pytest.fixture(scope="module")
def plain(tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same detector without data, which takes normalised images, two at a time."""
    path = tmp_path_factory.mktemp("plain") / "plain.detc"
    export(detc.load(tiny.path, "plain"), module, path, target="llvm", sizes=[SIZE], batches=[2])
    return path


def expected(module: torch.fx.GraphModule, image: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: value.numpy() for name, value in module.eval()(torch.from_numpy(image)).items()}


def altered(source: Path, copy: Path, **changes: object) -> Path:
    """A copy of an artifact with fields of its manifest changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                data = json.dumps({**json.loads(data), **changes}).encode()
            new.writestr(name, data)
    return copy


def refused(path: Path, slug: str) -> str:
    with pytest.raises(DiagnosticError) as raised:
        Artifact.load(path)
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.kind.slug == slug
    return diagnostic.summary


def test_the_manifest_says_what_is_in_it(exported: Path, tiny: detc.Detector) -> None:
    manifest = Artifact.load(exported).manifest
    assert manifest["format"] == 2
    assert manifest["classes"] == ["cat", "dog", "fish"]
    assert manifest["precision"] == "float32"
    (entry,) = manifest["entries"]
    assert (entry["batch"], entry["height"], entry["width"]) == (2, *SIZE)
    assert entry["inputs"] == [
        {"name": "pixels", "shape": [2, "h", "w", 3], "dtype": "uint8", "order": "bgr"},
        {"name": "sizes", "shape": [2, 2], "dtype": "int64"},
    ]
    assert {output["name"]: output["dtype"] for output in entry["outputs"]} == {
        "boxes": "float32",
        "scores": "float32",
        "classes": "int64",
    }
    assert manifest["files"].keys() == {entry["file"], "weights.safetensors"}
    assert manifest["spec"]["text"] == SPEC
    assert manifest["spec"]["hash"] == tiny.hash
    assert manifest["preprocessing"]["normalize"]["mean"] == [123.675, 116.28, 103.53]
    assert entry["verification"]["status"] == "passed"
    assert manifest["versions"]["detc"] == detc.__version__


def test_weights_are_in_it_once(exported: Path, tiny: detc.Detector) -> None:
    weights = sum(4 * int(np.prod(weight.shape)) for weight in tiny.graph.weights.values())
    with zipfile.ZipFile(exported) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert sizes["weights.safetensors"] < 1.3 * weights
    assert sizes[KERNELS] < 2e6


def test_normalised_images_give_the_boxes_of_the_fx_module(plain: Path, module: torch.fx.GraphModule) -> None:
    image = image_like(7, (2, 3, *SIZE))
    found, wanted = Artifact.load(plain).run(image=image), expected(module, image)
    assert found["boxes"].shape == wanted["boxes"].shape
    for row in range(2):
        matched, count = match(*({name: values[name][row] for name in values} for values in (wanted, found)))
        assert matched >= 0.98 * count > 5


def test_fewer_images_than_the_batch(plain: Path) -> None:
    loaded = Artifact.load(plain)
    image = image_like(3, (2, 3, *SIZE))
    one, two = loaded.run(image=image[:1]), loaded.run(image=image)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name][:1])


def test_it_runs_with_the_runtime_alone(exported: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), draw(3, 150, 80)[0])
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "onnxruntime", "onnx") or name.startswith("tvm."):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())

from detc.runtime.artifact import Artifact

artifact = Artifact.load({str(exported)!r})
(found,) = artifact({str(tmp_path / "street.png")!r})
print(found.names, found.boxes, found.scores)

import numpy as np
np.savez({str(tmp_path / "found.npz")!r}, boxes=found.boxes, scores=found.scores)
loaded = set(sys.modules) & {{"torch", "tvm", "onnxruntime", "onnx"}}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    (found,) = Artifact.load(exported)(tmp_path / "street.png")
    assert len(found.boxes) > 5
    kept = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(kept["boxes"], found.boxes)
    np.testing.assert_array_equal(kept["scores"], found.scores)


@pytest.mark.parametrize("part", [0.001, 0.3, 0.999])
def test_a_truncated_artifact(exported: Path, tmp_path: Path, part: float) -> None:
    data = exported.read_bytes()
    path = tmp_path / "cut.detc"
    path.write_bytes(data[: int(len(data) * part)])
    assert "cut short" in refused(path, "artifact-damaged")


def test_an_altered_byte_is_noticed_before_anything_is_run(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        entry = archive.getinfo(KERNELS)
    data = bytearray(exported.read_bytes())
    data[entry.header_offset + entry.file_size // 2] ^= 1
    path = tmp_path / "altered.detc"
    path.write_bytes(data)
    refused(path, "artifact-damaged")


def test_a_changed_member_with_a_right_checksum_is_noticed(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.detc"
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:-1] + b"x" if name == KERNELS else data)
    assert KERNELS in refused(path, "artifact-damaged")


def test_what_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "text.detc").write_text("detector tiny")
    refused(tmp_path / "text.detc", "not-an-artifact")
    with zipfile.ZipFile(tmp_path / "other.detc", "w") as archive:
        archive.writestr("readme", "hello")
    refused(tmp_path / "other.detc", "not-an-artifact")
    refused(tmp_path / "absent.detc", "not-an-artifact")


def test_names_that_lead_outside_are_not_followed(exported: Path, tmp_path: Path) -> None:
    data = b"evil"
    digest = artifact.hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(exported) as archive:
        files = json.loads(archive.read("manifest.json"))["files"]
    path = altered(exported, tmp_path / "evil.detc", files=files | {"../evil.so": {"size": 4, "sha256": digest}})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.so", data)
    Artifact.load(path)
    assert not (tmp_path.parent / "evil.so").exists()


def test_a_compressed_member_is_refused(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.detc"
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(path, "artifact-damaged")


def test_another_format_machine_or_tvm(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.detc"
    for number in (1, 99):
        summary = refused(altered(exported, path, format=number), "artifact-version")
        assert f"another major version of detc: it has format {number}, and this detc reads 2" in summary
    assert "0.1" in refused(altered(exported, path, versions={"tvm": "0.1"}), "artifact-version")
    assert "avx9000" in refused(altered(exported, path, features=["avx9000"]), "artifact-for-another-machine")
    assert "vax" in refused(altered(exported, path, machine="vax"), "artifact-for-another-machine")
    refused(altered(exported, path, classes=None, files=3), "artifact-damaged")
    refused(altered(exported, path, entries=[]), "artifact-damaged")
    refused(altered(exported, path, entries=[{"batch": "many"}]), "artifact-damaged")
    refused(altered(exported, path, target="tpu"), "artifact-damaged")
    (entry,) = Artifact.load(exported).manifest["entries"]
    lacking = [{**entry, "functions": {**entry["functions"], "detect": ["no such weight"]}}]
    assert "no such weight" in refused(altered(exported, path, entries=lacking), "artifact-damaged")
    refused(altered(exported, path, precision=None), "artifact-damaged")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_artifact_where_there_is_no_gpu(exported: Path, tmp_path: Path) -> None:
    refused(altered(exported, tmp_path / "cuda.detc", target="cuda", arch="sm_90"), "artifact-for-another-machine")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 3, 64, 95), np.float32),
        np.zeros((3, 3, *SIZE), np.float32),
        np.zeros((0, 3, *SIZE), np.float32),
        np.zeros((1, 1, *SIZE), np.float32),
        np.zeros((1, 3, *SIZE), np.uint8),
        np.zeros(SIZE, np.float32),
    ],
)
def test_an_image_that_it_does_not_take(plain: Path, image: np.ndarray) -> None:
    with pytest.raises(DiagnosticError, match="wrong-artifact-input"):
        Artifact.load(plain).run(image=image)


def test_pixels_that_are_no_numbers_find_nothing_wrong(plain: Path) -> None:
    found = Artifact.load(plain).run(image=np.full((1, 3, *SIZE), np.nan, np.float32))
    assert found["boxes"].shape[0] == 1
    assert np.isfinite(found["boxes"][found["scores"] > 0]).all()


def test_onnx_as_an_artifact_and_as_a_bare_model(
    tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path: Path
) -> None:
    picture, _ = draw(7, 120, 50)
    for name in ("tiny.detc", "tiny.onnx"):
        (variant,) = export(tiny, module, tmp_path / name, target="onnx", sizes=[SIZE])
        assert variant.verification.status == "passed"
    (found,) = Artifact.load(tmp_path / "tiny.detc").detect([picture])
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx")
    given = {"pixels": picture[None], "sizes": np.array([picture.shape[:2]])}
    bare = dict(zip(("boxes", "scores", "classes"), session.run(None, given), strict=True))
    assert len(session.get_outputs()) == 3
    assert (found["scores"] > 0).sum() > 5
    for key, value in found.items():
        np.testing.assert_array_equal(bare[key][0], value)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "tiny.onnx").metadata_props}
    assert json.loads(metadata["detc"])["classes"] == ["cat", "dog", "fish"]
    with pytest.raises(DiagnosticError, match="bad-option"):
        export(tiny, module, tmp_path / "two.onnx", target="onnx", sizes=[SIZE], batches=[1, 2])
    assert not (tmp_path / "two.onnx").exists()


def test_what_disagrees_is_not_written(
    tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = onnx_model.Builder.weight

    def slightly_off(self: onnx_model.Builder, node: object, name: str) -> str:
        key = original(self, node, name)
        if key == "neck.fpn_convs.1.conv.bias":
            values = onnx.numpy_helper.to_array(self.initializers[key])
            self.initializers[key] = onnx.numpy_helper.from_array(values + np.float32(0.05), key)
        return key

    monkeypatch.setattr(onnx_model.Builder, "weight", slightly_off)
    with pytest.raises(DiagnosticError, match="export-disagrees") as raised:
        export(tiny, module, tmp_path / "x.detc", target="onnx", sizes=[SIZE])
    assert "failed" in raised.value.diagnostics[0].detail
    assert list(tmp_path.iterdir()) == []


def test_post_processing_that_is_wrong_is_noticed_without_trained_weights(tiny: detc.Detector) -> None:
    module = tiny.module("predict")
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    judge = Judge(tiny.graph.view("predict"), state)

    class Wrong:
        """The judge itself, but for boxes that are chosen a tenth of a pixel off."""

        def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return judge(inputs)

        def part(self, index: int, given: list[np.ndarray]) -> list[np.ndarray]:
            results = judge.part(index, given)
            if judge.parts[index].chooses:
                boxes, scores, *_ = results
                boxes += 0.1 * (scores[..., None] > 0)
            return results

    verification = agreement.compare(judge, Wrong(), (1, 3, *SIZE))
    assert verification.detections == 0
    assert verification.status == "failed"
    assert verification.made_up_matched < 0.5 * verification.made_up


class Altered:
    """A judge, but for an error in its networks' results, and, of the whole, other errors or boxes elsewhere."""

    def __init__(self, judge: Judge, error: float = 0.0, noise: float = 0.0, shift: float = 0.0) -> None:
        self.judge, self.error, self.noise, self.shift = judge, error, noise, shift

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        noise = dict.fromkeys(self.judge.parts[0].results, self.noise)
        values = self.judge.values(inputs, Measure(self.judge, inputs["image"].shape).shaker(noise))
        found = self.judge.outputs(values)
        return {**found, "boxes": found["boxes"] + np.float32(self.shift)}

    def part(self, index: int, given: list[np.ndarray]) -> list[np.ndarray]:
        results = self.judge.part(index, given)
        return results if self.judge.parts[index].chooses else [result + np.float32(self.error) for result in results]


def detecting(rows: Callable[[Small], Value]) -> Judge:
    """A judge whose only network gives scores of three classes for each pixel, (N, 256, 3)."""
    small = Small(16, 16)
    scores, index, classes = small.add("select_top", rows(small), count=40, threshold=0.0)
    sizes = {"scales": (1.0,), "ratios": (1.0,), "base": None, "offset": 0.5, "step": 1.0}
    boxes = small.add("gather_rows", small.add("anchor_grid", Value("image"), **sizes), index)
    kept = small.add("nms", boxes, scores, classes, iou=0.5, keep=30)
    return Judge(small.graph(**dict(zip(("boxes", "scores", "classes"), kept, strict=True))), {})


def pixels(small: Small) -> Value:
    return small.add("per_anchor", Value("image"), fields=3)


def cancelled(small: Small) -> Value:
    """The same, of which rounding has left three digits."""
    rows = pixels(small)
    large = small.add("add", rows, small.add("scale", rows, factor=1e4))
    return small.add("add", large, small.add("scale", rows, factor=-1e4))


@pytest.mark.parametrize(
    ("rows", "error", "status"), [(pixels, 6e-4, "failed"), (cancelled, 6e-4, "passed"), (cancelled, 6e-2, "failed")]
)
def test_an_error_may_be_as_large_as_rounding_makes_it(
    rows: Callable[[Small], Value], error: float, status: str
) -> None:
    verification = agreement.compare(detecting(rows), Altered(detecting(rows), error), (1, 3, 16, 16))
    assert verification.matched == verification.detections > 20
    assert verification.status == status
    assert (verification.rounding > 1) == (rows is cancelled)


def tied(small: Small) -> Value:
    return small.add("sigmoid", small.add("scale", pixels(small), factor=1e-6))


@pytest.mark.parametrize(
    ("rows", "noise", "shift", "status"),
    [(tied, 3e-6, 0.0, "passed"), (pixels, 3e-6, 0.0, "passed"), (pixels, 0.0, 3.0, "failed")],
)
def test_what_is_chosen_among_equals_may_differ(
    rows: Callable[[Small], Value], noise: float, shift: float, status: str
) -> None:
    candidate = Altered(detecting(rows), 2e-6, noise, shift)
    verification = agreement.compare(detecting(rows), candidate, (1, 3, 16, 16))
    assert verification.status == status
    assert (verification.stable < 0.5 * verification.detections) == (rows is tied)
    assert (verification.matched < 0.5 * verification.detections) == (rows is tied or shift > 0)


BOXES = np.array([[0, 0, 10, 10], [20, 20, 60, 60], [0, 0, 0, 0]], np.float32)
ONE = {"boxes": BOXES, "scores": np.array([0.9, 0.5, 0], "f4"), "classes": np.array([1, 2, -1])}
MASKS = np.arange(12, dtype="f4").reshape(3, 2, 2) / 12


@pytest.mark.parametrize(
    ("change", "matched"),
    [
        ({}, (2, 2)),
        ({"boxes": BOXES[[1, 0, 2]], "scores": ONE["scores"], "classes": np.array([2, 1, -1])}, (0, 2)),
        ({"boxes": BOXES + np.float32(0.04)}, (2, 2)),
        ({"boxes": BOXES + np.float32(0.055)}, (0, 2)),
        ({"scores": ONE["scores"] + np.float32(2e-4)}, (0, 2)),
        ({"classes": np.array([1, 1, -1])}, (1, 2)),
        ({"classes": np.array([1, 2, 0])}, (2, 3)),
        ({"classes": np.array([1, -1, -1])}, (1, 2)),
        ({"masks": MASKS + np.float32(0.01)}, (2, 2)),
        ({"masks": MASKS[[1, 0, 2]]}, (0, 2)),
    ],
)
def test_detections_match_one_to_one(change: dict[str, np.ndarray], matched: tuple[int, int]) -> None:
    masked = {**ONE, "masks": MASKS}
    assert match(masked, {**masked, **change}) == matched


def test_proposals_match_by_boxes_and_scores() -> None:
    one = {name: ONE[name] for name in ("boxes", "scores")}
    assert match(one, one) == (2, 2)
    assert match(one, {**one, "scores": np.array([0.9, 0, 0], "f4")}) == (1, 2)


def test_equal_scores_may_swap() -> None:
    tied = {**ONE, "scores": np.array([0.9, 0.9, 0], "f4")}
    swapped = {"boxes": BOXES[[1, 0, 2]], "scores": tied["scores"], "classes": np.array([2, 1, -1])}
    assert match(tied, swapped) == (2, 2)


def test_errors_of_network_results_are_absolute_below_one_and_relative_above() -> None:
    assert head_error(np.array([0.5, 0.1]), np.array([0.5, 0.2])) == pytest.approx(0.1)
    assert head_error(np.array([100.0, 1.0]), np.array([101.0, 1.0])) == pytest.approx(0.01)
    assert np.isnan(head_error(np.array([1.0]), np.array([np.nan])))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from detc.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "export", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command(tiny: detc.Detector, tmp_path: Path) -> None:
    refusal = command(f"{tiny.path}:tiny", "--target", "onnx", "--size", "50x90")
    assert refusal.returncode == 1
    assert "E0802" in refusal.stderr
    assert "Traceback" not in refusal.stderr
    output = tmp_path / "tiny.detc"
    arguments = ("--target", "onnx", "--size", "64x96", "--random-weights", "--output", output)
    done = command(f"{tiny.path}:tiny", *arguments)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert Artifact.load(output).name == "tiny"


def test_a_wrong_command_line(tiny: detc.Detector) -> None:
    assert command(tiny.path, "--target", "tpu").returncode == 2
    assert command(tiny.path, "--target", "onnx", "--size", "64").returncode == 2
    assert command(tiny.path, "--target", "onnx", "--arch", "sm_90").returncode == 2


def test_bytes_changed_anywhere_never_end_in_a_crash(exported: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = exported.read_bytes()
    with zipfile.ZipFile(exported) as archive:
        manifest = archive.getinfo("manifest.json")
    # The manifest's bytes, and the directory at the end, are where the reader has something to misread.
    places = [*rng.integers(0, manifest.file_size + 60, 60), *(len(data) - rng.integers(1, 300, 60))]
    path = tmp_path / "changed.detc"
    for place in places:
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            artifact.read(path)
        except DiagnosticError as error:
            assert error.diagnostics[0].kind.slug in ("artifact-damaged", "not-an-artifact", "artifact-version")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path: Path
) -> None:
    steps: list[str] = []
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "x.detc"):
        with pytest.raises(DiagnosticError, match="cannot-write"):
            export(tiny, module, output, target="llvm", sizes=[SIZE], step=steps.append)
    assert steps == []


def test_code_for_another_processor_is_not_run(
    tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detc.runtime.export.missing_features", lambda _: ["avx10"])
    (variant,) = export(tiny, module, tmp_path / "x.detc", target="llvm", sizes=[SIZE])
    assert str(variant.verification) == "not run: this processor lacks avx10"


# ---- detectors of two stages -----------------------------------------------------------------------------------------

STAGES = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RPNHead, Proposals from "lib/proposals.det"
import RegionHead, RegionBoxes, RegionMasks, CascadeRegionHead from "lib/regions.det"
import TwoStage, ProposalNetwork, GivenProposals from "lib/models.det"
import Detection from "lib/heads.det"
import voc from "lib/data.det"

let standardized = Conv2d(standardize = true)
let few = Detection(before = 200, keep = 30)

detector masks : TwoStage {
    backbone  = ResNet(18, channels = 8, conv = standardized, norm = GroupNorm(4))
    neck      = FPN(16, conv = standardized, norm = GroupNorm(4))
    rpn       = RPNHead(channels = 16)
    head      = RegionHead(
        box = RegionBoxes(convs = 1, layers = 1, channels = 16, conv = standardized, norm = GroupNorm(4)),
        mask = RegionMasks(convs = 1, channels = 16),
        detection = few,
    )
    data      = voc(["cat", "dog", "fish"], root = "pets")
    proposals = Proposals(before = 60, keep = 50)
}

detector cascade = masks with {
    head = CascadeRegionHead(
        box = RegionBoxes(features = 32, agnostic = true),
        mask = RegionMasks(convs = 0, channels = 16),
        detection = few,
    )
}

detector proposals : ProposalNetwork {
    backbone  = ResNet(18, channels = 8)
    neck      = FPN(16)
    head      = RPNHead(channels = 16)
    data      = voc(["cat", "dog", "fish"], root = "pets")
    proposals = Proposals(before = 60, keep = 50)
}

detector given : GivenProposals {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16)
    head     = RegionHead(box = RegionBoxes(features = 32), detection = few)
    data     = voc(["cat", "dog", "fish"], root = "pets")
}
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "stages.det"
    path.write_text(STAGES)
    return path


def restless(detector: detc.Detector) -> torch.fx.GraphModule:
    """The predict module with weights that tell anchors and regions apart."""
    torch.manual_seed(0)
    module = detector.module("predict")
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if key.endswith(("rpn_cls.weight", "rpn_reg.weight")):
                value.mul_(30)
            if key.endswith(("fc_cls.weight", "fc_reg.weight")):
                value.mul_(20)
    return module


@pytest.mark.parametrize(
    ("name", "target", "outputs"),
    [
        ("masks", "llvm", ["boxes", "scores", "classes", "masks"]),
        ("masks", "onnx", ["boxes", "scores", "classes", "masks"]),
        ("cascade", "onnx", ["boxes", "scores", "classes", "masks"]),
        ("proposals", "onnx", ["boxes", "scores"]),
        ("given", "onnx", ["boxes", "scores", "classes"]),
    ],
)
def test_detectors_of_two_stages(stages: Path, tmp_path: Path, name: str, target: str, outputs: list[str]) -> None:
    detector = detc.load(stages, name)
    module = restless(detector)
    path = tmp_path / "two.detc"
    (variant,) = export(detector, module, path, target=target, sizes=[SIZE])
    verification = variant.verification
    assert verification.status == "passed"
    assert min(verification.made_up_matched, verification.matched) > 20
    loaded = Artifact.load(path)
    assert [output["name"] for output in loaded.entries[0].outputs] == outputs
    if name == "given":
        check_proposals_given(loaded, module)
        return
    picture, _ = draw(7, 120, 90)
    preprocess = Preprocess(
        Resize(SIZE[::-1]), Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), 1, (96, 64)
    )
    image, placements = preprocess([picture])
    (wanted,) = Preprocess.detections(expected(module, image), placements)
    (seen,) = loaded(picture)
    pair = [{"boxes": each.boxes, "scores": each.scores, "classes": each.classes} for each in (wanted, seen)]
    matched, count = match(*pair)
    assert matched >= 0.98 * count > 5
    assert (seen.masks is not None) == ("masks" in outputs)
    if seen.masks is not None:
        differ = [(bitmap(a) != bitmap(b)).mean() for a, b in zip(wanted.masks, seen.masks, strict=True)]
        assert np.median(differ) < 0.01
    assert loaded.predictor().classes == (("cat", "dog", "fish") if "classes" in outputs else ("object",))


def check_proposals_given(loaded: Artifact, module: torch.fx.GraphModule) -> None:
    corner = np.random.default_rng(0).uniform(0, 40, (1, 1000, 2))
    inputs = {
        "image": image_like(7, (1, 3, *SIZE)),
        "proposals": np.concatenate([corner, corner + 20], axis=2).astype(np.float32),
        "proposal_scores": (np.arange(1000) < 400).astype(np.float32)[None],
    }
    found = loaded.run(**inputs)
    with torch.inference_mode():
        wanted = module.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    matched, count = match(*({key: each[key][0] for key in each} for each in (as_arrays(wanted), found)))
    assert matched >= 0.98 * count > 5
    with pytest.raises(DiagnosticError, match="wrong-artifact-input"):
        loaded.run(image=inputs["image"])
    with pytest.raises(DiagnosticError, match="wrong-artifact-input"):
        loaded.run(**{**inputs, "proposals": inputs["proposals"][:, :900]})
    with pytest.raises(DiagnosticError, match="proposals-missing"):
        loaded.predictor()
    nothing = loaded.run(**{**inputs, "image": np.full((1, 3, *SIZE), np.nan, np.float32)})
    assert {key: value.shape for key, value in nothing.items()} == {key: value.shape for key, value in found.items()}


SPECS = Path(detc.__file__).parent / "specs"


COVERAGE = Path(__file__).parents[2] / "bench" / "results" / "coverage.csv"


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.det")), ids=lambda path: path.stem)
def test_the_table_of_exports_says_what_can_be_lowered(path: Path) -> None:
    with COVERAGE.open(encoding="utf-8", newline="") as file:
        rows = {row["detector"]: row for row in csv.DictReader(file) if row["spec"] == path.name}
    detectors = detc.load(path).siblings()
    assert rows.keys() == {detector.name for detector in detectors}, "run bench/coverage.py"
    for detector in detectors:
        ops = {node.op for node in detector.graph.view("predict").nodes} | {"constant"}
        for target, lowerings in (("onnx", ONNX), ("llvm", TVM), ("cuda", TVM)):
            told = rows[detector.name][target]
            assert bool(ops - lowerings.keys()) == told.startswith("E0801"), (detector.name, target)
            assert told.startswith("E") or told in {"ran", "built", "lowered"}
