"""Does an exported detector compute what the torch.fx module computes?

Three comparisons, with the torch.fx module as the judge: the network's results for images; the final detections for the
same images; and post-processing alone, fed with network results that are made up to hold many objects, because weights
that are not trained find none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from detc.compiler.emit.static import OUTPUTS, heads
from detc.runtime.artifact import OnnxEngine, TvmEngine

if TYPE_CHECKING:
    from detc.compiler.emit.tvm.build import Kernels
    from detc.compiler.graph import Graph

# Of the network's results: the error as a share of the largest value, or absolute where that is below 1.
HEAD_TOLERANCE = 1e-4
# Of detections. A box agrees within so many pixels, or such a share of the coordinate.
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 0.05
BOX_SHARE = 1e-3
# So many detections must have a partner: a pair whose overlap is the threshold to the last bit may fall either way.
MATCHED_SHARE = 0.98

# Objects that are made up in each of the network's results, for each image.
_OBJECTS = 300

# Name of an output, or of one of the network's results -> its value.
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Verification:
    """How an exported detector compares with the torch.fx module.

    `status` is "passed", "failed", or "not run" with the reason in `why`. `head_error` is the largest error among the
    network's results for `images` images, in `worst_head`; `matched` of the `detections` in them have a partner, and
    `made_up_matched` of the `made_up` detections that post-processing finds in made-up results.
    """

    status: Literal["passed", "failed", "not run"]
    why: str = ""
    images: int = 0
    head_error: float = 0.0
    worst_head: str = ""
    detections: int = 0
    matched: int = 0
    made_up: int = 0
    made_up_matched: int = 0

    def __str__(self) -> str:
        if self.status == "not run":
            return f"not run: {self.why}"
        return (
            f"{self.status}; largest error of the network's results {self.head_error:.1e} ({self.worst_head}); "
            f"{self.matched} of {self.detections} detections in {self.images} images match, "
            f"{self.made_up_matched} of {self.made_up} in made-up results"
        )


class Candidate(Protocol):
    """An exported detector under test."""

    def __call__(self, image: np.ndarray) -> Values:
        """The outputs and the network's results for a whole batch."""
        ...

    def detect(self, results: Values) -> Values:
        """Post-processing alone: the outputs for the given network results."""
        ...


class Judge:
    """The torch.fx module of the predict view of `graph`, with the weights `state`."""

    def __init__(self, graph: Graph, state: Mapping[str, np.ndarray]) -> None:
        import torch

        from detc.compiler.emit.fx import emit
        from detc.runtime.kernels import KERNELS

        self._heads = tuple(heads(graph))
        views = {"predict": {**graph.views["predict"], **heads(graph)}}
        self._module = emit(graph.replaced(views=views), ("predict",), KERNELS)["predict"].eval()
        self._module.load_state_dict({key: torch.from_numpy(state[key]) for key in self._module.state_dict()})

    def __call__(self, image: np.ndarray) -> Values:
        """The outputs and the network's results."""
        return self._run(image, {})

    def detect(self, image: np.ndarray, results: Values) -> Values:
        """Post-processing of the given network results, for an image of this size."""
        return self._run(image, results)

    def _run(self, image: np.ndarray, given: Values) -> Values:
        import torch
        from torch import fx

        (output,) = (node for node in self._module.graph.nodes if node.op == "output")
        places = {output.args[0][name]: torch.from_numpy(value) for name, value in given.items()}

        class Replacing(fx.Interpreter):
            """Takes the given values in place of what their nodes would give."""

            def run_node(self, n: fx.Node) -> Any:
                return places[n] if n in places else super().run_node(n)

        with torch.inference_mode():
            found = Replacing(self._module).run(torch.from_numpy(image))
        return {name: value.numpy() for name, value in found.items()}


class OnnxCandidate:
    """A model; the same with the network's results among its outputs; and its post-processing alone."""

    def __init__(self, model: bytes, full: bytes, detect: bytes) -> None:
        self._plain, self._full, self._detect = (OnnxEngine(each) for each in (model, full, detect))

    def __call__(self, image: np.ndarray) -> Values:
        return self._full(image) | self._plain(image)

    def detect(self, results: Values) -> Values:
        return self._detect.run(results)


