"""What a training step keeps, as predicted from the graph, against what torch keeps: with and without recomputation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from small_detectors import NAMES, small_detector
from training_inputs import training_inputs

from detc.compiler.analyse import RULES, Summary, summarise
from detc.compiler.memory import NOTHING, Recomputed
from detc.compiler.passes.recompute import Recompute
from detc.runtime.detector import Detector

ROOT = Path(__file__).parents[2]
SIZE, BATCH = 128, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("specs")


class Step:
    """A training step, with everything that there is to count about it."""

    def __init__(self, detector: Detector, recomputed: Recomputed = NOTHING) -> None:
        torch.manual_seed(0)
        module = detector.modules("train", recomputed=recomputed)["train"].train()
        given = training_inputs(module, SIZE, SIZE, BATCH, len(detector.classes))
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        # Of the objects' masks, which targets are made of again, the graph knows no size.
        masks = {t.untyped_storage()._cdata for t in given if t.dtype == torch.uint8}
        distinct: dict[bool, dict[int, int]] = {True: {}, False: {}}
        self.packed = {True: 0, False: 0}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata in masks:
                return tensor
            of_weights = storage._cdata in weights
            distinct[of_weights][storage._cdata] = storage.nbytes()
            self.packed[of_weights] += tensor.numel() * tensor.element_size()
            return tensor

        known = (*module.parameters(), *module.buffers(), *given, *(p.grad for p in parameters))
        torch.manual_seed(1)
        with LiveMemory(*known) as live:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                losses = [loss for v in module(*given).values() for loss in (v if isinstance(v, tuple) else (v,))]
            self.loss = torch.stack([loss.reshape(()) for loss in losses]).sum()
            del losses
            self.alive = live.bytes + sum(distinct[False].get(t.untyped_storage()._cdata, 0) for t in given)
            self.loss.backward()
        self.peak, self.left = live.peak, live.bytes
        self.saved = {of_weights: sum(sizes.values()) for of_weights, sizes in distinct.items()}
        self.state = {**module.state_dict(), **{f"{k} gradient": p.grad for k, p in module.named_parameters()}}


def predicted(detector: Detector, recomputed: Recomputed = NOTHING) -> Summary:
    return summarise(detector.graph, "train", SIZE, SIZE, BATCH, recomputed=recomputed)


def near(count: int) -> Any:
    """Scalars, and what a class kept of an empty level, are not predicted."""
    return pytest.approx(count, rel=1e-3, abs=4096)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_predicted_and_what_is_computed_again_changes_nothing(folder: Path, name: str) -> None:
    detector = small_detector(folder, name)
    again = Recompute(0.15, SIZE, SIZE, BATCH).run(detector.graph)
    assert again.values
    plain, spared = Step(detector), Step(detector, again)
    for step, summary in ((plain, predicted(detector)), (spared, predicted(detector, again))):
        assert near(step.saved[False]) == summary.total.saved_bytes
        assert near(step.packed[False]) == summary.total.packed_bytes
        assert step.saved[True] == summary.saved_weight_bytes
        assert step.packed[True] == summary.packed_weight_bytes
        # What hooks are told is what is there; and nothing is left.
        assert near(step.alive) == summary.total.saved_bytes
        assert step.left <= 4096
    found = predicted(detector, again).recomputation
    assert found is not None and found.flops_share <= 0.15
    assert spared.saved[False] < 0.7 * plain.saved[False]
    assert spared.peak < plain.peak
    # To the bit: losses, gradients, running statistics (once), and which parameters take no gradient.
    assert torch.equal(plain.loss, spared.loss)
    assert plain.state.keys() == spared.state.keys()
    for key, tensor in plain.state.items():
        assert (tensor is None) == (spared.state[key] is None)
        assert tensor is None or torch.equal(tensor, spared.state[key]), key


def test_frozen_stages_keep_nothing(folder: Path) -> None:
    detector = small_detector(folder, "frozen")
    summary = predicted(detector)
    [backbone] = [part for part in summary.components if part.path == "backbone"]
    assert (backbone.saved_bytes, backbone.packed_bytes) == (0, 0)
    assert Step(detector).saved[False] < 0.5 * Step(small_detector(folder, "scratch")).saved[False]


def test_fewer_regions_with_a_class_keep_less(folder: Path) -> None:
    graph = small_detector(folder, "mask_rcnn").graph
    kept = [
        summarise(graph, "train", SIZE, SIZE, BATCH, positives=count).total.saved_bytes for count in (None, 99, 4, 1)
    ]
    assert summarise(graph, "train", SIZE, SIZE).positives == 4
    assert predicted(small_detector(folder, "faster_rcnn")).positives is None
    # A quarter of 16 regions at most; a mask's are 14 x 14 cells of 16 channels, several times.
    assert kept[0] == kept[1] == kept[2]
    assert kept[2] - kept[3] > 3 * BATCH * 5 * 16 * 14 * 14 * 4


def test_every_op_has_a_rule() -> None:
    ops = re.findall(r"^op (\w+)", (ROOT / "specs/lib/ops.det").read_text(), re.MULTILINE)
    assert len(ops) > 40
    assert set(ops) - RULES.keys() == set()


def test_a_size_port_passes_no_gradient(folder: Path) -> None:
    """Anchors are made from a feature's shape, and what they go into keeps nothing for them."""
    summary = predicted(small_detector(folder, "faster_rcnn"))
    assert summary.uncounted == {}
    [head] = [part for part in summary.components if part.path == "rpn_head"]
    assert head.saved_bytes > 0
