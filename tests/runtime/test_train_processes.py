"""Runs of several processes: the steps of one with all images, one set of figures, an end for all when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import voc_folder
from safetensors.torch import load_file

from detc.runtime.data.loading import EpochBatches
from detc.runtime.training.run import Run

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors, Detection from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, RandomFlip from "lib/data.det"
import Schedule, SGD from "lib/schedules.det"

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16, detection = Detection(score = 0.0),
                          anchors = Anchors(octave_scale = 2.0, octaves = 2, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", augment = [Resize([96, 64]), RandomFlip()],
                   resize = Resize([96, 64]), batch = 4)
    schedule = Schedule(epochs = 2, optimizer = SGD(0.02), batch = 8, clip = 10.0)
}
detector bursts = tiny with { schedule.optimizer.lr = 99.0  schedule.clip = none }
detector long = tiny with { schedule.epochs = 1000 }
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    voc_folder(folder / "data", {"train": 11, "val": 3, "test": 3})
    (folder / "tiny.det").write_text(SPEC)
    return folder / "tiny.det"


def command(spec: Path, name: str, output: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "detc", "train", f"{spec}:{name}", "--from-scratch", "--workers", "0"]
    return [*start, "--output", str(output), *options]


def detc_train(spec: Path, name: str, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(spec, name, output, *options), check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


def started(spec: Path, output: Path) -> subprocess.Popen[str]:
    """A long run of two processes that has saved its state once."""
    running = subprocess.Popen(
        command(spec, "long", output, "--devices", "2", "--batch", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    until = time.monotonic() + 120
    while not (output / "last.ckpt").exists():
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    return running


def test_two_processes_take_the_steps_of_one_with_all_images(spec, tmp_path):
    done = detc_train(spec, "tiny", tmp_path / "two", "--devices", "2", "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best AP") == 1
    assert "2 processes of 2 images" in done.stderr
    assert "0.02 for 8 images is 0.01 for 4" in done.stderr
    alone = detc_train(spec, "tiny", tmp_path / "one", "--batch", "4")
    assert alone.returncode == 0, alone.stderr
    two, one = Run(tmp_path / "two"), Run(tmp_path / "one")
    for mine, theirs in zip(two.rows("training.csv"), one.rows("training.csv"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    weights = load_file(one.last_weights)
    for key, tensor in load_file(two.last_weights).items():
        torch.testing.assert_close(tensor, weights[key], rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(two.rows("evaluations.csv"), one.rows("evaluations.csv"), strict=True):
        assert mine == pytest.approx(theirs, abs=0.02, nan_ok=True)
    assert json.loads((two.folder / "run.json").read_text())["options"]["processes"] == 2


def test_weights_in_parts_take_the_same_steps_and_go_on(spec, tmp_path):
    together = ("--devices", "2", "--batch", "2")
    whole = detc_train(spec, "tiny", tmp_path / "whole", *together)
    assert whole.returncode == 0, whole.stderr
    parts = detc_train(spec, "tiny", tmp_path / "parts", *together, "--strategy", "fsdp", "--epochs", "1")
    assert parts.returncode == 0, parts.stderr
    more = detc_train(spec, "tiny", tmp_path / "parts", *together, "--strategy", "fsdp", "--resume")
    assert more.returncode == 0, more.stderr
    one, other = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    for mine, theirs in zip(one.rows("training.csv"), other.rows("training.csv"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    weights = load_file(one.best_weights)
    found = load_file(other.best_weights)
    assert weights.keys() == found.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, found[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strategy", "fsdp"), "needs more than one process"),
        (("--strategy", "zero"), "is one of ddp, fsdp"),
        (("--accumulate", "0"), "must be at least 1"),
    ],
)
def test_strategies_that_cannot_be_are_refused(spec, tmp_path, options, message):
    done = detc_train(spec, "tiny", tmp_path / "run", *options)
    assert done.returncode == 1
    assert message in done.stderr


def test_one_process_that_fails_ends_all_and_says_why_once(spec, tmp_path):
    done = detc_train(spec, "bursts", tmp_path / "run", "--devices", "2", "--batch", "2")
    assert done.returncode == 1
    assert done.stderr.count("non-finite-loss") == 1
    assert "Traceback" not in done.stderr


def test_a_killed_process_ends_all_with_the_cause(spec, tmp_path):
    running = started(spec, tmp_path / "run")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "process-lost" in said and "SIGKILL" in said
    assert "Traceback" not in said


def test_an_interrupted_run_saves_and_goes_on_with_as_many_processes(spec, tmp_path):
    running = started(spec, tmp_path / "run")
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert said.count("stopped and saved") == 1
    step = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    refused = detc_train(spec, "long", tmp_path / "run", "--batch", "2", "--resume", "--epochs", "1")
    assert refused.returncode == 1
    assert "processes was 2, is 1" in refused.stderr
    epochs = str(step // 3 + 2)
    again = detc_train(spec, "long", tmp_path / "run", "--devices", "2", "--batch", "2", "--resume", "--epochs", epochs)
    assert again.returncode == 0, again.stderr
    assert f"resumed at step {step}" in again.stderr


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_parts_of_batches_are_those_of_one_process_with_all_images(processes):
    wide = [True] * 9 + [False] * 8
    whole = list(EpochBatches(wide, 2 * processes, seed=3))
    parts = [list(EpochBatches(wide, 2, seed=3, rank=rank, processes=processes)) for rank in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, common in enumerate(whole):
        joined = [draw for part in parts for draw in part[number]]
        sizes = [len(part[number]) for part in parts]
        assert joined[: len(common)] == common
        # Only where there is less than an image for each is one given twice.
        assert len(joined) == max(len(common), processes)
        assert max(sizes) - min(sizes) <= 1
    drawn = [draw[2] for part in parts for batch in part for draw in batch]
    assert set(drawn) == set(np.arange(17))
