"""Where an exported detector does not agree, the first value that is wrong is named, with its place in the spec."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_detectors import find_many
from small_graphs import Small

import detc
from detc.compiler.emit.onnx.lowerings import LOWERINGS as ONNX
from detc.compiler.emit.tvm.lowerings import LOWERINGS as TVM
from detc.compiler.graph import Value
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.blame import first_wrong
from detc.runtime.export import export
from detc.runtime.judge import Judge
from detc.runtime.verify_artifact import verify_artifact

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc from "lib/data.det"

neck Halves(channels: int = 16)(c: pyramid) -> pyramid {
    p = c |> fpn: FPN(channels, levels = 3..5)
    for l in p.levels {
        q[l] = p[l] + scale(0.5)(p[l])
    }
    return q
}

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = Halves()
    head     = RetinaHead(stacked = 1, channels = 16)
    data     = voc(["cat", "dog", "fish"], root = "pets")
}
"""
SIZES = [(64, 96)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> detc.Detector:
    path = tmp_path_factory.mktemp("spec") / "tiny.det"
    path.write_text(SPEC)
    return detc.load(path)


@pytest.fixture(scope="module")
def module(tiny: detc.Detector) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    module = tiny.module("predict")
    find_many(module)
    return module


@pytest.fixture(scope="module")
def weights(module: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": module.state_dict(), "meta": {"CLASSES": ["cat", "dog", "fish"]}}, path)
    return path


def broken(lowerings: dict, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks the lowering of one op: what it gives is a hundredth too large, or, of `select_top`, one row off."""
    original = lowerings[op]

    def too_large(b, node):
        result = original(b, node)
        if lowerings is ONNX:
            return str(b.apply("Mul", result, b.constant(1.01)))
        from tvm import relax

        return b.emit(relax.op.multiply(result, relax.const(1.01, "float32")))

    monkeypatch.setitem(lowerings, op, too_large)


@pytest.mark.parametrize(("target", "lowerings"), [("onnx", ONNX), ("llvm", TVM)])
@pytest.mark.parametrize(
    ("op", "value", "place"),
    [("scale", "neck.scale", ("tiny.det", 11)), ("decode_delta", "bbox_head.decode_delta", ("heads.det", 47))],
)
def test_a_wrong_lowering_is_found_and_nothing_written(
    tiny: detc.Detector,
    module: torch.fx.GraphModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    lowerings: dict,
    op: str,
    value: str,
    place: tuple[str, int],
) -> None:
    broken(lowerings, op, monkeypatch)
    with pytest.raises(DiagnosticError, match="export-disagrees") as raised:
        export(tiny, module, tmp_path / "x.detc", target=target, sizes=SIZES)
    (diagnostic,) = raised.value.diagnostics
    (label,) = diagnostic.labels
    assert label.text.startswith(f"{value}, of {op}, is the first value that differs")
    assert (Path(label.span.source.name).name, label.span.line) == place
    assert value in diagnostic.detail
    assert list(tmp_path.iterdir()) == []


class Fused:
    """The judge itself, but that `b` is wrong where it is computed together with `a`: where `a` is not shown."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self.judge(inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = self.inside(index, given, self.judge.parts[index].results)
        return [found[value] for value in self.judge.parts[index].results]

    def inside(self, index: int, given: Sequence[np.ndarray], values: Sequence[Value]) -> Mapping[Value, np.ndarray]:
        found = dict(self.judge.inside(index, given, values))
        if Value("a") in values:
            return found
        return {v: array + 1 if v.node in {"b", "c", "d"} else array for v, array in found.items()}


def test_what_is_wrong_only_where_nodes_are_compiled_together_is_found() -> None:
    small = Small(16, 16)
    x = small.add("relu", Value("image"), name="x")
    y = small.add("scale", x, factor=0.3, name="y")
    a = small.add("scale", x, factor=0.5, name="a")
    b = small.add("sigmoid", a, name="b")
    c = small.add("add", b, y, name="c")
    judge = Judge(small.graph(d=small.add("scale", c, factor=3.0, name="d")), {})
    fault = first_wrong(judge, Fused(judge), (1, 3, 16, 16))
    assert fault is not None
    assert (fault.node.name, fault.value) == ("b", Value("b"))
    assert first_wrong(judge, judge, (1, 3, 16, 16)) is None


@pytest.fixture(scope="module", params=["onnx", "llvm"])
def artifact(
    request: pytest.FixtureRequest, tiny: detc.Detector, module: torch.fx.GraphModule, tmp_path_factory
) -> Path:
    path = tmp_path_factory.mktemp("artifact") / f"tiny-{request.param}.detc"
    (variant,) = export(tiny, module, path, target=request.param, sizes=SIZES)
    assert variant.verification.status == "passed"
    return path


def test_an_artifact_is_verified_against_the_spec_in_it_and_another(
    artifact: Path, tiny: detc.Detector, weights: Path, tmp_path: Path
) -> None:
    for spec in (None, (tiny.path, "tiny")):
        verification, wrong = verify_artifact(artifact, weights, spec)
        assert verification.status == "passed"
        assert verification.matched > 20
        assert verification.score_error < 8e-5
        assert verification.box_error < 0.016
        assert wrong == []
    other = tmp_path / "other.det"
    other.write_text(SPEC.replace("0.5", "0.25"))
    with pytest.raises(DiagnosticError, match="artifact-of-another-spec"):
        verify_artifact(artifact, weights, (other, None))


def test_an_artifact_with_other_weights_is_told_by_the_command(
    artifact: Path, module: torch.fx.GraphModule, tmp_path: Path
) -> None:
    state = {key: value.clone() for key, value in module.state_dict().items()}
    state["neck.fpn.fpn_convs.1.conv.bias"] += 0.1
    torch.save({"state_dict": state, "meta": {"CLASSES": ["cat", "dog", "fish"]}}, tmp_path / "other.pth")
    program = "from detc.cli import main; main()"
    words = ["verify", artifact, "--weights", tmp_path / "other.pth", "--format", "json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "failed"
    assert "neck.fpn.fpn_convs.1.conv, of Conv2d, is the first value that differs" in told["diagnostics"][0]["detail"]
    assert "E0803" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_command_line(artifact: Path, tiny: detc.Detector, weights: Path) -> None:
    program = "from detc.cli import main; main()"
    for words in ([artifact], [tiny.path, "--weights", weights]):
        done = subprocess.run(
            [sys.executable, "-c", program, "verify", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
