"""bench/gpu.py as far as it goes without a GPU: a tiny detector, compiled for this processor, through all stages."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench/gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module
    spec.loader.exec_module(module)
    return module


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
    data     = voc(["cat", "dog"], root = "pets")
}
"""


def test_all_stages_run_without_a_gpu(gpu: ModuleType, tmp_path: Path) -> None:
    spec = tmp_path / "tiny.det"
    spec.write_text(SPEC)
    jobs = [gpu.Job(str(spec), "tiny", "float32", size=(64, 96)), gpu.Job(str(spec), "missing", "float32")]
    gpu.pack(tmp_path / "packed", jobs[:1], "llvm", None, wheels=False)
    described = json.loads((tmp_path / "packed/jobs.json").read_text())
    assert set(described[0]["raw"]).isdisjoint(key for key, *_ in described[0]["recipes"].values())
    assert len(described[0]["recipes"]) > 30, "weights are made again, not carried"
    assert (tmp_path / "packed/site/tvm/lib/libtvm_runtime.so").exists()
    # One that cannot be loaded, beside the one that can.
    described.append({**described[0], "job": {**described[0]["job"], "name": "missing"}})
    (tmp_path / "packed/jobs.json").write_text(json.dumps(described))
    out = tmp_path / "out"
    # In a process of its own, as on the machine with the GPU, which has no TVM but the libraries of its runtime.
    code = "import sys, gpu; gpu.main(sys.argv[1:]); assert not {'tvm', 'tvm.relax'} & set(sys.modules)"
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        tmp_path / "packed",
        "--out",
        out,
        "--seconds",
        "600",
        "--share",
        "0.05",
    ]
    subprocess.run(command, cwd=ROOT / "bench", check=True, capture_output=True)
    stages = json.loads((out / "gpu.json").read_text())
    assert stages["agreement, tiny-float32-1"]["found"]["status"] == "passed"
    assert "failed" in stages["agreement, missing-float32-1"]
    assert stages["latency, tiny-float32-1"]["found"]["detc"]["turns"] >= 3
    assert len(stages["training, bfloat16"]["found"]["losses"]) == 3
    assert "tiny-float32-1" in (out / "gpu.md").read_text()
    failed = {name: stage["trace"] for name, stage in stages.items() if "failed" in stage and "missing" not in name}
    assert not failed, failed


def test_a_stage_for_which_no_time_is_left_is_named(gpu: ModuleType, tmp_path: Path) -> None:
    report = gpu.Report(tmp_path, seconds=1)
    report.stage("long", lambda: 1 / 0, needs=5)
    report.stage("short", lambda: 3)
    assert "not run" in report.stages["long"]
    assert report.stages["short"]["found"] == 3


@pytest.mark.parametrize("way", [
    ("rows", "as it is", "bfloat16", 32, (1, 1)),
    ("rows", "side by side", "float16", 1, (1, 1)),
    ("rows", "turned", "float16", 1, (1, 1)),
    ("channels last", "as it is", "float32"),
    ("stored", "as it is", "bfloat16"),
])  # fmt: skip
def test_how_a_parameter_is_laid_out_is_found_again(gpu: ModuleType, way: tuple) -> None:
    weight = np.random.default_rng(0).standard_normal((128, 4, 3, 3)).astype(np.float32)
    array = gpu.laid_out(weight, *way)
    found = gpu.recipe("conv.weight.rows", array, {"conv.weight": weight, "other.weight": weight + 1})
    assert found is not None
    np.testing.assert_array_equal(gpu.laid_out(weight, *found[1:]), array)
    assert gpu.recipe("conv.weight.rows", array + 1, {"conv.weight": weight}) is None
