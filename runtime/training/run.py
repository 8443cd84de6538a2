"""The folder of a training run."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detc.compiler.serialize import to_text
from detc.compiler.values import Record
from detc.dsl.catalogue.running import CANNOT_RESUME, CANNOT_WRITE, RUN_EXISTS
from detc.dsl.diagnostics import DiagnosticError
from detc.runtime.files import make_folder, remove_unfinished, write_json, write_text
from detc.runtime.pictures import write_curves

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

PACKAGES = ("detc", "torch", "lightning", "numpy", "opencv-python-headless", "pycocotools")

# The metrics that curves and lines show, of those that a detector has.
SHOWN_METRICS = (
    *("AP", "AP50", "AP75", "mask_AP", "VOC_AP50", "VOC07_AP50", "Cityscapes_AP"),
    *("APr", "APc", "APf", "AR300", "AR1000"),
)


@dataclass(frozen=True)
class RunOptions:
    """What a run was started with; a resumed run must be given the same."""

    detector: str
    spec_hash: str
    data: str
    batch: int
    accumulate: int
    processes: int
    seed: int


@dataclass(frozen=True)
class Run:
    """The folder of a run.

    run.json        command, options, versions, machine, the settings of data and schedule
    spec.det        the text of the spec
    graph.txt       the detector as it was elaborated
    training.csv    losses and learning rate, each row the mean of the steps since the one before
    evaluations.csv metrics of each evaluation
    curves.png      both, drawn
    pictures/       predictions on validation images, one sheet for each evaluation
    tensorboard/    the same for TensorBoard
    last.ckpt       the state to resume from
    last.safetensors, best.safetensors   weights
    """

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best_weights(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def last_weights(self) -> Path:
        return self.folder / "last.safetensors"

    def append(self, table: str, row: dict[str, Any]) -> None:
        """Adds a row to one of the run's tables, whose first row is the names of the columns."""
        path = self.folder / table
        try:
            fresh = not path.exists() or not path.stat().st_size
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if fresh:
                    writer.writerow(row)
                writer.writerow(_cells(row))
        except OSError as error:
            raise DiagnosticError(CANNOT_WRITE.at(None, f"{path}: {error.strerror}")) from None

    def rows(self, table: str) -> list[dict[str, float]]:
        """The rows of a table, numbers as numbers; none where there is no table yet."""
        path = self.folder / table
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            whole = [row for row in csv.DictReader(file) if all(row.values())]  # a killed run may leave half a row
        return [{name: float(value) for name, value in row.items()} for row in whole]

    def forget_after(self, step: int) -> None:
        """Removes rows of later steps than `step` from the tables: those that a resumed run will do again."""
        for table in ("training.csv", "evaluations.csv"):
            kept = [row for row in self.rows(table) if row["step"] <= step]
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerows([list(kept[0]), *(_cells(row) for row in kept)] if kept else [])
            write_text(self.folder / table, text.getvalue())

    def draw_curves(self, title: str) -> None:
        """Draws curves.png from the tables."""
        training, evaluations = self.rows("training.csv"), self.rows("evaluations.csv")
        names = [name for name in (training[0] if training else ()) if name not in ("step", "epoch", "lr")]
        losses = {name: [(row["epoch"], row[name]) for row in training] for name in names}
        metrics = {
            name: [(row["epoch"], row[name]) for row in evaluations if not math.isnan(row[name])]
            for name in SHOWN_METRICS
            if evaluations and name in evaluations[0]
        }
        write_curves(self.folder / "curves.png", title, losses, metrics)


def _cells(row: Mapping[str, Any]) -> list[Any]:
    """The values of a row as a table has them."""
    return [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()]


def _plain(value: Any) -> Any:
    """A setting of a spec as JSON has it, records with their names."""
    if isinstance(value, Record):
        return {"record": value.name} | {name: _plain(field) for name, field in value.fields.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def start_run(folder: Path, options: RunOptions, detector: Detector, started_from: dict[str, str | None]) -> Run:
    """Makes the folder of a new run and describes it there. `started_from` names the files of its first weights.

    Raises:
        DiagnosticError: run-exists where the folder has anything in it; cannot-write.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "--resume continues the run that is there; another --output starts one beside it"
        raise DiagnosticError(RUN_EXISTS.at(None, f"{folder} is not empty", detail=hint))
    make_folder(folder)
    write_text(folder / "spec.det", detector.source)
    write_text(folder / "graph.txt", to_text(detector.graph))
    content = {
        "command": sys.argv,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "options": asdict(options),
        "settings": {"data": _plain(detector.data), "schedule": _plain(detector.schedule)},
        "started_from": started_from,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": platform.platform(),
    }
    write_json(folder / "run.json", content)
    return Run(folder)


def resume_run(folder: Path, options: RunOptions) -> Run:
    """The run in a folder, if it can be continued with these options. What a killed run left half written goes.

    Raises:
        DiagnosticError: cannot-resume.
    """
    run = Run(folder)
    try:
        before = json.loads((folder / "run.json").read_text("utf-8"))["options"]
    except (OSError, ValueError, KeyError):
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{folder} holds no run")) from None
    if not run.state.exists():
        hint = "it was stopped before its first save; remove the folder and start again"
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{folder} has no last.ckpt", detail=hint))
    if before.get("spec_hash") != options.spec_hash:
        hint = "the spec that the run was started from is in its spec.det"
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{folder}: the spec has been changed since", detail=hint))
    changed = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in asdict(options).items()
        if before.get(name) != value
    ]
    if changed:
        raise DiagnosticError(CANNOT_RESUME.at(None, f"{folder} was started otherwise: {'; '.join(changed)}"))
    remove_unfinished(folder)
    return run


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on: the first that is not there."""
    folder, count = Path("runs") / name, 1
    while folder.exists():
        count += 1
        folder = Path("runs") / f"{name}-{count}"
    return folder


def latest_folder(name: str) -> Path:
    """The last of runs/NAME, runs/NAME-2, ... that is there."""
    folder, count = Path("runs") / name, 1
    while (following := Path("runs") / f"{name}-{count + 1}").exists():
        folder, count = following, count + 1
    return folder
