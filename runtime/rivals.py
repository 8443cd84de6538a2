"""Engines to measure, each in a process of its own: memory is its own, and no pool of threads disturbs another's.

This module is what those processes import first, before they know how many threads they may have: nothing heavy may
be imported at its top.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# How an engine is called on the command line, and the package that it needs beside detc's own.
RIVALS = {"torch": "", "compile": "", "onnxruntime": "", "openvino": "openvino", "tvm": ""}
_THREADS = ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Rival:
    """An engine to measure: a detector under one of `RIVALS`.

    `artifact` is the `.detc` file that it runs; torch and compile run `spec` (file, detector) with `weights`, fresh
    ones where there are none. `network` is an ONNX model or, for TVM, nothing more than the artifact: what the engine
    needs to run a detector's first network alone, to its dense heads.
    """

    name: str
    engine: str
    artifact: Path | None = None
    spec: tuple[Path, str] | None = None
    weights: Path | None = None
    network: Path | None = None
    device: str = "cpu"


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


def installed(engine: str) -> bool:
    """Whether the package that an engine needs is there."""
    package = RIVALS[engine]
    return not package or importlib.util.find_spec(package) is not None


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
    pipe.send(_most_memory())


def _most_memory() -> int:
    """The most memory that this process had, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):  # on Linux this one begins with what the parent had
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _prepare(rival: Rival, images: list[np.ndarray], threads: int | None) -> Callable[[], Turn]:
    """A function that takes the images through a rival once."""
    from detc.runtime.data.preprocess import Preprocess

    preprocess, engine, network = _engine(rival, threads)

    def turn() -> Turn:
        begun = time.perf_counter()
        batch, placements = preprocess(images)
        before = time.perf_counter()
        outputs = engine(image=batch)
        ran = time.perf_counter()
        Preprocess.detections(outputs, placements)
        after = time.perf_counter()
        seconds = None
        if network is not None:
            network(batch)
            seconds = time.perf_counter() - after
        return Turn(before - begun, ran - before, after - ran, seconds)

    return turn


def _engine(rival: Rival, threads: int | None) -> tuple[Any, Callable[..., Any], Callable[..., Any] | None]:
    """What belongs before an engine, the engine, and its first network where it can be had."""
    if rival.engine in ("torch", "compile"):
        return _torch(rival, threads)
    from detc.runtime.artifact import Artifact, OnnxEngine, read

    assert rival.artifact is not None
    artifact = Artifact.load(rival.artifact)
    preprocess = artifact.predictor().preprocess
    if rival.engine == "openvino":
        names = [output["name"] for output in artifact.manifest["outputs"]]
        whole = _openvino(read(rival.artifact)[1]["model.onnx"], names, threads)
        return preprocess, whole, _openvino(rival.network.read_bytes(), (), threads) if rival.network else None
    if rival.engine == "tvm":
        return preprocess, artifact, artifact.first_network
    if rival.network is not None:
        alone = OnnxEngine(rival.network.read_bytes())
        return preprocess, artifact, lambda image: alone(image=image)
    return preprocess, artifact, None


def _torch(rival: Rival, threads: int | None) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    import torch

    import detc
    from detc.runtime.artifact import Artifact
    from detc.runtime.predict import FxEngine, loaded_module

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

    def network(image: np.ndarray) -> None:
        with torch.inference_mode():
            found = forward(torch.from_numpy(image).to(rival.device))
        # Waits for a GPU.
        next(value for values in found.values() for value in ([values] if hasattr(values, "cpu") else values)).cpu()

    # The same pixels as the artifacts get: images fitted into one size.
    preprocess = Artifact.load(rival.artifact).predictor().preprocess
    return preprocess, FxEngine(views["predict"], rival.device), network


def _openvino(model: bytes, names: Sequence[str], threads: int | None) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import openvino

    core = openvino.Core()
    # Its own choice of precision would be bfloat16 where the processor has it.
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(model, b""), "CPU", config)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        # In the order of the model's outputs: OpenVINO may call them otherwise.
        found = compiled([image])
        return {name: found[index] for index, name in enumerate(names)}

    return run
