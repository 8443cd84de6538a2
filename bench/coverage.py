"""Which detectors of the zoo can be exported to what: the table that the zoo's pages show.

    python bench/coverage.py tried            every detector: the ONNX model checked and run, the kernels' loops made
    python bench/coverage.py llvm cuda        beside that, one detector of each file compiled: all of its kernels

Detectors with equal graphs are tried once. What is done is in bench/results/coverage.csv, a row a detector, with a hash
of its graph: what is there is not done again while the graph is the same. Sizes are small, weights random. A cell is

- `ran`: compiled, and run here;   `built`: compiled to machine code, for which there is no device here;
- `lowered`: every op is lowered for images of that size, into the loops that the compiler then takes;
- else what the target says of it: the diagnostic, with its place in the spec.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

import detc
from detc.compiler.graph import Graph, flatten
from detc.compiler.modules import specs_folder
from detc.compiler.passes import apply
from detc.compiler.passes.inference import passes
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.agreement import inputs_like

RESULTS = Path(__file__).parent / "results" / "coverage.csv"
# The sides of an image, at least.
SIDE = 128


@dataclass(frozen=True)
class Row:
    """How one detector goes to each target."""

    spec: str
    detector: str
    graph: str
    onnx: str = ""
    llvm: str = ""
    cuda: str = ""


def graph_hash(graph: Graph) -> str:
    """The same for predict graphs that are equal but for names and the places they come from."""
    numbers = {name: index for index, name in enumerate((*graph.inputs, *(node.name for node in graph.nodes)))}
    weights = {key: index for index, key in enumerate(graph.weights)}
    digest = hashlib.sha256()
    for node in graph.nodes:
        taken = [[(numbers[v.node], v.output) for v in flatten(values)] for _, values in node.inputs]
        attrs = sorted((name, repr(value)) for name, value in node.attrs.items())
        own = [(name, weights[key]) for name, key in node.weights.items()]
        digest.update(repr((node.op, taken, attrs, own, [str(kind) for kind in node.types])).encode())
    shown = {
        name: [(numbers[v.node], v.output) for v in flatten(values)] for name, values in graph.views["predict"].items()
    }
    digest.update(repr((shown, [weight.tied and weights[weight.tied] for weight in graph.weights.values()])).encode())
    return digest.hexdigest()[:12]


def table() -> dict[tuple[str, str], Row]:
    """What is known, by spec and detector."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        rows = [Row(**row) for row in csv.DictReader(file)]
    return {(row.spec, row.detector): row for row in rows}


def write(rows: dict[tuple[str, str], Row]) -> None:
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows.values())


class Tried:
    """A detector's optimised graph with random weights, at a small size, for each target."""

    def __init__(self, detector: detc.Detector) -> None:
        import torch

        torch.manual_seed(0)
        state = {key: value.numpy() for key, value in detector.module("predict").state_dict().items()}
        graph = detector.graph.view("predict")
        side = -(-SIDE // graph.size_divisor) * graph.size_divisor
        self.size = {"batch": 1, "height": side, "width": side}
        self.graph, self.weights = apply(passes(**self.size), graph, {key: state[key] for key in graph.weights})
        self.inputs = inputs_like(graph, 0, (1, 3, side, side))

    def onnx(self) -> str:
        from detc.compiler.emit.onnx import emit
        from detc.runtime.artifact import OnnxEngine

        engine = OnnxEngine(emit(self.graph, self.weights, **self.size).SerializeToString())
        _require_numbers(engine.run(self.inputs))
        return "ran"

    def lowered(self, target: str) -> str:
        import tvm

        from detc.compiler.emit.tvm.cpu import Cpu, Registers
        from detc.compiler.emit.tvm.gpu import Gpu
        from detc.compiler.emit.tvm.module import program

        registers = Registers.of(tvm.target.Target({"kind": "llvm", "mcpu": "haswell"}))
        program(self.graph, self.weights, Cpu(registers) if target == "llvm" else Gpu(), **self.size)
        return "lowered"

    def llvm(self) -> str:
        from detc.compiler.emit.tvm.build import build_llvm
        from detc.runtime.judge import engine

        _require_numbers(engine(build_llvm(self.graph, self.weights, **self.size))(**self.inputs))
        return "ran"

    def cuda(self) -> str:
        from detc.compiler.emit.tvm.build import build_cuda

        build_cuda(self.graph, self.weights, **self.size)
        return "built"


def _require_numbers(outputs: dict[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are no numbers")


def said(attempt: Callable[[], str]) -> str:
    """What came of it, or what the target says against it."""
    try:
        return attempt()
    except DiagnosticError as error:
        first = error.diagnostics[0]
        place = f" ({first.labels[0].span})" if first.labels else ""
        return f"{first.kind.code}: {first.summary}{place}"


def detectors() -> Iterator[detc.Detector]:
    for path in sorted(specs_folder().glob("*.det")):
        yield from detc.load(path).siblings()


def main(*wanted: str) -> None:
    known = table()
    by_graph = {row.graph: row for row in known.values()}
    rows: dict[tuple[str, str], Row] = {}
    compiled: set[tuple[str, str]] = set()
    for detector in detectors():
        graph = graph_hash(detector.graph.view("predict"))
        row = replace(by_graph.get(graph, Row("", "", graph)), spec=detector.path.name, detector=detector.name)
        tried: Tried | None = None
        for target in ("onnx", "llvm", "cuda"):
            one = (target, row.spec)
            compile_it = target in wanted and one not in compiled and getattr(row, target) in ("", "lowered")
            if getattr(row, target) in ("ran", "built"):
                compiled.add(one)
            if getattr(row, target) and not compile_it:
                continue
            tried = tried or Tried(detector)
            if target == "onnx":
                found = said(tried.onnx)
            elif compile_it:
                found = said(getattr(tried, target))
                compiled.add(one)
            else:
                found = said(lambda tried=tried, target=target: tried.lowered(target))
            row = replace(row, **{target: found})
        by_graph[graph] = rows[row.spec, row.detector] = row
        if tried is not None:
            print(row.spec, row.detector, row.graph, row.onnx, row.llvm, row.cuda, flush=True)
            write({**rows, **{key: other for key, other in known.items() if key not in rows}})
    write({key: replace(by_graph[row.graph], spec=row.spec, detector=row.detector) for key, row in rows.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
