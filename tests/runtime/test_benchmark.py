"""`detc bench`: engines in processes of their own take turns; what does not run is said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_detectors import small_detector

from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.artifact import Artifact
from detc.runtime.benchmark import Timing, compare
from detc.runtime.rivals import Rival, Turn


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    small_detector(folder, "retinanet")
    (folder / "mine.det").write_text(
        'import retinanet from "small.det"\nimport coco_detection from "lib/data.det"\n'
        'detector mine = retinanet with { data = coco_detection(classes = ["a", "b", "c"]) }\n'
    )
    return folder / "mine.det"


def test_an_artifact_without_data_says_that_images_cannot_be_prepared(spec, tmp_path):
    artifact = tmp_path / "bare.detc"
    words = ["export", str(spec.with_name("small.det:retinanet")), "--target", "onnx", "--size", "64x64"]
    subprocess.run(
        [sys.executable, "-m", "detc", *words, "--random-weights", "--output", str(artifact)], check=True, timeout=300
    )
    with pytest.raises(DiagnosticError, match="no-settings"):
        Artifact.load(artifact).predictor()


def detc_bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detc", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_engines_of_a_spec_and_an_artifact_take_turns(spec, tmp_path):
    export = ["export", f"{spec}:mine", "--target", "onnx", "--size", "64x64", "--random-weights"]
    artifact = tmp_path / "small.detc"
    made = subprocess.run([sys.executable, "-m", "detc", *export, "--output", str(artifact)], check=False)
    assert made.returncode == 0
    kept = tmp_path / "figures.json"
    options = ("--vs", "torch,onnxruntime", "--size", "64x64", "--turns", "3", "--threads", "1", "--output", str(kept))
    options += ("--precision", "bf16")
    done = detc_bench(str(artifact), f"{spec}:mine", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "small.detc",
        "mine torch",
        "mine onnxruntime",
    ]
    assert "1 image(s) from pixels to boxes, 3 turns, 1 thread(s)" in lines[-1]
    figures = json.loads(kept.read_text())
    first, torch, onnx = figures["engines"]
    assert figures["machine"]["turns"] == 3 and "torch" in figures["machine"]["versions"]
    # The same model in the same engine: a wrong unit, or another's time, would be far off.
    assert 0.1 < first["engine"] / onnx["engine"] < 10
    assert first["network"] is None and 0 < onnx["network"] < 1
    for timing in (first, torch, onnx):
        assert timing["least"] <= timing["median"] <= timing["p99"]
        assert timing["before"] + timing["engine"] + timing["after"] == pytest.approx(timing["median"], rel=2)
        assert timing["images_per_second"] == pytest.approx(1 / timing["median"])
    # Each has the memory of its own process alone, and torch is large.
    assert torch["memory"] > 1.5 * onnx["memory"] > 2**24


def test_figures_of_turns():
    turns = [Turn(0.1, 1.0 + extra, 0.2, 0.5) for extra in (0.0, 0.1, 0.2, 0.3, 10.0)]
    timing = Timing.of("x", turns, images=4, memory=5, ready=6.0)
    assert timing.median == pytest.approx(1.5)
    assert timing.least == pytest.approx(1.3)
    assert 10 < timing.p99 < 11.3
    assert timing.images_per_second == pytest.approx(4 / 1.5)
    assert (timing.engine, timing.network) == (pytest.approx(1.2), 0.5)


def test_an_engine_that_does_not_run_is_said(tmp_path):
    rival = Rival("mine", "torch", tmp_path / "none.detc", (tmp_path / "none.det", "x"))
    with pytest.raises(DiagnosticError, match=r"rival-failed.*mine does not run"):
        compare([rival], [np.zeros((8, 8, 3), np.uint8)], turns=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vs", "caffe"), "is one of torch, compile"),
        (("--size", "64"), "height x width"),
        (("--turns", "0"), "--turns"),
    ],
)
def test_options_that_cannot_be_are_refused(spec, words, message):
    done = detc_bench(f"{spec}:mine", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_package_that_is_missing_is_named(spec, monkeypatch):
    from detc.cli.bench import _check_engines

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DiagnosticError) as error:
        _check_engines(("openvino",))
    assert error.value.diagnostics[0].detail == "pip install 'detc[openvino]'"
