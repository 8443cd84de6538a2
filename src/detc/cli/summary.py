"""detc summary"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from detc.cli.common import REMAT, REMAT_BUDGET, choice, recomputed, split_spec
from detc.cli.completion import detectors

if TYPE_CHECKING:
    from detc.compiler.analyse import Component, Summary


def summary(
    spec: Annotated[str, typer.Argument(help="The spec, SPEC or SPEC:NAME.", autocompletion=detectors)],
    size: Annotated[str, typer.Option(help="Height and width of the images, as 800x1333.")] = "640x640",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    view: Annotated[str, typer.Option(help="forward, train or predict.")] = "predict",
    depth: Annotated[int, typer.Option(min=1, help="How many labels deep components are listed.")] = 2,
    remat: Annotated[bool, typer.Option("--remat", help=f"Of the train view. {REMAT}")] = False,
    remat_budget: Annotated[float, typer.Option(min=0, help=REMAT_BUDGET)] = 0.15,
    positives: Annotated[
        int | None,
        typer.Option(min=0, help="Regions of an image with a class that a second stage is trained on; else the most."),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Count parameters, arithmetic and memory of a detector, by component.

    Example: detc summary specs/fpg.det --view train --batch 8 --remat
    """
    choice("--format", output_format, ("text", "json"))
    pixels = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", size)
    if pixels is None:
        raise typer.BadParameter(f"--size is height x width in pixels, as 800x1333, and not {size!r}")
    import detc
    from detc.compiler.analyse import summarise

    detector = detc.load(*split_spec(spec))
    graph, height, width = detector.graph, int(pixels[1]), int(pixels[2])
    choice("--view", view, tuple(graph.views))
    if remat and view != "train":
        raise typer.BadParameter("--remat is of training: it takes --view train")
    again = recomputed(detector, remat, remat_budget, height, width)
    found = summarise(graph, view, height, width, batch, depth, again, positives)
    if output_format == "json":
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _print(found, trained=view == "train")


def _print(summary: Summary, trained: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("component", "is"):
        table.add_column(name, no_wrap=True)
    names = ("calls", "parameters", "trainable", "MACs", "FLOPs", "kept for backward" if trained else "activations")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for part in (*summary.components, summary.total):
        total = part is summary.total
        indent = "" if total else "  " * part.path.count(".")
        label = "total" if total else part.path.rpartition(".")[2]
        style = "bold" if total or not indent else None
        table.add_row(indent + label, "" if total else part.name, *_figures(part, trained), style=style)
    console = Console(width=None if Console().is_terminal else 140)
    images = f"{summary.batch} image{'s' if summary.batch > 1 else ''} of {summary.height}x{summary.width}"
    console.print(f"{summary.name}, {summary.view}, {images}", style="bold", highlight=False)
    console.print(table)
    for line in (*_memory(summary, trained), *_NOTES):
        console.print(line, highlight=False)
    for op, count in summary.uncounted.items():
        console.print(f"not counted: {op}, {count} times; detc knows no rule for it")


_NOTES = (
    "MACs are what papers call FLOPs: multiply-adds of convolutions and fully connected layers. FLOPs are all "
    "operations, a MAC two.",
)


def _memory(summary: Summary, trained: bool) -> Iterable[str]:
    """What is said of memory below the table."""
    peak = f"{_bytes(summary.peak_bytes)} at a time at most"
    sizes = f"image sizes are multiples of {summary.size_divisor}"
    if not trained:
        yield f"weights {_bytes(summary.weight_bytes)}; activations need {peak}; {sizes}"
        return
    total, again = summary.total, summary.recomputation
    yield f"weights {_bytes(summary.weight_bytes)}; activations and their gradients need {peak}; {sizes}"
    yield (
        f"kept for backward: {_bytes(total.saved_bytes)} in distinct storages, and {_bytes(total.packed_bytes)} "
        "counted in every call of a hook on saved tensors."
    )
    yield (
        f"Such a hook is also handed parameters and buffers: {_bytes(summary.saved_weight_bytes)} in distinct "
        f"storages, {_bytes(summary.packed_weight_bytes)} in all calls."
    )
    if summary.positives is not None:
        yield f"This is for {summary.positives} regions with a class in an image, of those drawn; --positives sets it."
    if again is not None:
        plain = f"{_bytes(again.plain_saved_bytes)} (in every call {_bytes(again.plain_packed_bytes)})"
        yield (
            f"computed again: {again.nodes} nodes, {100 * again.flops_share:.1f} % of the forward pass's FLOPs. "
            f"Otherwise {plain} would be kept, and {_bytes(again.plain_peak_bytes)} needed at a time."
        )


def _figures(part: Component, trained: bool) -> tuple[str, ...]:
    return (
        str(part.calls) if part.calls > 1 else "",
        f"{part.parameters:,}",
        f"{part.trainable:,}",
        _short(part.macs),
        _short(part.flops),
        _bytes(part.saved_bytes if trained else part.activation_bytes),
    )


def _short(count: int) -> str:
    """12.3 G for 12,300,000,000."""
    for power, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= power:
            return f"{count / power:.2f}{unit}"
    return str(count)


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
