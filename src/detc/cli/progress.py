"""How far a command is, for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")

# Where there is no terminal, a line is printed about so often.
_PLAIN_SECONDS = 20.0


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """What to call after each of about `total` steps: shows how many are done and the time left.

    On a terminal that is a bar, elsewhere a line now and then; both on the standard error stream.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Output that goes to a file or pipe must go on doing so.
        with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    start = said = time.monotonic()
    done = 0

    def step() -> None:
        nonlocal said, done
        done += 1
        now = time.monotonic()
        if now - said > _PLAIN_SECONDS:
            said = now
            left = max(0.0, (now - start) / done * (total - done))
            console.print(f"{what}: {done}/{total}, {left / 60:.0f} min left", markup=False)

    yield step


def watched(items: Iterable[T], what: str) -> Iterator[T]:
    """The items of a sized iterable, with `progress`."""
    with progress(length_hint(items), what) as step:
        for item in items:
            yield item
            step()
