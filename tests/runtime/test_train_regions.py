"""Runs of two-stage detectors on drawn images: masks and proposals through training, evaluation and prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import coco_file, voc_folder
from threads import threads

import detc
from detc.cli.evaluate import evaluate as eval_command
from detc.cli.predict import predict as predict_command
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import read_checkpoint
from detc.runtime.data.proposals import read_proposals
from detc.runtime.train import Trained, TrainOptions, train

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RPNHead, Proposals, AnchorSampling from "lib/proposals.det"
import RegionHead, RegionBoxes, RegionMasks, RegionSampling from "lib/regions.det"
import Anchors, Detection from "lib/heads.det"
import ProposalNetwork, TwoStage, GivenProposals from "lib/models.det"
import Data, Coco, Lvis, Voc, Resize, RandomFlip from "lib/data.det"
import Schedule, SGD, LinearWarmup from "lib/schedules.det"

let backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = -1, channels = 8)
let neck = FPN(16)
let rpn = RPNHead(channels = 16, anchors = Anchors(octave_scale = 4.0, octaves = 1, ratios = [1.0]))
let boxes = RegionBoxes(features = 32)
let drawn = Data(
    classes = ["square", "disc"],
    root = "data",
    train = [Coco("annotations.json", "images", "train.npz")],
    val = [Coco("annotations.json", "images", "val.json")],
    test = [Coco("annotations.json", "images", "val.json")],
    augment = [Resize([96, 64]), RandomFlip()],
    resize = Resize([96, 64]),
    batch = 4
)
let short = Schedule(epochs = 2, optimizer = SGD(0.02), warmup = LinearWarmup(4), batch = 4, clip = 10.0)

detector rpn_alone : ProposalNetwork {
    backbone = backbone  neck = neck  head = rpn  proposals = Proposals(keep = 50)
    data = drawn  schedule = short
}
detector fast : GivenProposals {
    backbone = backbone  neck = neck
    head = RegionHead(box = boxes, sampling = RegionSampling(count = 32), detection = Detection(score = 0.0))
    data = drawn  schedule = short
}
detector masks : TwoStage {
    backbone = backbone  neck = neck  rpn = rpn
    head = RegionHead(box = boxes, mask = RegionMasks(convs = 1, channels = 8), sampling = RegionSampling(count = 32),
                      detection = Detection(score = 0.0, keep = 20))
    data = drawn  schedule = short
}
detector empty_too = masks with { data.keep_empty = true }
detector on_voc = masks with { data.train = [Voc("train", "voc")] }
detector numbered = masks with { data.classes = 2  data.oversample = 0.5  data.repeat = 2  schedule.epochs = 1 }
detector miscounted = masks with { data.classes = 1230 }
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    coco_file(folder / "data", 8)
    (folder / "two.det").write_text(SPEC)
    return folder / "two.det"


def run(spec: Path, output: Path, name: str, **options) -> Trained:
    return train(detc.load(spec, name), TrainOptions(output=output, workers=0, **options), lambda warnings: None)


def slug(error: pytest.ExceptionInfo[DiagnosticError]) -> str:
    return error.value.diagnostics[0].kind.slug


@pytest.fixture(scope="module")
def masked(spec, tmp_path_factory) -> Trained:
    return run(spec, tmp_path_factory.mktemp("runs") / "masks", "masks")


def test_masks_are_trained_evaluated_and_drawn(masked):
    rows = masked.run.rows("training.csv")
    assert "loss_mask" in rows[0]
    assert rows[-1]["loss_mask"] < 5
    (first, *_) = masked.run.rows("evaluations.csv")
    assert {"AP", "mask_AP", "mask_AP50"} <= set(first)
    assert cv2.imread(str(masked.run.folder / "pictures" / "epoch-002.jpg")) is not None
    assert cv2.imread(str(masked.run.folder / "curves.png")) is not None


def test_masks_are_written_by_eval_and_predict(spec, masked, tmp_path, capsys):
    eval_command(f"{spec}:masks", masked.run.last_weights, output=tmp_path / "eval", workers=0)
    printed = capsys.readouterr().out
    assert "box and mask metrics" in printed
    assert "mask AP" in printed
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results
    assert all(result["segmentation"]["size"] == [64, 96] for result in results)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())["metrics"]
    assert "mask_AP" in metrics
    images = spec.parent / "data" / "images"
    predict_command(f"{spec}:masks", [str(images / "0.png")], tmp_path / "found", masked.run.last_weights, 0.0)
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert all(isinstance(a["segmentation"]["counts"], str) for a in content["annotations"])


def test_proposals_of_one_detector_train_another(spec, tmp_path, capsys):
    proposing = run(spec, tmp_path / "rpn", "rpn_alone")
    assert proposing.metric == "AR1000"
    assert {"AR100", "AR300", "AR1000"} <= set(proposing.run.rows("evaluations.csv")[0])
    for split, output in (("train", "train"), ("val", "val")):
        eval_command(
            f"{spec}:rpn_alone",
            proposing.run.last_weights,
            split=split,
            output=tmp_path / output,
            workers=0,
            measure=False,
        )
        assert [path.name for path in (tmp_path / output).iterdir()] == ["proposals.npz"]
    eval_command(f"{spec}:rpn_alone", proposing.run.last_weights, output=tmp_path / "measured", workers=0)
    assert "recall of proposals" in capsys.readouterr().out
    data = spec.parent / "data"
    (data / "train.npz").write_bytes((tmp_path / "train" / "proposals.npz").read_bytes())
    (data / "val.json").write_bytes((tmp_path / "measured" / "results.json").read_bytes())
    sizes = dict.fromkeys(range(100, 108), (96, 64))
    one, other = (read_proposals(data / name, sizes, 50) for name in ("train.npz", "val.json"))
    assert all(np.abs(one[number].boxes - other[number].boxes).max() < 0.01 for number in sizes)

    done = run(spec, tmp_path / "fast", "fast")
    assert set(done.run.rows("training.csv")[0]) >= {"loss_cls", "loss_bbox"}
    eval_command(f"{spec}:fast", done.run.last_weights, output=tmp_path / "eval", workers=0)
    assert json.loads((tmp_path / "eval" / "results.json").read_text())
    with pytest.raises(DiagnosticError) as error:
        predict_command(f"{spec}:fast", [str(data / "images" / "0.png")], tmp_path / "no", done.run.last_weights, 0.0)
    assert slug(error) == "proposals-missing"
    (data / "train.npz").unlink()
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "again", "fast")
    assert slug(error) == "data-missing"


def test_masks_asked_of_voc_are_refused_before_anything_is_trained(spec, tmp_path):
    voc_folder(spec.parent / "data" / "voc", {"train": 2})
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "run", "on_voc")
    assert slug(error) == "masks-missing"
    assert not (tmp_path / "run").exists()


def test_batches_without_an_object_are_trained_on(spec, tmp_path):
    root = tmp_path / "data"
    coco_file(root, 8)
    content = json.loads((root / "annotations.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 100]
    for a in list(content["annotations"]):
        a["category_id"] = 3
        content["annotations"].append({**a, "id": 50 + a["id"], "category_id": 7})
    (root / "annotations.json").write_text(json.dumps(content))
    done = run(spec, tmp_path / "run", "empty_too", data=root, batch=1, epochs=1)
    rows = done.run.rows("training.csv")
    assert rows[-1]["step"] == 8
    assert all(np.isfinite(value) for row in rows for value in row.values())


def test_a_number_of_classes_becomes_the_names_of_the_data(spec, tmp_path, capsys):
    done = run(spec, tmp_path / "run", "numbered")
    # Squares and discs are both in more than half of the images: nothing is oversampled, and two passes are 16 images.
    assert done.run.rows("training.csv")[-1]["step"] == 4
    assert read_checkpoint(done.run.last_weights).classes == ("square", "disc")
    assert "AP50 disc" in done.run.rows("evaluations.csv")[0]
    eval_command(f"{spec}:numbered", done.run.last_weights, output=tmp_path / "eval", workers=0)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert [row["name"] for row in metrics["classes"]] == ["square", "disc"]
    images = spec.parent / "data" / "images"
    predict_command(f"{spec}:numbered", [str(images / "0.png")], tmp_path / "found", done.run.last_weights, 0.0)
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["square", "disc"]
    with pytest.raises(DiagnosticError) as error:
        run(spec, tmp_path / "other", "miscounted")
    assert slug(error) == "classes-mismatch"
    assert "1230" in error.value.diagnostics[0].summary
