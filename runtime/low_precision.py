"""Does an exported detector that computes in float16 or bfloat16 find what the torch.fx module finds?

Its networks are compared part by part as those in single precision are (`agreement`), with an error allowed that a sum
of rounded products has. Its detections are compared as objects: of the same class, in nearly the same place, with
nearly the same score. Rounding decides which of two objects that are alike is found, and, under weights that are not
trained, whether most are: so as many must be found as the judge finds again itself in images with as much noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from detc.compiler.emit.precision import Precision, low_values, rounded
from detc.compiler.emit.static import parts
from detc.compiler.graph import Graph
from detc.runtime.agreement import Verification, head_error, inputs_like
from detc.runtime.engines import OpenVinoEngine, TvmEngine
from detc.runtime.judge import Arrays, Judge, TvmCandidate

if TYPE_CHECKING:
    from detc.compiler.emit.tvm.build import Kernels


@dataclass(frozen=True)
class Tolerance:
    """What may differ: results of networks, as a share of the largest; scores; how little boxes may overlap.

    `noise` is what is added to images for the judge to look again, in standard deviations of theirs.
    """

    head: float
    score: float
    overlap: float
    noise: float


# Of ten and of seven binary digits, 5e-4 and 4e-3 of a value, over some dozens of layers.
TOLERANCES = {
    "float16": Tolerance(head=0.02, score=0.02, overlap=0.9, noise=1e-3),
    "bfloat16": Tolerance(head=0.12, score=0.1, overlap=0.8, noise=8e-3),
}
# So many of those that the judge finds again must be found, less their number's own deviation.
SHARE = 0.9


class Candidate(Protocol):
    """An exported detector under test."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs for a whole batch."""
        ...

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What one part alone gives for these inputs."""
        ...


class OpenVinoCandidate:
    """A model under OpenVINO in a precision, and one for each part of it; `outputs` names what the whole gives."""

    def __init__(self, model: bytes, parts: Sequence[bytes], outputs: Sequence[str], precision: str) -> None:
        self._whole = OpenVinoEngine(model, None, outputs, precision)
        self._parts = [OpenVinoEngine(part, None, (), precision) for part in parts]

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._whole(**inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._parts[index].results(list(given))


class KernelsCandidate:
    """Kernels of TVM's, loaded, that store results of layers of a graph in a precision."""

    def __init__(self, engine: TvmEngine, graph: Graph, precision: Precision) -> None:
        self._engine, self._graph, self._precision = engine, graph, precision
        self._parts, self._low = parts(graph), low_values(graph)

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._engine(**inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Between parts features lie in memory as (N, H, W, C), rounded."""
        inside = []
        for value, array in zip(self._parts[index].given, given, strict=True):
            lying = array.transpose(0, 2, 3, 1) if array.ndim == 4 and value.node in self._graph else array
            inside.append(self._stored(lying) if value in self._low else lying)
        found = (_real(array) for array in self._engine.call(f"part_{index}", *inside))
        return [array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for array in found]

    def _stored(self, array: np.ndarray) -> np.ndarray:
        """An array as kernels take it: on a GPU bfloat16 is a type of its own, on a processor its bits are."""
        stored = rounded(array, self._precision)
        if stored.dtype != np.uint16 or self._engine.target != "cuda":
            return stored
        import ml_dtypes

        return stored.view(ml_dtypes.bfloat16)


def kernels_candidate(
    engine: TvmEngine, parameters: Arrays, graph: Graph, build: Callable[[Graph], Kernels], precision: Precision
) -> TvmCandidate | KernelsCandidate:
    """Kernels of a graph under test, in any precision; the arguments are those of `TvmCandidate`."""
    if precision == "float32":
        return TvmCandidate(engine, parameters, graph, build)
    return KernelsCandidate(engine, graph, precision)


def _real(stored: np.ndarray) -> np.ndarray:
    """Rounded values as float32: float16, or bfloat16 in the upper half of the bits; others as they are."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32) if stored.dtype.name in ("float16", "bfloat16") else stored


def compare_rounded(
    judge: Judge, candidate: Candidate, shape: tuple[int, int, int, int], precision: str, images: int = 2
) -> Verification:
    """The candidate against the judge, on `images` batches of images of `shape` (N, 3, H, W)."""
    tolerance = TOLERANCES[precision]
    error, worst = 0.0, ""
    matched = stable = count = 0
    for seed in range(images):
        inputs = inputs_like(judge.graph, seed, shape)
        values = judge.values(inputs)
        for index, part in enumerate(judge.parts):
            if not part.chooses:
                actual = candidate.part(index, [values[value] for value in part.given])
                for value, result in zip(part.results, actual, strict=True):
                    off = head_error(values[value], result)
                    if not off <= error:
                        error, worst = off, str(value).removeprefix("%")
        noise = np.random.default_rng(seed).normal(0, tolerance.noise, shape).astype(np.float32)
        expected = judge(inputs)
        again, found = judge({**inputs, "image": inputs["image"] + noise}), candidate(inputs)
        for row in range(shape[0]):
            mine, other, rounded = ({k: v[row] for k, v in each.items()} for each in (expected, again, found))
            stable += alike(mine, other, tolerance)
            matched += alike(mine, rounded, tolerance)
            count += int((mine["scores"] > 0).sum())
    fine = error <= tolerance.head and matched >= SHARE * stable - stable**0.5
    return Verification(
        "passed" if fine else "failed",
        images=images * shape[0],
        head_error=error,
        worst_head=worst,
        detections=count,
        matched=matched,
        stable=stable,
    )


def alike(expected: Arrays, actual: Arrays, tolerance: Tolerance) -> int:
    """How many objects of one image have a partner in the other, one to one: `boxes` (K, 4), `scores` (K,), 0 for none,
    and, where there are any, `classes` (K,)."""
    rows, others = (np.flatnonzero(each["scores"] > 0) for each in (expected, actual))
    near = _overlaps(expected["boxes"][rows], actual["boxes"][others]) >= tolerance.overlap
    near &= np.abs(expected["scores"][rows][:, None] - actual["scores"][others]) <= tolerance.score
    if "classes" in expected:
        near &= expected["classes"][rows][:, None] == actual["classes"][others]
    found = 0
    for row in near:
        partners = np.flatnonzero(row)
        if len(partners):
            near[:, partners[0]] = False
            found += 1
    return found


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The intersection over union of every two boxes, (K, L); 1 for two of no area in one place."""
    one, other = boxes[:, None], others[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    area, its = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (one, other))
    both = area + its - shared
    ratio: np.ndarray = np.where(both > 0, shared / np.where(both > 0, both, 1), (one == other).all(-1))
    return ratio
