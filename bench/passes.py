"""What each pass is worth: how long an image takes with it and without, under TVM and ONNX Runtime.

    taskset -c 1 python bench/passes.py 640x640 retinanet:retinanet_r50_fpn_1x nas_fpn:retinanet_r50_nasfpn_crop640_50e

For every pass that changes a detector's graph, the whole set of passes against the same without that one, and, as
`all`, against none of those that can be left out. Runs take turns; of each the least counts, of the processor's time on
one core. Beside the ratio are the nodes and megabytes of weights that the pass takes away. `choices` is what lies
between the network and the boxes, alone, as a share of the whole.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from export import with_objects

import detc
from detc.compiler.emit.onnx import emit
from detc.compiler.emit.static import parts
from detc.compiler.emit.tvm.build import build_llvm
from detc.compiler.graph import Graph
from detc.compiler.passes import apply
from detc.compiler.passes.inference import names, passes
from detc.runtime.agreement import image_like
from detc.runtime.artifact import OnnxEngine
from detc.runtime.judge import engine

ROOT = Path(__file__).parents[1]
TURNS = 6


def engines(
    graph: Graph, weights: Mapping[str, np.ndarray], size: dict[str, int], image: np.ndarray
) -> dict[str, Callable[[], object]]:
    """One run of a detector on each target; of detectors of one stage, also of the choice alone."""
    model = OnnxEngine(emit(graph, weights, **size).SerializeToString())
    machine = engine(build_llvm(graph, weights, **size))
    found: dict[str, Callable[[], object]] = {
        "onnx": lambda: model.run({"image": image}),
        "llvm": lambda: machine(image=image),
    }
    cut = parts(graph)
    if len(cut) == 2:
        alone = [OnnxEngine(emit(part.graph, weights, **size).SerializeToString()) for part in cut]
        results = list(alone[0].run({"image": image}).values())
        values = {**dict(zip(cut[0].results, results, strict=True)), cut[0].given[0]: image}
        given = [values[value] for value in cut[1].given]
        inputs = dict(zip(alone[1].inputs, given, strict=True))
        # Without the copies from numpy and back, which are not made within the whole.
        arguments = [*map(machine._put, given), *machine._arguments["part_1"]]
        found |= {
            "onnx choices": lambda: alone[1].run(inputs),
            "llvm choices": lambda: machine._machine["part_1"](*arguments),
        }
    return found


def milliseconds(runs: dict[tuple[str, str], Callable[[], object]]) -> dict[tuple[str, str], float]:
    """The least of several runs of each, by turns, after one that warms up."""
    least = dict.fromkeys(runs, float("inf"))
    for turn in range(TURNS + 1):
        for key, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                least[key] = min(least[key], 1e3 * (time.process_time() - start))
    return least


def main(sides: str, *specs: str) -> None:
    height, width = (int(side) for side in sides.split("x"))
    size = {"batch": 1, "height": height, "width": width}
    image = image_like(0, (1, 3, height, width))
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    print("| detector | pass | nodes | MB | llvm | ONNX Runtime |\n|---|---|---|---|---|---|")
    for spec in specs:
        file, name = spec.split(":")
        detector = detc.load(ROOT / f"specs/{file}.det", name)
        state = {key: value.numpy() for key, value in with_objects(detector, image).state_dict().items()}
        graph = detector.graph.view("predict")
        given = {key: state[key] for key in graph.weights}
        whole = apply(passes(**size), graph, given)
        made = engines(*whole, size, image)
        print(f"| {name} | with all passes | {len(whole[0])} | {_megabytes(whole[1]):.1f} | ", end="")
        alone = milliseconds({("", target): run for target, run in made.items()})
        print(
            " | ".join(
                f"{alone['', target]:.0f} ms, choices {100 * alone['', f'{target} choices'] / alone['', target]:.1f} %"
                if f"{target} choices" in made
                else f"{alone['', target]:.0f} ms"
                for target in ("llvm", "onnx")
            ),
            "|",
            flush=True,
        )
        for left_out in (*names(), "all"):
            other = apply(passes(**size, without=names() if left_out == "all" else [left_out]), graph, given)
            if [*other[0].nodes] == [*whole[0].nodes]:
                continue
            runs = {("with", target): run for target, run in made.items()}
            runs |= {("without", target): run for target, run in engines(*other, size, image).items()}
            times = milliseconds(runs)
            ratios = (times["without", target] / times["with", target] for target in ("llvm", "onnx"))
            nodes, weights = len(other[0]) - len(whole[0]), _megabytes(other[1]) - _megabytes(whole[1])
            print(f"| | {left_out} | {nodes} | {weights:.1f} | {' | '.join(f'{r:.3f}' for r in ratios)} |", flush=True)


def _megabytes(weights: Mapping[str, np.ndarray]) -> float:
    return sum(array.nbytes for array in weights.values()) / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
