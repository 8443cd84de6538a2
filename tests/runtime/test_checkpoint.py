"""Loading and saving weights: what fits is loaded whole, what does not changes nothing and is explained."""

import json
import os
import struct

import pytest
import torch

import detc
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import load_pretrained, load_weights, read_checkpoint, save_weights

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaSepBNHead, Anchors from "lib/heads.det"
import SingleStage from "lib/models.det"

detector small : SingleStage {
    classes  = ["cat", "dog"]
    backbone = ResNet(18, channels = 8, frozen_stages = -1)
    neck     = FPN(8, levels = 3..5)
    head     = RetinaSepBNHead(stacked = 1, channels = 8, anchors = Anchors(octaves = 1))
}
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "small.det"
    path.write_text(SPEC)
    return detc.load(path)


@pytest.fixture
def module(detector):
    return detector.module()


@pytest.fixture
def state(detector):
    """Other weights than the module's, tied where its are."""
    return {key: value.clone() for key, value in detector.module().state_dict().items()}


def same(module, state):
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def refusal(load, *arguments, **options):
    with pytest.raises(DiagnosticError) as raised:
        load(*arguments, **options)
    (diagnostic,) = raised.value.diagnostics
    return diagnostic


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"meta": {"mmdet_version": "2.28.2", "CLASSES": ("cat", "dog")}, "state_dict": state},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"epoch": 3, "state_dict": {f"train_view.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "mmdetection", "model", "ddp", "lightning"],
)
def test_pytorch_files_load(tmp_path, detector, module, state, wrap, zipped):
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert not same(module, state)
    assert load_weights(module, tmp_path / "a.pth", detector).whole
    assert same(module, state)


def test_saved_weights_load_again_and_tied_ones_are_written_once(tmp_path, detector, module):
    other = detector.module()
    save_weights(tmp_path / "deep" / "a.safetensors", module.state_dict(), detector)
    assert load_weights(other, tmp_path / "a.safetensors".replace("a", "deep/a", 1), detector).whole
    assert same(other, module.state_dict())
    saved = read_checkpoint(tmp_path / "deep" / "a.safetensors")
    assert set(module.state_dict()) - set(saved.tensors) == {
        f"bbox_head.{branch}.{level}.0.conv.weight" for branch in ("cls_convs", "reg_convs") for level in (1, 2)
    }
    assert saved.classes == ("cat", "dog")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"], "no temporary file stays"


def test_weights_that_cannot_be_written_leave_the_old_file(tmp_path, detector, module):
    path = tmp_path / "a.safetensors"
    save_weights(path, module.state_dict(), detector)
    before = path.read_bytes()
    (tmp_path / "file").write_text("")
    assert refusal(save_weights, tmp_path / "file" / "a", module.state_dict(), detector).kind.slug == "cannot-write"
    assert path.read_bytes() == before


def test_a_file_that_does_not_fit_changes_nothing_and_every_difference_is_named(tmp_path, detector, module, state):
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for key in [key for key in state if key.startswith("backbone.layer2.")]:
        del state[key]
    del state["neck.fpn_convs.0.conv.bias"]
    state["neck.fpn_convs.0.conv.bais"] = torch.zeros(8)
    state["bbox_head.retina_cls.weight"] = torch.zeros(240, 8, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    found = refusal(load_weights, module, tmp_path / "a.pth", detector)
    assert found.kind.slug == "checkpoint-mismatch"
    for count in ("26 missing", "1 extra", "1 of another shape"):
        assert count in found.summary
    notes = "\n".join(found.notes)
    assert "backbone.layer2.* (25 weights)" in notes
    assert 'neck.fpn_convs.0.conv.bais; did you mean "neck.fpn_convs.0.conv.bias"?' in notes
    assert "bbox_head.retina_cls.weight is [240, 8, 3, 3], and [6, 8, 3, 3] here" in notes
    assert same(module, before)


def test_part_of_a_file_loads_where_that_is_asked_for(tmp_path, detector, module, state):
    state["bbox_head.retina_cls.weight"] = torch.zeros(240, 8, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    kept = module.state_dict()["bbox_head.retina_cls.weight"].clone()
    fit = load_weights(module, tmp_path / "a.pth", detector, partial=True)
    assert list(fit.reshaped) == ["bbox_head.retina_cls.weight"] and not fit.missing
    (warning,) = fit.warnings
    assert (warning.kind.slug, warning.severity) == ("checkpoint-partial", "warning")
    assert warning.detail.startswith(f"{len(state) - 1} of {len(state)} weights are loaded")
    assert "bbox_head.retina_cls.weight is [240, 8, 3, 3], and [6, 8, 3, 3] here" in " ".join(warning.notes)
    assert torch.equal(module.state_dict()["bbox_head.retina_cls.weight"], kept)
    assert torch.equal(module.state_dict()["backbone.conv1.weight"], state["backbone.conv1.weight"])


def test_a_file_of_which_nothing_fits_is_refused_even_in_part(tmp_path, detector, module):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "a.pth")
    found = refusal(load_weights, module, tmp_path / "a.pth", detector, partial=True)
    assert found.kind.slug == "checkpoint-mismatch"
    assert len(found.notes) < 20


def test_batch_counts_may_be_missing(tmp_path, detector, module, state):
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "a.pth")
    assert load_weights(module, tmp_path / "a.pth", detector).whole


