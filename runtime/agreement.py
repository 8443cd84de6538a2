"""Does an exported detector compute what the torch.fx module computes?

The judge is the torch.fx module. It is compared part by part (`compiler.emit.static.parts`), each part of the exported
detector being given what the judge's earlier parts gave: networks by their largest error, choices by how many of the
rows chosen are the same. Networks are compared on images, and both on results that are made up to hold many objects,
because weights that are not trained find none. Then the whole is compared, by its detections in the images.

The judge itself computes in single precision. Where an error is above the tolerance, it is asked in double precision,
and the exported detector may be off by a small multiple of what the judge is off by. Detections need not agree where
the judge is in two minds: scores that are equal but for rounding come in any order, and others are suppressed then.
Where too few match, it is asked again, with the results of its first network off by as much as the exported one's are,
and as many must match as it then finds again itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from detc.compiler.emit.static import Part, label, parts
from detc.compiler.graph import Graph, Value, flatten
from detc.runtime.artifact import OnnxEngine, TvmEngine

if TYPE_CHECKING:
    from detc.compiler.emit.tvm.build import Kernels

# Of the networks' results: the error as a share of the largest value, or absolute where that is below 1.
HEAD_TOLERANCE = 1e-4
# Or so many times the judge's own, in a network that rounding is large in.
ROUNDING_SHARE = 4.0
# Of detections. A box agrees within so many pixels, or such a share of the coordinate.
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 0.05
BOX_SHARE = 1e-3
# Of the probabilities of a mask, cut out of a box that may be off by as much as that.
MASK_TOLERANCE = 0.02
# So many detections must have a partner: a pair whose overlap is the threshold to the last bit may fall either way.
MATCHED_SHARE = 0.98
# The same, of those that the judge finds again.
STABLE_SHARE = 0.9

# Objects that are made up in each of the networks' results, for each image.
_OBJECTS = 300

# What `nms` gives.
_ROWS = ("boxes", "scores", "classes")
# Nodes whose results are boxes in pixels, which are not made up.
_BOXES = frozenset({"nms", "decode_delta"})

# Name of an output, or of an input -> its value.
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verification:
    """How an exported detector compares with the torch.fx module.

    `status` is "passed", "failed", or "not run" with the reason in `why`. `head_error` is the largest error among the
    results of its networks, in `worst_head`; where it is large, `rounding` is that of the judge. `matched` of the
    `detections` in `images` images have a partner, where the judge finds `stable` of them again; of the `made_up`
    rows that are chosen among made-up results, `made_up_matched`.
    """

    status: Literal["passed", "failed", "not run"]
    why: str = ""
    images: int = 0
    head_error: float = 0.0
    worst_head: str = ""
    rounding: float = 0.0
    detections: int = 0
    matched: int = 0
    stable: int = 0
    made_up: int = 0
    made_up_matched: int = 0

    def __str__(self) -> str:
        if self.status == "not run":
            return f"not run: {self.why}"
        own = f", torch.fx's own {self.rounding:.1e}" if self.rounding else ""
        again = f" (torch.fx itself finds {self.stable} again)" if self.stable < self.detections else ""
        return (
            f"{self.status}; largest error of the networks' results {self.head_error:.1e} ({self.worst_head}{own}); "
            f"{self.matched} of {self.detections} detections in {self.images} images match{again}, "
            f"{self.made_up_matched} of {self.made_up} choices in made-up results"
        )


class Candidate(Protocol):
    """An exported detector under test."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs for a whole batch."""
        ...

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What one part alone gives for these inputs."""
        ...


class Judge:
    """The torch.fx module of the predict view of `graph`, with the weights `state`, part by part."""

    def __init__(self, graph: Graph, state: Arrays) -> None:
        import torch

        from detc.compiler.emit.fx import emit
        from detc.runtime.kernels import KERNELS

        self.graph = graph
        self.parts = parts(graph)
        self._modules = []
        for part in self.parts:
            module = emit(part.graph, ("predict",), KERNELS)["predict"].eval()
            module.load_state_dict({key: torch.from_numpy(state[key]) for key in module.state_dict()})
            self._modules.append(module)

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs for a whole batch."""
        return self.outputs(self.values(inputs))

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What one part alone gives for these inputs."""
        import torch

        with torch.inference_mode():
            found = self._modules[index](*(torch.from_numpy(array) for array in given))
        return [value.numpy() for value in found.values()]

    def rounding(self, inputs: Arrays) -> float:
        """The largest error of its networks' results, as `head_error` counts it, against double precision."""
        import torch

        values = self.values(inputs)
        worst = 0.0
        for part, module in zip(self.parts, self._modules, strict=True):
            if not part.chooses:
                given = (torch.from_numpy(values[value]) for value in part.given)
                with torch.inference_mode():
                    found = module.double()(*(x.double() if x.is_floating_point() else x for x in given))
                module.float()
                errors = (head_error(x.numpy(), values[v]) for v, x in zip(part.results, found.values(), strict=True))
                worst = max(worst, *errors)
        return worst

    def values(self, inputs: Arrays, error: float = 0.0) -> dict[Value, np.ndarray]:
        """The results of every part, and the inputs. Those of the first part are off by about `error`, as `head_error`
        counts it."""
        values = {Value(name): value for name, value in inputs.items()}
        rng = np.random.default_rng(0)
        for index, part in enumerate(self.parts):
            results = self.part(index, [values[value] for value in part.given])
            if error and index == 0:
                results = [_shaken(result, error, rng) for result in results]
            values |= zip(part.results, results, strict=True)
        return values

    def outputs(self, values: Mapping[Value, np.ndarray]) -> Arrays:
        """The detector's outputs among all values."""
        return {name: values[flatten(value)[0]] for name, value in self.graph.views["predict"].items()}


