"""Does an exported detector compute what the torch.fx module computes?

The judge is the torch.fx module (`runtime/judge.py`). It is compared part by part (`compiler.emit.static.parts`), each
part of the exported detector being given what the judge's earlier parts gave: networks by their largest error, choices
by how many of the rows chosen are the same. Networks are compared on images, and both on results that are made up to
hold many objects, because weights that are not trained find none. Then the whole is compared, by its detections in the
images.

Of a network's results, logits are compared as the scores that they are chosen by, and offsets as the boxes in pixels
that they describe. The judge itself computes in single precision. Where an error is above the tolerance, it is asked in
double precision, and the exported detector may be off by a small multiple of what the judge is off by. Detections need
not agree where the judge is in two minds: scores that are equal but for rounding come in any order, and others are
suppressed then. Where too few match, it is asked again, with the results of its first network off by as much as the
exported one's are, and as many must match as it then finds again itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detc.compiler.emit.static import Part, anchors, label
from detc.compiler.graph import Graph, Node, Value, flatten
from detc.runtime.judge import Arrays, Candidate, Judge

# Of the networks' results: of scores, of boxes in pixels, and of all else, as a share of the largest value, or absolute
# where that is below 1.
HEAD_SCORE_TOLERANCE = 8e-5
HEAD_BOX_TOLERANCE = 0.016
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


@dataclass(frozen=True)
class Verification:
    """How an exported detector compares with the torch.fx module.

    `status` is "passed", "failed", or "not run" with the reason in `why`. `score_error`, `box_error` (in pixels) and
    `head_error` (of all else) are the largest errors among the results of its networks, of which `worst_head` is the
    farthest off; where it is above its tolerance, `rounding` is how many times its tolerance the judge is off itself.
    `matched` of the `detections` in `images` images have a partner, where the judge finds `stable` of them again; of
    the `made_up` rows that are chosen among made-up results, `made_up_matched`.
    """

    status: Literal["passed", "failed", "not run"]
    why: str = ""
    images: int = 0
    score_error: float = 0.0
    box_error: float = 0.0
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
        own = f"; torch.fx itself is off by {self.rounding:.1f} times what is allowed" if self.rounding else ""
        again = f" (torch.fx itself finds {self.stable} again)" if self.stable < self.detections else ""
        return (
            f"{self.status}; largest errors of the networks' results: {self.score_error:.1e} of a score, "
            f"{self.box_error:.1e} pixel, {self.head_error:.1e} of others ({self.worst_head}{own}); "
            f"{self.matched} of {self.detections} detections in {self.images} images match{again}, "
            f"{self.made_up_matched} of {self.made_up} choices in made-up results"
        )


Kind = Literal["score", "box", "other"]
TOLERANCES: Mapping[Kind, float] = {
    "score": HEAD_SCORE_TOLERANCE,
    "box": HEAD_BOX_TOLERANCE,
    "other": HEAD_TOLERANCE,
}


class Measure:
    """What the results of a graph's networks stand for, and so how far two of them are apart."""

    def __init__(self, judge: Judge, shape: tuple[int, int, int, int]) -> None:
        self._graph = judge.exported
        self._original = judge.graph
        self._shape = shape

    def kind(self, value: Value) -> Kind:
        """What a value stands for."""
        if any(node.op == "select_top" for node in self._users(value)):
            return "score"
        return "box" if self._decoded(value) is not None else "other"

    def error(self, value: Value, expected: np.ndarray, actual: np.ndarray) -> float:
        """The largest error, in what the value's kind is measured in. NaN if there is one."""
        kind = self.kind(value)
        if kind == "other":
            return head_error(expected, actual)
        if kind == "score":
            if self._is_logits(value):
                expected, actual = _sigmoid(expected), _sigmoid(actual)
            return float(np.max(np.abs(expected - actual), initial=0.0))
        decoded = self._decoded(value)
        assert decoded is not None
        return float(np.max(np.abs(decoded(expected) - decoded(actual)), initial=0.0))

    def shaker(self, errors: Mapping[Value, float]) -> Callable[[Value, np.ndarray], np.ndarray]:
        """Puts into values errors of at most about so much: of so many numbers, four deviations. Of logits, their
        scores get it."""
        rng = np.random.default_rng(0)

        def shaken(value: Value, array: np.ndarray) -> np.ndarray:
            if array.dtype != np.float32 or value not in errors:
                return array
            noise = rng.normal(0, errors[value] / 4, array.shape)
            if self._is_logits(value):
                scores = np.clip(_sigmoid(array) + noise, 1e-12, 1 - 1e-12)
                off: np.ndarray = np.log(scores / (1 - scores)).astype(np.float32)
            else:
                off = (array + noise).astype(np.float32)
            return off

        return shaken

    def _is_logits(self, value: Value) -> bool:
        return any(node.attrs.get("logits") for node in self._users(value))

    def _users(self, value: Value) -> list[Node]:
        return [node for node in self._graph.users(value.node) if value in node.operands]

    def _decoded(self, value: Value) -> Callable[[np.ndarray], np.ndarray] | None:
        """From offsets of all anchors to their boxes, where a value is that."""
        for rows in self._users(value):
            for decode in self._graph.users(rows.name) if rows.op == "gather_rows" else ():
                if decode.op == "decode_delta" and decode.operands[1].node == rows.name:
                    source = decode.operands[0].node
                    grid = self._graph[source].operands[0].node if source in self._graph else source
                    if grid in self._original and self._original[grid].op == "anchor_grid":
                        return self._boxes(self._original[grid], decode)
        return None

    def _boxes(self, grid: Node, decode: Node) -> Callable[[np.ndarray], np.ndarray]:
        import torch

        from detc.runtime.kernels import KERNELS

        n, _, height, width = self._shape
        rows, columns = self._original.type_of(grid.operands[0]).at(n, height, width)[2:]
        boxes = torch.from_numpy(anchors(grid.attrs, rows, columns))
        image = torch.empty(self._shape, device="meta")

        def decoded(offsets: np.ndarray) -> np.ndarray:
            found = KERNELS["decode_delta"](boxes, torch.from_numpy(offsets).float(), image, **decode.attrs)
            result: np.ndarray = found.numpy()
            return result

        return decoded


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        scores: np.ndarray = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return scores


