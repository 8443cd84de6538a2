"""Schedules: the learning rate over time, which weights get which rate and decay, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drawn import voc_folder
from safetensors.torch import load_file
from threads import threads

import detc
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.evaluate import metric_names
from detc.runtime.predict import data_of
from detc.runtime.train import Trained, TrainOptions, train, training_settings
from detc.runtime.training.callbacks import Checkpoints
from detc.runtime.training.optimizer import SGD, AdamW, ParameterGroup
from detc.runtime.training.schedule import (
    CosineDecay,
    ExponentialWarmup,
    LinearWarmup,
    MovingAverage,
    PolynomialDecay,
    Schedule,
    StepDecay,
    schedule_settings,
)

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors, Detection from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize, RandomFlip from "lib/data.det"
import Schedule, SGD, AdamW, ParameterGroup, CosineDecay, MovingAverage, EarlyStop from "lib/schedules.det"

detector tiny : SingleStage {
    backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = -1, channels = 8)
    neck     = FPN(16, levels = 3..5)
    head     = RetinaHead(stacked = 1, channels = 16, detection = Detection(score = 0.0),
                          anchors = Anchors(octave_scale = 2.0, octaves = 2, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", augment = [Resize([96, 64]), RandomFlip()],
                   resize = Resize([96, 64]), batch = 4)
    schedule = Schedule(epochs = 2, optimizer = SGD(0.02), batch = 4, clip = 10.0)
}
detector averaged = tiny with { schedule.average = MovingAverage(0.5, ramp = 0.0) }
detector stuck = tiny with {
    schedule.epochs = 9  schedule.optimizer = SGD(0.0000001)  schedule.stop = EarlyStop(2, margin = 0.5)
}
detector grouped = tiny with {
    schedule.optimizer = AdamW(0.001, norm_decay = 0.0, bias_lr = 2.0, groups = [
        ParameterGroup("backbone", lr = 0.1), ParameterGroup("backbone.layer4", lr = 0.5, decay = 0.0),
    ])
}
detector nowhere = tiny with { schedule.optimizer = SGD(0.01, groups = [ParameterGroup("backbon")]) }
detector half = tiny with { schedule.precision = "bfloat16"  schedule.float32 = ["bbox_head"] }
detector nothing_below = tiny with { schedule.float32 = ["bbox_haed"] }
detector by_ap50 = tiny with { schedule.metric = "VOC_AP50" }
detector by_masks = tiny with { schedule.metric = "mask_AP" }
detector two_decays = tiny with { schedule.decay = CosineDecay(first = 2.0, last = 1.0) }
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    voc_folder(folder / "data", {"train": 8, "val": 3, "test": 3})
    (folder / "tiny.det").write_text(SPEC)
    return folder / "tiny.det"


def run(spec: Path, output: Path, name: str, **options) -> Trained:
    return train(detc.load(spec, name), TrainOptions(output=output, workers=0, **options), lambda warnings: None)


def schedule(**changes: object) -> Schedule:
    fields = {"epochs": 10, "optimizer": SGD(lr=0.01), "decay": None, "warmup": None, "batch": 16}
    rest = {"epoch_images": None, "clip": None, "precision": "float32", "evaluate_every": 1}
    return Schedule(**{**fields, **rest, **changes})


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        (None, {0: 1, 999: 1}),
        (StepDecay((3, 7)), {299: 1, 300: 0.1, 700: 0.01}),
        (CosineDecay(), {0: 1, 250: (1 + 2**-0.5) / 2, 500: 0.5, 1000: 0}),
        (CosineDecay(end=0.1, first=2.0, last=6.0), {150: 1, 200: 1, 400: 0.55, 600: 0.1, 900: 0.1}),
        (PolynomialDecay(), {0: 1, 250: 0.75, 1000: 0}),
        (PolynomialDecay(power=2.0, end=0.2), {500: 0.2 + 0.8 * 0.25, 1000: 0.2}),
    ],
)
def test_decays(decay, factors):
    with_decay = schedule(decay=decay)
    assert {step: with_decay.lr_factor(step, 100) for step in factors} == pytest.approx(factors)


@pytest.mark.parametrize(
    ("warmup", "factors"),
    [
        (LinearWarmup(10, start=0.1), {0: 0.1, 5: 0.55, 10: 1, 50: 1}),
        (ExponentialWarmup(10, start=0.01), {0: 0.01, 5: 0.1, 10: 1, 50: 1}),
        (ExponentialWarmup(2, "epochs", start=0.0001), {0: 0.0001, 50: 0.001, 100: 0.01, 200: 1}),
    ],
)
def test_warmups(warmup, factors):
    with_warmup = schedule(warmup=warmup)
    assert {step: with_warmup.lr_factor(step, 100) for step in factors} == pytest.approx(factors)


def test_warmup_and_decay_multiply():
    both = schedule(decay=PolynomialDecay(), warmup=LinearWarmup(100, start=0.0))
    assert both.lr_factor(50, 100) == pytest.approx(0.5 * 0.95)


@pytest.mark.parametrize(
    ("path", "key", "named"),
    [
        ("backbone", "backbone.layer1.0.conv1.weight", True),
        ("layer1.0", "backbone.layer1.0.conv1.weight", True),
        ("layer1", "backbone.layer10.0.conv1.weight", False),
        ("norm*", "backbone.stages.0.norm1.weight", True),
        ("layer1.conv1", "backbone.layer1.0.conv1.weight", False),
        ("conv1.weight.x", "backbone.layer1.0.conv1.weight", False),
    ],
)
def test_groups_name_labels_in_a_row(path, key, named):
    assert ParameterGroup(path).names(key) is named


def test_a_weight_has_the_multipliers_of_the_longest_path():
    groups = (ParameterGroup("backbone", lr=0.1), ParameterGroup("backbone.stem", lr=0.5, decay=0.0))
    optimizer = AdamW(lr=0.01, weight_decay=0.05, norm_decay=0.0, bias_lr=2.0, bias_decay=0.5, groups=groups)
    expected = {
        "backbone.conv.weight": (0.1, 1.0),
        "backbone.bn.weight": (0.1, 1.0),
        "backbone.stem.bias": (0.5, 0.0),
        "neck.bn.weight": (1.0, 0.0),
        "neck.bn.bias": (1.0, 0.0),
        "neck.conv.weight": (1.0, 1.0),
        "neck.conv.bias": (2.0, 0.5),
    }
    norms = {"backbone.bn.weight", "neck.bn.weight", "neck.bn.bias"}
    assert {key: optimizer.multipliers(key, norms) for key in expected} == expected
    parameters = [(key, torch.nn.Parameter(torch.zeros(1))) for key in expected]
    built = optimizer.build(optimizer.parameter_groups(parameters, norms, lr=0.02))
    assert isinstance(built, torch.optim.AdamW)
    group_of = {id(parameter): group for group in built.param_groups for parameter in group["params"]}
    rates = {key: (group_of[id(p)]["lr"], group_of[id(p)]["weight_decay"]) for key, p in parameters}
    assert rates["backbone.conv.weight"] == pytest.approx((0.002, 0.05))
    assert rates["neck.conv.bias"] == pytest.approx((0.04, 0.025))
    assert sum(len(g["params"]) for g in built.param_groups) == len(expected)


def test_the_average_of_weights_is_evaluated_and_left(spec, tmp_path, monkeypatch):
    seen = []
    after = Checkpoints.on_train_batch_end

    def remembering(self, trainer, module, *rest):
        seen.append({key: value.clone() for key, value in module.weights().items()})
        after(self, trainer, module, *rest)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", remembering)
    done = run(spec, tmp_path / "run", "averaged")
    average = seen[0]
    for weights in seen[1:]:
        average = {
            key: average[key] + 0.5 * (value - average[key]) if value.is_floating_point() else value
            for key, value in weights.items()
        }
    left = load_file(done.run.last_weights)
    for key, value in left.items():
        torch.testing.assert_close(value, average[key])
    assert not torch.equal(left["neck.fpn_convs.0.conv.weight"], seen[-1]["neck.fpn_convs.0.conv.weight"])
    # The figures of the run are those of the weights that it leaves.
    measured = detc.load(spec, "averaged").evaluate(done.run.last_weights, split="val", workers=0)
    last = done.run.rows("evaluations.csv")[-1]
    assert last["AP50"] == pytest.approx(measured.evaluation.metrics["AP50"], abs=1e-5)


def test_the_ramp_of_an_average_lets_early_weights_go():
    assert MovingAverage(0.9, ramp=0.0).kept(1) == 0.9
    ramped = MovingAverage(0.9, ramp=10.0)
    assert ramped.kept(1) == pytest.approx(0.9 * (1 - 2.718281828**-0.1))
    assert ramped.kept(1000) == pytest.approx(0.9)


def test_a_run_that_gets_no_better_stops_early_and_does_not_go_on(spec, tmp_path, capsys):
    done = run(spec, tmp_path / "run", "stuck")
    epochs = [row["epoch"] for row in done.run.rows("evaluations.csv")]
    assert epochs == [1, 2, 3]
    assert "stopped after epoch 3: 2 evaluations without a better AP" in capsys.readouterr().err
    with pytest.raises(DiagnosticError, match="stopped early after epoch 3"):
        run(spec, tmp_path / "run", "stuck", resume=True)


def test_the_best_weights_are_those_by_the_metric_of_the_schedule(spec, tmp_path):
    done = run(spec, tmp_path / "run", "by_ap50")
    assert done.metric == "VOC_AP50"
    assert done.best == pytest.approx(max(row["VOC_AP50"] for row in done.run.rows("evaluations.csv")), abs=1e-5)
    measured = detc.load(spec, "by_ap50").evaluate(done.run.best_weights, split="val", workers=0)
    sources = data_of(detc.load(spec, "by_ap50")).val
    assert tuple(measured.evaluation.metrics) == metric_names(True, False, sources)
    with pytest.raises(DiagnosticError, match="no such figure") as error:
        run(spec, tmp_path / "other", "by_masks")
    assert "VOC_AP50" in error.value.diagnostics[0].detail
    assert not (tmp_path / "other").exists()


def test_gradients_are_accumulated_over_batches(spec, tmp_path, capsys):
    done = run(spec, tmp_path / "run", "tiny", batch=2, accumulate=2)
    assert "2 epochs of 2 steps of 2 batches of 2 images" in capsys.readouterr().err
    assert done.run.rows("training.csv")[-1]["step"] == 4
    assert done.run.rows("training.csv")[-1]["lr"] == pytest.approx(0.02)


def test_parameter_groups_reach_the_optimizer(spec, tmp_path):
    done = run(spec, tmp_path / "run", "grouped", epochs=1)
    state = torch.load(done.run.state, weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert sorted({round(group["initial_lr"] / 0.001, 3) for group in groups}) == [0.1, 0.5, 1.0, 2.0]


def test_what_is_named_in_float32_is_so_under_bfloat16(spec, tmp_path):
    detector = detc.load(spec, "half")
    assert schedule_settings(detector.schedule).float32 == ("bbox_head",)
    module = detector.modules("forward", float32=detector.graph.below("bbox_head"))["forward"].eval()
    plain = detector.modules("forward")["forward"].eval()
    plain.load_state_dict(module.state_dict())
    image = torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        islands, mixed = module(image), plain(image)
    for name in islands:
        assert {value.dtype for value in islands[name]} == {torch.float32}
        assert {value.dtype for value in mixed[name]} == {torch.bfloat16}
    assert run(spec, tmp_path / "run", "half", epochs=1).run.rows("training.csv")[-1]["loss"] > 0


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("nowhere", 'no weight has "backbon" in its key', "backbone"),
        ("nothing_below", 'nothing is at or below "bbox_haed"', "bbox_head"),
        ("two_decays", "must be after `first`", ""),
    ],
)
def test_labels_and_times_that_cannot_be_are_refused_where_they_stand(spec, name, message, hint):
    with pytest.raises(DiagnosticError) as error:
        training_settings(detc.load(spec, name), TrainOptions())
    diagnostic = error.value.diagnostics[0]
    assert diagnostic.kind.slug == "bad-setting"
    assert message in diagnostic.summary
    assert hint in diagnostic.detail
    assert spec in [Path(label.span.source.name).resolve() for label in diagnostic.labels]
