"""The commands that need no torch, from the outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import program, refused

ROOT = Path(__file__).parents[1]


def detc(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detc", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_compile_lists_the_detectors_and_compiles_the_default() -> None:
    done = detc("compile", "specs/fpg.det")
    assert done.returncode == 0
    assert "* faster_rcnn_r50_fpg_crop640_50e  box AP 42.2" in done.stderr
    assert "faster_rcnn_r50_fpg_crop640_50e: 909 nodes" in done.stderr
    assert "multiples of 64" in done.stderr


def test_compile_writes_what_is_asked_for(tmp_path: Path) -> None:
    done = detc("compile", "specs/fpg.det", "--emit", "graph", "--emit", "json", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    name = "faster_rcnn_r50_fpg_crop640_50e"
    assert (tmp_path / "out" / f"{name}.graph").read_text().startswith(f"graph {name}")
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["name"] == name
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{name}.graph", f"{name}.json"]


def test_compile_names_the_detector_it_does_not_find() -> None:
    done = detc("compile", "specs/fpg.det:retinanet_r50_fpg_crop640")
    assert done.returncode == 1
    assert "[unknown-detector]" in done.stderr
    assert 'did you mean "retinanet_r50_fpg_crop640_50e"?' in done.stderr


def test_check_as_json(tmp_path: Path) -> None:
    (tmp_path / "bad.det").write_text("detector d : Nothing { }\n")
    done = detc("check", str(tmp_path), "--format", "json")
    assert done.returncode == 1
    [found] = json.loads(done.stdout)["diagnostics"]
    assert (found["code"], found["slug"], found["labels"][0]["line"]) == ("E0201", "unknown-name", 1)
    assert found["explain"] == "detc explain E0201"
    page, _, anchor = found["page"].partition("#")
    assert f'<a id="{anchor}"></a>\n\n### E0201 unknown-name\n' in (ROOT / page).read_text("utf-8")


def test_check_as_github_reads_it(tmp_path: Path) -> None:
    (tmp_path / "50%, bad.det").write_text("let a = 1\ndetector d : Nothing { }\n")
    done = detc("check", ".", "--format", "github", cwd=tmp_path)
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    command, fields, told = re.fullmatch(r"::(\w+) (.*?)::(.*)", line).groups()  # type: ignore[union-attr]
    assert command == "error"
    assert dict(field.split("=") for field in fields.split(",")) == {
        "title": "E0201 [unknown-name]",
        "file": "50%25%2C bad.det",
        "line": "2",
        "endLine": "2",
        "col": "14",
        "endColumn": "20",
    }
    assert told.startswith('nothing is called "Nothing"')
    assert told.endswith("%0Adetc explain E0201")


def test_check_says_where_more_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.det").write_text("detector d : Nothing { }\n")
    assert detc("check", str(tmp_path)).stderr.endswith("detc explain E0201\n")


def test_zoo_as_json_has_every_row() -> None:
    rows = json.loads(detc("zoo", "--format", "json").stdout)
    assert len(rows) == 127
    row = next(r for r in rows if r["detector"] == "retinanet_r50_fpg_crop640_50e")
    assert row["spec"].endswith("fpg.det")
    assert row["config"] == "fpg/retinanet_r50_fpg_crop640_50e_coco"
    assert row["checkpoint"] == "retinanet_r50_fpg_crop640_50e_coco-46fdd1c6.pth"
    assert row["reported"] == {"box_ap": 40.5, "memory_gb": 20.8}


def test_zoo_filters() -> None:
    rows = json.loads(detc("zoo", "retinanet", "x101", "64x4d", "--format", "json").stdout)
    assert {r["detector"] for r in rows} == {"retinanet_x101_64x4d_fpn_1x", "retinanet_x101_64x4d_fpn_2x"}


def test_explain_says_who_set_a_value() -> None:
    done = detc("explain", "specs/retinanet.det:retinanet_r101_fpn_1x", "backbone.depth")
    lines = done.stdout.splitlines()
    assert lines[0] == "retinanet_r101_fpn_1x: backbone.depth = 101"
    assert "specs/retinanet.det" in lines[1]
    assert lines[2] == "  before that: 50"


@pytest.mark.parametrize(
    ("path", "value", "how"),
    [
        ("head.anchors.octaves", "3", "the default"),
        ("head.anchors.count", "9", "derived"),
        ("schedule.optimizer.lr", "0.01", "set"),
        ("neck.levels", "3..7", "set"),
    ],
)
def test_explain_knows_defaults_and_derived_values(path: str, value: str, how: str) -> None:
    done = detc("explain", "specs/retinanet.det", path)
    assert done.stdout.startswith(f"retinanet_r50_fpn_1x: {path} = {value}\n    {how}")


def test_explain_a_code_and_a_misspelt_one() -> None:
    assert detc("explain", "e0303").stdout.startswith("E0303 [stride-mismatch], error")
    assert detc("explain", "stride-mismatch").stdout.startswith("E0303")
    wrong = detc("explain", "stride-missmatch")
    assert wrong.returncode == 2
    assert "stride-mismatch" in wrong.stderr


@pytest.mark.parametrize("arguments", [["chek"], ["check"], ["check", "--nope"], ["check", "specs", "--format", "xml"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    done = detc(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_explanation_is_there() -> None:
    from detc.cli.explain import _diagnostic
    from detc.dsl.diagnostics import KINDS

    with pytest.raises(Exception, match="nothing"):
        _diagnostic("nothing")
    for kind in KINDS.values():
        assert len(kind.explanation.split()) > 8, kind.code


def test_a_device_is_written_to_and_not_replaced() -> None:
    done = detc("compile", "specs/fpg.det", "--emit", "graph", "--output", "/dev/stdout")
    assert done.returncode == 0
    assert done.stdout.startswith("graph faster_rcnn_r50_fpg_crop640_50e {")


@pytest.mark.parametrize(("target", "start"), [("svg", "<svg"), ("html", "<!DOCTYPE html>")])
def test_compile_draws(target: str, start: str, tmp_path: Path) -> None:
    done = detc("compile", "specs/fpg.det", "--emit", target, "--output", str(tmp_path / "drawn"))
    assert done.returncode == 0, done.stderr
    assert start.lower() in (tmp_path / "drawn").read_text()[:200].lower()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = detc("compile", "specs/fpg.det", "--emit", "graph", "--output", str(tmp_path / "file" / "out.graph"))
    assert done.returncode == 1
    assert "[cannot-write]" in done.stderr


def _commands() -> list[tuple[str, str]]:
    """Every command with the text of its help."""
    found: list[tuple[str, str]] = []

    def walk(command: Any, name: str) -> None:
        for verb, below in getattr(command, "commands", {}).items():
            walk(below, f"{name} {verb}")
        if not hasattr(command, "commands"):
            found.append((name, command.help or ""))

    walk(program(), "detc")
    return found


@pytest.mark.parametrize(("name", "text"), _commands(), ids=[name for name, _ in _commands()])
def test_the_help_of_every_command_has_an_example_that_is_one(name: str, text: str) -> None:
    examples = re.findall(r"\bdetc .*?(?=     |$)", text.partition("Example")[2], re.MULTILINE)
    assert examples
    assert all(example.startswith(f"{name} ") for example in examples)
    assert [refused(example) for example in examples] == [None] * len(examples)
