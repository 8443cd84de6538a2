"""Training with --remat ends at the very weights that it ends at without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from drawn import voc_folder
from safetensors.torch import load_file

from detc.cli import main

SPEC = """
import ResNet from "lib/backbones.det"
import FPG from "lib/necks.det"
import RetinaHead, Anchors from "lib/heads.det"
import SingleStage from "lib/models.det"
import voc, Resize from "lib/data.det"
import Schedule, SGD from "lib/schedules.det"

detector tiny : SingleStage {
    backbone = ResNet(18, norm = BatchNorm2d(), frozen_stages = 0, channels = 8)
    neck     = FPG(16, levels = 3..6, pathways = 3)
    head     = RetinaHead(stacked = 1, channels = 16, anchors = Anchors(octaves = 1))
    data = voc(["square", "disc"], root = "data", augment = [Resize([96, 64])], resize = Resize([96, 64]), batch = 3)
    schedule = Schedule(epochs = 1, optimizer = SGD(0.01), batch = 3, evaluate_every = 9)
}
"""


def test_remat_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    voc_folder(tmp_path / "data", {"train": 6, "val": 1, "test": 1})
    (tmp_path / "tiny.det").write_text(SPEC)
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    found, counts = [], []
    for number, options in enumerate(([], ["--remat", "--remat-budget", "0.1"])):
        kept = 0
        words = ["train", str(tmp_path / "tiny.det"), "--workers", "0", "--output", str(tmp_path / str(number))]
        monkeypatch.setattr(sys, "argv", ["detc", *words, *options])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code, capsys.readouterr().err
        found.append(load_file(tmp_path / str(number) / "last.safetensors"))
        counts.append(kept)
    assert counts[1] < 0.8 * counts[0]
    assert found[0].keys() == found[1].keys()
    for key, tensor in found[0].items():
        assert torch.equal(tensor, found[1][key]), key
