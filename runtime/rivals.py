"""Engines to measure, each in a process of its own: memory is its own, and no pool of threads disturbs another's.

This module is what those processes import first, before they know how many threads they may have: nothing heavy may
be imported at its top.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from detc.runtime.artifact import Artifact

# How engines are called on the command line.
RIVALS = ("torch", "compile", "onnxruntime", "openvino", "tvm")
_THREADS = ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Rival:
    """An engine to measure: a detector under one of `RIVALS`.

    `artifact` is the `.detc` file that it runs; torch and compile run `spec` (file, detector) with `weights`, fresh
    ones where there are none. `network` is an ONNX model or, for TVM, nothing more than the artifact: what the engine
    needs to run a detector's first network alone, to its dense heads. `precision` is that of torch and compile, by
    autocast; an artifact has its own.
    """

    name: str
    engine: str
    artifact: Path | None = None
    spec: tuple[Path, str] | None = None
    weights: Path | None = None
    network: Path | None = None
    device: str = "cpu"
    precision: str = "float32"


@dataclass(frozen=True)
class Turn:
    """Seconds of one turn: from an image to what the engine takes, the engine, from there to boxes of the image.

    `network` is the first network by itself, in a run of its own, where the engine can do that.
    """

    before: float
    engine: float
    after: float
    network: float | None

    @property
    def whole(self) -> float:
        return self.before + self.engine + self.after


@dataclass(frozen=True)
class Ready:
    """Seconds until an engine was there, its first run included."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """What was wrong with an engine, in words."""

    why: str


def serve(rival: Rival, images: list[np.ndarray], threads: int | None, pipe: Connection) -> None:
    """What a rival's process does: makes the engine, runs once for every message, tells its memory at the end.

    It sends `Ready` or `Failed`; for each True a `Turn`; for False the most memory that it ever had, in bytes.
    """
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    start = time.perf_counter()
    try:
        run = _prepare(rival, images, threads)
        run()
    except Exception as error:  # any engine may fail in its own way: one that does must not end the comparison
        pipe.send(Failed(f"{type(error).__name__}: {error}"))
        return
    pipe.send(Ready(time.perf_counter() - start))
    while pipe.recv():
        pipe.send(run())
    pipe.send(most_memory())


def most_memory() -> int:
    """The most memory that this process had, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):  # on Linux this one begins with what the parent had
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _prepare(rival: Rival, images: list[np.ndarray], threads: int | None) -> Callable[[], Turn]:
    """A function that takes the images through a rival once."""
    before, engine, after, network = _engine(rival, threads)

    def turn() -> Turn:
        begun = time.perf_counter()
        given = before(images)
        prepared = time.perf_counter()
        outputs = engine(given)
        ran = time.perf_counter()
        after(outputs, given)
        done = time.perf_counter()
        seconds = None
        if network is not None:
            network()
            seconds = time.perf_counter() - done
        return Turn(prepared - begun, ran - prepared, done - ran, seconds)

    return turn


# From images to what the engine takes, the engine, from there to boxes, and the first network where it can be had.
Stages = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[[], object] | None]


def _engine(rival: Rival, threads: int | None) -> Stages:
    """The stages of an engine. Of an artifact, pixels go in as they are: what comes before is in the engine."""
    if rival.engine in ("torch", "compile"):
        return _torch(rival, threads)
    from detc.runtime.artifact import Artifact

    assert rival.artifact is not None
    artifact = Artifact.load(rival.artifact, rival.engine, threads)
    predictor = artifact.predictor()
    network = artifact.first_network() if rival.engine == "tvm" else None
    if rival.network is not None:
        network = _alone(rival.network.read_bytes(), rival.engine, artifact, threads)
    return lambda images: images, artifact.detect, predictor.read, network


def _alone(model: bytes, engine: str, artifact: Artifact, threads: int | None) -> Callable[[], object]:
    """A network of an ONNX model, given normalised noise of an artifact's first size."""
    import numpy as np

    from detc.runtime.engines import OnnxEngine, OpenVinoEngine

    first = artifact.entries[0]
    image = np.random.default_rng(0).standard_normal((first.batch, 3, first.height, first.width), np.float32)
    if engine == "openvino":
        alone = OpenVinoEngine(model, None, (), artifact.manifest["precision"], threads)
        return lambda: alone(image=image)
    session = OnnxEngine(model, None, threads)
    return lambda: session(image=image)


def _torch(rival: Rival, threads: int | None) -> Stages:
    import numpy as np
    import torch

    import detc
    from detc.runtime.artifact import Artifact
    from detc.runtime.data.preprocess import Preprocess
    from detc.runtime.predict import FxEngine, data_of, loaded_module, preprocess_of

    if threads is not None:
        torch.set_num_threads(threads)
    assert rival.spec is not None and rival.artifact is not None
    detector = detc.load(*rival.spec)
    torch.manual_seed(0)
    views = detector.modules("predict", "forward")
    if rival.weights is not None:
        views["predict"].load_state_dict(loaded_module(detector, rival.weights).state_dict())
    for view in views.values():
        view.to(memory_format=torch.channels_last)
        if rival.engine == "compile":
            view.compile(dynamic=False)
    forward = views["forward"].to(rival.device).eval()
    # The same pixels as the artifacts get: images fitted into one size.
    first = Artifact.load(rival.artifact).entries[0]
    preprocess = preprocess_of(data_of(detector), 1, fixed=(first.width, first.height))
    noise = np.random.default_rng(0).standard_normal((first.batch, 3, first.height, first.width), np.float32)

    def rounded() -> torch.autocast:
        dtype = getattr(torch, rival.precision)
        return torch.autocast(rival.device, dtype, enabled=dtype != torch.float32)

    def network() -> None:
        with torch.inference_mode(), rounded():
            found = forward(torch.from_numpy(noise).to(rival.device))
        # Waits for a GPU.
        next(value for values in found.values() for value in ([values] if hasattr(values, "cpu") else values)).cpu()

    engine = FxEngine(views["predict"], rival.device)

    def whole(given: Any) -> dict[str, np.ndarray]:
        with rounded():
            return engine(image=given[0])

    return (
        preprocess,
        whole,
        lambda outputs, given: Preprocess.detections(outputs, given[1]),
        network,
    )
