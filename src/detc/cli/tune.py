"""detc tune"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detc.cli.common import choice, height_and_width, split_spec
from detc.cli.completion import detectors
from detc.cli.progress import watched

_PRECISIONS = {"fp16": "float16", "bf16": "bfloat16"}


def tune(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC[:NAME]...", help="Detectors to tune for.", autocompletion=detectors)
    ],
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the images.")] = "640x640",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images at a time; may be repeated.")] = None,
    precision: Annotated[str, typer.Option(help="fp16 or bf16; what is fastest for one is so for the other.")] = "fp16",
    most: Annotated[int, typer.Option(min=1, help="Tiles to try for a layer.")] = 12,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the fastest are kept; by default detc's own table.")
    ] = None,
    again: Annotated[bool, typer.Option(help="Measure what the table has already, too.")] = False,
) -> None:
    """Measure on this machine's GPU which tiles are fastest for a detector's layers, and keep them for exports.

    The table is written after every layer: a run that was interrupted goes on where it was.

    Example: detc tune mine.det --size 800x1344 --batch 1 --batch 16
    """
    choice("--precision", precision, tuple(_PRECISIONS))
    height, width = height_and_width(size)

    import detc
    from detc.compiler.emit.tvm.tuning import TABLE
    from detc.runtime.tune import Bench, architecture, layers, load_table, promising, save_table

    path = table or TABLE
    found = load_table(path)
    arch = architecture()
    known = found.setdefault(arch, {})
    wanted = {}
    for spec in specs:
        graph = detc.load(*split_spec(spec)).graph
        for count in batch or [1]:
            wanted |= {str(layer): layer for layer in layers(graph, count, height, width)}
    left = [layer for key, layer in wanted.items() if again or key not in known]
    typer.echo(f"{len(wanted)} layers, {len(wanted) - len(left)} of them in {path} already", err=True)
    if not left:
        return
    tried = {layer: promising(layer, arch, most) for layer in left}
    bench = Bench(((layer, each) for layer, choices in tried.items() for each in choices), _PRECISIONS[precision], arch)
    for layer in watched(left, "layers"):
        measured = bench.measure(layer, tried[layer])
        wrong = [each for each in measured if not each.agrees]
        for each in wrong:
            typer.echo(f"{layer}: {each.choice} is off by {each.error:.1e} of the largest value: not taken", err=True)
        best = measured[0]
        if best.agrees:
            known[str(layer)] = best.choice
            save_table(path, found)
            rate = layer.operations / best.seconds / 1e12
            ratio = next(each.seconds for each in measured if each.choice == tried[layer][0]) / best.seconds
            typer.echo(
                f"{layer}: {best.choice}, {1e6 * best.seconds:.1f} us, {rate:.0f} TFLOP/s, {ratio:.2f} of the rule's"
            )
