"""No figure without the same classes, in the same order, in the weights, the spec and the data: from the outside."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from drawn import coco_file, voc_folder
from safetensors.torch import save_file

import detc
from detc.cli.evaluate import evaluate as eval_command
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import save_weights

SPEC = """
import ResNet from "lib/backbones.det"
import FPN from "lib/necks.det"
import RetinaHead, Anchors from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Data, Coco, Resize from "lib/data.det"

detector tiny : SingleStage {
    backbone = ResNet(18, channels = 8)
    neck     = FPN(16, levels = 3..4)
    head     = RetinaHead(stacked = 1, channels = 16,
                          anchors = Anchors(octave_scale = 2.0, octaves = 1, ratios = [1.0]))
    data     = voc(["square", "disc"], root = "data", resize = Resize([96, 64]))
}
detector other_order = tiny with { data.classes = ["disc", "square"] }
detector more = tiny with { data.classes = ["square", "disc", "star"] }
detector of_its_own = tiny with { classes = ["disc", "square"] }
detector counted = tiny with {
    classes = 2
    data = Data(2, "coco", [Coco("annotations.json", "images")], [], test = [Coco("annotations.json", "images")])
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, data of squares and discs, and good.safetensors, whose classes are those of the detector `tiny`."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "tiny.det").write_text(SPEC)
    voc_folder(folder / "data", {"train": 1, "val": 1, "test": 2})
    coco_file(folder / "coco", 3)
    detector = detc.load(folder / "tiny.det", "tiny")
    save_weights(folder / "good.safetensors", state(folder), detector)
    return folder


def state(folder: Path, name: str = "tiny") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return detc.load(folder / "tiny.det", name).module("predict").state_dict()


def evaluated(
    folder: Path, weights: str, name: str, capsys: pytest.CaptureFixture[str], data: Path | None = None
) -> tuple[str, list[str]]:
    """What `detc eval` prints, and the slugs of its errors or else of its warnings. Errors leave no file."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    try:
        eval_command(f"{folder}/tiny.det:{name}", folder / weights, data, output=output, report=output, workers=0)
    except DiagnosticError as error:
        assert not output.exists()
        return capsys.readouterr().out, [diagnostic.kind.slug for diagnostic in error]
    out, err = capsys.readouterr()
    return out, re.findall(r"\[([a-z-]+)\]$", err, re.MULTILINE)


def test_the_same_classes_give_a_figure(folder, capsys):
    out, told = evaluated(folder, "good.safetensors", "tiny", capsys)
    assert "AP50" in out and told == []


@pytest.mark.parametrize("name", ["other_order", "of_its_own", "more"])
def test_a_spec_of_other_classes_or_another_order_gives_none(folder, name, capsys):
    out, told = evaluated(folder, "good.safetensors", name, capsys)
    assert "AP" not in out
    assert told == ["class-lists-differ"]


@pytest.mark.parametrize(
    "classes", [["disc", "square"], ["cat", "dog"], ["square"], ["square", "disc", "star"], ["Square", "disc"], []]
)
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_of_other_classes_give_none(folder, classes, kind, capsys):
    path = folder / f"other.{kind}"
    if kind == "pth":
        torch.save({"state_dict": state(folder), "meta": {"CLASSES": tuple(classes)}}, path)
    else:
        tensors = {key: tensor.clone() for key, tensor in state(folder).items()}
        save_file(tensors, path, {"classes": json.dumps(classes)})
    out, told = evaluated(folder, path.name, "tiny", capsys)
    assert "AP" not in out and told == ["class-lists-differ"]


def test_bare_weights_of_another_number_of_classes_give_none(folder, capsys):
    wide = detc.load(folder / "tiny.det", "more").module("predict").state_dict()
    torch.save(wide, folder / "wide.pth")
    save_file({key: tensor.clone() for key, tensor in wide.items()}, folder / "wide.safetensors")
    for weights in ("wide.pth", "wide.safetensors"):
        out, told = evaluated(folder, weights, "tiny", capsys)
        assert "AP" not in out and told == ["checkpoint-mismatch"]


@pytest.mark.parametrize("metadata", [None, {"classes": "not json"}, {"classes": "{}"}, {"format": "pt"}])
def test_weights_that_name_no_classes_give_a_figure_and_a_warning(folder, metadata, capsys):
    save_file({key: tensor.clone() for key, tensor in state(folder).items()}, folder / "bare.safetensors", metadata)
    out, told = evaluated(folder, "bare.safetensors", "tiny", capsys)
    assert "AP50" in out and told == ["classes-unnamed"]


def test_where_the_spec_counts_the_classes_those_of_data_and_weights_are_compared(folder, capsys):
    """The annotations have disc and square, in the order of their ids."""
    counted = detc.load(folder / "tiny.det", "counted")
    for classes, expected in ((["square", "disc"], []), (["disc", "square"], ["class-lists-differ"])):
        save_weights(folder / "counted.safetensors", state(folder, "counted"), counted.named(classes))
        out, told = evaluated(folder, "counted.safetensors", "counted", capsys)
        assert told == expected
        assert ("AP50" in out) == (not expected)


def test_other_data_under_the_same_spec_gives_none(folder, tmp_path, capsys):
    voc_folder(tmp_path / "data", {"test": 2})
    for path in (tmp_path / "data" / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("disc", "wheel").replace("square", "box"))
    out, told = evaluated(folder, "good.safetensors", "tiny", capsys, tmp_path / "data")
    assert "AP" not in out and told == ["classes-mismatch"]
