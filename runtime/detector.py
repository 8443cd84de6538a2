"""A detector of a spec, ready to be used: the front of detc's Python interface."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detc.compiler.elaborate import Elaborated, elaborate
from detc.compiler.graph import Graph, ViewName
from detc.compiler.memory import NOTHING, Recomputed
from detc.compiler.modules import Loader, Module, choose
from detc.compiler.values import Record
from detc.dsl.diagnostics import Diagnostic
from detc.dsl.render import to_text

if TYPE_CHECKING:
    import torch.fx

    from detc.runtime.evaluate import Measured
    from detc.runtime.predict import Predictor
    from detc.runtime.train import Trained


class Detector:
    """One detector of a spec: `detc.load("specs/fpg.det", "retinanet_r50_fpg_crop640_50e")`."""

    def __init__(self, module: Module, elaborated: Elaborated, files: Mapping[Path, Module]) -> None:
        self._module = module
        self._elaborated = elaborated
        self._files = files

    @property
    def name(self) -> str:
        return self._elaborated.name

    @property
    def graph(self) -> Graph:
        """The whole graph, with all views."""
        return self._elaborated.graph

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self._elaborated.classes)

    @property
    def data(self) -> Record | None:
        return self._elaborated.data

    @property
    def schedule(self) -> Record | None:
        return self._elaborated.schedule

    @property
    def pretrained(self) -> str | None:
        """The weights that training starts from, as the spec names them."""
        return self._elaborated.pretrained

    @property
    def reported(self) -> dict[str, Any]:
        """What was published of this detector: figures, configuration, checkpoint."""
        return dict(self._elaborated.reported)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return self._elaborated.warnings

    @property
    def elaborated(self) -> Elaborated:
        return self._elaborated

    @property
    def path(self) -> Path:
        """The spec's file."""
        return self._module.path

    @property
    def source(self) -> str:
        """The spec's text."""
        return self._module.source.text

    @property
    def hash(self) -> str:
        """SHA-256 of the spec's text and of everything it imports, and the detector's name."""
        digest = hashlib.sha256(self.name.encode())
        for path in sorted(self._files):
            digest.update(self._files[path].source.text.encode())
        return digest.hexdigest()

    def named(self, classes: Sequence[str]) -> Detector:
        """This detector with these names of its classes: where the spec has their number alone, the data has names."""
        if len(classes) != len(self.classes):
            raise ValueError(f"{len(classes)} names for {len(self.classes)} classes")
        return Detector(self._module, replace(self._elaborated, classes=tuple(classes)), self._files)

    def siblings(self) -> list[Detector]:
        """All detectors of the file, this one among them."""
        return [
            self if d.name == self.name else Detector(self._module, elaborate(self._module, d.name), self._files)
            for d in self._module.detectors
        ]

    def modules(
        self, *views: ViewName, recomputed: Recomputed = NOTHING, float32: Collection[str] = ()
    ) -> dict[str, torch.fx.GraphModule]:
        """The given views as modules that share their parameters, freshly initialised as the spec says.

        `recomputed` is what the backward pass of the train view computes again; the pass `recompute` chooses it.
        `float32` names nodes that compute in float32 under autocast too.
        """
        from detc.compiler.emit.fx import emit
        from detc.runtime.plugins import kernels

        return emit(self.graph, views, kernels(), recomputed, float32)

    def module(self, view: ViewName = "forward") -> torch.fx.GraphModule:
        """One view as a module; its state dict has the keys of the published checkpoint."""
        return self.modules(view)[view]

    def predictor(self, weights: str | Path, tta: bool | None = None) -> Predictor:
        """This detector with weights from a file, ready to look for objects in images; on the GPU where there is one.

        >>> model = detc.load("mine.det").predictor("best.safetensors")
        >>> for found in model(["street.jpg"]):
        ...     print(found.names, found.boxes, found.scores)

        `tta` is whether images are looked at in several views: None as the data says, True at least mirrored too.
        Warnings about the weights go to the standard error stream.

        Raises:
            DiagnosticError: as `detc.runtime.predict.detector_predictor`.
        """
        from detc.runtime.predict import detector_predictor

        return detector_predictor(self, Path(weights), tta, _tell)

    def evaluate(
        self,
        weights: str | Path,
        data: str | Path | None = None,
        split: str = "test",
        workers: int = 2,
        tta: bool | None = None,
    ) -> Measured:
        """Measures this detector on a split of its data, in the folder `data` if not in the spec's.

        >>> measured = detc.load("mine.det").evaluate("best.safetensors")
        >>> print(measured.evaluation.metrics["AP"])

        Warnings about data and weights go to the standard error stream; `workers` processes load images. `tta` is as
        for `predictor`.

        Raises:
            DiagnosticError: as `detc.runtime.evaluate.evaluate`.
        """
        from detc.runtime.evaluate import evaluate

        return evaluate(self, Path(weights), _path(data), split, workers, _tell, tta=tta)

    def train(self, data: str | Path | None = None, **options: Any) -> Trained:
        """Trains this detector as its spec says, with data in the folder `data` if not in the spec's.

        >>> trained = detc.load("mine.det").train(epochs=12, from_scratch=True)
        >>> print(trained.best, trained.run.best_weights)

        `options` are the other fields of `detc.runtime.train.TrainOptions`, where files and folders may be strings.
        Warnings about the data go to the standard error stream, and so does progress.

        Raises:
            DiagnosticError: as `detc.runtime.train.train`.
        """
        from detc.runtime.train import TrainOptions, train

        files = {name: _path(options[name]) for name in ("weights", "pretrained", "output") if name in options}
        return train(self, TrainOptions(**{**options, **files, "data": _path(data)}), _tell)

    def __repr__(self) -> str:
        return f"<Detector {self.name}: {len(self.graph)} nodes, {len(self.graph.weights)} weights>"


def _path(given: str | Path | None) -> Path | None:
    return Path(given) if given is not None else None


def _tell(diagnostics: Iterable[Diagnostic]) -> None:
    for diagnostic in diagnostics:
        print(to_text(diagnostic), file=sys.stderr)


def load(path: str | Path, name: str | None = None, roots: tuple[Path, ...] = ()) -> Detector:
    """The detector called `name` of a spec, or the one that its `default` names, or its only one.

    Raises:
        DiagnosticError: with every mistake of the spec.
    """
    loader = Loader(roots)
    module = loader.load(Path(path))
    return Detector(module, elaborate(module, choose(module, name)), loader.modules)
