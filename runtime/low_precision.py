"""Does an exported detector that computes in float16 or bfloat16 find what the torch.fx module finds?

Its networks are compared part by part, with an error allowed that a sum of rounded products has. What is chosen among
their results is not rounded: from the results of the detector's own networks the judge chooses the same.

OpenVINO rounds a network otherwise where more is compiled with it. Its detections are compared with the judge's own, as
objects: of the same class, in nearly the same place, with nearly the same score. Rounding decides which of two objects
that are alike is found, and, under weights that are not trained, whether most are: so as many must be found as the
judge finds again itself in images with as much noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detc.compiler.graph import Value
from detc.runtime.agreement import MATCHED_SHARE, Verification, head_error, inputs_like
from detc.runtime.engines import OpenVinoEngine
from detc.runtime.judge import Arrays, Compared, Judge


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


class OpenVinoCandidate:
    """A model under OpenVINO in a precision, and one for each part of it; `outputs` names what the whole gives."""

    def __init__(self, model: bytes, parts: Sequence[bytes], outputs: Sequence[str], precision: str) -> None:
        self._whole = OpenVinoEngine(model, None, outputs, precision)
        self._parts = [OpenVinoEngine(part, None, (), precision) for part in parts]

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._whole(**inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._parts[index].results(list(given))


def compare_rounded(
    judge: Judge, candidate: Compared, shape: tuple[int, int, int, int], precision: str, images: int = 2
) -> Verification:
    """The candidate against the judge, on `images` batches of images of `shape` (N, 3, H, W).

    The judge goes on with what the candidate's networks give: what is chosen among the same values must be the same.
    Within the whole, a later network may be given boxes whose last bit differs, which rounding makes more of: so
    detections are compared as objects.
    """
    tolerance, worst = TOLERANCES[precision], _Worst()
    matched = count = 0
    for seed in range(images):
        inputs = inputs_like(judge.graph, seed, shape)
        values, compared = judge.along(candidate, inputs)
        worst.add(compared)
        expected, found = judge.outputs(values), candidate(inputs)
        for row in range(shape[0]):
            mine, other = ({k: v[row] for k, v in each.items()} for each in (expected, found))
            matched += alike(mine, other, tolerance)
            count += int((mine["scores"] > 0).sum())
    fine = worst.error <= tolerance.head and matched >= MATCHED_SHARE * count
    return worst.verification(fine, images * shape[0], count, matched, stable=count)


def compare_found(
    judge: Judge, candidate: Compared, shape: tuple[int, int, int, int], precision: str, images: int = 2
) -> Verification:
    """The same for an engine that computes a part otherwise alone than within the whole: its detections are compared
    as objects with those of the judge itself."""
    tolerance, worst = TOLERANCES[precision], _Worst()
    matched = stable = count = 0
    for seed in range(images):
        inputs = inputs_like(judge.graph, seed, shape)
        worst.add(judge.along(candidate, inputs)[1])
        noise = np.random.default_rng(seed).normal(0, tolerance.noise, shape).astype(np.float32)
        expected = judge(inputs)
        again, found = judge({**inputs, "image": inputs["image"] + noise}), candidate(inputs)
        for row in range(shape[0]):
            mine, other, rounded = ({k: v[row] for k, v in each.items()} for each in (expected, again, found))
            stable += alike(mine, other, tolerance)
            matched += alike(mine, rounded, tolerance)
            count += int((mine["scores"] > 0).sum())
    fine = worst.error <= tolerance.head and matched >= SHARE * stable - stable**0.5
    return worst.verification(fine, images * shape[0], count, matched, stable)


class _Worst:
    """The largest error of what networks gave."""

    def __init__(self) -> None:
        self.error, self.where = 0.0, ""

    def add(self, compared: Sequence[tuple[Value, np.ndarray, np.ndarray]]) -> None:
        for value, expected, actual in compared:
            off = head_error(expected, actual)
            if not off <= self.error:
                self.error, self.where = off, str(value).removeprefix("%")

    def verification(self, fine: bool, images: int, count: int, matched: int, stable: int) -> Verification:
        return Verification(
            "passed" if fine else "failed",
            images=images,
            head_error=self.error,
            worst_head=self.where,
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
