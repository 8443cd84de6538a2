"""Finding objects in images that nobody annotated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.catalogue.data import PROPOSALS_MISSING
from detc.dsl.catalogue.running import CLASS_LISTS_DIFFER, NO_IMAGES, NO_SETTINGS
from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.images import SUFFIXES, read_image
from detc.runtime.data.masks import as_json, mask_areas
from detc.runtime.data.preprocess import Detections, Preprocess
from detc.runtime.data.settings import Data, data_settings
from detc.runtime.files import write_json
from detc.runtime.pictures import draw_detections, write_picture

if TYPE_CHECKING:
    import torch

    from detc.runtime.detector import Detector

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


def loaded_module(detector: Detector, weights: Path) -> Any:
    """The detector's predict module with weights from a file.

    Raises:
        DiagnosticError: class-lists-differ where the file names other classes, and whatever is wrong with the weights.
    """
    from detc.runtime.checkpoint import load_weights, read_checkpoint

    trained_on = read_checkpoint(weights).classes
    if trained_on is not None:
        _require_same_classes(detector, trained_on, str(weights))
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
class Predictor:
    """An engine with what belongs before and after it.

    >>> for found in predictor([cv2.imread("street.jpg")]):
    ...     found.boxes, found.scores, [predictor.classes[i] for i in found.classes]
    """

    engine: Engine
    preprocess: Preprocess
    classes: tuple[str, ...]

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What is found in each image (H, W, 3) uint8, blue, green, red: boxes in that image's pixels."""
        found: list[Detections] = []
        for image in images:  # one by one: a result must not depend on what an image is batched with
            batch, placements = self.preprocess([image])
            found.extend(Preprocess.detections(self.engine(batch), placements))
        return found


def detector_predictor(detector: Detector, weights: Path) -> Predictor:
    """A detector with weights from a file, run by torch, on the GPU where there is one.

    Raises:
        DiagnosticError: no-settings, class-lists-differ, proposals-missing where it takes more than an image, and
            whatever is wrong with the weights.
    """
    from detc.runtime.checkpoint import read_checkpoint

    settings = data_of(detector)
    view = detector.graph.view("predict")
    if "proposals" in view.inputs:
        hint = "`detc eval` runs it on the images of its data, whose sources name a file of proposals"
        summary = f"{detector.name} takes proposals beside an image"
        raise DiagnosticError(PROPOSALS_MISSING.at(None, summary, detail=hint))
    if isinstance(settings.classes, int):
        named = read_checkpoint(weights).classes
        if named is not None and len(named) == settings.classes:
            detector = detector.named(named)
    engine = FxEngine(loaded_module(detector, weights), default_device())
    classes = tuple(detector.classes) if "classes" in view.views["predict"] else ("object",)
    return Predictor(engine, preprocess_of(settings, detector.graph.size_divisor), classes)


def image_files(arguments: Sequence[str]) -> list[Path]:
    """The image files that files, folders and patterns name, each once, in order.

    Raises:
        DiagnosticError: no-images, for every argument that names none.
    """
    found: dict[Path, None] = {}
    problems = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            reason = "the folder has no images"
        elif path.is_file():
            matches, reason = [path], ""
        else:
            matches = _matching(path)
            reason = "no such file or folder, and no pattern that matches an image"
        if not matches:
            kinds = ", ".join(sorted(SUFFIXES))
            problems.append(NO_IMAGES.at(None, f"{argument}: {reason}", detail=f"images end in {kinds}"))
        found.update(dict.fromkeys(matches))
    if problems:
        raise DiagnosticError(problems)
    return list(found)


def _matching(pattern: Path) -> list[Path]:
    """The image files that a pattern such as photographs/**/*.jpg matches."""
    base = Path(pattern.anchor)
    try:
        found = [*base.glob(str(pattern.relative_to(base)))]
    except (ValueError, IndexError):  # a pattern that pathlib does not take
        found = []
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())


def write_predictions(
    predictor: Predictor, paths: Sequence[Path], output: Path, score: float
) -> Iterator[tuple[Path, Detections]]:
    """Predicts on each file and writes a picture with the boxes of at least `score`; at the end, predictions.json.

    predictions.json has all boxes in COCO's form: "images", "categories" (ids from 1), and "annotations" with "score",
    and with run lengths as "segmentation" where the detector finds masks.
    Pictures have the names of the images; where two images have the same name, a number is added.

    Raises:
        DiagnosticError: cannot-write; image-unreadable for every such file, after all others are done and written.
    """
    problems: list[Diagnostic] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    used: set[str] = set()
    for number, path in enumerate(paths, start=1):
        try:
            image = read_image(path)
        except DiagnosticError as error:
            problems.extend(error)
            continue
        found = predictor([image])[0]
        name = _free_name(path, used)
        write_picture(output / name, draw_detections(image, found.above(score), predictor.classes))
        size = {"width": image.shape[1], "height": image.shape[0]}
        images.append({"id": number, "file_name": str(path), **size, "picture": name})
        annotations.extend(_annotations(found, number, len(annotations)))
        yield path, found
    categories = [{"id": i, "name": name} for i, name in enumerate(predictor.classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_json(output / "predictions.json", content)
    if problems:
        raise DiagnosticError(problems)


def _annotations(found: Detections, image: int, count: int) -> Iterator[dict[str, Any]]:
    """What was found in an image, as COCO's annotations with a score; `count` others have been written."""
    areas = mask_areas(found.masks) if found.masks is not None else None
    for row, (box, score, label) in enumerate(zip(found.boxes.tolist(), found.scores, found.classes, strict=True)):
        x1, y1, x2, y2 = box
        annotation = {
            "id": count + row + 1,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": areas[row] if areas is not None else round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            annotation["segmentation"] = as_json(found.masks[row])
        yield annotation


def _free_name(path: Path, used: set[str]) -> str:
    suffix = path.suffix.lower() if path.suffix.lower() in (".png", ".webp", ".bmp") else ".jpg"
    name, count = path.stem + suffix, 1
    while name.lower() in used:
        count += 1
        name = f"{path.stem}-{count}{suffix}"
    used.add(name.lower())
    return name
