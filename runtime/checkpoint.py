"""Weights in files: read without running anything, loaded only where they fit, written whole."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detc.dsl.catalogue.checkpoint import (
    CHECKPOINT_MISMATCH,
    CHECKPOINT_PARTIAL,
    CHECKPOINT_UNREADABLE,
    CHECKPOINT_UNSAFE,
    CLASSES_REORDERED,
)
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Kind, suggest
from detc.runtime.files import write_whole

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

# Groups of keys that a diagnostic lists before it counts the rest.
_LISTED = 8


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds: tensors by key, and the classes they were trained on where the file says so.

    `others` are the names of what else lies in the file, such as "optimizer", which detc does not read.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """How a file's weights fit a detector.

    `missing` are keys the file lacks, `extra` those it has in vain, `reshaped` has the file's shape and the detector's,
    `untied` are keys of one tensor for which the file has different values.
    """

    matching: Mapping[str, Tensor]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    untied: tuple[tuple[str, str], ...]
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def whole(self) -> bool:
        return not (self.missing or self.extra or self.reshaped or self.untied)


def load_weights(module: nn.Module, path: Path, detector: Detector, *, partial: bool = False) -> Fit:
    """Sets a module of the detector to the weights of a file; nothing is changed where they do not fit.

    Files are PyTorch's (a state dict, or one under "state_dict" as MMDetection and Lightning write it, or under
    "model") and safetensors. With `partial`, loads what has the right key and shape, and returns what has not, and a
    warning that says so.

    Raises:
        DiagnosticError: checkpoint-unreadable, checkpoint-unsafe, checkpoint-mismatch or classes-reordered.
    """
    checkpoint = read_checkpoint(path)
    _check_classes(checkpoint, detector)
    wanted = module.state_dict()
    fit = fit_of(without_prefix(checkpoint.tensors, wanted), wanted)
    if not fit.matching or not (partial or fit.whole):
        raise _misfit(checkpoint.path, f"of {detector.name}", fit, wanted)
    _set(wanted, fit.matching)
    if fit.whole:
        return fit
    loaded = len(wanted) - len(fit.missing) - len(fit.reshaped)
    detail = f"{loaded} of {len(wanted)} weights are loaded; the others are as the spec initialises them"
    warning = _difference(CHECKPOINT_PARTIAL, checkpoint.path, f"of {detector.name}", fit, wanted, detail)
    return replace(fit, warnings=(warning,))


def load_pretrained(module: nn.Module, path: Path, detector: Detector, *, label: str = "backbone") -> Fit:
    """Sets the part of a module under `label` to weights of a file, such as a classifier trained on ImageNet.

    The file's keys are those below `label`, with or without it. The file may hold more (the classifier's last layer),
    but must hold all of the part.

    Raises:
        DiagnosticError: checkpoint-unreadable, checkpoint-unsafe or checkpoint-mismatch.
    """
    checkpoint = read_checkpoint(path)
    wanted = {k.removeprefix(f"{label}."): v for k, v in module.state_dict().items() if k.startswith(f"{label}.")}
    fit = fit_of(without_prefix(checkpoint.tensors, wanted), wanted)
    if not fit.matching or fit.missing or fit.reshaped or fit.untied:
        raise _misfit(checkpoint.path, f"of the {label} of {detector.name}", fit, wanted)
    _set(wanted, fit.matching)
    return fit


def save_weights(path: Path, weights: Mapping[str, Tensor], detector: Detector) -> None:
    """Writes a detector's state dict as safetensors, whole or not at all.

    Of tied weights the first key alone is written. The metadata has the detector's name, its spec's hash and its
    classes.

    Raises:
        DiagnosticError: cannot-write.
    """
    metadata = {"detector": detector.name, "spec": detector.hash}
    save_tensors(path, untied(weights), detector.classes, metadata)


def untied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a state dict; of tied ones, which are one tensor under several keys, the first key alone."""
    first: dict[int, str] = {}
    for key, tensor in weights.items():
        first.setdefault(_storage(tensor), key)
    return {key: weights[key] for key in first.values()}


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], classes: Sequence[str] | None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors by key as safetensors, whole or not at all, each with memory of its own; and the names of the
    classes that they were trained on, where these are known.

    Raises:
        DiagnosticError: cannot-write.
    """
    from safetensors.torch import save_file

    # Copied, because safetensors refuses tensors that share memory or are not laid out in order.
    copies = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    about = {"format": "pt", **(metadata or {})}
    if classes is not None:
        about["classes"] = json.dumps(list(classes), ensure_ascii=False)
    write_whole(path, lambda temporary: save_file(copies, temporary, about))


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a file, on the CPU. What kind of file it is, its first bytes say.

    Raises:
        DiagnosticError: checkpoint-unreadable or checkpoint-unsafe.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise DiagnosticError(CHECKPOINT_UNREADABLE.at(None, f"{path}: {error.strerror or error}")) from None
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pytorch(path, head)


def _unreadable(path: Path, why: str) -> DiagnosticError:
    detail = "the file may have been cut off: compare its size with the published one"
    return DiagnosticError(CHECKPOINT_UNREADABLE.at(None, f"{path} {why}", detail=detail))


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise _unreadable(path, f"is not a whole safetensors file: {error}") from None
    try:
        classes = json.loads(metadata.get("classes", "null"))
    except ValueError:
        classes = None
    return Checkpoint(path, tensors, _names(classes))


def _read_pytorch(path: Path, head: bytes) -> Checkpoint:
    try:
        with warnings.catch_warnings(action="ignore"):
            # Zipped files (those since PyTorch 1.6) are mapped: only what is used is read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK\x03\x04"))
    except Exception as error:  # A damaged file can fail anywhere in torch's readers, as anything.
        refused = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", str(error))
        if refused is None:
            raise _unreadable(path, "is not a whole checkpoint") from None
        raise DiagnosticError(
            CHECKPOINT_UNSAFE.at(
                None,
                f"{path} holds more than weights: {refused[1] or refused[2]}",
                detail="reading it would run code from the file; save its state dict alone",
            )
        ) from None
    state, others = content, []
    if isinstance(content, Mapping):
        under = next((k for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)), None)
        if under is not None:
            state, others = content[under], [str(key) for key in content if key != under]
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise _unreadable(path, "is a PyTorch file without a state dict")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise _unreadable(path, "is a PyTorch file without tensors by name")
    others += [key for key in state if key not in tensors]
    return Checkpoint(path, tensors, _classes(content.get("meta")), tuple(others))


def _classes(meta: Any) -> tuple[str, ...] | None:
    """The class names in the "meta" of MMDetection's checkpoints, of version 2 or 3."""
    if not isinstance(meta, Mapping):
        return None
    described = meta.get("dataset_meta")
    places = [meta, described] if isinstance(described, Mapping) else [meta]
    found = (_names(place.get(key)) for place in places for key in ("CLASSES", "classes"))
    return next((names for names in found if names is not None), None)


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None


