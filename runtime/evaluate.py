"""How well a detector does on annotated images: COCO's metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detc.dsl.diagnostics import Diagnostic, DiagnosticError
from detc.runtime.data.dataset import AnnotatedImage, Dataset
from detc.runtime.data.images import Unreadable, read_image, readable
from detc.runtime.data.preprocess import Detections, Placement, Preprocess
from detc.runtime.data.reading import read_split
from detc.runtime.data.settings import data_root
from detc.runtime.files import write_json
from detc.runtime.predict import Engine, FxEngine, data_of, default_device, loaded_module, preprocess_of

if TYPE_CHECKING:
    from detc.runtime.detector import Detector

# Pixels (N, 3, H, W), where each image went in them, and the images.
EvaluationBatch = tuple[np.ndarray, list[Placement], tuple[AnnotatedImage, ...]]

# COCOeval.stats in order. AP is averaged over IoU 0.50 to 0.95; S, M, L are objects below 32^2, 96^2, and larger.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; nan where the data has no object of it."""

    name: str
    objects: int
    ap: float
    ap50: float


@dataclass(frozen=True)
class Evaluation:
    """`metrics` maps each of METRICS to its value from 0 to 1, nan where the data has no object of that size."""

    metrics: dict[str, float]
    classes: tuple[ClassFigures, ...]
    images: int

    def as_json(self) -> dict[str, Any]:
        """The figures, nan as null."""

        def plain(value: float) -> float | None:
            return None if np.isnan(value) else round(value, 5)

        rows = [{"name": c.name, "objects": c.objects, "AP": plain(c.ap), "AP50": plain(c.ap50)} for c in self.classes]
        return {
            "images": self.images,
            "metrics": {name: plain(value) for name, value in self.metrics.items()},
            "classes": rows,
        }


@dataclass(frozen=True)
class Measured:
    """An evaluation with what it was made from: the data set, and what was found by image number."""

    evaluation: Evaluation
    dataset: Dataset
    found: dict[int, Detections]


class EvaluationImages:
    """The images of a data set as batches for an engine: an item is (batch, placements, images)."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, batch: int = 1) -> None:
        images = dataset.images
        self.groups = [images[i : i + batch] for i in range(0, len(images), batch)]
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> EvaluationBatch | Unreadable:
        group = self.groups[index]
        try:
            return *self.preprocess([read_image(image.path, image.size) for image in group]), group
        except DiagnosticError as error:
            return Unreadable(tuple(error))


def evaluation_batches(images: EvaluationImages, workers: int) -> Iterable[Any]:
    """A torch loader of the batches of `images`, in order."""
    from torch.utils.data import DataLoader

    from detc.runtime.data.loading import quiet_worker

    return DataLoader(
        images,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        worker_init_fn=quiet_worker,
        collate_fn=_as_it_is,
    )


def _as_it_is(item: Any) -> Any:
    return item


def detect(
    engine: Engine, batches: Iterable[EvaluationBatch | Unreadable]
) -> Iterator[tuple[AnnotatedImage, Detections]]:
    """What the engine finds in each image. Raises DiagnosticError image-unreadable."""
    for item in batches:
        batch, placements, images = readable(item)
        yield from zip(images, Preprocess.detections(engine(batch), placements), strict=True)


def evaluate(
    detector: Detector,
    weights: Path,
    data: Path | None = None,
    split: str = "test",
    workers: int = 0,
    tell: Callable[[Iterable[Diagnostic]], None] = lambda warnings: None,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Measured:
    """Evaluates a detector with weights from a file on a split of its data.

    `data` replaces the root of the data. Warnings about the data go to `tell`. The loader of batches is iterated
    through `watch`, where a caller may show how far it is.

    Raises:
        DiagnosticError: no-settings, class-lists-differ, and whatever is wrong with the data or the weights.
    """
    settings = data_of(detector)
    dataset, problems = read_split(settings, split, data_root(settings, detector.path, data), strict=True)
    tell(problems)
    engine = FxEngine(loaded_module(detector, weights), default_device())
    images = EvaluationImages(dataset, preprocess_of(settings, detector.graph.size_divisor))
    batches = watch(evaluation_batches(images, workers))
    found = {image.number: detections for image, detections in detect(engine, batches)}
    return Measured(coco_metrics(dataset, found), dataset, found)


def coco_metrics(dataset: Dataset, found: Mapping[int, Detections]) -> Evaluation:
    """COCO's box metrics of what was found, by image number. Images that are not in `found` count as without a box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = coco_results(dataset, found)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(dataset)
        truth.createIndex()
        scored = truth.loadRes(results) if results else _without_annotations(COCO(), truth)
        run = COCOeval(truth, scored, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"]  # (IoU thresholds, recalls, classes, areas, most detections)
    figures = []
    for index, (name, count) in enumerate(zip(dataset.classes, dataset.counts(), strict=True)):
        column = run.params.catIds.index(dataset.category_ids[index])
        ap, ap50 = _mean(precision[:, :, column, 0, -1]), _mean(precision[0, :, column, 0, -1])
        figures.append(ClassFigures(name, count, ap, ap50))
    metrics = {name: float(value) if value >= 0 else np.nan for name, value in zip(METRICS, run.stats, strict=True)}
    return Evaluation(metrics, tuple(figures), len(dataset.images))


def _without_annotations(empty: Any, truth: Any) -> Any:
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else np.nan


def coco_truth(dataset: Dataset) -> dict[str, Any]:
    """The data set in COCO's form. Difficult objects of VOC appear as crowds: what lies in them does not count."""
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for box, label, area, ignored in zip(image.boxes, image.labels, image.areas, image.ignored, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.number,
                    "category_id": dataset.category_ids[int(label)],
                    "bbox": _xywh(box),
                    "area": float(area),
                    "iscrowd": int(ignored),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": image.number, "file_name": image.path.name, "width": image.size[0], "height": image.size[1]}
            for image in dataset.images
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(dataset.category_ids, dataset.classes, strict=True)
        ],
        "annotations": annotations,
    }


def coco_results(dataset: Dataset, found: Mapping[int, Detections]) -> list[dict[str, Any]]:
    """What was found, by image number, in COCO's results form: image_id, category_id, bbox as x, y, w, h, score."""
    return [
        {
            "image_id": number,
            "category_id": dataset.category_ids[int(label)],
            "bbox": _xywh(box),
            "score": round(float(score), 6),
        }
        for number, detections in found.items()
        for box, score, label in zip(detections.boxes, detections.scores, detections.classes, strict=True)
    ]


def _xywh(box: Sequence[float] | np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]


def write_evaluation(folder: Path, measured: Measured) -> None:
    """Writes metrics.json, results.json (COCO results) and truth.json (the annotations they were measured against).

    Raises:
        DiagnosticError: cannot-write.
    """
    write_json(folder / "results.json", coco_results(measured.dataset, measured.found))
    write_json(folder / "truth.json", coco_truth(measured.dataset))
    write_json(folder / "metrics.json", measured.evaluation.as_json())
