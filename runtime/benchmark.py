"""How long detectors take, under one engine and another, turn by turn on the same images."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from detc.dsl.catalogue.running import RIVAL_FAILED
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.rivals import Failed, Ready, Rival, Turn, serve

_PACKAGES = ("detc", "torch", "onnxruntime", "apache-tvm", "openvino")
# Turns before any is counted: caches, pools of memory and frequencies settle.
_WARM = 2


@dataclass(frozen=True)
class Timing:
    """What turns of one engine took, in seconds, and what it needed.

    `before`, `engine` and `after` are medians of the stages, `network` that of the first network by itself, where it
    could be had. `memory` is the most that its process ever had, in bytes; `ready` the seconds until it could begin.
    """

    name: str
    median: float
    p99: float
    least: float
    before: float
    engine: float
    after: float
    network: float | None
    images_per_second: float
    memory: int
    ready: float

    @classmethod
    def of(cls, name: str, turns: Sequence[Turn], images: int, memory: int, ready: float) -> Timing:
        """The figures of some turns with so many images each."""
        whole = np.asarray([turn.whole for turn in turns])
        alone = [turn.network for turn in turns if turn.network is not None]
        median = float(np.median(whole))
        return cls(
            name,
            median,
            float(np.percentile(whole, 99)),
            float(whole.min()),
            *(float(np.median([getattr(turn, stage) for turn in turns])) for stage in ("before", "engine", "after")),
            float(np.median(alone)) if alone else None,
            images / median,
            memory,
            ready,
        )


def compare(
    rivals: Sequence[Rival],
    images: list[np.ndarray],
    turns: int,
    threads: int | None = None,
    step: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Measures engines in so many turns, in which each takes all the images (H, W, 3) as one batch.

    `threads` is how many each may use, None as many as it likes. `step` is called after each turn of each.

    Raises:
        DiagnosticError: rival-failed, with what the engine said.
    """
    context = get_context("spawn")
    with ExitStack() as stack:
        pipes: list[Connection] = []
        ready: list[float] = []
        for rival in rivals:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rival, images, threads, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.kill)
            pipes.append(ours)
            # One after the other: what is being made must not slow down what is.
            answer = _received(rival, ours)
            assert isinstance(answer, Ready)
            ready.append(answer.seconds)
        found: list[list[Turn]] = [[] for _ in rivals]
        for turn in range(_WARM + turns):
            for rival, pipe, of_rival in zip(rivals, pipes, found, strict=True):
                pipe.send(True)
                taken = _received(rival, pipe)
                if turn >= _WARM:
                    of_rival.append(taken)
                    step()
        timings = []
        for rival, pipe, of_rival, seconds in zip(rivals, pipes, found, ready, strict=True):
            pipe.send(False)
            timings.append(Timing.of(rival.name, of_rival, len(images), _received(rival, pipe), seconds))
    return timings


def _received(rival: Rival, pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        answer = Failed("its process ended: mostly there was too little memory")
    if isinstance(answer, Failed):
        raise DiagnosticError(RIVAL_FAILED.at(None, f"{rival.name} does not run: {answer.why}"))
    return answer


def machine() -> dict[str, Any]:
    """What the figures are of: processor, cores, load, versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def cores() -> int | None:
    """How many cores this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor() -> str:
    """The name of this machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    line = next((line for line in text.splitlines() if line.startswith("model name")), "")
    return line.partition(":")[2].strip() or platform.machine()
