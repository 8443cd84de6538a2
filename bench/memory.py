"""What training keeps in memory: plain, with --remat, and by hand; predicted, counted and alive.

    OMP_NUM_THREADS=1 python bench/memory.py [--batch 1] [--size 640] [--times 2] [ROW ...]

The rows are those of specs/fpg.det with FPG, if none are named. For each, a training step on random images and objects
is taken with the plain module and with the one that --remat makes (at its usual budget), from the same weights:

kept      bytes of activations that autograd keeps, in distinct storages, as predicted from the graph, as counted by a
          hook on saved tensors, and as alive after the forward pass (storages that are really there)
calls     the same, counted in every call of the hook
peak      the most bytes alive at a time, forward and backward, without weights and their accumulated gradients:
          predicted from the graph, and as torch allocated and freed them
step      seconds of a step (forward and backward), the least of some

All but the time grow linearly with the batch. Then the same of RetinaNet with FPG as one would write it by hand
(bench/fpg_by_hand.py), without losses, which it does not have.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from fpg_by_hand import RetinaNetFPG  # noqa: E402
from live_memory import LiveMemory  # noqa: E402
from training_inputs import total_loss, training_inputs  # noqa: E402

import detc  # noqa: E402
from detc.compiler.analyse import summarise  # noqa: E402
from detc.compiler.memory import NOTHING  # noqa: E402
from detc.compiler.passes.recompute import Recompute  # noqa: E402

MIB = 2**20
Forward = Callable[[], torch.Tensor]


class Counted:
    """A step's bytes, and its gradients."""

    def __init__(self, module: torch.nn.Module, given: list[torch.Tensor], forward: Forward) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        distinct: dict[int, int] = {}
        self.calls = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                distinct[storage._cdata] = storage.nbytes()
                self.calls += tensor.numel() * tensor.element_size()
            return tensor

        torch.manual_seed(1)
        before = (*module.parameters(), *module.buffers(), *given, *(p.grad for p in trained if p.grad is not None))
        with LiveMemory(*before) as live:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = forward()
            self.alive = live.bytes
            loss.backward()
        self.kept, self.peak = sum(distinct.values()), live.peak
        self.gradients = [parameter.grad for parameter in trained]


def least(times: int, forward: Forward) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        forward().backward()
        found.append(time.perf_counter() - start)
    return min(found)


def row(name: str, batch: int, size: int, times: int, objects: int) -> None:
    detector = detc.load(ROOT / "specs/fpg.det", name)
    start = time.perf_counter()
    again = Recompute(height=size, width=size).run(detector.graph)
    planned = time.perf_counter() - start
    found, seconds = [], []
    for recomputed in (NOTHING, again):
        torch.manual_seed(0)
        module = detector.modules("train", recomputed=recomputed)["train"].train()
        given = training_inputs(module, size, size, batch, len(detector.classes), objects)

        def forward(module: torch.nn.Module = module, given: list[torch.Tensor] = given) -> torch.Tensor:
            return total_loss(module(*given))

        found.append(Counted(module, given, forward))
        seconds.append(least(times, forward))
    plain, spared = found
    equal = all(map(torch.equal, plain.gradients, spared.gradients))
    summary = summarise(detector.graph, "train", size, size, batch, recomputed=again)
    costs = summary.recomputation
    assert costs is not None
    tell(name, "plain", (costs.plain_saved_bytes, costs.plain_packed_bytes, costs.plain_peak_bytes), plain, seconds[0])
    tell("", "--remat", (summary.total.saved_bytes, summary.total.packed_bytes, summary.peak_bytes), spared, seconds[1])
    print(
        f"    kept {spared.kept / plain.kept:.3f} of plain, peak {spared.peak / plain.peak:.3f}, at "
        f"{100 * costs.flops_share:.1f} % more forward FLOPs, step {seconds[1] / seconds[0]:.2f} times as long, "
        f"gradients {'equal to the bit' if equal else 'DIFFER'}; chosen in {planned:.1f} s",
        flush=True,
    )


def tell(name: str, kind: str, predicted: tuple[int, int, int] | None, counted: Counted, seconds: float) -> None:
    guess = [f"{count / MIB:.0f}" for count in predicted] if predicted else ["-"] * 3
    print(
        f"{name:<42} {kind:<8} kept {guess[0]:>5} predicted {counted.kept / MIB:>5.0f} counted "
        f"{counted.alive / MIB:>5.0f} alive; calls {guess[1]:>5} {counted.calls / MIB:>5.0f}; "
        f"peak {guess[2]:>5} {counted.peak / MIB:>5.0f} MiB; step {seconds:.1f} s",
        flush=True,
    )


def by_hand(batch: int, size: int, times: int) -> None:
    """The forward view of the RetinaNet row against the module by hand, both in training mode."""
    torch.manual_seed(0)
    made = detc.load(ROOT / "specs/fpg.det", "retinanet_r50_fpg_crop640_50e").module("forward").train()
    hand = RetinaNetFPG().train()
    hand.load_state_dict(made.state_dict())
    image = torch.randn(batch, 3, size, size)

    def made_loss() -> torch.Tensor:
        return torch.stack([level.square().mean() for maps in made(image).values() for level in maps]).sum()

    def hand_loss() -> torch.Tensor:
        return torch.stack([level.square().mean() for maps in hand(image) for level in maps]).sum()

    with torch.no_grad():
        torch.testing.assert_close(made_loss(), hand_loss())
    for kind, module, loss in (("detc", made, made_loss), ("by hand", hand, hand_loss)):
        tell("RetinaNet's maps, plain", kind, None, Counted(module, [image], loss), least(times, loss))


def main() -> None:
    rows = re.findall(r"^detector (\w*_fpg_\w*)", (ROOT / "specs/fpg.det").read_text(), re.MULTILINE)
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", default=rows)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--objects", type=int, default=150, help="in every image: as many positives as there can be")
    options = parser.parse_args()
    for name in options.rows:
        row(name, options.batch, options.size, options.times, options.objects)
    by_hand(options.batch, options.size, options.times)


if __name__ == "__main__":
    main()
