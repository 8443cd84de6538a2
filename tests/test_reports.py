"""detc summary, graph and diff, from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detc.cli import main

SPECS = Path(__file__).parents[1] / "specs"
FPN = f"{SPECS}/retinanet.det:retinanet_r50_fpn_1x"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def detc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; gives its exit status, output and errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["detc", *words])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_summary_tells_each_component_and_the_whole(detc: Command) -> None:
    status, out, _ = detc("summary", FPN, "--size", "800x1280", "--depth", "1")
    assert status == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "37,968,692" in rows["total"] and "238.54 G" in rows["total"]
    assert "FPN" in rows["neck"] and "7,997,440" in rows["neck"]


def test_summary_as_json_grows_with_the_batch(detc: Command) -> None:
    one, two = (
        json.loads(detc("summary", FPN, "--format", "json", "--size", "256x256", "--batch", n, "--view", "train")[1])
        for n in ("1", "2")
    )
    assert two["total"]["macs"] == 2 * one["total"]["macs"]
    assert two["total"]["parameters"] == one["total"]["parameters"]
    assert two["total"]["saved_bytes"] > 1.9 * one["total"]["saved_bytes"]


def test_summary_says_what_training_keeps_and_what_it_computes_again(detc: Command) -> None:
    command = ("summary", FPN, "--view", "train", "--size", "256x256", "--remat", "--remat-budget", "0.05")
    found = json.loads(detc(*command, "--format", "json")[1])
    again = found["recomputation"]
    assert 0 < again["flops_share"] <= 0.05
    assert found["total"]["saved_bytes"] < again["plain_saved_bytes"] < again["plain_packed_bytes"]
    assert found["saved_weight_bytes"] < found["packed_weight_bytes"]
    status, out, _ = detc(*command)
    assert status == 0
    assert f"{found['total']['saved_bytes'] / 2**20:,.1f} MiB in distinct storages" in out
    assert f"computed again: {again['nodes']} nodes, {100 * again['flops_share']:.1f} %" in out.replace("\n", " ")


@pytest.mark.parametrize("words", [("summary", FPN, "--remat"), ("compile", FPN, "--emit", "fx", "--remat")])
def test_remat_is_refused_where_nothing_is_trained(detc: Command, words: tuple[str, ...]) -> None:
    status, _, err = detc(*words)
    assert status == 2
    assert "--view train" in err


def test_compile_shows_what_is_computed_again(detc: Command) -> None:
    status, out, _ = detc("compile", FPN, "--emit", "fx", "--view", "train", "--remat", "--remat-budget", "0.01")
    assert status == 0
    assert "relu_again = detc_compiler_emit_recompute_again('torch:relu'" in out


@pytest.mark.parametrize("size", ["640", "0x5", "axb", "640x640x3"])
def test_summary_refuses_a_size_that_is_none(detc: Command, size: str) -> None:
    status, _, err = detc("summary", FPN, "--size", size)
    assert status == 2
    assert "as 800x1333" in " ".join(err.split())


def test_graph_writes_the_picture_or_the_page_that_the_ending_asks_for(detc: Command, tmp_path: Path) -> None:
    for ending, start in (("svg", "<svg"), ("html", "<!DOCTYPE html>")):
        path = tmp_path / f"picture.{ending}"
        assert detc("graph", FPN, "--output", str(path), "--component", "neck")[0] == 0
        assert path.read_text().startswith(start)
    status, _, err = detc("graph", FPN, "--output", str(tmp_path / "picture.png"))
    assert status == 2 and ".svg" in err


def test_graph_suggests_a_component(detc: Command) -> None:
    status, _, err = detc("graph", FPN, "--component", "bbox_hed")
    assert status == 2
    assert 'did you mean "bbox_head"' in " ".join(err.split())


def test_diff_says_by_its_status_whether_two_differ(detc: Command) -> None:
    assert detc("diff", FPN, FPN)[0] == 0
    status, out, _ = detc("diff", FPN, FPN.replace("r50", "r101"))
    assert status == 1
    assert "backbone.depth: 50 \u2192 101" in out
    assert "does not load" in out


def test_diff_as_json_has_every_key(detc: Command) -> None:
    status, out, _ = detc("diff", FPN, FPN.replace("r50", "r101"), "--format", "json")
    found = json.loads(out)
    assert (status, found["same"], found["loads"]) == (1, False, False)
    assert "backbone.layer3.22.conv3.weight" in found["missing"]


def test_diff_lists_keys_in_markdown_and_draws(detc: Command, tmp_path: Path) -> None:
    path = tmp_path / "diff.html"
    other = FPN.replace("r50", "r101")
    status, out, _ = detc("diff", FPN, other, "--format", "markdown", "--output", str(path))
    assert status == 1
    assert out.startswith("### `retinanet_r50_fpn_1x` \u2192 `retinanet_r101_fpn_1x`")
    assert "! setting backbone.depth: 50 \u2192 101" in out
    assert "and 106 more" in out
    # The page has all keys.
    assert "backbone.layer3.22.conv3.weight" in path.read_text() and "<svg" in path.read_text()
    assert detc("diff", FPN, other, "--output", str(tmp_path / "diff.svg"))[0] == 1
    assert (tmp_path / "diff.svg").read_text().startswith("<svg")
    assert detc("diff", FPN, other, "--output", str(tmp_path / "diff.png"))[0] == 2


def test_diff_fails_for_what_breaks_alone(detc: Command) -> None:
    longer = FPN.replace("_1x", "_2x")
    assert detc("diff", FPN, longer)[0] == 1
    assert detc("diff", FPN, longer, "--breaking")[0] == 0
    assert detc("diff", FPN, FPN.replace("r50", "r101"), "--breaking")[0] == 1


def test_the_commands_of_the_documentation_draw(detc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (SPECS.parent / "docs/drawing.md").read_text().splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("    detc graph ")]
    (tmp_path / "specs").symlink_to(SPECS)
    monkeypatch.chdir(tmp_path)
    assert [detc(*words)[0] for words in commands] == [0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"specs", "fpn.svg", "bottleneck.svg", "cascade.html"}
