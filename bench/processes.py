"""What training in two processes costs a step, on this machine's CPU.

    python bench/processes.py [--size 320] [--batch 2] [--steps 8] [--rounds 3]

Three kinds of steps of RetinaNet R-50 FPN alternate, each process with one thread and `batch` images: one process
alone; two at once that know nothing of each other, which share the machine's memory and caches; two that average their
gradients and counts, as `detc train --devices 2`. The last against the second is what distribution costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.launcher.api import elastic_launch
from torch.nn.parallel import DistributedDataParallel

import detc
from detc.runtime.training.launch import local_processes

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/support"))
from training_inputs import total_loss, training_inputs  # noqa: E402


def steps(together: bool, batch: int, size: int, count: int) -> list[float]:
    """Seconds of each step of this process, but for the first two."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = detc.load(ROOT / "specs/retinanet.det", "retinanet_r50_fpn_1x").modules("train")["train"].train()
    given = training_inputs(module, size, size, batch, 80, objects=10)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    distributed.init_process_group("gloo")
    # Two that know nothing of each other still start at the same time.
    distributed.barrier()
    if not together:
        distributed.destroy_process_group()
    trained = DistributedDataParallel(module, gradient_as_bucket_view=True) if together else module
    found = []
    for _ in range(count + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        total_loss(trained(*given)).backward()
        optimizer.step()
        found.append(time.perf_counter() - start)
    if together:
        distributed.destroy_process_group()
    return found[2:]


def run(processes: int, together: bool, options: argparse.Namespace) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        found = elastic_launch(local_processes(processes, folder), steps)(
            together, options.batch, options.size, options.steps
        )
    return [seconds for of_process in found.values() for seconds in of_process]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    kinds = {"one alone": (1, False), "two apart": (2, False), "two together": (2, True)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, (processes, together) in kinds.items():
            seconds[kind] += run(processes, together, options)
    medians = {kind: statistics.median(found) for kind, found in seconds.items()}
    for kind, median in medians.items():
        print(f"{kind:<14} {1000 * median:6.0f} ms a step of {options.batch} images each")
    print(f"two together take {medians['two together'] / medians['one alone']:.3f} of one alone,")
    print(f"and {medians['two together'] / medians['two apart']:.3f} of two apart, which is what distribution costs")


if __name__ == "__main__":
    main()
