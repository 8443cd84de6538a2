"""What an export is worth: how it agrees with torch.fx, and how long an image takes under TVM and ONNX Runtime.

    python bench/export.py 256x384 mask_rcnn:mask_rcnn_r50_fpn_1x faster_rcnn:faster_rcnn_r50_fpn_1x

Weights are random, with the last layers scaled so that anchors, regions and pixels are told apart: there are objects
to compare. Times are the least of several runs, which take turns; `taskset -c 0` before it gives both a single core.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import detc
from detc.runtime.agreement import image_like
from detc.runtime.artifact import Artifact
from detc.runtime.export import export

ROOT = Path(__file__).parents[1]
TARGETS = ("llvm", "onnx")

# Deviations of the last layers' results, stage by stage, each of which depends on those before.
STAGES = (
    {"rpn_cls": 1.0, "rpn_reg": 0.3, "retina_cls": 1.0, "retina_reg": 0.3},
    {"fc_cls": 2.5, "fc_reg": 1.0},
    {"conv_logits": 2.0},
)


def with_objects(detector: detc.Detector, image: np.ndarray) -> torch.fx.GraphModule:
    """The predict module with weights that find something in `image`."""
    torch.manual_seed(0)
    module = detector.module("predict").eval()
    for stage in STAGES:
        layers = {
            layer: stage[last] for name, layer in module.named_modules() if (last := name.rpartition(".")[2]) in stage
        }
        widest = dict.fromkeys(layers, 0.0)

        def see(layer: torch.nn.Module, _: object, result: torch.Tensor, widest: dict = widest) -> None:
            widest[layer] = max(widest[layer], float(result.std()))

        hooks = [layer.register_forward_hook(see) for layer in layers]
        with torch.no_grad():
            module(torch.from_numpy(image))
            for layer, deviation in layers.items():
                layer.weight.mul_(deviation / widest[layer])
        for hook in hooks:
            hook.remove()
    return module


def milliseconds(artifacts: dict[str, Artifact], image: np.ndarray, times: int = 8) -> dict[str, int]:
    """The least of several runs of each, by turns, after one that warms up."""
    least = dict.fromkeys(artifacts, float("inf"))
    for turn in range(times + 1):
        for name, artifact in artifacts.items():
            start = time.perf_counter()
            artifact.detect([image])
            if turn:
                least[name] = min(least[name], time.perf_counter() - start)
    return {name: round(1e3 * seconds) for name, seconds in least.items()}


def main(size: str, *specs: str) -> None:
    height, width = (int(side) for side in size.split("x"))
    image = image_like(0, (1, 3, height, width))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for spec in specs:
        file, name = spec.split(":")
        detector = detc.load(ROOT / f"specs/{file}.det", name)
        module = with_objects(detector, image)
        artifacts = {}
        with tempfile.TemporaryDirectory(prefix="detc-") as folder:
            for target in TARGETS:
                path = Path(folder) / f"{target}.detc"
                (variant,) = export(detector, module, path, target=target, sizes=[(height, width)])
                print(name, target, variant.verification, flush=True)
                artifacts[target] = Artifact.load(path)
        cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
        print(name, size, milliseconds(artifacts, pixels), f"ms, {cores} cores, load {load:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