class OnnxCandidate:
    """A model, and one for each part of it."""

    def __init__(self, model: bytes, parts: Sequence[bytes]) -> None:
        self._whole, *self._parts = (OnnxEngine(each) for each in (model, *parts))

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._whole.run(inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        engine = self._parts[index]
        return list(engine.run(dict(zip(engine.inputs, given, strict=True))).values())


class TvmCandidate:
    """Kernels of a predict graph, on the machine they are made for."""

    def __init__(self, kernels: Kernels, graph: Graph) -> None:
        self._graph = graph
        self._parts = parts(graph)
        given = (kernels.parameters, kernels.functions, kernels.prepared, kernels.outputs)
        self._engine = TvmEngine(kernels.library, *given, kernels.target)

    def __call__(self, inputs: Arrays) -> Arrays:
        return self._engine(**inputs)

    def part(self, index: int, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Between parts, features lie in memory as (N, H, W, C)."""
        part = self._parts[index]
        inside = [
            array.transpose(0, 2, 3, 1) if array.ndim == 4 and value.node in self._graph else array
            for value, array in zip(part.given, given, strict=True)
        ]
        found = self._engine.call(f"part_{index}", *inside)
        return [array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for array in found]


class _Tally:
    """What has been seen of the parts."""

    def __init__(self) -> None:
        self.error, self.where = 0.0, ""
        self.rows = np.zeros(2, int)

    def add(self, graph: Graph, part: Part, expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> None:
        """Compares what a part gives. Of what is chosen, boxes with what belongs to them; all else by its error."""
        groups = _choices(graph, part)
        for group in groups:
            one, other = ({name: arrays[index] for name, index in group.items()} for arrays in (expected, actual))
            self.rows += matches(one, other)
        grouped = {index for group in groups for index in group.values()}
        for index, value in enumerate(part.results):
            if index not in grouped:
                error = head_error(expected[index], actual[index])
                if not error <= self.error:
                    self.error, self.where = error, label(value)


def _choices(graph: Graph, part: Part) -> list[dict[str, int]]:
    """The results of a choice that belong together row by row: what they are -> their places among the results."""
    if not part.chooses:
        return []
    outputs = {flatten(graph.views["predict"][name])[0]: name for name in _ROWS if name in graph.views["predict"]}
    groups: dict[str, dict[str, int]] = {}
    for index, value in enumerate(part.results):
        if value in outputs:
            groups.setdefault("", {})[outputs[value]] = index
        elif graph[value.node].op == "nms":
            groups.setdefault(value.node, {})[_ROWS[value.output]] = index
    return [group for group in groups.values() if "boxes" in group]


def compare(judge: Judge, candidate: Candidate, shape: tuple[int, int, int, int], images: int = 2) -> Verification:
    """The candidate against the judge, on `images` batches of images of `shape` (N, 3, H, W)."""
    tally = _Tally()
    found = np.zeros(2, int)
    batches = [inputs_like(judge.graph, seed, shape) for seed in range(images)]
    expected = []
    for inputs in batches:
        values = judge.values(inputs)
        for index, part in enumerate(judge.parts):
            if not part.chooses:
                actual = candidate.part(index, [values[value] for value in part.given])
                tally.add(judge.graph, part, [values[value] for value in part.results], actual)
        expected.append(judge.outputs(values))
        found += matches(expected[-1], candidate(inputs))
    for index, part in enumerate(judge.parts):
        if index > 0 or part.chooses:
            given = [values[value] for value in part.given]
            if part.chooses:
                given = [_made_up(judge.graph, *each) for each in zip(part.given, given, strict=True)]
            results = judge.part(index, given)
            tally.add(judge.graph, part, results, candidate.part(index, given))
            values |= zip(part.results, results, strict=True)
    matched, count = (int(each) for each in found)
    stable, rounding = count, 0.0
    if tally.error > HEAD_TOLERANCE:
        rounding = judge.rounding(batches[0])
    close = tally.error <= max(HEAD_TOLERANCE, ROUNDING_SHARE * rounding)
    if matched < MATCHED_SHARE * count and close:
        again = [judge.outputs(judge.values(inputs, tally.error)) for inputs in batches]
        stable = sum(int(matches(one, other)[0]) for one, other in zip(expected, again, strict=True))
    agrees = (
        close
        and tally.rows[0] >= MATCHED_SHARE * tally.rows[1]
        and (matched >= MATCHED_SHARE * count or (stable < count and matched >= _least(stable)))
    )
    return Verification(
        "passed" if agrees else "failed",
        images=images * shape[0],
        head_error=tally.error,
        worst_head=tally.where,
        rounding=rounding,
        matched=matched,
        stable=stable,
        detections=count,
        made_up_matched=int(tally.rows[0]),
        made_up=int(tally.rows[1]),
    )


def _least(stable: int) -> float:
    """How many must match where the judge finds so many again: which ones, and so their number, is chance."""
    return STABLE_SHARE * stable - stable**0.5


def inputs_like(graph: Graph, seed: int, shape: tuple[int, int, int, int]) -> Arrays:
    """Images, and for a detector that takes proposals too, boxes anywhere in them, of which the last are absent."""
    rng = np.random.default_rng(seed)
    n, _, height, width = shape
    inputs = {"image": image_like(seed, shape)}
    for name, kind in graph.inputs.items():
        if name != "image":
            sizes = kind.at(n, height, width)
            if len(sizes) == 3:
                corners = rng.uniform(0, 1, (*sizes[:2], 2, 2)) * (width, height)
                inputs[name] = np.concatenate([corners.min(2), corners.max(2)], axis=2).astype(np.float32)
            else:
                inputs[name] = np.maximum(np.linspace(1, -0.2, sizes[1], dtype=np.float32), 0)[None].repeat(n, 0)
    return inputs


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


def _shaken(value: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """A value with an error of about `error`, as `head_error` counts it: of so many numbers, four deviations."""
    if value.dtype != np.float32:
        return value
    most = error * max(1.0, float(np.max(np.abs(value), initial=0.0)))
    off: np.ndarray = value + rng.normal(0, most / 4, value.shape).astype(np.float32)
    return off


def match(expected: Arrays, actual: Arrays) -> tuple[int, int]:
    """How many detections of one image have a partner of the same class, box, score and mask in the other, one to one;
    and how many there are, in the one that has more.

    `boxes` (K, 4) and, where there are any, `scores` (K,), of which 0 is none, `classes` (K,), of which -1 is none, and
    `masks` (K, h, w).
    """
    rows, others = (np.flatnonzero(_present(each)) for each in (expected, actual))
    boxes = expected["boxes"][rows][:, None]
    near = (np.abs(boxes - actual["boxes"][others]) <= np.maximum(BOX_TOLERANCE, BOX_SHARE * np.abs(boxes))).all(axis=2)
    for name, tolerance in (("scores", SCORE_TOLERANCE), ("classes", 0)):
        if name in expected:
            near &= np.abs(expected[name][rows][:, None] - actual[name][others]) <= tolerance
    matched = 0
    for row, candidates in zip(rows, near, strict=True):
        for place in np.flatnonzero(candidates):
            if "masks" not in expected or _same_mask(expected["masks"][row], actual["masks"][others[place]]):
                near[:, place] = False
                matched += 1
                break
    return matched, max(len(rows), len(others))


def _present(found: Arrays) -> np.ndarray:
    if "classes" in found:
        there: np.ndarray = found["classes"] >= 0
    elif "scores" in found:
        there = found["scores"] > 0
    else:
        there = found["boxes"].any(axis=-1)
    return there


def _same_mask(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one - other) <= MASK_TOLERANCE).all())


def matches(expected: Arrays, actual: Arrays) -> np.ndarray:
    """As `match`, summed over the images of a batch."""
    rows = range(len(expected["boxes"]))
    pairs = ({name: values[name][row] for name in expected} for row in rows for values in (expected, actual))
    total: np.ndarray = np.array([match(one, other) for one, other in zip(pairs, pairs, strict=True)]).sum(axis=0)
    return total


def _made_up(graph: Graph, which: Value, value: np.ndarray) -> np.ndarray:
    """A network result of the same shape with objects in it.

    What lies between 0 and 1 is taken for scores: almost all become 0, a few hundred anything up to 1. The rest is
    taken for coordinates, in units of anchors. Boxes and images stay as they are.
    """
    if which.node not in graph or graph[which.node].op in _BOXES or value.dtype != np.float32:
        return value
    rng = np.random.default_rng(value.size)
    if value.min() < 0 or value.max() > 1:
        return rng.normal(0.0, 0.3, value.shape).astype(np.float32)
    scores = np.zeros(value.shape, np.float32)
    for image in scores.reshape(len(scores), -1):
        places = rng.choice(image.size, min(_OBJECTS, image.size), replace=False)
        image[places] = rng.uniform(0.0, 1.0, len(places))
    return scores
