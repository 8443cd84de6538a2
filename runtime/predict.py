"""Finding objects in images that nobody annotated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.catalogue.data import PROPOSALS_MISSING
from detc.dsl.catalogue.running import CLASS_LISTS_DIFFER, CLASSES_UNNAMED, NO_SETTINGS
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.preprocess import Detections, Placement, Preprocess
from detc.runtime.data.settings import Data, data_settings
from detc.runtime.inputs import Order, Picture, batched, picture_pixels, read_ahead, several
from detc.runtime.views import Augmentation, augmentation_of

if TYPE_CHECKING:
    import torch

    from detc.runtime.artifact import Artifact
    from detc.runtime.detector import Detector

Tell = Callable[[Iterable[Diagnostic]], None]
# `image` (N, 3, H, W) float32, normalised, and what else the graph takes, to what `Preprocess.detections` reads.
Engine = Callable[..., dict[str, np.ndarray]]


class FxEngine:
    """The predict module of a detector, on a device, as an engine. Switches the module to evaluation."""

    def __init__(self, module: Any, device: str = "cpu") -> None:
        self.module = module.to(device).eval()
        self.device = device

    def __call__(self, image: np.ndarray, **others: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in {"image": image, **others}.items()}
        with torch.inference_mode():
            return as_arrays(self.module(**inputs))


def as_arrays(outputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What a predict module returned, as an engine does: floating-point tensors as float32, others as they are."""
    return {k: (v.float() if v.is_floating_point() else v).cpu().numpy() for k, v in outputs.items()}


def data_of(detector: Detector) -> Data:
    """The data settings of a detector.

    Raises:
        DiagnosticError: no-settings, bad-setting, unknown-record; class-lists-differ where they are not its data's.
    """
    if detector.data is None:
        raise DiagnosticError(NO_SETTINGS.at(None, f"{detector.name} has no `data`"))
    settings = data_settings(detector.data)
    if not isinstance(settings.classes, int):
        _require_same_classes(detector, settings.classes, "its data")
    elif settings.classes != len(detector.classes):
        summary = f"{detector.name} has {len(detector.classes)} classes, and its data {settings.classes}"
        raise DiagnosticError(CLASS_LISTS_DIFFER.at(None, summary))
    return settings


def loaded_module(detector: Detector, weights: Path, tell: Tell = lambda warnings: None) -> Any:
    """The detector's predict module with weights from a file. `tell` gets a warning where that names no classes.

    Raises:
        DiagnosticError: class-lists-differ where the file names other classes, and whatever is wrong with the weights.
    """
    from detc.runtime.checkpoint import load_weights, read_checkpoint

    trained_on = read_checkpoint(weights).classes
    if trained_on is not None:
        _require_same_classes(detector, trained_on, str(weights))
    elif "classes" in detector.graph.views["predict"]:
        detail = f"the figures and pictures are right if they are {_listed(detector.classes)}, in this order"
        tell([CLASSES_UNNAMED.at(None, f"{weights} does not say which classes it was trained on", detail=detail)])
    module = detector.modules("predict")["predict"]
    load_weights(module, weights, detector)
    return module


def _require_same_classes(detector: Detector, classes: Sequence[str], whose: str) -> None:
    """Old checkpoints write an underscore for a blank."""
    ours, theirs = ([name.replace("_", " ") for name in names] for names in (detector.classes, classes))
    if ours != theirs:
        notes = (f"the detector's: {', '.join(detector.classes)}", f"those of {whose}: {', '.join(classes)}")
        summary = f"the classes of {detector.name} are not those of {whose}"
        raise DiagnosticError(CLASS_LISTS_DIFFER.at(None, summary, notes=notes))


def _listed(classes: Sequence[str]) -> str:
    few = ", ".join(classes[:8])
    return few if len(classes) <= 8 else f"{few} and {len(classes) - 8} more"


def default_device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def preprocess_of(settings: Data, size_divisor: int, fixed: tuple[int, int] | None = None) -> Preprocess:
    """What a detector's data says of images that are evaluated or predicted on.

    `size_divisor` is the graph's; `fixed` the (width, height) of an engine that takes no other.
    """
    return Preprocess(settings.resize, settings.normalize, math.lcm(size_divisor, settings.pad), fixed)


@dataclass(frozen=True)
class Found(Detections):
    """What a predictor found in one image; `known` are the names of all classes, by number."""

    known: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def names(self) -> list[str]:
        """The class of each box, by name."""
        return [self.known[number] for number in self.classes]


