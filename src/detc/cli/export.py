"""detc export"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import PRECISIONS, choice, height_and_width, split_spec
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.runtime.detector import Detector
    from detc.runtime.export import Variant


def export(
    spec: Annotated[str, typer.Argument(metavar="SPEC[:NAME]", help="The spec.", autocompletion=detectors)],
    target: Annotated[str, typer.Option(help="onnx, llvm (a CPU) or cuda (an NVIDIA GPU, which need not be here).")],
    arch: Annotated[
        str | None, typer.Option(help="cuda: sm_90 (the default), ...; llvm: a processor (by default this one).")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Height and width that images are fitted into; by default the spec's."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, max=1024, help="Images at a time; 1 by default.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16: what the network computes in.")] = "fp32",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="The trained weights.")] = None,
    random_weights: Annotated[bool, typer.Option(help="Take fresh weights: to try an export before training.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="PASS", help="Leave out an optimisation of the graph; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NAME-TARGET.detc by default; FILE.onnx is the bare model.")
    ] = None,
) -> None:
    """Compile a detector, images in and boxes out, and write it when it agrees with torch.fx.

    --size and --batch may be given several times: the artifact takes all of them, with one copy of the weights.

    Example: detc export mine.det --weights runs/mine/best.safetensors --target cuda --arch sm_90
    """
    from detc.compiler.passes.inference import names
    from detc.runtime.export import TARGETS

    choice("--target", target, TARGETS)
    if arch is not None and target == "onnx":
        raise typer.BadParameter("--arch is for cuda and llvm: an ONNX model has none")
    if (weights is not None) and random_weights:
        raise typer.BadParameter("--weights and --random-weights exclude each other")
    choice("--precision", precision, tuple(PRECISIONS))
    for name in without or ():
        choice("--without", name, tuple(names()))
    given = [height_and_width(each) for each in size or ()]

    import detc
    from detc.dsl.catalogue.export import NO_WEIGHTS
    from detc.dsl.diagnostics import DiagnosticError

    detector = detc.load(*split_spec(spec))
    if weights is None and not random_weights:
        detail = "give --weights FILE, or --random-weights to try the export itself"
        raise DiagnosticError(NO_WEIGHTS.at(None, f"no weights were given for {detector.name}", detail=detail))
    sizes = [_rounded(detector, asked) for asked in given or [_spec_size(detector)]]
    path = output or Path(f"{detector.name}-{target}.detc")
    started = time.monotonic()
    variants = _run(detector, weights, path, target, sizes, batch or [1], arch, PRECISIONS[precision], without or ())
    took = f"in {time.monotonic() - started:.0f} s, with at most {_most_memory() / 1e6:.0f} MB of memory"
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {took}")
    for variant in variants:
        named = f"{variant.batch} x 3 x {variant.height} x {variant.width}"
        typer.echo(f"{named}, compared with torch.fx: {variant.verification}")


def _rounded(detector: Detector, asked: tuple[int, int]) -> tuple[int, int]:
    """A height and width that the detector takes, with a note where it is not what was asked for."""
    divisor = detector.graph.size_divisor
    height, width = (math.ceil(side / divisor) * divisor for side in asked)
    if (height, width) != asked:
        rounded = f"{asked[0]}x{asked[1]} is rounded up to {height}x{width}"
        typer.echo(f"note: {rounded}: {detector.name} takes multiples of {divisor}", err=True)
    return height, width


def _most_memory() -> int:
    """The most memory that this process, or one that it started, ever had, in bytes."""
    from detc.runtime.rivals import most_memory

    return max(most_memory(), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _run(
    detector: Detector,
    weights: Path | None,
    path: Path,
    target: str,
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    arch: str | None,
    precision: str,
    without: Collection[str],
) -> tuple[Variant, ...]:
    """The export, with what it is doing shown where there is a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("loading torch") as status:
        import torch

        from detc.runtime.export import export as run
        from detc.runtime.predict import loaded_module

        def step(what: str) -> None:
            status.update(what)

        step("making the weights" if weights is None else f"loading {weights}")
        torch.manual_seed(0)
        module = detector.module("predict") if weights is None else loaded_module(detector, weights)
        return run(
            detector,
            module,
            path,
            target=target,  # type: ignore[arg-type]
            sizes=sizes,
            batches=batches,
            arch=arch,
            precision=precision,  # type: ignore[arg-type]
            without=without,
            step=step,
        )


def _spec_size(detector: Detector) -> tuple[int, int]:
    """The height and width that the spec's own resizing leads to, lying down, padded as its data says."""
    from detc.dsl.catalogue.export import BAD_SIZE
    from detc.dsl.diagnostics import DiagnosticError

    if detector.data is None:
        raise DiagnosticError(BAD_SIZE.at(None, f"{detector.name} has no `data` that says a size: give --size HxW"))
    width, height = detector.data.resize.size
    pad = detector.data.pad
    return math.ceil(height / pad) * pad, math.ceil(width / pad) * pad