# ---- fitting ---------------------------------------------------------------------------------------------------------


def _check_classes(checkpoint: Checkpoint, detector: Detector) -> None:
    theirs, ours = checkpoint.classes, tuple(detector.classes)
    if theirs is None or theirs == ours or sorted(theirs) != sorted(ours):
        return
    index = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    raise DiagnosticError(
        CLASSES_REORDERED.at(
            None,
            f'class {index} is "{theirs[index]}" in {checkpoint.path} and "{ours[index]}" in {detector.name}',
            detail="give the detector's classes in the order of the checkpoint",
            notes=(f"the checkpoint's order: {', '.join(theirs)}",),
        )
    )


def without_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors as they are, or those below one first label, without it, where more of these are wanted.

    Wrappers put such a label before all keys: "module." (DistributedDataParallel), the attribute's name (Lightning),
    "backbone." (a classifier).
    """
    best, most = tensors, sum(key in wanted for key in tensors)
    for label in dict.fromkeys(key.partition(".")[0] for key in tensors):
        below = {k.removeprefix(f"{label}."): v for k, v in tensors.items() if k.startswith(f"{label}.")}
        found = sum(key in wanted for key in below)
        if found > most:
            best, most = below, found
    return best


def fit_of(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Fit:
    """How tensors by key fit a module's state dict, in which tied weights are one tensor under several keys."""
    matching: dict[str, Tensor] = {}
    reshaped = {}
    given: dict[int, str] = {}
    untied = []
    for key, tensor in tensors.items():
        if key not in wanted:
            continue
        if tensor.shape != wanted[key].shape:
            reshaped[key] = (tuple(tensor.shape), tuple(wanted[key].shape))
            continue
        first = given.setdefault(_storage(wanted[key]), key)
        if first != key and not torch.equal(matching[first], tensor):
            untied.append((first, key))
        matching[key] = tensor
    found = {_storage(wanted[key]) for key in matching}
    missing = tuple(
        key
        for key, tensor in wanted.items()
        if key not in reshaped
        and _storage(tensor) not in found
        # Counts batches, for a mean over all of them that is never used; files made before PyTorch 1.0 lack it.
        and not key.endswith("num_batches_tracked")
    )
    extra = tuple(key for key in tensors if key not in wanted)
    return Fit(matching, missing, extra, reshaped, tuple(untied))


