"""One training step: of the module that detc makes, of the same compiled, and of a module and losses written by hand.

    python bench/training_step.py [--threads 2] [--times 12]

A step is forward, losses, backward and SGD on 2 x 3 x 320 x 320 with ten objects an image; FPG's images are padded to
384, the next multiple of its size divisor. All start from the same weights and must find the same loss; their steps
alternate in one process, and medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from by_hand import RetinaNet
from fpg_by_hand import RetinaNetFPG
from losses_by_hand import RetinaNetLoss
from torch import nn

import detc

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/support"))
from training_inputs import total_loss, training_inputs  # noqa: E402

Step = Callable[[], float]


class FrozenRetinaNet(RetinaNet):
    """As its row trains it: the stem and one stage frozen, statistics of normalisation as they were."""

    def __init__(self) -> None:
        super().__init__()
        for part in (self.backbone.conv1, self.backbone.bn1, self.backbone.layer1):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenRetinaNet:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def step_of(module: nn.Module, given: list[torch.Tensor]) -> Step:
    """A step of SGD that returns the loss before it."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        found = module(*given)
        if isinstance(found, dict):
            found = total_loss(found)
        found.backward()
        optimizer.step()
        return float(found)

    return step


def compare(name: str, spec: str, row: str, hand: nn.Module, times: int) -> None:
    torch.manual_seed(0)
    detector = detc.load(ROOT / "specs" / spec, row)
    made = detector.modules("train")["train"].train()
    divisor = detector.graph.size_divisor
    side = -(-320 // divisor) * divisor  # as batches are padded
    given = training_inputs(made, side, side, 2, 80, objects=10)
    hand.load_state_dict(made.state_dict())
    compiled = detector.modules("train")["train"].train()
    compiled.load_state_dict(made.state_dict())
    compiled.compile()
    steps = {
        "by hand": step_of(RetinaNetLoss(hand.train()), given),
        "detc": step_of(made, given),
        "detc --compile": step_of(compiled, given),
    }
    start = time.perf_counter()
    losses = {}
    for kind, step in steps.items():
        if kind == "detc --compile":
            start = time.perf_counter()
        losses[kind] = step()
    compiling = time.perf_counter() - start
    torch.testing.assert_close(losses["detc"], losses["by hand"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses["detc --compile"], losses["by hand"], rtol=1e-4, atol=0)
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(times):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[kind].append(time.perf_counter() - start)
    yardstick = statistics.median(seconds["by hand"])
    for kind, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:<18} {kind:<16} {1000 * median:7.0f} ms   {median / yardstick:.3f} of by hand", flush=True)
    print(f"{name:<18} loss {losses['detc']:.4f} in all; the first compiled step took {compiling:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare("RetinaNet R-50 FPN", "retinanet.det", "retinanet_r50_fpn_1x", FrozenRetinaNet(), options.times)
    compare("RetinaNet R-50 FPG", "fpg.det", "retinanet_r50_fpg_crop640_50e", RetinaNetFPG(), options.times)


if __name__ == "__main__":
    main()
