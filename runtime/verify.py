"""Comparison of detectors with figures of another implementation.

Both sides fill the weights and make the inputs for themselves (`detc.runtime.deterministic`), so that figures are all
that is exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from detc.compiler.graph import Call, Graph, Value
from detc.dsl.catalogue.checkpoint import REFERENCE_UNMATCHED
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, suggest
from detc.runtime import deterministic
from detc.runtime.references import Reference, find_references

if TYPE_CHECKING:
    from detc.compiler.modules import Module
    from detc.runtime.detector import Detector

# The size of the image that losses are of.
_HEIGHT, _WIDTH = 256, 384

# A value of a forward pass may differ by this part of its tensor's root mean square, an L2 norm or a loss by this part
# of itself, a loss by this much, a gradient's norm by this part.
_FORWARD, _LOSS, _LOSS_ABSOLUTE, _GRADIENT = 1e-4, 1e-4, 1e-6, 1e-3
# Detections that must have a partner of the same class, with a box as near (in pixels, or relatively) and such a score.
_MATCHED, _PIXELS, _RELATIVE, _SCORE = 0.98, 0.05, 1e-3, 1e-4

# Scores that differ by less, relatively, are of one rank: rounding decides between them.
_TIE = 5e-6

KINDS = ("layout", "forward", "detections", "losses", "gradients")


@dataclass
class Check:
    """A comparison: how many figures were compared and differ, and what the first is that does not agree.

    `worst` is how far the worst is off, as a multiple of what is allowed.
    """

    kind: str
    reference: Path
    compared: int = 0
    differing: int = 0
    worst: float = 0.0
    first: str = ""

    @property
    def agrees(self) -> bool:
        return self.differing == 0

    def number(self, what: str, ours: float, theirs: float, allowed: float) -> None:
        """Compares two numbers."""
        off = abs(ours - theirs)
        ratio = 0.0 if off == 0 else off / allowed if allowed > 0 and math.isfinite(off) else math.inf
        self.worst = max(self.worst, ratio)
        self.fact(ratio <= 1, f"{what} is {ours:.8g}, and {theirs:.8g} in the reference")

    def fact(self, holds: bool, otherwise: str) -> None:
        """Counts one comparison; `otherwise` says what does not hold."""
        self.compared += 1
        if not holds:
            self.differing += 1
            self.first = self.first or otherwise


@dataclass
class Verified:
    """One detector with all that was compared."""

    spec: Path
    detector: str
    config: str
    checks: list[Check] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return all(check.agrees for check in self.checks)


@dataclass
class Verification:
    """Everything compared. `unmatched` references are of no detector given, `alone` detectors have no reference."""

    detectors: list[Verified] = field(default_factory=list)
    unmatched: list[Reference] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not self.diagnostics and all(detector.agrees for detector in self.detectors)


def verify(
    path: Path,
    name: str | None,
    references: Iterable[Path],
    roots: tuple[Path, ...] = (),
    told: Callable[[str], object] = lambda detector: None,
) -> Verification:
    """Compares the detectors of a spec, or of all specs in a folder, with the figures of their configurations.

    Args:
        name: the one detector of the spec to compare; all of them where None.
        references: files of figures, and folders that are searched for them.
        told: is called with each detector's name before it is compared.

    Raises:
        DiagnosticError: reference-malformed, or reference-unmatched where nothing can be compared.
    """
    from detc.runtime.detector import load

    found = find_references(references)
    result = Verification()
    matched: set[Path] = set()
    configs: list[str] = []
    for file, detector_name, config in _detectors(path, name, roots, result.diagnostics):
        mine = [reference for reference in found if reference.config == config]
        configs += [config] if config else []
        if not mine:
            result.alone.append(detector_name)
            continue
        matched.update(reference.path for reference in mine)
        told(detector_name)
        try:
            detector = load(file, detector_name, roots)
        except DiagnosticError as error:
            result.diagnostics += error.diagnostics
            continue
        result.detectors.append(Verified(file, detector_name, config, compare(detector, mine)))
    result.unmatched = [reference for reference in found if reference.path not in matched]
    if not matched:
        raise DiagnosticError(result.diagnostics or [_unmatched(result.unmatched, configs)])
    return result


def _unmatched(references: Sequence[Reference], configs: Sequence[str]) -> Diagnostic:
    """Nothing can be compared, and why."""
    if not references:
        return REFERENCE_UNMATCHED.at(None, "there are no figures among the references")
    first = references[0]
    if configs:
        detail = suggest(first.config, configs) or f"the detectors' are {', '.join(configs[:5])}"
    else:
        detail = 'no detector given says which configuration it is: reported { config = "..." }'
    return REFERENCE_UNMATCHED.at(
        None,
        f"no detector given is of a reference's configuration, such as {first.config} ({first.path})",
        detail=detail,
    )


def _detectors(
    path: Path, name: str | None, roots: tuple[Path, ...], diagnostics: list[Diagnostic]
) -> Iterator[tuple[Path, str, str]]:
    """File, name and configuration of each detector; mistakes of one file of a folder do not hide the others."""
    from detc.compiler.evaluate import Evaluator
    from detc.compiler.modules import Loader, choose

    loader = Loader(roots)
    files = sorted(path.rglob("*.det")) if path.is_dir() else [path]
    for file in files:
        try:
            module: Module = loader.load(file)
            chosen = None if name is None else choose(module, name)
            for declaration in module.detectors:
                if chosen in (None, declaration.name):
                    fields = Evaluator(module).detector(declaration, module).fields
                    reported = fields["reported"].value.entries if "reported" in fields else {}
                    yield file, declaration.name, str(reported.get("config", "")).removesuffix(".py")
        except DiagnosticError as error:
            diagnostics += error.diagnostics


# ---- one detector ----------------------------------------------------------------------------------------------------


def compare(detector: Detector, references: Sequence[Reference]) -> list[Check]:
    """Compares a detector with the figures of its configuration."""
    graph = detector.graph
    layouts = [reference for reference in references if reference.kind == "layout"]
    checks = [_layout(graph, reference) for reference in layouts]
    # Of tied weights the last key decides, in the order of the reference.
    keys = list(layouts[0].read()) if layouts else list(graph.weights)
    for reference in references:
        if reference.kind == "forward":
            checks += _forward(graph, reference, keys)
        elif reference.kind == "losses":
            compared = _losses(graph, reference, keys, len(detector.classes))
            if not all(check.agrees for check in compared):
                # Some sums over whole maps are at the edge of single precision; double precision decides.
                compared = _losses(graph, reference, keys, len(detector.classes), torch.float64)
            checks += compared
    return checks


def _layout(graph: Graph, reference: Reference) -> Check:
    check = Check("layout", reference.path)
    theirs = reference.read()
    for key, shape in theirs.items():
        ours = graph.weights.get(key)
        if ours is not None:
            check.fact(list(ours.shape) == shape, f"{key} is {list(ours.shape)}, and {shape} in the reference")
        else:
            hint = "" if check.first else suggest(key, graph.weights.keys() - theirs.keys())
            check.fact(False, f"{key} is missing{hint and '; '}{hint}")
    for key in graph.weights:
        if key not in theirs:
            check.fact(False, f"{key} is not in the reference")
    return check


def _emitted(graph: Graph, view: str, keys: Sequence[str]) -> nn.Module:
    """A view with deterministic weights."""
    from detc.compiler.emit.fx import emit
    from detc.runtime.kernels import KERNELS

    module: nn.Module = emit(graph, [view], {**KERNELS, "nms": _nms_apart})[view]
    state = module.state_dict()
    for key in keys:
        if key in state and state[key].is_floating_point():
            value = deterministic.weight(key, state[key].shape)
            if value is not None:
                state[key].copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return module


def _nms_apart(boxes: Tensor, scores: Tensor, classes: Tensor, *, iou: float, keep: int) -> tuple[Tensor, ...]:
    """`nms` of boxes that are moved apart by class, as the reference does it.

    With hundreds of classes that moves boxes so far that single precision rounds their corners to a thirtieth of a
    pixel, which decides some suppressions otherwise; the kernel compares the boxes as they are.
    """
    from detc.runtime.kernels.select import kept_rows

    moved = boxes + (classes.to(boxes.dtype) * (boxes.amax() + 1))[:, :, None]
    return kept_rows(torch.ops.detc.nms(moved, scores, classes, iou, keep), boxes, scores, classes)


# ---- forward and detections ------------------------------------------------------------------------------------------


def positions(call: Call) -> dict[str, Value]:
    """A component's tensors by place: "." for a single one, ".1" for the second, ".0.2" for the first's third level."""
    places: dict[str, Value] = {}
    order: dict[tuple[str | int, ...], list[str | int]] = {}
    for path, value in call.outputs:
        place = "" if path else "."
        for depth, part in enumerate(path):
            siblings = order.setdefault(path[:depth], [])
            if part not in siblings:
                siblings.append(part)
            place += f".{siblings.index(part)}"
        places[place] = value
    return places


def _forward(graph: Graph, reference: Reference, keys: Sequence[str]) -> list[Check]:
    figures = reference.read()
    values = Check("forward", reference.path)
    detections = Check("detections", reference.path)
    inference = "predict" if "predict" in graph.views else "forward"
    wanted = _wanted(graph, inference, figures["forward"], values)
    # One view with everything, so that the backbone runs once.
    view = {f"{module}{place}": value for (module, place), value in wanted.items()}
    outputs = {f"predict {name}": value for name, value in graph.views.get("predict", {}).items()}
    reached = graph.reached(inference)
    kept = {f"kept {n.name}": Value(n.name, 1) for n in graph.nodes if n.op == "nms" and n.name in reached}
    module = _emitted(graph.replaced(views={"figures": {**view, **outputs, **kept}}), "figures", keys).eval()
    given = {"image": deterministic.image(*figures["input"][2:], batch=figures["input"][0]), **_proposals()}
    with torch.inference_mode():
        found = module(**{name: torch.from_numpy(given[name]) for name in graph.view(inference).inputs})
    # The scores of regions and detections, by how many there is room for.
    regions = {found[name].numel(): found[name].numpy().ravel() for name in kept}
    for name, place in wanted:
        ours, theirs = found[f"{name}{place}"].numpy(), figures["forward"][name][place]
        scores = regions.get(len(ours)) if ours.ndim else None
        if scores is not None:
            # The reference has as many rows as there are regions.
            scores = scores[scores > 0]
            ours = ours[: len(scores)]
        _tensor(values, f"{name} {place}", ours, theirs, scores)
    if "detections" not in figures:
        return [values]
    columns = figures["detection_columns"].split(",")
    if outputs:
        theirs = [dict(zip(columns, row, strict=True)) for row in figures["detections"]]
        ours = {name.removeprefix("predict "): found[name][0].numpy() for name in outputs}
        _detections(detections, ours, theirs)
    else:
        detections.fact(False, "the detector predicts nothing")
    return [values, detections]


def _wanted(
    graph: Graph, inference: str, figures: Mapping[str, Mapping[str, Any]], check: Check
) -> dict[tuple[str, str], Value]:
    """The value for each tensor of the figures; what there is none for is counted as a difference."""
    reached = graph.reached(inference)
    wanted = {}
    for name, tensors in figures.items():
        path, _, number = name.partition("#")
        # Training may apply a component more often; the figures are of inference.
        calls = [c for c in graph.calls if c.path == path and any(v.node in reached for _, v in c.outputs)]
        index = int(number or 0)
        places = positions(calls[index]) if index < len(calls) else {}
        for place in tensors:
            if place in places:
                wanted[name, place] = places[place]
            elif not calls:
                check.fact(False, f"no component has the label {path}")
            else:
                check.fact(False, f"{name} has no output {place}")
    return wanted


def _tensor(check: Check, what: str, ours: Any, theirs: Mapping[str, Any], scores: Any = None) -> None:
    """Compares a tensor. `scores` are those of the regions its rows are of, best first.

    The order of regions whose scores are the same, but for rounding, is not defined: a row of one of them may stand in
    another's place.
    """
    if list(ours.shape) != theirs["shape"]:
        check.fact(False, f"{what} is {list(ours.shape)}, and {theirs['shape']} in the reference")
        return
    root_mean_square = theirs["l2"] / math.sqrt(max(1, ours.size))
    mine = deterministic.sample(ours)
    check.fact(
        len(mine) == len(theirs["sample"]), f"{what} has {len(mine)} samples, the reference {len(theirs['sample'])}"
    )
    allowed = _FORWARD * root_mean_square
    if scores is not None and len(mine) == len(theirs["sample"]):
        mine = _untied(ours, scores, mine, np.asarray(theirs["sample"]), allowed)
    for index, (a, b) in enumerate(zip(mine.tolist(), theirs["sample"], strict=False)):
        check.number(f"{what}, value {index + 1} of {len(mine)},", a, b, allowed)
    norm = float(np.linalg.norm(ours.astype(np.float64).ravel()))
    check.number(f"{what}, L2 norm,", norm, theirs["l2"], _FORWARD * abs(theirs["l2"]))


def _untied(ours: Any, scores: Any, mine: Any, theirs: Any, allowed: float) -> Any:
    """The samples `mine` of `ours`, those that are off replaced by the nearest in the rows of tied regions."""
    mine = mine.copy()
    rows = ours.reshape(len(ours), -1)
    places = deterministic.sample(np.arange(ours.size)).astype(np.int64)
    first_of_ties = np.concatenate(([0], np.cumsum(scores[:-1] - scores[1:] > _TIE * scores[:-1])))
    for index in np.flatnonzero(np.abs(mine - theirs) > allowed):
        row, column = divmod(places[index], rows.shape[1])
        tied = rows[first_of_ties == first_of_ties[row], column].astype(np.float64)
        mine[index] = tied[np.abs(tied - theirs[index]).argmin()]
    return mine


def _detections(check: Check, ours: Mapping[str, Any], theirs: Sequence[Mapping[str, float]]) -> None:
    """Matches detections one to one, best first; nearly all must have a partner, on both sides."""
    left = [i for i, score in enumerate(ours["scores"]) if score > 0][:100]
    count = max(len(theirs), len(left))
    lonely = [row for row in theirs if not _take_partner(row, ours, left)]
    check.compared = count
    # Where the reference has fewer, what is left of ours has no partner.
    missing = max(len(lonely), len(left))
    check.worst = missing / (count * (1 - _MATCHED)) if missing else 0.0
    if missing > count - math.ceil(_MATCHED * count):
        check.differing = missing
        row = lonely[0] if lonely else None
        check.first = (
            f"{missing} of {count} have no partner; the best without: {_shown(row)}"
            if row
            else f"{len(left)} more than the reference's {len(theirs)}"
        )


def _take_partner(row: Mapping[str, float], ours: Mapping[str, Any], left: list[int]) -> bool:
    """Whether one of ours left is the same detection; if so, it is taken."""
    box = np.array([row[side] for side in ("x1", "y1", "x2", "y2")])
    for i in left:
        near = np.abs(ours["boxes"][i] - box) <= np.maximum(_PIXELS, _RELATIVE * np.abs(box))
        same_class = "class" not in row or int(ours["classes"][i]) == int(row["class"])
        if same_class and abs(float(ours["scores"][i]) - row["score"]) <= _SCORE and near.all():
            left.remove(i)
            return True
    return False


def _shown(row: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row.items())


# ---- losses and gradients --------------------------------------------------------------------------------------------


def _losses(
    graph: Graph, reference: Reference, keys: Sequence[str], classes: int, dtype: torch.dtype = torch.float32
) -> list[Check]:
    figures = reference.read()
    losses = Check("losses", reference.path)
    gradients = Check("gradients", reference.path)
    if "train" not in graph.views:
        losses.fact(False, "the detector has no losses")
        return [losses]
    module = _emitted(_exhaustive(graph), "train", keys).train().to(dtype)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
            part.eval()
    masks = deterministic.masks(_HEIGHT, _WIDTH)
    # Each mask has the whole image for its window.
    windows = np.array([[index * _HEIGHT * _WIDTH, 0, 0, _WIDTH, _HEIGHT] for index in range(len(masks))])
    given = {
        "image": deterministic.image(_HEIGHT, _WIDTH),
        "truth_boxes": deterministic.BOXES[None],
        "truth_labels": np.minimum(deterministic.LABELS, _fewest_classes(graph, classes) - 1)[None],
        "truth_masks": masks.reshape(-1),
        "truth_windows": windows[None],
        **_proposals(),
    }
    inputs = {name: torch.from_numpy(given[name]) for name in graph.view("train").inputs}
    inputs["image"] = inputs["image"].to(dtype)
    found = {name: value if isinstance(value, tuple) else (value,) for name, value in module(**inputs).items()}
    total = torch.stack([value for values in found.values() for value in values]).sum()
    total.backward()
    # What is not called a loss is a count or a rate, which training does not use.
    theirs = {name: values for name, values in figures["losses"].items() if "loss" in name}
    for name, values in theirs.items():
        ours = [float(value.detach()) for value in found.get(name, ())]
        counts = f"{len(ours)} times, and {len(values)} times in the reference"
        losses.fact(len(ours) == len(values), f"{name} is there {counts}")
        for index, (a, b) in enumerate(zip(ours, values, strict=False)):
            losses.number(f"{name}[{index}]", a, b, max(_LOSS * abs(b), _LOSS_ABSOLUTE))
    for name in found:
        losses.fact(name in theirs, f"{name} is not in the reference")
    losses.number(
        "the sum", float(total.detach()), figures["total"], max(_LOSS * abs(figures["total"]), _LOSS_ABSOLUTE)
    )
    _gradients(gradients, module, figures)
    return [losses, gradients]


def _fewest_classes(graph: Graph, classes: int) -> int:
    """The least number of classes that any part of the detector tells apart.

    The labels of the published figures are clamped to that: where there is a proposal network, all are 0.
    """
    told_apart = [node.attrs.get("classes") for node in graph.nodes if node.name in graph.reached("train")]
    return min([classes, *(number for number in told_apart if isinstance(number, int))])


def _exhaustive(graph: Graph) -> Graph:
    """The graph with samplers that take every row, so that nothing is random."""
    nodes = {
        node.name: replace(node, attrs={**node.attrs, "count": 10**7, "positive": 0.5})
        if node.op == "sample_rows"
        else node
        for node in graph.nodes
    }
    return graph.replaced(nodes=nodes)


def _proposals() -> dict[str, np.ndarray]:
    """Given proposals, for the detectors that take them: the boxes of the truth, moved and stretched."""
    moved = [deterministic.BOXES + np.array([d, -d, 2 * d, d], np.float32) for d in (-12, -5, 0, 4, 9, 30)]
    boxes = np.concatenate(moved)[None]
    return {"proposals": boxes, "proposal_scores": np.ones(boxes.shape[:2], np.float32)}


def _gradients(check: Check, module: nn.Module, figures: Mapping[str, Any]) -> None:
    for name, norm in figures["grad_l2"].items():
        parameters = _parameters(module, name)
        check.fact(bool(parameters), f"{name} has no parameters")
        squares = [float(p.grad.double().square().sum()) for p in parameters if p.grad is not None]
        if parameters:
            check.number(f"the gradient of {name}", math.sqrt(sum(squares)), norm, _GRADIENT * abs(norm))
    for name in figures["frozen"]:
        # Frozen is what has parameters without a gradient. Where all are, there is no norm either.
        moving = [p.grad is not None for p in _parameters(module, name)]
        stands = not any(moving) if name not in figures["grad_l2"] else not all(moving)
        check.fact(stands, f"{name} takes a gradient, and is frozen in the reference")


def _parameters(module: nn.Module, label: str) -> list[nn.Parameter]:
    try:
        return list(module.get_submodule(label).parameters())
    except AttributeError:
        return []
