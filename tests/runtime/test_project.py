"""`detc new`: a project for a user's own data and classes, from a published row."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused
from drawn import coco_file, voc_folder

import detc
from detc.compiler.check import check_paths
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.data.check import look_at_spec, report
from detc.runtime.data.settings import Coco, Voc, Yolo
from detc.runtime.predict import data_of
from detc.runtime.project import find_row, no_data, own_data, start


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detc", *arguments], cwd=folder, capture_output=True, text=True, check=False, input=""
    )


def faults(spec: Path) -> list[str]:
    """The slugs of what `detc data check` says of a spec, without the drawn data's few images."""
    detector = detc.load(spec)
    parts = report(look_at_spec(detector, data_of(detector))).parts
    return [finding.diagnostic.kind.slug for part in parts for finding in part.findings if finding.is_error]


def test_the_commands_from_data_to_a_trained_detector(tmp_path: Path) -> None:
    voc_folder(tmp_path / "shapes", {"train": 6, "val": 3})
    made = run(tmp_path, "new", "my-shapes", "--from", "retinanet_r50_fpn_1x", "--data", "shapes")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "my-shapes"
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "README.md", "my_shapes.det"]
    text = (folder / "my_shapes.det").read_text()
    assert 'data.classes = ["disc", "square"]' in text
    assert 'data.root    = "../shapes"' in text
    assert check_paths([folder / "my_shapes.det"]).diagnostics == []
    assert faults(folder / "my_shapes.det") == []
    smaller = text.replace(
        "}\n",
        "    data.augment = [Resize([96, 64])]\n    data.resize = Resize([96, 64])\n"
        "    backbone = ResNet(18, channels = 8)\n    neck.channels = 16\n"
        "    head.channels = 16\n    head.stacked = 1\n}\n",
    ).replace("import Voc", 'import ResNet from "lib/backbones.det"\nimport Voc')
    (folder / "my_shapes.det").write_text(smaller.replace("import Voc", "import Voc, Resize"))
    trained = run(folder, "train", "my_shapes.det", "--from-scratch", "--epochs", "1", "--workers", "0")
    assert trained.returncode == 0, trained.stderr
    assert (folder / "runs/my_shapes/best.safetensors").exists()


def test_every_command_of_the_readme_is_one(tmp_path: Path) -> None:
    voc_folder(tmp_path / "shapes", {"train": 2, "val": 2})
    data = own_data(tmp_path / "shapes", None, None)
    for number, row in enumerate(("retinanet_r50_fpn_1x", "fpg.det:mask_rcnn_r50_fpg_crop640_50e", "rpn.det")):
        spec = start(tmp_path / f"p{number}", find_row(row), data)
        text = (spec.parent / "README.md").read_text()
        lines = [line.strip() for line in text.splitlines() if line.startswith("    detc ")]
        assert len(lines) >= 6
        assert [refused(line) for line in lines] == [None] * len(lines)
        assert all(shlex.split(line, comments=True) for line in lines)
    readme = (tmp_path / "p0/README.md").read_text()
    assert "0.01 x 2 / 16 = 0.00125" in readme
    assert "--weights retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth --partial" in readme
    assert "--accumulate 8" in readme


