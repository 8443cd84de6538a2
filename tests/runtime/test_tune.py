"""`detc tune`: what it would measure, and what it does without a GPU. (What it measures needs one: bench/gpu.py.)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_graphs import Small

from detc.cli import _run
from detc.compiler.emit.tvm import conv_cuda, tuning
from detc.compiler.emit.tvm.gpu import Gpu
from detc.compiler.emit.tvm.module import program
from detc.compiler.emit.tvm.tuning import Choice, Convolution
from detc.compiler.graph import Value
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime import tune

ROOT = Path(__file__).parents[2]


def test_the_layers_that_are_measured_are_those_that_exports_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(20, 24, batch=2)
    x = small.conv(Value("image"), 16, 7, stride=2)
    x = small.conv(small.conv(x, 16, 3), 16, 3)  # one size, twice
    x = small.conv(x, 32, 3, groups=4, dilation=2)
    doubled = small.transposed(x, 8, 2)
    other = small.transposed(x, 8, 4, stride=2, padding=1)
    rows = small.dense(small.add("flatten", x), 12)
    graph = small.graph(boxes=doubled, scores=other, classes=rows)
    asked: list[Convolution] = []
    by_rule = tuning.choose

    def choose(layer: Convolution, arch: str, *, gathered: bool = False) -> Choice:
        asked.append(layer)
        return by_rule(layer, arch, gathered=gathered)

    monkeypatch.setattr(tuning, "choose", choose)
    program(graph, small.arrays, Gpu("sm_90"), batch=2, height=20, width=24, precision="float16")
    assert tune.layers(graph, 2, 20, 24) == asked
    assert len(asked) == 7


def test_a_table_is_read_back_and_faults_in_one_are_told(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    assert tune.load_table(path) == {}
    layer = Convolution(1, 8, 8, 16, 8, 8, 16)
    table = {"sm_90": {str(layer): Choice(tuning.TILES[3], 4)}}
    tune.save_table(path, table)
    assert tune.load_table(path) == table
    assert list(tmp_path.iterdir()) == [path], "nothing unfinished is left"
    for wrong in ("notes", "[1]", json.dumps({"sm_90": {str(layer): "128x"}})):
        path.write_text(wrong)
        with pytest.raises(DiagnosticError, match=r"bad-tuning-table"):
            tune.load_table(path)


def test_what_is_measured_begins_with_the_choice_of_the_rule() -> None:
    layer = Convolution(1, 40, 40, 256, 40, 40, 256, (3, 3), padding=(1, 1))
    choices = tune.promising(layer, "sm_90", 5)
    assert choices[0] == tuning.by_rule(layer, "sm_90")
    assert len(set(choices)) == 5


def test_kernels_know_their_tiles() -> None:
    for tile in tuning.TILES:
        for reading in (conv_cuda.CHUNKS, conv_cuda.NUMBERS, conv_cuda.WIDE):
            assert conv_cuda.tile_of(conv_cuda.kernel("bfloat16", reading, tile)) == tile


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    table = tmp_path / "tuned.json"
    with pytest.raises(DiagnosticError, match="gpu-missing"):
        _run(["tune", str(ROOT / "specs/retinanet.det"), "--table", str(table)])
    assert not table.exists()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_kernels_are_compiled_for_the_architecture() -> None:
    kernels = [conv_cuda.sum_kernel("float16")]
    binary = tune.compiled(kernels, "sm_90")
    assert binary.startswith(b"\x7fELF")
    assert b"detc_conv_sum_f16" in binary
    with pytest.raises(DiagnosticError, match="cuda-build-failed"):
        tune.compiled(kernels, "sm_1")
