"""How long one waits: for a check, a compilation, a module, and a forward pass against a module written by hand.

    python bench/latency.py

Every figure is the least of several runs, which other work on the machine disturbs least; its goal is beside it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from by_hand import RetinaNet

import detc

ROOT = Path(__file__).parents[1]
DETC = str(Path(sys.executable).with_name("detc"))


def least(times: int, action: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs, after one that warms up."""
    action()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def process(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run(words, check=True, capture_output=True, cwd=ROOT)


def tell(what: str, figure: str, goal: str) -> None:
    print(f"{what:<58} {figure:>10}   {goal}", flush=True)


def forward() -> float:
    """How much longer the module that detc makes takes than one by hand, whose results it has; runs alternate."""
    made = detc.load(ROOT / "specs/retinanet.det", "retinanet_r50_fpn_1x").module("forward").eval()
    by_hand = RetinaNet().eval()
    by_hand.load_state_dict(made.state_dict())
    image = torch.randn(1, 3, 256, 256)
    seconds: dict[torch.nn.Module, list[float]] = {made: [], by_hand: []}
    with torch.no_grad():
        expected, (scores, deltas) = made(image), by_hand(image)
        for level in range(5):
            torch.testing.assert_close(expected["scores"][level], scores[level])
            torch.testing.assert_close(expected["deltas"][level], deltas[level])
        for _ in range(25):
            for module, times in seconds.items():
                start = time.perf_counter()
                module(image)
                times.append(time.perf_counter() - start)
    return min(seconds[made]) / min(seconds[by_hand]) - 1


def main() -> None:
    largest = max(ROOT.glob("specs/*.det"), key=lambda path: path.stat().st_size)
    name = str(largest.relative_to(ROOT))
    tell(f"detc check {name}, whole process", f"{least(7, process(DETC, 'check', name)):.2f} s", "at most 0.35 s")
    tell(
        "import torch, whole process", f"{least(3, process(sys.executable, '-c', 'import torch')):.2f} s", "to compare"
    )
    seconds = least(3, process(DETC, "compile", "specs/fpg.det", "--emit", "fx"))
    tell("detc compile specs/fpg.det --emit fx, whole process", f"{seconds:.2f} s", "at most 4 s")
    detector = detc.load(ROOT / "specs/retinanet.det", "retinanet_r50_fpn_1x")
    tell("RetinaNet R-50 as a module", f"{least(3, detector.module):.2f} s", "about 1 s, the reference's")
    tell("RetinaNet R-50 by hand", f"{least(3, RetinaNet):.2f} s", "to compare")
    tell("forward pass of the module, beyond the one by hand", f"{100 * forward():+.1f} %", "at most 3 %")


if __name__ == "__main__":
    main()