class Finder:
    """Finds objects in pictures; what does so is a subclass.

    `classes` are the names of the classes, by number; `together` is how many images are best looked at at once.
    """

    classes: tuple[str, ...]
    together: int = 1

    def find_all(self, images: Sequence[np.ndarray]) -> list[Found]:
        """What is found in each image (H, W, 3) uint8 in blue, green, red. It does not depend on the others."""
        raise NotImplementedError

    def find(self, image: np.ndarray) -> Found:
        """What is found in an image (H, W, 3) uint8 in blue, green, red."""
        (found,) = self.find_all([image])
        return found

    def __call__(self, pictures: Picture | Iterable[Picture], order: Order = "bgr") -> list[Found]:
        """What is found in each picture, or in the only one: boxes in its own pixels, by falling score.

        A picture is a file, an array (H, W, 3) uint8, or a picture of Pillow. `order` is that of the channels of
        arrays: "bgr", as OpenCV reads them, or "rgb", as most others do.

        Raises:
            DiagnosticError: image-unreadable, bad-picture.
        """
        return list(self.stream(several(pictures), order))

    def stream(self, pictures: Iterable[Picture], order: Order = "bgr") -> Iterator[Found]:
        """The same for any number of pictures, one by one; files are read ahead, and none is kept.

        Raises:
            DiagnosticError: image-unreadable, bad-picture, when the picture's turn comes.
        """
        ahead = read_ahead(pictures, lambda picture: picture_pixels(picture, order), 2 * self.together)
        for reads in batched((read for _, read in ahead), self.together):
            images, problem = [], None
            for read in reads:
                try:
                    images.append(read())
                except DiagnosticError as error:
                    problem = error
                    break
            yield from self.find_all(images)
            if problem is not None:
                raise problem


@dataclass(frozen=True)
class Predictor(Finder):
    """An engine with what belongs before and after it, and its test-time augmentation where it has one.

    >>> for found in predictor(["street.jpg"]):
    ...     print(found.names, found.boxes, found.scores)
    """

    engine: Engine
    preprocess: Preprocess
    classes: tuple[str, ...]
    augmentation: Augmentation | None = None

    def find_all(self, images: Sequence[np.ndarray]) -> list[Found]:
        """What is found in each image (H, W, 3) uint8 in blue, green, red.

        They go through the engine one by one: a result must not depend on what an image is batched with.
        """
        return [self._found(image) for image in images]

    def _found(self, image: np.ndarray) -> Found:
        looks = [self._look(image, view) for view in self._views()]
        found = self.augmentation.merged(looks) if self.augmentation else looks[0]
        return Found(found.boxes, found.scores, found.classes, found.masks, known=self.classes)

    def _views(self) -> tuple[Preprocess, ...]:
        return self.augmentation.of(self.preprocess) if self.augmentation else (self.preprocess,)

    def _look(self, image: np.ndarray, view: Preprocess) -> Detections:
        batch, placements = view([image])
        (found,) = Preprocess.detections(self.engine(batch), placements)
        return found


class ArtifactPredictor(Finder):
    """An exported detector that takes pixels."""

    def __init__(self, artifact: Artifact, classes: tuple[str, ...]) -> None:
        self.artifact = artifact
        self.classes = classes
        self.together = artifact.batches[-1]

    def find_all(self, images: Sequence[np.ndarray]) -> list[Found]:
        """What is found in each image (H, W, 3) uint8 in blue, green, red."""
        return self.read(self.artifact.detect(images), images)

    def read(self, outputs: Sequence[dict[str, np.ndarray]], images: Sequence[np.ndarray]) -> list[Found]:
        """What the artifact's `detect` gave for images, without what is absent, masks in the images' pixels."""
        return [
            self._read(found, (image.shape[1], image.shape[0])) for found, image in zip(outputs, images, strict=True)
        ]

    def _read(self, outputs: dict[str, np.ndarray], size: tuple[int, int]) -> Found:
        alone = {name: value[None] for name, value in outputs.items()}
        (found,) = Preprocess.detections(alone, [Placement(size, size)])
        return Found(found.boxes, found.scores, found.classes, found.masks, known=self.classes)


def detector_predictor(
    detector: Detector, weights: Path, tta: bool | None = None, tell: Tell = lambda warnings: None
) -> Predictor:
    """A detector with weights from a file, run by torch, on the GPU where there is one; `tta` as for `evaluate`.

    Warnings about the weights go to `tell`.

    Raises:
        DiagnosticError: no-settings, class-lists-differ, views-not-merged, proposals-missing where it takes more than
            an image, and whatever is wrong with the weights.
    """
    from detc.runtime.checkpoint import read_checkpoint

    settings = data_of(detector)
    augmentation = augmentation_of(detector.graph, settings, tta)
    view = detector.graph.view("predict")
    if "proposals" in view.inputs:
        hint = "`detc eval` runs it on the images of its data, whose sources name a file of proposals"
        summary = f"{detector.name} takes proposals beside an image"
        raise DiagnosticError(PROPOSALS_MISSING.at(None, summary, detail=hint))
    if isinstance(settings.classes, int):
        named = read_checkpoint(weights).classes
        if named is not None and len(named) == settings.classes:
            detector = detector.named(named)
    engine = FxEngine(loaded_module(detector, weights, tell), default_device())
    classes = tuple(detector.classes) if "classes" in view.views["predict"] else ("object",)
    return Predictor(engine, preprocess_of(settings, detector.graph.size_divisor), classes, augmentation)
