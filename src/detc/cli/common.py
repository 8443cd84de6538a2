"""What several commands share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from detc.dsl.diagnostics import Diagnostic
from detc.dsl.render import to_text

if TYPE_CHECKING:
    from detc.compiler.memory import Recomputed
    from detc.runtime.detector import Detector


def split_spec(spec: str) -> tuple[Path, str | None]:
    """SPEC or SPEC:NAME, as a path and the name of a detector."""
    path, colon, name = spec.rpartition(":")
    if colon and path and "/" not in name and "\\" not in name:
        return Path(path), name
    return Path(spec), None


REMAT = "Compute part of what the backward pass needs again, rather than keeping it."
REMAT_BUDGET = "What that may cost, as a part of the forward pass's FLOPs."


# What --precision says, as the rest of detc calls it.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TTA = "Look at each image in several views and merge them; else as the spec's data says."


def recomputed(detector: Detector, remat: bool, budget: float, height: int = 640, width: int = 640) -> Recomputed:
    """What the backward pass of a detector computes again, with the options --remat and --remat-budget."""
    from detc.compiler.memory import NOTHING
    from detc.compiler.passes.recompute import Recompute

    return Recompute(budget, height, width).run(detector.graph) if remat else NOTHING


def report(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics to the standard error stream."""
    for diagnostic in diagnostics:
        print(to_text(diagnostic, colour(sys.stderr)) + "\n", file=sys.stderr)


def colour(stream: object) -> bool:
    """Whether a stream shows colours: a terminal, and the user does not object (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and not os.environ.get("NO_COLOR")


def choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is not one of those allowed."""
    import typer

    if value not in allowed:
        raise typer.BadParameter(f"{option} is one of {', '.join(allowed)}, and not {value!r}")


def height_and_width(size: str) -> tuple[int, int]:
    """The pixels that --size says, as in 800x1344."""
    import typer

    pixels = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if pixels is None:
        raise typer.BadParameter(f"--size is height x width in pixels, as 800x1344, and not {size!r}")
    return int(pixels[1]), int(pixels[2])
