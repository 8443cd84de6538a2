"""detc bench"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import PRECISIONS, choice, height_and_width, split_spec
from detc.cli.completion import detectors
from detc.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from detc.runtime.benchmark import Timing
    from detc.runtime.rivals import Rival


def bench(
    subjects: Annotated[
        list[str], typer.Argument(metavar="ARTIFACT|SPEC[:NAME]...", help="What is measured.", autocompletion=detectors)
    ],
    vs: Annotated[
        str, typer.Option(help="Engines for a spec: some of torch, compile, onnxruntime, openvino, tvm.")
    ] = "tvm,onnxruntime,torch",
    weights: Annotated[Path | None, typer.Option(help="Weights of a spec; fresh ones if not given.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Size that a spec is measured at.")] = "640x640",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16: what a spec's network computes in.")] = "fp32",
    batch: Annotated[int, typer.Option(min=1, help="Images of a turn.")] = 1,
    turns: Annotated[int, typer.Option(min=1, help="How often each engine is measured.")] = 30,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each engine; as many as it likes.")] = None,
    images: Annotated[list[str] | None, typer.Option(help="Images to measure with; noise if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="A JSON file of the figures, for later comparison.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Measure how long images take, from pixels to boxes, under several engines that take turns.

    Each engine has a process of its own. A spec is exported, and verified, for the engines that need it.

    Examples: detc bench mine-llvm.detc mine-onnx.detc     detc bench mine.det --vs tvm,openvino --threads 1
    """
    choice("--format", output_format, ("text", "json"))
    choice("--precision", precision, tuple(PRECISIONS))
    sides = height_and_width(size)
    engines = tuple(dict.fromkeys(vs.split(",")))
    _check_engines(engines)
    from detc.runtime.benchmark import compare, machine

    with tempfile.TemporaryDirectory(prefix="detc-bench-") as folder:
        rivals: list[Rival] = []
        for number, subject in enumerate(subjects):
            if subject.endswith((".detc", ".onnx")):
                rivals.append(_of_artifact(Path(subject)))
            else:
                place = Path(folder) / str(number)
                place.mkdir()
                rivals += _of_spec(subject, engines, weights, sides, batch, PRECISIONS[precision], place)
        given = _images(images, batch, sides)
        with progress(len(rivals) * turns, "measuring") as step:
            timings = compare(rivals, given, turns, threads, step)
    described = {**machine(), "threads": threads, "images": batch, "turns": turns}
    figures = {"machine": described, "engines": [asdict(timing) for timing in timings]}
    if output is not None:
        from detc.runtime.files import write_json

        write_json(output, figures)
    if output_format == "json":
        typer.echo(json.dumps(figures, indent=2))
    else:
        _print(timings, described)


def _check_engines(engines: Sequence[str]) -> None:
    from detc.dsl.catalogue.running import BAD_OPTION
    from detc.dsl.diagnostics import DiagnosticError
    from detc.runtime.artifact import installed
    from detc.runtime.rivals import RIVALS

    for engine in engines:
        choice("--vs", engine, RIVALS)
        # The others come with detc.
        if engine == "openvino" and not installed(engine):
            summary = f"--vs {engine}: its package is not installed"
            raise DiagnosticError(BAD_OPTION.at(None, summary, detail=f"pip install 'detc[{engine}]'"))


def _of_artifact(path: Path) -> Rival:
    from detc.runtime.artifact import read
    from detc.runtime.rivals import Rival

    target = read(path)[0]["target"]
    device = "cuda" if target == "cuda" else "cpu"
    return Rival(path.name, "onnxruntime" if target == "onnx" else "tvm", path, device=device)


def _of_spec(
    subject: str,
    engines: Sequence[str],
    weights: Path | None,
    sides: tuple[int, int],
    batch: int,
    precision: str,
    folder: Path,
) -> list[Rival]:
    """The engines of a spec, with the artifacts that they need in a folder."""
    import math

    import torch
    from rich.console import Console

    import detc
    from detc.compiler.emit.onnx import emit
    from detc.compiler.emit.static import parts
    from detc.compiler.passes import apply
    from detc.compiler.passes.inference import passes
    from detc.runtime.export import export
    from detc.runtime.predict import loaded_module
    from detc.runtime.rivals import Rival

    path, name = split_spec(subject)
    detector = detc.load(path, name)
    divisor = detector.graph.size_divisor
    height, width = (math.ceil(side / divisor) * divisor for side in sides)
    artifacts: dict[str, Path] = {}
    network = folder / "network.onnx"
    with Console(stderr=True).status("") as status:
        torch.manual_seed(0)
        module = detector.module("predict") if weights is None else loaded_module(detector, weights)
        # torch's engines take from the artifact how images are fitted.
        targets = {"llvm"} if "tvm" in engines else set()
        targets |= {"onnx"} if set(engines) - {"tvm"} else set()
        for target in sorted(targets):
            artifacts[target] = folder / f"{target}.detc"
            shape = {"sizes": [(height, width)], "batches": [batch], "precision": precision}
            export(detector, module, artifacts[target], target=target, step=status.update, **shape)  # type: ignore[arg-type]
        if "onnx" in targets:
            status.update("writing the network alone")
            graph = detector.graph.view("predict")
            state = {key: value.detach().numpy() for key, value in module.state_dict().items() if key in graph.weights}
            graph, state = apply(passes(batch, height, width), graph, state)
            model = emit(parts(graph)[0].graph, state, batch=batch, height=height, width=width)
            network.write_bytes(model.SerializeToString())
    found = []
    for engine in engines:
        artifact = artifacts["llvm" if engine == "tvm" else "onnx"]
        alone = network if engine in ("onnxruntime", "openvino") else None
        label = f"{detector.name} {engine}"
        found.append(Rival(label, engine, artifact, (path, detector.name), weights, alone, precision=precision))
    return found


def _images(names: list[str] | None, batch: int, sides: tuple[int, int]) -> list[np.ndarray]:
    import numpy as np

    if not names:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (*sides, 3), np.uint8) for _ in range(batch)]
    from detc.runtime.data.images import read_image
    from detc.runtime.inputs import media_files

    files = media_files(names, recursive=False)
    return [read_image(files[number % len(files)]) for number in range(batch)]


_COLUMNS = ("median", "p99", "least", "img/s", "before", "engine", "network", "after", "MiB", "ready s", "times")


def _print(timings: Sequence[Timing], described: dict[str, object]) -> None:
    rows = [["ms", *_COLUMNS]]
    for timing in timings:
        milliseconds = (
            "" if value is None else f"{1e3 * value:.1f}"
            for value in (timing.before, timing.engine, timing.network, timing.after)
        )
        rows.append(
            [
                timing.name,
                *(f"{1e3 * value:.1f}" for value in (timing.median, timing.p99, timing.least)),
                f"{timing.images_per_second:.1f}",
                *milliseconds,
                f"{timing.memory / 2**20:.0f}",
                f"{timing.ready:.1f}",
                f"{timing.median / timings[0].median:.2f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *values in rows:
        typer.echo(name.ljust(widths[0]) + "".join(v.rjust(w + 2) for v, w in zip(values, widths[1:], strict=True)))
    threads = f"{described['threads']} thread(s)" if described["threads"] else "as many threads as each likes"
    typer.echo(
        f"{described['images']} image(s) from pixels to boxes, {described['turns']} turns, {threads}; "
        f"{described['processor']}, {described['cores']} cores, load {described['load']}"
    )
