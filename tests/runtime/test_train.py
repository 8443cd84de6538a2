"""Training runs on drawn images: what they leave, how they stop, that they go on as if they had not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
import typer
from drawn import voc_folder
from safetensors.torch import load_file, save_file
from threads import threads

import detc
from detc.cli.evaluate import evaluate as eval_command
from detc.cli.predict import predict as predict_command
from detc.compiler.values import Record
from detc.dsl.catalogue.data import IMAGE_UNREADABLE
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.images import read_image
from detc.runtime.files import write_whole
from detc.runtime.train import Trained, TrainOptions, train
from detc.runtime.training.module import DetectorModule
from detc.runtime.training.run import Run
from detc.runtime.training.schedule import LinearWarmup, Schedule, StepDecay, schedule_settings

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors, Detection from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, RandomFlip from "lib/data.det"
import Schedule, SGD, StepDecay, LinearWarmup from "lib/schedules.det"

detector tiny : SingleStage {
    backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = -1, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16, detection = Detection(score = 0.0),
                          anchors = Anchors(octave_scale = 2.0, octaves = 2, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", augment = [Resize([96, 64]), RandomFlip()],
                   resize = Resize([96, 64]), batch = 4)
    schedule = Schedule(epochs = 3, optimizer = SGD(0.02), decay = StepDecay([2]), warmup = LinearWarmup(4), batch = 8,
                        clip = 10.0, evaluate_every = 2)
}

detector from_imagenet = tiny with { pretrained = "torchvision://resnet18" }
detector too_fast = tiny with { schedule.optimizer.lr = 99.0  schedule.clip = none }
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they bring in networks as small as these."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    voc_folder(folder / "data", {"train": 14, "val": 3, "test": 3})
    (folder / "tiny.det").write_text(SPEC)
    return folder / "tiny.det"


def run(spec: Path, output: Path, name: str = "tiny", **options) -> Trained:
    return train(detc.load(spec, name), TrainOptions(output=output, workers=0, **options), lambda warnings: None)


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory) -> Run:
    """A run of three epochs of four steps."""
    return run(spec, tmp_path_factory.mktemp("runs") / "whole").run


def slug(error: pytest.ExceptionInfo[DiagnosticError]) -> str:
    return error.value.diagnostics[0].kind.slug


def test_a_run_leaves_spec_tables_curves_pictures_and_weights(spec, finished):
    described = json.loads((finished.folder / "run.json").read_text())
    assert described["options"]["detector"] == "tiny"
    assert described["options"]["spec_hash"] == detc.load(spec, "tiny").hash
    assert described["versions"]["torch"] == torch.__version__
    assert (finished.folder / "spec.det").read_text() == SPEC
    rows = finished.rows("training.csv")
    assert rows[-1]["step"] == 12
    assert set(rows[0]) == {"step", "epoch", "lr", "loss", "loss_cls", "loss_bbox"}
    assert rows[-1]["loss"] < rows[0]["loss"]
    # Evaluated after the second epoch and, always, at the end; the saved state knows of both.
    evaluations = finished.rows("evaluations.csv")
    assert [row["epoch"] for row in evaluations] == [2, 3]
    best = torch.load(finished.state, weights_only=True)["callbacks"]["Checkpoints"]["best"]
    assert best == pytest.approx(max(row["AP"] for row in evaluations), abs=1e-5)
    assert {"AP", "AP50", "VOC_AP50", "VOC07_AP50"} <= set(evaluations[0])  # the data is in VOC's form
    assert cv2.imread(str(finished.folder / "curves.png")) is not None
    assert len(list((finished.folder / "pictures").iterdir())) == 2
    assert list((finished.folder / "tensorboard").glob("events*"))
    detector = detc.load(spec, "tiny")
    assert set(load_file(finished.last_weights)) <= set(detector.modules("train")["train"].state_dict())


def test_the_rate_is_rescaled_to_the_batch_warmed_up_and_decayed(finished):
    rates = {row["step"]: row["lr"] for row in finished.rows("training.csv")}
    assert rates[4] == pytest.approx(0.02 * 4 / 8)
    assert rates[12] == pytest.approx(0.001)


@pytest.mark.parametrize("stop_at", [0, 3, 6])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(spec, finished, tmp_path, monkeypatch, stop_at):
    step = DetectorModule.training_step

    def interrupted_step(self, batch, index):
        if self.global_step == stop_at:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(DetectorModule, "training_step", interrupted_step)
    stopped = run(spec, tmp_path / "run")
    assert stopped.interrupted
    monkeypatch.setattr(DetectorModule, "training_step", step)
    resumed = run(spec, tmp_path / "run", resume=True)
    assert not resumed.interrupted
    whole, again = load_file(finished.last_weights), load_file(resumed.run.last_weights)
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    tables = [run.folder / "evaluations.csv" for run in (finished, resumed.run)]
    assert tables[0].read_text() == tables[1].read_text()
    assert [row["step"] for row in resumed.run.rows("training.csv")][-1] == 12


def test_the_seed_decides_everything(spec, finished, tmp_path):
    again, other = run(spec, tmp_path / "a", epochs=1), run(spec, tmp_path / "b", epochs=1, seed=1)
    first = [row for row in finished.rows("training.csv") if row["step"] <= 4]
    assert again.run.rows("training.csv") == first
    assert other.run.rows("training.csv") != first


def test_a_loss_that_is_not_finite_names_batch_and_term_and_keeps_the_weights(spec, tmp_path):
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "run", "too_fast")
    assert slug(error) == "non-finite-loss"
    diagnostic = error.value.diagnostics[0]
    assert "loss_" in diagnostic.summary
    assert "the first result that is not finite is that of Conv2d backbone." in diagnostic.notes[0]
    assert diagnostic.labels[0].text == "the first result that is not finite"
    assert "img_" in diagnostic.notes[2]
    # What was kept shows the fault again.
    module = detc.load(spec, "too_fast").modules("train")["train"]
    module.load_state_dict(load_file(tmp_path / "run" / "nonfinite.safetensors"))
    batch = load_file(tmp_path / "run" / "nonfinite-batch.safetensors")
    terms = module.train()(**{n.name: batch[n.name] for n in module.graph.nodes if n.op == "placeholder"})
    assert not all(torch.isfinite(value).all() for values in terms.values() for value in values)


def test_pretrained_weights_that_are_not_given_are_asked_for(spec, tmp_path):
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "run", "from_imagenet")
    assert slug(error) == "pretrained-missing"
    assert not (tmp_path / "run").exists()
    assert not run(spec, tmp_path / "run", "from_imagenet", from_scratch=True, epochs=1).interrupted


def test_weights_are_the_start_of_a_run(spec, finished, tmp_path):
    tuned = run(spec, tmp_path / "run", weights=finished.last_weights, epochs=1)
    assert tuned.run.rows("training.csv")[0]["loss"] < finished.rows("training.csv")[0]["loss"]


def test_runs_are_neither_overwritten_nor_continued_otherwise(spec, finished, tmp_path):
    with pytest.raises(DiagnosticError) as error:
        run(spec, finished.folder)
    assert slug(error) == "run-exists"
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "nothing", resume=True)
    assert slug(error) == "cannot-resume"
    with pytest.raises(DiagnosticError) as error:
        run(spec, finished.folder, resume=True, batch=2, epochs=9)
    assert slug(error) == "cannot-resume"
    assert "batch was 4, is 2" in error.value.diagnostics[0].summary
    with pytest.raises(DiagnosticError) as error:
        run(spec, finished.folder, resume=True)
    assert slug(error) == "cannot-resume"


def test_an_image_that_goes_while_it_is_needed_is_named(spec, tmp_path, monkeypatch):
    def lost(path, size):
        raise DiagnosticError(IMAGE_UNREADABLE.at(None, f"{path}: gone"))

    monkeypatch.setattr("detc.runtime.data.loading.read_image", lost)
    with pytest.raises(DiagnosticError) as error:
        train(detc.load(spec, "tiny"), TrainOptions(output=tmp_path / "run", workers=1), lambda warnings: None)
    assert slug(error) == "image-unreadable"


def test_a_loader_process_that_is_killed_is_said_to_be(spec, tmp_path, monkeypatch):
    main = os.getpid()

    def killed(path, size):
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(path, size)

    monkeypatch.setattr("detc.runtime.data.loading.read_image", killed)
    with pytest.raises(DiagnosticError) as error:
        train(detc.load(spec, "tiny"), TrainOptions(output=tmp_path / "run", workers=1), lambda warnings: None)
    assert slug(error) == "worker-lost"


def test_a_damaged_state_cannot_be_resumed(spec, tmp_path):
    done = run(spec, tmp_path / "run", epochs=1).run
    done.state.write_bytes(done.state.read_bytes()[:1000])
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "run", resume=True)
    assert slug(error) == "cannot-resume"


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch": -1}, {"workers": -1}, {"seed": -5}])
def test_impossible_options_are_refused(spec, tmp_path, options):
    with pytest.raises(DiagnosticError) as error:
        train(detc.load(spec, "tiny"), TrainOptions(output=tmp_path / "run", **options), lambda warnings: None)
    assert slug(error) == "bad-option"


def test_trained_weights_are_evaluated_and_predicted_with(spec, finished, tmp_path, capsys):
    name = f"{spec}:tiny"
    eval_command(name, finished.last_weights, split="test", output=tmp_path / "eval", workers=0)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["images"] == 3
    assert [row["name"] for row in metrics["classes"]] == ["square", "disc"]
    assert "AP50" in capsys.readouterr().out
    images = spec.parent / "data" / "JPEGImages"
    predict_command(name, [str(images / "img_000.jpg")], tmp_path / "found", finished.last_weights, 0.0)
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(content["annotations"]) > 0
    assert cv2.imread(str(tmp_path / "found" / "img_000.jpg")).shape == (64, 96, 3)


@pytest.mark.parametrize("classes", [("disc", "square"), ("cat", "dog")])
def test_weights_of_other_classes_are_refused(spec, finished, tmp_path, classes, capsys):
    weights = tmp_path / "other.safetensors"
    save_file(load_file(finished.last_weights), weights, {"classes": json.dumps(classes)})
    with pytest.raises(DiagnosticError) as error:
        eval_command(f"{spec}:tiny", weights, split="test", report=tmp_path / "report", workers=0)
    assert slug(error) == "class-lists-differ"
    assert ", ".join(classes) in error.value.diagnostics[0].notes[1]
    assert not (tmp_path / "report").exists()
    assert "AP" not in capsys.readouterr().out


def test_an_evaluation_writes_a_report_where_one_is_wanted(spec, finished, tmp_path, capsys):
    folder = tmp_path / "report"
    eval_command(f"{spec}:tiny", finished.last_weights, split="test", report=folder, score=0.25, workers=0)
    out = capsys.readouterr().out
    assert "report.html, report.json, classes.csv" in out
    assert "VOC07 AP50" in out and "classification" not in out
    content = json.loads((folder / "report.json").read_text())
    assert content["title"] == "tiny on test"
    assert content["analysis"]["score"] == 0.25
    assert content["analysis"]["AP50"] == content["metrics"]["AP50"]
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("options", [{"measure": False, "output": Path("x"), "report": Path("y")}, {"score": 0.5}])
def test_a_report_needs_metrics(options):
    with pytest.raises(typer.BadParameter, match="report"):
        eval_command("any.det", Path("weights"), **options)


def test_lr_factor_warms_up_evenly_and_decays_after_its_epochs():
    fields = {
        "epochs": 12,
        "optimizer": Record("SGD", {"lr": 0.01}),
        "decay": Record("StepDecay", {"at": (8, 11), "factor": 0.1}),
        "warmup": Record("LinearWarmup", {"length": 500, "unit": "iterations", "start": 0.001}),
        "batch": 16,
        "epoch_images": None,
        "clip": None,
        "precision": "float32",
        "evaluate_every": 1,
    }
    schedule = schedule_settings(Record("Schedule", fields))
    assert isinstance(schedule, Schedule)
    assert schedule.decay == StepDecay((8, 11))
    assert schedule.lr_factor(0, 1000) == pytest.approx(0.001)
    assert schedule.lr_factor(250, 1000) == pytest.approx(0.5005)
    assert schedule.lr_factor(500, 1000) == 1
    assert schedule.lr_factor(7999, 1000) == 1
    assert schedule.lr_factor(8000, 1000) == pytest.approx(0.1)
    assert schedule.lr_factor(11500, 1000) == pytest.approx(0.01)
    by_epoch = schedule_settings(
        Record("Schedule", {**fields, "warmup": Record("LinearWarmup", {"length": 1, "unit": "epochs", "start": 0.1})})
    )
    assert by_epoch.warmup == LinearWarmup(1, "epochs", 0.1)
    assert by_epoch.lr_factor(500, 1000) == pytest.approx(0.55)
    assert by_epoch.lr_factor(1000, 1000) == 1


def test_the_published_schedules_are_what_the_reference_trains_with():
    schedule = schedule_settings(detc.load("specs/nas_fpn.det", "retinanet_r50_nasfpn_crop640_50e").schedule)
    assert (schedule.epochs, schedule.batch, schedule.optimizer.lr) == (50, 64, 0.08)
    assert schedule.optimizer.norm_decay == 0
    assert schedule.lr_factor(0, 2000) == pytest.approx(0.1)
    assert [schedule.lr_factor(2000 * epoch, 2000) for epoch in (29, 30, 40)] == pytest.approx([1, 0.1, 0.01])
    simpledet = schedule_settings(detc.load("specs/simpledet.det").schedule)
    assert simpledet.epoch_images == 15272 * 16


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("before")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiagnosticError) as error:
        write_whole(path, fail)
    assert slug(error) == "cannot-write"
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
