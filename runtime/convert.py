"""Published weights as safetensors, with what each tensor is to a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from detc.dsl.catalogue.checkpoint import CHECKPOINT_UNREADABLE
from detc.dsl.catalogue.running import BAD_OPTION
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.checkpoint import Checkpoint, Fit, fit_of, read_checkpoint, save_tensors, untied, without_prefix

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

State = Literal["written", "missing", "left over", "reshaped", "should be equal"]
# What DistributedDataParallel puts before every key.
_WRAPPED = "module."


@dataclass(frozen=True)
class TensorRow:
    """One key: what the file has under it, as (dtype, shape), and what the detector has; None where one has nothing."""

    key: str
    state: State
    found: tuple[str, tuple[int, ...]] | None
    wanted: tuple[str, tuple[int, ...]] | None
    finite: bool = True

    def as_json(self) -> dict[str, Any]:
        def plain(kind: tuple[str, tuple[int, ...]] | None) -> dict[str, Any] | None:
            return None if kind is None else {"dtype": kind[0], "shape": list(kind[1])}

        return {
            "key": self.key,
            "state": self.state,
            "file": plain(self.found),
            "spec": plain(self.wanted),
            "finite": self.finite,
        }


@dataclass(frozen=True)
class Conversion:
    """What a file holds and what became of it. `output` is None where nothing was written, since it does not fit."""

    rows: tuple[TensorRow, ...]
    classes: tuple[str, ...] | None
    others: tuple[str, ...]
    output: Path | None

    def count(self, state: State) -> int:
        return sum(row.state == state for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        return {
            "output": None if self.output is None else str(self.output),
            "classes": None if self.classes is None else list(self.classes),
            "not_read": list(self.others),
            "tensors": [row.as_json() for row in self.rows],
        }


def convert(path: Path, output: Path, detector: Detector | None = None) -> Conversion:
    """Writes the tensors of a file as safetensors, without running anything from it.

    With a detector, under its keys and with its dtypes, those that it has and no others; where some are missing or have
    another shape, nothing is written. Without one, all tensors as they are, but for the prefix of
    DistributedDataParallel. Tensors that share memory are written each on its own, but for a detector's tied weights,
    which are written once. The file names the classes if the one that it was made of does.

    Raises:
        DiagnosticError: checkpoint-unreadable, checkpoint-unsafe, bad-option or cannot-write.
    """
    if output.exists() and path.exists() and output.samefile(path):
        raise DiagnosticError(BAD_OPTION.at(None, f"--output {output} is the file that is converted"))
    checkpoint = read_checkpoint(path)
    _require_dense(checkpoint)
    if detector is None:
        tensors = _unwrapped(checkpoint.tensors)
        rows = tuple(TensorRow(key, "written", _kind(t), None, _is_finite(t)) for key, t in tensors.items())
        save_tensors(output, tensors, checkpoint.classes)
        return Conversion(rows, checkpoint.classes, checkpoint.others, output)
    module = detector.module()
    wanted = module.state_dict()
    tensors = without_prefix(checkpoint.tensors, wanted)
    fit = fit_of(tensors, wanted)
    rows = _rows(tensors, wanted, fit)
    if not fit.matching or fit.missing or fit.reshaped or fit.untied:
        return Conversion(rows, checkpoint.classes, checkpoint.others, None)
    with torch.no_grad():
        for key, tensor in fit.matching.items():
            wanted[key].copy_(tensor)
    about = {"detector": detector.name, "spec": detector.hash}
    save_tensors(output, untied(wanted), checkpoint.classes, about)
    return Conversion(rows, checkpoint.classes, checkpoint.others, output)


def _require_dense(checkpoint: Checkpoint) -> None:
    for key, tensor in checkpoint.tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
            why = f'{checkpoint.path} has "{key}", which is no plain array: safetensors cannot hold it'
            raise DiagnosticError(CHECKPOINT_UNREADABLE.at(None, why))


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if all(key.startswith(_WRAPPED) for key in tensors):
        return {key.removeprefix(_WRAPPED): tensor for key, tensor in tensors.items()}
    return tensors


def _rows(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], fit: Fit) -> tuple[TensorRow, ...]:
    """The detector's keys in its order, then what the file has beside them. A key whose weights are tied to one that is
    there, and a normalisation's count of batches, need not be in the file."""
    missing, untied = set(fit.missing), {key for pair in fit.untied for key in pair}
    rows = []
    for key, ours in wanted.items():
        theirs = tensors.get(key)
        if theirs is None and key not in missing:
            continue
        state: State = "written"
        if key in missing:
            state = "missing"
        elif key in fit.reshaped:
            state = "reshaped"
        elif key in untied:
            state = "should be equal"
        found = None if theirs is None else _kind(theirs)
        rows.append(TensorRow(key, state, found, _kind(ours), theirs is None or _is_finite(theirs)))
    left = (TensorRow(key, "left over", _kind(tensors[key]), None, _is_finite(tensors[key])) for key in fit.extra)
    return (*rows, *left)


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