class TvmCandidate:
    """Kernels, on the machine they are made for."""

    def __init__(self, kernels: Kernels) -> None:
        self._heads = kernels.heads
        self._engine = TvmEngine(kernels.library, kernels.parameters, kernels.functions, kernels.target)

    def __call__(self, image: np.ndarray) -> Values:
        return dict(zip(self._heads, self._engine.call("network", image), strict=True)) | self._engine(image)

    def detect(self, results: Values) -> Values:
        found = self._engine.call("detect", *(results[name] for name in self._heads))
        return dict(zip(OUTPUTS, found, strict=True))


def compare(judge: Judge, candidate: Candidate, shape: tuple[int, int, int, int], images: int = 2) -> Verification:
    """The candidate against the judge, on `images` batches of images of `shape` (N, 3, H, W)."""
    worst, where = 0.0, ""
    found = np.zeros(2, int)
    for seed in range(images):
        image = image_like(seed, shape)
        expected, actual = judge(image), candidate(image)
        for name in expected.keys() - set(OUTPUTS):
            error = head_error(expected[name], actual[name])
            if not error <= worst:
                worst, where = error, name
        found += _matches(expected, actual)
    results = {name: _made_up(value) for name, value in expected.items() if name not in OUTPUTS}
    made_up = _matches(judge.detect(image, results), candidate.detect(results))
    agrees = worst <= HEAD_TOLERANCE and all(matched >= MATCHED_SHARE * count for matched, count in (found, made_up))
    return Verification(
        "passed" if agrees else "failed",
        images=images * shape[0],
        head_error=worst,
        worst_head=where,
        matched=int(found[0]),
        detections=int(found[1]),
        made_up_matched=int(made_up[0]),
        made_up=int(made_up[1]),
    )


def image_like(seed: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Images (N, 3, H, W) with structure at every scale, in the range of normalised photographs."""
    rng = np.random.default_rng(seed)
    _, _, height, width = shape
    image = np.zeros(shape, np.float32)
    cell = 1
    while cell <= min(height, width):
        noise = rng.standard_normal((*shape[:2], -(-height // cell), -(-width // cell))).astype(np.float32)
        image += noise.repeat(cell, 2).repeat(cell, 3)[:, :, :height, :width]
        cell *= 4
    normalised: np.ndarray = image / image.std()
    return normalised


def head_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest difference, as a share of the largest value expected where that is above 1. NaN if there is one."""
    error, largest = (float(np.max(np.abs(each), initial=0.0)) for each in (expected - actual, expected))
    return error / max(1.0, largest)


def match(expected: Values, actual: Values) -> tuple[int, int]:
    """How many detections of one image have a partner of the same class, box and score in the other, one to one; and
    how many there are, in the one that has more.

    `boxes` (K, 4), `scores` (K,) and `classes` (K,), where class -1 is none.
    """
    left = [i for i, label in enumerate(actual["classes"]) if label >= 0]
    count = max(int((expected["classes"] >= 0).sum()), len(left))
    matched = 0
    for box, score, label in zip(expected["boxes"], expected["scores"], expected["classes"], strict=True):
        if label < 0:
            continue
        allowed = np.maximum(BOX_TOLERANCE, BOX_SHARE * np.abs(box))
        for i in left:
            near = abs(actual["scores"][i] - score) <= SCORE_TOLERANCE and actual["classes"][i] == label
            if near and (np.abs(actual["boxes"][i] - box) <= allowed).all():
                left.remove(i)
                matched += 1
                break
    return matched, count


def _matches(expected: Values, actual: Values) -> np.ndarray:
    """As `match`, summed over the images of a batch."""
    rows = range(len(expected["scores"]))
    pairs = ({name: values[name][row] for name in OUTPUTS} for row in rows for values in (expected, actual))
    total: np.ndarray = np.array([match(one, other) for one, other in zip(pairs, pairs, strict=True)]).sum(axis=0)
    return total


def _made_up(value: np.ndarray) -> np.ndarray:
    """A network result of the same shape with objects in it.

    What lies between 0 and 1 is taken for scores: almost all become 0, a few hundred anything up to 1. The rest is
    taken for coordinates, in units of anchors."""
    rng = np.random.default_rng(value.size)
    if value.min() < 0 or value.max() > 1:
        return rng.normal(0.0, 0.3, value.shape).astype(np.float32)
    scores = np.zeros(value.shape, np.float32)
    for image in scores.reshape(len(scores), -1):
        places = rng.choice(image.size, min(_OBJECTS, image.size), replace=False)
        image[places] = rng.uniform(0.0, 1.0, len(places))
    return scores
