"""Published weights as safetensors, and the report on each tensor."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_detectors import small_detector

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import load_weights, read_checkpoint
from detc.runtime.convert import convert
from detc.runtime.detector import Detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return small_detector(tmp_path_factory.mktemp("spec"), "nas_fpn")  # its head has tied weights


@pytest.fixture
def state(detector: Detector) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in detector.module().state_dict().items()}


def test_a_published_file_becomes_the_detectors_weights(
    tmp_path: Path, detector: Detector, state: dict[str, torch.Tensor]
) -> None:
    content = {
        "meta": {"dataset_meta": {"classes": ("a", "b", "c")}, "epoch": 12},
        "state_dict": {
            f"module.{key}": value.half() if value.is_floating_point() else value for key, value in state.items()
        }
        | {"module.ema_backbone_conv1_weight": torch.zeros(3)},
        "optimizer": {"lr": 0.1},
    }
    torch.save(content, tmp_path / "published.pth")
    done = convert(tmp_path / "published.pth", tmp_path / "out/ours.safetensors", detector)
    assert done.output == tmp_path / "out/ours.safetensors"
    assert (done.count("written"), done.count("left over"), done.count("missing")) == (len(state), 1, 0)
    assert [row.key for row in done.rows if row.state == "left over"] == ["ema_backbone_conv1_weight"]
    assert set(done.others) == {"meta", "optimizer"}
    first = next(row for row in done.rows if row.key == "backbone.conv1.weight")
    assert (first.found, first.wanted) == (("float16", (8, 3, 7, 7)), ("float32", (8, 3, 7, 7)))
    module = detector.module()
    assert load_weights(module, done.output, detector).whole
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key].half().float() if value.is_floating_point() else state[key])
    assert read_checkpoint(done.output).classes == ("a", "b", "c")


def test_what_does_not_fit_is_listed_and_not_written(
    tmp_path: Path, detector: Detector, state: dict[str, torch.Tensor]
) -> None:
    lost, other = "backbone.conv1.weight", "neck.lateral_convs.0.conv.bias"
    other = other if other in state else next(key for key in state if key.startswith("neck") and key.endswith("bias"))
    del state[lost]
    state[other] = torch.zeros(state[other].numel() + 1)
    state["bbox_head.old"] = torch.tensor([float("nan")])
    torch.save(state, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "a.safetensors", detector)
    states = {row.key: row.state for row in done.rows if row.state != "written"}
    assert states == {lost: "missing", other: "reshaped", "bbox_head.old": "left over"}
    assert [row.key for row in done.rows if not row.finite] == ["bbox_head.old"]
    assert done.output is None
    assert not (tmp_path / "a.safetensors").exists()


def test_without_a_spec_tensors_that_share_memory_keep_all_their_keys(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {"module.a": weight, "module.b": weight, "module.t": weight.T, "module.part": weight[0]}, tmp_path / "a.pth"
    )
    done = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert sorted(found) == ["a", "b", "part", "t"]
    assert (
        torch.equal(found["b"], weight) and torch.equal(found["t"], weight.T) and torch.equal(found["part"], weight[0])
    )
    assert done.classes is None
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert "classes" not in file.metadata()


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


def test_a_file_that_wants_to_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "evil": Runs()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Runs()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(DiagnosticError, match=r"checkpoint-un(safe|readable)"):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth"]


def test_what_safetensors_cannot_hold_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "s": torch.eye(3).to_sparse()}, tmp_path / "a.pth")
    with pytest.raises(DiagnosticError, match=r'checkpoint-unreadable.*"s"'):
        convert(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_the_file_itself_is_not_written_over(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(DiagnosticError, match="bad-option"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.safetensors")


def test_the_command_reports_and_fails_where_weights_are_missing(tmp_path: Path, detector: Detector) -> None:
    torch.save({"backbone.conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "a.pth")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "detc", "convert", str(tmp_path / "a.pth"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--spec", f"{detector.path}:nas_fpn", "--format", "json")
    assert done.returncode == 1, done.stderr
    rows = {row["key"]: row for row in json.loads(done.stdout)["tensors"]}
    assert rows["backbone.conv1.weight"]["state"] == "written"
    assert rows["backbone.bn1.weight"] == {
        "key": "backbone.bn1.weight",
        "state": "missing",
        "file": None,
        "spec": {"dtype": "float32", "shape": [8]},
        "finite": True,
    }
    done = run()
    assert done.returncode == 0, done.stderr
    assert "backbone.conv1.weight  float32  [8, 3, 7, 7]" in done.stdout
    assert (tmp_path / "a.safetensors").exists()