class _Tally:
    """What has been seen of the parts."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        # The largest error of each kind, the value that is farthest off, and by how many times its tolerance.
        self.errors: dict[Kind, float] = dict.fromkeys(TOLERANCES, 0.0)
        self.excess, self.where = 0.0, ""
        # How far each result is off: scores in scores, all else absolutely.
        self.off: dict[Value, float] = {}
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
                self.compare(value, expected[index], actual[index])

    def compare(self, value: Value, expected: np.ndarray, actual: np.ndarray) -> None:
        """Compares one result of a network."""
        kind = self.measure.kind(value)
        error = self.measure.error(value, expected, actual)
        if not error <= self.errors[kind]:
            self.errors[kind] = error
        if not error / TOLERANCES[kind] <= self.excess:
            self.excess, self.where = error / TOLERANCES[kind], label(value)
        off = error if kind == "score" else float(np.max(np.abs(expected - actual), initial=0.0))
        self.off[value] = max(self.off.get(value, 0.0), off)


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
    measure = Measure(judge, shape)
    tally = _Tally(measure)
    found = np.zeros(2, int)
    batches = [inputs_like(judge.graph, seed, shape) for seed in range(images)]
    expected = []
    for inputs in batches:
        values = judge.values(inputs)
        for index, part in enumerate(judge.parts):
            if not part.chooses:
                actual = candidate.part(index, [values[value] for value in part.given])
                tally.add(judge.exported, part, [values[value] for value in part.results], actual)
        expected.append(judge.outputs(values))
        found += matches(expected[-1], candidate(inputs))
    for index, part, given in made_up_parts(judge, values):
        tally.add(judge.exported, part, judge.part(index, given), candidate.part(index, given))
    matched, count = (int(each) for each in found)
    stable, rounding = count, 0.0
    if not tally.excess <= 1:
        rounding = _rounding(judge, measure, batches[0])
    close = tally.excess <= max(1, ROUNDING_SHARE * rounding)
    if matched < MATCHED_SHARE * count and close:
        again = [judge.outputs(judge.values(inputs, measure.shaker(tally.off))) for inputs in batches]
        stable = sum(int(matches(one, other)[0]) for one, other in zip(expected, again, strict=True))
    agrees = (
        close
        and tally.rows[0] >= MATCHED_SHARE * tally.rows[1]
        and (matched >= MATCHED_SHARE * count or (stable < count and matched >= _least(stable)))
    )
    return Verification(
        "passed" if agrees else "failed",
        images=images * shape[0],
        score_error=tally.errors["score"],
        box_error=tally.errors["box"],
        head_error=tally.errors["other"],
        worst_head=tally.where,
        rounding=rounding,
        matched=matched,
        stable=stable,
        detections=count,
        made_up_matched=int(tally.rows[0]),
        made_up=int(tally.rows[1]),
    )


def made_up_parts(judge: Judge, values: Mapping[Value, np.ndarray]) -> Iterator[tuple[int, Part, list[np.ndarray]]]:
    """The parts from the first choice on, with what to give them so that choices find many objects; each after the
    judge's results of those before."""
    values = dict(values)
    for index, part in enumerate(judge.parts):
        if index > 0 or part.chooses:
            given = [values[value] for value in part.given]
            if part.chooses:
                given = [_made_up(judge.exported, *each) for each in zip(part.given, given, strict=True)]
            yield index, part, given
            values |= zip(part.results, judge.part(index, given), strict=True)


def _rounding(judge: Judge, measure: Measure, inputs: Arrays) -> float:
    """How many times its tolerance the judge's worst result is off, against double precision."""
    tally = _Tally(measure)
    values = judge.values(inputs)
    results = {value for part in judge.parts for value in part.results}
    for value, exact in judge.in_double(values).items():
        if value in results:
            tally.compare(value, exact, values[value])
    return tally.excess


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

    What lies between 0 and 1 is taken for scores: almost all become 0, a few hundred anything up to 1. So are logits,
    which are chosen by. The rest is taken for coordinates, in units of anchors. Boxes and images stay as they are.
    """
    if which.node not in graph or graph[which.node].op in _BOXES or value.dtype != np.float32:
        return value
    rng = np.random.default_rng(value.size)
    logits = any(node.attrs.get("logits") for node in graph.users(which.node) if which in node.operands)
    if not logits and (value.min() < 0 or value.max() > 1):
        return rng.normal(0.0, 0.3, value.shape).astype(np.float32)
    # (The lowest score differs between targets, so logits of what is not there are different and low, but not lowest.)
    made = rng.uniform(-12, -6, value.shape).astype(np.float32) if logits else np.zeros(value.shape, np.float32)
    for image in made.reshape(len(made), -1):
        places = rng.choice(image.size, min(_OBJECTS, image.size), replace=False)
        scores = rng.uniform(0.0, 1.0, len(places))
        image[places] = np.log(scores / (1 - scores)) if logits else scores
    return made
