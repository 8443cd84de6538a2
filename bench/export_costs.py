"""What an export costs: its time, the memory it takes at most, and the artifact's size, each in a process of its own.

    python bench/export_costs.py 640x640 llvm retinanet:retinanet_r50_fpn_1x mask_rcnn:mask_rcnn_r50_fpn_1x

`weights` is what the detector's own take in single precision. The time is that of the whole command, verification
included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import detc

ROOT = Path(__file__).parents[1]
DETC = str(Path(sys.executable).with_name("detc"))


def main(size: str, target: str, *specs: str) -> None:
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    print("| detector | target | seconds | peak MB | artifact MB | weights MB |\n|---|---|---|---|---|---|")
    for spec in specs:
        file, name = spec.split(":")
        path = ROOT / f"specs/{file}.det"
        graph = detc.load(path, name).graph.view("predict")
        weights = sum(_bytes(weight.shape) for weight in graph.weights.values() if weight.tied is None)
        with tempfile.TemporaryDirectory(prefix="detc-") as folder:
            artifact = Path(folder) / "model.detc"
            words = ["--target", target, "--size", size, "--random-weights", "--output", str(artifact)]
            start = time.perf_counter()
            process = subprocess.Popen([DETC, "export", f"{path}:{name}", *words], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            if status:
                sys.exit(f"{name}: the export failed")
            sizes = f"{used.ru_maxrss / 1e3:.0f} | {artifact.stat().st_size / 1e6:.1f} | {weights / 1e6:.1f}"
            print(f"| {name} | {target} | {seconds:.0f} | {sizes} |", flush=True)


def _bytes(shape: tuple[int, ...]) -> int:
    size = 4
    for dimension in shape:
        size *= dimension
    return size


if __name__ == "__main__":
    main(*sys.argv[1:])