def test_data_in_cocos_form_with_a_second_file_of_the_same_images(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        root = coco_file(tmp_path / part, 2)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        text = (root / "annotations.json").read_text().replace('"file_name": "', f'"file_name": "{part}-')
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(text)
        (tmp_path / "annotations" / f"person_keypoints_{part}.json").write_text(text)
        (root / "annotations.json").unlink()
        for image in (root / "images").iterdir():
            image.rename(root / f"{part}-{image.name}")
        (root / "images").rmdir()
    data = own_data(tmp_path, None, None)
    assert data.classes == ("square", "disc"), "by their ids"
    assert data.parts["train"] == (Coco("annotations/instances_train2017.json", "train2017"),)
    assert data.parts["val"] == (Coco("annotations/instances_val2017.json", "val2017"),)
    spec = start(tmp_path / "project", find_row("mask_rcnn.det:mask_rcnn_r50_fpn_1x"), data)
    assert faults(spec) == []
    assert detc.load(spec).classes == ["square", "disc"]


def test_data_in_yolos_form_keeps_its_order(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "pets/images" / part).mkdir(parents=True)
        (tmp_path / "pets/labels" / part).mkdir(parents=True)
        root = coco_file(tmp_path / f"drawn-{part}", 1)
        (root / "images/0.png").rename(tmp_path / f"pets/images/{part}/0.png")
        (tmp_path / f"pets/labels/{part}/0.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n")
    (tmp_path / "pets/data.yaml").write_text("names: [zebra, ant]\ntrain: images/train\nval: images/val\n")
    data = own_data(tmp_path / "pets", None, None)
    assert data.classes == ("zebra", "ant")
    assert data.parts["train"] == (Yolo("train"),)
    assert faults(start(tmp_path / "p", find_row("retinanet.det"), data)) == []


def test_one_part_is_said_to_be_evaluated_on_itself(tmp_path: Path) -> None:
    voc_folder(tmp_path / "shapes", {"train": 2})
    data = own_data(tmp_path / "shapes", "voc", ["disc", "square"])
    assert data.parts["val"] == data.parts["train"] == (Voc("train"),)
    (note,) = data.notes
    assert "remembers" in note
    spec = start(tmp_path / "p", find_row("retinanet.det"), data)
    assert note in (spec.parent / "README.md").read_text()


@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_a_project_whose_data_is_to_come_compiles(tmp_path: Path, form: str) -> None:
    spec = start(tmp_path / "2 Pets", find_row("retinanet.det"), no_data(form, ["cat", "dog"]))
    assert spec.name == "d2_pets.det"
    assert check_paths([spec]).diagnostics == []
    assert detc.load(spec).classes == ["cat", "dog"]
    assert "data/" in (spec.parent / "README.md").read_text()


def test_strange_names_of_classes_and_folders_stay_text(tmp_path: Path) -> None:
    names = ['a "cat"', "back\\slash", "new\nline", "{x}", "`t`", "# no comment", "katze 🐈"]
    spec = start(tmp_path / "retinanet_r50-fpn_1x", find_row("retinanet.det"), no_data("voc", names))
    assert detc.load(spec).classes == names
    assert spec.name == "my_retinanet_r50_fpn_1x.det"


def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    (tmp_path / "empty").mkdir()
    row, data = find_row("retinanet.det"), no_data("voc", ["a"])
    for name in ("file", "full", "file/inside"):
        with pytest.raises(DiagnosticError, match="cannot-write"):
            start(tmp_path / name, row, data)
    assert (tmp_path / "file").read_text() == (tmp_path / "full/notes").read_text() == "mine"
    start(tmp_path / "empty", row, data)
    assert not list(tmp_path.glob(".detc-new-*"))


def test_a_project_in_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    spec = start(Path(), find_row("retinanet.det"), no_data("voc", ["a"]))
    assert spec == Path("pets.det")
    assert Path.cwd() == tmp_path / "pets"
    assert sorted(path.name for path in Path().iterdir()) == [".gitignore", "README.md", "pets.det"]
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_rows_are_found_or_suggested(tmp_path: Path) -> None:
    assert find_row("specs/fpg.det:retinanet_r50_fpg_crop640_50e") == find_row("retinanet_r50_fpg_crop640_50e")
    with pytest.raises(DiagnosticError) as raised:
        find_row("retinanet_r50_fpg_crop640")
    assert "retinanet_r50_fpg_crop640_50e" in raised.value.diagnostics[0].detail
    (tmp_path / "mine.det").write_text("let a = 1\n")
    with pytest.raises(DiagnosticError, match="none of the specs that come with detc"):
        find_row(f"{tmp_path}/mine.det:a")


@pytest.mark.parametrize("arguments", [["--classes", "a,,b"], ["--classes", "a,a"], [], ["--format", "xml"]])
def test_a_wrong_command_line_asks_nothing_without_a_terminal(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, "new", "p", *arguments)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