def _storage(tensor: Tensor) -> int:
    """The same number for tensors that are one, under several keys."""
    # A tensor without elements has no memory.
    return tensor.data_ptr() or id(tensor)


@torch.no_grad()
def _set(wanted: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for key, value in values.items():
        wanted[key].copy_(value)


def _misfit(path: Path, whose: str, fit: Fit, wanted: Collection[str]) -> DiagnosticError:
    detail = "give the checkpoint of this detector, or the detector of this checkpoint"
    return DiagnosticError(_difference(CHECKPOINT_MISMATCH, path, whose, fit, wanted, detail))


def _difference(kind: Kind, path: Path, whose: str, fit: Fit, wanted: Collection[str], detail: str) -> Diagnostic:
    counts = [
        f"{len(keys)} {what}"
        for keys, what in (
            (fit.missing, "missing"),
            (fit.extra, "extra"),
            (fit.reshaped, "of another shape"),
            (fit.untied, "that should be equal"),
        )
        if keys
    ]
    missing = _groups(fit.missing, {*fit.matching, *fit.reshaped})
    extra = _groups(fit.extra, wanted)
    notes = [
        *_listed("missing", (_described(group, count) for group, count in missing.items())),
        *_listed("extra", (_described(group, count, suggest(group, missing)) for group, count in extra.items())),
        *_listed("reshaped", (f"{k} is {list(a)}, and {list(b)} here" for k, (a, b) in fit.reshaped.items())),
        *_listed("one weight here, with different values there", (f"{a} and {b}" for a, b in fit.untied)),
    ]
    summary = f"{path} does not hold the weights {whose}: {', '.join(counts)}"
    return kind.at(None, summary, detail=detail, notes=tuple(notes))


def _groups(keys: Iterable[str], others: Collection[str]) -> dict[str, int]:
    """How many of the keys there are below each shortest label that has none of the others below it; 1 for a key."""
    taken = {prefix for other in others for prefix in _prefixes(other)}
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(next((prefix for prefix in _prefixes(key) if prefix not in taken), key), []).append(key)
    return {label if len(below) > 1 else below[0]: len(below) for label, below in groups.items()}


def _prefixes(key: str) -> Iterable[str]:
    parts = key.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _described(group: str, count: int, hint: str = "") -> str:
    return f"{group}{f'.* ({count} weights)' if count > 1 else ''}{f'; {hint}' if hint else ''}"


def _listed(title: str, lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    shown = [f"{title}: {line}" for line in lines[:_LISTED]]
    return [*shown, f"{title}: {len(lines) - _LISTED} more like these"] if len(lines) > _LISTED else shown