def test_tied_weights_with_different_values_are_refused(tmp_path, detector, module, state):
    state["bbox_head.cls_convs.2.0.conv.weight"] += 1
    torch.save(state, tmp_path / "a.pth")
    found = refusal(load_weights, module, tmp_path / "a.pth", detector)
    assert "1 that should be equal" in found.summary
    assert any("cls_convs.0.0.conv.weight and bbox_head.cls_convs.2.0.conv.weight" in note for note in found.notes)


def test_classes_in_another_order_are_refused(tmp_path, detector, module, state):
    torch.save({"meta": {"CLASSES": ["dog", "cat"]}, "state_dict": state}, tmp_path / "a.pth")
    found = refusal(load_weights, module, tmp_path / "a.pth", detector)
    assert found.kind.slug == "classes-reordered" and 'class 0 is "dog"' in found.summary


class Runs:
    """Unpickled, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, detector, module, state, zipped):
    state["hook"] = Runs(tmp_path / "ran")
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = refusal(load_weights, module, tmp_path / "a.pth", detector)
    assert found.kind.slug == "checkpoint-unsafe" and "mkdir" in found.summary
    assert not (tmp_path / "ran").exists()


def test_a_pickled_model_is_refused_with_the_class_it_needs(tmp_path, detector, module):
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "a.pth")
    found = refusal(load_weights, module, tmp_path / "a.pth", detector)
    assert found.kind.slug == "checkpoint-unsafe" and "torch.nn.modules.conv.Conv2d" in found.summary


def broken(kind, path, module, detector):
    save_weights(path / "whole.safetensors", module.state_dict(), detector)
    torch.save(module.state_dict(), path / "whole.pth")
    torch.save(module.state_dict(), path / "old.pth", _use_new_zipfile_serialization=False)
    halves = {name: (path / name).read_bytes() for name in ("whole.safetensors", "whole.pth", "old.pth")}
    header = json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 99]}}).encode()
    torch.save([1, 2], path / "list.pth")
    torch.save({"a": 1}, path / "numbers.pth")
    return {
        "empty": b"",
        "html": b"<!doctype html><html>not found</html>",
        "half safetensors": halves["whole.safetensors"][: len(halves["whole.safetensors"]) // 2],
        "half zip": halves["whole.pth"][: len(halves["whole.pth"]) // 2],
        "half pickle": halves["old.pth"][: len(halves["old.pth"]) // 2],
        "lying header": struct.pack("<Q", len(header)) + header,
        "huge header": struct.pack("<Q", 1 << 62) + b"{}",
        "list": (path / "list.pth").read_bytes(),
        "numbers": (path / "numbers.pth").read_bytes(),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "html",
        "half safetensors",
        "half zip",
        "half pickle",
        "lying header",
        "huge header",
        "list",
        "numbers",
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, detector, module, kind):
    path = tmp_path / "broken"
    path.write_bytes(broken(kind, tmp_path, module, detector))
    found = refusal(load_weights, module, path, detector)
    assert found.kind.slug == "checkpoint-unreadable" and str(path) in found.summary


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_path_without_a_file_is_named(tmp_path, detector, module, name):
    assert refusal(load_weights, module, tmp_path / name, detector).kind.slug == "checkpoint-unreadable"


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_classifier_gives_the_backbone(tmp_path, detector, module, state, prefix):
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    file = {f"{prefix}{k}": v for k, v in backbone.items() if not k.endswith("num_batches_tracked")}
    torch.save({**file, "fc.weight": torch.zeros(1000, 64)}, tmp_path / "resnet.pth")
    load_pretrained(module, tmp_path / "resnet.pth", detector)
    assert torch.equal(module.backbone.layer4.get_submodule("1.conv2").weight, backbone["layer4.1.conv2.weight"])
    del file[f"{prefix}layer4.1.conv2.weight"]
    torch.save(file, tmp_path / "resnet.pth")
    found = refusal(load_pretrained, module, tmp_path / "resnet.pth", detector)
    assert "1 missing" in found.summary and any("layer4.1.conv2.weight" in note for note in found.notes)
