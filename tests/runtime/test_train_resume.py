"""Runs that are killed at any moment go on to the same weights, to the bit, as one that was not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drawn import coco_file
from safetensors.torch import load_file
from threads import threads

import detc
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.train import TrainOptions, train
from detc.runtime.training.run import Run

# Everything in a run that has a state: momentum and its kin, an average, statistics, samplers, accumulated gradients.
SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RPNHead from "lib/proposals.det"
import RegionHead, RegionBoxes, RegionSampling from "lib/regions.det"
import Anchors, Detection from "lib/heads.det"
import TwoStage from "lib/models.det"
import Data, Coco, RandomResize, RandomFlip, Resize from "lib/data.det"
import Schedule, AdamW, CosineDecay, ExponentialWarmup, MovingAverage, EarlyStop from "lib/schedules.det"

detector tiny : TwoStage {
    backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = -1, channels = 8)
    neck = FPN(16)
    rpn  = RPNHead(channels = 16, anchors = Anchors(octave_scale = 4.0, octaves = 1, ratios = [1.0]))
    head = RegionHead(box = RegionBoxes(features = 32), sampling = RegionSampling(count = 8),
                      detection = Detection(score = 0.0, keep = 20))
    data = Data(["square", "disc"], "data", [Coco("annotations.json", "images")], [Coco("annotations.json", "images")],
                augment = [RandomResize([96, 64]), RandomFlip()], resize = Resize([96, 64]), batch = 2)
    schedule = Schedule(epochs = 2, optimizer = AdamW(0.001), decay = CosineDecay(), warmup = ExponentialWarmup(2),
                        batch = 4, accumulate = 2, clip = 10.0, average = MovingAverage(0.9, ramp = 4.0),
                        stop = EarlyStop(patience = 50))
}
"""
KILLED = Path(__file__).parent.parent / "support" / "killed.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    coco_file(folder / "data", 10)
    (folder / "tiny.det").write_text(SPEC)
    return folder / "tiny.det"


def go_on(spec: Path, output: Path, resume: bool) -> Run:
    options = TrainOptions(output=output, workers=0, resume=resume)
    return train(detc.load(spec), options, lambda warnings: None).run


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory) -> Run:
    """Two epochs of five batches, which are three steps."""
    run = go_on(spec, tmp_path_factory.mktemp("runs") / "whole", resume=False)
    assert run.rows("training.csv")[-1]["step"] == 6
    return run


def killed(spec: Path, output: Path, moment: str, time: int, *more: str) -> None:
    command = [sys.executable, str(KILLED), str(spec), "tiny", str(output), moment, str(time), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -9, done.stderr


# The files of this run: spec, graph, run, two tables; in each epoch pictures, best, curves, last, and the state.
@pytest.mark.parametrize(
    ("moment", "time"),
    [("step", 7), ("begun", 12), ("renamed", 12), ("written", 14), ("begun", 15), ("written", 15), ("row", 3)],
)
def test_a_killed_run_goes_on_to_the_same_weights(spec, whole, tmp_path, moment, time):
    output = tmp_path / "run"
    killed(spec, output, moment, time)
    assert Run(output).state.exists()
    again = go_on(spec, output, resume=True)
    _same(whole, again)
    assert not list(output.glob(".writing-*"))


def test_a_run_that_was_killed_before_its_first_save_cannot_go_on(spec, tmp_path):
    killed(spec, tmp_path / "run", "begun", 10)
    with pytest.raises(DiagnosticError, match=r"has no last\.ckpt"):
        go_on(spec, tmp_path / "run", resume=True)


def test_a_run_is_killed_time_and_again(spec, whole, tmp_path):
    output = tmp_path / "run"
    killed(spec, output, "step", 6)
    killed(spec, output, "row", 1, "--resume")
    killed(spec, output, "step", 2, "--resume")
    _same(whole, go_on(spec, output, resume=True))


def _same(whole: Run, again: Run) -> None:
    for mine, theirs in ((whole.last_weights, again.last_weights), (whole.best_weights, again.best_weights)):
        one, other = load_file(mine), load_file(theirs)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert (whole.folder / "evaluations.csv").read_text() == (again.folder / "evaluations.csv").read_text()
    assert whole.rows("training.csv")[-1] == again.rows("training.csv")[-1]
